"""Compressed answers are as small as one stream of them, whatever the batch size."""

import gzip
import json
from pathlib import Path

import pytest
from model_delivery_engine.batch.formats import Compression
from model_delivery_engine.batch.pipeline import BatchOptions
from model_delivery_engine.bundle import Bundle

from tests.unit.engine.batch_job import RESULTS, Job

LINES = b"".join(
    json.dumps({"id": n, "features": [n % 7, 1.0, 2.0, 3.0]}).encode() + b"\n" for n in range(8_000)
)


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD])
def test_members_are_of_many_batches(
    tmp_path: Path, linear_bundle: Bundle, compression: Compression
) -> None:
    def results(name: str, batch_size: int) -> bytes:
        job = Job(tmp_path / name, linear_bundle)
        job.options = BatchOptions(batch_size=batch_size, output_compression=compression)
        assert job.run(LINES).ok == 8_000
        job.publish()
        return job.storage.get(RESULTS)

    small = results("small", 8)
    assert results("again", 8) == small
    assert len(small) < 1.02 * len(results("large", 512))
    if compression == Compression.GZIP:
        plain = gzip.decompress(small)
        assert len(plain.splitlines()) == 8_000
        assert len(small) < 1.2 * len(gzip.compress(plain, 6))
