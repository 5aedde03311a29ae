"""What is asked of a human review workflow before the first loop is started with it."""

import logging
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from typing import Any

from model_delivery.exceptions import InvalidRequestError, JobRefusedError
from model_delivery.jobs.faults import DENIED_CODES, MISSING_CODES, error_code, is_service_error
from model_delivery.service_errors import named_errors

log = logging.getLogger(__name__)

# RenderUiTemplate, Task.Input: characters.
LONGEST_SAMPLE = 128_000
_ELEMENTS_SCRIPT = "crowd-html-elements"
# Source: "Crowd HTML Elements Reference" of the SageMaker developer guide. These hold others, or
# answer places in what is shown, which are no label.
_WITHOUT_LABEL = frozenset(
    {
        "crowd-alert", "crowd-badge", "crowd-bounding-box", "crowd-button", "crowd-card",
        "crowd-entity-annotation", "crowd-fab", "crowd-form", "crowd-icon-button", "crowd-image",
        "crowd-instance-segmentation", "crowd-instructions", "crowd-keypoint", "crowd-line",
        "crowd-modal", "crowd-polygon", "crowd-polyline", "crowd-semantic-segmentation",
        "crowd-splash", "crowd-tab", "crowd-tabs", "crowd-toast",
    }
)  # fmt: skip
# These have nothing to choose where the item brings no categories.
_OF_CATEGORIES = frozenset(
    {
        "crowd-classifier", "crowd-classifier-multi-select", "crowd-image-classifier",
        "crowd-image-classifier-multi-select",
    }
)  # fmt: skip
_EMPTY = frozenset({"", "[]", "{}", "null"})
_INPUTS = frozenset({"input", "select", "textarea"})


def describe_workflow(hook: Any, flow_definition_arn: str) -> dict[str, Any]:
    """Return the service's description of a workflow.

    :param hook: a `HumanReviewHook`
    :raises JobRefusedError: there is none of that name
    """
    try:
        with named_errors(f"flow definition {flow_definition_arn}"):
            return dict(hook.describe_flow_definition(flow_definition_arn.rpartition("/")[2]))
    except Exception as error:
        if error_code(error.__cause__ or error) not in MISSING_CODES:
            raise
        raise JobRefusedError(
            f"flow definition {flow_definition_arn} does not exist: create it with "
            "CreateFlowDefinitionOperator"
        ) from error


def workteam_of(flow: Mapping[str, Any]) -> str:
    """Return the ARN of a workflow's team."""
    return str(flow["HumanLoopConfig"]["WorkteamArn"])


def check_template(hook: Any, flow: Mapping[str, Any], item: str, content: str) -> None:
    """Have the service fill an item into a workflow's template, as its reviewers will meet it.

    What cannot be asked is left: a role without that right, an input that is too long for it.

    :param content: the item's input, JSON text
    :raises InvalidRequestError: the template cannot be rendered, or asks for no label
    """
    arn, about = flow["HumanLoopConfig"]["HumanTaskUiArn"], str(flow["FlowDefinitionArn"])
    if len(content) > LONGEST_SAMPLE:
        log.info("%s: its template is not tried, item %s is too long for that", about, item)
        return
    request = {"HumanTaskUiArn": arn, "Task": {"Input": content}, "RoleArn": flow["RoleArn"]}
    try:
        rendered = hook.render_ui_template(request)
    except Exception as error:
        if is_service_error(error) and error_code(error) in DENIED_CODES:
            log.warning("%s: its template is not tried: %s", about, error)
            return
        with named_errors(f"{about}: {arn}"):
            raise
    said = [f"{each['Code']}: {each['Message']}" for each in rendered["Errors"]]
    if not said and not asks_for_label(rendered["RenderedContent"]):
        said = [
            "it has no element that answers a label, as crowd-classifier does with its categories"
        ]
    if said:
        raise InvalidRequestError(
            f"{about}: its template {arn} cannot be used for item {item}: {'; '.join(said)}. No "
            "human loop was started: correct the template, or what the results say of the item"
        )


def asks_for_label(page: str) -> bool:
    """Tell whether a rendered template may answer a label: a script may make any element."""
    found = _Elements()
    found.feed(page)
    found.close()
    return found.asks


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.asks = False

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        if tag == "script":
            self.asks |= _ELEMENTS_SCRIPT not in (dict(attrs).get("src") or "")
        else:
            custom = tag.startswith("crowd-") and tag not in _WITHOUT_LABEL
            if tag in _OF_CATEGORIES:
                custom = (dict(attrs).get("categories") or "").strip() not in _EMPTY
            self.asks |= custom or tag in _INPUTS
