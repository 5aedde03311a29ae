"""What Airflow learns of this provider. Imports nothing: Airflow reads it at start."""

from typing import Any

SERVICES = {
    "SageMaker compilation jobs": "compilation",
    "Model bundles": "bundle",
    "Amazon Personalize batch inference": "personalize",
    "Batch inference": "inference",
    "Amazon Augmented AI": "human_review",
    "Amazon Augmented AI flow definitions": "flow_definitions",
    "Amazon Augmented AI human task UIs": "human_task_uis",
    "Amazon Augmented AI human loops": "human_loops",
    "Documents": "documents",
    "Recommender": "recommender",
    "Edge deploy": "edge",
    "Edge rollouts": "edge_rollout",
    "Object storage": "storage",
    "Delivery report": "report",
}


def _modules(kind: str, *names: str) -> list[dict[str, Any]]:
    titles = {module: title for title, module in SERVICES.items()}
    return [
        {"integration-name": titles[name], "python-modules": [f"model_delivery.{kind}.{name}"]}
        for name in names
    ]


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata in Airflow's provider-info schema."""
    return {
        "package-name": "model-delivery",
        "name": "Model delivery",
        "description": "Compile, batch inference, review and edge deploy of trained models.",
        "integrations": [
            {
                "integration-name": title,
                "external-doc-url": "https://model-delivery.invalid/",
                "tags": ["service"],
            }
            for title in SERVICES
        ],
        "hooks": _modules(
            "hooks", "bundle", "compilation", "personalize", "human_review", "edge", "storage"
        ),
        "operators": _modules(
            "operators",
            "bundle",
            "compilation",
            "personalize",
            "inference",
            "recommender",
            "human_review",
            "flow_definitions",
            "human_task_uis",
            "human_loops",
            "documents",
            "edge",
            "edge_rollout",
            "storage",
            "report",
        ),
        "sensors": _modules("sensors", "compilation", "personalize", "human_review", "edge"),
        "triggers": _modules("triggers", "human_review", "edge_rollout", "storage"),
        "connection-types": [
            {
                "connection-type": "model_delivery_edge",
                "hook-name": "Model delivery edge device",
                "hook-class-name": "model_delivery.hooks.edge.EdgeInferenceHook",
                "ui-field-behaviour": {
                    "hidden-fields": ["login", "extra"],
                    "relabeling": {"password": "API token", "schema": "Scheme"},
                    "placeholders": {
                        "host": "127.0.0.1",
                        "port": "8800",
                        "schema": "http or https",
                        "password": "the device's API token",
                    },
                },
            }
        ],
        "config": {
            "model_delivery": {
                "description": "Settings of the model-delivery provider.",
                "options": {
                    "preload": {
                        "description": "Import in the scheduler what tasks on AWS import, so that "
                        "a LocalExecutor's workers share it. It takes the scheduler about 32 MiB.",
                        "version_added": "0.1.0",
                        "type": "boolean",
                        "example": None,
                        "default": "True",
                    },
                    "freeze_heap": {
                        "description": "Take what a triggerer or a task has loaded out of "
                        "the sight of Python's garbage collector, which else stops all triggers "
                        "for 0.2 s at a time. It affects the process as a whole.",
                        "version_added": "0.1.0",
                        "type": "boolean",
                        "example": None,
                        "default": "True",
                    },
                },
            }
        },
        "extra-links": [
            "model_delivery.links.job.JobLink",
            "model_delivery.links.human_review.ReviewQueueLink",
            "model_delivery.links.report.DeliveryReportLink",
        ],
    }
