"""What the clients show to a daemon that lets in only some, and over which addresses they would not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from certificates import Authority
from daemon.support import DaemonProcess, own_address

import stigmer.aio
from stigmer.client import connect
from stigmer.config import AccessOptions, Auth, Tls
from stigmer.credentials import read_token
from stigmer.errors import BatchFailed, InvalidArgument, NotFound, StigmerError, Unauthenticated
from stigmer.model import Save

SUBSCRIBE = "/ai.stigmer.agentic.agentexecution.v1.AgentExecutionQueryController/subscribe"
OTHER = "another-token-that-is-long-enough-to-be-one"


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address of a daemon that wants a token, and the token."""
    data = tmp_path_factory.mktemp("closed") / "data"
    with DaemonProcess(data, access=AccessOptions(Auth.TOKEN)) as process:
        yield process.address, read_token(str(data / "token"), "test")


def test_every_call_of_the_blocking_client_shows_the_token(closed: tuple[str, str]) -> None:
    """Single calls, streams, followers and folds."""
    address, token = closed
    with connect(address, token=token) as client:
        first = client.save("sync", "a", b"v")
        assert client.save_many([Save("sync", f"{n}", b"v") for n in range(3)]) == [first + n for n in (1, 2, 3)]
        assert client.get("sync", "a").value == b"v"
        assert len(client.get_many([("sync", "a"), ("sync", "b")])) == 2
        assert len(client.list("sync").resources) == 4
        tail = client.tail(first - 1)
        assert next(tail).revision == first
        tail.close()
        assert client.verify().differences == 0
        with pytest.raises(NotFound):
            client.call("/ai.stigmer.agentic.agent.v1.AgentQueryController/get", b"\x0a\x05agt-1")
        with pytest.raises(NotFound):
            next(client.subscribe(SUBSCRIBE, b"\x0a\x05aex-1", timeout=20))


def test_every_call_of_the_asyncio_client_shows_the_token(closed: tuple[str, str]) -> None:
    """Those that travel together too: commits on streams, gets in batches, bulk writers."""
    address, token = closed

    async def run() -> None:
        async with stigmer.aio.connect(address, token=token) as client:
            first = await client.save("aio", "a", b"v")
            await asyncio.gather(*(client.save("aio", f"{n}", b"v") for n in range(100)))
            found = await asyncio.gather(*(client.get("aio", f"{n}") for n in range(100)))
            assert len(found) == 100
            async with client.writer() as writer:
                await writer.save("aio", "bulk", b"v")
            assert len((await client.list("aio")).resources) == 102
            tail = client.tail(first - 1)
            assert (await anext(tail)).revision == first
            await tail.aclose()
            assert (await client.verify()).differences == 0

    asyncio.run(run())


@pytest.mark.parametrize("token", [None, OTHER, "dummy-local-key", "x" * 512])
def test_a_token_that_is_not_the_daemons(closed: tuple[str, str], token: str | None) -> None:
    """Both clients say so at once, however they are used first, and what they say has no token in it."""
    address, _ = closed
    caught: list[StigmerError] = []
    with pytest.raises(Unauthenticated) as sync:
        connect(address, token=token, timeout=60)
    caught.append(sync.value)

    async def run() -> None:
        client = stigmer.aio.connect(address, token=token, timeout=60)
        for call in (client.save("k", "i", b""), client.get("k", "i"), anext(client.tail()), client.status()):
            with pytest.raises(Unauthenticated) as found:
                await call
            caught.append(found.value)
        await client.close()

    asyncio.run(run())
    for error in caught:
        assert "authorization: Bearer TOKEN" in error.message
        assert "STIGMER_TOKEN_FILE" in (error.hint or "")
        assert token is None or token not in f"{error} {error.hint}"


@pytest.mark.parametrize("token", ["", " ", "two words", "line\nbreak", "x" * 513, "gr\xfcn", "\x00"])
def test_what_cannot_be_a_token(closed: tuple[str, str], token: str) -> None:
    """It is refused before anything is sent, and not repeated."""
    address, _ = closed
    for attempt in (lambda: connect(address, token=token), lambda: stigmer.aio.connect(address, token=token)):
        with pytest.raises(InvalidArgument, match=r"^token: is not a token") as caught:
            attempt()
        assert token.strip() == "" or token not in str(caught.value)


def test_a_token_is_not_sent_in_the_clear_to_another_machine(tmp_path: Path) -> None:
    """Without TLS the clients refuse; nobody needs to be there."""
    for address in ("192.0.2.1:50051", "example.org:50051", "[2001:db8::1]:1"):
        for attempt in (connect, stigmer.aio.connect):
            with pytest.raises(InvalidArgument, match="is not sent in the clear"):
                attempt(address, token=OTHER)
    stigmer.aio.connect("192.0.2.1:50051", token=OTHER, tls=Tls(Authority(tmp_path).path))


