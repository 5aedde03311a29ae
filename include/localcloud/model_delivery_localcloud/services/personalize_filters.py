"""Amazon Personalize: filters by item attribute."""

from collections.abc import Mapping
from typing import Any

from model_delivery_engine.batch.item_filters import ItemFilter, parse_filter
from model_delivery_engine.errors import EngineError
from sqlalchemy.exc import IntegrityError

from model_delivery_localcloud.clock import now_ms, to_datetime
from model_delivery_localcloud.errors import ServiceError
from model_delivery_localcloud.protocol.gateway import Handler
from model_delivery_localcloud.protocol.messages import Call, Caller
from model_delivery_localcloud.services import personalize_tags
from model_delivery_localcloud.services.arns import DATASET_GROUP, FILTER, arn_of
from model_delivery_localcloud.services.paging import decode_token, encode_token
from model_delivery_localcloud.services.personalize_errors import (
    already_exists,
    bad_token,
    invalid_input,
    not_found,
    resource,
)
from model_delivery_localcloud.store import personalize as states
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.tables import RecommendationFilter, SolutionVersion

DEFAULT_PAGE = 100


def handlers(database: Database) -> Mapping[str, Handler]:
    """Return the operations on filters."""
    filters = Filters(database)
    return {
        "CreateFilter": filters.create,
        "DescribeFilter": filters.describe,
        "ListFilters": filters.list,
        "DeleteFilter": filters.delete,
    }


class Filters:
    """Filters over the store; they are active at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, call: Call) -> dict[str, Any]:
        """Keep a filter whose expression can be read and whose fields the items have."""
        params, caller = call.params, call.caller
        (group,) = resource(params["datasetGroupArn"], caller, DATASET_GROUP).names
        scope = caller.account, caller.region
        arn, tags = arn_of(caller, FILTER, params["name"]), personalize_tags.tags_of(params)
        try:
            with self._database.write() as session:
                versions = states.versions_of_group(session, scope, group)
                if not versions:
                    raise not_found(params["datasetGroupArn"])
                check_fields(params["filterExpression"], versions[0])
                session.add(
                    RecommendationFilter(
                        account=caller.account,
                        region=caller.region,
                        name=params["name"],
                        dataset_group=group,
                        expression=params["filterExpression"],
                        tags=tags,
                        created_at=now_ms(),
                    )
                )
        except IntegrityError:
            raise already_exists(arn) from None
        return {"filterArn": arn}

    def describe(self, call: Call) -> dict[str, Any]:
        """Answer a filter with its expression."""
        found = self._find(call)
        told = {**_summary(found, call.caller), "filterExpression": found.expression}
        return {"filter": told}

    def list(self, call: Call) -> dict[str, Any]:
        """Answer one page of filters, newest first."""
        params, caller = call.params, call.caller
        group = None
        if "datasetGroupArn" in params:
            (group,) = resource(params["datasetGroupArn"], caller, DATASET_GROUP).names
        wanted = {"group": group}
        after = decode_token(params.get("nextToken"), wanted, (int, str), bad_token)
        limit = params.get("maxResults", DEFAULT_PAGE)
        with self._database.read() as session:
            scope = caller.account, caller.region
            rows = states.list_filters(session, scope, group, after, limit + 1)
        answer: dict[str, Any] = {"Filters": [_summary(each, caller) for each in rows[:limit]]}
        if len(rows) > limit:
            answer["nextToken"] = encode_token(states.sort_key(rows[limit - 1]), wanted)
        return answer

    def delete(self, call: Call) -> dict[str, Any]:
        """Delete a filter that no job uses."""
        found = self._find(call)
        arn = call.params["filterArn"]
        with self._database.write() as session:
            if states.filter_in_use(session, (found.account, found.region), arn):
                raise ServiceError("ResourceInUseException", f"A job uses the filter {arn}.")
            session.delete(found)
        return {}

    def _find(self, call: Call) -> RecommendationFilter:
        arn = call.params["filterArn"]
        (name,) = resource(arn, call.caller, FILTER).names
        with self._database.read() as session:
            scope = call.caller.account, call.caller.region
            found = states.find_filter(session, scope, name)
        if found is None:
            raise not_found(arn)
        return found


def check_fields(expression: str, version: SolutionVersion) -> None:
    """Raise InvalidInput unless the version's items have what the expression looks at."""
    missing = sorted(_parsed(expression).fields - set(version.item_fields))
    if missing:
        known = ", ".join(version.item_fields) or "none: it was registered without items"
        raise invalid_input(
            f"The items of dataset group {version.dataset_group} have no field {missing[0]}; "
            f"they have {known}."
        )


def _parsed(expression: str) -> ItemFilter:
    try:
        return parse_filter(expression)
    except EngineError as error:
        raise invalid_input(f"localcloud: {error}.") from error


def _summary(found: RecommendationFilter, caller: Caller) -> dict[str, Any]:
    created = to_datetime(found.created_at)
    return {
        "name": found.name,
        "filterArn": arn_of(caller, FILTER, found.name),
        "datasetGroupArn": arn_of(caller, DATASET_GROUP, found.dataset_group),
        "status": states.ACTIVE,
        "creationDateTime": created,
        "lastUpdatedDateTime": created,
    }
