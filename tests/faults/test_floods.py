"""Callers that ask for too much: large and swelling messages, resets by the thousand, readers that stop.

Others are served all the while, memory stays within its bound, and the daemon is at rest again afterwards.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import statistics
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import grpc
import http2
import pytest
from daemon.support import DaemonProcess, seconds_of_cpu
from http2 import GOAWAY, Connection

from faults.needs import linux
from faults.scenario import Tally
from stigmer import config, wire
from stigmer.client import connect
from stigmer.client.sync import Client
from stigmer.config import StoreOptions
from stigmer.fields import of_bytes
from stigmer.pb import log_pb2, store_pb2

pytestmark = pytest.mark.skipif(bool(linux()), reason="the memory of another process is read from /proc")

STORE = wire.methods(wire.STORE_SERVICE)
RESOURCES = wire.methods(wire.RESOURCES_SERVICE)
UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A daemon for all of these tests, with something in it."""
    store = StoreOptions(segment_bytes=4 * config.MIB)
    with DaemonProcess(tmp_path_factory.mktemp("floods") / "data", store=store) as process:
        with connect(process.address) as client:
            client.save("k", "a", b"v")
        yield process


def memory(process: DaemonProcess, what: str) -> int:
    """Give `RssAnon` (now) or `VmHWM` (at most so far, since `forget_peak`), in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    (kib,) = re.findall(rf"^{what}:\s+(\d+)", status, re.MULTILINE)
    return int(kib) * config.KIB


def forget_peak(process: DaemonProcess) -> int:
    """Count the peak from now on; give what is in memory now."""
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")
    return memory(process, "VmHWM")


def wakings_of(process: DaemonProcess) -> int:
    """Give how often its event loop went to sleep."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    (number,) = re.findall(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.MULTILINE)
    return int(number)


