"""The virtual environment of the peers' packages, and the program around BadgerDB: made once, and kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.peers import badger
from benchmarks.peers.catalogue import Entry

REQUIREMENTS = Path(__file__).parent / "requirements.txt"
_INSTALL_SECONDS_MAX = 900
_GO_DIRECTORIES = ("/usr/local/go/bin",)


class CannotInstall(Exception):
    """The peers' packages could not be installed; the message says what to do."""


def default_directory() -> Path:
    """Give the folder of the environment where none is chosen: below the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "stigmer" / "bench-peers"


def prepare(directory: Path, say: Callable[[str], None]) -> Path:
    """Make the environment, unless it is there with the present requirements; gives its Python."""
    python = directory / "bin" / "python"
    stamp = directory / ".stigmer-requirements"
    wanted = f"{sys.version}\n{REQUIREMENTS.read_text()}"
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    say(f"making the peers' environment in {directory}, which takes about a minute")
    base = getattr(
        sys, "_base_executable", sys.executable
    )  # the same Python that runs stigmer, not an environment of it
    _run([base, "-m", "venv", "--clear", str(directory)], directory)
    say("installing the peers' packages")
    _run([str(python), "-m", "pip", "install", "--disable-pip-version-check", "-q", "-r", str(REQUIREMENTS)], directory)
    stamp.write_text(wanted)
    return python


def build_badger(directory: Path, say: Callable[[str], None]) -> Path | None:
    """Build the program around BadgerDB, unless it is there; None where Go or the module cannot be had."""
    program = directory / "badger-bench"
    newest = max(path.stat().st_mtime for path in badger.SOURCE.iterdir())
    if program.exists() and program.stat().st_mtime >= newest:
        return program
    go = find("go")
    if go is None:
        return None
    say("building the program around BadgerDB, which takes a minute or two")
    directory.mkdir(parents=True, exist_ok=True)
    # A copy: a build of its own, which leaves no file in the checkout.
    source = directory / "badger-source"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(badger.SOURCE, source)
    try:
        _run([go, "build", "-o", str(program), "."], source, cwd=source)
    except CannotInstall as error:
        say(f"BadgerDB is left out: {error}")
        return None
    os.utime(program)
    return program


def missing(entry: Entry, badger_program: Path | None) -> str | None:
    """Say what must be done to have a peer on this machine; None where it is there."""
    if entry.module == "badger":
        return None if badger_program is not None else entry.install
    if entry.command and find(entry.command) is None:
        return entry.install
    return None


def python_of(entry: Entry, peers_python: Path | None) -> Path:
    """Give the Python that runs a peer's client."""
    if entry.is_packaged:
        assert peers_python is not None
        return peers_python
    return Path(sys.executable)


def find(command: str) -> str | None:
    """Find a command, also where Go is usually put."""
    return shutil.which(command) or (shutil.which(command, path=":".join(_GO_DIRECTORIES)) if command == "go" else None)


def _run(command: Sequence[str], directory: Path, cwd: Path | None = None) -> None:
    try:
        done = subprocess.run(
            command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=_INSTALL_SECONDS_MAX
        )
        failed, said = done.returncode != 0, done.stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        failed, said = True, str(error)
    if failed:
        raise CannotInstall(
            f"`{' '.join(command)}` failed:\n{said[-2_000:]}\n"
            f"Without a network, install {REQUIREMENTS} into an environment yourself and name it with --venv DIR, "
            f"or measure only what needs no package: tools/bench peers --only stigmer,sqlite,floor"
        )
