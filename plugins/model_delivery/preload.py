"""What tasks on AWS import, imported before a LocalExecutor forks the workers that run them.

Every task is a process of its own, which would import boto3 and read the services' models by
itself: 0.45 s of processor time, twice for a task that defers. Forked workers share what the
scheduler had imported (measured in docs/decisions/0012-preload.md).
"""

import logging
import sys
from typing import Any

from airflow.providers.common.compat.sdk import conf, hookimpl

log = logging.getLogger(__name__)

HOOKS = (
    "model_delivery.hooks.compilation.CompilationJobHook",
    "model_delivery.hooks.edge.GreengrassV2Hook",
    "model_delivery.hooks.human_review.HumanLoopHook",
    "model_delivery.hooks.human_review.HumanReviewHook",
    "model_delivery.hooks.personalize.PersonalizeHook",
)
OPERATORS = (
    "model_delivery.operators.compilation",
    "model_delivery.operators.edge",
    "model_delivery.operators.human_review",
    "model_delivery.operators.personalize",
)


@hookimpl
def on_starting(component: Any) -> None:
    """Preload in a scheduler with a LocalExecutor, before that starts its workers."""
    # A task that was forked from it has its arguments too, and calls this for itself.
    if type(component).__name__ != "Job" or "scheduler" not in sys.argv:
        return
    local = "LocalExecutor" in conf.get("core", "executor")
    if local and conf.getboolean("model_delivery", "preload", fallback=True):
        preload()


def preload() -> None:
    """Import operators and hooks, and build each service's client; asks nobody for anything."""
    from importlib import import_module

    import boto3.session

    from model_delivery.aws import import_string
    from model_delivery.hooks.aws import share_models

    for module in OPERATORS:
        import_module(module)
    for path in HOOKS:
        session = boto3.session.Session("none", "none", region_name="us-east-1")
        share_models(session)
        session.client(import_string(path).service).close()
    log.info("preloaded %d services for the workers", len(HOOKS))
