"""Folders of jobs on a real disk: gone with the job, or with the next worker that starts."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from model_delivery_localcloud.workers import compilation
from model_delivery_localcloud.workers.folders import PREFIX, job_folder, sweep_folders


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_goes_with_its_job(place: Path) -> None:
    with job_folder() as folder:
        (folder / "_tmp" / "compile-x").mkdir()
        (folder / "_tmp" / "compile-x" / "model").write_bytes(b"x")
    assert list(place.iterdir()) == []


def test_a_folder_that_a_job_made_deep_or_shut_goes_too(place: Path) -> None:
    """Deeper than a path of the system is long, and than Python's own removal can go down."""
    (place / "kept").mkdir()
    (place / "kept" / "file").write_text("not the job's")
    with job_folder() as folder:
        (folder / "link").symlink_to(place / "kept")
        (folder / "shut").mkdir()
        (folder / "shut" / "inner").mkdir(mode=0)
        (folder / "shut").chmod(0)
        home = os.open(".", os.O_RDONLY)
        try:
            os.chdir(folder)
            for _ in range(3000):
                os.mkdir("deeper")
                os.chdir("deeper")
            Path("last").write_bytes(b"x")
        finally:
            os.fchdir(home)
            os.close(home)
    assert [path.name for path in place.iterdir()] == ["kept"]
    assert (place / "kept" / "file").exists()


def test_a_folder_whose_worker_is_at_work_stays(place: Path) -> None:
    code = (
        "import sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "from model_delivery_localcloud.workers.folders import job_folder\n"
        "with job_folder() as folder:\n"
        "    (folder / 'held').write_text('')\n"
        "    print(folder, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stdout is not None
        folder = Path(worker.stdout.readline().strip())
        sweep_folders()
        assert (folder / "held").exists()
        worker.kill()
        worker.wait()
    assert (folder / "held").exists()
    sweep_folders()
    assert not folder.exists()


def test_other_folders_are_left_alone(place: Path) -> None:
    (place / "compile-of-somebody").mkdir()
    (place / f"{PREFIX}file").write_text("no folder")
    sweep_folders()
    assert len(list(place.iterdir())) == 2


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("models/digits.tar.gz", "digits.tar.gz"),
        ("字" * 90 + ".tar.gz", "字" * 64 + ".tar.gz"),
        ("models/..", "object"),
        ("_bundle", "_bundle"),
    ],
)
def test_an_object_of_any_name_has_a_place(tmp_path: Path, key: str, name: str) -> None:
    place = compilation.place_of(f"s3://bucket/{key}", tmp_path / "_archive")
    place.write_bytes(b"x")
    assert place.name == name
    assert [path.name for path in tmp_path.iterdir()] == ["_archive"]
