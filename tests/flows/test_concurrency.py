"""Many callers at once: what is decided inside one commit is decided once, and nothing is lost or left behind."""

from __future__ import annotations

import itertools
import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from checks import check_store
from daemon.support import DaemonProcess

from flows.support import (
    FAILED,
    IN_PROGRESS,
    AgentStatus,
    Client,
    WorkflowStatus,
    agent,
    code_of,
    environment,
    execution,
    instance,
    message_class,
    new_execution,
    session,
    workflow,
    workflow_execution,
    workflow_instance,
)
from stigmer.client import connect
from stigmer.resources import kinds
from stigmer.store import Store

CALLERS = 32
OK, NOT_FOUND, ALREADY_EXISTS = grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS


@pytest.fixture
def clients(daemon: DaemonProcess) -> Iterator[list[Client]]:
    """Clients with a connection each."""
    with Client(daemon.address) as a, Client(daemon.address) as b, Client(daemon.address) as c:
        yield [a, b, c]


def at_once(clients: list[Client], begin: Callable[[Client, int], Any], count: int = CALLERS) -> list[Any]:
    """Begin many calls, spread over the clients, and wait for all; give the calls."""
    calls = [begin(client, number) for number, client in zip(range(count), itertools.cycle(clients), strict=False)]
    for call in calls:
        code_of(call)
    return calls


def unique(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex[:8]}"


# --- updateStatus ----------------------------------------------------------------------------------------


def test_tasks_that_many_report_at_once_are_all_there(clients: list[Client], daemon: DaemonProcess) -> None:
    """Of 32 callers who report a task each, again and again, none erases what another has reported."""
    id = new_execution(clients[0], "workflow_execution")

    def report(client: Client, number: int) -> Any:
        status = WorkflowStatus(phase=IN_PROGRESS)
        task = status.tasks.add(task_id=f"{number % CALLERS}")
        if number < CALLERS:
            task.task_name = f"task {number}"
        else:
            task.output.update({"of": number % CALLERS})
        return client.begin_report("workflow_execution", id, status)

    calls = at_once(clients, report, 4 * CALLERS)
    assert {call.code() for call in calls} == {OK}
    tasks = clients[0].get("workflow_execution", id).status.tasks
    found = {task.task_id: (task.task_name, dict(task.output)) for task in tasks}
    assert found == {f"{n}": (f"task {n}", {"of": n}) for n in range(CALLERS)}
    assert len(tasks) == CALLERS


def test_fields_that_many_report_at_once_are_all_there(clients: list[Client]) -> None:
    """Callers who report a field of an agent's execution each leave each other's alone."""
    id = new_execution(clients[0], "agent_execution")
    fields: list[dict[str, Any]] = [
        {"phase": IN_PROGRESS},
        {"error": "e"},
        {"started_at": "then"},
        {"completed_at": "later"},
        {"tool_calls": [{"id": "t"}]},
        {"sub_agent_executions": [{"id": "s"}]},
        {"messages": [{"content": "m"}]},
        {"todos": {"x": AgentStatus.TodosEntry().value.__class__(content="do x")}},
    ]
    calls = at_once(
        clients, lambda client, n: client.begin_report("agent_execution", id, AgentStatus(**fields[n % len(fields)]))
    )
    assert {call.code() for call in calls} == {OK}
    status = clients[0].get("agent_execution", id).status
    assert (status.phase, status.error, status.started_at, status.completed_at) == (IN_PROGRESS, "e", "then", "later")
    assert [call.id for call in status.tool_calls] == ["t"]
    assert [one.id for one in status.sub_agent_executions] == ["s"]
    assert [message.content for message in status.messages] == ["m"]
    assert status.todos["x"].content == "do x"


