"""A daemon shared by the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from daemon.support import DaemonProcess


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A running daemon with an empty store."""
    with DaemonProcess(tmp_path_factory.mktemp("daemon") / "data") as process:
        yield process
