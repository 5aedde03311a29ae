"""Personalize's ARNs: made, and taken apart again."""

from dataclasses import dataclass

from model_delivery_localcloud.protocol.messages import Caller

SOLUTION = "solution"
FILTER = "filter"
BATCH_INFERENCE_JOB = "batch-inference-job"
DATASET_GROUP = "dataset-group"


def arn_of(caller: Caller, kind: str, *names: str) -> str:
    """Return the ARN of a resource of the caller's account and region."""
    path = "/".join((kind, *names))
    return f"arn:aws:personalize:{caller.region}:{caller.account}:{path}"


@dataclass(frozen=True)
class Resource:
    """A resource of an ARN: its kind, and its name or names."""

    kind: str
    names: tuple[str, ...]


def resource_of(arn: str, caller: Caller) -> Resource | None:
    """Return what an ARN names, or None where it is not of the caller's account and region."""
    prefix, _, path = arn.rpartition(":")
    if prefix != f"arn:aws:personalize:{caller.region}:{caller.account}":
        return None
    kind, *names = path.split("/")
    return Resource(kind, tuple(names)) if names and all(names) else None
