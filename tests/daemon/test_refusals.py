"""What the daemon refuses is counted and logged, and nobody can fill its log by being refused."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from pathlib import Path

import grpc
import pytest

from daemon.support import DaemonProcess
from stigmer import wire
from stigmer.client import connect
from stigmer.config import AccessOptions, Auth, Limits, StoreOptions
from stigmer.daemon.refusals import Refusals
from stigmer.errors import BatchFailed, Conflict, NotFound, ResourceExhausted, StigmerError, Unauthenticated
from stigmer.model import Save

STORE = wire.methods(wire.STORE_SERVICE)
ADMIN = wire.methods(wire.ADMIN_SERVICE)
SHOWN = "not-the-token-" * 4


def lines_of(data: Path) -> list[str]:
    """Give what the daemon's log says of refusals."""
    return [line for line in (data / "daemon.log").read_text().splitlines() if " refused" in line]


def test_strangers_are_counted_and_logged_once(tmp_path: Path) -> None:
    """A line for each of the two ways to have no token, with the caller and the method; the others when it stops."""
    data = tmp_path / "data"
    with DaemonProcess(data, access=AccessOptions(Auth.TOKEN), own_socket=True) as process:
        with grpc.insecure_channel(process.address) as channel, connect(process.info.listen[1]) as owner:
            assert owner.status().refused == {}
            for metadata, count in ((None, 30), ([(wire.AUTHORIZATION_KEY, f"Bearer {SHOWN}")], 20)):
                for _ in range(count):
                    with pytest.raises(grpc.RpcError):
                        channel.unary_unary(ADMIN["status"].path)(b"", metadata=metadata, timeout=20)
            with pytest.raises(grpc.RpcError):
                channel.unary_unary("/" + "x" * 5_000)(b"", timeout=20)
            assert owner.status().refused == {"UNAUTHENTICATED": 51}
            first, second = lines_of(data)
            said = r"WARNING stigmer\.daemon: refused: UNAUTHENTICATED: the call has (no|another) token.* \(from "
            from_whom = r'"ipv4:127\.0\.0\.1:\d+", for "/stigmer\.store\.v1\.Admin/Status"\)$'
            for line, problem in ((first, "no"), (second, "another")):
                found = re.search(said + from_whom, line)
                assert found is not None, line
                assert found[1] == problem
        assert process.stop() == 0
    third, fourth = lines_of(data)[2:]
    assert "refused 30 more like the last; the newest: UNAUTHENTICATED: the call has no token" in third
    assert "refused 19 more like the last; the newest: UNAUTHENTICATED: the call has another token" in fourth
    log = (data / "daemon.log").read_text()
    assert (SHOWN in log, (data / "token").read_text().strip() in log, len(log) < 4_000) == (False, False, True)


def test_what_is_over_a_limit_is_counted_and_what_is_an_answer_is_not(tmp_path: Path) -> None:
    """Tails, subscribers, requests, values in a call and in a stream of commits: each limit has a line of its own."""
    data = tmp_path / "data"
    subscribe = "/ai.stigmer.agentic.agentexecution.v1.AgentExecutionQueryController/subscribe"
    secret = b"the secret of somebody" * 200
    limits, store = Limits(tails_max=0, subscribers_max=0), StoreOptions(value_bytes_max=1_000)
    with (
        DaemonProcess(data, limits=limits, store=store) as process,
        connect(process.address) as client,
        grpc.insecure_channel(process.address) as channel,
    ):
        revision = client.save("k", "a", b"")
        with pytest.raises(NotFound):
            client.get("k", "none")
        with pytest.raises(Conflict):
            client.save("k", "a", b"", expected_revision=revision + 1)
        assert client.status().refused == {}
        with pytest.raises(ResourceExhausted):
            client.save("k", "a", secret)
        with pytest.raises(BatchFailed):
            client.save_many([Save("k", "b", b"v"), Save("k", "c", secret), Save("k", "d", secret)])
        for path, request in ((subscribe, b"\x0a\x05aex-1"), (STORE["tail"].path, b""), (STORE["tail"].path, b"")):
            with pytest.raises(grpc.RpcError):
                next(channel.unary_stream(path)(request, timeout=20))
        with pytest.raises(grpc.RpcError):
            channel.unary_unary(STORE["get"].path)(bytes(wire.REQUEST_BYTES_MAX + 1), timeout=60)
        assert client.status().refused == {"RESOURCE_EXHAUSTED": 7}
        lines = lines_of(data)
        assert len(lines) == 4
        words = ("the value of k", "0 subscribers are", "0 tails are", "the request has")
        for line, begin in zip(lines, words, strict=True):
            assert f"refused: RESOURCE_EXHAUSTED: {begin}" in line
        assert process.stop() == 0
    rest = lines_of(data)[4:]
    assert ["refused 2 more" in rest[0], "/Write" in rest[0], "refused 1 more" in rest[1]] == [True, True, True]
    assert "the secret of" not in (data / "daemon.log").read_text()


def test_a_cause_takes_one_line_in_a_while_and_every_refusal_is_in_one(caplog: pytest.LogCaptureFixture) -> None:
    """However many come, from whomever, for whatever; the count goes on, and what callers choose forges no line."""
    seconds = 0.05
    forged = "/x\n2026-01-01T00:00:00.000Z INFO stigmer.daemon: all is well\u202e"
    causes: tuple[StigmerError, ...] = (Unauthenticated("the call has no token"), ResourceExhausted("full", limit="L"))

    async def run() -> tuple[dict[str, int], float]:
        refusals = Refusals(seconds)
        begun = time.monotonic()
        for number in range(3_000):
            refusals.note(causes[number % 2], f"{forged}{number}", lambda number=number: f"ipv4:127.0.0.1:{number}")
            if number % 100 == 0:
                await asyncio.sleep(seconds / 10)
        refusals.note(NotFound("k", "a"), forged, lambda: "")
        refusals.close()
        assert not refusals.counts.keys() - {"UNAUTHENTICATED", "RESOURCE_EXHAUSTED"}
        return refusals.counts, time.monotonic() - begun

    with caplog.at_level(logging.WARNING, "stigmer.daemon"):
        counts, took = asyncio.run(run())
    assert counts == {"UNAUTHENTICATED": 1_500, "RESOURCE_EXHAUSTED": 1_500}
    lines = caplog.messages
    for status in counts:
        of_cause = [line for line in lines if f" {status}: " in line]
        told = [re.match(r"refused(?: (\d+) more like the last; the newest)?: ", line) for line in of_cause]
        assert sum(int(match[1] or 1) for match in told if match is not None) == 1_500
        assert 3 <= len(of_cause) <= took / seconds + 2
    assert all(line.isprintable() and len(line) < 500 for line in lines)


def test_a_cause_that_has_been_quiet_is_told_at_once_again(caplog: pytest.LogCaptureFixture) -> None:
    """Where nothing came in a while, the next is a first one."""

    async def run() -> None:
        refusals = Refusals(0.01)
        for _ in range(2):
            refusals.note(ResourceExhausted("full", limit="L"), "/m", lambda: "unix:")
            await asyncio.sleep(0.1)
        refusals.close()

    with caplog.at_level(logging.WARNING, "stigmer.daemon"):
        asyncio.run(run())
    assert caplog.messages == ['refused: RESOURCE_EXHAUSTED: full (from "unix:", for "/m")'] * 2
