"""The Airflow plugin, registered by entry point only."""

from airflow.plugins_manager import AirflowPlugin


class ModelDeliveryPlugin(AirflowPlugin):
    """Registers the provider's links."""

    name = "model_delivery"
