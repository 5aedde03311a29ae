"""Greengrass component versions: a recipe and the digest of its one artifact."""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import IntegrityError

from model_delivery_localcloud.clock import now_ms, to_datetime
from model_delivery_localcloud.errors import ObjectMissing, ServiceError, validation_error
from model_delivery_localcloud.objects import ObjectStore
from model_delivery_localcloud.protocol.gateway import Handler
from model_delivery_localcloud.protocol.messages import Call, Caller
from model_delivery_localcloud.services.recipes import Recipe, parse_recipe, read_recipe
from model_delivery_localcloud.services.refusals import refuse_members
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.idempotency import recall, remember
from model_delivery_localcloud.store.tables import ComponentVersion

_OPERATION = "CreateComponentVersion"


@dataclass(frozen=True)
class _Artifact:
    """What was read of a bundle: digest, size in bytes, and the ETag it had then."""

    digest: str
    size: int
    etag: str


class Components:
    """Component versions over the store; artifacts are read from the object store."""

    def __init__(self, database: Database, objects: ObjectStore) -> None:
        self._database = database
        self._objects = objects

    def handlers(self) -> Mapping[str, Handler]:
        """Return the operations on components."""
        return {
            _OPERATION: self.create,
            "DescribeComponent": self.describe,
            "GetComponent": self.get,
        }

    def create(self, call: Call) -> dict[str, Any]:
        """Register a version with its artifact's digest; a version is made once."""
        refuse_members(call.params, ["lambdaFunction"])
        if "inlineRecipe" not in call.params:
            raise validation_error("inlineRecipe is required.")
        key = (call.caller.account, call.caller.region, _OPERATION)
        with self._database.write() as session:
            known = recall(session, key, call.params)
        if known is not None:
            return _created(known)
        recipe = parse_recipe(call.params["inlineRecipe"])
        row = _row(call, recipe, self._read_artifact(recipe.artifact_uri))
        arn = component_arn(call.caller, recipe.name, recipe.version)
        answer = {
            "arn": arn,
            "componentName": recipe.name,
            "componentVersion": recipe.version,
            "creationTimestamp": row.created_at,
        }
        try:
            with self._database.write() as session:
                session.add(row)
                session.flush()
                remember(session, key, call.params, answer)
        except IntegrityError:
            # The same call may have been sent twice at once: then both get the same answer.
            with self._database.read() as session:
                known = recall(session, key, call.params)
            if known is not None:
                return _created(known)
            raise ServiceError(
                "ConflictException",
                f"Component version already exists: {arn}; choose another version.",
                409,
                {"resourceId": arn, "resourceType": "component"},
            ) from None
        return _created(answer)

    def describe(self, call: Call) -> dict[str, Any]:
        """Answer a component version's facts."""
        row = self._find(call)
        recipe = read_recipe(row.recipe)
        answer: dict[str, Any] = {
            "arn": component_arn(call.caller, row.name, row.version),
            "componentName": row.name,
            "componentVersion": row.version,
            "creationTimestamp": to_datetime(row.created_at),
            "publisher": recipe.publisher,
            "description": recipe.description,
            "status": _status(row.artifact_digest),
            "platforms": [{"attributes": dict(platform)} for platform in recipe.platforms],
        }
        return {**answer, "tags": row.tags} if row.tags else answer

    def get(self, call: Call) -> dict[str, Any]:
        """Answer a component version's recipe, in JSON, with its artifact's digest filled in."""
        if call.params.get("recipeOutputFormat", "JSON") != "JSON":
            raise validation_error("recipeOutputFormat must be JSON: localcloud has no YAML.")
        row = self._find(call)
        answer: dict[str, Any] = {
            "recipeOutputFormat": "JSON",
            "recipe": json.dumps(_with_digest(row)).encode(),
        }
        return {**answer, "tags": row.tags} if row.tags else answer

    def _read_artifact(self, uri: str) -> _Artifact:
        try:
            found = self._objects.describe(uri)
            digest = hashlib.sha256()
            for chunk in self._objects.read(uri, etag=found.etag):
                digest.update(chunk)
        except ObjectMissing as error:
            raise validation_error(f"The component's artifact cannot be used: {error}") from error
        return _Artifact(f"sha256:{digest.hexdigest()}", found.size, found.etag)

    def _find(self, call: Call) -> ComponentVersion:
        arn = call.params["arn"]
        parts = arn.split(":")
        name, version = parts[6], parts[8]
        caller = call.caller
        with self._database.read() as session:
            row = session.get(ComponentVersion, (caller.account, caller.region, name, version))
        if row is None or arn != component_arn(caller, name, version):
            raise ServiceError(
                "ResourceNotFoundException",
                f"Component version does not exist: {arn}",
                404,
                {"resourceId": arn, "resourceType": "component"},
            )
        return row


def component_arn(caller: Caller, name: str, version: str) -> str:
    """Return the ARN of a component version."""
    prefix = f"arn:aws:greengrass:{caller.region}:{caller.account}"
    return f"{prefix}:components:{name}:versions:{version}"


def _row(call: Call, recipe: Recipe, artifact: _Artifact) -> ComponentVersion:
    return ComponentVersion(
        account=call.caller.account,
        region=call.caller.region,
        name=recipe.name,
        version=recipe.version,
        recipe=recipe.document,
        artifact_uri=recipe.artifact_uri,
        artifact_digest=artifact.digest,
        artifact_size=artifact.size,
        artifact_etag=artifact.etag,
        tags=dict(call.params.get("tags", {})),
        created_at=now_ms(),
    )


def _with_digest(row: ComponentVersion) -> dict[str, Any]:
    """Add what Greengrass computes when a version is created: each artifact's digest, in base64."""
    digest = base64.b64encode(bytes.fromhex(row.artifact_digest.removeprefix("sha256:"))).decode()
    filled = {"Digest": digest, "Algorithm": "SHA-256"}
    manifests = [
        {**each, "Artifacts": [{**artifact, **filled} for artifact in each["Artifacts"]]}
        for each in row.recipe["Manifests"]
    ]
    return {**row.recipe, "Manifests": manifests}


def _created(answer: Mapping[str, Any]) -> dict[str, Any]:
    created = to_datetime(answer["creationTimestamp"])
    return {**answer, "creationTimestamp": created, "status": {"componentState": "DEPLOYABLE"}}


def _status(digest: str) -> dict[str, Any]:
    return {"componentState": "DEPLOYABLE", "message": f"artifact {digest}"}
