"""Callers that leave: they cancel, die with answers unread, or break off in the middle of a request.

Nothing stays behind in the daemon for any of them: no thread, no file, no read transaction, no place among the tails.
What they had committed is there as a whole or not at all.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import http2
import lmdb
from checks import check_store

from faults.bugs import bug
from faults.forked import Forked, a_daemon
from faults.needs import linux
from faults.scenario import Scenario, Turn
from stigmer import config, wire
from stigmer.config import StoreOptions
from stigmer.daemon import tail
from stigmer.daemon.lifecycle import DaemonOptions
from stigmer.model import Save
from stigmer.pb import log_pb2, store_pb2
from stigmer.store import Store

_STORE = wire.methods(wire.STORE_SERVICE)
_STATUS = wire.methods(wire.ADMIN_SERVICE)["status"].path
_STORED, _STORED_BYTES = 200, 10_000
"""So much is there that no list and no tail of it fits into what a connection takes without being read."""
_PARTS = 3
_WARM_UP = 50
"""After so many departures the daemon has the threads and the memory that such callers cost."""
_CHECKPOINT_TRANSACTIONS = 1
"""The views keep the pages of their synced checkpoint from being used again by one."""
_SLACK = 6
"""Threads of gRPC and files that come and go."""
_GROWTH_BYTES_MAX = 48 * config.MIB
_STILL_SECONDS = 15.0
"""What has not become less for so long will not go away."""
_SMALL = StoreOptions(segment_bytes=256 * config.KIB)


class _Held(NamedTuple):
    """What the daemon has of what callers may leave behind."""

    threads: int
    files: int
    transactions: int
    tails: int

    def is_within(self, most: _Held) -> bool:
        return all(have <= limit for have, limit in zip(self, most, strict=True))


class _Caller:
    """Makes calls and leaves."""

    def __init__(self, turn: Turn, address: str) -> None:
        self._turn = turn
        self._address = address
        self._commits = 0
        self.acked: dict[int, int] = {}
        """The number of a commit, and its last revision."""

    def leave(self, most: int) -> int:
        """Make some calls on one connection and leave each of them; give how many these were."""
        turn = self._turn
        connection = http2.Connection(self._address, timeout=60)
        calls = turn.random.randint(1, most)
        for _ in range(calls):
            stream, name, is_whole = self._begin(connection)
            turn.count(f"left {name}")
            if is_whole and turn.random.random() < 0.3:
                connection.next_data(stream)
                turn.count("left with an answer begun")
            if turn.random.random() < 0.5:
                connection.reset(stream)
                turn.count("cancelled calls")
        if turn.random.random() < 0.2:
            connection.socket.close()
        else:
            connection.break_off()
            turn.count("connections broken off")
        return calls

    def commit(self) -> None:
        """Make a commit and wait for its answer."""
        request, number = self._request()
        answer = http2.call(self._address, _STORE["commit"].path, request, timeout=60)
        self._turn.require(answer is not None, "a commit was refused")
        self.acked[number] = store_pb2.CommitResponse.FromString(answer or b"").last_revision

    def _begin(self, connection: http2.Connection) -> tuple[int, str, bool]:
        """Begin a call, or half of one; give its stream, its name, and whether it will be answered."""
        chance = self._turn.random
        name = chance.choice(("tail", "tail", "list", "get", "commit", "write"))
        path = _STORE[name].path
        if name == "tail":
            request = store_pb2.TailRequest(after=chance.choice((0, _STORED)), follow=chance.random() < 0.8)
            return connection.begin(path, request.SerializeToString()), name, True
        if name == "list":
            return connection.begin(path, store_pb2.ListRequest(kind="stored").SerializeToString()), name, True
        if name == "get":
            return connection.begin(path, store_pb2.GetRequest(kind="stored", id="1").SerializeToString()), name, True
        commits = [self._request()[0] for _ in range(chance.randint(1, 3) if name == "write" else 1)]
        bodies = commits
        if name == "write":
            bodies = [b"".join(_field_1(commit) for commit in commits)]
        cut = chance.randrange(1, len(bodies[0])) if chance.random() < 0.3 else None
        ends = chance.random() < 0.5
        return connection.begin(path, *bodies, ends=ends, cut=cut), name, ends and cut is None

    def _request(self) -> tuple[bytes, int]:
        self._commits += 1
        value = b"%d " % self._commits * 20
        events = [
            log_pb2.Event(op=log_pb2.Event.OP_SAVE, kind="left", id=f"{part}", value=value) for part in range(_PARTS)
        ]
        return log_pb2.Commit(events=events).SerializeToString(), self._commits


def _field_1(message: bytes) -> bytes:
    """Give a message as field 1 of another."""
    size, encoded = len(message), b""
    while size >= 128:
        encoded += bytes([size % 128 + 128])
        size //= 128
    return b"\x0a" + encoded + bytes([size]) + message


def leave(turn: Turn) -> None:
    """Have callers leave, and see that nothing stays behind."""
    data = turn.directory / "data"
    with Store.open(data, _SMALL) as store:
        store.save_many(Save("stored", f"{number}", os.urandom(_STORED_BYTES)) for number in range(_STORED))
    with ExitStack() as stack:
        daemon = stack.enter_context(Forked(a_daemon(DaemonOptions(str(data), ("127.0.0.1:0",), _SMALL))))
        (address,) = daemon.report().listen
        caller = _Caller(turn, address)
        left = 0
        while left < _WARM_UP:
            left += caller.leave(10)
        none = _Held(10**6, 10**6, _CHECKPOINT_TRANSACTIONS, 0)
        before = _settled(turn, daemon.pid, data, address, none, "right after the start")
        before_bytes = _anonymous_bytes(daemon.pid)
        most = _Held(before.threads + _SLACK, before.files + _SLACK, _CHECKPOINT_TRANSACTIONS, 0)
        left = 0
        while left < turn.amount:
            left += caller.leave(10)
            if turn.random.random() < 0.2:
                caller.commit()
        turn.count("departures", left)
        _settled(turn, daemon.pid, data, address, most, "after all had left")
        grown = _anonymous_bytes(daemon.pid) - before_bytes
        turn.require(grown < _GROWTH_BYTES_MAX, "memory grows with those who left", grown=grown, departures=left)
        turn.require(daemon.stop() == 0, "the daemon did not stop in order")
    _check_commits(turn, data, caller.acked)


def _settled(turn: Turn, pid: int, data: Path, address: str, most: _Held, when: str) -> _Held:
    """Wait until the daemon holds no more than this, and give what it holds."""
    held = _held(pid, data, address)
    least, fell_at = sum(held), time.monotonic()
    while not held.is_within(most):
        is_still = time.monotonic() > fell_at + _STILL_SECONDS
        turn.require(not is_still, f"something stayed behind, {when}", held=held, most=most)
        time.sleep(0.05)
        held = _held(pid, data, address)
        if sum(held) < least:
            least, fell_at = sum(held), time.monotonic()
    return held


def _held(pid: int, data: Path, address: str) -> _Held:
    status = store_pb2.StatusResponse.FromString(http2.call(address, _STATUS, b"") or b"")
    return _Held(
        len(os.listdir(f"/proc/{pid}/task")), len(os.listdir(f"/proc/{pid}/fd")), _transactions(data), status.tails
    )


def _transactions(data: Path) -> int:
    """Give the number of read transactions that are open in LMDB."""
    (file,) = data.glob("views/*/data.mdb")
    with lmdb.open(str(file.parent), readonly=True, max_readers=126) as environment:
        # A line for each slot: pid, thread, and the transaction, "-" for none.
        return len(re.findall(r"^ *\d+ +[0-9a-f]+ +\d+$", environment.readers(), re.MULTILINE))


def _anonymous_bytes(pid: int) -> int:
    (kib,) = re.findall(r"^RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(kib) * config.KIB


def _check_commits(turn: Turn, data: Path, acked: dict[int, int]) -> None:
    """Each commit is whole or not there, once, and each that was answered is where its caller was told."""
    with Store.open(data, _SMALL) as store:
        events = [event for event in check_store(store) if event.kind == "left"]
    found: dict[int, int] = {}
    for first in range(0, len(events), _PARTS):
        parts = events[first : first + _PARTS]
        number = int(parts[0].value.split()[0])
        is_whole = [part.id for part in parts] == [f"{part}" for part in range(_PARTS)]
        turn.require(is_whole and len({part.value for part in parts}) == 1, "half a commit", number=number)
        turn.require(number not in found, "a commit that was made twice", number=number)
        found[number] = parts[-1].revision
    lost = {number: at for number, at in acked.items() if found.get(number) != at}
    turn.require(not lost, "an acknowledged commit is gone", lost=lost)
    turn.count("acknowledged commits checked", len(acked))
    turn.count("commits of those who left", len(found) - len(acked))


SCENARIO = Scenario(
    name="departures",
    rows=("D14",),
    what="callers cancel, die and break off in the middle of streams and requests, and leave nothing behind",
    unit="departures",
    gate=1_000,
    chunk=2_000,
    soak=10_000,
    must=(
        *("left tail", "left list", "left commit", "left write", "cancelled calls", "connections broken off"),
        *("left with an answer begun", "acknowledged commits checked", "commits of those who left"),
    ),
    run=leave,
    needs=(linux,),
)


@bug("tail-kept", "a tail whose follower has left keeps its place in the log open", scenario="departures", amount=200)
def _() -> None:
    kept: list[Callable[[], None]] = []
    tail._Reader.close = lambda self: kept.append(self.position)  # type: ignore[method-assign, assignment]
