"""What every AWS operator, sensor and trigger of ours shares: the connection, and a lazy hook.

The amazon provider's own base classes import boto3 when they are imported (0.36 s), which a DAG
file would pay at each parse; these take the same four parameters and import the hook when used.
"""

import json
from abc import abstractmethod
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from importlib import import_module
from typing import Any

from airflow.sdk import BaseOperator

AWS_TEMPLATE_FIELDS = ("aws_conn_id", "region_name", "verify")


def import_string(path: str) -> Any:
    """Import `package.module.Name`."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


class AwsConnected(BaseOperator):
    """An operator or sensor with the four parameters of an AWS connection.

    An operator class, no mere mixin: only such a one's parameters are taken from `default_args`
    and accepted by `partial`.

    :param aws_conn_id: Airflow connection; None takes boto3's own default chain.
    :param region_name: region; the connection's by default.
    :param verify: TLS verification, or the path of a CA bundle; the connection's by default.
    :param botocore_config: keyword arguments of botocore's `Config`.
    """

    def __init__(
        self,
        *,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        verify: bool | str | None = None,
        botocore_config: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        self.verify = verify
        self.botocore_config = botocore_config

    @property
    @abstractmethod
    def hook_path(self) -> str:
        """Path of the hook's class."""

    @property
    def connection_settings(self) -> dict[str, Any]:
        """The four parameters, as a trigger serialises them."""
        return {
            "aws_conn_id": self.aws_conn_id,
            "region_name": self.region_name,
            "verify": self.verify,
            "botocore_config": self.botocore_config,
        }

    @cached_property
    def hook(self) -> Any:
        """The hook, opened with this connection."""
        return self.open_hook()

    def open_hook(self) -> Any:
        """Open the hook anew: the connection is looked up again."""
        return open_hook(self.hook_path, self.connection_settings)


def as_line(answer: Mapping[str, Any]) -> bytes:
    """Return a part of a service's answer as a line of JSON, its times as ISO 8601."""
    return json.dumps(answer, default=_as_text).encode() + b"\n"


def _as_text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def open_hook(hook_path: str, settings: dict[str, Any]) -> Any:
    """Return a hook by its path, with the four parameters of a connection."""
    return import_string(hook_path)(
        aws_conn_id=settings["aws_conn_id"],
        region_name=settings["region_name"],
        verify=settings["verify"],
        config=settings["botocore_config"],
    )


def service_client(hook: Any, *, deferrable: bool = False) -> Any:
    """Return an AWS hook's client that sends each request once (with `deferrable`, its context).

    One retry mechanism: ours, which looks before it repeats, and which in a triggerer counts each
    request against the account's rate. botocore would repeat a create call blindly.
    """
    from botocore.config import Config

    config = hook.config.merge(Config(retries={"total_max_attempts": 1}))
    return hook.get_client_type(region_name=hook.region_name, config=config, deferrable=deferrable)
