"""Who reviews in a stack: a work team in localcloud, and scripted reviewers who say that they are.

A scripted reviewer signs in to the portal as a person does and uses the calls of its pages.
"""

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from model_delivery_engine.review.forms import form

from stack.credentials import ACCOUNT, REGION, Credentials
from stack.localcloud import LocalCloud
from stack.processes import StackError
from stack.review_desk import Reviewer

GROUP = "reviewers"
TEAM = "reviewers"
TEAM_ARN = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:workteam/private-crowd/{TEAM}"
# What is hard for the model is hard for the second too, so that there is disagreement to see.
SCRIPTED = ("scripted-reviewer-1", "scripted-reviewer-2")
_UNSURE_BELOW = {SCRIPTED[0]: 0.0, SCRIPTED[1]: 0.5}
TEXTRACT = "AWS/Textract/AnalyzeDocument/Forms/V1"
_PAUSE_SECONDS = 0.3
_SPENT_MS = 800

# What a reviewer answers an item, by its input; None leaves it to somebody else.
Judge = Callable[[Mapping[str, Any]], dict[str, Any] | None]


def prepare_team(cloud: LocalCloud, credentials: Credentials) -> None:
    """Make the reviewers' accounts and their work team, in a localcloud that answers."""
    for name in SCRIPTED:
        cloud.run("user", "add", name, "--role", "reviewer", "--group", GROUP,
                  secret=credentials.localcloud_user_password)  # fmt: skip
    client = _sagemaker(cloud, credentials)
    try:
        client.create_workteam(
            WorkteamName=TEAM,
            MemberDefinitions=[{"OidcMemberDefinition": {"Groups": [GROUP]}}],
            Description="People who review what a model is unsure of.",
        )
    except client.exceptions.ClientError as error:
        if error.response["Error"]["Code"] != "ResourceInUse":
            raise


def _sagemaker(cloud: LocalCloud, credentials: Credentials) -> Any:
    import boto3

    return boto3.client(
        "sagemaker", endpoint_url=cloud.url, region_name=REGION,
        aws_access_key_id=credentials.aws_access_key_id,
        aws_secret_access_key=credentials.aws_secret_access_key,
    )  # fmt: skip


class ScriptedReviewers:
    """Two reviewers who answer whatever comes into their queues until the block ends.

    :param judge_of: a reviewer's judgement, by their name.
    """

    def __init__(
        self, cloud: LocalCloud, credentials: Credentials, judge_of: Callable[[str], Judge]
    ) -> None:
        self._url = cloud.url
        self._password = credentials.localcloud_user_password
        self._judge_of = judge_of
        self._over = threading.Event()
        self._failure: Exception | None = None
        self.answers = 0
        self._threads = [
            threading.Thread(target=self._review, args=(name,), daemon=True) for name in SCRIPTED
        ]

    def __enter__(self) -> "ScriptedReviewers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def require_running(self) -> None:
        """Raise StackError where a reviewer has stopped by themselves."""
        if self._failure is not None:
            raise StackError(f"a scripted reviewer stopped: {self._failure}")

    def _review(self, name: str) -> None:
        try:
            with Reviewer(self._url, name, self._password) as reviewer:
                while not self._over.wait(_PAUSE_SECONDS):
                    for queue in reviewer.queues():
                        self._empty(reviewer, queue["flow"], self._judge_of(name))
        except Exception as error:
            self._failure = error

    def _empty(self, reviewer: Reviewer, flow: str, judge: Judge) -> None:
        items = reviewer.call(flow, "next")["items"]
        while items and not self._over.is_set():
            (item,) = items
            answer = judge(item["input"])
            if answer is None:
                brought = reviewer.call(flow, "skip", loop=item["loop"], next=True)
            else:
                brought = reviewer.call(flow, "answer", loop=item["loop"], answer=answer,
                                        spent_ms=_SPENT_MS, next=True)  # fmt: skip
                self.answers += 1
            items = brought["items"]


def digit_judge(truths: Mapping[str, str]) -> Callable[[str], Judge]:
    """Return reviewers of digits who know the labels; the second errs on what is hard.

    :param truths: label by item
    """

    def judge_of(name: str) -> Judge:
        unsure_below = _UNSURE_BELOW[name]

        def judge(content: Mapping[str, Any]) -> dict[str, Any] | None:
            truth = truths.get(str(content.get("item")))
            if truth is None:
                return None
            errs = content["confidence"] < unsure_below
            label = str((int(truth) + 1) % 10) if errs else truth
            return {"digit": {"label": label}}

        return judge

    return judge_of


def form_judge(truths: Mapping[str, Mapping[str, str]]) -> Callable[[str], Judge]:
    """Return reviewers of forms who know what stands in them.

    :param truths: by item: text by key
    """

    def judge(content: Mapping[str, Any]) -> dict[str, Any] | None:
        truth = truths.get(str(content.get("item")))
        if truth is None:
            return None
        return {TEXTRACT: {"blocks": _corrected(content["selectedAiServiceResponse"], truth)}}

    return lambda _name: judge


def _corrected(response: Mapping[str, Any], truth: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the blocks, each value's with the text that stands in the document."""
    right = {
        pair.value_id: truth[pair.key]
        for pair in form(b"", response).pairs
        if pair.key in truth and truth[pair.key] != pair.value
    }
    return [
        {**block, "text": right[block["id"]]} if block["id"] in right else dict(block)
        for block in response["blocks"]
    ]


def either(first: Callable[[str], Judge], second: Callable[[str], Judge]) -> Callable[[str], Judge]:
    """Return reviewers who answer what the first judgement knows, or else the second."""

    def judge_of(name: str) -> Judge:
        one, other = first(name), second(name)
        return lambda content: one(content) or other(content)

    return judge_of


def labels_of(records: Path) -> dict[str, str]:
    """Return the label of each record of `held_out.jsonl`."""
    lines = map(json.loads, records.read_text().splitlines())
    return {line["id"]: str(line["label"]) for line in lines}
