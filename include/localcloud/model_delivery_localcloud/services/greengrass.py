"""AWS IoT Greengrass v2: the parts of the service put together."""

from collections.abc import Mapping

from model_delivery_localcloud.objects import ObjectStore
from model_delivery_localcloud.protocol.gateway import Handler
from model_delivery_localcloud.services import greengrass_component_versions, greengrass_tags
from model_delivery_localcloud.services.greengrass_components import Components
from model_delivery_localcloud.services.greengrass_deployments import Deployments
from model_delivery_localcloud.services.greengrass_devices import CoreDevices
from model_delivery_localcloud.store.database import Database


def handlers(database: Database, objects: ObjectStore) -> Mapping[str, Handler]:
    """Return Greengrass's built operations."""
    return {
        **Components(database, objects).handlers(),
        **Deployments(database).handlers(),
        **CoreDevices(database).handlers(),
        **greengrass_component_versions.handlers(database),
        **greengrass_tags.handlers(database),
    }
