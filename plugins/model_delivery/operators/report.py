"""Reports, each one HTML page in storage, linked from its task."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import BaseOperator, Context

from model_delivery.aws import AWS_TEMPLATE_FIELDS, AwsConnected
from model_delivery.exceptions import DeliveryRefusedError
from model_delivery.links.report import DeliveryReportLink
from model_delivery.refusal import REFUSAL_KEY
from model_delivery.xcom import VERSION, ComparisonReport, DeliveryReport


class DeliveryReportOperator(BaseOperator):
    """Draws what a delivery did: model, accuracy, latency, deployment, each with its figures.

    :param output_uri: URI of the page.
    :param bundle_uri: URI of the bundle.
    :param merged: what `MergeResultsOperator` returned.
    :param verdict: what `QualityGateOperator` returned.
    :param deployment: what `CreateDeploymentOperator` returned.
    :param smoke_test: what `EdgeInferenceOperator` returned.
    :param review: what `HumanReviewOperator` returned. (default: none)
    :param aws_conn_id: connection of `s3://` URIs.
    :param wasb_conn_id: connection of Azure Blob URIs.
    """

    template_fields: Sequence[str] = (
        "output_uri", "bundle_uri", "merged", "verdict", "deployment", "smoke_test",
        "review", "aws_conn_id", "wasb_conn_id",
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
        review: Mapping[str, Any] | None = None,
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
        self.review = review
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
            "review": dict(self.review) if self.review else None,
            "batch": {key: self.merged[key] for key in ("records", "ok", "errors")},
            "deployment": {
                "device": device,
                "status": self.deployment["status"],
                "deployment": self.deployment["job_id"],
                "running digest": self.smoke_test["digest"],
                "smoke test": f"{self.smoke_test['agreed']} of {self.smoke_test['records']} agreed",
            },
        }


class CompareCompilationsOperator(AwsConnected):
    """Draws what a mapped compilation came to for each target, also where it failed.

    The page and the table behind it (`.json` beside it) go to storage. The task fails only where
    nothing was compiled.

    :param targets: the targets, in the order in which they were mapped.
    :param compile_task_id: the mapped `CreateCompilationJobOperator`.
    :param bundle_task_id: the mapped `BundleModelOperator`.
    :param model_uri: URI of the model archive, for the page.
    :param output_uri: URI of the page, ending in `.html`.
    """

    template_fields: Sequence[str] = (
        *AWS_TEMPLATE_FIELDS, "targets", "compile_task_id", "bundle_task_id", "model_uri",
        "output_uri",
    )  # fmt: skip
    operator_extra_links = (DeliveryReportLink(),)

    def __init__(
        self,
        *,
        targets: Sequence[str],
        compile_task_id: str,
        bundle_task_id: str,
        model_uri: str,
        output_uri: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.targets = targets
        self.compile_task_id = compile_task_id
        self.bundle_task_id = bundle_task_id
        self.model_uri = model_uri
        self.output_uri = output_uri

    @property
    def hook_path(self) -> str:
        """SageMaker, which knows why a job failed."""
        return "model_delivery.hooks.compilation.CompilationJobHook"

    def execute(self, context: Context) -> ComparisonReport:
        """Look at each target's bundle or job, and publish the page."""
        from model_delivery_engine.comparison import render_comparison

        from model_delivery.hooks.storage import StorageHook

        if not self.targets:
            raise DeliveryRefusedError("there are no targets to compare: see the tasks before this")
        storage = StorageHook(self.aws_conn_id or "aws_default")
        rows = [self._row(storage, context, *each) for each in enumerate(self.targets)]
        page = render_comparison(
            rows,
            run_id=context["dag_run"].run_id,
            title="Compilations compared",
            model_uri=self.model_uri,
        )
        storage.write_bytes(self.output_uri, page.encode())
        table_uri = f"{self.output_uri.removesuffix('.html')}.json"
        storage.write_bytes(table_uri, json.dumps(rows, indent=2).encode())
        compiled = sum(row["manifest"] for row in rows)
        self.log.info("%d of %d targets; report at %s", compiled, len(rows), self.output_uri)
        if not compiled:
            reasons = "; ".join(f"{row['target']}: {row['reason']}" for row in rows)
            raise DeliveryRefusedError(f"nothing was compiled: {reasons}")
        return {
            "version": VERSION,
            "report_uri": self.output_uri,
            "table_uri": table_uri,
            "compiled": compiled,
            "failed": len(rows) - compiled,
        }

    def _row(self, storage: Any, context: Context, index: int, target: str) -> dict[str, Any]:
        from model_delivery_engine.comparison import comparison_row

        from model_delivery.hooks.bundle import fetched_bundle

        bundled = _pulled(context, self.bundle_task_id, "return_value", index)
        if bundled:
            uri = bundled["output_uri"]
            with fetched_bundle(uri, storage) as (bundle, _digest):
                return comparison_row(
                    target, status="COMPLETED", output_uri=uri, manifest=bundle.manifest
                )
        job = _pulled(context, self.compile_task_id, "job", index)
        if not job:
            why = _pulled(context, self.compile_task_id, REFUSAL_KEY, index) or (
                f"no job was made; see the log of {self.compile_task_id}[{index}]"
            )
            return comparison_row(target, status="REFUSED", reason=why)
        found = self.hook.describe_job(job["job_name"])
        status, reason = found["CompilationJobStatus"], found.get("FailureReason")
        if status == "COMPLETED":  # there is an artifact, and no bundle of it
            refused = _pulled(context, self.bundle_task_id, REFUSAL_KEY, index)
            status, reason = "NOT BUNDLED", refused
        reason = reason or f"see the log of {self.bundle_task_id}[{index}]"
        return comparison_row(target, status=status, reason=reason)


def _pulled(context: Context, task_id: str, key: str, index: int) -> Any:
    return context["ti"].xcom_pull(task_ids=task_id, key=key, map_indexes=index)
