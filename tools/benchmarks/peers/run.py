"""Run every work on every peer, round after round, each in a fresh process and an empty directory.

Within a round the peers take turns at each work, in another order each round, so that what the machine does meanwhile
falls on all of them. Owns the child processes: ends them, and what they started, however it ends itself.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import machine
from benchmarks.peers import badger, environment
from benchmarks.peers.catalogue import Entry
from benchmarks.peers.works import Figures, Work

_CHILD_SECONDS_MAX = 900
_STOP_SECONDS_MAX = 30
_TOOLS = Path(__file__).parents[2]


class Results(msgspec.Struct):
    """Everything that one run measured; kept as JSON."""

    machine: list[str]
    started_at: str
    rounds: int
    is_quick: bool
    figures: dict[str, dict[str, list[Figures]]] = {}
    """By work and peer, one for each round."""
    versions: dict[str, str] = {}
    durability: dict[str, str] = {}
    bulk_how: dict[str, str] = {}
    missing: dict[str, str] = {}
    """Peers that are not on this machine, with what to do to have them."""
    failures: list[str] = []
    sync_us: list[float] = []
    """Of write and fdatasync of 1 KiB, in the same directory, before each round."""
    loop_ms: list[float] = []
    """Of a plain Python loop, before each round: how fast the machine was."""


class Run(msgspec.Struct):
    """What to measure, and with what."""

    entries: Sequence[Entry]
    works: Sequence[Work]
    rounds: int
    is_quick: bool
    directory: str | None
    """Where the stores are put; None: where temporary files go."""
    traffic: Path
    peers_python: Path | None
    badger_program: Path | None
    say: Callable[[str], None]
    keep: Callable[[Results], None]
    """Is called with the results so far, after each round."""

    def run(self) -> Results:
        """Measure everything."""
        started_at = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        results = Results(machine.describe(), started_at, self.rounds, self.is_quick)
        measurements = [
            (work, entry) for work in self.works for entry in self.entries if work.is_for(entry.name, entry.load())
        ]
        started = time.monotonic()
        number = 0
        for round_number in range(self.rounds):
            with tempfile.TemporaryDirectory(prefix="stigmer-bench-", dir=self.directory) as scratch:
                results.sync_us.append(machine.sync_us(scratch))
                results.loop_ms.append(machine.loop_ms())
            for work, entry in _in_turn(measurements, round_number):
                number += 1
                elapsed = datetime.timedelta(seconds=int(time.monotonic() - started))
                place = f"[{number}/{len(measurements) * self.rounds}, {elapsed}] round {round_number + 1}"
                self._measure(work, entry, results, place)
            self.keep(results)
        return results

    def _measure(self, work: Work, entry: Entry, results: Results, place: str) -> None:
        answer = self._child(work, entry)
        label = f"{place}: {work.title}: {entry.title}"
        if "error" in answer:
            results.failures.append(f"{work.title}: {entry.title}: {answer['error']}")
            self.say(f"{label}: FAILED: {answer['error']}")
            return
        results.figures.setdefault(work.name, {}).setdefault(entry.name, []).append(answer["figures"])
        results.versions[entry.name] = answer["version"]
        results.durability[entry.name] = answer["durability"]
        results.bulk_how[entry.name] = answer["bulk_how"]
        self.say(f"{label}: {_shown(answer['figures'], work.unit)}")

    def _child(self, work: Work, entry: Entry) -> Mapping[str, Any]:
        """Do one work on one peer, in a process of its own."""
        size = work.size_quick if self.is_quick else work.size
        scratch = tempfile.mkdtemp(prefix="stigmer-bench-", dir=self.directory)
        python = environment.python_of(entry, self.peers_python)
        command = [str(python), "-m", "benchmarks.peers.child", entry.name, work.name, str(size), scratch]
        environ = {key: value for key, value in os.environ.items() if not key.startswith("STIGMER_")}
        environ["PYTHONPATH"] = str(_TOOLS)
        if self.badger_program is not None:
            environ[badger.PROGRAM_VARIABLE] = str(self.badger_program)
        child: subprocess.Popen[str] | None = None
        try:
            # In a session of its own: Ctrl-C reaches this process alone, which then ends the child, and the child
            # its server; whatever is still in the session after that is killed.
            child = subprocess.Popen(
                [*command, str(self.traffic)],
                env=environ,
                cwd=_TOOLS,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            out, errors = child.communicate(timeout=_CHILD_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            return {"error": f"was not through after {_CHILD_SECONDS_MAX} s"}
        finally:
            if child is not None:
                _end(child)
            shutil.rmtree(scratch, ignore_errors=True)
        try:
            answer: Mapping[str, Any] = json.loads(out.splitlines()[-1])
        except (IndexError, ValueError):
            return {"error": f"ended with code {child.returncode}: {errors.strip()[-1_000:]}"}
        return answer


def _in_turn(measurements: Sequence[tuple[Work, Entry]], turn: int) -> Iterator[tuple[Work, Entry]]:
    """Give the measurements work by work; the peers of each begin at another one each round."""
    by_work: dict[str, list[tuple[Work, Entry]]] = {}
    for work, entry in measurements:
        by_work.setdefault(work.name, []).append((work, entry))
    for of_work in by_work.values():
        first = turn % len(of_work)
        yield from of_work[first:] + of_work[:first]


def _end(child: subprocess.Popen[str]) -> None:
    """End a child that still runs, and whatever it left."""
    if child.poll() is None:
        child.terminate()
        try:
            child.communicate(timeout=_STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()


def _shown(figures: Figures, unit: str) -> str:
    if "rate" in figures:
        return f"{figures['rate']:,.0f}{'' if unit.startswith('/') else ' '}{unit}"
    return f"p50 {figures['p50_ms']:.2f} ms, p99 {figures['p99_ms']:.2f} ms"
