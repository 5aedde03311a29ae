"""Batch inference inside Airflow's workers: plan shards, run each, merge, and gate on the answers.

Objects below `output_uri`: `_parts/part-00000.jsonl` of each shard, then `results.jsonl`,
`errors.jsonl`, and `manifest.json` last: results without a manifest are not finished.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, Context

from model_delivery.exceptions import DeliveryRefusedError, GateClosedError, InvalidRequestError
from model_delivery.lineage import Lineage, ReportsLineage
from model_delivery.xcom import VERSION, GateVerdict, MergedResults, PlannedShard, ShardOutput

if TYPE_CHECKING:
    from model_delivery.hooks.storage import StorageHook

MAX_SHARDS = 1024
Write = Callable[[bytes], None]


class _StorageOperator(BaseOperator):
    """Shared by the operators below: the connections of the stores."""

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


class PlanShardsOperator(_StorageOperator):
    """Cuts a JSON Lines object into byte ranges on record boundaries.

    :param input_uri: the object.
    :param shards: shards wanted, 1 to 1024 (Airflow's own limit of mapped tasks).
    """

    template_fields: Sequence[str] = (*_StorageOperator.template_fields, "input_uri", "shards")

    def __init__(self, *, input_uri: str, shards: int | str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.input_uri = input_uri
        self.shards = shards

    def execute(self, context: Context) -> list[PlannedShard]:
        """Read only the lines at the cuts."""
        from model_delivery_engine.batch.shards import plan_shards

        count = int(float(self.shards))
        if not 1 <= count <= MAX_SHARDS:
            raise InvalidRequestError(f"shards is {count}: give 1 to {MAX_SHARDS}")
        storage = self._storage()
        size = storage.stat(self.input_uri).size
        if not size:
            raise InvalidRequestError(f"{self.input_uri} is empty: there is nothing to infer")
        shards = plan_shards(
            self.input_uri, size, count, lambda a, b: storage.read_bytes(self.input_uri, a, b)
        )
        self.log.info("%s: %d bytes in %d shards", self.input_uri, size, len(shards))
        return [{"version": VERSION, **shard} for shard in shards]


class BatchInferenceOperator(ReportsLineage, _StorageOperator):
    """Runs one shard through a bundle; map it over the shards of `PlanShardsOperator`.

    :param shard: the shard.
    :param bundle_uri: URI of the bundle.
    :param output_uri: prefix of the results.
    :param batch_size: records in one run of the model. (default: 64)
    :param input_fields: model input by record field. (default: fields are named as inputs)
    """

    template_fields: Sequence[str] = (
        *_StorageOperator.template_fields, "shard", "bundle_uri", "output_uri", "input_fields",
    )  # fmt: skip

    def __init__(
        self,
        *,
        shard: Mapping[str, Any],
        bundle_uri: str,
        output_uri: str,
        batch_size: int = 64,
        input_fields: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.shard = shard
        self.bundle_uri = bundle_uri
        self.output_uri = output_uri
        self.batch_size = batch_size
        self.input_fields = input_fields

    def _target(self, shard: Mapping[str, Any]) -> str:
        return f"{self.output_uri.rstrip('/')}/_parts/part-{shard['index']:05d}.jsonl"

    def lineage(self) -> Lineage:
        """Bundle and records in, the shard's results out."""
        return Lineage([self.bundle_uri, self.shard["uri"]], [self._target(self.shard)])

    def execute(self, context: Context) -> ShardOutput:
        """Stream the shard in, write its part at once when all of it is answered."""
        from model_delivery_engine.batch.lines import read_lines
        from model_delivery_engine.batch.pipeline import run_shard
        from model_delivery_engine.errors import EngineError
        from model_delivery_engine.runtime import Model

        from model_delivery.hooks.bundle import fetched_bundle

        storage, shard = self._storage(), self.shard
        target = self._target(shard)
        chunks = storage.read(shard["uri"], shard["start"], shard["end"])
        try:
            with fetched_bundle(self.bundle_uri, storage) as (bundle, _digest):
                model = Model.load(bundle)
                with storage.writing(target) as write:
                    result = run_shard(
                        read_lines(chunks, shard["start"]), model, write,
                        uri=shard["uri"], batch_size=self.batch_size,
                        input_fields=self.input_fields,
                    )  # fmt: skip
        except EngineError as error:
            raise DeliveryRefusedError(str(error)) from error
        self.log.info("%s: %d records, %d errors", target, result.records, result.errors)
        return {
            "version": VERSION,
            "shard": dict(shard),
            "output_uri": target,
            "model_digest": bundle.manifest.model_digest,
            "records": result.records,
            "ok": result.ok,
            "errors": result.errors,
        }


class MergeResultsOperator(_StorageOperator):
    """Puts the shards' parts together, in order, and proves that no record is lost or doubled.

    :param parts: what the mapped `BatchInferenceOperator` returned.
    :param output_uri: prefix of the results.
    """

    template_fields: Sequence[str] = (*_StorageOperator.template_fields, "parts", "output_uri")

    def __init__(
        self, *, parts: Iterable[Mapping[str, Any]], output_uri: str, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.parts = parts
        self.output_uri = output_uri

    def execute(self, context: Context) -> MergedResults:
        """Write results, then errors, then the manifest that makes them valid."""
        storage = self._storage()
        parts = sorted(self.parts, key=lambda part: part["shard"]["index"])
        manifest = self._manifest(storage, parts)
        prefix = self.output_uri.rstrip("/")
        results, errors = f"{prefix}/results.jsonl", f"{prefix}/errors.jsonl"
        with storage.writing(results) as write_all, storage.writing(errors) as write_error:
            for part in parts:
                _merge_part(storage, part["output_uri"], write_all, write_error)
        storage.write_bytes(f"{prefix}/manifest.json", manifest.to_json().encode())
        self.log.info("%s: %d records, %d errors", results, manifest.records, manifest.errors)
        return {
            "version": VERSION,
            "output_uri": results,
            "errors_uri": errors,
            "manifest_uri": f"{prefix}/manifest.json",
            "records": manifest.records,
            "ok": manifest.ok,
            "errors": manifest.errors,
        }

    def _manifest(self, storage: "StorageHook", parts: Sequence[Mapping[str, Any]]) -> Any:
        from model_delivery_engine.batch.manifest import merge_results
        from model_delivery_engine.batch.pipeline import ShardResult
        from model_delivery_engine.errors import EngineError

        digests = {part["model_digest"] for part in parts}
        if len(digests) != 1:
            raise DeliveryRefusedError(
                f"the shards were answered by {len(digests)} models: clear all and run again"
            )
        uri = str(parts[0]["shard"]["uri"])
        counted = [
            (part["shard"], ShardResult(part["records"], part["ok"], part["errors"]))
            for part in parts
        ]
        try:
            return merge_results(
                counted, input_uri=uri, input_bytes=storage.stat(uri).size,
                model_digest=digests.pop(),
            )  # fmt: skip
        except EngineError as error:
            raise DeliveryRefusedError(str(error)) from error


def _merge_part(storage: "StorageHook", uri: str, write_all: Write, write_error: Write) -> None:
    from model_delivery_engine.batch.lines import read_lines

    for _offset, line in read_lines(storage.read(uri)):
        write_all(line + b"\n")
        if json.loads(line)["error"] is not None:
            write_error(line + b"\n")


class QualityGateOperator(_StorageOperator):
    """Lets a model pass only if its answers on labelled data are good enough.

    :param results_uri: `results.jsonl` of a batch.
    :param label_field: field of the input record with the label.
    :param score_output: model output to judge; of a list of scores the highest is the answer.
    :param min_accuracy: the lower end of the accuracy's 95 % interval (Wilson) must reach this.
    :param max_error_fraction: records without an answer may be this part of all. (default: 0)
    """

    template_fields: Sequence[str] = (
        *_StorageOperator.template_fields, "results_uri", "label_field", "score_output",
        "min_accuracy", "max_error_fraction",
    )  # fmt: skip

    def __init__(
        self,
        *,
        results_uri: str,
        label_field: str,
        score_output: str,
        min_accuracy: float | str,
        max_error_fraction: float | str = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.results_uri = results_uri
        self.label_field = label_field
        self.score_output = score_output
        self.min_accuracy = min_accuracy
        self.max_error_fraction = max_error_fraction

    def execute(self, context: Context) -> GateVerdict:
        """Evaluate, keep the evaluation beside the results, then decide."""
        import dataclasses

        storage = self._storage()
        evaluation = self._evaluate(storage)
        uri = f"{self.results_uri.rpartition('/')[0]}/evaluation.json"
        storage.write_bytes(uri, json.dumps(dataclasses.asdict(evaluation), indent=2).encode())
        self._decide(evaluation, uri)
        self.log.info("Passed: accuracy %.4f on %d records", evaluation.accuracy, evaluation.n)
        return {
            "version": VERSION,
            "records": evaluation.n,
            "errors": evaluation.errors,
            "accuracy": evaluation.accuracy,
            "interval_low": evaluation.interval_low,
            "interval_high": evaluation.interval_high,
            "min_accuracy": float(self.min_accuracy),
            "evaluation_uri": uri,
        }

    def _evaluate(self, storage: "StorageHook") -> Any:
        from model_delivery_engine.batch.evaluate import evaluate
        from model_delivery_engine.batch.lines import read_lines
        from model_delivery_engine.errors import EngineError

        records = (json.loads(line) for _at, line in read_lines(storage.read(self.results_uri)))
        try:
            return evaluate(records, output=self.score_output, label_field=self.label_field)
        except EngineError as error:
            raise DeliveryRefusedError(f"{self.results_uri}: {error}") from error

    def _decide(self, evaluation: Any, uri: str) -> None:
        least, most = float(self.min_accuracy), float(self.max_error_fraction)
        failed = evaluation.errors / (evaluation.n + evaluation.errors)
        if failed > most:
            raise GateClosedError(
                f"gate closed: {failed:.2%} of the records had no answer, {most:.2%} are allowed: "
                "read errors.jsonl beside the results"
            )
        if evaluation.interval_low < least:
            raise GateClosedError(
                f"gate closed: accuracy {evaluation.accuracy:.4f} on {evaluation.n} records, 95 % "
                f"interval from {evaluation.interval_low:.4f}; {least} is asked for: see {uri}"
            )
