"""How patiently a service is asked that does not answer, or answers that it is busy."""

import time
from threading import Thread
from weakref import ref

# Sixteen failures in a row, with `rate.backoff` between them, are about five minutes of a service
# that is down.
MAX_FAILURES = 16
# A key that is being replaced is refused for seconds; one that is wrong shall not take minutes.
CREDENTIAL_REFUSALS = 6
# Right after a job was made, a service may not know it yet: believed when it says so this often.
MISSING_ANSWERS = 3
SLICE_SECONDS = 0.25
TICK_SECONDS = 1.0
# Half of the time after which Airflow gives the task of a silent process to another.
STANDSTILL_SECONDS = 150.0
# Within this time after it Airflow tells a process whose task it has given to another.
WAKING_SECONDS = 30.0


class Pause:
    """Sleeps that a signal handler can cut short.

    A flag and short sleeps rather than an event: the handler runs on the thread that sleeps, which
    may hold an event's lock at that moment.
    """

    def __init__(self) -> None:
        self.cut = False
        self._made_at = _now()
        self._ticked_at = _now()
        self._woken_at = self._made_at
        self._watch: Thread | None = None

    def watch(self) -> None:
        """Tick from a thread of its own: a call may take long, and is no standstill."""
        if self._watch is None:
            self._watch = Thread(target=_tick, args=(ref(self),), daemon=True)
            self._watch.start()

    def tick(self) -> None:
        """Note that the process runs."""
        now = _now()
        if now - self._ticked_at > STANDSTILL_SECONDS:
            self._woken_at = now
        self._ticked_at = now

    @property
    def just_woken(self) -> bool:
        """Whether the process stood still (SIGSTOP, a suspended machine) until a moment ago."""
        self.tick()
        return self._woken_at - self._made_at > 0 and _now() - self._woken_at < WAKING_SECONDS

    def sleep(self, seconds: float) -> None:
        """Sleep for so many seconds, or until `cut` is set."""
        until = time.monotonic() + seconds
        self.tick()
        while not self.cut and (left := until - time.monotonic()) > 0:
            time.sleep(min(SLICE_SECONDS, left))
            self.tick()


def _tick(watched: "ref[Pause]") -> None:
    while (pause := watched()) is not None:
        pause.tick()
        del pause
        time.sleep(TICK_SECONDS)


def _now() -> float:
    # Counts while the machine is suspended too, where there is such a clock.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
