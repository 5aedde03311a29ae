"""The command line: `model-delivery-localcloud migrate | serve | work | …`."""

import argparse
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence

import uvicorn
from model_delivery_engine.batch.recipes import Recipe
from model_delivery_engine.cores import usable_cores
from sqlalchemy.exc import OperationalError

from model_delivery_localcloud.app import create_app
from model_delivery_localcloud.edge.messages import THING_NAME
from model_delivery_localcloud.edge.releases import ReleaseKey
from model_delivery_localcloud.errors import LocalcloudError, SettingsError
from model_delivery_localcloud.objects import ObjectStore
from model_delivery_localcloud.portal.access_log import WithoutGrants
from model_delivery_localcloud.protocol.messages import Caller
from model_delivery_localcloud.services.solution_versions import Registration, register
from model_delivery_localcloud.settings import Settings
from model_delivery_localcloud.store.access_keys import add_access_key
from model_delivery_localcloud.store.database import BUSY, Database, is_busy
from model_delivery_localcloud.store.devices import make_registration_token
from model_delivery_localcloud.store.sealing import Sealer
from model_delivery_localcloud.store.users import Role, add_user, remove_user
from model_delivery_localcloud.workers.deployments import DeploymentKeeper
from model_delivery_localcloud.workers.reviews import ReviewKeeper
from model_delivery_localcloud.workers.worker import LEASE_SECONDS, Worker

SECRET_VARIABLE = "LOCALCLOUD_ACCESS_KEY_SECRET"
PASSWORD_VARIABLE = "LOCALCLOUD_USER_PASSWORD"
DEFAULT_ACCOUNT = "000000000000"
DEFAULT_REGION = "us-east-1"
SHORTEST_ACCESS_SECRET = 16
SHORTEST_PASSWORD = 12

