import json
from pathlib import Path

import pytest
from model_delivery_edge.durable import write_durably
from model_delivery_edge.slots import Slots
from model_delivery_edge.wire import Artifact, Component, Desired


def desired(generation: int, version: str = "1.0.0", digit: str = "0") -> Desired:
    digest = "sha256:" + digit * 64
    artifact = Artifact(digest, 10, f"/edge/v1/artifacts/{digest}")
    return Desired(generation, "d", (Component("c", version, artifact, {"modelName": "m"}),))


def test_nothing_is_committed_at_first(tmp_path: Path) -> None:
    slots = Slots(tmp_path)
    assert slots.committed() == []


def test_current_comes_first_then_the_previous(tmp_path: Path) -> None:
    slots = Slots(tmp_path)
    for generation in (1, 2, 3):
        slots.commit(desired(generation, f"{generation}.0.0", str(generation)))
    assert [each.generation for each in Slots(tmp_path).committed()] == [3, 2]
    assert Slots(tmp_path).digests() == {"sha256:" + d * 64 for d in "23"}


def test_same_components_keep_the_previous_state(tmp_path: Path) -> None:
    slots = Slots(tmp_path)
    slots.commit(desired(1, "1.0.0"))
    slots.commit(desired(2, "2.0.0"))
    slots.commit(desired(3, "2.0.0"))
    assert [each.generation for each in slots.committed()] == [3, 1]


def test_what_was_written_but_not_switched_to_is_not_current(tmp_path: Path) -> None:
    slots = Slots(tmp_path)
    slots.commit(desired(1, "1.0.0"))
    # as if the power had gone between the slot and the pointer
    write_durably(tmp_path / "slot-b.json", json.dumps(desired(2, "2.0.0").to_json()).encode())
    assert slots.committed()[0].generation == 1


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"generation": 1}'])
def test_damaged_slot_is_passed_over(tmp_path: Path, damage: bytes) -> None:
    slots = Slots(tmp_path)
    slots.commit(desired(1, "1.0.0"))
    slots.commit(desired(2, "2.0.0"))
    (tmp_path / "slot-b.json").write_bytes(damage)
    assert [each.generation for each in slots.committed()] == [1]
    slots.commit(desired(3, "3.0.0"))
    assert [each.generation for each in slots.committed()] == [3, 1]


def test_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_durably(path, b"old")
    with pytest.raises(TypeError):
        write_durably(path, "no bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert path.stat().st_mode & 0o777 == 0o600
