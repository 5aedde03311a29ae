"""What Airflow learns of this provider from its entry point. Imports nothing: Airflow reads it at start."""

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata in Airflow's provider-info schema."""
    return {
        "package-name": "model-delivery",
        "name": "Model delivery",
        "description": "Compile, batch inference, human review and edge deploy of trained models.",
    }
