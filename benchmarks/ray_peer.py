"""Ray Data on the benchmarks' work, run by an interpreter of its own: prints its rate as JSON.

Usage: ray_peer.py recommend|dense|images MODEL SOURCE OUTPUT
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import ray

RESULTS = 25
BATCH = 256


class Infer:
    """An actor with the model; one for each core, as Ray's documentation has it."""

    def __init__(self, kind: str, model: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self._kind = kind
        facts = self._session.get_modelmeta().custom_metadata_map.get("recommender")
        if facts:
            data = json.loads(facts)
            self._users = {name: n for n, name in enumerate(data["users"])}
            self._items = np.array(data["items"], dtype=object)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Answer one batch."""
        return getattr(self, f"_{self._kind}")(batch)  # type: ignore[no-any-return]

    def _recommend(self, batch: dict[str, Any]) -> dict[str, Any]:
        rows = np.array([self._users[str(name)] for name in batch["userId"]], np.int64)
        items, scores = self._session.run(["items", "scores"], {"user": rows})
        return {"userId": batch["userId"], "recommendedItems": self._items[items].tolist(),
                "scores": scores}  # fmt: skip

    def _dense(self, batch: dict[str, Any]) -> dict[str, Any]:
        features = np.stack(batch["features"]).astype(np.float32)
        (scores,) = self._session.run(["scores"], {"features": features})
        return {"id": batch["id"], "scores": scores}

    def _images(self, batch: dict[str, Any]) -> dict[str, Any]:
        (scores,) = self._session.run(["scores"], {"image": np.stack(batch["image"])})
        return {"path": batch["path"], "scores": scores}


def _run(kind: str, model: str, source: str, output: str) -> tuple[int, float]:
    started = time.perf_counter()
    if kind == "images":
        data = ray.data.read_images(source, mode="RGB", include_paths=True)
    else:
        data = ray.data.read_json(source, lines=True)
    cores = int(ray.cluster_resources()["CPU"])
    size = 32 if kind == "images" else BATCH
    answers = data.map_batches(
        Infer, fn_constructor_args=(kind, model), batch_size=size,
        compute=ray.data.ActorPoolStrategy(size=cores), num_cpus=0.5,
    )  # fmt: skip
    answers.write_json(output)
    seconds = time.perf_counter() - started
    records = sum(1 for path in Path(output).rglob("*.json") for _ in path.open("rb"))
    return records, seconds


def main() -> None:
    """Run twice: the first warms up, the second counts."""
    kind, model, source, output = sys.argv[1:]
    ray.init(include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    _run(kind, model, source, f"{output}/warm")
    records, seconds = _run(kind, model, source, f"{output}/run")
    print(json.dumps({"rate": records / seconds, "records": records}))


main()
