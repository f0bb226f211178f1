"""`tools/faults`: the gate, a soak, one turn again, fuzzing."""

from __future__ import annotations

import faulthandler
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import msgspec

from faults import bugs, turns
from faults.scenario import Scenario, Tally, lines
from faults.scenarios import ALL, BY_NAME

_NAMES = click.Choice(sorted(BY_NAME))
_SCRATCH = click.option(
    "--scratch",
    type=click.Path(file_okay=False, path_type=Path),
    default=lambda: Path(tempfile.gettempdir()),
    show_default="the folder for temporary files",
    help="Where turns have their files: on a real disk, for a RAM disk syncs nothing.",
)
_TURN_SECONDS_MAX = 600.0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Put faults into the store on purpose, and check that it keeps its promises (docs/FAULTS.md)."""


@main.command("list")
def list_() -> None:
    """Show the scenarios and the bugs that they have to catch."""
    for scenario in ALL:
        lacks = scenario.lacks()
        click.echo(
            f"{scenario.name:<18} {', '.join(scenario.rows):<12} {scenario.what}{f' ({lacks})' if lacks else ''}"
        )
    click.echo()
    for bug in bugs.BUGS.values():
        click.echo(f"{bug.name:<28} {bug.what} (caught by {bug.scenario})")


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("pytest_arguments", nargs=-1, type=click.UNPROCESSED)
def gate(pytest_arguments: tuple[str, ...]) -> None:
    """Run every scenario at its gate figure, with fixed seeds, and every seeded bug; arguments go to pytest."""
    sys.exit(subprocess.call([turns.TESTS.parent / "tools" / "test", Path(__file__).parent, *pytest_arguments]))


@main.command()
@click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), required=True, help="For how long to begin turns."
)
@click.option("--seed", type=int, help="Where the seeds of all turns come from.  [default: a new one]")
@click.option("--only", type=_NAMES, multiple=True, help="This scenario; may be given more than once.")
@click.option(
    "--jobs", type=click.IntRange(min=1), default=os.cpu_count() or 1, show_default=True, help="Turns at once."
)
@_SCRATCH
def soak(minutes: float, seed: int | None, only: tuple[str, ...], jobs: int, scratch: Path) -> None:
    """Run turns with new seeds until the time is over; print the seed and what was counted.

    Each turn that fails is shown with the command that runs it again, and its files are kept.
    """
    seed = random.SystemRandom().getrandbits(32) if seed is None else seed
    chosen = [BY_NAME[name] for name in only] or list(ALL)
    for scenario in chosen:
        if reason := scenario.lacks():
            click.echo(f"not run: {scenario.name}: {reason}", err=True)
    chosen = [scenario for scenario in chosen if not scenario.lacks()]
    if not chosen:
        raise click.ClickException("there is nothing to run")
    click.echo(f"seed {seed}, {minutes:g} minutes, {jobs} at once, {_machine()}")
    # Also where it was started in the background, with interrupts ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    soaking = _Soak(chosen, seed, jobs, scratch)
    soaking.run(minutes * 60)
    sys.exit(0 if soaking.report() else 1)


@main.command()
@click.argument("scenario", type=_NAMES, metavar="SCENARIO")
@click.option("--seed", type=int, required=True)
@click.option("--amount", type=click.IntRange(min=1), help="How many faults.  [default: those of a soak's turn]")
@click.option("--bug", type=click.Choice(sorted(bugs.BUGS)), help="With this bug planted.")
@_SCRATCH
def replay(scenario: str, seed: int, amount: int | None, bug: str | None, scratch: Path) -> None:
    """Run one turn again."""
    running = turns.Running(scenario, seed, amount or BY_NAME[scenario].chunk, scratch, bug=bug or "", keep=True)
    try:
        outcome = running.outcome()
    finally:
        running.end()
    for line in lines(outcome.tally, outcome.seconds):
        click.echo(line)
    click.echo(f"{outcome.seconds:.1f} s")
    if outcome.failure:
        click.echo(outcome.failure, err=True)
        click.echo(f"its files are in {outcome.directory}" if outcome.directory else "no files were kept", err=True)
        sys.exit(1)


@main.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def fuzz(arguments: tuple[str, ...]) -> None:
    """Fuzz the parsers with atheris; `tools/faults fuzz --help` lists the options."""
    from faults.fuzz.__main__ import main as run

    sys.exit(run(list(arguments)))


@main.command(hidden=True)
@click.argument("scenario", type=_NAMES, metavar="SCENARIO")
@click.option("--seed", type=int, required=True)
@click.option("--amount", type=int, required=True)
@click.option("--scratch", type=click.Path(path_type=Path), required=True)
@click.option("--keep", is_flag=True)
def turn(scenario: str, seed: int, amount: int, scratch: Path, keep: bool) -> None:
    """Run a turn in this process and print its outcome as JSON."""
    faulthandler.register(turns.TELL)  # children have it too
    bugs.plant_from_environment()
    outcome = turns.take(scenario, seed, amount, scratch, keep=keep)
    sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
    sys.stdout.buffer.flush()


class _Soak:
    """Turns of several scenarios, some at once."""

    def __init__(self, chosen: list[Scenario], seed: int, jobs: int, scratch: Path) -> None:
        self._chosen = chosen
        self._seed = seed
        self._jobs = jobs
        self._scratch = scratch
        self._begun = {scenario.name: 0 for scenario in chosen}
        self._tallies = {scenario.name: Tally() for scenario in chosen}
        self._seconds = {scenario.name: 0.0 for scenario in chosen}
        self._failures: list[turns.Outcome] = []
        self._elapsed = 0.0
        self._interrupted = False

    def run(self, seconds: float) -> None:
        """Begin turns until the time is over, then wait for those under way."""
        started = shown = time.monotonic()
        running: list[turns.Running] = []
        try:
            while True:
                now = time.monotonic()
                while len(running) < self._jobs and now - started < seconds:
                    running.append(self._begin())
                if not running:
                    break
                for one in list(running):
                    if one.process.poll() is not None or one.age > _TURN_SECONDS_MAX:
                        running.remove(one)
                        self._note(one.outcome(0))
                if now - shown >= 60:
                    shown = now
                    click.echo(f"{(now - started) / 60:6.1f} min: {self._progress()}", err=True)
                time.sleep(0.02)
        except KeyboardInterrupt:
            self._interrupted = True
        finally:
            for one in running:
                one.end()
            self._elapsed = time.monotonic() - started

    def _begin(self) -> turns.Running:
        """Begin a turn of the scenario that is furthest from its number."""
        scenario = min(self._chosen, key=lambda one: self._begun[one.name] * one.chunk / one.soak)
        number = self._begun[scenario.name]
        self._begun[scenario.name] += 1
        seed = random.Random(f"{self._seed} {scenario.name} {number}").getrandbits(32)
        return turns.Running(scenario.name, seed, scenario.chunk, self._scratch, keep=True)

    def _note(self, outcome: turns.Outcome) -> None:
        self._tallies[outcome.scenario].update(outcome.tally)
        self._seconds[outcome.scenario] += outcome.seconds
        if outcome.failure:
            self._failures.append(outcome)
            click.echo(f"FAILED: {outcome.again}\n{outcome.failure}", err=True)
            if outcome.directory:
                click.echo(f"its files are in {outcome.directory}", err=True)

    def _progress(self) -> str:
        done = (f"{one.name} {self._tallies[one.name][one.unit]:,}" for one in self._chosen)
        return f"{', '.join(done)}; {len(self._failures)} failed"

    def report(self) -> bool:
        """Show what was counted; False if anything failed, or faults did not hit."""
        good = not self._failures and not self._interrupted
        for scenario in self._chosen:
            tally, seconds = self._tallies[scenario.name], self._seconds[scenario.name]
            rows = ", ".join(scenario.rows)
            click.echo(f"{scenario.name} ({rows}): {self._begun[scenario.name]} turns, {seconds:.0f} s")
            for line in lines(tally, seconds):
                click.echo(line)
            if missing := tally.missing(scenario.must):
                click.echo(f"  does not count: there were no {', no '.join(missing)}")
                good = False
        for failure in self._failures:
            click.echo(f"failed: {failure.again}")
        end = "interrupted" if self._interrupted else f"{len(self._failures)} turns failed"
        click.echo(f"seed {self._seed}, {self._elapsed / 60:.1f} minutes: {end}")
        return good


def _machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
