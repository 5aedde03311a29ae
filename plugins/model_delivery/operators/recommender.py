"""Train a recommender on interactions, and judge a batch of its recommendations."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from airflow.sdk import Context

from model_delivery.exceptions import DeliveryRefusedError, InvalidRequestError
from model_delivery.links.report import DeliveryReportLink
from model_delivery.storage_connected import StorageConnected
from model_delivery.xcom import VERSION, RecommendationReport, TrainedRecommender

if TYPE_CHECKING:
    from model_delivery_engine.recommend.interactions import Split

    from model_delivery.hooks.storage import StorageHook


class TrainRecommenderOperator(StorageConnected):
    """Factorises interactions, holding out each user's newest, and writes a bundle.

    Below `output_uri` lie `bundle.tar.gz`, `users.json` (the input of a batch: a line for each
    user) and `split.json` (what was trained on and what was held out).

    :param interactions_uri: CSV of USER_ID, ITEM_ID, EVENT_VALUE, TIMESTAMP.
    :param output_uri: prefix of what is written.
    :param recipe: user-personalization, related-items or personalized-ranking.
        (default: user-personalization)
    :param least_value: EVENT_VALUE from which on a user likes an item. (default: 4)
    :param held_out_share: part of a user's liked items that is held out, 0 to 1. (default: 0.2)
    :param factors: length of a factor. (default: 64)
    """

    template_fields: Sequence[str] = (
        *StorageConnected.template_fields, "interactions_uri", "output_uri", "recipe",
        "least_value", "held_out_share", "factors",
    )  # fmt: skip

    def __init__(
        self,
        *,
        interactions_uri: str,
        output_uri: str,
        recipe: str = "user-personalization",
        least_value: float | str = 4.0,
        held_out_share: float | str = 0.2,
        factors: int | str = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.interactions_uri = interactions_uri
        self.output_uri = output_uri
        self.recipe = recipe
        self.least_value = least_value
        self.held_out_share = held_out_share
        self.factors = factors

    def execute(self, context: Context) -> TrainedRecommender:
        """Train, then write all three objects."""
        from model_delivery_engine.batch.recipes import Recipe
        from model_delivery_engine.batch.recommender_bundle import write_recommender_bundle
        from model_delivery_engine.errors import EngineError
        from model_delivery_engine.recommend.factorise import Settings, factorise
        from model_delivery_engine.recommend.interactions import read_split

        if self.recipe not in set(Recipe):
            raise InvalidRequestError(f"recipe {self.recipe!r}: there are {', '.join(Recipe)}")
        share = float(self.held_out_share)
        if not 0 <= share < 1:
            raise InvalidRequestError(f"held_out_share is {share}: give 0 to below 1")
        storage, prefix = self._storage(), self.output_uri.rstrip("/")
        text = storage.read_bytes(self.interactions_uri).decode("utf-8-sig")
        try:
            split = read_split(text.splitlines(), least_value=float(self.least_value), share=share)
            users, items = factorise(split, Settings(factors=int(float(self.factors))))
            with TemporaryDirectory(prefix="model-delivery-") as folder:
                archive = Path(folder) / "bundle.tar.gz"
                write_recommender_bundle(
                    archive, name="recommender", recipe=Recipe(self.recipe), users=split.users,
                    items=split.items, user_factors=users, item_factors=items,
                    source_uri=self.interactions_uri,
                )  # fmt: skip
                storage.upload(archive, f"{prefix}/bundle.tar.gz")
        except EngineError as error:
            raise DeliveryRefusedError(f"{self.interactions_uri}: {error}") from error
        storage.write_stream(f"{prefix}/users.json", _user_lines(split))
        storage.write_bytes(f"{prefix}/split.json", json.dumps(_split(split)).encode())
        held_out = sum(map(len, split.held_out.values()))
        self.log.info("Trained on %d interactions, %d held out", len(split.train), held_out)
        return {
            "version": VERSION,
            "bundle_uri": f"{prefix}/bundle.tar.gz",
            "input_uri": f"{prefix}/users.json",
            "split_uri": f"{prefix}/split.json",
            "users": len(split.users),
            "items": len(split.items),
            "interactions": len(split.train),
            "held_out": held_out,
        }


class RecommendationReportOperator(StorageConnected):
    """Judges a batch of recommendations against what was held out, and draws the report.

    :param trained: what `TrainRecommenderOperator` returned.
    :param job: what `CreateBatchInferenceJobOperator` returned.
    :param output_uri: URI of the page; the figures lie beside it as `.json`.
    """

    template_fields: Sequence[str] = (
        *StorageConnected.template_fields, "trained", "job", "output_uri",
    )  # fmt: skip
    operator_extra_links = (DeliveryReportLink(),)

    def __init__(
        self, *, trained: Mapping[str, Any], job: Mapping[str, Any], output_uri: str, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.trained = trained
        self.job = job
        self.output_uri = output_uri

    def execute(self, context: Context) -> RecommendationReport:
        """Judge, keep the figures, draw the page."""
        import dataclasses

        from model_delivery_engine.errors import EngineError
        from model_delivery_engine.recommend.quality import judge
        from model_delivery_engine.recommend.report import render_recommendations

        storage, run = self._storage(), context["dag_run"]
        split = json.loads(storage.read_bytes(self.trained["split_uri"]))
        facts = {
            "job": self.job["job_arn"],
            "solution version": self.job["solution_version_arn"],
            "results": self.job["output_uri"],
            "bundle": self.trained["bundle_uri"],
            "trained on": f"{self.trained['interactions']} interactions",
            "held out": f"{self.trained['held_out']} interactions",
        }
        try:
            quality = judge(
                self._records(storage), seen=split["seen"], held_out=split["held_out"],
                items=self.trained["items"],
            )  # fmt: skip
            page = render_recommendations(
                quality, run_id=run.run_id, created=str(run.start_date or ""), facts=facts
            )
        except EngineError as error:
            raise DeliveryRefusedError(f"{self.job['output_uri']}: {error}") from error
        figures = f"{self.output_uri.removesuffix('.html')}.json"
        storage.write_bytes(figures, json.dumps(dataclasses.asdict(quality), indent=2).encode())
        storage.write_bytes(self.output_uri, page.encode())
        self.log.info(
            "Precision at 10: %.3f (most popular items: %.3f), coverage at 10: %.2f",
            quality.precision[10], quality.baseline[10], quality.coverage[10],
        )  # fmt: skip
        return {
            "version": VERSION,
            "report_uri": self.output_uri,
            "quality_uri": figures,
            "users": quality.users,
            "precision_at_10": quality.precision[10],
            "baseline_at_10": quality.baseline[10],
            "coverage_at_10": quality.coverage[10],
            "errors": quality.errors,
        }

    def _records(self, storage: "StorageHook") -> Iterator[Mapping[str, Any]]:
        from model_delivery_engine.batch.lines import read_lines

        for _at, line in read_lines(storage.read(self.job["output_uri"])):
            record: Mapping[str, Any] = json.loads(line)
            yield record


def _user_lines(split: "Split") -> Iterator[bytes]:
    for user in split.users:
        yield json.dumps({"userId": user}).encode() + b"\n"


def _split(split: "Split") -> dict[str, Any]:
    def named(items: Mapping[int, Any]) -> dict[str, list[str]]:
        return {split.users[user]: [split.items[item] for item in sorted(found)]
                for user, found in items.items()}  # fmt: skip

    return {"seen": named(split.seen()), "held_out": named(split.held_out)}