Command = Callable[[Settings, argparse.Namespace], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; an error of ours is one line on standard error and exit code 1."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # Alembic and boto3 tell at INFO what no operator needs.
    for name in ("alembic", "botocore", "boto3"):
        logging.getLogger(name).setLevel(logging.WARNING)
    command: Command = arguments.command
    try:
        command(Settings.from_environment(), arguments)
    except LocalcloudError as error:
        return _fail(str(error))
    except OperationalError as error:
        if not is_busy(error):
            raise
        return _fail(BUSY)
    return 0


def _fail(why: str) -> int:
    print(f"model-delivery-localcloud: {why}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="model-delivery-localcloud", description="The embedded cloud of model-delivery."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add(commands, "migrate", _migrate, "create or update the database tables")
    serve = _add(commands, "serve", _serve, "answer requests")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    serve.add_argument("--port", type=int, required=True, help="port to listen on")
    work = _add(commands, "work", _work, "do the queued jobs")
    work.add_argument(
        "--concurrency",
        type=int,
        default=usable_cores(),
        help="jobs at a time (the cores that it may use: %(default)s)",
    )
    work.add_argument(
        "--lease-seconds",
        type=float,
        default=LEASE_SECONDS,
        help="how long a dead worker's job stays its own (%(default)s)",
    )
    keys = _group(commands, "access-key", "keys that may sign requests")
    key = _add(keys, "add", _add_access_key, f"secret from {SECRET_VARIABLE} or standard input")
    key.add_argument("--id", required=True, help="the access key id")
    key.add_argument("--account", default=DEFAULT_ACCOUNT, help="12 digits (%(default)s)")
    key.add_argument(
        "--region", action="append", default=[], help="allow this region only; repeatable"
    )
    versions = _group(commands, "solution-version", "Personalize's solution versions")
    version = _add(
        versions, "register", _register, "register a recommender's bundle; prints the ARN"
    )
    version.add_argument("--solution", required=True, help="name of the solution")
    version.add_argument("--recipe", required=True, choices=list(Recipe), help="what it answers")
    version.add_argument("--bundle", required=True, metavar="URI", help="s3:// URI of the bundle")
    version.add_argument("--items", metavar="URI", help="s3:// URI of a CSV for filters")
    version.add_argument("--dataset-group", help="whose filters apply (the solution's name)")
    version.add_argument("--account", default=DEFAULT_ACCOUNT, help="12 digits (%(default)s)")
    version.add_argument("--region", default=DEFAULT_REGION, help="(%(default)s)")
    users = _group(commands, "user", "people who may sign in")
    gone = _add(users, "remove", _remove_user, "sign a person out for good; their answers stay")
    gone.add_argument("name", help="the name they sign in with")
    user = _add(users, "add", _add_user, f"password from {PASSWORD_VARIABLE} or standard input")
    user.add_argument("name", help="the name to sign in with")
    user.add_argument(
        "--role",
        type=Role,
        choices=list(Role),
        default=Role.ADMIN,
        help="what the person may see (%(default)s)",
    )
    user.add_argument(
        "--group", action="append", default=[], help="a group that work teams name; repeatable"
    )
    releases = _group(commands, "release-key", "the key that signs what devices run")
    _add(releases, "show", _show_release_key, "print the public key that devices pin")
    _add(releases, "rotate", _rotate_release_key, "replace the key; devices follow by themselves")
    token = _add(
        commands, "device-token", _device_token, "print a token that registers a device once"
    )
    token.add_argument("thing", help="the device's thing name")
    token.add_argument("--account", default=DEFAULT_ACCOUNT, help="12 digits (%(default)s)")
    token.add_argument("--region", default=DEFAULT_REGION, help="(%(default)s)")
    return parser


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    command: Command,
    text: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(command=command)
    return parser


def _group(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str
) -> "argparse._SubParsersAction[argparse.ArgumentParser]":
    return commands.add_parser(name, help=text).add_subparsers(required=True, metavar="COMMAND")


def _migrate(settings: Settings, _arguments: argparse.Namespace) -> None:
    print(f"database at revision {_database(settings).migrate()}")


SWITCH_SECONDS = 0.0005


def _serve(settings: Settings, arguments: argparse.Namespace) -> None:
    logging.getLogger("uvicorn.access").addFilter(WithoutGrants())
    app = create_app(settings)
    # What is here now stays: a full collection that looked at it stopped every request for 0.2 s.
    gc.collect()
    gc.freeze()
    # Whoever waits for a database gives the interpreter away at each answer, with rows locked, and
    # by default has it back up to 5 ms later.
    sys.setswitchinterval(SWITCH_SECONDS)
    uvicorn.run(
        app,
        host=arguments.host,
        port=arguments.port,
        log_config=None,
        timeout_graceful_shutdown=2,
        server_header=False,
    )


def _work(settings: Settings, arguments: argparse.Namespace) -> None:
    database = _migrated(settings)
    objects = ObjectStore(settings)
    worker = Worker(database, objects, arguments.concurrency, arguments.lease_seconds)
    reviews = ReviewKeeper(database, objects, settings)
    deployments = DeploymentKeeper(database)

    def leave(_number: int, _frame: object) -> None:
        reviews.leave()
        deployments.leave()
        worker.leave()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    with reviews.running(), deployments.running():
        worker.run()


def _add_access_key(settings: Settings, arguments: argparse.Namespace) -> None:
    _check_account(arguments.account)
    secret = _secret(SECRET_VARIABLE, "secret access key", SHORTEST_ACCESS_SECRET)
    sealer = Sealer(settings.secret_key)
    with _migrated(settings).write() as session:
        add_access_key(session, sealer, arguments.id, secret, arguments.account, arguments.region)
    print(f"access key {arguments.id} added for account {arguments.account}")


def _add_user(settings: Settings, arguments: argparse.Namespace) -> None:
    password = _secret(PASSWORD_VARIABLE, "password", SHORTEST_PASSWORD)
    with _migrated(settings).write() as session:
        add_user(session, arguments.name, password, arguments.role, arguments.group)
    print(f"{arguments.role} {arguments.name} added")


def _remove_user(settings: Settings, arguments: argparse.Namespace) -> None:
    with _migrated(settings).write() as session:
        if not remove_user(session, arguments.name):
            raise SettingsError(f"there is no user {arguments.name!r}")
    print(f"{arguments.name} removed")


def _device_token(settings: Settings, arguments: argparse.Namespace) -> None:
    _check_account(arguments.account)
    if not THING_NAME.fullmatch(arguments.thing):
        raise SettingsError(f"{arguments.thing!r} is not a thing name: {THING_NAME.pattern}")
    with _migrated(settings).write() as session:
        print(
            make_registration_token(session, arguments.account, arguments.region, arguments.thing)
        )


def _show_release_key(settings: Settings, _arguments: argparse.Namespace) -> None:
    print(ReleaseKey(settings.home).public)


def _rotate_release_key(settings: Settings, _arguments: argparse.Namespace) -> None:
    print(ReleaseKey(settings.home).rotate())


def _register(settings: Settings, arguments: argparse.Namespace) -> None:
    _check_account(arguments.account)
    wanted = Registration(
        arguments.solution, arguments.recipe, arguments.bundle, arguments.items,
        arguments.dataset_group,
    )  # fmt: skip
    caller = Caller(arguments.account, arguments.region, "command-line")
    print(register(_migrated(settings), ObjectStore(settings), caller, wanted))


def _check_account(account: str) -> None:
    if not (account.isdigit() and len(account) == 12):
        raise SettingsError(f"--account must be 12 digits, got {account}")


def _migrated(settings: Settings) -> Database:
    database = _database(settings)
    database.check()
    return database


def _database(settings: Settings) -> Database:
    return Database(settings.database_url, settings.database_lock_seconds)


def _secret(variable: str, what: str, shortest: int) -> str:
    value = os.environ.get(variable) or sys.stdin.readline().rstrip("\r\n")
    if len(value) < shortest:
        raise SettingsError(
            f"the {what} must have at least {shortest} characters; "
            f"give it in {variable} or on standard input"
        )
    return value
