"""What operators that work on objects share."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from model_delivery.aws import AWS_TEMPLATE_FIELDS, AwsConnected

if TYPE_CHECKING:
    from model_delivery.hooks.storage import StorageHook


class StorageConnected(BaseOperator):
    """An operator with the connections of the stores.

    :param aws_conn_id: connection of `s3://` URIs. (default: "aws_default")
    :param wasb_conn_id: connection of Azure Blob URIs. (default: "wasb_default")
    """

    template_fields: Sequence[str] = ("aws_conn_id", "wasb_conn_id")

    def __init__(
        self,
        *,
        aws_conn_id: str = "aws_default",
        wasb_conn_id: str = "wasb_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.aws_conn_id = aws_conn_id
        self.wasb_conn_id = wasb_conn_id

    def _storage(self) -> "StorageHook":
        from model_delivery.hooks.storage import StorageHook

        return StorageHook(self.aws_conn_id, self.wasb_conn_id)


class AwsAndStorageConnected(AwsConnected):
    """An operator that calls an AWS service and works on objects: one connection for both.

    :param wasb_conn_id: connection of Azure Blob URIs. (default: "wasb_default")
    """

    template_fields: Sequence[str] = (*AWS_TEMPLATE_FIELDS, "wasb_conn_id")

    def __init__(self, *, wasb_conn_id: str = "wasb_default", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.wasb_conn_id = wasb_conn_id

    def _storage(self) -> "StorageHook":
        from model_delivery.hooks.storage import StorageHook

        return StorageHook(self.aws_conn_id or "aws_default", self.wasb_conn_id)
