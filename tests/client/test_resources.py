"""The platform's services through the blocking client: values as bytes, errors as exceptions, restarts unseen."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon.support import DaemonProcess

from stigmer.client.resources import Wanted
from stigmer.client.sync import Client, connect
from stigmer.errors import AlreadyExists, Conflict, DeadlineExceeded, InvalidArgument, NotFound, StigmerError
from stigmer.pb.agentic.agent_pb2 import Agent
from stigmer.pb.agentic.agentexecution_pb2 import AgentExecution, AgentExecutionId, AgentExecutionUpdateStatusInput
from stigmer.pb.agentic.environment_pb2 import Environment
from stigmer.pb.agentic.skill_pb2 import GetArtifactRequest, GetArtifactResponse, PushSkillRequest, Skill

VERSION = "agentic.stigmer.ai/v1"
AGENTS = "/ai.stigmer.agentic.agent.v1.AgentCommandController"
EXECUTIONS = "/ai.stigmer.agentic.agentexecution.v1.AgentExecution"
SKILLS = "/ai.stigmer.agentic.skill.v1.Skill"
COMPLETED = 3


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("data")) as running:
        yield running


@pytest.fixture
def client(daemon: DaemonProcess) -> Iterator[Client]:
    with connect(daemon.address) as connected:
        yield connected


def environment(name: str, secret: str = "hidden", **labels: str) -> Wanted:
    """Make an environment with a secret."""
    message = Environment(api_version=VERSION, kind="Environment")
    message.metadata.name, message.metadata.owner_scope, message.metadata.org = name, 2, "acme"
    message.metadata.labels.update(labels)
    message.spec.data["TOKEN"].value, message.spec.data["TOKEN"].is_secret = secret, True
    return Wanted("environment", message.SerializeToString())


def agent(name: str) -> bytes:
    """Make an agent."""
    message = Agent(api_version=VERSION, kind="Agent")
    message.metadata.name, message.metadata.owner_scope = name, 1
    message.spec.instructions = "long enough to pass"
    return message.SerializeToString()


def execution(client: Client, name: str) -> str:
    """Create an execution of a new agent and give its id."""
    message = AgentExecution(api_version=VERSION, kind="AgentExecution")
    message.metadata.name = name
    message.spec.agent_id = Agent.FromString(client.call(f"{AGENTS}/create", agent(name))).metadata.id
    message.spec.message = "go"
    path = f"{EXECUTIONS}CommandController/create"
    return AgentExecution.FromString(client.call(path, message.SerializeToString())).metadata.id


def report(client: Client, id: str, phase: int) -> None:
    """Report the phase of an execution."""
    update = AgentExecutionUpdateStatusInput(execution_id=id)
    update.status.phase = phase  # type: ignore[assignment]
    client.call(f"{EXECUTIONS}CommandController/updateStatus", update.SerializeToString())


def subscribe(client: Client, id: str, **options: float) -> Iterator[int]:
    """Follow an execution's phases."""
    request = AgentExecutionId(value=id).SerializeToString()
    for state in client.subscribe(f"{EXECUTIONS}QueryController/subscribe", request, **options):  # type: ignore[arg-type]
        yield AgentExecution.FromString(state).status.phase


def test_resources_are_applied_found_listed_and_deleted(client: Client) -> None:
    """Secrets in what comes are readable; what is stored is sealed."""
    wanted = [environment("one", team="a"), environment("two", team="a")]
    planned = client.resources.apply(wanted, dry_run=True)
    assert [(one.outcome, one.revision, one.before) for one in planned] == [("created", 0, b"")] * 2
    applied = client.resources.apply(wanted)
    assert [(one.slug, one.outcome) for one in applied] == [("one", "created"), ("two", "created")]
    assert applied[1].revision == applied[0].revision + 1
    found = client.resources.find("env", "one", "acme")
    assert Environment.FromString(found.value).spec.data["TOKEN"].value == "hidden"
    stored = client.get("environment", found.id).value
    assert b"hidden" not in stored
    assert client.resources.reveal([("environment", found.id, stored), ("note", "n", b"as it is")]) == [
        found.value,
        b"as it is",
    ]
    listed = client.resources.list("environment", labels=["team=a"], limit=1)
    assert ([one.id for one in listed.resources], listed.total) == ([applied[1].id], 2)
    rest = client.resources.list("environment", labels=["team=a"], limit=1, page_token=listed.next_page_token)
    assert ([one.id for one in rest.resources], rest.next_page_token) == ([applied[0].id], "")
    with pytest.raises(Conflict):
        client.resources.apply([environment("one", "new")._replace(expected_revision=applied[1].revision)])
    with pytest.raises(NotFound, match="Environment not found: three"):
        client.resources.delete([("environment", "one"), ("environment", "three")])
    gone = client.resources.delete([("environment", "one"), ("environment", applied[1].id)])
    assert [(one.id, one.is_target) for one in gone] == [(applied[0].id, True), (applied[1].id, True)]
    with pytest.raises(InvalidArgument, match="no kind of the platform"):
        client.resources.find("note", "n")