def test_one_of_many_failures_ends_an_execution(clients: list[Client]) -> None:
    """Of 32 callers who each report the end, one is taken, with its message added; the others are refused."""
    id = new_execution(clients[0], "agent_execution")
    before = AgentStatus(phase=IN_PROGRESS)
    for content in "ab":
        before.messages.add(type=2, content=content)
    clients[0].report("agent_execution", id, before)

    def report(client: Client, number: int) -> Any:
        status = AgentStatus(phase=FAILED, error=f"{number}")
        status.messages.add(type=4, content=f"{number}")
        return client.begin_report("agent_execution", id, status)

    calls = at_once(clients, report)
    assert Counter(call.code() for call in calls) == {OK: 1, grpc.StatusCode.FAILED_PRECONDITION: CALLERS - 1}
    (won,) = (call.result() for call in calls if call.code() is OK)
    assert [message.content for message in won.status.messages] == ["a", "b", won.status.error]
    assert clients[0].get("agent_execution", id) == won


def test_many_reports_share_their_groups(tmp_path: Path) -> None:
    """Reports that come at once are synced together: the log has far fewer moments than commits."""
    with DaemonProcess(tmp_path / "data") as process, Client(process.address) as client:
        id = new_execution(client, "workflow_execution")
        with connect(process.address) as store:
            first = store.status().revision

            def report(client: Client, number: int) -> Any:
                status = WorkflowStatus()
                status.tasks.add(task_id=f"{number}")
                return client.begin_report("workflow_execution", id, status)

            at_once([client], report, 10 * CALLERS)
            # The commits of one group have one time.
            moments = {event.time_ns for event in store.tail(first, follow=False)}
        assert len(moments) < 10 * CALLERS / 4
        assert len(client.get("workflow_execution", id).status.tasks) == 10 * CALLERS


# --- creating --------------------------------------------------------------------------------------------

WITH_AND_WITHOUT_SECRETS = pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("agent", agent),
        ("agent", lambda name: agent(name, {"TOKEN": f"secret of {name}"})),
        ("environment", lambda name: environment(name, {"A": f"secret of {name}", "B": "another"})),
        ("workflow", lambda name: workflow(name, {"TOKEN": f"secret of {name}"})),
    ],
    ids=["agent", "agent with secrets", "environment", "workflow"],
)


def events_of(daemon: DaemonProcess, after: int) -> Counter[tuple[str, str]]:
    with connect(daemon.address) as store:
        return Counter((event.kind, event.op.value) for event in store.tail(after, follow=False))


def revision_of(daemon: DaemonProcess) -> int:
    with connect(daemon.address) as store:
        return store.status().revision


def children(kind: str) -> dict[tuple[str, str], int]:
    return {(f"{kind}_instance", "save"): 1} if kind in ("agent", "workflow") else {}


@WITH_AND_WITHOUT_SECRETS
def test_a_slug_is_created_once(clients: list[Client], daemon: DaemonProcess, kind: str, make: Any) -> None:
    """Of 32 who create the same slug one does, and the others are told that it exists; nothing else is written."""
    name = unique("created")
    first = revision_of(daemon)
    calls = at_once(clients, lambda client, _: client.begin(kind, "create", make(name)))
    assert Counter(call.code() for call in calls) == {OK: 1, ALREADY_EXISTS: CALLERS - 1}
    (made,) = (call.result() for call in calls if call.code() is OK)
    assert {call.details() for call in calls if call.code() is ALREADY_EXISTS} == {
        f'{made.kind} "{name}" already exists: {made.metadata.id}'
    }
    assert events_of(daemon, first) == {(kind, "save"): 1} | children(kind)
    assert clients[0].get(kind, made.metadata.id) == made


@WITH_AND_WITHOUT_SECRETS
def test_a_slug_is_applied_once(clients: list[Client], daemon: DaemonProcess, kind: str, make: Any) -> None:
    """Of 32 who apply the same manifest one creates the resource, and the others find it unchanged."""
    name = unique("applied")
    first = revision_of(daemon)
    calls = at_once(clients, lambda client, _: client.begin(kind, "apply", make(name)))
    assert {call.code() for call in calls} == {OK}
    answers = [call.result() for call in calls]
    assert all(answer == answers[0] for answer in answers)
    assert events_of(daemon, first) == {(kind, "save"): 1} | children(kind)


