"""MovieLens-100k as Personalize's datasets: interactions and items, read from RecBole's wheel.

``python include/samples/movielens.py OUTDIR`` writes ``interactions.csv`` (USER_ID, ITEM_ID,
EVENT_VALUE, TIMESTAMP: 100,000 ratings of 1 to 5 by 943 people) and ``items.csv`` (ITEM_ID, TITLE,
YEAR, GENRES: 1,682 films). The wheel is fetched from the package index, hash-checked by
``movielens.txt``, into a folder of its own: nothing of it is installed or committed.

Source: F. M. Harper, J. A. Konstan, "The MovieLens Datasets: History and Context", 2015. Its terms
of use allow research and forbid redistribution without permission.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("movielens.txt")
RATING = ("USER_ID", "ITEM_ID", "EVENT_VALUE", "TIMESTAMP")
FILM = ("ITEM_ID", "TITLE", "YEAR", "GENRES")
FOLDER = "recbole/dataset_example/ml-100k"


@dataclass(frozen=True)
class MovieLensFacts:
    """What was written, and how much of it."""

    interactions: Path
    items: Path
    ratings: int
    films: int


class DownloadError(Exception):
    """The wheel could not be fetched."""


def write_movielens(folder: Path) -> MovieLensFacts:
    """Fetch the wheel and write both files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    interactions, items = folder / "interactions.csv", folder / "items.csv"
    with (
        tempfile.TemporaryDirectory(prefix="recbole-") as name,
        zipfile.ZipFile(_wheel(Path(name))) as wheel,
    ):
        ratings = _write(interactions, RATING, _rows(wheel, "ml-100k.inter"))
        films = _write(items, FILM, _films(_rows(wheel, "ml-100k.item")))
    return MovieLensFacts(interactions, items, ratings, films)


def _wheel(folder: Path) -> Path:
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
        "--no-deps", "--require-hashes", "--dest", str(folder), "-r", str(REQUIREMENTS),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DownloadError(f"RecBole's wheel could not be fetched: {done.stderr.strip()}")
    return next(folder.glob("*.whl"))


def _rows(wheel: zipfile.ZipFile, name: str) -> Iterator[Sequence[str]]:
    text = wheel.read(f"{FOLDER}/{name}").decode("utf-8")
    for line in text.splitlines()[1:]:
        yield line.split("\t")


def _films(rows: Iterable[Sequence[str]]) -> Iterator[Sequence[str]]:
    """Yield items as Personalize wants them: several categories are joined by a bar."""
    for number, title, year, genres in rows:
        yield number, title, year if year.isdigit() else "", "|".join(genres.split())


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for row in rows:
            writer.writerow(row)
            count += 1
    return count


def main() -> None:
    """Write both files into the folder named on the command line and say what they are."""
    parser = argparse.ArgumentParser(description="Write MovieLens-100k as Personalize's datasets.")
    parser.add_argument("folder", type=Path, help="folder to write into; made where it is absent")
    facts = write_movielens(parser.parse_args().folder)
    print(f"interactions: {facts.ratings} in {facts.interactions}")
    print(f"items: {facts.films} in {facts.items}")


if __name__ == "__main__":
    main()
