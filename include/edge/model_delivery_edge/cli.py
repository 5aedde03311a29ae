"""The command ``model-delivery-edge``."""

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from model_delivery_edge import __version__
from model_delivery_edge.errors import EdgeError, SettingsError
from model_delivery_edge.server import Settings, run

API_TOKEN = "MODEL_DELIVERY_EDGE_API_TOKEN"
REGISTRATION_TOKEN = "MODEL_DELIVERY_EDGE_TOKEN"
_THING_NAME = re.compile(r"[A-Za-z0-9:_-]{1,128}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; errors are one line on standard error and exit code 1."""
    options = _parser().parse_args(argv)
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        run(_settings(options, os.environ))
    except (EdgeError, OSError) as error:
        print(f"model-delivery-edge: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="model-delivery-edge",
        description="Runs on a device: pulls the desired model, proves it, serves it.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser(
        "run",
        help="run the agent",
        epilog=f"{API_TOKEN}: bearer token of the inference endpoint (default: one is made and kept"
        f" in HOME/api.token). {REGISTRATION_TOKEN}: one-time token for the first start.",
    )
    serve.add_argument("--thing", required=True, help="thing name of this device")
    serve.add_argument("--cloud", required=True, help="URL of the cloud")
    serve.add_argument("--home", required=True, type=Path, help="folder for all the device keeps")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    serve.add_argument("--port", required=True, type=int, help="port to listen on; 0: a free one")
    serve.add_argument("--token-file", type=Path, help="file with the one-time token")
    serve.add_argument(
        "--release-key",
        help="pin this key (model-delivery-localcloud release-key show); by default the one that "
        "the registration gives",
    )
    serve.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    return parser


def _settings(options: argparse.Namespace, environ: Mapping[str, str]) -> Settings:
    if not _THING_NAME.fullmatch(options.thing):
        raise SettingsError(
            f"--thing {options.thing!r} is no thing name; use up to 128 letters, digits, ':_-'"
        )
    cloud = urlsplit(options.cloud)
    if cloud.scheme not in ("http", "https") or not cloud.hostname or cloud.username:
        raise SettingsError("--cloud must be an http or https URL without credentials in it")
    if not 0 <= options.port <= 65535:
        raise SettingsError(f"--port {options.port} is no port; use 0 to 65535")
    api_token = environ.get(API_TOKEN)
    if api_token is not None and not api_token.strip():
        raise SettingsError(f"{API_TOKEN} is empty; set a token, or unset it to have one made")
    return Settings(
        options.thing,
        options.cloud,
        options.home,
        options.host,
        options.port,
        api_token.strip() if api_token else None,
        _registration_token(options.token_file, environ),
        options.release_key,
    )


def _registration_token(file: Path | None, environ: Mapping[str, str]) -> Callable[[], str]:
    def read() -> str:
        # Read only when it is needed: a registered device starts without it.
        token = (file.read_text() if file else environ.get(REGISTRATION_TOKEN, "")).strip()
        if not token:
            raise SettingsError(
                f"this device is not registered; set {REGISTRATION_TOKEN} or --token-file to a "
                "one-time token (model-delivery-localcloud device-token THING)"
            )
        return token

    return read


if __name__ == "__main__":
    sys.exit(main())
