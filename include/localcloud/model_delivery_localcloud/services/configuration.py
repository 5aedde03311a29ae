"""Component configuration: a deployment's RESET and MERGE updates.

Follows "Update component configurations" of the Greengrass developer guide: resets apply first, an
empty pointer resets everything, and updates persist over later deployments of the component.
What is kept are the overrides; the version's defaults lie beneath them.
"""

import json
from collections.abc import Mapping
from typing import Any

from model_delivery_localcloud import strict_json
from model_delivery_localcloud.errors import validation_error


def apply_update(overrides: Mapping[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
    """Return the overrides after a `configurationUpdate`; raises ValidationException."""
    changed = json.loads(json.dumps(overrides))
    for pointer in update.get("reset", []):
        changed = _reset(changed, pointer)
    if "merge" in update:
        changed = merge(changed, _parsed(update["merge"]))
    return dict(changed)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `over` merged into `base`: objects by key, anything else replaced."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def _parsed(text: str) -> dict[str, Any]:
    try:
        value = strict_json.loads(text)
    except ValueError as error:
        raise validation_error(f"configurationUpdate.merge is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise validation_error("configurationUpdate.merge must be a JSON object.")
    return value


def _reset(overrides: dict[str, Any], pointer: str) -> dict[str, Any]:
    if pointer == "":
        return {}
    if not pointer.startswith("/"):
        raise validation_error(f"configurationUpdate.reset: {pointer!r} is not a JSON pointer.")
    *path, last = [part.replace("~1", "/").replace("~0", "~") for part in pointer[1:].split("/")]
    holder: Any = overrides
    for part in path:
        holder = holder.get(part) if isinstance(holder, dict) else None
    if isinstance(holder, dict):
        holder.pop(last, None)
    return overrides
