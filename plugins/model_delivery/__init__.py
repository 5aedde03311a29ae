"""The model-delivery Airflow provider."""
