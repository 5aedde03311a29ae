"""Register a recommender's bundle as a Personalize solution version.

Personalize trains solution versions itself and offers no operation that takes a model, so this is
localcloud's own: a command, and `POST /personalize/v1/solution-versions` signed like any call of
`personalize`.
"""

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_delivery_engine.batch.item_filters import columns
from model_delivery_engine.batch.recipes import Recipe, recipe_of
from model_delivery_engine.bundle import open_bundle
from model_delivery_engine.digest import digest_bytes, digest_file
from model_delivery_engine.errors import EngineError

from model_delivery_localcloud.clock import now_ms
from model_delivery_localcloud.errors import ObjectError
from model_delivery_localcloud.objects import ObjectStore
from model_delivery_localcloud.protocol.messages import Caller
from model_delivery_localcloud.services.arns import SOLUTION, arn_of
from model_delivery_localcloud.services.personalize_errors import invalid_input
from model_delivery_localcloud.store import personalize as states
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.tables import SolutionVersion

PATH = "/personalize/v1/solution-versions"
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9\-_]{0,62}")
LONGEST_HEADER = 64 * 1024
VERSION_LENGTH = 8
_MEMBERS = {"solutionName", "recipe", "bundleUri", "itemsUri", "datasetGroupName"}


@dataclass(frozen=True)
class Registration:
    """What is registered.

    `items_uri`: a CSV of item attributes with a column ITEM_ID, for filters. `dataset_group`: the
    group whose filters apply (default: the solution's name).
    """

    solution: str
    recipe: str
    bundle_uri: str
    items_uri: str | None = None
    dataset_group: str | None = None


def read_registration(body: bytes) -> Registration:
    """Read the HTTP body; raises InvalidInput naming what is wrong."""
    try:
        given = json.loads(body)
    except ValueError as error:
        raise invalid_input(f"the body is not JSON: {error}.") from error
    if not isinstance(given, Mapping) or not all(isinstance(v, str) for v in given.values()):
        raise invalid_input("the body must be a JSON object of strings.")
    if unknown := sorted(given.keys() - _MEMBERS):
        raise invalid_input(f"unknown member {unknown[0]}; there are {', '.join(sorted(_MEMBERS))}")
    if missing := sorted({"solutionName", "recipe", "bundleUri"} - given.keys()):
        raise invalid_input(f"{missing[0]} is required.")
    return Registration(
        given["solutionName"], given["recipe"], given["bundleUri"], given.get("itemsUri"),
        given.get("datasetGroupName"),
    )  # fmt: skip


def register(database: Database, objects: ObjectStore, caller: Caller, wanted: Registration) -> str:
    """Check the bundle, keep the version, return its ARN; the same again is the same version.

    Raises InvalidInput for what cannot be registered.
    """
    group = wanted.dataset_group or wanted.solution
    for name, value in (("solutionName", wanted.solution), ("datasetGroupName", group)):
        if not NAME.fullmatch(value):
            raise invalid_input(f"{name} {value!r} does not match {NAME.pattern}.")
    try:
        bundle_etag, digest = _check_bundle(objects, wanted)
        items_etag, fields = _check_items(objects, wanted.items_uri)
    except (EngineError, ObjectError) as error:
        raise invalid_input(f"{error}.") from error
    facts = [digest, wanted.bundle_uri, wanted.recipe, wanted.items_uri, items_etag, group]
    version = digest_bytes(json.dumps(facts).encode()).removeprefix("sha256:")[:VERSION_LENGTH]
    row = SolutionVersion(
        account=caller.account,
        region=caller.region,
        solution=wanted.solution,
        version=version,
        dataset_group=group,
        recipe=wanted.recipe,
        bundle_uri=wanted.bundle_uri,
        bundle_etag=bundle_etag,
        bundle_digest=digest,
        items_uri=wanted.items_uri,
        items_etag=items_etag,
        item_fields=fields,
        created_at=now_ms(),
    )
    scope = caller.account, caller.region
    with database.write() as session:
        found = states.find_solution_version(session, scope, wanted.solution, version)
        if found is None:
            session.add(row)
        else:
            found.bundle_etag = bundle_etag  # the same bytes, perhaps uploaded again
    return arn_of(caller, SOLUTION, wanted.solution, version)


def _check_bundle(objects: ObjectStore, wanted: Registration) -> tuple[str, str]:
    if wanted.recipe not in set(Recipe):
        raise invalid_input(f"recipe {wanted.recipe!r} is unknown; there are {', '.join(Recipe)}.")
    etag = objects.describe(wanted.bundle_uri).etag
    with tempfile.TemporaryDirectory(prefix="localcloud-bundle-") as name:
        archive = Path(name) / "bundle.tar.gz"
        objects.download(wanted.bundle_uri, archive, etag=etag)
        found = recipe_of(open_bundle(archive, Path(name) / "opened").manifest)
        if found != wanted.recipe:
            raise invalid_input(
                f"{wanted.bundle_uri} is a recommender of recipe {found}, not {wanted.recipe}."
            )
        return etag, digest_file(archive)


def _check_items(objects: ObjectStore, uri: str | None) -> tuple[str | None, list[Any]]:
    if uri is None:
        return None, []
    found = objects.describe(uri)
    if not found.size:
        raise invalid_input(f"{uri} is empty: its first line must be a header with ITEM_ID.")
    last = min(LONGEST_HEADER, found.size) - 1
    start = b"".join(objects.read(uri, etag=found.etag, byte_range=(0, last)))
    header = start.partition(b"\n")[0].decode("utf-8", "replace").removeprefix("\ufeff")
    return found.etag, sorted(columns(header.rstrip("\r")))
