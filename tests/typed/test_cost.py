"""What a call costs does not depend on how much the store has: counted in rows that are read, not in time."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from stigmer.artifacts import Artifacts
from stigmer.errors import ResourceExhausted
from stigmer.model import Save
from stigmer.pb.agentic import agentexecution_pb2, agentinstance_pb2, apiresource_pb2, session_pb2
from stigmer.resources import kinds, writing
from stigmer.resources.verbs import Resources, Target
from stigmer.store import Store
from stigmer.vault import Vault
from stigmer.views import index, snapshot
from typed.support import IN_PROGRESS, KIND, execution_of, make

BATCH = 1_000


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The keys of all rows that are read of the views, each of which is verified when it is."""
    seen: list[bytes] = []
    for module, name in ((index, "_verified"), (snapshot, "verified")):
        original = getattr(module, name)

        def counted(key: bytes, row: bytes, original: Callable[[bytes, bytes], bytes] = original) -> bytes:
            seen.append(key)
            return original(key, row)

        monkeypatch.setattr(module, name, counted)
    return seen


def _load(directory: Path, count: int) -> None:
    """Make a store with so many executions, sessions and servers."""
    with Store.open(directory) as store:
        for first in range(0, count, BATCH):
            changes: list[Save] = []
            for number in range(first, min(count, first + BATCH)):
                execution = execution_of("run", session=f"ses-{number}", id=f"aex-{number}", slug=f"run-{number}")
                execution.status.phase = 1
                server = make("mcp_server", f"Server {number}", id=f"mcp-{number}", slug=f"server-{number}")
                session = make("session", f"Session {number}", id=f"ses-{number}", slug=f"session-{number}")
                session.spec.agent_instance_id = f"ain-{number}"
                changes += (
                    Save(kind, message.metadata.id, message)
                    for kind, message in (("agent_execution", execution), ("mcp_server", server), ("session", session))
                )
            store.commit(changes)


def _resources(directory: Path, stack: ExitStack) -> Resources:
    """Give the resources of a store that was opened just now, so that nothing of it is in memory."""
    store = stack.enter_context(Store.open(directory))
    vault = stack.enter_context(closing(Vault.open(str(directory), None, os.environ)))
    return Resources(store, vault, Artifacts(str(directory / "artifacts")))


