"""Pages inside Airflow's web UI, behind Airflow's own authentication and DAG permissions."""
