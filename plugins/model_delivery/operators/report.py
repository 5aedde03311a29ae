"""The delivery's report: one HTML page in storage, linked from the task."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import BaseOperator, Context

from model_delivery.exceptions import DeliveryRefusedError
from model_delivery.links.report import DeliveryReportLink
from model_delivery.xcom import VERSION, DeliveryReport


class DeliveryReportOperator(BaseOperator):
    """Draws what a delivery did: model, accuracy, latency, deployment, each with its figures.

    :param output_uri: URI of the page.
    :param bundle_uri: URI of the bundle.
    :param merged: what `MergeResultsOperator` returned.
    :param verdict: what `QualityGateOperator` returned.
    :param deployment: what `CreateDeploymentOperator` returned.
    :param smoke_test: what `EdgeInferenceOperator` returned.
    :param aws_conn_id: connection of `s3://` URIs.
    :param wasb_conn_id: connection of Azure Blob URIs.
    """

    template_fields: Sequence[str] = (
        "output_uri", "bundle_uri", "merged", "verdict", "deployment", "smoke_test",
        "aws_conn_id", "wasb_conn_id",
    )  # fmt: skip
    operator_extra_links = (DeliveryReportLink(),)

    def __init__(
        self,
        *,
        output_uri: str,
        bundle_uri: str,
        merged: Mapping[str, Any],
        verdict: Mapping[str, Any],
        deployment: Mapping[str, Any],
        smoke_test: Mapping[str, Any],
        aws_conn_id: str = "aws_default",
        wasb_conn_id: str = "wasb_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.output_uri = output_uri
        self.bundle_uri = bundle_uri
        self.merged = merged
        self.verdict = verdict
        self.deployment = deployment
        self.smoke_test = smoke_test
        self.aws_conn_id = aws_conn_id
        self.wasb_conn_id = wasb_conn_id

    def execute(self, context: Context) -> DeliveryReport:
        """Draw the page and publish it."""
        from model_delivery_engine.errors import EngineError
        from model_delivery_engine.report import render_report

        from model_delivery.hooks.storage import StorageHook

        storage = StorageHook(self.aws_conn_id, self.wasb_conn_id)
        try:
            page = render_report(self._delivery(storage, context))
        except EngineError as error:
            raise DeliveryRefusedError(str(error)) from error
        storage.write_bytes(self.output_uri, page.encode())
        self.log.info("Report at %s", self.output_uri)
        return {"version": VERSION, "report_uri": self.output_uri}

    def _delivery(self, storage: Any, context: Context) -> dict[str, Any]:
        from model_delivery.hooks.bundle import fetched_bundle

        with fetched_bundle(self.bundle_uri, storage) as (bundle, digest):
            manifest = json.loads(bundle.manifest.to_json())
        evaluation = json.loads(storage.read_bytes(self.verdict["evaluation_uri"]))
        run, device = context["dag_run"], self.deployment["thing_name"]
        return {
            "run_id": run.run_id,
            "title": f"Delivery of {self.smoke_test['model']} to {device}",
            "created": str(run.start_date or ""),
            "bundle_digest": digest,
            "manifest": manifest,
            "evaluation": evaluation,
            "gate": {
                "passed": True,
                "reasons": [],
                "min_accuracy": self.verdict["min_accuracy"],
            },
            "batch": {key: self.merged[key] for key in ("records", "ok", "errors")},
            "deployment": {
                "device": device,
                "status": self.deployment["status"],
                "deployment": self.deployment["job_id"],
                "running digest": self.smoke_test["digest"],
                "smoke test": f"{self.smoke_test['agreed']} of {self.smoke_test['records']} agreed",
            },
        }
