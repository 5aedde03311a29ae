"""Copy objects between stores."""

from collections.abc import Sequence
from typing import Any

from airflow.sdk import BaseOperator, Context

from model_delivery.xcom import VERSION, CopiedObjects


class CopyObjectsOperator(BaseOperator):
    """Copies objects, also from one kind of store to another.

    Each object appears at its target whole or not at all; a retry copies again.

    :param copies: pairs of (source URI, target URI).
    :param aws_conn_id: connection of `s3://` URIs.
    :param wasb_conn_id: connection of Azure Blob URIs.
    """

    template_fields: Sequence[str] = ("copies", "aws_conn_id", "wasb_conn_id")

    def __init__(
        self,
        *,
        copies: Sequence[tuple[str, str]],
        aws_conn_id: str = "aws_default",
        wasb_conn_id: str = "wasb_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.copies = copies
        self.aws_conn_id = aws_conn_id
        self.wasb_conn_id = wasb_conn_id

    def execute(self, context: Context) -> CopiedObjects:
        """Look at every source first, so that a missing one leaves nothing half copied."""
        from model_delivery.hooks.storage import StorageHook

        storage = StorageHook(self.aws_conn_id, self.wasb_conn_id)
        copies = [(source.strip(), target.strip()) for source, target in self.copies]
        for source, _target in copies:
            storage.stat(source)
        total = 0
        for source, target in copies:
            size = storage.copy(source, target)
            self.log.info("Copied %s to %s (%d bytes)", source, target, size)
            total += size
        return {
            "version": VERSION,
            "objects": len(copies),
            "bytes": total,
            "output_uris": [target for _source, target in copies],
        }
