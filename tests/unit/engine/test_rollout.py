"""Who is in which stage of a rollout, how many begin at a time, and what stops it."""

import random
from collections import Counter
from typing import Any

import pytest
from model_delivery_engine.errors import RolloutError
from model_delivery_engine.rollout.budget import Budget, next_to_begin
from model_delivery_engine.rollout.gate import Limits, Progress, Verdict, judge
from model_delivery_engine.rollout.stages import Device, Stage, plan_stages

WELL, BAD, LATE = Progress.SUCCEEDED, Progress.FAILED, Progress.LATE
ON, OFF, NOT_YET = Progress.UNDER_WAY, Progress.OFFLINE, Progress.WAITING


SEEDS = pytest.mark.parametrize("seed", range(60))


def fleet(count: int, **tags: str) -> list[Device]:
    return [Device(f"device-{n}", tags) for n in range(count)]


@SEEDS
def test_percentages_take_what_is_missing_and_no_device_twice(seed: int) -> None:
    draw = random.Random(seed)
    count = draw.randint(1, 200)
    percents = [draw.uniform(0.1, 100) for _ in range(draw.randint(1, 5))]
    stages = [Stage(f"s{n}", percent=each) for n, each in enumerate(sorted(percents))]
    plan = plan_stages(fleet(count), stages)

    taken = [name for part in plan.stages for name in part]
    assert sorted([*taken, *plan.left]) == sorted(device.name for device in fleet(count))
    so_far = 0
    for stage, part in zip(stages, plan.stages, strict=True):
        so_far += len(part)
        assert stage.percent is not None
        assert so_far - 1 < count * stage.percent / 100 <= so_far + 1e-9 * count


@SEEDS
def test_the_order_in_which_devices_are_listed_is_no_matter(seed: int) -> None:
    draw = random.Random(seed)
    count = draw.randint(2, 100)
    stages = [Stage("few", percent=10), Stage("half", percent=50), Stage("all", percent=100)]
    shuffled = fleet(count)
    draw.shuffle(shuffled)
    assert plan_stages(shuffled, stages) == plan_stages(fleet(count), stages)


def test_a_device_that_joins_moves_few() -> None:
    stages = [Stage("few", percent=10), Stage("all", percent=100)]
    before = set(plan_stages(fleet(100), stages).stages[0])
    after = set(plan_stages(fleet(101), stages).stages[0])
    assert len(before - after) <= 1


