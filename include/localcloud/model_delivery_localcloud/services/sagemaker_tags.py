"""Amazon SageMaker: the tags of compilation jobs and of Augmented AI's resources."""

from collections.abc import Mapping
from typing import Any, Protocol

from sqlalchemy.orm import Session

from model_delivery_localcloud.errors import validation_error
from model_delivery_localcloud.protocol.gateway import Handler
from model_delivery_localcloud.protocol.messages import Call
from model_delivery_localcloud.services.paging import decode_token, encode_token
from model_delivery_localcloud.services.review_names import (
    FLOW_DEFINITION,
    HUMAN_TASK_UI,
    WORKTEAM,
    arn_of,
)
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.review_tables import FlowDefinition, HumanTaskUi, Workteam
from model_delivery_localcloud.store.tables import CompilationJob

MOST_TAGS = 50
PAGE = 50
_RESERVED = "aws:"
COMPILATION_JOB = "compilation-job"
_TABLES: Mapping[str, Any] = {
    COMPILATION_JOB: CompilationJob,
    FLOW_DEFINITION: FlowDefinition,
    HUMAN_TASK_UI: HumanTaskUi,
    WORKTEAM: Workteam,
}


class Tagged(Protocol):
    """A resource that keeps its tags in the request that made it."""

    name: Any
    request: Any


class Tags:
    """AddTags, ListTags and DeleteTags."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def handlers(self) -> Mapping[str, Handler]:
        """Return the operations."""
        return {"AddTags": self.add, "ListTags": self.list, "DeleteTags": self.delete}

    def add(self, call: Call) -> dict[str, Any]:
        """Add tags, or give those that are there new values."""
        given = call.params["Tags"]
        with self._database.write() as session:
            found = self._locked(session, call)
            tags = {**_tags(found), **check_tags(given)}
            if len(tags) > MOST_TAGS:
                raise validation_error(
                    f"{found.name} would have {len(tags)} tags, at most {MOST_TAGS} are allowed: "
                    "delete some first."
                )
            _set(found, tags)
        return {"Tags": given}

    def list(self, call: Call) -> dict[str, Any]:
        """Answer a page of tags, by key."""
        arn = {"ResourceArn": call.params["ResourceArn"]}
        after = decode_token(call.params.get("NextToken"), arn, (str,))
        with self._database.read() as session:
            tags = sorted(_tags(self._find(session, call)).items())
        left = [tag for tag in tags if after is None or tag[0] > after[0]]
        size = call.params.get("MaxResults", PAGE)
        page = left[:size]
        answer: dict[str, Any] = {"Tags": [{"Key": k, "Value": v} for k, v in page]}
        if len(left) > size:
            answer["NextToken"] = encode_token([page[-1][0]], arn)
        return answer

    def delete(self, call: Call) -> dict[str, Any]:
        """Delete tags by key; one that is not there is no error."""
        with self._database.write() as session:
            found = self._locked(session, call)
            gone = set(call.params["TagKeys"])
            _set(found, {key: value for key, value in _tags(found).items() if key not in gone})
        return {}

    def _locked(self, session: Session, call: Call) -> Tagged:
        """Return what is tagged, for this transaction alone: tags are read, and written whole."""
        found = self._find(session, call)
        session.refresh(found, with_for_update=True)
        return found

    def _find(self, session: Session, call: Call) -> Tagged:
        arn, caller = call.params["ResourceArn"], call.caller
        path, _, name = arn.rpartition("/")
        for kind, table in _TABLES.items():
            if f"{path}/" == arn_of(caller, kind, ""):
                found: Tagged | None = session.get(table, (caller.account, caller.region, name))
                if found is not None:
                    return found
        raise validation_error(f"Could not find a resource {arn} that has tags.")


def check_tags(tags: list[dict[str, str]]) -> dict[str, str]:
    """Return tags by key; raises ValidationException for a key given twice or reserved."""
    found = {tag["Key"]: tag["Value"] for tag in tags}
    if len(found) != len(tags):
        raise validation_error("Tag keys must be unique: a key is given twice.")
    if reserved := [key for key in found if key.lower().startswith(_RESERVED)]:
        raise validation_error(f"Tag keys that begin with aws: are reserved: {reserved[0]}.")
    return found


def _tags(found: Tagged) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in found.request.get("Tags", [])}


def _set(found: Tagged, tags: Mapping[str, str]) -> None:
    # A new dictionary: SQLAlchemy sees no change inside a JSON value.
    found.request = {**found.request, "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}
