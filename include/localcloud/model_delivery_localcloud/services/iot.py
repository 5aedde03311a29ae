"""AWS IoT: the registry calls that deployments to fleets need, put together."""

from collections.abc import Mapping

from model_delivery_localcloud.protocol.gateway import Handler
from model_delivery_localcloud.services import iot_tags
from model_delivery_localcloud.services.iot_groups import ThingGroups
from model_delivery_localcloud.services.iot_members import Memberships
from model_delivery_localcloud.services.iot_things import Things
from model_delivery_localcloud.store.database import Database


def handlers(database: Database) -> Mapping[str, Handler]:
    """Return IoT's built operations."""
    return {
        **Things(database).handlers(),
        **ThingGroups(database).handlers(),
        **Memberships(database).handlers(),
        **iot_tags.handlers(database),
    }
