"""Worker task templates of Augmented AI: human task UIs."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import Context

from model_delivery.aws import AWS_TEMPLATE_FIELDS, AwsConnected, as_line
from model_delivery.exceptions import InvalidRequestError, RequestDiffersError
from model_delivery.service_errors import named_errors
from model_delivery.storage_connected import AwsAndStorageConnected
from model_delivery.xcom import (
    VERSION,
    DeletedReviewResource,
    HumanTaskUiResult,
    RenderedUiTemplate,
    ReviewResourceListing,
)

HOOK = "model_delivery.hooks.human_review.HumanReviewHook"
NAMES_IN_XCOM = 100


class CreateHumanTaskUiOperator(AwsConnected):
    """Makes the template that reviewers work with; the same one again is left as it is.

    Source: SageMaker API, CreateHumanTaskUi.

    :param human_task_ui_name: name, lower-case letters, digits and hyphens.
    :param content: the template: Liquid and `crowd-*` elements, at most 128,000 characters. It is
        not rendered by Airflow, whose braces Liquid shares.
    :param tags: tags of the template, at most 50.
    """

    template_fields: Sequence[str] = (*AWS_TEMPLATE_FIELDS, "human_task_ui_name", "tags")

    def __init__(
        self,
        *,
        human_task_ui_name: str,
        content: str,
        tags: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.human_task_ui_name = human_task_ui_name
        self.content = content
        self.tags = tags

    @property
    def hook_path(self) -> str:
        """SageMaker."""
        return HOOK

    def execute(self, context: Context) -> HumanTaskUiResult:
        """Create it; of one that is there, compare the content by its digest."""
        from model_delivery.jobs.faults import error_code

        name = self.human_task_ui_name
        request: dict[str, Any] = {
            "HumanTaskUiName": name,
            "UiTemplate": {"Content": self.content},
        }
        if self.tags:
            request["Tags"] = [{"Key": key, "Value": value} for key, value in self.tags.items()]
        self.hook.check_human_task_ui(request)
        about = f"human task UI {name}"
        try:
            with named_errors(about):
                arn = self.hook.create_human_task_ui(request)
        except Exception as error:
            if error_code(error.__cause__ or error) != "ResourceInUse":
                raise
            arn = self._existing()
        self.log.info("%s is %s", about, arn)
        return {
            "version": VERSION,
            "human_task_ui_arn": arn,
            "human_task_ui_name": name,
            "status": "Active",
            "content_sha256": _digest(self.content),
        }

    def _existing(self) -> str:
        name = self.human_task_ui_name
        with named_errors(f"human task UI {name}"):
            found = self.hook.describe_human_task_ui(name)
        if found["UiTemplate"].get("ContentSha256") != _digest(self.content):
            raise RequestDiffersError(
                f"human task UI {name} exists with another content: choose another name, or delete "
                "it with DeleteHumanTaskUiOperator"
            )
        return str(found["HumanTaskUiArn"])


class RenderUiTemplateOperator(AwsAndStorageConnected):
    """Fills a representative task into a template and writes the page that reviewers would see.

    A template that cannot be rendered fails the task with what the service says of it, before any
    reviewer meets it.

    Source: SageMaker API, RenderUiTemplate.

    :param role_arn: IAM role that may read the objects that the template names.
    :param task_input: what a human loop would be about: a dictionary, or its JSON text.
    :param output_uri: where the rendered HTML is written.
    :param content: the template; or
    :param human_task_ui_arn: ARN of a human task UI.
    """

    template_fields: Sequence[str] = (
        *AwsAndStorageConnected.template_fields, "role_arn", "task_input", "output_uri",
        "human_task_ui_arn",
    )  # fmt: skip

    def __init__(
        self,
        *,
        role_arn: str,
        task_input: Mapping[str, Any] | str,
        output_uri: str,
        content: str | None = None,
        human_task_ui_arn: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.role_arn = role_arn
        self.task_input = task_input
        self.output_uri = output_uri
        self.content = content
        self.human_task_ui_arn = human_task_ui_arn

    @property
    def hook_path(self) -> str:
        """SageMaker."""
        return HOOK

    def execute(self, context: Context) -> RenderedUiTemplate:
        """Render, then write."""
        if bool(self.content) == bool(self.human_task_ui_arn):
            raise InvalidRequestError("give content or human_task_ui_arn, and not both")
        given = self.task_input
        text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
        request: dict[str, Any] = {"Task": {"Input": text}, "RoleArn": self.role_arn}
        if self.content:
            request["UiTemplate"] = {"Content": self.content}
        else:
            request["HumanTaskUiArn"] = self.human_task_ui_arn
        about = self.human_task_ui_arn or "the template"
        with named_errors(about):
            rendered = self.hook.render_ui_template(request)
        if rendered["Errors"]:
            said = "; ".join(f"{each['Code']}: {each['Message']}" for each in rendered["Errors"])
            raise InvalidRequestError(f"{about} cannot be rendered: {said}")
        page = rendered["RenderedContent"].encode()
        self._storage().write_bytes(self.output_uri, page)
        self.log.info("%s rendered: %d bytes at %s", about, len(page), self.output_uri)
        return {"version": VERSION, "output_uri": self.output_uri}


class DescribeHumanTaskUiOperator(AwsConnected):
    """Describes a worker task template.

    Source: SageMaker API, DescribeHumanTaskUi.

    :param human_task_ui_name: its name.
    """

    template_fields: Sequence[str] = (*AWS_TEMPLATE_FIELDS, "human_task_ui_name")

    def __init__(self, *, human_task_ui_name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.human_task_ui_name = human_task_ui_name

    @property
    def hook_path(self) -> str:
        """SageMaker."""
        return HOOK

    def execute(self, context: Context) -> HumanTaskUiResult:
        """Describe it."""
        with named_errors(f"human task UI {self.human_task_ui_name}"):
            found = self.hook.describe_human_task_ui(self.human_task_ui_name)
        return {
            "version": VERSION,
            "human_task_ui_arn": found["HumanTaskUiArn"],
            "human_task_ui_name": found["HumanTaskUiName"],
            "status": found.get("HumanTaskUiStatus", "Active"),
            "content_sha256": found["UiTemplate"].get("ContentSha256", ""),
        }


class _ListOperator(AwsAndStorageConnected):
    """Lists what a service has: summaries go to storage, the first names to XCom.

    :param output_uri: URI of the JSON Lines to write, a summary a line. (default: none)
    :param created_after: created later than this time, as ISO 8601 text.
    :param created_before: created earlier.
    :param sort_order: Ascending or Descending by creation time. (default: Ascending)
    """

    template_fields: Sequence[str] = (
        *AwsAndStorageConnected.template_fields, "output_uri", "created_after", "created_before",
        "sort_order",
    )  # fmt: skip
    name_member = ""

    def __init__(
        self,
        *,
        output_uri: str | None = None,
        created_after: str | None = None,
        created_before: str | None = None,
        sort_order: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.output_uri = output_uri
        self.created_after = created_after
        self.created_before = created_before
        self.sort_order = sort_order

    @property
    def hook_path(self) -> str:
        """SageMaker."""
        return HOOK

    def _listing(self, listed: Any, about: str) -> ReviewResourceListing:
        names: list[str] = []
        lines: list[bytes] = []
        filters = {
            "CreationTimeAfter": self.created_after,
            "CreationTimeBefore": self.created_before,
            "SortOrder": self.sort_order,
        }
        with named_errors(about):
            for each in listed(**{name: value for name, value in filters.items() if value}):
                names.append(each[self.name_member])
                lines.append(as_line(each))
        if self.output_uri:
            self._storage().write_stream(self.output_uri, lines)
        return {
            "version": VERSION,
            "count": len(names),
            "names": names[:NAMES_IN_XCOM],
            "output_uri": self.output_uri or "",
        }


class ListHumanTaskUisOperator(_ListOperator):
    """Lists worker task templates; the summaries go to storage, the first names to XCom.

    Source: SageMaker API, ListHumanTaskUis.
    """

    name_member = "HumanTaskUiName"

    def execute(self, context: Context) -> ReviewResourceListing:
        """Page through the list."""
        return self._listing(self.hook.list_human_task_uis, "the human task UIs")


class DeleteHumanTaskUiOperator(AwsConnected):
    """Deletes a worker task template; one that is not there is no error.

    Source: SageMaker API, DeleteHumanTaskUi.

    :param human_task_ui_name: its name.
    """

    template_fields: Sequence[str] = (*AWS_TEMPLATE_FIELDS, "human_task_ui_name")

    def __init__(self, *, human_task_ui_name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.human_task_ui_name = human_task_ui_name

    @property
    def hook_path(self) -> str:
        """SageMaker."""
        return HOOK

    def execute(self, context: Context) -> DeletedReviewResource:
        """Delete it, once."""
        name = self.human_task_ui_name
        return deleted(name, lambda: self.hook.delete_human_task_ui(name), f"human task UI {name}")


def deleted(name: str, delete: Any, about: str) -> DeletedReviewResource:
    """Delete, and say whether there was something to delete."""
    from model_delivery.jobs.faults import error_code

    try:
        with named_errors(about):
            delete()
    except Exception as error:
        if error_code(error.__cause__ or error) != "ResourceNotFound":
            raise
        return {"version": VERSION, "name": name, "deleted": False}
    return {"version": VERSION, "name": name, "deleted": True}


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()
