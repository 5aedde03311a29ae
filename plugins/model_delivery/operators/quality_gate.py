"""The gate between a batch and a device: the evidence reaches a stated threshold, or not."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import Context

from model_delivery.class_names import class_names
from model_delivery.exceptions import DeliveryRefusedError, GateClosedError, InvalidRequestError
from model_delivery.storage_connected import StorageConnected
from model_delivery.xcom import VERSION, GateVerdict

if TYPE_CHECKING:
    from model_delivery.hooks.storage import StorageHook


class QualityGateOperator(StorageConnected):
    """Lets a model pass only if its answers are good enough, by labels, by reviewers, or by both.

    With `label_field` the accuracy is that on labelled data; a label that reviewers decided counts
    before the one that the data came with. Without it, the accuracy is what the review estimates.

    :param results_uri: `results.jsonl` of a batch, or `reviewed.jsonl` of its review.
    :param score_output: model output to judge; of a list of scores the highest is the answer.
    :param min_accuracy: the lower end of the accuracy's 95 % interval (Wilson's, or the review's)
        must reach this.
    :param label_field: field of the input record with the label. (default: none)
    :param labels: names of the classes that the scores are of, a list or its JSON text: the labels
        of the data are then such names. (default: their places, counted from 0)
    :param review: what `HumanReviewOperator` returned. (default: none)
    :param max_error_fraction: records without an answer may be this part of all. (default: 0)
    :param min_corrected_accuracy: the lower end of the interval of the reviewed data set's accuracy
        must reach this. (default: none)
    :param max_unreviewed_error: the upper end of the interval of the errors among what nobody
        reviewed may be this. (default: none)
    :param min_agreement: share of equal answers that the first round must reach. (default: none)
    """

    template_fields: Sequence[str] = (
        *StorageConnected.template_fields, "results_uri", "label_field", "labels",
        "score_output", "min_accuracy", "max_error_fraction", "review", "min_corrected_accuracy",
        "max_unreviewed_error", "min_agreement",
    )  # fmt: skip

    def __init__(
        self,
        *,
        results_uri: str,
        score_output: str,
        min_accuracy: float | str,
        label_field: str | None = None,
        labels: Sequence[str] | str | None = None,
        review: Mapping[str, Any] | None = None,
        max_error_fraction: float | str = 0.0,
        min_corrected_accuracy: float | str | None = None,
        max_unreviewed_error: float | str | None = None,
        min_agreement: float | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.results_uri = results_uri
        self.label_field = label_field
        self.labels = labels
        self.score_output = score_output
        self.min_accuracy = min_accuracy
        self.max_error_fraction = max_error_fraction
        self.review = review
        self.min_corrected_accuracy = min_corrected_accuracy
        self.max_unreviewed_error = max_unreviewed_error
        self.min_agreement = min_agreement

    def execute(self, context: Context) -> GateVerdict:
        """Evaluate, keep the evaluation beside the results, then decide."""
        import dataclasses

        if not self.label_field and not self.review:
            raise InvalidRequestError(
                "give label_field, review or both: else nothing says which answers are right"
            )
        storage = self._storage()
        evaluation = self._evaluate(storage)
        uri = f"{self.results_uri.rpartition('/')[0]}/evaluation.json"
        storage.write_bytes(uri, json.dumps(dataclasses.asdict(evaluation), indent=2).encode())
        self._decide(evaluation, uri)
        self.log.info("Passed: accuracy %s on %d records", _figure(evaluation), evaluation.n)
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
        from model_delivery_engine.batch.evaluate import evaluate, evaluation_of_review
        from model_delivery_engine.batch.lines import read_lines
        from model_delivery_engine.errors import EngineError

        records = (json.loads(line) for _at, line in read_lines(storage.read(self.results_uri)))
        try:
            if not self.label_field:
                assert self.review is not None
                return evaluation_of_review(records, self.review)
            return evaluate(
                records,
                output=self.score_output,
                label_field=self.label_field,
                labels=class_names(self.labels),
            )
        except EngineError as error:
            raise DeliveryRefusedError(f"{self.results_uri}: {error}") from error

    def _decide(self, evaluation: Any, uri: str) -> None:
        least = _fraction("min_accuracy", self.min_accuracy)
        most = _fraction("max_error_fraction", self.max_error_fraction)
        failed = evaluation.errors / (evaluation.n + evaluation.errors)
        if failed > most:
            raise GateClosedError(
                f"gate closed: {failed:.2%} of the records had no answer, {most:.2%} are allowed: "
                "read errors.jsonl beside the results"
            )
        if evaluation.interval_low < least:
            raise GateClosedError(
                f"gate closed: accuracy {_figure(evaluation)} on {evaluation.n} records, 95 % "
                f"interval from {evaluation.interval_low:.4f}; {least} is asked for: see {uri}"
            )
        self._decide_by_review()

    def _decide_by_review(self) -> None:
        """Hold what reviewers found against each threshold that was given."""
        asked = (self.min_corrected_accuracy, self.max_unreviewed_error, self.min_agreement)
        if all(each in (None, "") for each in asked):
            return
        review = self.review
        if not review:
            raise InvalidRequestError("review is missing: its thresholds need what it found")
        for name, found, least, passed in (
            ("corrected accuracy, 95 % interval from", review["corrected_accuracy_interval"][0],
             self.min_corrected_accuracy, float.__ge__),
            ("errors among what is unreviewed, 95 % interval to",
             review["unreviewed_errors_interval"][1], self.max_unreviewed_error, float.__le__),
            ("agreement of reviewers", review["agreement"], self.min_agreement, float.__ge__),
        ):  # fmt: skip
            if least in (None, ""):
                continue
            if not passed(float(found), _fraction(name, least)):
                raise GateClosedError(
                    f"gate closed: {name} {found:.4f}; {least} is asked for: see "
                    f"{review['report_uri']}"
                )


def _figure(evaluation: Any) -> str:
    accuracy = evaluation.accuracy
    return "unknown (no random sample was reviewed)" if accuracy is None else f"{accuracy:.4f}"


def _fraction(name: str, value: Any) -> float:
    """Return a threshold; one that is no number from 0 to 1 would open the gate, or never open."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not 0.0 <= number <= 1.0:
        raise InvalidRequestError(f"{name} is {value!r}: give a number from 0 to 1")
    return number
