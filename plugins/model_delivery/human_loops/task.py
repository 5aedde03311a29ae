"""What a task that starts human loops shares: its worker, and what a kill stops."""

from abc import abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import Context

from model_delivery.human_loops.batch import LoopBatch
from model_delivery.jobs.attempt import SUPERSEDED_SECONDS
from model_delivery.jobs.retries import OUTAGE_SECONDS, Pause
from model_delivery.jobs.tries import is_final
from model_delivery.storage_connected import AwsAndStorageConnected

if TYPE_CHECKING:
    from model_delivery.human_loops.state import LoopState
    from model_delivery.human_loops.worker import HumanLoopWorker
    from model_delivery.jobs.kill import Kill

HOOK = "model_delivery.hooks.human_review.HumanLoopHook"


class StartsHumanLoops(AwsAndStorageConnected):
    """The base of operators that start human loops.

    A task that is killed, fails for good or runs out of time stops those that are open, unless
    another try waits for them. Airflow gives a killed worker about five seconds: of thousands, what
    is not stopped by then stays open until the task is cleared or reviewers' time is over.
    """

    outage_timeout: float = OUTAGE_SECONDS
    # What is open by this task's doing.
    _waiting: LoopBatch | None = None
    _kill: "Kill | None" = None

    @property
    def hook_path(self) -> str:
        """Augmented AI's runtime."""
        return HOOK

    @cached_property
    def _pause(self) -> Pause:
        return Pause()

    @cached_property
    def _worker(self) -> "HumanLoopWorker":
        from model_delivery.human_loops.worker import HumanLoopWorker

        return HumanLoopWorker(self.open_hook, self._pause, self.outage_timeout)

    @abstractmethod
    def execute(self, context: Context) -> Any:
        """Start human loops, within `Kill.running`."""

    def _taken_up(self, context: Context) -> "tuple[LoopState, Kill]":
        """Return what the tries before kept, and what a kill of this one does."""
        from model_delivery.human_loops.state import LoopState, round_batch
        from model_delivery.jobs.kill import Kill

        state = LoopState(context)
        self._kill = Kill(
            "human loops",
            state,
            lambda error: is_final(self, context, error),
            self._stop_open,
            self.log,
        )
        self._kill.came = self._pause.cut  # a kill may be that early
        # What an earlier try started is open until this one gets as far.
        if state.rounds and not state.rounds[-1].get("ended"):
            self._waiting = round_batch(state.rounds[-1])
        return state, self._kill

    def _stop_open(self, reopen: bool) -> int:
        return 0 if self._waiting is None else self._worker.stop(self._waiting, reopen=reopen)

    def _stop_superseded(self, state: "LoopState") -> None:
        """Stop what is open of the batches before a clear: no later try needs them.

        Not for long, and what cannot be stopped is told of: this try's own errors come first.
        """
        stopped = True
        for batch in state.superseded():
            try:
                self._worker.stop(batch, absence=min(SUPERSEDED_SECONDS, self.outage_timeout))
            except Exception as error:
                stopped = False
                self.log.warning("Human loops of before the clear may still be open: %s", error)
        if stopped:
            state.forget_superseded()

    def on_kill(self) -> None:
        """Stop what is open when the task is killed in the worker, or runs out of time there."""
        self._pause.cut = True  # nothing more is started
        if self._kill is not None:
            self._kill.come()
