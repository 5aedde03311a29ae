"""`python -m stack demo | up | down`: the Makefile's commands."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from stack.airflow import ADMIN, PROJECT
from stack.credentials import write_private
from stack.localcloud import PORTAL_USER
from stack.ports import PortInUseError
from stack.processes import StackError, stop_session
from stack.stack import Stack

STATE = PROJECT / ".local"
UP_FILE = STATE / "up.json"


def _say(line: str) -> None:
    print(line, flush=True)


def demo() -> None:
    """Run the main job once and say where its results are."""
    from stack.demo import run_demo

    out = PROJECT / "build" / "demo"
    summary = run_demo(STATE / "demo", out, _say)
    _say(f"summary: {out / 'summary.json'}")
    _say(f"report:  {out / 'report.html'}")
    _say(f"done in {summary['seconds']['total']} s, of which the run {summary['seconds']['run']} s")


def up() -> None:
    """Keep the stack up until Ctrl-C or `make down`; print where to go and how to sign in."""
    from stack.demo import upload_samples

    _require_down()
    with Stack(STATE / "stack", _say) as stack:
        sessions = [process.pid for process in stack.processes.values()]
        write_private(UP_FILE, json.dumps({"owner": os.getpid(), "sessions": sessions}))
        try:
            upload_samples(stack, STATE / "stack" / "samples")
            _print_doors(stack)
            while True:
                time.sleep(1)
                stack.require_running()
        finally:
            UP_FILE.unlink(missing_ok=True)


def _require_down() -> None:
    if UP_FILE.exists():
        owner = json.loads(UP_FILE.read_text())["owner"]
        if Path(f"/proc/{owner}").exists():
            raise StackError("the stack is up already: `make down` stops it")
        down()


def _print_doors(stack: Stack) -> None:
    secrets = stack.credentials
    _say(f"""
Airflow      {stack.airflow.url}   user {ADMIN}, password {secrets.airflow_admin_password}
localcloud   {stack.cloud.url}   user {PORTAL_USER}, password {secrets.localcloud_user_password}
S3           {stack.store_url}
AWS clients  key id {secrets.aws_access_key_id}, its secret is in {stack.home}/secrets.json

Trigger the DAG `model_delivery` in Airflow. Ctrl-C or `make down` stops everything.""")


def down() -> None:
    """Stop what `make up` started, also after its own process was killed."""
    if not UP_FILE.exists():
        _say("the stack is not up")
        return
    state = json.loads(UP_FILE.read_text())
    for session in state["sessions"]:
        stop_session(session)
    UP_FILE.unlink(missing_ok=True)
    _say("stopped")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run one command; one line on standard error and a non-zero code when it fails."""
    signal.signal(signal.SIGTERM, _interrupt)
    commands = {"demo": demo, "up": up, "down": down}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        sys.exit(f"usage: python -m stack {'|'.join(commands)}")
    try:
        commands[sys.argv[1]]()
    except (StackError, PortInUseError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; everything is stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
