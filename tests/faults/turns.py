"""Turns run in processes of their own: what one leaves behind, or a bug planted in it, touches no other."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path

import msgspec

from faults import bugs
from faults.logs import remove_quick_folders
from faults.scenario import Failed, Tally, Turn
from faults.scenarios import BY_NAME
from stigmer.errors import StigmerError

TESTS = Path(__file__).parent.parent

TELL = signal.SIGUSR2
"""Has a process of a turn print where its threads are."""
_TELL_SECONDS = 1.0


class Outcome(msgspec.Struct, frozen=True):
    """What became of a turn."""

    scenario: str
    seed: int
    amount: int
    seconds: float
    tally: dict[str, int]
    failure: str
    """What was broken; "" where every promise held."""
    caught: bool
    """Whether the failure is a broken promise, and not a fault of the harness."""
    directory: str
    """Where the files of a failed turn are; "" where they were removed."""

    @property
    def again(self) -> str:
        """The command that runs this turn again."""
        return f"tools/faults replay {self.scenario} --seed {self.seed} --amount {self.amount}"


def take(scenario: str, seed: int, amount: int, scratch: Path, *, keep: bool = False) -> Outcome:
    """Run a turn in this process."""
    directory = Path(tempfile.mkdtemp(prefix=f"{scenario}-{seed}-", dir=scratch))
    turn = Turn(seed, amount, directory)
    failure, caught = "", False
    started = time.monotonic()
    try:
        BY_NAME[scenario].run(turn)
    except (Failed, AssertionError, StigmerError) as error:
        failure, caught = f"{type(error).__name__}: {error}\n{traceback.format_exc()}", True
    except Exception:
        failure = traceback.format_exc()
    seconds = time.monotonic() - started
    remove_quick_folders(directory)
    if not (failure and keep):
        shutil.rmtree(directory, ignore_errors=True)
    return Outcome(
        scenario, seed, amount, seconds, dict(turn.tally), failure, caught, str(directory) if failure and keep else ""
    )


class Running:
    """A turn under way in a process of its own."""

    def __init__(
        self, scenario: str, seed: int, amount: int, scratch: Path, *, bug: str = "", keep: bool = False
    ) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
        if bug:
            environment[bugs.VARIABLE] = bug
        self.scenario, self.seed, self.amount = scenario, seed, amount
        arguments = ["turn", scenario, "--seed", str(seed), "--amount", str(amount), "--scratch", str(scratch)]
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `outcome`
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "faults", *arguments, *(["--keep"] if keep else [])],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._errors,
            start_new_session=True,
        )
        self._started = time.monotonic()

    @property
    def age(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._started

    def outcome(self, timeout: float | None = None) -> Outcome:
        """Wait for its end. A turn that does not end in time is one that failed: something hangs."""
        hung = False
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            hung = True
            for pid in [self.process.pid, *_descendants(self.process.pid)]:
                with suppress(ProcessLookupError):
                    os.kill(pid, TELL)
            time.sleep(_TELL_SECONDS)
        finally:
            self.end()
        seconds = time.monotonic() - self._started
        with self._output, self._errors:
            self._output.seek(0)
            self._errors.seek(0)
            printed, errors = self._output.read(), self._errors.read().decode(errors="replace")
        if not hung and printed:
            return msgspec.json.decode(printed.splitlines()[-1], type=Outcome)
        failure = f"did not end within {timeout} s" if hung else f"ended with {self.process.returncode}"
        return Outcome(
            self.scenario, self.seed, self.amount, seconds, {}, f"the turn {failure}\n{errors[-8000:]}", False, ""
        )

    def end(self) -> None:
        """End its process and all that this has started and not ended."""
        if self.process.poll() is None:
            # From the top, so that nothing new is started below what is already gone.
            for pid in [self.process.pid, *_descendants(self.process.pid)]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()


def run(
    scenario: str, seed: int, amount: int, scratch: Path, *, bug: str = "", timeout: float | None = None
) -> Outcome:
    """Run a turn in a process of its own and wait for it."""
    return Running(scenario, seed, amount, scratch, bug=bug).outcome(timeout)


def _descendants(pid: int) -> list[int]:
    """Give the processes below a process, parents first; daemons have sessions of their own, so a group is not all."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The name in parentheses may hold anything; the parent is the second field behind it.
            parent = int(entry.read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found[1:]


def total(outcomes: list[Outcome]) -> Tally:
    """Add up what was counted."""
    tally = Tally()
    for outcome in outcomes:
        tally.update(outcome.tally)
    return tally
