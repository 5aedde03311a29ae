"""`python -m stack demo | up | down`: the Makefile's commands."""

import os
import signal
import sys
import time
from contextlib import suppress
from types import FrameType
from typing import TextIO

from stack.airflow import ADMIN, PROJECT
from stack.claim import Claim
from stack.localcloud import PORTAL_USER
from stack.ports import PortInUseError
from stack.processes import StackError
from stack.stack import Stack

STATE = PROJECT / ".local"
UP, DEMO = STATE / "stack", STATE / "demo"


def _say(line: str, stream: TextIO | None = None) -> None:
    # Whoever read this may be gone, with their terminal: that must not keep anything from stopping.
    with suppress(OSError):
        print(line, file=stream, flush=True)


def demo() -> None:
    """Run the main job once and say where its results are."""
    from stack.demo import run_demo

    out = PROJECT / "build" / "demo"
    with Claim(DEMO):
        summary = run_demo(DEMO, out, _say)
    _say(f"summary: {out / 'summary.json'}")
    _say(f"report:  {out / 'report.html'}")
    _say(f"done in {summary['seconds']['total']} s, of which the run {summary['seconds']['run']} s")


def up() -> None:
    """Keep the stack up until Ctrl-C or `make down`; print where to go and how to sign in."""
    from stack.demo import upload_forms, upload_movielens, upload_samples

    with Claim(UP), Stack(UP, _say) as stack:
        upload_samples(stack, UP / "samples")
        upload_forms(stack, UP / "samples" / "forms")
        try:
            upload_movielens(stack, UP / "samples" / "movielens")
        except StackError as error:  # needs a package index; the main job does not
            _say(f"{error}\nrecommend_batch has no data until you put some there")
        _print_doors(stack)
        while True:
            time.sleep(1)
            stack.require_running()


def _print_doors(stack: Stack) -> None:
    secrets = stack.credentials
    dags = ", ".join(sorted(path.stem for path in (PROJECT / "dags").glob("*.py")))
    _say(f"""
Airflow      {stack.airflow.url}   user {ADMIN}, password {secrets.airflow_admin_password}
localcloud   {stack.cloud.url}   user {PORTAL_USER}, password {secrets.localcloud_user_password}
S3           {stack.store_url}
AWS clients  key id {secrets.aws_access_key_id}, its secret is in {stack.home}/secrets.json

Switch a DAG on in Airflow and trigger it: {dags}.
Ctrl-C or `make down` stops everything.""")


def down() -> None:
    """Stop what `make up` started, and what a command that was killed left running."""
    stopped = [home for home in (UP, DEMO) if Claim(home).end()]
    _say("stopped" if stopped else "the stack is not up")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run one command; one line on standard error and a non-zero code when it fails."""
    os.umask(0o077)  # all state is its owner's
    # SIGINT too: a script's background job starts with it ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    commands = {"demo": demo, "up": up, "down": down}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        sys.exit(f"usage: python -m stack {'|'.join(commands)}")
    try:
        commands[sys.argv[1]]()
    except (StackError, PortInUseError) as error:
        _say(f"error: {error}", sys.stderr)
        return 1
    except KeyboardInterrupt:
        if sys.argv[1] == "up":  # to be interrupted is how it ends
            _say("stopped")
            return 0
        _say("interrupted; everything is stopped", sys.stderr)
        return 130
    return 0


def _quietly(stream: TextIO) -> None:
    """Flush what is left; the interpreter would complain at its exit of a reader that is gone."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    code = main()
    _quietly(sys.stdout)
    _quietly(sys.stderr)
    sys.exit(code)
