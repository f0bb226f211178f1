"""One store behind three faces: embedded, behind the blocking client, behind the asyncio client."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from daemon.support import DaemonProcess

import stigmer.aio
from stigmer.client import connect
from stigmer.config import StoreOptions
from stigmer.store import Store

VALUE_BYTES_MAX = 2 * 1024 * 1024
STORE_OPTIONS = StoreOptions(value_bytes_max=VALUE_BYTES_MAX, segment_bytes=1024 * 1024)

_numbers = itertools.count(1)


class Blocking:
    """The asyncio client with its coroutines run to their end, so that one test can be about all three."""

    def __init__(self, client: stigmer.aio.Client, runner: asyncio.Runner) -> None:
        self._client = client
        self._runner = runner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def call(*arguments: object, **named: object) -> Any:
            found = method(*arguments, **named)
            if inspect.isasyncgen(found):
                return self._drained(found)
            return self._runner.run(found)

        return call

    def _drained(self, events: Any) -> Iterator[Any]:
        async def following() -> Any:
            return await anext(events, None)

        try:
            while (event := self._runner.run(following())) is not None:
                yield event
        finally:
            self._runner.run(events.aclose())


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A daemon shared by the tests of a module."""
    with DaemonProcess(tmp_path_factory.mktemp("daemon") / "data", store=STORE_OPTIONS) as process:
        yield process


@pytest.fixture(scope="module", params=["embedded", "sync", "aio"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A store with one of its three faces."""
    if request.param == "embedded":
        with Store.open(tmp_path_factory.mktemp("embedded") / "data", STORE_OPTIONS) as opened:
            yield opened
        return
    process: DaemonProcess = request.getfixturevalue("daemon")
    if request.param == "sync":
        with connect(process.address) as client:
            yield client
        return
    with asyncio.Runner() as runner:
        asynchronous = stigmer.aio.connect(process.address)
        yield Blocking(asynchronous, runner)
        runner.run(asynchronous.close())


@pytest.fixture
def kind() -> str:
    """A kind that no other test uses."""
    return f"kind{next(_numbers)}"
