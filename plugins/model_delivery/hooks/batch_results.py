"""Publish a batch's results in storage, once and whole."""

from collections.abc import Mapping
from typing import Any

from model_delivery_engine.batch.budget import ErrorBudget
from model_delivery_engine.batch.formats import Compression, OutputFormat
from model_delivery_engine.batch.merge import (
    Destination,
    are_error_lines_of,
    delete_parts,
    publish_once,
)
from model_delivery_engine.errors import EngineError

from model_delivery.exceptions import DeliveryRefusedError
from model_delivery.hooks.storage import StorageHook
from model_delivery.templated import word
from model_delivery.xcom import VERSION, MergedResults


def are_results_of(storage: StorageHook, output_uri: str, errors_uri: str) -> bool:
    """Whether error lines lie below a batch's output, or are those of the results there."""
    prefix = output_uri.rstrip("/")
    return errors_uri.startswith(f"{prefix}/") or are_error_lines_of(
        storage, errors_uri, f"{prefix}/manifest.json"
    )


def publish_results(
    storage: StorageHook,
    output_uri: str,
    shard: Mapping[str, Any],
    count: int,
    budget: ErrorBudget,
    output_format: str | None,
    output_compression: str | None,
    *,
    keep_parts: bool,
) -> MergedResults:
    """Merge a job's shards.

    :param shard: any of the job's shards, for its input.
    :param count: the job's shards.
    :param output_format: what they are expected to have written. (default: whatever)
    :param output_compression: likewise.
    :param keep_parts: whether the working folder stays.
    """
    prefix = output_uri.rstrip("/")
    folder = f"{prefix}/_parts"
    form = output_format and word("output_format", output_format, OutputFormat)
    packed = output_compression and word("output_compression", output_compression, Compression)
    destination = Destination(
        f"{prefix}/results", f"{prefix}/errors", f"{prefix}/manifest.json", suffixed=True
    )
    try:
        counts = publish_once(
            storage, folder, count, destination,
            input_uri=shard["uri"], input_format=shard["input_format"], budget=budget,
            output_format=form or None, output_compression=packed or None,
        )  # fmt: skip
    except EngineError as error:
        raise DeliveryRefusedError(str(error)) from error
    if not keep_parts:
        delete_parts(storage, folder)
    places = destination.of(counts["output_format"], counts["output_compression"])
    return {
        "version": VERSION,
        "output_uri": places.results_uri,
        "errors_uri": places.errors_uri,
        "manifest_uri": places.manifest_uri,
        "records": counts["records"],
        "ok": counts["ok"],
        "errors": counts["errors"],
        "skipped": counts["skipped"],
    }
