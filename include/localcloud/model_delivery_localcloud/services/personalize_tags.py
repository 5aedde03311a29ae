"""Amazon Personalize: tags of batch inference jobs and filters."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from model_delivery_localcloud.errors import ServiceError
from model_delivery_localcloud.protocol.gateway import Handler
from model_delivery_localcloud.protocol.messages import Call
from model_delivery_localcloud.services.arns import BATCH_INFERENCE_JOB, FILTER, resource_of
from model_delivery_localcloud.services.personalize_errors import invalid_input, not_found
from model_delivery_localcloud.store import personalize as states
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.tables import BatchInferenceJob, RecommendationFilter

MOST_TAGS = 50
_RESERVED = "aws:"


def handlers(database: Database) -> Mapping[str, Handler]:
    """Return the operations on tags."""

    def list_tags(call: Call) -> dict[str, Any]:
        with database.read() as session:
            tags = _tagged(session, call).tags
        return {"tags": [{"tagKey": key, "tagValue": value} for key, value in tags.items()]}

    def tag(call: Call) -> dict[str, Any]:
        with database.write() as session:
            found = _locked(session, call)
            found.tags = checked({**found.tags, **tags_of(call.params)})
        return {}

    def untag(call: Call) -> dict[str, Any]:
        with database.write() as session:
            found = _locked(session, call)
            gone = set(call.params["tagKeys"])
            found.tags = {key: value for key, value in found.tags.items() if key not in gone}
        return {}

    return {"ListTagsForResource": list_tags, "TagResource": tag, "UntagResource": untag}


def tags_of(params: Mapping[str, Any]) -> dict[str, str]:
    """Return a request's tags, values by key.

    :raises ServiceError: more than a resource may have, a key that comes twice or is AWS's own
    """
    tags: Sequence[Mapping[str, str]] = params.get("tags", [])
    keys = [each["tagKey"] for each in tags]
    for key in keys:
        if key.lower().startswith(_RESERVED):
            raise invalid_input(f"tags: '{key}' begins with {_RESERVED}, which AWS keeps.")
        if keys.count(key) > 1:
            raise invalid_input(f"tags: '{key}' comes twice.")
    return checked({each["tagKey"]: each["tagValue"] for each in tags})


def checked(tags: dict[str, str]) -> dict[str, str]:
    """Return a resource's tags; a ServiceError where they are too many."""
    if len(tags) > MOST_TAGS:
        raise ServiceError("TooManyTagsException", f"A resource has at most {MOST_TAGS} tags.")
    return tags


def _locked(session: Session, call: Call) -> BatchInferenceJob | RecommendationFilter:
    """Return what is tagged, for this transaction alone: its tags are read, and written whole."""
    found = _tagged(session, call)
    session.refresh(found, with_for_update=True)
    return found


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