SIZES = {"small": 100, "large": 20_000}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where there are a small store and a large one, to be copied."""
    path = tmp_path_factory.mktemp("made")
    for name, count in SIZES.items():
        _load(path / name, count)
    return path


@pytest.fixture
def stores(made: Path, tmp_path: Path) -> Iterator[tuple[Resources, Resources]]:
    """A small store and a large one."""
    with ExitStack() as stack:
        small, large = (_resources(Path(shutil.copytree(made / name, tmp_path / name)), stack) for name in SIZES)
        yield small, large


def _kind(name: str) -> kinds.Kind:
    kind = kinds.find(name)
    assert kind is not None
    return kind


def _report(id: str) -> Any:
    request = agentexecution_pb2.AgentExecutionUpdateStatusInput(execution_id=id)
    request.status.phase = IN_PROGRESS
    return request


def _server(name: str, **metadata: Any) -> Any:
    return make("mcp_server", name, **metadata)


Calls = dict[str, Callable[[Resources], object]]
CALLS: Calls = {
    "get": lambda to: to.get(_kind("mcp_server"), "mcp-7"),
    "getByReference": lambda to: to.get_by_reference(
        _kind("mcp_server"), apiresource_pb2.ApiResourceReference(slug="server-7", org="acme")
    ),
    "list": lambda to: to.list_for(
        _kind("agent_execution"), "list", agentexecution_pb2.ListAgentExecutionsRequest(page_size=5, phase=1)
    ),
    "listBySession": lambda to: to.list_for(
        _kind("agent_execution"),
        "listBySession",
        agentexecution_pb2.ListAgentExecutionsBySessionRequest(session_id="ses-7"),
    ),
    "listByAgent": lambda to: to.list_for(
        _kind("session"), "listByAgent", session_pb2.ListSessionsByAgentRequest(agent_id="ain-7")
    ),
    "getByAgent": lambda to: to.list_for(
        _kind("agent_instance"), "getByAgent", agentinstance_pb2.GetAgentInstancesByAgentRequest(agent_id="agt-7")
    ),
    "create": lambda to: to.run(lambda: to.create(_kind("mcp_server"), _server("Fresh"))),
    "update by slug": lambda to: to.run(
        lambda: to.update(_kind("mcp_server"), _server("Changed", slug="server-8", org="acme"))
    ),
    "apply": lambda to: to.run(lambda: to.apply(_kind("mcp_server"), _server("Server 9", labels={"a": "b"}))),
    "apply of the same": lambda to: to.run(lambda: to.apply(_kind("mcp_server"), _server("Server 10"))),
    "create of an execution": lambda to: to.run(
        lambda: to.create(_kind("agent_execution"), execution_of("run", session="ses-7"))
    ),
    "updateStatus": lambda to: to.run(lambda: to.update_status(_kind("agent_execution"), _report("aex-7"))),
    "delete": lambda to: to.run(lambda: to.delete(_kind("mcp_server"), "mcp-11")),
    "delete with children": lambda to: to.run(lambda: to.delete(_kind("session"), "ses-12")),
}


def test_cost_does_not_grow_with_the_store(stores: tuple[Resources, Resources], reads: list[bytes]) -> None:
    """Every call reads as many rows of a store of 60,000 resources as of one of 300, and of none more than a few."""
    assert set(KIND) == {kind.name for kind in kinds.all_kinds()}
    for name, call in CALLS.items():
        counts = []
        for resources in stores:
            resources.store._writer.flush()  # type: ignore[attr-defined]
            reads.clear()
            call(resources)
            counts.append(len(reads))
        assert counts[0] == counts[1] <= 20, (name, counts)
        assert counts[0] > 0 or name == "getByAgent", name


def test_a_delete_of_many_costs_in_proportion(stores: tuple[Resources, Resources]) -> None:
    """It is decided on the writer's thread, for which everybody waits.

    Sixteen times as many cost far less than 48 times as much, in time of the processor.
    """
    _, resources = stores
    seconds: list[float] = []
    for count in (500, 8_000):
        targets = [Target(_kind("mcp_server"), f"mcp-{number}") for number in range(count)]
        took = []
        for _ in range(3):
            begun = time.process_time()
            assert len(resources.plan_delete(targets)) == count
            took.append(time.process_time() - begun)
        seconds.append(min(took))
    assert seconds[1] < 48 * seconds[0], seconds


def test_pages_by_number_read_on_from_each_other(stores: tuple[Resources, Resources], reads: list[bytes]) -> None:
    """Whoever reads a list page by page, by their numbers, reads each row of it about once; two at a time as well."""
    _, resources = stores

    def page(number: int, size: int) -> list[str]:
        request = agentexecution_pb2.ListAgentExecutionsRequest(page_size=size, page_token=str(number))
        listed, pages = resources.list_for(_kind("agent_execution"), "list", request)
        assert pages == -(-20_000 // size)
        return [resource.id for resource in listed.resources]

    reads.clear()
    seen: list[str] = []
    for number in range(1, 41):
        seen += page(number, 50)
        page(number, 30)
    assert seen == [f"aex-{number}" for number in reversed(range(18_000, 20_000))]
    # An entry of the index and a row of the snapshot for each, and a little for each page.
    assert len(reads) < 2.5 * 40 * (50 + 30)
    assert page(400, 50)[-1] == "aex-0"
    assert page(401, 50) == []


def test_a_cascade_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would not fit into one commit is refused, says what to do, and deletes nothing."""
    monkeypatch.setattr(writing, "_GONE_MAX", 3)
    with ExitStack() as stack:
        resources = _resources(tmp_path / "data", stack)
        for number in range(4):
            execution = execution_of("run", session="ses-7", id=f"aex-{number}", slug=f"run-{number}")
            resources.store.commit([Save("agent_execution", f"aex-{number}", execution)])  # type: ignore[attr-defined]
        session = make("session", "Session", id="ses-7", slug="session")
        resources.store.commit([Save("session", "ses-7", session)])  # type: ignore[attr-defined]
        with pytest.raises(ResourceExhausted, match="more than 3 resources hang on session") as caught:
            resources.run(lambda: resources.delete(_kind("session"), "ses-7"))
        assert "sessions" in str(caught.value.hint)
        assert resources.store.count() == {"agent_execution": 4, "session": 1}  # type: ignore[attr-defined]
