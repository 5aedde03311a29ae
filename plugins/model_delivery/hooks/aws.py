"""The base of hooks over one AWS service, whose model a process reads once.

A session of boto3's reads the model of each service anew; SageMaker's takes 0.2 s of processor
time, most of what a short task takes.
"""

from typing import Any

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook

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
        if not deferrable:
            share_models(session)
        return session


def share_models(session: Any) -> None:
    """Give a boto3 session what the process's sessions have read of services' models.

    :param session: a `boto3.session.Session`; those that read models elsewhere (AWS_DATA_PATH, or
        `data_path` of a profile) share among themselves.
    """
    core = session._session
    place = core.get_config_variable("data_path")
    own = core.get_component("data_loader")
    core.register_component("data_loader", _loaders.setdefault(place, own))