def test_many_apply_different_secrets(clients: list[Client], daemon: DaemonProcess) -> None:
    """Of 32 who apply different secrets under a slug all succeed: one creates it, the last one's secret is there."""
    name = unique("different")
    first = revision_of(daemon)
    calls = at_once(clients, lambda client, n: client.begin("environment", "apply", environment(name, {"A": f"v{n}"})))
    answers = [call.result() for call in calls]
    assert len({answer.metadata.id for answer in answers}) == 1
    assert {answer.spec.data["A"].value for answer in answers} == {f"v{n}" for n in range(CALLERS)}
    assert events_of(daemon, first) == {("environment", "save"): CALLERS}
    last = max(answers, key=lambda answer: answer.status.audit.spec_audit.updated_at.ToNanoseconds())
    stored = clients[0].get("environment", last.metadata.id)
    assert stored in answers


def test_what_is_deleted_while_it_is_applied(clients: list[Client]) -> None:
    """A manifest with a secret is applied whatever others delete meanwhile; what is there in the end can be read."""
    name = unique("deleted")
    known = clients[0].call("environment", "apply", environment(name, {"A": "v"})).metadata.id

    def begin(client: Client, number: int) -> Any:
        if number % 4 == 3:
            return client.begin_delete("environment", known)
        return client.begin("environment", "apply", environment(name, {"A": f"v{number}"}))

    calls = at_once(clients, begin, 2 * CALLERS)
    for number, call in enumerate(calls):
        if number % 4 == 3:
            assert call.code() in (OK, NOT_FOUND)
        else:
            assert call.code() is OK, call.details()
            assert call.result().spec.data["A"].value == f"v{number}"
    reference = message_class("ai.stigmer.commons.apiresource.ApiResourceReference")(slug=name)
    found = clients[0].call("environment", "getByReference", reference)
    assert found.spec.data["A"].value.startswith("v")


# --- parents and children --------------------------------------------------------------------------------

PARENTS = {
    "agent_instance": ("agent", "agent_id"),
    "session": ("agent_instance", "agent_instance_id"),
    "agent_execution": ("session", "session_id"),
    "workflow_instance": ("workflow", "workflow_id"),
    "workflow_execution": ("workflow_instance", "workflow_instance_id"),
}


def orphans(store: Any) -> list[str]:
    """Walk all resources; give those whose parent is not there."""
    found = []
    for kind, (parent, field) in PARENTS.items():
        for resource in store.list(kind).resources:
            message: Any = kinds.decode(kind, resource.value)
            id = getattr(message.spec, field)
            if store.get_many([(parent, id)]) == [None]:
                found.append(f"{kind} {resource.id} of {parent} {id}")
            if kind == "workflow_execution" and store.get_many([("workflow", message.spec.workflow_id)]) == [None]:
                found.append(f"{kind} {resource.id} of workflow {message.spec.workflow_id}")
    return found


def test_deletes_beside_everything_else_leave_no_orphan(tmp_path: Path) -> None:
    """Whatever is created, configured, reported and deleted at once: what is left has its parents."""
    shuffled = random.Random(1)
    with DaemonProcess(tmp_path / "data") as process, Client(process.address) as client:
        for round in range(6):
            begun = [*_agents(client, round), *_workflows(client, round)]
            shuffled.shuffle(begun)
            codes = Counter(code_of(call) for call in [begin() for begin in begun])
            assert set(codes) <= {OK, NOT_FOUND}, codes
            assert min(codes[OK], codes[NOT_FOUND]) > 0
            with connect(process.address) as store:
                assert orphans(store) == []
        process.stop()
    with Store.open(tmp_path / "data", create=False) as store:
        check_store(store)


