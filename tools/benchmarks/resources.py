"""`tools/bench resources`: the platform's typed services, by a plain grpc.aio client on a Unix socket.

The client sends serialized requests and does not parse the answers, so that what is measured is the daemon. Every
figure is the median of the rounds; calls that are compared take turns within a round.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
import grpc.aio

import stigmer
from benchmarks.machine import Row, describe, print_table
from benchmarks.processes import Commands
from stigmer.cli import recordings
from stigmer.pb import store_pb2
from stigmer.resources import kinds
from stigmer.resources.methods import Method, all_methods

_TRAFFIC = Path(__file__).parent.parent.parent / "tests" / "data" / "traffic"
_LIMITS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
_EXECUTIONS = 10
_MANY = 100_000

Call = Callable[[bytes], Awaitable[bytes]]


@click.command()
@click.option("--rounds", default=3, show_default=True, help="Runs of each work; the median counts.")
def resources(rounds: int) -> None:
    """Creates, status reports, lookups by reference and subscribers of the typed services."""
    for line in describe():
        print(line)
    print()
    rows: list[Row] = []
    for measure in (_reports, _subscribers, _creates, _lookups):
        with tempfile.TemporaryDirectory() as scratch:
            commands = Commands(Path(scratch))
            with commands.daemon():
                rows += asyncio.run(measure(commands.address, rounds))
    print_table(rows)


class _Services:
    """The typed services and the store of one daemon, as functions from bytes to bytes."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.aio.insecure_channel(address, options=_LIMITS)
        self.get: Call = self.channel.unary_unary("/stigmer.store.v1.Store/Get")

    def call(self, kind: str, name: str) -> Call:
        found: Call = self.channel.unary_unary(_method(kind, name).path)
        return found

    def subscribe(self, kind: str) -> Callable[[bytes], Any]:
        found: Callable[[bytes], Any] = self.channel.unary_stream(_method(kind, "subscribe").path)
        return found

    async def __aenter__(self) -> _Services:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()


def _method(kind: str, name: str) -> Method:
    return next(one for one in all_methods() if one.kind.name == kind and one.name == name)


def _message(kind: str, name: str, **spec: str) -> Any:
    """Make a resource with a name, as a client sends it to `create`."""
    found = kinds.find(kind)
    assert found is not None
    message: Any = found.message_class(api_version=found.api_version, kind=found.message_name)
    message.metadata.name = name
    for field, value in spec.items():
        setattr(message.spec, field, value)
    return message


async def _session(services: _Services) -> str:
    """Make an agent and a session; give the session's id."""
    agent = _message("agent", "bench", instructions="answer what is asked")
    agent.metadata.owner_scope, agent.metadata.org = 2, "acme"
    created = type(agent).FromString(await services.call("agent", "create")(agent.SerializeToString()))
    session = _message("session", "bench", agent_instance_id=created.status.default_instance_id)
    session.metadata.owner_scope, session.metadata.org = 2, "acme"
    answer = await services.call("session", "create")(session.SerializeToString())
    return str(type(session).FromString(answer).metadata.id)


async def _execution(services: _Services, session_id: str, id: str) -> None:
    execution = _message("agent_execution", "bench", session_id=session_id, message="go")
    execution.metadata.id = id
    await services.call("agent_execution", "create")(execution.SerializeToString())


def _updates(name: str, id: str) -> list[bytes]:
    """Give the requests of a recording, for an execution."""
    path = str(_TRAFFIC / f"agent-run-{name}.binpb.zst")
    updates = []
    for number, message in enumerate(recordings.frames(path), 1):
        update = recordings.update_of(message, path, number)
        update.execution_id = id
        updates.append(update.SerializeToString())
    return updates


def _log_bytes(address: str) -> int:
    with stigmer.connect(address) as client:
        return client.status().log_bytes


# --- status reports ----------------------------------------------------------------------------------------


async def _reports(address: str, rounds: int) -> list[Row]:
    rows = []
    async with _Services(address) as services:
        session_id = await _session(services)
        for name, expected in (("chat", ""), ("tools", "500/s, 0.5 x"), ("long", "")):
            rates, growths = [], []
            for number in range(rounds):
                ids = [f"aex-{name}-{number}-{one}" for one in range(_EXECUTIONS)]
                for id in ids:
                    await _execution(services, session_id, id)
                per_execution = [_updates(name, id) for id in ids]
                before = _log_bytes(address)
                seconds, final_bytes = await _play(services, per_execution)
                rates.append(sum(map(len, per_execution)) / seconds)
                growths.append((_log_bytes(address) - before) / final_bytes)
            growth = statistics.median(growths)
            figure = f"{statistics.median(rates):,.0f}/s, log grows by {growth:.2f} x the final values"
            rows.append(Row(f"updateStatus, `{name}`, {_EXECUTIONS} executions at once", figure, expected))
    return rows


async def _play(services: _Services, per_execution: Sequence[Sequence[bytes]]) -> tuple[float, int]:
    """Send the updates of executions, each after the one before; give the seconds and the bytes of the final values."""
    update = services.call("agent_execution", "updateStatus")

    async def runner(updates: Sequence[bytes]) -> int:
        answer = b""
        for one in updates:
            answer = await update(one)
        return len(answer)

    started = time.perf_counter()
    final = await asyncio.gather(*map(runner, per_execution))
    return time.perf_counter() - started, sum(final)


# --- subscribers -------------------------------------------------------------------------------------------


