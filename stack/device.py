"""An edge device of the stack: one agent process with a folder of its own."""

import os
import sys
from pathlib import Path

from stack.credentials import Credentials
from stack.localcloud import LocalCloud
from stack.ports import LOOPBACK
from stack.processes import Process, answers


def device(
    thing: str, home: Path, cloud: LocalCloud, credentials: Credentials, port: int
) -> Process:
    """Return the agent's process, not yet started; it registers once with a one-time token."""
    home.mkdir(parents=True, exist_ok=True)
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "MODEL_DELIVERY_EDGE_API_TOKEN": credentials.device_api_token,
        "MODEL_DELIVERY_EDGE_TOKEN": cloud.device_token(thing),
    }
    argv = [
        str(Path(sys.executable).parent / "model-delivery-edge"), "run",
        "--thing", thing, "--cloud", cloud.url, "--home", str(home),
        "--host", LOOPBACK, "--port", str(port),
    ]  # fmt: skip
    live = f"http://{LOOPBACK}:{port}/v2/health/live"
    return Process(f"device {thing}", argv, env, home / "agent.log", lambda: answers(live))
