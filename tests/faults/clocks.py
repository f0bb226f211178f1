"""A clock that jumps under a running daemon and between its starts: an hour back, ten years on, to 1970.

The order is that of the revisions and nothing else. Times may repeat, and never go back. Deadlines and followers do not
see the clock at all.
"""

from __future__ import annotations

import builtins
import mmap
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack

import http2
from checks import check_store

import stigmer.writer
from faults.bugs import bug
from faults.forked import Forked, a_daemon
from faults.scenario import Scenario, Turn
from stigmer import wire
from stigmer.daemon.lifecycle import DaemonOptions
from stigmer.pb import store_pb2
from stigmer.store import Store

_STORE = wire.methods(wire.STORE_SERVICE)
_HOUR_NS = 3600 * 10**9
_YEAR_NS = 365 * 24 * _HOUR_NS
_JUMPS = {
    "to 1970": lambda now: -now,
    "an hour back": lambda now: -_HOUR_NS,
    "ten years on": lambda now: 10 * _YEAR_NS,
    "back to the truth": lambda now: 0,
    "a moment back": lambda now: -1_000_000,
}
"""By how much the clock is wrong from then on, in nanoseconds."""
_DEADLINE = ("grpc-timeout", "60S")


class _Clock:
    """A clock that forked processes share, and this one sets."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 8)

    def set(self, wrong_by_ns: int) -> None:
        """Have it jump."""
        self._shared[:] = struct.pack("<q", wrong_by_ns)

    def install(self) -> None:
        """Use it in this process for every time of the day; what measures durations is left as it is."""
        true_ns = time.time_ns

        def time_ns() -> int:
            wrong_by_ns: int = struct.unpack("<q", self._shared)[0]
            return true_ns() + wrong_by_ns

        time.time_ns = time_ns
        time.time = lambda: time_ns() / 1e9


class _Served:
    """A daemon with a follower that is attached from its start to its end."""

    def __init__(self, turn: Turn, clock: _Clock, stack: ExitStack, after: int) -> None:
        options = DaemonOptions(str(turn.directory / "data"), ("127.0.0.1:0",))
        self.process = stack.enter_context(Forked(a_daemon(options), clock.install))
        (address,) = self.process.report().listen
        self.calls = stack.enter_context(http2.Connection(address))
        self.follower = stack.enter_context(http2.Connection(address))
        request = store_pb2.TailRequest(after=after, follow=True).SerializeToString()
        self._tail = self.follower.begin(_STORE["tail"].path, request)
        self.follower.next_data(self._tail)  # where it is

    def stop(self) -> int:
        """Leave the daemon and stop it; give its exit status."""
        self.calls.socket.close()
        self.follower.socket.close()
        return self.process.stop()

    def call(self, name: str, request: bytes) -> bytes | None:
        """Make a call that has a deadline."""
        answer = self.calls.next_data(self.calls.begin(_STORE[name].path, request, headers=(_DEADLINE,)))
        return None if answer is None else answer[5:]

    def follow(self) -> store_pb2.TailResponse:
        """Give what the follower gets next."""
        answer = self.follower.next_data(self._tail)
        return store_pb2.TailResponse.FromString((answer or b"")[5:])


def jump(turn: Turn) -> None:
    """Have the clock jump again and again; save and delete after each jump, and start anew after some."""
    clock = _Clock()
    told: list[tuple[int, int]] = []  # revision and time, as the follower was told
    state: dict[str, int] = {}
    with ExitStack() as stack:
        served = _Served(turn, clock, stack, 0)
        for number in range(turn.amount):
            what = turn.random.choice(list(_JUMPS))
            clock.set(_JUMPS[what](time.time_ns()))
            turn.count("jumps")
            turn.count(f"jumps {what}")
            if turn.random.random() < 0.15:
                if turn.random.random() < 0.5:
                    turn.require(served.stop() == 0, "the daemon did not stop in order", jump=number)
                else:
                    served.process.kill()
                stack.close()
                served = _Served(turn, clock, stack, len(told))
                turn.count("starts with a wrong clock")
            for _ in range(turn.random.randint(1, 3)):
                _change(turn, served, state, told)
        turn.require(served.stop() == 0, "the daemon did not stop in order")
    with Store.open(turn.directory / "data") as store:
        events = check_store(store)
        turn.require([(event.revision, event.time_ns) for event in events] == told, "the log is not what was told")
        for id, revision in state.items():
            resource = store.get("k", id)
            turn.require(resource.revision == revision, "another revision", id=id, is_at=resource.revision)
            turn.require(resource.updated_at_ns >= resource.created_at_ns, "changed before it was made", id=id)
    turn.count("events checked", len(events))


def _change(turn: Turn, served: _Served, state: dict[str, int], told: list[tuple[int, int]]) -> None:
    id = f"{turn.random.randrange(20)}"
    if id in state and turn.random.random() < 0.3:
        request = store_pb2.DeleteRequest(kind="k", id=id, expected_revision=state.pop(id)).SerializeToString()
        answer = served.call("delete", request)
    else:
        request = store_pb2.SaveRequest(
            kind="k", id=id, value=b"v", expected_revision=state.get(id, 0)
        ).SerializeToString()
        answer = served.call("save", request)
        state[id] = len(told) + 1
    turn.require(answer is not None, "a change was refused after a jump", id=id)
    revision = store_pb2.CommitResponse.FromString(answer or b"").last_revision
    turn.require(revision == len(told) + 1, "revisions do not go on", revision=revision, before=len(told))
    (commit,) = served.follow().commits
    turn.require(commit.first_revision == revision, "the follower was told of another", commit=commit.first_revision)
    if told:
        turn.require(commit.time_ns >= told[-1][1], "time went back", revision=revision)
        turn.count("times repeated", commit.time_ns == told[-1][1])
    told.append((revision, commit.time_ns))


SCENARIO = Scenario(
    name="clocks",
    rows=("D17",),
    what="the clock jumps back, on, and to 1970, while a daemon runs and between its starts",
    unit="jumps",
    gate=40,
    chunk=100,
    soak=1_000,
    must=("jumps to 1970", "jumps an hour back", "jumps ten years on", "times repeated", "starts with a wrong clock"),
    run=jump,
)


@bug(
    "time-goes-back",
    "a commit has the time that the clock shows, whatever the one before had",
    scenario="clocks",
    amount=20,
)
def _() -> None:
    def first(*values: int, **named: Callable[..., int]) -> int:
        return values[0] if len(values) > 1 else builtins.max(*values, **named)  # type: ignore[call-overload, no-any-return]

    stigmer.writer.max = first  # type: ignore[attr-defined]
