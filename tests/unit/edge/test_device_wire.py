from typing import Any

import pytest
from model_delivery_edge.backoff import Backoff
from model_delivery_edge.errors import DeploymentError, ProtocolError
from model_delivery_edge.wire import Desired

DIGEST = "sha256:" + "a" * 64


def component(**changes: Any) -> dict[str, Any]:
    artifact = {"digest": DIGEST, "size": 3, "path": f"/edge/v1/artifacts/{DIGEST}"}
    return {"name": "c", "version": "1.0.0", "configuration": {}, "artifact": artifact, **changes}


def desired(*components: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"generation": 1, "deployment_id": "d", "components": list(components), **changes}


def test_survives_a_round_trip() -> None:
    state = Desired.from_json(desired(component(configuration={"modelName": "digits"})))
    assert Desired.from_json(state.to_json()) == state
    assert state.components[0].model_name == "digits"


def test_unknown_fields_of_a_newer_cloud_are_let_be() -> None:
    assert Desired.from_json(desired(component(later=1), later=2)).components[0].model_name == "c"


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ([], "generation"),
        (desired(generation="1"), "generation"),
        (desired(generation=True), "generation"),
        (desired(components={}), "components"),
        (desired(component(name=None)), "name"),
        (desired(component(artifact=[])), "artifact"),
        (desired(component(artifact={"digest": DIGEST, "path": "/"})), "size"),
        (desired(component(configuration="x")), "configuration"),
    ],
)
def test_malformed_is_refused_by_field(data: Any, field: str) -> None:
    with pytest.raises(ProtocolError, match=repr(field)):
        Desired.from_json(data)


@pytest.mark.parametrize(
    ("components", "why"),
    [
        ([component(configuration={"modelName": "a/b"})], "cannot name a model"),
        ([component(name="..")], "cannot name a model"),
        ([component(version="1/2")], "has the version"),
        ([component(), component(version="2.0.0")], "two components would both serve"),
    ],
)
def test_what_no_device_could_serve_is_refused(components: list[Any], why: str) -> None:
    with pytest.raises(DeploymentError, match=why):
        Desired.from_json(desired(*components)).check()


def test_backoff_grows_to_its_ceiling_and_starts_again() -> None:
    backoff = Backoff(first=1, ceiling=8)
    waits = [backoff.next() for _ in range(8)]
    for wait, limit in zip(waits, (1, 2, 4, 8, 8, 8, 8, 8), strict=True):
        assert limit / 2 <= wait <= limit
    backoff.reset()
    assert backoff.next() <= 1
