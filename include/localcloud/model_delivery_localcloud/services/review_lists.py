"""The lists of flow definitions, human task UIs and work teams."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement

from model_delivery_localcloud.clock import to_milliseconds
from model_delivery_localcloud.protocol.messages import Call
from model_delivery_localcloud.services.paging import decode_token, encode_token
from model_delivery_localcloud.services.review_names import scope_of
from model_delivery_localcloud.store import review_resources as states
from model_delivery_localcloud.store.database import Database

DEFAULT_PAGE = 10
_ASCENDING = "Ascending"


def answer_page(
    database: Database,
    call: Call,
    table: Any,
    member: str,
    summary: Callable[[Any], dict[str, Any]],
) -> dict[str, Any]:
    """Answer one page of a list, as its filters, order and token say.

    `member`: the output's list. Flow definitions and task UIs sort by creation time, work teams
    by name unless SortBy says otherwise.
    """
    params = call.params
    order = table.name if params.get("SortBy") == "Name" else table.created_at
    filters = {key: params[key] for key in params if key not in {"NextToken", "MaxResults"}}
    key = (str if order is table.name else int, str)
    after = decode_token(params.get("NextToken"), filters, key)
    limit = params.get("MaxResults", DEFAULT_PAGE)
    with database.read() as session:
        rows = states.page_of(
            session,
            table,
            scope_of(call.caller),
            order=order,
            conditions=_conditions(table, params),
            descending=params.get("SortOrder", _ASCENDING) != _ASCENDING,
            after=after,
            limit=limit + 1,
        )
    page = rows[:limit]
    answer: dict[str, Any] = {member: [summary(row) for row in page]}
    if len(rows) > limit:
        last = page[-1]
        answer["NextToken"] = encode_token([getattr(last, order.key), last.name], filters)
    return answer


def _conditions(table: Any, params: Any) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if "CreationTimeAfter" in params:
        found.append(table.created_at > to_milliseconds(params["CreationTimeAfter"]))
    if "CreationTimeBefore" in params:
        found.append(table.created_at < to_milliseconds(params["CreationTimeBefore"]))
    if "NameContains" in params:
        found.append(table.name.icontains(params["NameContains"], autoescape=True))
    return found
