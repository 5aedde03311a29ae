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

    def flow(self, user: User, flow_id: str) -> FlowDefinition | None:
        """Return an active flow definition that the user may work on, or None."""
        if "\0" in flow_id:  # no text to Postgres
            return None
        return self._known.get((user.name, user.role, flow_id))

    def _find(self, key: tuple[str, str, str]) -> FlowDefinition | None:
        name, role, flow_id = key
        with self._database.read() as session:
            flow = resources.find_flow(session, flow_id)
            if flow is None or flow.status != resources.ACTIVE:
                return None
            if role == Role.ADMIN or resources.is_member(session, name, flow):
                return flow
            return None
