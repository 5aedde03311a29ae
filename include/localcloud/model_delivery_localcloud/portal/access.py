"""Who may work on which queue, remembered for a moment: it is asked for each answer."""

import time
from threading import Lock

from model_delivery_localcloud.store import review_resources as resources
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.review_tables import FlowDefinition
from model_delivery_localcloud.store.tables import User
from model_delivery_localcloud.store.users import Role

REMEMBERED_SECONDS = 3.0
MOST = 10_000


class Access:
    """The queues that people may see. Who is taken off a team loses them within 3 s."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = Lock()
        self._known: dict[tuple[str, str, str], tuple[float, FlowDefinition | None]] = {}

    def flow(self, user: User, flow_id: str) -> FlowDefinition | None:
        """Return an active flow definition that the user may work on, or None."""
        key = user.name, user.role, flow_id
        now = time.monotonic()
        until, flow = self._known.get(key, (0.0, None))
        if now < until:
            return flow
        flow = self._find(user, flow_id)
        with self._lock:
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[key] = now + REMEMBERED_SECONDS, flow
        return flow

    def _find(self, user: User, flow_id: str) -> FlowDefinition | None:
        with self._database.read() as session:
            flow = resources.find_flow(session, flow_id)
            if flow is None or flow.status != resources.ACTIVE:
                return None
            if user.role == Role.ADMIN or resources.is_member(session, user.name, flow):
                return flow
            return None
