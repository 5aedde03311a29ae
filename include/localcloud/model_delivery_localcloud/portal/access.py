"""Who may work on which queue."""

from model_delivery_localcloud.portal.remembered import Remembered
from model_delivery_localcloud.store import review_resources as resources
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.review_tables import FlowDefinition
from model_delivery_localcloud.store.tables import User
from model_delivery_localcloud.store.users import Role


class Access:
    """The queues that people may see."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known = Remembered(self._find)
        # Whoever is not in a team as it was a moment ago may have just joined it.
        self._anew = Remembered(self._find_for)

    def flow(self, user: User, flow_id: str) -> FlowDefinition | None:
        """Return an active flow definition that the user may work on, or None."""
        if "\0" in flow_id:  # no text to Postgres
            return None
        flow, members = self._known.get(flow_id)
        if flow is None or not _may_work(user, members):
            flow, members = self._anew.get((flow_id, user.name))
        if flow is None or not _may_work(user, members):
            # Nor is a refusal remembered: they may join within the moment.
            self._anew.forget((flow_id, user.name))
            return None
        return flow

    def _find_for(self, key: tuple[str, str]) -> tuple[FlowDefinition | None, set[str]]:
        flow_id, _name = key
        return self._find(flow_id)

    def _find(self, flow_id: str) -> tuple[FlowDefinition | None, set[str]]:
        """Return an active flow definition with its team: one look for all of them."""
        with self._database.read() as session:
            flow = resources.find_flow(session, flow_id)
            if flow is None or flow.status != resources.ACTIVE:
                return None, set()
            return flow, resources.members_of(session, flow)


def _may_work(user: User, members: set[str]) -> bool:
    return user.role == Role.ADMIN or user.name in members
