"""A daemon, and a plain client of it, for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from daemon.support import DaemonProcess

from flows.support import Client


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A running daemon with an empty store."""
    with DaemonProcess(tmp_path_factory.mktemp("daemon") / "data") as process:
        yield process


@pytest.fixture(scope="module")
def client(daemon: DaemonProcess) -> Iterator[Client]:
    """A client of the module's daemon."""
    with Client(daemon.address) as client:
        yield client
