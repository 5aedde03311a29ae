"""The device's trust against the cloud's own release key: both ends as they are."""

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from model_delivery_edge.errors import HomeError, SignatureError
from model_delivery_edge.trust.identity import Identity
from model_delivery_edge.trust.releases import Trust
from model_delivery_edge.wire import Artifact, Component, Desired
from model_delivery_localcloud.edge.releases import ReleaseKey, is_signed

DIGEST = "sha256:" + "a" * 64


def signed(key: ReleaseKey, number: int, thing: str = "t", version: str = "1.0.0") -> Desired:
    statement: dict[str, Any] = {
        "type": "release",
        "thing": thing,
        "component": "c",
        "version": version,
        "digest": DIGEST,
        "size": 3,
        "number": number,
    }
    release = {"number": number, "signature": key.sign(statement)}
    component = Component("c", version, Artifact(DIGEST, 3, "/x"), {}, release)
    return Desired(number, "d", (component,), keys=tuple(key.keys))


@pytest.fixture
def key(tmp_path: Path) -> ReleaseKey:
    return ReleaseKey(tmp_path / "cloud")


@pytest.fixture
def trust(tmp_path: Path, key: ReleaseKey) -> Trust:
    trust = Trust(tmp_path / "trust.json", "t")
    trust.pin(key.public, key.number)
    return trust


def test_key_is_made_once_and_for_its_owner_only(tmp_path: Path, key: ReleaseKey) -> None:
    path = tmp_path / "cloud" / "release-key.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ReleaseKey(tmp_path / "cloud").public == key.public


def test_a_signed_release_is_taken_and_again_over_the_wire(trust: Trust, key: ReleaseKey) -> None:
    state = signed(key, 1)
    trust.check(state)
    trust.accept(state)
    trust.check(Desired.from_json(json.loads(json.dumps(state.to_json()))))


@pytest.mark.parametrize("what", ["digest", "size", "version", "name", "thing", "none", "garbage"])
def test_what_was_not_signed_like_that_is_refused(trust: Trust, key: ReleaseKey, what: str) -> None:
    state = signed(key, 1, thing="another" if what == "thing" else "t")
    one = state.components[0]
    changed = {
        "digest": replace(one, artifact=replace(one.artifact, digest="sha256:" + "b" * 64)),
        "size": replace(one, artifact=replace(one.artifact, size=4)),
        "version": replace(one, version="2.0.0"),
        "name": replace(one, name="d"),
        "thing": one,
        "none": replace(one, release={}),
        "garbage": replace(one, release={"number": 1, "signature": "é"}),
    }[what]
    with pytest.raises(SignatureError, match="is not signed"):
        trust.check(replace(state, components=(changed,)))


def test_another_clouds_key_is_refused(trust: Trust, tmp_path: Path) -> None:
    with pytest.raises(SignatureError, match="release key"):
        trust.check(signed(ReleaseKey(tmp_path / "other"), 1))


def test_an_old_release_played_again_is_refused(trust: Trust, key: ReleaseKey) -> None:
    old, new = signed(key, 1), signed(key, 2, version="2.0.0")
    trust.accept(old)
    trust.accept(new)
    with pytest.raises(SignatureError, match="was played again"):
        trust.check(old)
    trust.check(signed(key, 3))  # a return to 1.0.0 that the cloud wants


def test_rotations_are_followed_and_the_old_key_is_done_with(
    trust: Trust, key: ReleaseKey, tmp_path: Path
) -> None:
    (tmp_path / "old").mkdir()
    before = (tmp_path / "cloud" / "release-key.json").read_bytes()
    (tmp_path / "old" / "release-key.json").write_bytes(before)
    key.rotate()
    key.rotate()
    trust.check(signed(key, 1))
    with pytest.raises(SignatureError):
        trust.check(signed(ReleaseKey(tmp_path / "old"), 2))
    first = json.loads(before)["private"]
    assert first not in (tmp_path / "trust.json").read_text()
    trust.pin(key.keys[0]["public"])  # another key than was pinned: from here on
    trust.check(signed(key, 3))


def test_a_rotation_that_the_pinned_key_did_not_sign_is_refused(
    trust: Trust, key: ReleaseKey, tmp_path: Path
) -> None:
    thief = ReleaseKey(tmp_path / "thief")
    thief.rotate()
    with pytest.raises(SignatureError, match="the release key 1 is not signed"):
        trust.check(signed(thief, 1))
    trust.check(signed(key, 1))


def test_pinning_the_same_key_at_each_start_forgets_nothing(trust: Trust, key: ReleaseKey) -> None:
    anchor = key.public
    key.rotate()
    state = signed(key, 5)
    trust.check(state)
    trust.accept(state)
    trust.pin(anchor)
    trust.check(state)
    with pytest.raises(SignatureError, match="was played again"):
        trust.check(signed(key, 4))


def test_damage_is_no_absence(trust: Trust, key: ReleaseKey, tmp_path: Path) -> None:
    (tmp_path / "trust.json").write_text("{")
    with pytest.raises(HomeError, match="is damaged"):
        trust.check(signed(key, 1))
    trust.pin(key.public)
    trust.check(signed(key, 1))


def test_profiles_are_signed_by_the_device(tmp_path: Path) -> None:
    identity = Identity(tmp_path / "identity.key")
    record = {"median_ms": 0.1, "machine": "é"}
    signature = identity.sign(record)
    public = Identity(tmp_path / "identity.key").public
    assert stat.S_IMODE((tmp_path / "identity.key").stat().st_mode) == 0o600
    assert is_signed(public, json.loads(json.dumps(record)), signature)
    assert not is_signed(public, {**record, "median_ms": 0.2}, signature)
    assert not is_signed(public, record, "é")
