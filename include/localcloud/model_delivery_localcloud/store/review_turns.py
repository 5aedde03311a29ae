"""The two steps of which a reviewer's day is made: hand an answer in, take the next item.

Many reviewers' turns are taken at once, each statement for all of them: what a turn costs on
Postgres is the wait for its statements, one after the other, and for the disk.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from model_delivery_localcloud.store.review_answers import Handed, Taken, hand_in
from model_delivery_localcloud.store.review_heads import BEGINNING, Heads
from model_delivery_localcloud.store.review_queue import free_lapsed
from model_delivery_localcloud.store.review_slots import (
    Asker,
    Held,
    give_first,
    give_held,
    give_next,
    newest_loop,
)


@dataclass(frozen=True)
class Turn(Handed):
    """What a reviewer does in one call: hands answers in, then takes so many items.

    :param count: what they hold already comes first, so that a reload gives the same item again
    """

    count: int = 0


def take_turns(
    session: Session, turns: Sequence[Turn], now: int, heads: Heads | None = None
) -> list[list[Held] | Taken]:
    """Take turns; returns for each the items that its reviewer holds, or why it was not taken.

    Fewer items than were asked for where few are free.

    :param heads: where the queue begins for whom (default: at its beginning for all)
    """
    session.flush()
    connection = session.connection()
    faults = hand_in(connection, turns, now)
    askers: dict[tuple[str, str], Asker] = {}
    for turn, fault in zip(turns, faults, strict=True):
        if turn.count and fault is None:
            asker = Asker(turn.flow_id, turn.worker, turn.lease, turn.count)
            known = askers.setdefault((turn.flow_id, turn.worker), asker)
            known.count = max(known.count, turn.count)
    for flow_id in {asker.flow_id for asker in askers.values()}:
        asking = [asker for asker in askers.values() if asker.flow_id == flow_id]
        _give(session, flow_id, asking, now, heads)
    return [
        fault or (askers[turn.flow_id, turn.worker].held[: turn.count] if turn.count else [])
        for turn, fault in zip(turns, faults, strict=True)
    ]


def _give(
    session: Session, flow_id: str, askers: Sequence[Asker], now: int, heads: Heads | None
) -> None:
    connection = session.connection()
    give_held(connection, flow_id, askers)
    near = [asker for asker in askers if asker.missing and _begins(heads, asker)]
    if near:
        give_first(connection, flow_id, near, now)
    lacking = [asker for asker in askers if asker.missing]
    if not lacking:
        return
    newest = newest_loop(connection)  # before the walks: what is started meanwhile is newer
    for asker in lacking:
        if heads is None or not heads.has_nothing(flow_id, asker.worker, newest):
            _walk(connection, flow_id, asker, now, heads, newest)
    lacking = [asker for asker in lacking if asker.missing]
    if lacking and free_lapsed(session, now):
        session.flush()
        if heads is not None:
            heads.given_back()
        for asker in lacking:
            give_next(connection, flow_id, asker, now)


def _walk(
    connection: Connection, flow_id: str, asker: Asker, now: int, heads: Heads | None, newest: int
) -> None:
    if heads is not None and not _begins(heads, asker):
        give_next(connection, flow_id, asker, now, heads)
        if not asker.missing:
            return
        heads.forget(flow_id, asker.worker)
    began = time.monotonic()
    give_next(connection, flow_id, asker, now, heads)
    if asker.missing and heads is not None:
        heads.note_nothing(flow_id, asker.worker, newest, time.monotonic() - began)


def _begins(heads: Heads | None, asker: Asker) -> bool:
    return heads is None or heads.of(asker.flow_id, asker.worker) == BEGINNING
