"""Batch inference inside Airflow's workers: plan shards, run each, publish, retry what failed.

Objects below `output_uri`: `_parts/` with what shards have done so far, then `results.jsonl` (or
`.parquet`), `errors.jsonl`, and `manifest.json` last: results without a manifest are not finished.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import Context

from model_delivery.exceptions import DeliveryError, DeliveryRefusedError, InvalidRequestError
from model_delivery.lineage import Lineage, ReportsLineage
from model_delivery.storage_connected import StorageConnected
from model_delivery.templated import number, whole_number, word
from model_delivery.xcom import VERSION, MergedResults, PlannedShard, ShardOutput

if TYPE_CHECKING:
    from model_delivery_engine.batch.budget import ErrorBudget
    from model_delivery_engine.batch.pipeline import BatchOptions, ShardResult
    from model_delivery_engine.manifest import Manifest

    from model_delivery.hooks.storage import StorageHook


class PlanShardsOperator(StorageConnected):
    """Cuts an object into ranges on record boundaries: bytes, or rows of Parquet.

    :param input_uri: the object; or a folder of images, which ends in a slash.
    :param shards: shards wanted, 1 to Airflow's `max_map_length`. A compressed object is one.
    :param input_format: jsonl, csv, parquet, raw or images. (default: by the object's name)
    :param record_bytes: size of one record, for raw.
    :param listing_uri: where the listing of a folder of images is written, `.jsonl`.
    """

    template_fields: Sequence[str] = (
        *StorageConnected.template_fields, "input_uri", "shards", "input_format", "record_bytes",
        "listing_uri",
    )  # fmt: skip

    def __init__(
        self,
        *,
        input_uri: str,
        shards: int | str,
        input_format: str | None = None,
        record_bytes: int | str | None = None,
        listing_uri: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.input_uri = input_uri
        self.shards = shards
        self.input_format = input_format
        self.record_bytes = record_bytes
        self.listing_uri = listing_uri

    def execute(self, context: Context) -> list[PlannedShard]:
        """Read only what lies at the cuts."""
        from model_delivery_engine.batch.formats import encoding_of
        from model_delivery_engine.batch.planning import plan
        from model_delivery_engine.errors import EngineError

        count, storage = _shard_count(self.shards), self._storage()
        uri = self._listing(storage) if self.input_uri.endswith("/") else self.input_uri
        stat = storage.stat(uri)
        if not stat.size:
            raise InvalidRequestError(f"{self.input_uri} is empty: there is nothing to infer")
        size = whole_number("record_bytes", self.record_bytes)
        try:
            encoding = encoding_of(uri, self.input_format)
            shards = plan(storage, uri, count, input_format=self.input_format, record_bytes=size)
        except EngineError as error:
            raise InvalidRequestError(str(error)) from error
        if not shards:  # Parquet of no rows
            raise InvalidRequestError(f"{uri} has no records: there is nothing to infer")
        self.log.info("%s: %d bytes in %d shards", uri, stat.size, len(shards))
        form, etag = str(encoding.format), stat.etag
        return [
            PlannedShard(version=VERSION, **shard, input_format=form, etag=etag, shards=len(shards))
            for shard in shards
        ]

    def _listing(self, storage: "StorageHook") -> str:
        from model_delivery_engine.batch.images import list_objects

        if self.listing_uri is None or self.input_format != "images":
            raise InvalidRequestError(
                f"{self.input_uri} is a folder: say input_format='images' and the listing_uri "
                "where its listing is written"
            )
        objects = storage.list(self.input_uri)
        listing = list_objects(each for each in objects if each.uri != self.listing_uri)
        storage.write_if_changed(self.listing_uri, listing)
        return self.listing_uri


def _shard_count(shards: int | str) -> int:
    from airflow.configuration import conf

    count, most = (
        whole_number("shards", shards),
        conf.getint("core", "max_map_length", fallback=1024),
    )
    if count is None or not 1 <= count <= most:
        raise InvalidRequestError(f"shards is {shards}: give 1 to {most} (core.max_map_length)")
    return count


class _Asking(StorageConnected):
    """Shared by what runs records: how they are run, and how many may fail.

    :param bundle_uri: URI of the bundle.
    :param output_uri: prefix of the results.
    :param batch_size: records in one run of the model. (default: measured once a shard)
    :param input_fields: model input by record field. (default: fields are named as inputs)
    :param missing: what null, an empty cell, NaN and texts for them are to an input of floats: nan,
        or an error of the record. (default: nan for a model of XGBoost, else an error)
    :param num_results: recommendations a record, for a recommender's bundle, 1 to 500. (default:
        25; of a ranking the whole list)
    :param output_format: jsonl or parquet. (default: jsonl)
    :param output_compression: of jsonl: none, gzip or zstd. (default: none)
    :param max_errors: records that may fail in the whole job. (default: any number)
    :param max_error_percent: share of the job's records that may fail, held by the task that ends
        last. (default: any)
    :param early_abort_records: records after which a job is given up, of which too many failed.
        (default: never)
    :param early_abort_percent: that is this share of them or more, 0 to 100. (default: 50)
    :param processes: processes of one task, each with a model of its own. (default: the cores that
        the task may use, by its affinity and its container's CPU limit; where several tasks run on
        a worker at a time, give 1, or hold them to one: `max_active_tis_per_dag`, or a pool)
    """

    template_fields: Sequence[str] = (
        *StorageConnected.template_fields, "bundle_uri", "output_uri", "input_fields",
        "batch_size", "num_results", "max_errors", "max_error_percent", "early_abort_records",
        "early_abort_percent",
    )  # fmt: skip
    _stop: threading.Event | None = None

    def __init__(
        self,
        *,
        bundle_uri: str,
        output_uri: str,
        batch_size: int | str | None = None,
        input_fields: Mapping[str, str] | None = None,
        missing: str | None = None,
        num_results: int | str | None = None,
        output_format: str = "jsonl",
        output_compression: str = "none",
        max_errors: int | str | None = None,
        max_error_percent: float | str | None = None,
        early_abort_records: int | str | None = None,
        early_abort_percent: float | str = 50,
        processes: int | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.bundle_uri = bundle_uri
        self.output_uri = output_uri
        self.batch_size = batch_size
        self.input_fields = input_fields
        self.missing = missing
        self.num_results = num_results
        self.output_format = output_format
        self.output_compression = output_compression
        self.max_errors = max_errors
        self.max_error_percent = max_error_percent
        self.early_abort_records = early_abort_records
        self.early_abort_percent = early_abort_percent
        self.processes = processes

    def on_kill(self) -> None:
        """End the processes; the parts that are done are noted, and a retry goes on after them."""
        if self._stop is not None:
            self._stop.set()

    def _options(self, input_format: str, manifest: "Manifest") -> "BatchOptions":
        from model_delivery_engine.batch.formats import Compression, OutputFormat
        from model_delivery_engine.batch.pipeline import BatchOptions
        from model_delivery_engine.batch.recipes import is_recommender
        from model_delivery_engine.batch.recommend import Recommendations
        from model_delivery_engine.batch.records import Missing

        results = whole_number("num_results", self.num_results)
        recommends = results is not None or is_recommender(manifest)
        return BatchOptions(
            batch_size=whole_number("batch_size", self.batch_size),
            input_format=input_format,
            input_fields=self.input_fields,
            missing=None if self.missing is None else word("missing", self.missing, Missing),
            output_format=word("output_format", self.output_format, OutputFormat),
            output_compression=word("output_compression", self.output_compression, Compression),
            recommendations=Recommendations(results) if recommends else None,
        )

    def _run(self, shard: Mapping[str, Any]) -> tuple["ShardResult", str]:
        """Run a shard; return its counts and the model's digest."""
        from model_delivery_engine.batch.pipeline import ShardJob, run_shard
        from model_delivery_engine.batch.shards import Shard
        from model_delivery_engine.errors import (
            DiskFullError,
            EngineError,
            ShortageError,
            StoppedError,
        )

        from model_delivery.hooks.bundle import fetched_bundle

        storage = self._storage()
        planned = Shard(index=shard["index"], uri=shard["uri"], start=shard["start"],
                        end=shard["end"])  # fmt: skip
        budget = error_budget(
            self.max_errors, self.max_error_percent, self.early_abort_records,
            self.early_abort_percent,
        )  # fmt: skip
        try:
            with fetched_bundle(self.bundle_uri, storage) as (bundle, _digest):
                job = ShardJob(
                    planned, bundle, parts_folder(self.output_uri),
                    self._options(shard["input_format"], bundle.manifest), shard["etag"], budget,
                    whole_number("processes", self.processes), shard.get("shards"),
                )  # fmt: skip
                self._stop = threading.Event()
                result = run_shard(job, storage, self.log.info, self._stop)
        except (StoppedError, DiskFullError, ShortageError) as error:
            raise DeliveryError(str(error)) from error  # a retry goes on
        except EngineError as error:
            raise DeliveryRefusedError(str(error)) from error
        return result, bundle.manifest.model_digest


