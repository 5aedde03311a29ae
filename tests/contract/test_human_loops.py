"""The runtime's five operations through boto3, and reviewers' answers through the portal."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from botocore.exceptions import ClientError
from model_delivery_localcloud.settings import Settings
from model_delivery_localcloud.store.database import Database
from sqlalchemy import text

from stack.credentials import ACCOUNT
from tests.contract.review_world import LABELS, Flow, make_flow

pytestmark = pytest.mark.usefixtures("worker")


@pytest.fixture(scope="module")
def cloud(cloud_over_each: Any) -> Any:
    return cloud_over_each


@pytest.fixture(scope="module")
def flow(cloud: Any) -> Flow:
    return make_flow(cloud)


def answer(label: str) -> dict[str, Any]:
    return {"digit": {"label": label}}


def error_of(call: Any, **request: Any) -> tuple[str, int]:
    with pytest.raises(ClientError) as refused:
        call(**request)
    response = refused.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def test_a_loop_is_answered_and_its_output_laid_out_as_a2i_does(flow: Flow) -> None:
    name = flow.start(initialValue="7", confidence=0.41, knownAnswer="1")
    with flow.reviewer() as one:
        item = one.take(flow.id)
        assert item["name"] == name
        assert "knownAnswer" not in item["input"]
        one.call(flow.id, "answer", loop=item["loop"], answer=answer("1"), spent_ms=0)
        found = flow.wait(name)
        uri = found["HumanLoopOutput"]["OutputS3Uri"]
        assert found["HumanLoopArn"] == f"arn:aws:sagemaker:eu-west-1:{ACCOUNT}:human-loop/{name}"
        moment = found["CreationTime"].strftime("%Y/%m/%d/%H/%M/%S")
        assert uri.endswith(f"/reviews/{flow.name}/{moment}/{name}/output.json")
        output = flow.output(name)
        (given,) = output["humanAnswers"]
        assert set(given) == {
            "acceptanceTime", "answerContent", "submissionTime", "timeSpentInSeconds", "workerId",
            "workerMetadata",
        }  # fmt: skip
        assert given["answerContent"] == answer("1")
        assert given["workerMetadata"]["identityData"]["sub"] == one.name
    assert {key: output[key] for key in output if key != "humanAnswers"} == {
        "flowDefinitionArn": flow.arn,
        "humanLoopName": name,
        "inputContent": {
            "taskObject": "s3://model-delivery/digits/1.png", "labels": LABELS,
            "initialValue": "7", "confidence": 0.41, "knownAnswer": "1",
        },
    }  # fmt: skip


def test_each_slot_takes_another_reviewer(cloud: Any) -> None:
    flow = make_flow(cloud, config={"TaskCount": 2})
    name = flow.start()
    with flow.reviewer() as one, flow.reviewer() as two, flow.reviewer() as three:
        item = one.take(flow.id)
        one.call(flow.id, "answer", loop=item["loop"], answer=answer("1"))
        assert one.call(flow.id, "next")["items"] == []
        assert flow.status(name) == "InProgress"
        two.take(flow.id)
        assert three.call(flow.id, "next")["items"] == []
        two.call(flow.id, "answer", loop=item["loop"], answer=answer("2"))
        assert (
            three.post(flow.id, "answer", loop=item["loop"], answer=answer("3")).status_code == 404
        )
    given = flow.output(name)["humanAnswers"]
    assert [each["answerContent"] for each in given] == [answer("1"), answer("2")]
    assert len({each["workerId"] for each in given}) == 2


def test_the_last_slot_goes_to_one_of_many_who_ask_at_once(cloud: Any) -> None:
    flow = make_flow(cloud)
    flow.start()
    people = [flow.reviewer() for _ in range(6)]
    queue = flow.id
    with ThreadPoolExecutor(len(people)) as together:
        taken = list(together.map(lambda person: person.call(queue, "next")["items"], people))
    assert sum(len(items) for items in taken) == 1
    for person in people:
        person.http.close()


def test_a_double_submit_counts_once_and_another_answer_is_refused(cloud: Any) -> None:
    flow = make_flow(cloud, config={"TaskCount": 2})
    name, queue = flow.start(), flow.id
    with flow.reviewer() as one, flow.reviewer() as two:
        item = one.take(queue)
        send = {"loop": item["loop"], "answer": answer("4")}
        with ThreadPoolExecutor(4) as together:
            codes = list(
                together.map(lambda _: one.post(queue, "answer", **send).status_code, range(4))
            )
        assert codes == [200] * 4
        refused = one.post(queue, "answer", loop=item["loop"], answer=answer("5"))
        assert refused.status_code == 409
        assert "undo" in refused.json()["problem"]
        assert flow.status(name) == "InProgress"
        two.take(queue)
        two.call(queue, "answer", loop=item["loop"], answer=answer("4"))
    assert len(flow.output(name)["humanAnswers"]) == 2


def test_an_answer_is_undone_changed_and_an_item_skipped(cloud: Any) -> None:
    flow = make_flow(cloud, config={"TaskCount": 2})
    first, second = flow.start(confidence=0.1), flow.start(confidence=0.2)
    queue = flow.id
    with flow.reviewer() as one:
        item = one.take(queue)
        assert item["name"] == first
        (after,) = one.call(queue, "answer", loop=item["loop"], answer=answer("1"), next=True)[
            "items"
        ]
        assert after["name"] == second
        (back,) = one.call(queue, "undo")["items"]
        assert (back["name"], back["draft"]) == (first, answer("1"))
        one.call(queue, "answer", loop=item["loop"], answer=answer("2"))
        one.call(queue, "skip", loop=after["loop"])
        assert one.call(queue, "next")["items"] == []
        counts = one.call(queue, "counts")["counts"]
        assert counts == {"waiting": 0, "answered": 1, "skipped": 1}
        assert one.call(queue, "recall")["recalled"] == 1
        assert one.take(queue)["name"] == second


def test_many_answers_are_taken_back_of_ones_own_and_this_queue_alone(cloud: Any) -> None:
    flow, other = (make_flow(cloud, config={"TaskCount": 2}) for _ in range(2))
    with flow.reviewer() as one, flow.reviewer() as two:
        for _ in range(3):
            flow.start(initialValue="7", confidence=0.5)
        loops = [each["loop"] for each in one.call(flow.id, "next", count=3)["items"]]
        one.call(flow.id, "accept", loops=loops, spent_ms=9)
        refused = two.post(flow.id, "retract", loops=loops)
        assert refused.status_code == 409
        assert one.post(other.id, "retract", loops=loops).status_code == 404
        found = one.call(flow.id, "retract", loops=[*loops[:2], 10**9])
        assert found == {"retracted": 2}
        held = one.call(flow.id, "next", count=3)["items"]
        assert sorted(each["loop"] for each in held) == sorted(loops[:2])
        assert held[0]["draft"] == answer("7")


def test_a_draft_survives_a_reload(flow: Flow) -> None:
    flow.start()
    with flow.reviewer() as one:
        item = one.take(flow.id)
        one.call(flow.id, "draft", loop=item["loop"], draft={"digit": {"label": "3"}})
        again = one.take(flow.id)
        assert (again["loop"], again["draft"]) == (item["loop"], {"digit": {"label": "3"}})
        one.call(flow.id, "answer", loop=item["loop"], answer=answer("3"))


def test_the_same_start_again_is_the_same_loop_and_another_input_a_conflict(flow: Flow) -> None:
    name = flow.start(number=1)
    assert flow.start(name, number=1) == name
    with pytest.raises(ClientError) as refused:
        flow.start(name, number=2)
    assert refused.value.response["Error"]["Code"] == "ConflictException"
    flow.runtime.stop_human_loop(HumanLoopName=name)


def test_loops_are_listed_in_pages_with_their_status(cloud: Any) -> None:
    flow = make_flow(cloud)
    names = [flow.start(number=number) for number in range(7)]
    flow.runtime.stop_human_loop(HumanLoopName=names[0])
    pages = flow.runtime.get_paginator("list_human_loops")

    def listed(**options: Any) -> list[str]:
        found = pages.paginate(
            FlowDefinitionArn=flow.arn, PaginationConfig={"PageSize": 3}, **options
        )
        return [each["HumanLoopName"] for page in found for each in page["HumanLoopSummaries"]]

    assert listed() == names
    assert listed(SortOrder="Descending") == names[::-1]
    summaries = flow.runtime.list_human_loops(FlowDefinitionArn=flow.arn)["HumanLoopSummaries"]
    assert [each["HumanLoopStatus"] for each in summaries] == ["Stopped", *["InProgress"] * 6]
    assert listed(CreationTimeAfter=summaries[4]["CreationTime"]) == names[5:]
    missing = {"FlowDefinitionArn": flow.arn + "x"}
    assert error_of(flow.runtime.list_human_loops, **missing) == ("ResourceNotFoundException", 404)


def test_a_stopped_loop_takes_no_answer_and_a_deleted_one_is_gone(flow: Flow) -> None:
    name = flow.start()
    with flow.reviewer() as one:
        item = one.take(flow.id)
        flow.runtime.stop_human_loop(HumanLoopName=name)
        assert flow.status(name) == "Stopped"
        late = one.post(flow.id, "answer", loop=item["loop"], answer=answer("1"))
        assert late.status_code == 409
        assert "stopped" in late.json()["problem"]
    flow.runtime.stop_human_loop(HumanLoopName=name)
    flow.runtime.delete_human_loop(HumanLoopName=name)
    for operation in ("describe", "stop", "delete"):
        call = getattr(flow.runtime, f"{operation}_human_loop")
        assert error_of(call, HumanLoopName=name) == ("ResourceNotFoundException", 404)
    flow.start(name, anew=True)
    flow.runtime.delete_human_loop(HumanLoopName=name)


def test_a_loop_is_kept_from_who_answered_it_before_where_others_are_there(cloud: Any) -> None:
    flow = make_flow(cloud)
    with flow.reviewer() as one, flow.reviewer() as other:
        before = flow.start()
        item = one.take(flow.id)
        one.call(flow.id, "answer", loop=item["loop"], answer=answer("1"))
        (given,) = flow.output(before)["humanAnswers"]
        again = flow.start(excludedWorkers=[given["workerId"]])
        assert one.call(flow.id, "next")["items"] == []
        item = other.take(flow.id)
        assert item["name"] == again
        assert "excludedWorkers" not in item["input"]
        refused = one.post(flow.id, "open", loop=item["loop"])
        assert (refused.status_code, "for others" in refused.text) == (409, True)
        other.call(flow.id, "answer", loop=item["loop"], answer=answer("1"))
        assert flow.output(again)["inputContent"]["excludedWorkers"] == [given["workerId"]]


def test_a_loop_that_nobody_answers_in_time_fails_as_expired(cloud: Any) -> None:
    flow = make_flow(cloud, config={"TaskAvailabilityLifetimeInSeconds": 1})
    found = flow.wait(flow.start(), "Failed")
    assert found["FailureCode"] == "Expired"
    assert "0 of 1 answers" in found["FailureReason"]
    assert "HumanLoopOutput" not in found


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"HumanLoopName": "Has-Capitals"}, "humanLoopName"),
        ({"HumanLoopInput": {"InputContent": "{"}}, "not JSON"),
        ({"HumanLoopInput": {"InputContent": '{"a": NaN}'}}, "not JSON"),
        ({"HumanLoopInput": {"InputContent": "[" * 100_000}}, "nested too deeply"),
        ({"HumanLoopInput": {"InputContent": '{"a": "\\ud800"}'}}, "half of a surrogate pair"),
        ({"HumanLoopInput": {"InputContent": '{"confidence": 1e999}'}}, "too large a number"),
        ({"HumanLoopInput": {"InputContent": "[" * 200 + "]" * 200}}, "deeper than 100 levels"),
        ({"HumanLoopInput": {"InputContent": '{"excludedWorkers": "x"}'}}, "a list of worker ids"),
        ({"DataAttributes": {"ContentClassifiers": ["Nonsense"]}}, "enum value set"),
        ({"FlowDefinitionArn": "arn:aws:sagemaker:eu-west-1:000000000000:flow-definition/gone"}, "create it first"),  # noqa: E501
    ],
)  # fmt: skip
def test_a_bad_start_is_refused_by_name(flow: Flow, changes: dict[str, Any], said: str) -> None:
    request = {
        "HumanLoopName": f"bad-{uuid4().hex[:8]}",
        "FlowDefinitionArn": flow.arn,
        "HumanLoopInput": {"InputContent": "{}"},
        **changes,
    }
    with pytest.raises(ClientError) as refused:
        flow.runtime.start_human_loop(**request)
    error = refused.value.response["Error"]
    assert error["Code"] == "ValidationException"
    assert said in error["Message"]


def test_a_lead_sees_labels_of_any_kind(cloud: Any) -> None:
    labels = ["²", "٣", "7", "9" * 400, "<b>", "=1+1"]
    flow = make_flow(cloud, config={"TaskCount": 2})
    for label in labels:
        flow.start(initialValue=label, labels=labels)
    with flow.reviewer("lead") as one, flow.reviewer("lead") as two:
        for who in (one, two):
            items = who.call(flow.id, "next", count=len(labels))["items"]
            for item, label in zip(items, labels, strict=True):
                who.call(flow.id, "answer", loop=item["loop"], answer=answer(label))
        for page in ("lead", "export.csv", "export.json"):
            shown = one.http.get(f"/review/{flow.id}/{page}")
            assert shown.status_code == 200
            assert "²" in shown.text


def _change(cloud: Any, table: str, column: str, value: str, loop: str) -> None:
    """Write what an earlier version may have stored."""
    database = Database(Settings.from_environment(cloud.local.env).database_url)
    with database.write() as session:
        session.execute(
            text(
                f"UPDATE {table} SET {column} = :value "
                "WHERE loop_id = (SELECT id FROM human_loops WHERE name = :name)"
            ),
            {"value": value, "name": loop},
        )
    database.close()


def test_an_item_that_cannot_be_read_blocks_neither_its_queue_nor_other_outputs(
    cloud: Any,
) -> None:
    flow = make_flow(cloud, config={"TaskCount": 2})
    unreadable, unwritable, good = (flow.start(confidence=each) for each in (0.1, 0.2, 0.3))
    poison = '{"a": "\\ud800"}'
    with flow.reviewer() as one, flow.reviewer() as two:
        _change(cloud, "human_loop_inputs", "content", poison, unreadable)
        first, second, third = one.call(flow.id, "next", count=3)["items"]
        assert first["name"] == unreadable
        assert first["view"]["kind"] == "broken"
        assert third["view"]["kind"] == "classify"
        one.call(flow.id, "skip", loop=first["loop"])
        refused = one.http.post(
            f"/review/api/{flow.id}/answer",
            content=f'{{"loop": {second["loop"]}, "answer": {poison}}}',
            headers={"X-CSRF-Token": one.csrf},
        )
        assert refused.status_code == 400
        assert "surrogate" in refused.json()["problem"]
        one.call(flow.id, "answer", loop=second["loop"], answer=answer("1"))
        _change(cloud, "review_assignments", "answer", poison, unwritable)
        one.call(flow.id, "answer", loop=third["loop"], answer=answer("2"))
        for item in two.call(flow.id, "next", count=3)["items"][1:]:
            two.call(flow.id, "answer", loop=item["loop"], answer=answer("2"))
    assert flow.output(good)["humanAnswers"][0]["answerContent"] == answer("2")
    assert flow.status(unwritable) == "InProgress"


def test_a_label_that_is_none_of_the_categories_is_not_offered_for_acceptance(flow: Flow) -> None:
    names = [flow.start(initialValue=label, confidence=0.4) for label in ("7", "99")]
    with flow.reviewer() as one:
        items = {item["name"]: item for item in one.call(flow.id, "next", count=2)["items"]}
        assert [items[name]["model"]["acceptable"] for name in names] == [True, False]
        for name, status in zip(names, (200, 409), strict=True):
            accepted = one.post(flow.id, "accept", loops=[items[name]["loop"]], spent_ms=0)
            assert accepted.status_code == status


def test_nobody_sees_another_teams_item(cloud: Any, flow: Flow) -> None:
    flow.start()
    other = make_flow(cloud)
    other.start()
    queue, others = flow.id, other.id
    with flow.reviewer() as mine, other.reviewer() as stranger:
        item = mine.take(queue)
        assert mine.queue(other.name) is None
        for call in ("next", "counts", "undo", "recall"):
            assert stranger.post(queue, call).status_code == 404
        body = {"loop": item["loop"], "answer": answer("1"), "draft": {}, "loops": [item["loop"]]}
        told = {stranger.post(others, "open", loop=loop).text for loop in (item["loop"], 2**50)}
        assert len(told) == 1, "who asks must not learn which items there are"
        for call in ("open", "answer", "draft", "skip", "release", "accept"):
            # Neither in the other team's queue nor smuggled into their own.
            assert stranger.post(queue, call, **body).status_code == 404
            assert stranger.post(others, call, **body).status_code in {404, 409}
        mine.call(queue, "answer", loop=item["loop"], answer=answer("1"))


def test_calls_need_a_session_and_its_token(cloud: Any, flow: Flow) -> None:
    with flow.reviewer() as one:
        path = f"/review/api/{flow.id}/next"
        assert one.http.post(path, json={}).status_code == 403
        wrong = one.http.post(path, json={}, headers={"X-CSRF-Token": "made-up"})
        assert wrong.status_code == 403
        big = b'{"answer": "' + b"x" * 3_000_000 + b'"}'
        large = one.http.post(path, content=big, headers={"X-CSRF-Token": one.csrf})
        assert large.status_code == 413
        one.http.cookies.clear()
        assert one.http.get("/review/api/queues").status_code == 401


def test_times_are_told_as_the_model_has_them(cloud: Any, flow: Flow) -> None:
    name = flow.start()
    found = flow.runtime.describe_human_loop(HumanLoopName=name)
    assert abs(found["CreationTime"].timestamp() - time.time()) < 30
    raw = json.dumps(found["ResponseMetadata"]["HTTPHeaders"])
    assert "application/json" in raw
    flow.runtime.delete_human_loop(HumanLoopName=name)
