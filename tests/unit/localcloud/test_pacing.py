"""How fast a deployment reaches a fleet, and when it ends: over random clocks and outcomes."""

import math
from random import Random

import pytest
from model_delivery_localcloud.store.device_state import merged_versions
from model_delivery_localcloud.store.pacing import MINUTE_MS, allowance, rate, to_abort

EXPONENTIAL = {
    "exponentialRate": {
        "baseRatePerMinute": 50,
        "incrementFactor": 2,
        "rateIncreaseCriteria": {"numberOfNotifiedThings": 1000},
    },
    "maximumPerMinute": 300,
}


def reached(per_minute: float, pauses: list[int], total: int) -> list[int]:
    """Return when each device was reached, by a keeper that looks after each pause."""
    now, paced_at, times = 1_700_000_000_000, None, []
    for pause in pauses:
        last_minute = sum(moment > now - MINUTE_MS for moment in times)
        found = allowance(per_minute, paced_at, now, last_minute, total - len(times))
        paced_at = found.paced_at
        times += [now] * found.number
        assert found.again_at > now
        now += pause
    return times


@pytest.mark.parametrize("seed", range(40))
def test_no_minute_sees_more_than_the_rate(seed: int) -> None:
    random = Random(seed)
    rate, total = random.randint(1, random.choice([5, 1000])), random.randint(0, 500)
    pauses = [random.choice([1, 250, random.randint(1, 200_000)]) for _ in range(200)]
    times = reached(rate, pauses, total)
    assert len(times) <= total
    for number, moment in enumerate(times):
        within = [each for each in times[number:] if each < moment + MINUTE_MS]
        assert len(within) <= rate


@pytest.mark.parametrize(
    ("rate", "pause"), [(1, 1000), (3, 250), (60, 250), (100, 500), (240, 250), (999, 700)]
)
def test_a_keeper_that_looks_often_keeps_the_pace(rate: int, pause: int) -> None:
    looks = 5 * MINUTE_MS // pause
    times = reached(rate, [pause] * looks, 10_000)
    whole = looks * pause / MINUTE_MS
    assert len(times) >= math.floor(0.97 * rate * (whole - 0.1)) - 1


def test_a_fleet_is_not_reached_all_at_once() -> None:
    assert len(reached(60, [1], 1000)) == 1
    assert len(reached(60, [500] * 20, 1000)) == 10


@pytest.mark.parametrize(
    ("config", "notified", "succeeded", "expected"),
    [
        ({}, 10, 0, None),
        ({"maximumPerMinute": 7}, 1000, 0, 7),
        (EXPONENTIAL, 0, 0, 50),
        (EXPONENTIAL, 999, 999, 50),
        (EXPONENTIAL, 1000, 0, 100),
        (EXPONENTIAL, 2500, 0, 200),
        (EXPONENTIAL, 10**9, 0, 300),
    ],
)
def test_the_rate_grows_with_what_was_reached(
    config: dict[str, object], notified: int, succeeded: int, expected: float | None
) -> None:
    assert rate(config, notified, succeeded) == expected


def criterion(kind: str, threshold: float, least: int) -> dict[str, object]:
    return {
        "criteriaList": [
            {
                "failureType": kind,
                "action": "CANCEL",
                "thresholdPercentage": threshold,
                "minNumberOfExecutedThings": least,
            }
        ]
    }


STATUSES = ("QUEUED", "IN_PROGRESS", "SUCCEEDED", "FAILED", "TIMED_OUT", "REJECTED", "CANCELED")


@pytest.mark.parametrize("seed", range(300))
def test_an_abort_is_what_its_words_say(seed: int) -> None:
    random = Random(seed)
    counts = {each: random.randint(0, 50) for each in random.sample(STATUSES, random.randint(0, 7))}
    kind = random.choice(["FAILED", "TIMED_OUT", "REJECTED", "ALL"])
    threshold, least = random.uniform(0.1, 100), random.randint(1, 60)
    finished = sum(counts.get(each, 0) for each in STATUSES[2:6])
    bad = [kind] if kind != "ALL" else ["FAILED", "TIMED_OUT", "REJECTED"]
    failed = sum(counts.get(each, 0) for each in bad)
    expected = failed > 0 and finished >= least and 100 * failed / finished >= threshold
    why = to_abort(criterion(kind, threshold, least), counts)
    assert (why is not None) == expected
    if why is not None:
        assert f"{failed} of {finished}" in why


def test_without_criteria_nothing_ends() -> None:
    assert to_abort({}, {"FAILED": 100}) is None


def some_versions(random: Random) -> dict[str, str]:
    names = random.sample("abcd", random.randint(0, 3))
    return {name: random.choice(["1.0.0", "1.0.0", "2.0.0"]) for name in names}


@pytest.mark.parametrize("seed", range(200))
def test_deployments_merge_or_conflict(seed: int) -> None:
    random = Random(seed)
    applied = {slot: some_versions(random) for slot in random.sample("xyz", random.randint(0, 3))}
    slot, wanted = random.choice("xyz"), some_versions(random)
    others = [has for name, has in applied.items() if name != slot]
    conflicts = any(
        has[name] != version for has in others for name, version in wanted.items() if name in has
    )
    if conflicts:
        with pytest.raises(ValueError, match="give both targets the same version"):
            merged_versions(applied.items(), slot, wanted)
        return
    merged = merged_versions(applied.items(), slot, wanted)
    assert {name: merged[name] for name in wanted} == wanted
    assert merged.keys() == set(wanted).union(*others)
