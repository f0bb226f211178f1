"""A daemon with an empty store for each module, and a client of its typed services."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon.support import DaemonProcess

from typed.support import Services


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of the module's daemon."""
    return tmp_path_factory.mktemp("typed") / "data"


@pytest.fixture(scope="module")
def daemon(data_dir: Path) -> Iterator[DaemonProcess]:
    """A running daemon. Whatever the tests of a module send, it meets no bug: its log has no traceback."""
    with DaemonProcess(data_dir) as process:
        yield process
        assert process.stop() == 0
        assert "Traceback" not in (data_dir / "daemon.log").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def services(daemon: DaemonProcess) -> Iterator[Services]:
    """The typed services of the module's daemon."""
    with Services(daemon.address) as opened:
        yield opened
