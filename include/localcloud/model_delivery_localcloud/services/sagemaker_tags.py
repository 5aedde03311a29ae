"""Amazon SageMaker: the tags of compilation jobs."""

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy.orm import Session

from model_delivery_localcloud.errors import validation_error
from model_delivery_localcloud.protocol.gateway import Handler
from model_delivery_localcloud.protocol.messages import Call, Caller
from model_delivery_localcloud.services.paging import decode_token, encode_token
from model_delivery_localcloud.store.compilation import find_compilation_job
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.tables import CompilationJob

MOST_TAGS = 50
PAGE = 50
_RESERVED = "aws:"
Arn = Callable[[Caller, str], str]


class Tags:
    """AddTags, ListTags and DeleteTags.

    :param arn: makes a job's ARN of its name
    """

    def __init__(self, database: Database, arn: Arn) -> None:
        self._database = database
        self._arn = arn

    def handlers(self) -> Mapping[str, Handler]:
        """Return the operations."""
        return {"AddTags": self.add, "ListTags": self.list, "DeleteTags": self.delete}

    def add(self, call: Call) -> dict[str, Any]:
        """Add tags, or give those that are there new values."""
        given = call.params["Tags"]
        with self._database.write() as session:
            job = self._find(session, call)
            tags = {**_tags(job), **check_tags(given)}
            if len(tags) > MOST_TAGS:
                raise validation_error(
                    f"{job.name} would have {len(tags)} tags, at most {MOST_TAGS} are allowed: "
                    "delete some first."
                )
            _set(job, tags)
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
            job = self._find(session, call)
            gone = set(call.params["TagKeys"])
            _set(job, {key: value for key, value in _tags(job).items() if key not in gone})
        return {}

    def _find(self, session: Session, call: Call) -> CompilationJob:
        arn, caller = call.params["ResourceArn"], call.caller
        name = arn.rpartition("/")[2]
        job = find_compilation_job(session, caller.account, caller.region, name)
        if job is None or arn != self._arn(caller, name):
            raise validation_error(f"Could not find a compilation job {arn}.")
        return job


def check_tags(tags: list[dict[str, str]]) -> dict[str, str]:
    """Return tags by key; raises ValidationException for a key given twice or reserved."""
    found = {tag["Key"]: tag["Value"] for tag in tags}
    if len(found) != len(tags):
        raise validation_error("Tag keys must be unique: a key is given twice.")
    if reserved := [key for key in found if key.lower().startswith(_RESERVED)]:
        raise validation_error(f"Tag keys that begin with aws: are reserved: {reserved[0]}.")
    return found


def _tags(job: CompilationJob) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in job.request.get("Tags", [])}


def _set(job: CompilationJob, tags: Mapping[str, str]) -> None:
    # A new dictionary: SQLAlchemy sees no change inside a JSON value.
    job.request = {**job.request, "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}
