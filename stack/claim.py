"""One stack at a time in a folder, and nothing of an earlier one left running there."""

import fcntl
import os
import signal
import time
from pathlib import Path
from typing import IO

from stack.processes import SESSIONS, STOP_SECONDS, StackError, stop_marked


class Claim:
    """Holds a folder for this process, until it leaves or dies.

    Entering stops what an owner that was killed left running there.

    :param home: folder of the stack.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._path = home.with_name(f"{home.name}.lock")
        self._file: IO[str] | None = None

    def __enter__(self) -> "Claim":
        if not self._take():
            raise StackError(
                f"a stack is running in {self._home} (process {self.owner()}): "
                "`make down` stops one that is up, Ctrl-C a demo"
            )
        stop_marked(self._home)
        (self._home / SESSIONS).unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def owner(self) -> int | None:
        """Return the process that holds the folder, or held it last."""
        text = self._path.read_text() if self._path.exists() else ""
        return int(text) if text.strip().isdigit() else None

    def end(self) -> bool:
        """Ask the owner to end, stop what it leaves; False if there was nothing to stop."""
        asked = False
        deadline = time.monotonic() + 4 * STOP_SECONDS
        while not self._take():
            owner = self.owner()
            if owner is not None and not asked:
                os.kill(owner, signal.SIGTERM)
                asked = True
            if time.monotonic() > deadline:
                raise StackError(f"process {owner} does not end: kill it, then `make down` again")
            time.sleep(0.1)
        try:
            return stop_marked(self._home) or asked
        finally:
            self.__exit__()

    def _take(self) -> bool:
        if self._file is not None:
            return True
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = self._path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file
        return True
