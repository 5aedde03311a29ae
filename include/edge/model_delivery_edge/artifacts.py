"""The content-addressed store: an artifact's name is its digest, and it is never overwritten."""

import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from model_delivery_engine.digest import digest_file

from model_delivery_edge.durable import rename_durably, sync_file, sync_folder
from model_delivery_edge.errors import DeploymentError, DownloadError

log = logging.getLogger(__name__)
MIB = 1024 * 1024
RESERVE_BYTES = 16 * MIB
_FILE = "bundle.tar.gz"


class Artifacts:
    """Bundles on the device's disk, and those on their way.

    :param folder: of verified bundles: ``sha256-<hex>/bundle.tar.gz``
    :param downloads: of incomplete ones: ``sha256-<hex>.part``; on the same file system
    """

    def __init__(self, folder: Path, downloads: Path) -> None:
        self._folder = folder
        self._downloads = downloads
        folder.mkdir(parents=True, exist_ok=True)
        downloads.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Where the bundle of this digest is, or would be."""
        return self._folder / _plain(digest) / _FILE

    def part(self, digest: str) -> Path:
        """Where its download is kept until it is complete."""
        return self._downloads / f"{_plain(digest)}.part"

    def etag(self, digest: str) -> Path:
        """Where the ETag of that download is kept."""
        return self._downloads / f"{_plain(digest)}.etag"

    def free_bytes(self) -> int:
        """Bytes that can still be written."""
        return shutil.disk_usage(self._downloads).free

    def adopt(self, digest: str) -> Path:
        """Take a complete and verified download into the store."""
        path = self.path(digest)
        sync_file(self.part(digest))
        path.parent.mkdir(exist_ok=True)
        sync_folder(self._folder)
        rename_durably(self.part(digest), path)
        self.discard(digest)
        return path

    def discard(self, digest: str) -> None:
        """Forget an incomplete download."""
        self.part(digest).unlink(missing_ok=True)
        self.etag(digest).unlink(missing_ok=True)

    def verified(self, digest: str) -> Path:
        """Return the bundle's path after hashing it once more.

        :raises DeploymentError: it is absent, or the disk changed it: then it is removed, so that
            it is fetched again
        """
        path = self.path(digest)
        if not path.is_file():
            raise DeploymentError(f"artifact {digest} is not on this device; deploy it again")
        if (actual := digest_file(path)) != digest:
            shutil.rmtree(path.parent)
            raise DeploymentError(
                f"artifact {digest} has changed on the disk to {actual} and was removed; "
                "check the disk and deploy it again"
            )
        return path

    def check_room(self, digest: str) -> None:
        """Refuse to extract a bundle that would fill the disk.

        :raises DownloadError: fewer bytes are free than its gzip trailer says that it expands to
        """
        with self.path(digest).open("rb") as stream:
            stream.seek(-4, os.SEEK_END)
            expanded = int.from_bytes(stream.read(4), "little")
        free = self.free_bytes()
        if free < expanded + RESERVE_BYTES:
            raise DownloadError(
                f"artifact {digest} expands to {expanded // MIB} MiB and {free // MIB} MiB of disk "
                "are free; free some space and deploy again"
            )

    def collect(self, keep: Iterable[str]) -> None:
        """Delete every artifact and download whose digest is not among those to keep."""
        kept = {_plain(digest) for digest in keep}
        for entry in self._folder.iterdir():
            if entry.name not in kept:
                log.info("deleting artifact %s: no deployment refers to it", entry.name)
                shutil.rmtree(entry)
        for entry in self._downloads.iterdir():
            if entry.stem not in kept:
                entry.unlink()


def _plain(digest: str) -> str:
    return digest.replace(":", "-")
