import asyncio
from pathlib import Path

import pytest
from model_delivery_edge import journal as module
from model_delivery_edge.journal import MOST_FAILED, Journal, Outcome
from model_delivery_edge.progress import Progress
from model_delivery_edge.wire import Desired


def test_outcome_is_kept(tmp_path: Path) -> None:
    Journal(tmp_path).record(Outcome(4, "d", "FAILED", "no space", 1, {"c": "FAILED"}))
    kept = Journal(tmp_path).outcome()
    assert (kept.generation, kept.state, kept.status, kept.error) == (
        4,
        "FAILED",
        "FAILED",
        "no space",
    )
    assert kept.components == {"c": "FAILED"}


def test_nothing_and_damage_are_no_outcome(tmp_path: Path) -> None:
    assert Journal(tmp_path).outcome() == Outcome()
    (tmp_path / "outcome.json").write_text("{")
    assert Journal(tmp_path).outcome() == Outcome()
    (tmp_path / "outcome.json").write_text('{"later": 1}')
    assert Journal(tmp_path).outcome() == Outcome()


def test_what_the_agent_before_wrote_is_read(tmp_path: Path) -> None:
    (tmp_path / "outcome.json").write_text(
        '{"generation": 2, "deployment_id": "d", "status": "IN_PROGRESS", "error": null, '
        '"probes": 3}'
    )
    outcome = Journal(tmp_path).outcome()
    assert (outcome.state, outcome.status, outcome.probes) == ("PROBING", "IN_PROGRESS", 3)


def test_time_goes_on_over_restarts_by_a_clock_that_nobody_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = ["boot-1", 1000.0]
    monkeypatch.setattr(module, "_uptime", lambda: (now[0], now[1]))
    Journal(tmp_path).record(Outcome(1, "d", "QUEUED").timed())
    now[1] = 1030.0
    assert Journal(tmp_path).outcome().seconds() == 30
    Journal(tmp_path).record(Journal(tmp_path).outcome())
    now[:] = ["boot-2", 5.0]
    assert Journal(tmp_path).outcome().seconds() == 30
    now[1] = 7.0
    Journal(tmp_path).record(Journal(tmp_path).outcome().timed())
    now[1] = 9.0
    assert Journal(tmp_path).outcome().seconds() == 32


def test_refused_digests_are_remembered_until_forgiven(tmp_path: Path) -> None:
    Journal(tmp_path).refuse("sha256:a", "NaN")
    assert Journal(tmp_path).failed() == {"sha256:a": "NaN"}
    Journal(tmp_path).forgive("sha256:a")
    assert Journal(tmp_path).failed() == {}
    for number in range(MOST_FAILED + 5):
        Journal(tmp_path).refuse(f"sha256:{number}", "why")
    failed = Journal(tmp_path).failed()
    assert len(failed) == MOST_FAILED
    assert "sha256:0" not in failed


def test_what_was_given_up_stays_so_when_an_older_one_is_rolled_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.record(Outcome(2, "d", "FAILED", "no space"))
    told: list[Outcome] = []
    older = Progress(journal, Desired(1, "d", ()), told.append)
    asyncio.run(older.end("ROLLED_BACK", "worse"))
    assert [(each.generation, each.state) for each in told] == [(1, "ROLLED_BACK")]
    assert (journal.outcome().generation, journal.outcome().state) == (2, "FAILED")
