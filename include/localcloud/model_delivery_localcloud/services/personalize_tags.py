"""Amazon Personalize: tags of batch inference jobs and filters."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from model_delivery_localcloud.errors import ServiceError
from model_delivery_localcloud.protocol.gateway import Handler
from model_delivery_localcloud.protocol.messages import Call
from model_delivery_localcloud.services.arns import BATCH_INFERENCE_JOB, FILTER, resource_of
from model_delivery_localcloud.services.personalize_errors import not_found
from model_delivery_localcloud.store import personalize as states
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.tables import BatchInferenceJob, RecommendationFilter

MOST_TAGS = 50


def handlers(database: Database) -> Mapping[str, Handler]:
    """Return the operations on tags."""

    def list_tags(call: Call) -> dict[str, Any]:
        with database.read() as session:
            tags = _tagged(session, call).tags
        return {"tags": [{"tagKey": key, "tagValue": value} for key, value in tags.items()]}

    def tag(call: Call) -> dict[str, Any]:
        with database.write() as session:
            found = _tagged(session, call)
            merged = {**found.tags, **as_map(call.params["tags"])}
            if len(merged) > MOST_TAGS:
                raise ServiceError("TooManyTagsException", f"At most {MOST_TAGS} tags.")
            found.tags = merged
        return {}

    def untag(call: Call) -> dict[str, Any]:
        with database.write() as session:
            found = _tagged(session, call)
            gone = set(call.params["tagKeys"])
            found.tags = {key: value for key, value in found.tags.items() if key not in gone}
        return {}

    return {"ListTagsForResource": list_tags, "TagResource": tag, "UntagResource": untag}


def as_map(tags: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return a list of tags as values by key."""
    return {each["tagKey"]: each["tagValue"] for each in tags}


def _tagged(session: Session, call: Call) -> BatchInferenceJob | RecommendationFilter:
    arn, scope = call.params["resourceArn"], (call.caller.account, call.caller.region)
    named = resource_of(arn, call.caller)
    found: BatchInferenceJob | RecommendationFilter | None = None
    if named is not None and len(named.names) == 1:
        if named.kind == BATCH_INFERENCE_JOB:
            found = states.find_batch_job(session, scope, named.names[0])
        elif named.kind == FILTER:
            found = states.find_filter(session, scope, named.names[0])
    if found is None:
        raise not_found(arn)
    return found