def test_the_environment(closed: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """STIGMER_TOKEN comes before STIGMER_TOKEN_FILE, and an argument before both; each is named where it is wrong."""
    address, token = closed
    monkeypatch.setenv("STIGMER_ADDR", address)
    path = tmp_path / "copy"
    path.write_text(token + "\n")

    async def status() -> None:
        async with stigmer.aio.connect() as client:
            await client.status()

    monkeypatch.setenv("STIGMER_TOKEN_FILE", str(path))
    stigmer.connect().close()
    asyncio.run(status())
    monkeypatch.setenv("STIGMER_TOKEN", OTHER)
    with pytest.raises(Unauthenticated):
        stigmer.connect()
    with pytest.raises(Unauthenticated):
        asyncio.run(status())
    stigmer.connect(token=token).close()
    monkeypatch.setenv("STIGMER_TOKEN", "no token")
    with pytest.raises(InvalidArgument, match=r"^STIGMER_TOKEN: is not a token"):
        stigmer.connect()
    monkeypatch.delenv("STIGMER_TOKEN")
    path.unlink()
    with pytest.raises(InvalidArgument, match=r"^STIGMER_TOKEN_FILE: .* cannot be read: No such file"):
        stigmer.connect()


def test_tls_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """STIGMER_TLS_CA turns it on; the certificate and the key go with it."""
    authority = Authority(tmp_path)
    served, own = authority.issue("daemon"), authority.issue("client")
    access = AccessOptions(Auth.NONE, None, served.cert, served.key, authority.path)
    with DaemonProcess(tmp_path / "data", access=access) as process:
        for name, value in (("CA", authority.path), ("CERT", own.cert), ("KEY", own.key)):
            monkeypatch.setenv(f"STIGMER_TLS_{name}", value)
        stigmer.connect(process.address).close()
        assert stigmer.Tls is Tls


def test_certificates_that_a_client_cannot_use(tmp_path: Path) -> None:
    """Each is named before anything is sent."""
    authority = Authority(tmp_path)
    own, other = authority.issue("client"), authority.issue("other")
    expired = authority.issue("expired", days=-1)
    for tls, words in (
        (Tls("/none"), 'tls-ca: "/none" cannot be read: No such file'),
        (Tls(own.key), f"tls-ca: {own.key} holds no certificate"),
        (Tls(authority.path, own.cert), "tls-key: is missing"),
        (Tls(authority.path, None, own.key), "tls-cert: is missing"),
        (Tls(authority.path, own.cert, other.key), f"tls-key: {other.key} is not the key"),
        (Tls(authority.path, *expired), f"tls-cert: {expired.cert} expired at "),
    ):
        for attempt in (connect, stigmer.aio.connect):
            with pytest.raises(InvalidArgument) as caught:
                attempt("127.0.0.1:1", tls=tls)
            assert caught.value.message.startswith(words)


def test_a_client_rides_through_restarts_with_tls_and_a_token(tmp_path: Path) -> None:
    """Calls, streams and tails of both clients, over a kill and a stop; nothing is lost, doubled or left out."""
    address = own_address()
    authority = Authority(tmp_path)
    served, own = authority.issue("daemon", host=address.partition(":")[0]), authority.issue("client")
    access = AccessOptions(Auth.TOKEN, None, served.cert, served.key, authority.path)
    tls = Tls(authority.path, own.cert, own.key)
    data = tmp_path / "data"

    async def run() -> None:
        process = DaemonProcess(data, address, access=access)
        token = read_token(str(data / "token"), "test")
        with connect(address, token=token, tls=tls, timeout=60) as sync:
            async with stigmer.aio.connect(address, token=token, tls=tls, timeout=60) as client:
                tail, blocking_tail = client.tail(), sync.tail()
                for number in range(1, 4):
                    saves = [asyncio.ensure_future(client.save("k", f"{number}-{n}", os.urandom(10))) for n in range(5)]
                    saves.append(asyncio.ensure_future(asyncio.to_thread(sync.save, "k", f"{number}", b"v")))
                    await asyncio.gather(*saves[:1])
                    with process:
                        process.kill() if number == 1 else process.stop()
                    process = await asyncio.to_thread(DaemonProcess, data, address, access=access)
                    await asyncio.gather(*saves)
                with process:
                    last = (await client.status()).revision
                    assert last == 18
                    assert [(await anext(tail)).revision for _ in range(last)] == list(range(1, last + 1))
                    seen = await asyncio.to_thread(lambda: [next(blocking_tail).revision for _ in range(last)])
                    assert seen == list(range(1, last + 1))
                    await tail.aclose()
                    blocking_tail.close()

    asyncio.run(run())


def test_a_daemon_that_comes_back_with_another_token(tmp_path: Path) -> None:
    """A client that had the old one is told, on its next call and on its tail, instead of trying for ever."""
    data = tmp_path / "data"
    address = own_address()

    async def run() -> None:
        with DaemonProcess(data, address, access=AccessOptions(Auth.TOKEN)) as process:
            token = read_token(str(data / "token"), "test")
            client = await stigmer.aio.connect(address, token=token, timeout=60)
            revision = await client.save("k", "a", b"")
            tail = client.tail(revision - 1)
            assert (await anext(tail)).revision == revision
            process.stop()
        (data / "token").unlink()
        with DaemonProcess(data, address, access=AccessOptions(Auth.TOKEN)):
            with pytest.raises(Unauthenticated):
                await anext(tail)
            with pytest.raises(Unauthenticated):
                await client.save("k", "b", b"")
            with pytest.raises(BatchFailed) as batch:
                await client.save_many([Save("k", "c", b"")])
            assert isinstance(batch.value.failures[0], Unauthenticated)
            await client.close()

    asyncio.run(run())