async def _subscribers(address: str, rounds: int) -> list[Row]:
    rows = []
    async with _Services(address) as services:
        session_id = await _session(services)
    for count in (0, 10, 1_000):
        rates = [await _reports_beside(address, session_id, count, f"aex-{count}-{number}") for number in range(rounds)]
        figure = f"{statistics.median(rates):,.0f}/s"
        rows.append(Row(f"updateStatus, `tools`, beside {count:,} subscribers of it", figure))
    return rows


async def _reports_beside(address: str, session_id: str, count: int, id: str) -> float:
    """Give how many updates a second one execution takes that others subscribe to, in a process of their own."""
    async with _Services(address) as services:
        await _execution(services, session_id, id)
        updates = _updates("tools", id)
        with _subscribed(address, id, count):
            seconds, _ = await _play(services, [updates])
    return len(updates) / seconds


@contextmanager
def _subscribed(address: str, id: str, count: int) -> Iterator[None]:
    """Have subscribers while the block runs, and wait until each was told the end."""
    if not count:
        yield
        return
    processes = multiprocessing.get_context("spawn")
    ours, theirs = processes.Pipe()
    process = processes.Process(target=_subscriber_process, args=(address, id, count, theirs), daemon=True)
    process.start()
    ours.recv()
    yield
    process.join()
    assert process.exitcode == 0


def _subscriber_process(address: str, id: str, count: int, ready: Connection) -> None:
    """Subscribe many times; say when all have their first state, then read on to the end."""
    request = _method("agent_execution", "subscribe").request(value=id).SerializeToString()

    async def run() -> None:
        async with _Services(address) as services:
            subscribe = services.subscribe("agent_execution")
            calls = [subscribe(request) for _ in range(count)]
            await asyncio.gather(*(call.read() for call in calls))
            ready.send(None)

            async def read_on(call: Any) -> None:
                while await call.read() is not grpc.aio.EOF:
                    pass

            await asyncio.gather(*map(read_on, calls))

    asyncio.run(run())


# --- creates -----------------------------------------------------------------------------------------------


async def _creates(address: str, rounds: int) -> list[Row]:
    rows = []
    async with _Services(address) as services:
        session_id = await _session(services)
        agent = _message("agent", "", instructions="answer what is asked")
        agent.metadata.owner_scope, agent.metadata.org = 2, "acme"
        execution = _message("agent_execution", "bench", session_id=session_id, message="go")
        for kind, message, expected in (
            ("agent_execution", execution, "1,000/s"),
            ("agent", agent, "1,000/s"),
        ):
            create = services.call(kind, "create")
            rates = []
            for number in range(rounds):

                def request(place: int, message: Any = message, number: int = number) -> bytes:
                    message.metadata.name = f"bench {number} {place}"
                    return bytes(message.SerializeToString())

                rates.append(await _calls_per_second(create, [request(place) for place in range(3_000)], 64))
            what = f"{kind} with its default instance" if kind == "agent" else kind
            rows.append(Row(f"create of an {what}, 64 in flight", f"{statistics.median(rates):,.0f}/s", expected))
    return rows


async def _calls_per_second(call: Call, requests: Sequence[bytes], callers: int) -> float:
    """Send requests, so many in flight; give how many a second."""

    async def caller(first: int) -> None:
        for request in requests[first::callers]:
            await call(request)

    started = time.perf_counter()
    await asyncio.gather(*map(caller, range(callers)))
    return len(requests) / (time.perf_counter() - started)


# --- lookups -----------------------------------------------------------------------------------------------


async def _lookups(address: str, rounds: int) -> list[Row]:
    rows = []
    async with _Services(address) as services:
        session_id = await _session(services)
        for executions in (100, _MANY):
            _fill(address, session_id, executions)
            reference = _method("agent", "getByReference").request(slug="bench", org="acme").SerializeToString()
            agent_id = (
                type(_message("agent", ""))
                .FromString(await services.call("agent", "getByReference")(reference))
                .metadata.id
            )
            get = store_pb2.GetRequest(kind="agent", id=agent_id).SerializeToString()
            by_reference = services.call("agent", "getByReference")
            for callers in (1, 32):
                found: list[float] = []
                plain: list[float] = []
                for _ in range(rounds):
                    found.append(await _calls_per_second(by_reference, [reference] * 3_000, callers))
                    plain.append(await _calls_per_second(services.get, [get] * 3_000, callers))
                ratio = statistics.median(found) / statistics.median(plain)
                flight = "one after another" if callers == 1 else f"{callers} in flight"
                rows.append(
                    Row(
                        f"getByReference, {flight}, beside {executions:,} executions",
                        f"{statistics.median(found):,.0f}/s, {ratio:.2f} x Get",
                        "0.7 x",
                    )
                )
            page = _method("agent_execution", "listBySession").request(session_id=session_id, page_size=50)
            pages = await _calls_per_second(
                services.call("agent_execution", "listBySession"), [page.SerializeToString()] * 300, 1
            )
            rows.append(Row(f"listBySession, 50 of {executions:,}", f"{pages:,.0f}/s"))
    return rows


def _fill(address: str, session_id: str, count: int) -> None:
    """Have so many executions of a session."""
    execution = _message("agent_execution", "bench", session_id=session_id, message="go")
    execution.metadata.slug = "bench"
    with stigmer.connect(address) as client:
        changes = []
        for number in range(count):
            execution.metadata.id = f"aex-{number:08d}"
            changes.append(stigmer.Save("agent_execution", execution.metadata.id, execution.SerializeToString()))
        for first in range(0, count, 5_000):
            client.commit(changes[first : first + 5_000])
