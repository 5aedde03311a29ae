"""Kills a run's task process at one step of its job: which call it is about to make tells where."""

import os
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.faults.proxy import Effect, Exchange, contains, end, facts

# Steps of a task's life, by the call at which they end.
BEFORE_CALL = "before the call"
AFTER_CALL = "after the call, before persisting"
PERSISTED = "after persisting, before deferring"
WAITING = "while waiting in the worker"
RESUMED = "on resume"
FAILED = "between the job's failure and its being noted"
WORKER_STEPS = (BEFORE_CALL, AFTER_CALL, PERSISTED, WAITING)
DEFERRED_STEPS = (BEFORE_CALL, AFTER_CALL, PERSISTED, RESUMED)
CREATES = {"CreateCompilationJob", "POST /jobs"}
DESCRIBES = {"DescribeCompilationJob", "GET /jobs/{id}"}


@dataclass
class Life:
    """What the proxies saw of one run."""

    creators: list[int] = field(default_factory=list)
    describes: dict[int, int] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    kills: list[str] = field(default_factory=list)


@dataclass
class Killer:
    """A rule of the proxies.

    :param plans: by a run's model, the steps at which its process is killed, each once.
    :param is_task: tells a task's process from the triggerer's.
    :param signals: by a run's model, what its process gets instead of SIGKILL.
    """

    plans: Mapping[str, list[str]]
    is_task: Callable[[int], bool]
    signals: Mapping[str, signal.Signals] = field(default_factory=dict)
    lives: dict[str, Life] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.Lock)

    def __call__(self, exchange: Exchange) -> Effect | None:
        """Kill the caller if this is where its plan says so."""
        with self._lock:
            model = self.model_of(exchange)
            if model is None or not self.is_task(exchange.pid):
                return None
            life = self.lives.setdefault(model, Life())
            step = self._step(life, exchange)
            if step is None or step not in self.plans[model] or step in life.kills:
                return None
            if not end(exchange.pid, self.signals.get(model, signal.SIGKILL)):
                return None
            life.kills.append(step)
        return Effect(reset=True)

    def model_of(self, exchange: Exchange) -> str | None:
        """Return the model of the run that a call belongs to, where it is one of the plans'."""
        if exchange.operation in CREATES:
            return next((model for model in self.plans if contains(exchange, f"{model}!")), None)
        for model, life in self.lives.items():
            if any(contains(exchange, name) for name in life.names):
                return model
        return None

    def _step(self, life: Life, exchange: Exchange) -> str | None:
        before = exchange.moment == "before"
        if exchange.operation in CREATES:
            if before:
                life.creators.append(exchange.pid)
                return BEFORE_CALL
            answer = facts(exchange)
            arn = str(answer.get("jobId") or answer.get("CompilationJobArn", "")).rpartition("/")
            if arn[2]:
                life.names.add(arn[2])
            return AFTER_CALL
        if exchange.operation not in DESCRIBES:
            return None
        if not before:
            return FAILED if facts(exchange).get("status") == "FAILED" else None
        count = life.describes[exchange.pid] = life.describes.get(exchange.pid, 0) + 1
        if exchange.pid in life.creators:
            return PERSISTED if count == 1 else WAITING
        return RESUMED if count == 1 else WAITING


def outside_session(leader: Callable[[], int]) -> Callable[[int], bool]:
    """Return what tells whether a process is outside the session of `leader()`."""

    def outside(pid: int) -> bool:
        try:
            return pid > 0 and os.getsid(pid) != leader()
        except ProcessLookupError:
            return False

    return outside
