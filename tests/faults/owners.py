"""Several that want the same data directory, port or socket in the same moment: exactly one gets it.

What is contested is chosen for each race, and so is what lay there before: nothing, what a killed daemon left, garbage.
The others are refused with a reason, and whoever they are told of is the owner.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import http2
from checks import check_store

import stigmer.lock
from faults.bugs import bug
from faults.forked import Forked, Report, Run, a_daemon, an_embedded_store
from faults.scenario import Scenario, Turn
from stigmer import wire
from stigmer.daemon.lifecycle import DaemonOptions
from stigmer.pb import store_pb2
from stigmer.store import Store

_SAVE = wire.methods(wire.STORE_SERVICE)["save"].path
_STATUS = wire.methods(wire.ADMIN_SERVICE)["status"].path
_CONTENDERS = (2, 2, 2, 2, 2, 2, 3, 3, 4)
_SPREADS_SECONDS = (0.0, 0.003, 0.03)
"""Contenders begin within one of these times; in the last one gets as far as its lock and its addresses."""
_GARBAGE = (b"", b"garbage", b'{"pid": 1, "since": "2020-01-01T00:00:00Z", "command": "old"}', b"\xff" * 5_000)


class _Race(NamedTuple):
    """What is wanted by everybody."""

    directory: bool
    port: bool
    socket: bool


_RACES = {
    "directories": _Race(True, False, False),
    "ports": _Race(False, True, False),
    "sockets": _Race(False, False, True),
    "everything": _Race(True, True, True),
}


class _Acked:
    """What was acknowledged in each directory: ids, by revision."""

    def __init__(self) -> None:
        self._of: dict[str, dict[int, str]] = {}

    def note(self, directory: str, revision: int, id: str) -> None:
        self._of.setdefault(directory, {})[revision] = id

    def check(self, turn: Turn) -> None:
        for directory, acked in self._of.items():
            with Store.open(directory) as store:
                there = {event.revision: event.id for event in check_store(store)}
            lost = {revision: id for revision, id in acked.items() if there.get(revision) != id}
            turn.require(not lost, "an acknowledged save is gone", directory=directory, lost=lost)
            turn.count("acknowledged saves checked", len(acked))


def race_for_ownership(turn: Turn) -> None:
    """Let contenders race again and again, and see who wins."""
    acked = _Acked()
    for number in range(turn.amount):
        what = turn.random.choice(list(_RACES))
        _run_race(turn, number, what, acked)
        turn.count("races")
        turn.count(f"races for {what}")
    acked.check(turn)


def _run_race(turn: Turn, number: int, what: str, acked: _Acked) -> None:
    race = _RACES[what]
    # Addresses that nobody else of this machine uses.
    host = ".".join(["127", *(str(turn.random.randint(1, 254)) for _ in range(3))])
    address = f"{host}:{turn.random.randint(20_000, 60_000)}"
    shared_socket = str(turn.directory / "shared.sock")
    wanted = [turn.directory / ("shared" if race.directory else f"own-{place}") for place in range(max(_CONTENDERS))]
    _leave_something(turn, wanted[0], shared_socket)
    contenders: list[tuple[Run, str, float]] = []
    spread_seconds = turn.random.choice(_SPREADS_SECONDS)
    for place in range(turn.random.choice(_CONTENDERS)):
        directory = str(wanted[place])
        listen = [address if race.port else "127.0.0.1:0"]
        if race.socket:
            listen.append(f"unix:{shared_socket}")
        run = a_daemon(DaemonOptions(directory, tuple(listen), own_socket=True))
        if what == "directories" and turn.random.random() < 0.3:
            run = an_embedded_store(directory)
        contenders.append((run, directory, turn.random.random() * spread_seconds))
    with ExitStack() as stack:
        starting, start = os.pipe()
        forked = [
            stack.enter_context(Forked(run, _behind_the_line(starting, start, delay))) for run, _, delay in contenders
        ]
        os.close(starting)
        os.close(start)
        reports = [one.report() for one in forked]
        winners = [one for one in reports if one.has_started]
        seen = {"race": number, "contested": what, "reports": reports}
        turn.require(len(winners) == 1, f"{len(winners)} of {len(reports)} contenders got what one may have", **seen)
        for loser, process in zip(reports, forked, strict=True):
            if not loser.has_started:
                _check_refusal(turn, race, winners[0].pid, loser)
                turn.require(process.wait() == 1, "who was refused did not end with status 1", report=loser)
        place = reports.index(winners[0])
        _check_winner(turn, winners[0], contenders[place][1], acked)
        if turn.random.random() < 0.5:
            turn.require(forked[place].stop() == 0, "the owner did not stop in order", **seen)
        else:
            forked[place].kill()


def _leave_something(turn: Turn, directory: Path, socket_path: str) -> None:
    """Put into the directory what may be found there: the files of an owner that is gone, with anything in them."""
    if turn.random.random() < 0.5:
        return
    directory.mkdir(mode=0o700, exist_ok=True)
    name = turn.random.choice(("LOCK", "daemon.json", "daemon.json.new"))
    (directory / name).write_bytes(turn.random.choice(_GARBAGE))
    turn.count("stale or garbage files")


def _behind_the_line(starting: int, start: int, delay: float) -> Callable[[], None]:
    def prepare() -> None:
        os.close(start)
        os.read(starting, 1)  # ends when nobody can write any more, which is the same moment for all
        os.close(starting)
        time.sleep(delay)

    return prepare


def _check_refusal(turn: Turn, race: _Race, owner: int, loser: Report) -> None:
    turn.count("refusals")
    expected = {"LogLocked"} if race.directory else {"AddressInUse"}
    turn.require(loser.error in expected, "refused for another reason", expected=expected, report=loser)
    turn.require(loser.told_pid in (owner, None), "told of one who is not the owner", owner=owner, report=loser)


def _check_winner(turn: Turn, winner: Report, directory: str, acked: _Acked) -> None:
    """Whoever calls at any of its addresses gets the winner."""
    if winner.revision:
        acked.note(directory, winner.revision, f"{winner.pid}")
        turn.count("embedded owners")
    for address in winner.listen:
        status = http2.call(address, _STATUS, b"")
        turn.require(status is not None, "the owner does not answer", address=address)
        pid = store_pb2.StatusResponse.FromString(status or b"").pid
        turn.require(pid == winner.pid, "another answers at the owner's address", address=address, pid=pid)
        id = f"{winner.pid} {address.rpartition('/')[2]}"
        saved = http2.call(address, _SAVE, store_pb2.SaveRequest(kind="k", id=id, value=b"v").SerializeToString())
        turn.require(saved is not None, "the owner does not save", address=address)
        acked.note(directory, store_pb2.CommitResponse.FromString(saved or b"").last_revision, id)


SCENARIO = Scenario(
    name="owners",
    rows=("D1", "D2", "D3", "B13"),
    what="several daemons and programs want one directory, port or socket in one moment: exactly one gets it",
    unit="races",
    gate=100,
    chunk=30,
    soak=1_000,
    must=("refusals", "races for directories", "races for ports", "races for sockets", "stale or garbage files"),
    run=race_for_ownership,
)


@bug("lock-not-taken", "the data directory is not locked", scenario="owners", amount=20)
def _() -> None:
    stigmer.lock.fcntl = _NoLocks()  # type: ignore[assignment]


class _NoLocks:
    """The module `fcntl`, whose locks everybody gets."""

    LOCK_EX = LOCK_NB = LOCK_UN = LOCK_SH = 0

    def flock(self, fd: int, operation: int) -> None:
        """Do nothing."""


@bug(
    "port-shared",
    "a second daemon may bind the same port, and the kernel deals out the clients",
    scenario="owners",
    amount=20,
)
def _() -> None:
    from stigmer.daemon import server

    options = server._options

    def with_reuseport(*arguments: object, **named: object) -> list[tuple[str, int]]:
        found = options(*arguments, **named)  # type: ignore[arg-type]
        return [(name, 1 if name == "grpc.so_reuseport" else value) for name, value in found]

    server._options = with_reuseport
