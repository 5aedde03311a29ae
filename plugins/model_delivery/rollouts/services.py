"""The two services that a rollout calls, by which kind its calls are."""

from model_delivery.jobs.service import Call, CalledService
from model_delivery.rollouts.calls import IotCall


class Greengrass(CalledService):
    """IoT Greengrass v2."""

    hook_path = "model_delivery.hooks.edge.GreengrassV2Hook"
    noun = "rollout"
    # Of a client token, or of a deployment that is over: asking again changes nothing.
    taken_codes = frozenset({"ConflictException"})


class Iot(CalledService):
    """AWS IoT's things and thing groups."""

    hook_path = "model_delivery.hooks.edge.IotHook"
    noun = "rollout"
    # Somebody else was faster.
    taken_codes = frozenset({"VersionConflictException", "ResourceAlreadyExistsException"})


GREENGRASS, IOT = Greengrass(), Iot()


def service_of(call: Call) -> CalledService:
    """Return the service that a call goes to."""
    return IOT if isinstance(call, IotCall) else GREENGRASS
