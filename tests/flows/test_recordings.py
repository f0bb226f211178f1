"""What an agent's runner really sends, played to a daemon by a plain client, and what those who subscribe see of it."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from daemon.support import DaemonProcess

from flows.support import (
    COMPLETED,
    FAILED,
    IN_PROGRESS,
    LIMIT_SECONDS,
    PENDING,
    UNLIMITED,
    AgentStatus,
    Client,
    WorkflowStatus,
    method_of,
    new_execution,
    recorded,
)
from stigmer.client import connect
from stigmer.pb.agentic import agentexecution_pb2

KIND = "agent_execution"
STATUSES: dict[str, Callable[..., Any]] = {"agent_execution": AgentStatus, "workflow_execution": WorkflowStatus}
each_kind = pytest.mark.parametrize("kind", STATUSES)


def moment_of(state: Any) -> int:
    """Give when a state was reported; two reports have never the same time here."""
    return int(state.status.audit.status_audit.updated_at.ToNanoseconds())


def reported_in(state: Any) -> Any:
    """Give of a final state what its runner reported, who left the times to the daemon."""
    status = AgentStatus()
    status.CopyFrom(state.status)
    assert status.started_at <= status.completed_at
    for field in ("audit", "started_at", "completed_at"):
        assert getattr(status, field)
        status.ClearField(field)
    return status


def sum_of(statuses: list[Any]) -> Any:
    """Give what statuses come to that are reported one after the other."""
    summed = AgentStatus()
    for status in statuses:
        for field, _ in status.ListFields():
            summed.ClearField(field.name)
        summed.MergeFrom(status)
    return summed


class Subscriber:
    """Follows an execution to its end on a thread of its own, over every loss of the daemon."""

    def __init__(self, client: Client, id: str, kind: str = KIND) -> None:
        self._client, self._id, self._kind = client, id, kind
        self.states: list[Any] = []
        self.connections = 0
        self._attached = threading.Event()
        self._threads = ThreadPoolExecutor(1)
        self._ended: Future[None] = self._threads.submit(self._follow)
        assert self._attached.wait(LIMIT_SECONDS)

    def _follow(self) -> None:
        while True:
            self.connections += 1
            seen = len(self.states)
            try:
                for state in self._client.subscribe(self._kind, self._id):
                    self.states.append(state)
                    self._attached.set()
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                # The first state of the next connection may be one that was seen.
                continue
            finally:
                self._check_order(seen)
            return

    def _check_order(self, first: int) -> None:
        moments = [moment_of(state) for state in self.states[first:]]
        assert moments == sorted(set(moments))

    def end(self) -> list[Any]:
        """Wait for the end of the stream, which is OK; give all states."""
        self._ended.result(LIMIT_SECONDS)
        self._threads.shutdown()
        return self.states


class Player:
    """Reports statuses one after the other, each with a request id, and again where the daemon was lost."""

    def __init__(self, client: Client, id: str) -> None:
        self._client, self._id = client, id
        self._run = uuid.uuid4().hex
        self.repeated = 0
        self.under_way = -1
        """The number of the last report that was sent."""

    def report(self, number: int, status: Any) -> Any:
        while True:
            try:
                call = self._client.begin_report(KIND, self._id, status, f"{self._run}-{number}")
                self.under_way = number
                return call.result()
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                self.repeated += 1


def saves_of(address: str, id: str) -> int:
    with connect(address) as store:
        return sum(event.id == id for event in store.tail(0, kinds=[KIND], follow=False))


@pytest.mark.parametrize("name", ["chat", "tools", "long"])
def test_subscribers_of_a_recording(client: Client, daemon: DaemonProcess, name: str) -> None:
    """Who subscribes before, in the middle or after the end sees the state there is, newer ones, and the final one."""
    statuses = recorded(name)
    id = new_execution(client, KIND)
    player = Player(client, id)
    before = Subscriber(client, id)
    half = len(statuses) // 2
    for number, status in enumerate(statuses[:half]):
        answered = player.report(number, status)
    middle = Subscriber(client, id)
    for number, status in enumerate(statuses[half:], half):
        last = player.report(number, status)
    after = Subscriber(client, id)
    assert reported_in(last) == sum_of(statuses)
    assert before.states[0].status.phase == PENDING
    assert middle.states[0] == answered
    assert after.end() == [last]
    for subscriber in (before, middle):
        states = subscriber.end()
        assert states[-1] == last
        assert [state for state in states if state.status.phase in (COMPLETED, FAILED)] == [last]
    assert client.get(KIND, id) == last
    assert saves_of(daemon.address, id) == len(statuses) + 1


@pytest.mark.parametrize("name", ["chat", "tools"])
def test_a_recording_over_a_crash(tmp_path: Path, name: str) -> None:
    """Where the daemon is killed, runner and subscribers go on with the next one, and each report is applied once."""
    statuses = recorded(name)
    half = len(statuses) // 2
    address = f"unix:{tmp_path}/s"
    enough, stands_still = threading.Event(), threading.Event()
    with Client(address) as client, Client(address) as other, ThreadPoolExecutor(1) as threads:
        with DaemonProcess(tmp_path / "data", address) as first:
            id = new_execution(client, KIND)
            player = Player(client, id)
            subscribers = [Subscriber(other, id), Subscriber(client, id)]

            def play() -> Any:
                for number, status in enumerate(statuses):
                    if number == half:
                        enough.set()
                        assert stands_still.wait(LIMIT_SECONDS)
                    last = player.report(number, status)
                return last

            playing = threads.submit(play)
            assert enough.wait(LIMIT_SECONDS)
            first.signal(signal.SIGSTOP)
            stands_still.set()
            while player.under_way < half:
                time.sleep(0.001)
            first.kill()
        with DaemonProcess(tmp_path / "data", address):
            last = playing.result(LIMIT_SECONDS)
            assert reported_in(last) == sum_of(statuses)
            for subscriber in subscribers:
                assert subscriber.end()[-1] == last
                assert subscriber.connections > 1
            assert client.get(KIND, id) == last
            assert saves_of(address, id) == len(statuses) + 1
            # What was answered and not heard is asked again, also when the execution has ended meanwhile.
            assert player.report(len(statuses) - 1, statuses[-1]) == last
            assert saves_of(address, id) == len(statuses) + 1
    assert player.repeated >= 1


def test_a_slow_reader_skips_states(client: Client) -> None:
    """Who reads nothing until the end does not get all of the states, but the final one."""
    statuses = recorded("tools")
    id = new_execution(client, KIND)
    stream = client.subscribe(KIND, id)
    first = next(stream)
    assert first.status.phase == PENDING
    player = Player(client, id)
    for number, status in enumerate(statuses):
        last = player.report(number, status)
    states = list(stream)
    assert states[-1] == last
    # What fits into the buffers on the way is sent though nobody reads it.
    assert len(states) < len(statuses) - 1
    assert stream.code() is grpc.StatusCode.OK


@each_kind
def test_subscribing_to_each_kind(client: Client, kind: str) -> None:
    """Executions of agents and of workflows are followed the same way; the final state ends the stream."""
    id = new_execution(client, kind)
    stream = client.subscribe(kind, id)
    assert next(stream) == client.get(kind, id)
    for phase in (IN_PROGRESS, COMPLETED):
        reported = client.report(kind, id, STATUSES[kind](phase=phase))
        assert next(stream) == reported
    assert list(stream) == []
    assert stream.code() is grpc.StatusCode.OK


@each_kind
@pytest.mark.parametrize("phase", [3, 4, 5])
def test_a_finished_execution_ends_its_stream_at_once(client: Client, kind: str, phase: int) -> None:
    """Who subscribes to what has ended gets the final state, and the end."""
    id = new_execution(client, kind)
    final = client.report(kind, id, STATUSES[kind](phase=phase))
    stream = client.subscribe(kind, id)
    assert list(stream) == [final]
    assert stream.code() is grpc.StatusCode.OK


@each_kind
def test_executions_that_are_not_there(client: Client, kind: str) -> None:
    """Of an unknown one, and once it is deleted, subscribers get NOT_FOUND, in the words of get."""
    name = "AgentExecution" if kind == "agent_execution" else "WorkflowExecution"
    unknown = client.subscribe(kind, "not-there")
    assert (unknown.code(), unknown.details()) == (grpc.StatusCode.NOT_FOUND, f"{name} not found: not-there")
    without = client.subscribe(kind, "")
    assert without.code() is grpc.StatusCode.INVALID_ARGUMENT
    id = new_execution(client, kind)
    stream = client.subscribe(kind, id)
    next(stream)
    client.delete(kind, id)
    with pytest.raises(grpc.RpcError):
        next(stream)
    assert (stream.code(), stream.details()) == (grpc.StatusCode.NOT_FOUND, f"{name} not found: {id}")


def test_the_end_of_a_session_ends_who_follows_its_executions(client: Client) -> None:
    """An execution that goes with its parent is deleted to its subscribers, too."""
    id = new_execution(client, KIND)
    stream = client.subscribe(KIND, id)
    session_id = next(stream).spec.session_id
    client.delete("session", session_id)
    with pytest.raises(grpc.RpcError):
        next(stream)
    assert stream.code() is grpc.StatusCode.NOT_FOUND


def test_a_thousand_subscribers_see_the_end(client: Client, daemon: DaemonProcess) -> None:
    """However many subscribe to one execution, each gets the state there is, only newer ones, and the final one."""
    id = new_execution(client, KIND)
    statuses = recorded("chat")

    async def follow(channel: grpc.aio.Channel, attached: asyncio.Event) -> bytes:
        method = method_of(KIND, "subscribe")
        call = channel.unary_stream(method.path)(method.request(value=id).SerializeToString(), timeout=LIMIT_SECONDS)
        last = await call.read()
        attached.set()
        while (state := await call.read()) is not grpc.aio.EOF:
            last = state
        assert await call.code() is grpc.StatusCode.OK
        return last

    async def run() -> list[bytes]:
        channels = [grpc.aio.insecure_channel(daemon.address, options=[*UNLIMITED, ("a", n)]) for n in range(4)]
        events = [asyncio.Event() for _ in range(1000)]
        following = [asyncio.create_task(follow(channels[n % 4], event)) for n, event in enumerate(events)]
        async with asyncio.timeout(LIMIT_SECONDS):
            for event in events:
                await event.wait()
            player = Player(client, id)
            for number, status in enumerate(statuses):
                await asyncio.to_thread(player.report, number, status)
            seen = await asyncio.gather(*following)
        for channel in channels:
            await channel.close()
        return seen

    last = client_states(asyncio.run(run()))
    final = client.get(KIND, id)
    assert set(last) == {final.SerializeToString(deterministic=True)}
    assert len(last) == 1000


def client_states(values: list[bytes]) -> list[bytes]:
    """Give states in a form in which the same ones are the same bytes."""
    known: dict[bytes, bytes] = {}
    states = []
    for value in values:
        if value not in known:
            known[value] = agentexecution_pb2.AgentExecution.FromString(value).SerializeToString(deterministic=True)
        states.append(known[value])
    return states
