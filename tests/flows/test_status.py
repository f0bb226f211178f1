"""updateStatus through a daemon: each clause of what it promises to runners."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from daemon.support import DaemonProcess

from flows.support import (
    CANCELLED,
    COMPLETED,
    FAILED,
    IN_PROGRESS,
    PENDING,
    AgentStatus,
    Client,
    WorkflowStatus,
    new_execution,
    report,
)
from stigmer.client import connect
from stigmer.pb.agentic import agentexecution_pb2

KINDS = ("agent_execution", "workflow_execution")
STATUSES: dict[str, Callable[..., Any]] = {"agent_execution": AgentStatus, "workflow_execution": WorkflowStatus}
UNKNOWN = b"\xa2\x06\x03new"
"""Field 100, of a client that is newer than the daemon."""
GROUP = b"\xab\x06\xa2\x06\x01x\xac\x06"
"""Field 101, a group, as only very old messages have."""

each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def aex(client: Client) -> str:
    """A new execution of an agent."""
    return new_execution(client, "agent_execution")


@pytest.fixture
def wex(client: Client) -> str:
    """A new execution of a workflow."""
    return new_execution(client, "workflow_execution")


def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    """Give how a call fails."""
    error = call.exception()
    assert isinstance(error, grpc.RpcError)
    return call.code(), call.details()


def test_fields_of_an_agents_execution_replace_those_stored(client: Client, aex: str) -> None:
    """What a report has takes the place of what is stored, field by field; the rest stays; the answer is all of it."""
    first = AgentStatus(phase=IN_PROGRESS, started_at="then", error="one")
    first.messages.add(type=2, content="a")
    first.tool_calls.add(id="t", name="search", result="old")
    first.sub_agent_executions.add(id="s", output="o")
    first.todos["x"].content = "do x"
    first.todos["y"].content = "do y"
    client.report("agent_execution", aex, first)
    second = AgentStatus(error="two")
    second.messages.add(type=2, content="b")
    second.messages.add(type=3, content="c")
    second.todos["z"].content = "do z"
    answered = client.report("agent_execution", aex, second)
    assert answered == client.get("agent_execution", aex)
    status = answered.status
    assert [message.content for message in status.messages] == ["b", "c"]
    assert [call.result for call in status.tool_calls] == ["old"]
    assert [agent.output for agent in status.sub_agent_executions] == ["o"]
    assert {key: todo.content for key, todo in status.todos.items()} == {"z": "do z"}
    assert (status.phase, status.error, status.started_at) == (IN_PROGRESS, "two", "then")
    assert answered.spec.message == "Begin."
    assert answered.metadata.id == aex


def test_fields_of_a_workflows_execution_replace_those_stored(client: Client, wex: str) -> None:
    """The same of a workflow: its output is replaced as a whole."""
    first = WorkflowStatus(phase=IN_PROGRESS, temporal_workflow_id="t-1", error="one")
    first.output.update({"a": 1, "b": {"c": 2}})
    client.report("workflow_execution", wex, first)
    second = WorkflowStatus(started_at="then")
    second.output.update({"b": 3})
    answered = client.report("workflow_execution", wex, second)
    assert answered == client.get("workflow_execution", wex)
    assert dict(answered.status.output) == {"b": 3}
    assert (answered.status.temporal_workflow_id, answered.status.error) == ("t-1", "one")
    assert answered.status.phase == IN_PROGRESS


@each_kind
@pytest.mark.parametrize("phase", [COMPLETED, FAILED, CANCELLED])
def test_a_finished_execution_does_not_change(client: Client, daemon: DaemonProcess, kind: str, phase: int) -> None:
    """Whatever is reported of it, even the same again, is refused with FAILED_PRECONDITION and writes nothing."""
    id = new_execution(client, kind)
    ended = client.report(kind, id, STATUSES[kind](phase=phase, error="e"))
    with connect(daemon.address) as store:
        before = store.get(kind, id)
        reports = [STATUSES[kind](phase=other) for other in range(6)]
        reports += [STATUSES[kind](error="late"), STATUSES[kind]()]
        for late in reports:
            code, details = refused(client.begin_report(kind, id, late))
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            assert id in details
        assert store.get(kind, id) == before
    assert client.get(kind, id) == ended


def test_tasks_are_merged_by_their_ids(client: Client, wex: str) -> None:
    """A task that is reported alone changes its own fields that it has, and erases no other task."""
    first = WorkflowStatus(phase=IN_PROGRESS)
    one = first.tasks.add(task_id="1", task_name="fetch", status=2, started_at="t0")
    one.input.update({"url": "u"})
    first.tasks.add(task_id="2", task_name="store", status=1)
    client.report("workflow_execution", wex, first)
    second = WorkflowStatus()
    second.tasks.add(task_id="1", status=3, completed_at="t1").output.update({"ok": True})
    second.tasks.add(task_id="3", task_name="tell")
    tasks = client.report("workflow_execution", wex, second).status.tasks
    assert [(task.task_id, task.task_name, task.status) for task in tasks] == [
        ("1", "fetch", 3),
        ("2", "store", 1),
        ("3", "tell", 0),
    ]
    assert (tasks[0].started_at, tasks[0].completed_at) == ("t0", "t1")
    assert (dict(tasks[0].input), dict(tasks[0].output)) == ({"url": "u"}, {"ok": True})


def test_tasks_without_ids_replace_each_other(client: Client, wex: str) -> None:
    """What cannot be told apart takes the place of what was reported so before, and of nothing else."""
    for name in ("first", "second"):
        status = WorkflowStatus()
        status.tasks.add(task_name=name)
        status.tasks.add(task_id=name)
        answered = client.report("workflow_execution", wex, status)
    assert [(task.task_id, task.task_name) for task in answered.status.tasks] == [
        ("", "second"),
        ("first", ""),
        ("second", ""),
    ]


def test_a_failure_that_has_lost_messages_takes_nothing_away(client: Client, aex: str) -> None:
    """A failure with fewer messages than stored adds them; tool calls and sub-agents are brought together by id."""
    first = AgentStatus(phase=IN_PROGRESS)
    for content in "abc":
        first.messages.add(type=2, content=content)
    first.tool_calls.add(id="t1", name="search", status=2)
    first.tool_calls.add(name="nameless")
    first.sub_agent_executions.add(id="s1", name="sub", input="in")
    first.todos["x"].content = "do x"
    client.report("agent_execution", aex, first)
    failure = AgentStatus(phase=FAILED, error="it broke")
    failure.messages.add(type=4, content="it broke")
    failure.tool_calls.add(id="t1", status=4, error="gone")
    failure.tool_calls.add(id="t2", name="other")
    failure.tool_calls.add(name="another nameless")
    failure.sub_agent_executions.add(id="s2")
    status = client.report("agent_execution", aex, failure).status
    assert [message.content for message in status.messages] == ["a", "b", "c", "it broke"]
    assert [(call.id, call.name, call.status, call.error) for call in status.tool_calls] == [
        ("t1", "search", 4, "gone"),
        ("", "nameless", 0, ""),
        ("t2", "other", 0, ""),
        ("", "another nameless", 0, ""),
    ]
    assert [(agent.id, agent.input) for agent in status.sub_agent_executions] == [("s1", "in"), ("s2", "")]
    assert (status.phase, status.error, status.todos["x"].content) == (FAILED, "it broke", "do x")


@pytest.mark.parametrize("phase", [IN_PROGRESS, COMPLETED, CANCELLED])
def test_only_a_failure_adds_to_the_messages(client: Client, aex: str, phase: int) -> None:
    """In any other phase the messages that are reported are all there are, also where they are fewer."""
    first = AgentStatus(phase=IN_PROGRESS)
    for content in "abc":
        first.messages.add(type=2, content=content)
    client.report("agent_execution", aex, first)
    second = AgentStatus(phase=phase)
    second.messages.add(type=2, content="d")
    status = client.report("agent_execution", aex, second).status
    assert [message.content for message in status.messages] == ["d"]


def test_a_failure_that_has_all_messages_replaces_them(client: Client, aex: str) -> None:
    """A runner that reports at least as many messages as there are has lost none."""
    first = AgentStatus(phase=IN_PROGRESS)
    first.messages.add(type=2, content="a")
    first.tool_calls.add(id="t1")
    client.report("agent_execution", aex, first)
    failure = AgentStatus(phase=FAILED)
    failure.messages.add(type=2, content="b")
    failure.tool_calls.add(id="t2")
    status = client.report("agent_execution", aex, failure).status
    assert [message.content for message in status.messages] == ["b"]
    assert [call.id for call in status.tool_calls] == ["t2"]


@each_kind
def test_the_audit_of_the_status_moves_alone(client: Client, kind: str) -> None:
    """A report moves `status_audit`; who created it, and all of `spec_audit`, stays, whatever the report claims."""
    id = new_execution(client, kind)
    before = client.get(kind, id).status.audit
    claims = STATUSES[kind](error="e")
    claims.audit.spec_audit.event = "forged"
    claims.audit.status_audit.created_by.id = "somebody"
    after = client.report(kind, id, claims).status.audit
    assert after.spec_audit == before.spec_audit
    assert after.status_audit.created_by == before.status_audit.created_by
    assert after.status_audit.created_at == before.status_audit.created_at
    assert after.status_audit.updated_at.ToNanoseconds() > before.status_audit.updated_at.ToNanoseconds()
    assert (after.status_audit.updated_by.id, after.status_audit.event) == ("system", "updated")


@each_kind
@pytest.mark.parametrize("last", [COMPLETED, FAILED, CANCELLED])
def test_times_that_a_runner_leaves_out_are_filled_in(client: Client, kind: str, last: int) -> None:
    """Beginning and end are written down when the phase says so, and stay when it says so again."""
    id = new_execution(client, kind)
    status = client.report(kind, id, STATUSES[kind](phase=PENDING)).status
    assert (status.started_at, status.completed_at) == ("", "")
    started = client.report(kind, id, STATUSES[kind](phase=IN_PROGRESS)).status
    assert started.started_at.endswith("Z")
    assert started.completed_at == ""
    again = client.report(kind, id, STATUSES[kind](phase=IN_PROGRESS)).status
    assert again.started_at == started.started_at
    ended = client.report(kind, id, STATUSES[kind](phase=last)).status
    assert ended.started_at == started.started_at
    assert ended.completed_at >= started.started_at


@each_kind
def test_times_that_a_runner_gives_are_kept(client: Client, kind: str) -> None:
    """What a runner says of beginning and end is what is stored, and a later report of it counts."""
    id = new_execution(client, kind)
    client.report(kind, id, STATUSES[kind](phase=IN_PROGRESS, started_at="mine", completed_at="early"))
    status = client.report(kind, id, STATUSES[kind](phase=COMPLETED, started_at="mine, later")).status
    assert (status.started_at, status.completed_at) == ("mine, later", "early")


@each_kind
def test_what_a_newer_client_reports_is_kept(client: Client, kind: str) -> None:
    """Unknown fields, groups among them, survive a report, are replaced by their like, and do not add up."""
    id = new_execution(client, kind)
    newer = STATUSES[kind](phase=IN_PROGRESS)
    newer.MergeFromString(UNKNOWN + GROUP)
    client.report(kind, id, newer)
    status = client.report(kind, id, STATUSES[kind](error="e")).status
    assert UNKNOWN + GROUP in status.SerializeToString()
    status = client.report(kind, id, newer).status
    assert status.SerializeToString().count(UNKNOWN) == 1
    assert status.SerializeToString().count(GROUP) == 1


def test_numbers_of_enums_without_a_name(client: Client, aex: str) -> None:
    """They are kept where the contract allows them, and refused, with the field named, where it does not."""
    status = AgentStatus()
    status.todos["x"].status = 77
    assert client.report("agent_execution", aex, status).status.todos["x"].status == 77
    code, details = refused(client.begin_report("agent_execution", aex, AgentStatus(phase=77)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "status.phase" in details
    wrong = AgentStatus()
    wrong.messages.add(type=77)
    code, details = refused(client.begin_report("agent_execution", aex, wrong))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "status.messages[0].type" in details


def test_a_callback_token_is_not_reported(client: Client, aex: str) -> None:
    """What a report has as a callback token is not taken, and one that is stored stays."""
    answered = client.report("agent_execution", aex, AgentStatus(error="e", callback_token=b"forged"))
    assert answered.status.callback_token == b""
    assert b"forged" not in client.get("agent_execution", aex).SerializeToString()


def test_a_callback_token_that_is_stored_stays(client: Client, daemon: DaemonProcess, aex: str) -> None:
    """A report does not overwrite the token that an older client has stored."""
    with connect(daemon.address) as store:
        older = agentexecution_pb2.AgentExecution.FromString(store.get("agent_execution", aex).value)
        older.status.callback_token = b"theirs"
        store.save("agent_execution", aex, older)
    answered = client.report("agent_execution", aex, AgentStatus(callback_token=b"mine"))
    assert answered.status.callback_token == b"theirs"


@each_kind
def test_what_a_report_needs(client: Client, kind: str) -> None:
    """Without an execution or a status a report is refused, naming the field; of what is not there, it is NOT_FOUND."""
    missing = report(kind, "", STATUSES[kind](phase=IN_PROGRESS))
    code, details = refused(client.begin(kind, "updateStatus", missing))
    assert (code, "execution_id" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    without = report(kind, "some", STATUSES[kind]())
    without.ClearField("status")
    code, details = refused(client.begin(kind, "updateStatus", without))
    assert (code, "status" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    code, details = refused(client.begin_report(kind, "not-there", STATUSES[kind](phase=IN_PROGRESS)))
    name = "AgentExecution" if kind == "agent_execution" else "WorkflowExecution"
    assert (code, details) == (grpc.StatusCode.NOT_FOUND, f"{name} not found: not-there")
    code, details = refused(client.begin_report(kind, "no\nid", STATUSES[kind](phase=IN_PROGRESS)))
    assert (code, "execution_id" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)


@each_kind
def test_a_stored_value_that_is_no_execution_is_told_of(client: Client, daemon: DaemonProcess, kind: str) -> None:
    """A report to a value that some client has stored wrongly says so, and changes nothing."""
    with connect(daemon.address) as store:
        for value in (b"\xff\xff", b"\x2a\x06\x9a\x06\x03\xff\xff\xff"):
            store.save(kind, "damaged", value)
            code, details = refused(client.begin_report(kind, "damaged", STATUSES[kind](phase=IN_PROGRESS)))
            assert (code, kind in details) == (grpc.StatusCode.FAILED_PRECONDITION, True)
            assert store.get(kind, "damaged").value == value
        store.delete(kind, "damaged")


@each_kind
def test_an_update_leaves_the_status_alone(client: Client, kind: str) -> None:
    """A client that configures an execution changes neither its status nor when that was reported."""
    id = new_execution(client, kind)
    reported = client.report(kind, id, STATUSES[kind](phase=IN_PROGRESS, error="e"))
    wanted = type(reported)()
    wanted.CopyFrom(reported)
    wanted.metadata.labels["a"] = "b"
    wanted.status.Clear()
    wanted.status.error = "forged"
    updated = client.call(kind, "update", wanted)
    assert updated.metadata.labels["a"] == "b"
    assert updated.status.audit.status_audit == reported.status.audit.status_audit
    assert (updated.status.error, updated.status.phase) == ("e", IN_PROGRESS)


@each_kind
def test_the_same_report_again_and_again_does_not_grow(client: Client, daemon: DaemonProcess, kind: str) -> None:
    """After a thousand reports of one status, with unknown fields wherever they can be, the size is the first one."""
    id = new_execution(client, kind)
    status = STATUSES[kind](phase=IN_PROGRESS, error="e")
    status.MergeFromString(UNKNOWN)
    if kind == "agent_execution":
        status.messages.add(type=2, content="m").MergeFromString(UNKNOWN)
        status.tool_calls.add(id="t").MergeFromString(UNKNOWN)
        status.tool_calls.add(name="nameless")
        status.todos["x"].MergeFromString(UNKNOWN)
    else:
        status.tasks.add(task_id="1").MergeFromString(UNKNOWN)
        status.tasks.add(task_name="nameless").MergeFromString(UNKNOWN)
        status.output.update({"a": [1, 2]})
    client.report(kind, id, status)
    with connect(daemon.address) as store:
        size = len(store.get(kind, id).value)
        for call in [client.begin_report(kind, id, status) for _ in range(1000)]:
            answered = call.result()
        # A time has a few bytes more or less.
        assert abs(len(store.get(kind, id).value) - size) <= 4
    assert answered.status.error == "e"