def status_of(call: Callable[[], object]) -> grpc.StatusCode:
    """Make a call and give how it ended."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def get(address: str) -> bytes:
    """Get the resource that is always there, on a connection of its own."""
    request = store_pb2.GetRequest(kind="k", id="a").SerializeToString()
    answer = http2.call(address, STORE["get"].path, request, timeout=60)
    assert answer is not None
    return store_pb2.Resource.FromString(answer).value


# --- messages ---


def test_messages_over_the_limit(served: DaemonProcess, record_property: Record) -> None:
    """A message beyond the limit is refused as its head comes, with the limit's figure, and is never held."""
    limit = config.Limits().request_bytes_max
    refused = 0
    with grpc.insecure_channel(served.address, options=UNLIMITED) as channel:
        before = forget_peak(served)
        for method in ("save", "commit", "get"):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(STORE[method].path)(bytes(limit + 1), timeout=60)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert str(limit) in caught.value.details()
            refused += 1
        grown = memory(served, "VmHWM") - before
    record_property("tally", {"messages refused": refused, "MiB grown": grown // config.MIB})
    assert grown < 64 * config.MIB
    assert get(served.address) == b"v"


PARALLEL = 32


def test_messages_that_swell(served: DaemonProcess, record_property: Record) -> None:
    """Two million empty messages in 4 MiB, from 32 callers at once, cost less than 512 MiB."""
    swelling = b"\x0a\x00" * (2 * config.MIB)
    tally = Tally({"messages": 0})
    with grpc.insecure_channel(served.address, options=UNLIMITED) as channel, ThreadPoolExecutor(PARALLEL) as threads:
        for method in ("commit", "getmany"):
            call = channel.unary_unary(STORE[method].path)
            before = forget_peak(served)
            found = list(
                threads.map(lambda _, call=call: status_of(lambda: call(swelling, timeout=120)), range(PARALLEL))
            )
            grown = memory(served, "VmHWM") - before
            tally += Tally({"messages": PARALLEL, f"MiB grown by {method}": grown // config.MIB})
            if method == "commit":
                assert set(found) == {grpc.StatusCode.RESOURCE_EXHAUSTED}
            assert grown < 512 * config.MIB
    record_property("tally", dict(tally))
    assert get(served.address) == b"v"


UNITS = config.COMMIT_BYTES_MAX // 2 - 100
EXECUTIONS = "/ai.stigmer.agentic.agentexecution.v1.AgentExecutionCommandController"


def inside(*numbers: int) -> bytes:
    """Give a message as large as any that holds, in messages inside each other, as many empty ones as there is room."""
    message = bytes((numbers[-1] << 3 | 2, 0)) * UNITS
    for number in reversed(numbers[:-1]):
        message = of_bytes(number, message)
    return message


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (STORE["commit"].path, inside(1)),
        (STORE["save"].path, inside(15)),
        (f"{EXECUTIONS}/updateStatus", inside(2, 4)),  # status.tool_calls
    ],
    ids=["commit", "save", "updateStatus"],
)
def test_the_largest_message_that_swells(
    served: DaemonProcess, path: str, message: bytes, record_property: Record
) -> None:
    """Thirty-two million empty messages are counted before they are parsed, which would take gigabytes."""
    with grpc.insecure_channel(served.address, options=UNLIMITED) as channel:
        before = forget_peak(served)
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(path)(message, timeout=120)
        grown = memory(served, "VmHWM") - before
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "fields" in caught.value.details()
    record_property("tally", {"MiB grown": grown // config.MIB})
    assert grown < 512 * config.MIB
    assert get(served.address) == b"v"


def test_a_request_for_names_is_small(served: DaemonProcess) -> None:
    """What holds no values is refused long before a commit is, by its size alone."""
    limit = config.KEYS_REQUEST_BYTES_MAX
    with grpc.insecure_channel(served.address, options=UNLIMITED) as channel:
        calls: list[Callable[[bytes], object]] = [
            channel.unary_unary(STORE["getmany"].path),
            channel.unary_unary(RESOURCES["find"].path),
            lambda message: list(channel.unary_stream(STORE["list"].path)(message, timeout=120)),
            lambda message: list(channel.unary_stream(STORE["tail"].path)(message, timeout=120)),
        ]
        for call in calls:
            with pytest.raises(grpc.RpcError) as caught:
                call(bytes(limit + 1))
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert str(limit) in caught.value.details()


@pytest.mark.parametrize("commits", [config.WRITE_COMMITS_MAX, UNITS], ids=["as many as are taken", "more"])
def test_a_stream_of_empty_commits(served: DaemonProcess, commits: int, record_property: Record) -> None:
    """Those of one message are answered as there is room, each with a refusal; too many are not looked at."""
    stream = [b"\x0a\x00" * commits]
    answered = 0
    with grpc.insecure_channel(served.address, options=UNLIMITED) as channel:
        before = forget_peak(served)
        calls = channel.stream_stream(STORE["write"].path, response_deserializer=store_pb2.WriteResponse.FromString)
        try:
            for response in calls(iter(stream), timeout=120):
                assert len(response.refusals) == len(response.last_revisions)
                answered += len(response.refusals)
            code = grpc.StatusCode.OK
        except grpc.RpcError as error:
            code = error.code()
        grown = memory(served, "VmHWM") - before
    record_property("tally", {"commits refused": answered, "MiB grown": grown // config.MIB})
    if commits == UNITS:
        assert (code, answered) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 0)
    else:
        assert (code, answered) == (grpc.StatusCode.OK, commits)
    assert grown < 256 * config.MIB
    assert get(served.address) == b"v"


# --- connections ---

RESETS, AT_ONCE = 10_000, 100


def test_rapid_resets(served: DaemonProcess, record_property: Record) -> None:
    """Ten thousand calls begun and cancelled, half of them at once: others are served, and soon nothing is left."""
    request = http2.message(store_pb2.TailRequest(after=1, follow=True, kinds=["none"]).SerializeToString())
    headers = http2.request_headers(STORE["tail"].path)
    connections = gone = 0
    sent = under_way = 0
    with ExitStack() as stack:
        client = stack.enter_context(connect(served.address, timeout=60))
        while sent < RESETS:
            opened = stack.enter_context(http2.connected(served.address))
            opened.sendall(http2.PREFACE + http2.frame(http2.SETTINGS))
            connections += 1
            try:
                for number in range(10):
                    streams = range(2 * AT_ONCE * number + 1, 2 * AT_ONCE * (number + 1), 2)
                    calls = [
                        http2.frame(http2.HEADERS, headers, stream, 4) + http2.frame(http2.DATA, request, stream, 1)
                        for stream in streams
                    ]
                    resets = [
                        http2.frame(http2.RST_STREAM, struct.pack(">I", http2.CANCEL), stream) for stream in streams
                    ]
                    if number % 2:  # as soon as they are begun: most are not even shown to the daemon
                        opened.sendall(b"".join(part for pair in zip(calls, resets, strict=True) for part in pair))
                    else:
                        opened.sendall(b"".join(calls))
                        under_way += tails_once_begun(client)
                        opened.sendall(b"".join(resets))
                    sent += AT_ONCE
                    assert get(served.address) == b"v"
            except (ConnectionResetError, BrokenPipeError):
                gone += 1  # sent away, as one may be who does this
        at_rest_after = until_at_rest(served)
        until_no_tail_is_left(client)
    record_property(
        "tally",
        {
            "resets": sent,
            "calls under way before": under_way,
            "connections": connections,
            "of them sent away": gone,
            "rests": at_rest_after,
        },
    )
    assert sent >= RESETS
    assert under_way


def tails_once_begun(client: Client) -> int:
    """Give how many tails are served, once there is one; 0 where none comes."""
    begun = time.monotonic()
    while True:
        if (tails := client.status().tails) or time.monotonic() > begun + 5:
            return tails


def until_no_tail_is_left(client: Client) -> None:
    """Wait until the daemon has let go of every tail that was cancelled."""
    begun = time.monotonic()
    while tails := client.status().tails:
        assert time.monotonic() < begun + 30, f"{tails} tails that were cancelled go on"
        time.sleep(0.05)


def until_at_rest(process: DaemonProcess) -> int:
    """Wait until the daemon computes next to nothing and its event loop sleeps; give how many seconds that took."""
    begun = time.monotonic()
    while True:
        computed, wakings, at = seconds_of_cpu(process), wakings_of(process), time.monotonic()
        time.sleep(0.5)
        is_idle = seconds_of_cpu(process) - computed < 0.05 * (time.monotonic() - at)
        if is_idle and wakings_of(process) - wakings <= 3:
            return round(time.monotonic() - begun)
        assert time.monotonic() < begun + 120, "the daemon goes on computing, or looks for work again and again"


def test_pings_without_end(served: DaemonProcess, record_property: Record) -> None:
    """A thousand pings at once are answered with a GOAWAY, and the daemon rests."""
    pings = http2.frame(http2.PING, bytes(8)) * 1_000
    sent_away = 0
    for _ in range(10):
        with http2.connected(served.address) as opened:
            opened.sendall(http2.PREFACE + http2.frame(http2.SETTINGS) + pings)
            try:
                sent_away += any(
                    kind == GOAWAY and b"too_many_pings" in payload for kind, payload in http2.frames_until_end(opened)
                )
            except TimeoutError:
                pytest.fail("who pings a thousand times at once is not sent away")
        assert get(served.address) == b"v"
    until_at_rest(served)
    record_property("tally", {"pings": 10_000, "sent away": sent_away})
    assert sent_away == 10


# --- readers ---


def follow(address: str, after: int, until: int, told: Pipe) -> None:
    """Follow the log in a process of its own; tell the revisions once all are there."""
    revisions = []
    with connect(address, timeout=120) as client:
        for event in client.tail(after):
            revisions.append(int(event.revision))
            if len(revisions) == 1:
                told.send(None)
            if revisions[-1] >= until:
                break
    told.send(revisions)


def told_by(receiver: Pipe) -> object:
    """Give what a follower tells; raises `EOFError` where it has ended instead."""
    assert receiver.poll(60), "the follower waits for what it is not sent"
    return receiver.recv()


SAVES, SAVE_BYTES = 100, config.MIB


def test_a_follower_that_is_stopped(served: DaemonProcess, record_property: Record) -> None:
    """While it stands still, and while it catches up, it costs a window of memory; it goes on without a gap."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    with connect(served.address, timeout=60) as client:
        last = client.save("stopped", "a", b"")
        follower = spawn.Process(target=follow, args=(served.address, last - 1, last + SAVES, sender))
        follower.start()
        sender.close()  # so that the end of the follower is seen
        try:
            told_by(receiver)
            assert follower.pid is not None
            os.kill(follower.pid, signal.SIGSTOP)
            for number in range(10):  # the log's own caches are filled by these, whoever follows
                client.save("stopped", "a", os.urandom(SAVE_BYTES - number))
            before = memory(served, "RssAnon")
            for number in range(10, SAVES):
                client.save("stopped", "a", os.urandom(SAVE_BYTES - number))
            grown = memory(served, "RssAnon") - before
            before = forget_peak(served)
            os.kill(follower.pid, signal.SIGCONT)
            revisions = told_by(receiver)
            grown_after = memory(served, "VmHWM") - before
        finally:
            follower.kill()
            follower.join()
    record_property(
        "tally",
        {"revisions behind": SAVES, "MiB grown": grown // config.MIB, "while it catches up": grown_after // config.MIB},
    )
    assert revisions == list(range(last, last + SAVES + 1))
    assert grown < 64 * config.MIB
    assert grown_after < 64 * config.MIB


TAILS = 100


def test_gets_beside_a_hundred_tails(served: DaemonProcess, record_property: Record) -> None:
    """Followers that are told of every save hold no Get up, which takes about as long as without them; nor the CPU."""
    tail = store_pb2.TailRequest(after=1, follow=True, kinds=["beside"]).SerializeToString()
    with connect(served.address, timeout=60) as client:

        def median_of_gets(number: int) -> float:
            seconds = []
            for n in range(number):
                if n % 10 == 0:
                    client.save("beside", "a", b"v")
                begun = time.perf_counter()
                client.get("k", "a")
                seconds.append(time.perf_counter() - begun)
            return statistics.median(seconds)

        without = median_of_gets(200)
        with ExitStack() as stack:
            connections = [stack.enter_context(Connection(served.address)) for _ in range(TAILS // 20)]
            for connection in connections:
                for _ in range(20):
                    assert connection.next_data(connection.begin(STORE["tail"].path, tail)) is not None
            assert client.status().tails == TAILS
            beside = median_of_gets(200)
            until_at_rest(served)  # who has nothing to tell them waits, and does not look again and again
    record_property("tally", {"tails": TAILS, "us without": round(without * 1e6), "us beside": round(beside * 1e6)})
    assert beside < max(5 * without, 0.05)


# --- writers ---

CALLERS = 1_000


def test_a_thousand_saves_beyond_the_queue(tmp_path: Path, record_property: Record) -> None:
    """What the queue does not hold is refused; what was acknowledged is there, nothing else, and then there is room."""
    value = os.urandom(20_000)
    answers: dict[int, grpc.StatusCode] = {}
    done = threading.Semaphore(0)
    store = StoreOptions(queue_bytes_max=256 * config.KIB)
    with (
        DaemonProcess(tmp_path / "data", store=store) as process,
        grpc.insecure_channel(process.address, options=UNLIMITED) as channel,
    ):
        commit = channel.unary_unary(STORE["commit"].path)

        def asked(number: int) -> bytes:
            event = log_pb2.Event(op=log_pb2.Event.OP_SAVE, kind="k", id=f"{number}", value=value)
            return log_pb2.Commit(events=[event]).SerializeToString()

        for number in range(CALLERS):
            call = commit.future(asked(number), timeout=60)

            def note(call: grpc.Future, number: int = number) -> None:
                answers[number] = call.code()  # type: ignore[attr-defined]
                done.release()

            call.add_done_callback(note)
        for _ in range(CALLERS):
            assert done.acquire(timeout=60)
        assert status_of(lambda: commit(asked(CALLERS), timeout=60)) is grpc.StatusCode.OK
        process.kill()
    with DaemonProcess(tmp_path / "data", store=store) as process, connect(process.address, timeout=60) as client:
        there = {int(event.id) for event in client.tail(follow=False)}
    acked = {number for number, code in answers.items() if code is grpc.StatusCode.OK}
    refused = {number for number, code in answers.items() if code is grpc.StatusCode.RESOURCE_EXHAUSTED}
    record_property("tally", {"acknowledged": len(acked), "refused": len(refused)})
    assert (len(acked) + len(refused), there) == (CALLERS, acked | {CALLERS})
    assert acked
    assert refused