def test_lists_and_tags_come_before_percentages_and_count_to_them() -> None:
    devices = [*fleet(7), Device("lab-1", {"site": "lab"}), Device("lab-2", {"site": "lab"}),
               Device("odd")]  # fmt: skip
    plan = plan_stages(
        devices,
        [
            Stage("named", devices=("odd",)),
            Stage("lab", tags={"site": "lab"}),
            Stage("forty", percent=40),
            Stage("all", percent=100),
        ],
    )
    assert plan.stages[0] == ("odd",)
    assert set(plan.stages[1]) == {"lab-1", "lab-2"}
    assert [len(part) for part in plan.stages] == [1, 2, 1, 6]
    assert plan.left == ()


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([], "at least one stage"),
        ([{"devices": ("gone",)}], "lists 'gone', not in the fleet of 3"),
        ([{"tags": {"site": "moon"}}], "none of the fleet's 3 devices has site=moon"),
        ([{"percent": 0}], "give a number above 0"),
        ([{"percent": 101}], "up to 100"),
        ([{}], "has none"),
        ([{"percent": 5, "devices": ("device-1",)}], "has 2"),
        ([{"percent": 50}, {"percent": 20}], "less than the 50 of 's0'"),
    ],
)
def test_stages_that_cannot_be_are_refused(stages: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(RolloutError, match=said):
        plan_stages(fleet(3), [Stage(f"s{n}", **each) for n, each in enumerate(stages)])


def test_names_are_there_once() -> None:
    stage = Stage("all", percent=100)
    with pytest.raises(RolloutError, match="stage 'all' is there twice"):
        plan_stages(fleet(3), [stage, stage])
    with pytest.raises(RolloutError, match="device 'device-0' is there twice"):
        plan_stages([*fleet(2), Device("device-0")], [stage])


@pytest.mark.parametrize(
    ("progress", "limits", "verdict"),
    [
        ([], Limits(), Verdict.PASSED),
        ([WELL, WELL], Limits(), Verdict.PASSED),
        ([WELL, ON], Limits(), Verdict.GOES_ON),
        ([WELL, OFF], Limits(), Verdict.GOES_ON),
        ([OFF, OFF], Limits(), Verdict.GOES_ON),
        ([WELL, BAD], Limits(), Verdict.BROKEN),
        ([BAD, NOT_YET, NOT_YET], Limits(success=0.5, error=0.2, least=1), Verdict.BROKEN),
        ([BAD, NOT_YET, NOT_YET], Limits(success=0.5, error=0.2, least=2), Verdict.GOES_ON),
        ([BAD, WELL, WELL], Limits(success=0.5, error=0.4), Verdict.PASSED),
        ([BAD, BAD, ON, ON], Limits(success=0.8, error=1), Verdict.BROKEN),
        ([LATE, WELL, WELL], Limits(success=0.6, error=0.5), Verdict.PASSED),
        ([LATE, LATE], Limits(success=0.0, error=1.0), Verdict.PASSED),
        ([BAD] * 10, Limits(success=0.0, error=0.0, least=11), Verdict.PASSED),
    ],
)
def test_a_stage_is_judged(progress: list[Progress], limits: Limits, verdict: Verdict) -> None:
    assert judge(progress, limits).verdict is verdict


@SEEDS
def test_nothing_passes_before_its_end_or_goes_on_without_hope(seed: int) -> None:
    draw = random.Random(seed)
    progress = draw.choices(list(Progress), k=draw.randint(0, 30))
    success, error, least = draw.random() / 2, draw.random(), draw.randint(1, 10)
    found = judge(progress, Limits(success, error, least))
    counts = Counter(progress)
    open_ones = counts[NOT_YET] + counts[ON] + counts[OFF]
    if found.verdict is Verdict.PASSED:
        assert not open_ones
        assert counts[WELL] >= success * len(progress) - 1e-9
    if found.verdict is Verdict.GOES_ON:
        assert open_ones
    if open_ones and found.verdict is not Verdict.BROKEN:
        at_best = [WELL if each in {NOT_YET, ON, OFF} else each for each in progress]
        assert judge(at_best, Limits(success, 1.0, least)).verdict is Verdict.PASSED


def test_the_reason_says_what_was_seen() -> None:
    reason = judge([WELL, BAD, LATE, OFF], Limits(error=0.5, success=0)).reason
    assert reason.startswith("1 of 4 succeeded, 2 failed (1 by being late): 67% of those done")
    assert judge([WELL, OFF, NOT_YET], Limits()).reason.endswith("1 not heard of, 1 not begun")


@pytest.mark.parametrize("wrong", [{"success": 1.1}, {"error": -0.1}, {"least": 0}])
def test_limits_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RolloutError, match="give"):
        Limits(**wrong)


@SEEDS
def test_no_group_is_unavailable_beyond_its_budget(seed: int) -> None:
    draw = random.Random(seed)
    devices = [
        (draw.choice("abc"), draw.choice(list(Progress))) for _ in range(draw.randint(0, 40))
    ]
    budget = Budget(
        draw.choice([None, draw.randint(1, 5)]), draw.choice([None, draw.uniform(0.1, 100)])
    )
    all_of_them = [Device(f"d{n}", group=group) for n, (group, _) in enumerate(devices)]
    progress = {device.name: each for device, (_, each) in zip(all_of_them, devices, strict=True)}
    names = [device.name for device in all_of_them]
    chosen = next_to_begin(names, all_of_them, progress, budget)

    assert all(progress[name] is NOT_YET for name in chosen)
    for group, size in Counter(group for group, _ in devices).items():
        mine = [device.name for device in all_of_them if device.group == group]
        busy = sum(progress[name] in {ON, OFF, BAD, LATE} for name in mine)
        begun = sum(name in chosen for name in mine)
        waiting = sum(progress[name] is NOT_YET for name in mine)
        assert begun == max(0, min(waiting, budget.of(size) - busy))


def test_a_budget_lets_one_begin_at_least() -> None:
    assert Budget(percent=10).of(3) == 1
    assert Budget(devices=5, percent=50).of(4) == 2
    assert Budget().of(7) == 7
    with pytest.raises(RolloutError, match="lets none begin"):
        Budget(devices=0)