def test_many_values_are_revealed_in_several_calls(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order, whatever their sizes."""
    monkeypatch.setattr("stigmer.client.resources.REVEAL_BYTES", 100)
    values = [("note", f"n{number}", bytes([number]) * size) for number, size in enumerate((90, 20, 300, 1, 0, 100))]
    assert client.resources.reveal(values) == [value for _, _, value in values]
    assert client.resources.reveal([]) == []


def test_what_changes_nothing_leaves_the_secrets_of_before_a_restart(tmp_path: Path) -> None:
    """A plan, a write that is refused and one that is repeated give their keys back; not those of what is stored."""
    address = f"unix:{tmp_path}/s"
    wanted = environment("kept")
    with DaemonProcess(tmp_path / "data", address) as daemon, connect(address, timeout=60) as client:
        (first,) = client.resources.apply([wanted], request_id="applied")

        def plan() -> None:
            client.resources.apply([environment("kept", "another")], dry_run=True)

        def refuse() -> None:
            with pytest.raises(Conflict):
                client.resources.apply([environment("kept", "another")._replace(expected_revision=99)])

        def repeat() -> None:
            assert client.resources.apply([wanted], request_id="applied") == [first]

        daemon.kill()
        for call in plan, refuse, repeat:
            with DaemonProcess(tmp_path / "data", address) as daemon:
                call()
                found = Environment.FromString(client.resources.find("environment", "kept").value)
                assert found.spec.data["TOKEN"].value == "hidden", call.__name__
                assert daemon.stop() == 0


def test_an_apply_and_a_delete_with_the_same_request_id_are_answered_as_the_first_time(client: Client) -> None:
    """Also where names are there twice, in two organizations, and once what was applied is gone."""

    def wanted(name: str, org: str) -> Wanted:
        made = Environment.FromString(environment(name).value)
        made.metadata.org = org
        return Wanted("environment", made.SerializeToString())

    client.resources.apply([wanted("before", "acme")])
    every = [wanted("twice", "acme"), wanted("before", "acme")._replace(value=environment("before", a="b").value)]
    every.append(wanted("twice", "other"))
    applied = client.resources.apply(every, request_id="applied-once")
    assert [one.outcome for one in applied] == ["created", "configured", "created"]
    assert client.resources.apply(every, request_id="applied-once") == applied
    kept = Agent.FromString(client.call(f"{AGENTS}/create", agent("named by its slug")))
    targets = [("agent", kept.metadata.slug), *(("environment", one.id) for one in applied)]
    deleted = client.resources.delete(targets, request_id="deleted-once")
    assert [one.is_target for one in deleted] == [False, True, True, True, True]
    last = client.status().revision
    assert client.resources.delete(targets, request_id="deleted-once") == deleted
    assert client.resources.apply(every, request_id="applied-once") == applied
    # Also where the slug is another resource's by now.
    client.call(f"{AGENTS}/create", agent("named by its slug"))
    assert client.resources.delete(targets, request_id="deleted-once") == deleted
    assert client.status().revision == last + 2
    with pytest.raises(InvalidArgument, match="was used before"):
        client.resources.delete(targets, request_id="applied-once")
    with pytest.raises(NotFound):
        client.resources.delete(targets)


def test_a_call_by_path_with_the_same_request_id_is_applied_once(client: Client) -> None:
    """And an error is the one that the store's own services raise."""
    path = f"{AGENTS}/create"
    first = client.call(path, agent("once"), request_id="the-same")
    revision = client.status().revision
    assert client.call(path, agent("once"), request_id="the-same") == first
    assert client.status().revision == revision
    with pytest.raises(AlreadyExists):
        client.call(path, agent("once"))


def test_subscribe_ends_with_the_last_phase_the_deletion_or_the_time(client: Client) -> None:
    """The state of the moment comes first."""
    id = execution(client, "followed")
    with pytest.raises(DeadlineExceeded):
        list(subscribe(client, id, timeout=0.2))
    phases = subscribe(client, id)
    assert next(phases) == 1
    report(client, id, COMPLETED)
    assert list(phases)[-1] == COMPLETED
    assert list(subscribe(client, id)) == [COMPLETED]
    waiting = subscribe(client, execution(client, "deleted"))
    assert next(waiting) == 1
    client.resources.delete([("agent", "deleted")])
    with pytest.raises(NotFound):
        list(waiting)
    with pytest.raises(NotFound):
        next(subscribe(client, "aex-none"))


def test_subscribe_goes_on_with_the_same_store_and_refuses_another(tmp_path: Path) -> None:
    """A restart is told; revisions and states of another store would be a mistake."""
    address = f"unix:{tmp_path}/s"
    with DaemonProcess(tmp_path / "a", address) as first, connect(address, timeout=60) as client:
        id = execution(client, "followed")
        told: list[bool] = []
        request = AgentExecutionId(value=id).SerializeToString()
        states = client.subscribe(f"{EXECUTIONS}QueryController/subscribe", request, told=told.append)
        next(states)
        first.kill()
        with DaemonProcess(tmp_path / "a", address) as second:
            assert AgentExecution.FromString(next(states)).metadata.id == id
            assert told == [False, True]
            second.kill()
        with DaemonProcess(tmp_path / "b", address), pytest.raises(StigmerError, match="another store"):
            next(states)


def test_an_artifact_that_is_larger_than_a_commit_passes(client: Client) -> None:
    """Both ways."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("SKILL.md", "words")
        archive.writestr("data.bin", random.Random(1).randbytes(70 << 20))
    push = PushSkillRequest(name="large", artifact=packed.getvalue()).SerializeToString()
    skill = Skill.FromString(client.call(f"{SKILLS}CommandController/push", push))
    request = GetArtifactRequest(artifact_storage_key=skill.status.artifact_storage_key).SerializeToString()
    answer = GetArtifactResponse.FromString(client.call(f"{SKILLS}QueryController/getArtifact", request))
    assert answer.artifact == packed.getvalue()
