"""Publish a batch's results in storage, once and whole."""

import json
from collections.abc import Mapping
from typing import Any

from model_delivery_engine.batch.budget import ErrorBudget
from model_delivery_engine.batch.formats import Compression, OutputFormat
from model_delivery_engine.batch.manifest import ResultsManifest
from model_delivery_engine.batch.merge import (
    delete_parts,
    publish,
    read_journals,
    result_suffix,
)
from model_delivery_engine.batch.planning import positions
from model_delivery_engine.errors import EngineError

from model_delivery.exceptions import DeliveryRefusedError
from model_delivery.hooks.storage import StorageHook
from model_delivery.xcom import VERSION, MergedResults


def publish_results(
    storage: StorageHook,
    output_uri: str,
    shard: Mapping[str, Any],
    count: int,
    budget: ErrorBudget,
    output_format: str,
    output_compression: str,
    *,
    keep_parts: bool,
) -> MergedResults:
    """Merge a job's shards.

    Publishing again, when the parts are deleted already, finds what was published.

    :param shard: any of the job's shards, for its input.
    :param count: the job's shards.
    :param keep_parts: whether the working folder stays.
    """
    prefix = output_uri.rstrip("/")
    folder, manifest_uri = f"{prefix}/_parts", f"{prefix}/manifest.json"
    form, packed = OutputFormat(output_format), Compression(output_compression)
    results = f"{prefix}/results{result_suffix(form, packed)}"
    errors = f"{prefix}/errors{result_suffix(OutputFormat.JSONL, packed)}"
    if not _has_parts(storage, folder) and storage.exists(manifest_uri):
        counts = json.loads(storage.read_bytes(manifest_uri))
        return _merged(results, errors, manifest_uri, counts)
    storage.delete(manifest_uri)
    try:
        manifest: ResultsManifest = publish(
            storage, folder, read_journals(storage, folder, count),
            input_uri=shard["uri"],
            input_size=positions(storage, shard["uri"], shard["input_format"]),
            results_uri=results, errors_uri=errors, budget=budget, output_format=form,
        )  # fmt: skip
    except EngineError as error:
        raise DeliveryRefusedError(str(error)) from error
    text = manifest.to_json()
    storage.write_bytes(manifest_uri, text.encode())
    if not keep_parts:
        delete_parts(storage, folder)
    return _merged(results, errors, manifest_uri, json.loads(text))


def _has_parts(storage: StorageHook, folder: str) -> bool:
    return next(iter(storage.list(f"{folder}/")), None) is not None


def _merged(results: str, errors: str, manifest: str, counts: Mapping[str, Any]) -> MergedResults:
    return {
        "version": VERSION,
        "output_uri": results,
        "errors_uri": errors,
        "manifest_uri": manifest,
        "records": counts["records"],
        "ok": counts["ok"],
        "errors": counts["errors"],
        "skipped": counts["skipped"],
    }
