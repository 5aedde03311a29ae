"""The course of a rollout: what a look at it finds, and what it does about it.

Each look reads the record and the devices, decides, writes the record if no other was faster, and
only then sends or cancels, so that whoever looks next, after a crash too, goes on from there. What
is sent is told apart by its name, and never sent twice.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from model_delivery_engine.rollout.budget import next_to_begin
from model_delivery_engine.rollout.gate import Judgement, Progress, Verdict, judge

from model_delivery.rollouts.calls import IotCall, Steps, code_of
from model_delivery.rollouts.devices import Devices
from model_delivery.rollouts.plan import OnFailure, RolloutPlan
from model_delivery.rollouts.record import (
    Record,
    StageState,
    State,
    Wish,
    first_properties,
    iso,
    record_name,
)
from model_delivery.rollouts.sending import Sending

_DONE = frozenset({Progress.SUCCEEDED, Progress.FAILED})
_UNDECIDED = frozenset({Progress.WAITING, Progress.UNDER_WAY, Progress.OFFLINE})
_AT_WORK = frozenset({State.RUNNING, State.WAITING_APPROVAL, State.PAUSED})
_MOST_READINGS = 5


@dataclass(frozen=True)
class Look:
    """What a look found.

    :param counts: devices by progress
    :param failed: why, of each device that failed
    :param moved: something was decided or sent
    """

    state: State
    reason: str
    counts: Mapping[str, int]
    failed: Mapping[str, str]
    moved: bool


class Rollout:
    """A rollout; `look` is to be repeated until its state is an end."""

    def __init__(self, plan: RolloutPlan) -> None:
        self.plan = plan
        self._devices = Devices(plan)
        self._sending = Sending(plan, self._devices)

    def look(self) -> Steps[Look]:
        """Look once, and do what follows."""
        record = yield from self._read_or_make()
        before = record.state, record.stage, record.reason
        if record.state.is_end:
            yield from self._devices.survey(record, self._begun(record))
            return self._seen(record, moved=False)
        record = yield from self._decided(record)
        moved = yield from self._act(record)
        after = record.state, record.stage, record.reason
        return self._seen(record, moved=moved or after != before)

    def roll_back(self, reason: str) -> Steps[Look]:
        """Give every device that has begun what it had before, whatever the rollout was doing.

        :param reason: for people
        """
        record = yield from self._read()
        for _ in range(_MOST_READINGS):
            if record is None:
                return Look(State.ABORTED, "it had not begun", {}, {}, moved=False)
            if record.state.is_end or record.state is State.ROLLING_BACK:
                break
            record.go(State.ROLLING_BACK, reason, datetime.now(UTC))
            if (yield from self._write(record)):
                break
            record = yield from self._read()
        assert record is not None, "it was read"
        return (yield from self.look())

    def _read(self) -> Steps[Record | None]:
        name = {"thingGroupName": record_name(self.plan.id)}
        answer = yield IotCall("describe_thing_group", name, if_missing={})
        return Record.read(answer) if answer else None

    def _read_or_make(self) -> Steps[Record]:
        record = yield from self._read()
        if record is None:
            name = record_name(self.plan.id)
            made = first_properties(self.plan, datetime.now(UTC))
            call = {"thingGroupName": name, "thingGroupProperties": made}
            yield IotCall("create_thing_group", call)
            answer = yield IotCall("describe_thing_group", {"thingGroupName": name})
            record = Record.read(answer)
        return record

    def _write(self, record: Record) -> Steps[bool]:
        """Write what was changed; tell whether the record was still the one that was read."""
        if not record.changes:
            return True
        try:
            answer = yield IotCall(
                "update_thing_group",
                {
                    "thingGroupName": record_name(self.plan.id),
                    "thingGroupProperties": record.properties(),
                    "expectedVersion": record.version,
                },
            )
        except Exception as error:
            if code_of(error) != "VersionConflictException":
                raise
            return False
        record.version = int(answer["version"])
        record.changes.clear()
        return True

    def _decided(self, record: Record) -> Steps[Record]:
        """Survey the devices, decide, and write that; a person who was faster counts first."""
        for _ in range(_MOST_READINGS):
            yield from self._devices.survey(record, self._begun(record))
            now = datetime.now(UTC)
            self._take_wish_up(record, now)
            if record.state is State.RUNNING:
                self._judge(record, now)
            elif record.state is State.ROLLING_BACK:
                self._judge_return(record, now)
            if record.state is State.ABORTED:  # before it is written: then nobody looks again
                for view in self._devices.view.values():
                    yield from self._sending.cancel(view)
            if (yield from self._write(record)):
                return record
            record = yield from self._read_or_make()
            if record.state.is_end:
                return record
        return record  # others write at every moment; the next look goes on

    def _begun(self, record: Record) -> list[str]:
        return [name for each in self.plan.stages[: record.stage] for name in each.devices]

    def _take_wish_up(self, record: Record, now: datetime) -> None:
        wish = record.wish
        if wish is None:
            return
        who = f"asked for by {record.attributes.get('wish-by', 'somebody')}"
        state = record.state
        if wish is Wish.ROLLBACK and state in _AT_WORK:
            record.go(State.ROLLING_BACK, f"A rollback was {who}", now)
        elif wish is Wish.PAUSE and state is State.RUNNING:
            record.go(State.PAUSED, f"A pause was {who}", now)
        elif wish is Wish.RESUME and state is State.PAUSED:
            self._excuse(record, now)
            record.go(State.RUNNING, f"Resumed, {who}", now)
        elif wish is Wish.APPROVE and state is State.WAITING_APPROVAL:
            self._begin_stage(record, record.stage + 1, f"Stage approved, {who}", now)
        record.set("wish-done", wish)
        record.set("wish", "")

    def _excuse(self, record: Record, now: datetime) -> None:
        """Count those that failed before a person had the rollout go on no more."""
        for number in range(1, record.stage + 1):
            failed = Counter(self._progress(number))[Progress.FAILED]
            record.set_stage(number, excused=str(failed))
        if record.stage:
            record.set_stage(record.stage, counted=iso(now))

    def _progress(self, number: int) -> list[Progress]:
        devices = self.plan.stages[number - 1].devices
        return [self._devices.view[name].progress for name in devices]

    def _judge(self, record: Record, now: datetime) -> None:
        """Decide what follows of what is seen; a stage that passes may be followed at once."""
        if record.stage == 0:
            self._follow(record, 0, now)
            return
        for number in range(1, record.stage + 1):
            found = self._judged(record, number, now)
            if found.verdict is Verdict.BROKEN:
                self._break(record, number, found.reason, now)
                return
        fields = record.stage_fields(record.stage)
        if found.verdict is Verdict.GOES_ON:
            if fields["state"] == StageState.SOAKING:  # a device that was done is not, any more
                record.set_stage(record.stage, state=StageState.RUNNING)
            self._say(record, f"Stage {fields['name']}: {found.reason}", now)
            return
        stage = self.plan.stages[record.stage - 1]
        if fields["state"] != StageState.SOAKING:
            record.set_stage(record.stage, state=StageState.SOAKING, soaking=iso(now))
            text = f"Stage {stage.name} soaks for {stage.soak:g} s: {found.reason}"
            self._say(record, text, now)
        since = record.stage_moment(record.stage, "soaking") or now
        if now - since >= timedelta(seconds=stage.soak):
            record.set_stage(record.stage, state=StageState.SUCCEEDED, ended=iso(now))
            self._follow(record, record.stage, now)

    def _judged(self, record: Record, number: int, now: datetime) -> Judgement:
        fields = record.stage_fields(number)
        progress = self._progress(number)
        for _ in range(int(fields.get("excused", "0"))):
            if Progress.FAILED in progress:
                progress.remove(Progress.FAILED)
        counted = record.stage_moment(number, "counted") or record.stage_moment(number, "begun")
        limit = timedelta(seconds=self.plan.stage_timeout)
        if number < record.stage or (counted is not None and now - counted >= limit):
            progress = [Progress.LATE if each in _UNDECIDED else each for each in progress]
        return judge(progress, self.plan.limits)

    @staticmethod
    def _say(record: Record, reason: str, now: datetime) -> None:
        if record.reason != reason:
            record.go(record.state, reason, now)

    def _follow(self, record: Record, ended: int, now: datetime) -> None:
        """Go on from a stage that is over: to the next, to a person, or to the end."""
        if ended == len(self.plan.stages):
            counts = Counter(view.progress for view in self._devices.view.values())
            well = counts[Progress.SUCCEEDED]
            record.go(State.SUCCEEDED, f"{well} of {counts.total()} devices succeeded", now)
            return
        following = self.plan.stages[ended]
        if following.approval:
            record.go(
                State.WAITING_APPROVAL,
                f"Stage {following.name} of {len(following.devices)} devices waits for a person",
                now,
            )
        else:
            self._begin_stage(record, ended + 1, f"Stage {following.name} begins", now)

    def _begin_stage(self, record: Record, number: int, reason: str, now: datetime) -> None:
        record.set("stage", str(number))
        record.set_stage(number, state=StageState.RUNNING, begun=iso(now))
        record.go(State.RUNNING, reason, now)

    def _break(self, record: Record, number: int, reason: str, now: datetime) -> None:
        text = f"Stage {self.plan.stages[number - 1].name} is broken: {reason}"
        if first := self._first_failure(number):
            text += f"; {first}"
        if self.plan.on_failure is OnFailure.PAUSE:
            record.go(State.PAUSED, text, now)
            return
        record.set_stage(number, state=StageState.FAILED, ended=iso(now))
        ends = self.plan.on_failure is OnFailure.ABORT
        record.go(State.ABORTED if ends else State.ROLLING_BACK, text, now)

    def _first_failure(self, number: int) -> str:
        for name in self.plan.stages[number - 1].devices:
            if reason := self._devices.view[name].reason:
                return f"{name}: {reason}"
        return ""

    def _judge_return(self, record: Record, now: datetime) -> None:
        """Tell whether all devices have again what they had before."""
        since = record.attributes.get("returning")
        if since is None:
            record.set("returning", iso(now))
            return
        sent = [view for view in self._devices.view.values() if view.sent is not None]
        own = [view for view in sent if view.sent and self._devices.is_own(view.sent)]
        if any(not view.went_back for view in own):
            return
        late = now - datetime.fromisoformat(since) >= timedelta(seconds=self.plan.stage_timeout)
        is_open = [view for view in own if view.progress not in _DONE]
        if is_open and not late:
            return
        lost = [view for view in own if view.progress is Progress.FAILED]
        text = f"{record.reason}. {len(own) - len(lost) - len(is_open)} devices went back"
        if is_open:
            text += f", {len(is_open)} are not heard of and will when they are"
        if lost:
            text += f", {len(lost)} could not: look at those"
        record.go(State.FAILED if lost else State.ROLLED_BACK, text, now)

    def _act(self, record: Record) -> Steps[bool]:
        """Send what the state asks for; tell whether anything was."""
        views = self._devices.view
        if record.state is State.RUNNING and record.stage:
            progress = {name: views[name].progress for name in self._begun(record)}
            stage = self.plan.stages[record.stage - 1].devices
            chosen = next_to_begin(stage, self.plan.fleet, progress, self.plan.budget)
            for name in chosen:
                yield from self._sending.begin(record.stage, name)
            return bool(chosen)
        moved = False
        if record.state is State.ROLLING_BACK:
            for name in self.plan.devices:
                moved |= yield from self._sending.give_back(name)
        return moved

    def _seen(self, record: Record, moved: bool) -> Look:
        views = self._devices.view
        counts = Counter(str(view.progress) for view in views.values())
        failed = {name: view.reason for name, view in views.items() if view.reason}
        return Look(record.state, record.reason, counts, failed, moved)
