"""Free loopback ports, taken together so that no two callers in one process get the same."""

import contextlib
import random
import socket

LOOPBACK = "127.0.0.1"
# Below what Linux gives to outgoing connections (net.ipv4.ip_local_port_range): a port stays free
# until the server that it is for binds it, some seconds later.
RANGE = range(15_000, 32_000)


class PortInUseError(RuntimeError):
    """A port that was asked for by number is taken."""


def free_ports(count: int) -> list[int]:
    """Return `count` distinct ports that nothing listened on a moment ago."""
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            port = random.choice(RANGE)
            with contextlib.suppress(OSError):
                stack.enter_context(socket.socket()).bind((LOOPBACK, port))
                found.append(port)
        return found


def require_free(port: int, setting: str) -> int:
    """Return `port` if it is free; raise PortInUseError that names the setting to change."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise PortInUseError(
                f"port {port} on {LOOPBACK} is in use: stop what listens there, "
                f"or set {setting} to another port"
            ) from error
    return port
