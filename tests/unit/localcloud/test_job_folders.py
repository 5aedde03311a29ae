"""Folders of jobs on a real disk: gone with the job, or with the next worker that starts."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
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