def _agents(client: Client, round: int) -> list[Callable[[], Any]]:
    """Make an agent with all below it; give calls that change some of it, and delete some of it."""
    made = client.call("agent", "create", agent(f"a{round}"))
    child = client.call("agent_instance", "create", instance(f"i{round}", made.metadata.id))
    sessions = [client.call("session", "create", session(f"s{round}-{n}", child.metadata.id)) for n in range(3)]
    ids = [one.metadata.id for one in sessions]
    runs = [client.call("agent_execution", "create", execution(session_id=id)) for id in ids for _ in range(2)]
    begun: list[Callable[[], Any]] = []
    for run in runs:
        id = run.metadata.id
        begun.append(lambda id=id: client.begin_report("agent_execution", id, AgentStatus(phase=IN_PROGRESS)))
        moved = execution(session_id=ids[0])
        moved.metadata.id = id
        begun.append(lambda moved=moved: client.begin("agent_execution", "update", moved))
    for id in ids:
        begun += [lambda id=id: client.begin("agent_execution", "create", execution(session_id=id))] * 4
    for one in sessions:
        begun.append(lambda one=one: client.begin("session", "update", one))
    begun += [lambda: client.begin("agent_execution", "create", execution(agent_id=made.metadata.id))] * 4
    begun.append(lambda: client.begin("agent_instance", "update", child))
    begun.append(lambda: client.begin_delete("session", ids[0]))
    begun.append(lambda: client.begin_delete("agent_execution", runs[-1].metadata.id))
    if round % 2:
        begun.append(lambda: client.begin_delete("agent", made.metadata.id))
    return begun


def _workflows(client: Client, round: int) -> list[Callable[[], Any]]:
    made = client.call("workflow", "create", workflow(f"w{round}"))
    id = made.metadata.id
    child = client.call("workflow_instance", "create", workflow_instance(f"wi{round}", id))
    run = client.call("workflow_execution", "create", workflow_execution(instance_id=child.metadata.id))
    begun: list[Callable[[], Any]] = [
        lambda n=n: client.begin("workflow_instance", "create", workflow_instance(f"wi{round}-{n}", id))
        for n in range(4)
    ]
    begun += [lambda: client.begin("workflow_execution", "create", workflow_execution(workflow_id=id))] * 4
    by_instance = workflow_execution(instance_id=child.metadata.id)
    begun += [lambda: client.begin("workflow_execution", "create", by_instance)] * 4
    started = WorkflowStatus(phase=IN_PROGRESS)
    begun.append(lambda: client.begin_report("workflow_execution", run.metadata.id, started))
    begun.append(lambda: client.begin_delete("workflow_instance", child.metadata.id))
    if round % 2:
        begun.append(lambda: client.begin_delete("workflow", id))
    return begun


def test_an_execution_stays_where_it_is(client: Client) -> None:
    """An update that names no session or workflow leaves an execution in its own; one that is not there is refused."""
    made = client.call("agent", "create", agent(unique("of-one")))
    wanted = execution(agent_id=made.metadata.id)
    run = client.call("agent_execution", "create", wanted)
    wanted.metadata.id = run.metadata.id
    assert client.call("agent_execution", "update", wanted).spec.session_id == run.spec.session_id
    wanted.spec.session_id = "ses-not-there"
    assert code_of(client.begin("agent_execution", "update", wanted)) is NOT_FOUND

    made = client.call("workflow", "create", workflow(unique("of-one")))
    wanted = workflow_execution(workflow_id=made.metadata.id)
    run = client.call("workflow_execution", "create", wanted)
    wanted.metadata.id = run.metadata.id
    wanted.spec.workflow_id = ""
    assert client.call("workflow_execution", "update", wanted).spec == run.spec
    for elsewhere in (workflow_execution(workflow_id="not-there"), workflow_execution(instance_id="not-there")):
        elsewhere.metadata.id = run.metadata.id
        assert code_of(client.begin("workflow_execution", "update", elsewhere)) is NOT_FOUND
    child = client.call("workflow_instance", "create", workflow_instance(unique("i"), made.metadata.id))
    child.spec.workflow_id = "not-there"
    assert code_of(client.begin("workflow_instance", "update", child)) is NOT_FOUND
    assert client.get("workflow_instance", child.metadata.id).spec.workflow_id == made.metadata.id