class BatchInferenceOperator(ReportsLineage, _Asking):
    """Runs one shard through a bundle; map it over the shards of `PlanShardsOperator`.

    A retry, on whatever worker, goes on where the try before it stopped. Results differ in no byte.

    :param shard: the shard.
    """

    template_fields: Sequence[str] = (*_Asking.template_fields, "shard")

    def __init__(self, *, shard: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shard = shard

    def _folder(self) -> str:
        return f"{parts_folder(self.output_uri)}/shard-{self.shard['index']:05d}"

    def lineage(self) -> Lineage:
        """Bundle and records in, the shard's parts out."""
        return Lineage([self.bundle_uri, self.shard["uri"]], [self._folder()])

    def execute(self, context: Context) -> ShardOutput:
        """Stream the shard in, and its answers out, part by part."""
        result, model_digest = self._run(self.shard)
        return {
            "version": VERSION,
            "shard": dict(self.shard),
            "output_uri": self._folder(),
            "model_digest": model_digest,
            "records": result.records,
            "ok": result.ok,
            "errors": result.errors,
            "skipped": result.skipped,
        }


class MergeResultsOperator(StorageConnected):
    """Puts the shards' parts together, in order, and proves that no record is lost or doubled.

    :param parts: what the mapped `BatchInferenceOperator` returned.
    :param output_uri: prefix of the results.
    :param output_format: what the shards are expected to have written. (default: whatever)
    :param output_compression: likewise. (default: whatever)
    :param max_errors: records that may fail in the whole job. (default: any number)
    :param max_error_percent: share of the job's records that may fail. (default: any)
    :param keep_parts: whether `_parts/` stays. (default: False)
    """

    template_fields: Sequence[str] = (
        *StorageConnected.template_fields, "parts", "output_uri", "max_errors", "max_error_percent",
    )  # fmt: skip

    def __init__(
        self,
        *,
        parts: Iterable[Mapping[str, Any]],
        output_uri: str,
        output_format: str | None = None,
        output_compression: str | None = None,
        max_errors: int | str | None = None,
        max_error_percent: float | str | None = None,
        keep_parts: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.parts = parts
        self.output_uri = output_uri
        self.output_format = output_format
        self.output_compression = output_compression
        self.max_errors = max_errors
        self.max_error_percent = max_error_percent
        self.keep_parts = keep_parts

    def execute(self, context: Context) -> MergedResults:
        """Write results, then errors, then the manifest that makes them valid."""
        from model_delivery.hooks.batch_results import publish_results

        parts = list(self.parts)
        if not parts:
            raise InvalidRequestError("there are no shards to merge: plan and run them first")
        budget = error_budget(self.max_errors, self.max_error_percent)
        merged = publish_results(
            self._storage(), self.output_uri, parts[0]["shard"], len(parts), budget,
            self.output_format, self.output_compression, keep_parts=self.keep_parts,
        )  # fmt: skip
        self.log.info("%(output_uri)s: %(records)d records, %(errors)d errors", merged)
        return merged


class RetryFailedRecordsOperator(_Asking):
    """Runs the records of an error file again, perhaps after a correction of it, and publishes.

    Records that fail again name the object and offset that they came from at first. The results lie
    below an `output_uri` of their own: one that has the error file below it, or the results that
    the file is of, is refused.

    :param errors_uri: `errors.jsonl` of a batch.
    :param input_format: images where the batch was one of images. (default: jsonl)
    """

    template_fields: Sequence[str] = (*_Asking.template_fields, "errors_uri", "input_format")

    def __init__(self, *, errors_uri: str, input_format: str = "jsonl", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.errors_uri = errors_uri
        self.input_format = input_format

    def execute(self, context: Context) -> MergedResults:
        """Run all of it as one shard."""
        from model_delivery.hooks.batch_results import are_results_of, publish_results

        storage = self._storage()
        if are_results_of(storage, self.output_uri, self.errors_uri):
            raise InvalidRequestError(
                f"{self.errors_uri} is of the batch whose results are below {self.output_uri}, "
                "which the few that are retried would replace: give an output_uri of its own"
            )
        stat = storage.stat(self.errors_uri)
        shard = {"index": 0, "uri": self.errors_uri, "start": 0, "end": stat.size,
                 "etag": stat.etag, "input_format": self.input_format, "shards": 1}  # fmt: skip
        self._run(shard)
        merged = publish_results(
            storage, self.output_uri, shard, 1,
            error_budget(self.max_errors, self.max_error_percent), self.output_format,
            self.output_compression, keep_parts=False,
        )  # fmt: skip
        self.log.info("%(ok)d of %(records)d failed records are answered now", merged)
        return merged


def parts_folder(output_uri: str) -> str:
    """Return where a job's shards lie."""
    return f"{output_uri.rstrip('/')}/_parts"


def error_budget(
    max_errors: int | str | None,
    max_error_percent: float | str | None,
    early_records: int | str | None = None,
    early_percent: float | str | None = None,
) -> "ErrorBudget":
    """Return the budget of templated values; InvalidRequestError for what is none."""
    from model_delivery_engine.batch.budget import ErrorBudget
    from model_delivery_engine.errors import EngineError

    percent = number("early_abort_percent", early_percent)
    try:
        return ErrorBudget(
            whole_number("max_errors", max_errors),
            number("max_error_percent", max_error_percent),
            whole_number("early_abort_records", early_records),
            50.0 if percent is None else percent,
        )
    except EngineError as error:
        raise InvalidRequestError(str(error)) from error
