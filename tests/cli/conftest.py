"""A shell with a home of its own, with and without a daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.support import Daemon, Shell


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Give a shell without a daemon."""
    return Shell(tmp_path)


@pytest.fixture
def daemon(shell: Shell) -> Iterator[Daemon]:
    """Run a daemon on the shell's data directory."""
    running = Daemon(shell)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """Give a shell whose daemon serves all the tests of a module: for those that leave each other alone."""
    shell = Shell(tmp_path_factory.mktemp("shared"))
    running = Daemon(shell)
    yield shell
    running.stop()
