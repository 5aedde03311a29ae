"""The base of hooks over one AWS service, whose model a process reads once.

A session of boto3's reads the model of each service anew; SageMaker's takes 0.2 s of processor
time, most of what a short task takes.
"""

import asyncio
import gzip
import json
import sys
from inspect import isawaitable, iscoroutinefunction
from pathlib import Path
from types import FrameType
from typing import Any

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.sdk import BaseOperator
from botocore.loaders import JSONFileLoader

from model_delivery.jobs.collector import paused, spare

_loaders: dict[str | None, Any] = {}


class AwsServiceHook(AwsBaseHook):
    """Hook over the boto3 client of `service`.

    Takes the parameters of `AwsBaseHook` other than `client_type` and `resource_type`.
    """

    service: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "client_type": self.service})

    def get_session(self, region_name: str | None = None, deferrable: bool = False) -> Any:
        """Return the connection's session; the amazon provider shares asynchronous ones' models."""
        session = super().get_session(region_name, deferrable)
        if deferrable:
            refresh_in_threads(session)
        else:
            share_models(session)
        return session

    def _get_caller(self, target_function_name: str = "execute") -> str:
        """Name the operator, for the user agent.

        The amazon provider reads the source of each function on the stack for that, 0.1 s of
        processor time in a process that has just begun.
        """
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            caller = frame.f_locals.get("self")
            if isinstance(caller, BaseOperator):
                return type(caller).__name__
            frame = frame.f_back
        return "Unknown"


def refresh_in_threads(session: Any) -> None:
    """Keep the refresh of an assumed role's keys off the event loop.

    The amazon provider gives aiobotocore a function that asks STS and waits; aiobotocore takes one
    that is awaited as well.

    :param session: an `aiobotocore.session.AioSession`.
    """
    credentials = session._credentials
    refresh = getattr(credentials, "_refresh_using", None)
    if refresh is None or iscoroutinefunction(refresh):
        return

    async def refreshed() -> Any:
        found = await asyncio.to_thread(refresh)
        return await found if isawaitable(found) else found

    credentials._refresh_using = refreshed


class ModelLoader(JSONFileLoader):
    """Reads files of models into plain dictionaries, which are ordered as botocore's own are.

    SageMaker's model is 2.5 MB of text. An `OrderedDict` of each object takes twice the time to
    make, and garbage collections on the way twice that again.
    """

    def load_file(self, file_path: str) -> Any:
        """Return what a file holds, given without its ending; None where there is none."""
        plain, packed = Path(f"{file_path}.json"), Path(f"{file_path}.json.gz")
        if plain.is_file():
            text = plain.read_bytes()
        elif packed.is_file():
            text = gzip.decompress(packed.read_bytes())
        else:
            return None
        with paused():
            model = json.loads(text)
        spare(file_path)
        return model


def share_models(session: Any) -> None:
    """Give a boto3 session what the process's sessions have read of services' models.

    :param session: a `boto3.session.Session`; those that read models elsewhere (AWS_DATA_PATH, or
        `data_path` of a profile) share among themselves.
    """
    core = session._session
    place = core.get_config_variable("data_path")
    own = core.get_component("data_loader")
    own.file_loader = ModelLoader()
    core.register_component("data_loader", _loaders.setdefault(place, own))
