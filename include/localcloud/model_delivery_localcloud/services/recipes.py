"""Greengrass component recipes: the part of the JSON format that a bundle needs.

Format: "AWS IoT Greengrass component recipe reference", version 2020-01-25. Keys are matched
without regard to case, as Greengrass does. What would run on the device by lifecycle script is
refused by name: the edge agent runs bundles and no scripts.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model_delivery_localcloud import strict_json
from model_delivery_localcloud.errors import validation_error

FORMAT_VERSION = "2020-01-25"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?")
_TOP = frozenset(
    {
        "recipeformatversion",
        "componentname",
        "componentversion",
        "componenttype",
        "componentdescription",
        "componentpublisher",
        "componentconfiguration",
        "manifests",
    }
)
_MANIFEST = frozenset({"name", "platform", "artifacts"})
_ARTIFACT = frozenset({"uri", "unarchive", "permission"})


@dataclass(frozen=True)
class Recipe:
    """What localcloud reads from a recipe; `document` is the recipe as it came."""

    name: str
    version: str
    artifact_uri: str
    configuration: dict[str, Any]
    description: str
    publisher: str
    platforms: tuple[dict[str, str], ...]
    document: dict[str, Any]


def parse_recipe(text: bytes) -> Recipe:
    """Read a JSON recipe; raises ValidationException naming the member that is wrong."""
    try:
        document = strict_json.loads(text)
    except ValueError as error:
        raise validation_error(
            f"inlineRecipe is not JSON ({error}); localcloud reads recipes in JSON only."
        ) from error
    return read_recipe(document)


def read_recipe(document: Any) -> Recipe:
    """Read a parsed recipe; raises ValidationException naming the member that is wrong."""
    top = _members(document, "recipe", _TOP)
    if top.get("recipeformatversion") != FORMAT_VERSION:
        raise validation_error(f'RecipeFormatVersion must be "{FORMAT_VERSION}".')
    if top.get("componenttype", "aws.greengrass.generic") != "aws.greengrass.generic":
        raise validation_error("ComponentType must be aws.greengrass.generic.")
    manifest = _members(_only(top.get("manifests"), "Manifests"), "Manifests[0]", _MANIFEST)
    where = "Manifests[0].Artifacts"
    artifact = _members(_only(manifest.get("artifacts"), where), f"{where}[0]", _ARTIFACT)
    if str(artifact.get("unarchive", "NONE")).upper() != "NONE":
        raise validation_error(f"{where}[0].Unarchive must be NONE: the agent opens the bundle.")
    return Recipe(
        name=_matching(top, "ComponentName", _NAME),
        version=_matching(top, "ComponentVersion", _VERSION),
        artifact_uri=_artifact_uri(artifact, f"{where}[0].URI"),
        configuration=_configuration(top),
        description=str(top.get("componentdescription", "")),
        publisher=str(top.get("componentpublisher", "")),
        platforms=_platforms(manifest),
        document=document,
    )


def _members(value: Any, where: str, known: frozenset[str]) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise validation_error(f"{where} must be a JSON object.")
    lowered = {key.lower(): item for key, item in value.items()}
    unknown = sorted(key for key in value if key.lower() not in known)
    if unknown:
        raise validation_error(
            f"localcloud does not support {', '.join(unknown)} in {where}: leave it out."
        )
    return lowered


def _only(value: Any, where: str) -> Any:
    if not isinstance(value, list) or len(value) != 1:
        raise validation_error(f"{where} must be a list of exactly one element.")
    return value[0]


def _matching(top: Mapping[str, Any], name: str, pattern: re.Pattern[str]) -> str:
    value = top.get(name.lower())
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise validation_error(f"{name} {value!r} does not match {pattern.pattern}.")
    return value


def _artifact_uri(artifact: Mapping[str, Any], where: str) -> str:
    uri = artifact.get("uri")
    if not isinstance(uri, str) or not uri.startswith("s3://"):
        raise validation_error(f"{where} must be the s3:// URI of a bundle, got {uri!r}.")
    return uri


def _configuration(top: Mapping[str, Any]) -> dict[str, Any]:
    where = "ComponentConfiguration"
    configuration = _members(top.get(where.lower(), {}), where, frozenset({"defaultconfiguration"}))
    default = configuration.get("defaultconfiguration", {})
    if not isinstance(default, dict):
        raise validation_error(f"{where}.DefaultConfiguration must be a JSON object.")
    return default


def _platforms(manifest: Mapping[str, Any]) -> tuple[dict[str, str], ...]:
    platform = manifest.get("platform")
    if platform is None:
        return ()
    if not isinstance(platform, dict) or not all(isinstance(v, str) for v in platform.values()):
        raise validation_error("Manifests[0].Platform must be an object of strings.")
    return (platform,)
