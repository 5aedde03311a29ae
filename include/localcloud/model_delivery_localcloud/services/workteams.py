"""Amazon SageMaker: private work teams, whose members are groups of portal users."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from model_delivery_localcloud.clock import now_ms, to_datetime
from model_delivery_localcloud.errors import ServiceError, validation_error
from model_delivery_localcloud.protocol.gateway import Handler
from model_delivery_localcloud.protocol.messages import Call, Caller
from model_delivery_localcloud.services.refusals import refuse_members
from model_delivery_localcloud.services.review_lists import answer_page
from model_delivery_localcloud.services.review_names import WORKTEAM, arn_of, scope_of
from model_delivery_localcloud.services.sagemaker_tags import check_tags
from model_delivery_localcloud.store import review_resources as states
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.review_tables import FlowDefinition, Workteam

WORKFORCE = "default"
_REFUSED = ("NotificationConfiguration", "WorkerAccessConfiguration")


class Workteams:
    """Work teams over the store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def handlers(self) -> Mapping[str, Handler]:
        """Return the operations on work teams."""
        return {
            "CreateWorkteam": self.create,
            "DescribeWorkteam": self.describe,
            "UpdateWorkteam": self.update,
            "ListWorkteams": self.list,
            "DeleteWorkteam": self.delete,
        }

    def create(self, call: Call) -> dict[str, Any]:
        """Make a work team of the users who are in its groups."""
        params, scope = dict(call.params), scope_of(call.caller)
        refuse_members(params, _REFUSED)
        if params.get("WorkforceName", WORKFORCE) != WORKFORCE:
            raise validation_error(f"localcloud has one workforce, '{WORKFORCE}'.")
        check_tags(params.get("Tags", []))
        groups = _groups(params)
        name, now = params["WorkteamName"], now_ms()
        arn = arn_of(call.caller, WORKTEAM, name)
        team = Workteam(
            account=scope[0], region=scope[1], name=name, request=params, created_at=now,
            modified_at=now,
        )  # fmt: skip
        try:
            with self._database.write() as session:
                session.add(team)
                session.flush()
                states.set_groups(session, team, groups)
        except IntegrityError:
            raise ServiceError(
                "ResourceInUse", f"Work team already exists: {arn}; choose another name."
            ) from None
        return {"WorkteamArn": arn}

    def describe(self, call: Call) -> dict[str, Any]:
        """Answer a work team."""
        with self._database.read() as session:
            return {"Workteam": _description(_find(session, call), call.caller)}

    def update(self, call: Call) -> dict[str, Any]:
        """Change a team's groups, its description, or both."""
        refuse_members(call.params, _REFUSED)
        changes = {
            key: call.params[key]
            for key in ("MemberDefinitions", "Description")
            if key in call.params
        }
        with self._database.write() as session:
            team = _find(session, call)
            team.request = {**team.request, **changes}
            team.modified_at = max(now_ms(), team.modified_at)
            states.set_groups(session, team, _groups(team.request))
            return {"Workteam": _description(team, call.caller)}

    def list(self, call: Call) -> dict[str, Any]:
        """Answer one page of work teams."""
        return answer_page(
            self._database, call, Workteam, "Workteams", lambda row: _description(row, call.caller)
        )

    def delete(self, call: Call) -> dict[str, Any]:
        """Delete a team that no flow definition uses."""
        with self._database.write() as session:
            team = _find(session, call, states.lock)
            flow = states.flow_using(
                session, scope_of(call.caller), FlowDefinition.workteam, team.name
            )
            if flow is not None:
                raise ServiceError(
                    "ResourceInUse",
                    f"The flow definition {flow.name} uses {team.name}: delete it first.",
                )
            states.set_groups(session, team, [])
            session.delete(team)
        return {"Success": True}


def _groups(params: Mapping[str, Any]) -> list[str]:
    groups: list[str] = []
    for member in params["MemberDefinitions"]:
        if "OidcMemberDefinition" not in member or "CognitoMemberDefinition" in member:
            raise validation_error(
                "localcloud has no Cognito: give MemberDefinitions as OidcMemberDefinition with "
                "Groups; `model-delivery-localcloud user add NAME --group GROUP` puts a person "
                "into one."
            )
        groups += member["OidcMemberDefinition"].get("Groups", [])
    if not groups:
        raise validation_error("MemberDefinitions names no group: nobody would be in the team.")
    return groups


def _description(team: Workteam, caller: Caller) -> dict[str, Any]:
    return {
        "WorkteamName": team.name,
        "MemberDefinitions": team.request["MemberDefinitions"],
        "WorkteamArn": arn_of(caller, WORKTEAM, team.name),
        "Description": team.request["Description"],
        "CreateDate": to_datetime(team.created_at),
        "LastUpdatedDate": to_datetime(team.modified_at),
    }


def _find(session: Session, call: Call, find: Any = states.find) -> Workteam:
    name = call.params["WorkteamName"]
    team: Workteam | None = find(session, Workteam, scope_of(call.caller), name)
    if team is None:
        raise validation_error(f"Could not find work team {arn_of(call.caller, WORKTEAM, name)}.")
    return team
