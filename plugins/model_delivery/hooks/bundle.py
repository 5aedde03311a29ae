"""Bring a bundle from storage to where it is used, and know what it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from model_delivery_engine.bundle import Bundle, Manifest, open_bundle
from model_delivery_engine.digest import digest_file
from model_delivery_engine.scratch import scratch_folder

from model_delivery.hooks.storage import StorageHook


@dataclass(frozen=True)
class BundleFacts:
    """A bundle's own digest and its manifest."""

    digest: str
    manifest: Manifest


@contextmanager
def fetched_bundle(uri: str, storage: StorageHook) -> Iterator[tuple[Bundle, str]]:
    """Download and open a bundle; give it with its digest, and remove it afterwards."""
    with scratch_folder() as folder:
        archive = folder / "bundle.tar.gz"
        storage.download(uri, archive)
        opened = folder / "opened"
        opened.mkdir()
        bundle, digest = open_bundle(archive, opened), digest_file(archive)
        archive.unlink()  # else it is on the disk twice
        yield bundle, digest


def read_bundle_facts(uri: str, aws_conn_id: str | None) -> BundleFacts:
    """Return digest and manifest of a bundle in storage."""
    storage = StorageHook(aws_conn_id=aws_conn_id or "aws_default")
    with fetched_bundle(uri, storage) as (bundle, digest):
        return BundleFacts(digest, bundle.manifest)
