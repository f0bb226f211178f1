"""Data directories that cannot be one, stale and foreign things in them, and processes that may have too little.

A daemon either works there, or says in one sentence what is wrong, where, and what to do.
"""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import http2

from faults.forked import Forked, Report, a_daemon
from faults.needs import linux, root
from faults.scenario import Scenario, Turn
from stigmer import config, wire
from stigmer.config import StoreOptions
from stigmer.daemon.lifecycle import DaemonOptions
from stigmer.pb import store_pb2
from stigmer.store import Store

_STORE = wire.methods(wire.STORE_SERVICE)
_NOBODY = 65_534
_SMALL = StoreOptions(segment_bytes=config.SEGMENT_BYTES_MIN)
_LOG, _VIEWS = "log", "views"


class _Place(NamedTuple):
    """What is made of a good data directory, and what a daemon says of it."""

    what: str
    spoil: Callable[[Path], object]
    error: str
    """Its class; "" where the daemon works."""
    words: tuple[str, ...] = ()
    """In the message or the hint."""
    process: Callable[[], None] = lambda: None
    """What is done to the process before it becomes a daemon."""


def _replaced(name: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    """Put something else in the place of an entry."""

    def spoil(data: Path) -> None:
        path = data / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()
        make(path)

    return spoil


def _instead(make: Callable[[Path], object]) -> Callable[[Path], object]:
    """Put something else in the place of the directory itself."""

    def spoil(data: Path) -> None:
        shutil.rmtree(data)
        make(data)

    return spoil


def _mode(name: str, mode: int) -> Callable[[Path], object]:
    return lambda data: (data / name).chmod(mode)


def _owned(name: str) -> Callable[[Path], object]:
    return lambda data: os.chown(data / name, _NOBODY, _NOBODY)


def _closed_segment(data: Path) -> None:
    next((data / _LOG).iterdir()).chmod(0)


def _moved(data: Path) -> None:
    elsewhere = data.with_name("elsewhere")
    data.rename(elsewhere)
    data.symlink_to(elsewhere)


def _files(number: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (number, number))


def _few_threads() -> None:
    resource.setrlimit(resource.RLIMIT_NPROC, (4, 4))
    os.setgroups([])
    os.setgid(_NOBODY)
    os.setuid(_NOBODY)  # for root has no limit


def _without_home() -> None:
    os.environ.pop("HOME", None)
    os.umask(0o077)
    os.chdir("/proc")


_DIRECTORY, _STIGMER = "DataDirectoryError", "StigmerError"
_LEFT = tuple((name, content) for name in ("LOCK", "daemon.json") for content in (b"", b"garbage", b"\xff" * 9_000))

_PLACES = (
    _Place("a file", _instead(lambda path: path.write_text("mine")), _DIRECTORY, ("is not a directory", "--data-dir")),
    _Place("a pipe", _instead(os.mkfifo), _DIRECTORY, ("is not a directory", "--data-dir")),
    _Place("a loop of links", _instead(lambda path: path.symlink_to(path)), _DIRECTORY, ("leads nowhere", "the link")),
    _Place("a link to nothing", _instead(lambda path: path.symlink_to("none")), _DIRECTORY, ("leads nowhere",)),
    _Place("a link to the directory", _moved, ""),
    _Place("read-only", _mode("", 0o500), _DIRECTORY, ("is not writable", "give yourself access")),
    _Place("of another user", _owned(""), _DIRECTORY, ("is not writable", "give yourself access")),
    _Place("a lock of another user", _owned("LOCK"), _DIRECTORY, ("Permission denied", "LOCK", "as the user")),
    _Place("a lock that is a folder", _replaced("LOCK", Path.mkdir), _DIRECTORY, ("LOCK", "made anew")),
    _Place("a lock that is a loop", _replaced("LOCK", lambda p: p.symlink_to(p)), _DIRECTORY, ("LOCK", "made anew")),
    _Place("a closed log", _mode(_LOG, 0), _DIRECTORY, ("Permission denied", "/log", "make it accessible")),
    _Place("a closed segment", _closed_segment, _DIRECTORY, ("Permission denied", ".log", "make it accessible")),
    _Place("a log that is a file", _replaced(_LOG, Path.touch), _DIRECTORY, ("/log", "move it away")),
    _Place("closed views", _mode(_VIEWS, 0), _DIRECTORY, ("Permission denied", "/views", "folded again")),
    _Place("views that are a file", _replaced(_VIEWS, Path.touch), _DIRECTORY, ("Not a directory", "/views", "away")),
    _Place("no views", _replaced(_VIEWS, lambda path: None), ""),
    _Place("daemon.json a folder", _replaced("daemon.json", Path.mkdir), _DIRECTORY, ("daemon.json", "move it away")),
    _Place("daemon.json.new a folder", _replaced("daemon.json.new", Path.mkdir), _DIRECTORY, ("daemon.json.new",)),
    _Place("daemon.log a folder", _replaced("daemon.log", Path.mkdir), _DIRECTORY, ("daemon.log", "move it away")),
    _Place("run a file", _replaced("run", Path.touch), ""),
    _Place("a socket that is a folder", lambda data: (data / "run" / "stigmer.sock").mkdir(parents=True), ""),
    *(
        _Place(f"{name} left, with {content[:7]!r}", _replaced(name, lambda p, c=content: p.write_bytes(c)), "")
        for name, content in _LEFT
    ),
    _Place("64 files", lambda data: None, "", process=_files(64)),
    _Place("63 files", lambda data: None, _STIGMER, ("only 63 files", "ulimit -n"), process=_files(63)),
    _Place("few threads", lambda data: None, _STIGMER, ("threads can be started", "ulimit -u"), process=_few_threads),
    _Place("no home, a umask, a read-only folder to be in", lambda data: None, "", process=_without_home),
)


def stand_in(turn: Turn) -> None:
    """Start a daemon in each of the places, one after the other."""
    for number in range(turn.amount):
        place = _PLACES[number % len(_PLACES)]
        base = turn.directory / f"{number}"
        base.mkdir()
        data = base / "data"
        with Store.open(data) as store:
            store.save("k", "a", b"v")
        place.spoil(data)
        options = DaemonOptions(str(data), ("127.0.0.1:0",), _SMALL, own_socket=True)
        with Forked(a_daemon(options), lambda place=place: _prepare(place)) as daemon:  # type: ignore[misc]
            report = daemon.report()
            if place.error:
                _check_refusal(turn, place, data, report)
                turn.require(daemon.wait() == 1, "a daemon that cannot start ends with another status")
            else:
                _check_works(turn, place, report)
                turn.require(daemon.stop() == 0, "the daemon did not stop in order", place=place.what)
        turn.count("places")


def _prepare(place: _Place) -> None:
    place.process()
    _drop_capabilities()


def _drop_capabilities() -> None:
    """Have root's process mind the modes of files, as everybody's does."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    if ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _check_refusal(turn: Turn, place: _Place, data: Path, report: Report) -> None:
    turn.count("refusals")
    seen = {"place": place.what, "report": report}
    turn.require(report.error == place.error, "not refused as what it is", **seen)
    said = f"{report.message} {report.hint}"
    missing = [word for word in place.words if word not in said]
    turn.require(not missing, "the refusal does not say all", missing=missing, **seen)
    turn.require("\n" not in report.message and report.hint, "not one sentence and a cure", **seen)
    if place.error == _DIRECTORY:
        turn.require(str(data) in report.message, "the refusal does not say where", **seen)


def _check_works(turn: Turn, place: _Place, report: Report) -> None:
    turn.count("starts")
    turn.require(report.has_started, "the daemon does not start", place=place.what, report=report)
    address = report.listen[0]
    for number in range(5):  # which takes the log to new files
        request = store_pb2.SaveRequest(kind="k", id=f"{number}", value=os.urandom(3_000)).SerializeToString()
        answer = http2.call(address, _STORE["save"].path, request)
        turn.require(answer is not None, "a save was refused", place=place.what)
    request = store_pb2.GetRequest(kind="k", id="a").SerializeToString()
    resource_found = store_pb2.Resource.FromString(http2.call(address, _STORE["get"].path, request) or b"")
    turn.require(resource_found.value == b"v", "what was there is gone", place=place.what)


SCENARIO = Scenario(
    name="places",
    rows=("B13", "D18"),
    what="data directories that cannot be one, garbage in them, and processes that may have too little",
    unit="places",
    gate=len(_PLACES),
    chunk=len(_PLACES),
    soak=len(_PLACES),
    must=("refusals", "starts"),
    run=stand_in,
    needs=(linux, root),
)
