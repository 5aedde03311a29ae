"""The ARNs of Augmented AI's resources: made, and taken apart again."""

from model_delivery_localcloud.errors import validation_error
from model_delivery_localcloud.protocol.messages import Caller

FLOW_DEFINITION = "flow-definition"
HUMAN_TASK_UI = "human-task-ui"
HUMAN_LOOP = "human-loop"
WORKTEAM = "workteam/private-crowd"


def scope_of(caller: Caller) -> tuple[str, str]:
    """Return the account and region that a caller's resources are in."""
    return caller.account, caller.region


def arn_of(caller: Caller, kind: str, name: str) -> str:
    """Return the ARN of a resource of the caller's account and region."""
    return f"arn:aws:sagemaker:{caller.region}:{caller.account}:{kind}/{name}"


def name_in(arn: str, caller: Caller, kind: str, member: str) -> str:
    """Return the name in an ARN of the caller's; raises ValidationException naming the member."""
    prefix = arn_of(caller, kind, "")
    name = arn.removeprefix(prefix)
    if name == arn or not name or "/" in name:
        raise validation_error(
            f"{member} is '{arn}': localcloud's begin with '{prefix}', in your own account and "
            "region."
        )
    return name
