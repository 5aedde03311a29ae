"""OpenLineage: which model and data a task read and wrote, where that provider is installed.

Names of datasets follow OpenLineage's naming conventions: `s3://bucket` and the key, and likewise
`wasbs://container@account` or `abfss://…`; `file` and the path.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Lineage:
    """URIs that a task read and wrote, and the id of its external job."""

    inputs: Sequence[str] = ()
    outputs: Sequence[str] = ()
    job_id: str = ""


class ReportsLineage:
    """Mixin of operators that say what they read and wrote."""

    def lineage(self) -> Lineage:
        """Return the task's model and data, known once it succeeded."""
        raise NotImplementedError

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Return OpenLineage's `OperatorLineage`; Airflow's listener calls this after success."""
        from airflow.providers.common.compat.openlineage.facet import (
            Dataset,
            ExternalQueryRunFacet,
        )
        from airflow.providers.openlineage.extractors import OperatorLineage

        told = self.lineage()

        def datasets(uris: Sequence[str]) -> list[Any]:
            names = [dataset_name(uri) for uri in uris if uri]
            return [Dataset(namespace=namespace, name=name) for namespace, name in names]

        facets = {}
        if told.job_id:
            facet = ExternalQueryRunFacet(externalQueryId=told.job_id, source=type(self).__name__)
            facets["externalQuery"] = facet
        return OperatorLineage(
            inputs=datasets(told.inputs), outputs=datasets(told.outputs), run_facets=facets
        )


def dataset_name(uri: str) -> tuple[str, str]:
    """Return namespace and name of the dataset at a URI."""
    parts = urlsplit(uri)
    if parts.scheme in {"", "file"}:
        return "file", parts.path
    return f"{parts.scheme}://{parts.netloc}", parts.path.lstrip("/")
