"""Tokens and certificates that are renewed while the daemon runs: what is good is taken, all else is left alone."""

from __future__ import annotations

import logging
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from certificates import Authority, Files

from daemon.support import ANY_PORT, DaemonProcess, until
from stigmer import wire
from stigmer.client import connect
from stigmer.config import AccessOptions, Auth, Tls
from stigmer.credentials import read_own_token
from stigmer.daemon.renewal import Renewed
from stigmer.errors import InvalidArgument, Unauthenticated, Unavailable
from stigmer.pb import store_pb2

STORE = wire.methods(wire.STORE_SERVICE)
OLD, NEW = "the-old-token-" * 3, "the-new-token-" * 3


def put(path: str | Path, content: bytes | str) -> None:
    """Put a file in the place of another, as a careful program does."""
    beside = f"{path}.beside"
    with open(beside, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(content if isinstance(content, bytes) else content.encode())
    os.replace(beside, path)


def copied(files: Files, directory: Path) -> Files:
    """Copy a certificate and its key to where a daemon looks for them."""
    own = Files(str(directory / "daemon.crt"), str(directory / "daemon.key"))
    for source, target in zip(files, own, strict=True):
        put(target, Path(source).read_bytes())
    return own


def is_let_in(address: str, token: str | None, tls: Tls | None) -> bool:
    """Say whether a new connection is made and its call answered."""
    try:
        with connect(address, token=token, tls=tls) as client:
            client.status()
    except (Unavailable, Unauthenticated):
        return False
    return True


# --- in a daemon ---


def test_a_renewed_certificate_is_shown_from_then_on(tmp_path: Path) -> None:
    """At every address, by another authority, with its key; who is connected stays so, and status tells the new end."""
    first, second = Authority(tmp_path, "first"), Authority(tmp_path, "second")
    served = copied(first.issue("old", days=3), tmp_path)
    renewed = second.issue("new", days=89.5)
    access = AccessOptions(tls_cert=served.cert, tls_key=served.key)
    with (
        DaemonProcess(tmp_path / "data", ANY_PORT, ANY_PORT, access=access) as process,
        connect(process.address, tls=Tls(first.path)) as client,
    ):
        before = client.status().access
        # Some time apart, as they are in life.
        put(served.cert, Path(renewed.cert).read_bytes())
        put(served.key, Path(renewed.key).read_bytes())
        for address in process.info.listen:
            until(lambda address=address: is_let_in(address, None, Tls(second.path)))
            with pytest.raises(Unavailable, match="is not trusted"):
                connect(address, tls=Tls(first.path))
        client.save("k", "a", b"")
        after = client.status().access
        assert before is not None
        assert after is not None
        assert 85 < (after.certificate_valid_until_ns - before.certificate_valid_until_ns) / 86_400e9 < 88
        assert process.stop() == 0
        assert process.read_stderr() == ""
    log = (tmp_path / "data" / "daemon.log").read_text()
    assert log.count("renewed: TLS\n") == 1
    assert log.index("ends in 3.0 days") < log.index("renewed: TLS")
    assert log.count("ends in") == 1


def test_other_authorities_of_clients(tmp_path: Path) -> None:
    """Clients of the new ones are let in, of the old ones no more: neither anew, nor by a session of before."""
    ours, first, second = (Authority(tmp_path, name) for name in ("ours", "first", "second"))
    served, old, new = ours.issue("daemon"), first.issue("old"), second.issue("new")
    trusted = tmp_path / "trusted.pem"
    put(trusted, Path(first.path).read_bytes())
    shown_old, shown_new = Tls(ours.path, old.cert, old.key), Tls(ours.path, new.cert, new.key)
    access = AccessOptions(tls_cert=served.cert, tls_key=served.key, tls_client_ca=str(trusted))
    context = ssl.create_default_context(cafile=ours.path)
    context.load_cert_chain(old.cert, old.key)
    context.set_alpn_protocols(["h2"])

    with DaemonProcess(tmp_path / "data", access=access) as process:
        _, session = answered(process.address, context, None)
        goes_on, session = answered(process.address, context, session)
        assert goes_on
        assert is_let_in(process.address, None, shown_old)
        assert not is_let_in(process.address, None, shown_new)
        put(trusted, Path(second.path).read_bytes())
        until(lambda: is_let_in(process.address, None, shown_new))
        assert not is_let_in(process.address, None, shown_old)
        assert answered(process.address, context, session) == (False, None)
        put(trusted, Path(first.path).read_bytes() + Path(second.path).read_bytes())
        until(lambda: is_let_in(process.address, None, shown_old))
        assert is_let_in(process.address, None, shown_new)


def answered(
    address: str, context: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[bool, ssl.SSLSession | None]:
    """Connect with TLS; say whether it goes on with the session of before, and give the one to go on with."""
    host, _, port = address.rpartition(":")
    try:
        with (
            socket.create_connection((host, int(port)), 20) as plain,
            context.wrap_socket(plain, server_hostname=host, session=session) as opened,
        ):
            if opened.recv(1):
                return bool(opened.session_reused), opened.session
    except OSError:
        pass  # with TLS 1.3 a client learns after its handshake that it is not let in
    return False, None


def test_another_token(tmp_path: Path) -> None:
    """It is asked for from then on, without a restart; who follows goes on; and no token is in the log."""
    path = tmp_path / "token"
    put(path, OLD + "\n")
    data = tmp_path / "data"
    with DaemonProcess(data, access=AccessOptions(Auth.TOKEN, str(path))) as process:
        with grpc.insecure_channel(process.address) as channel:
            shown = [(wire.AUTHORIZATION_KEY, f"Bearer {OLD}")]
            request = store_pb2.TailRequest(follow=True).SerializeToString()
            tail = channel.unary_stream(STORE["tail"].path)(request, metadata=shown)
            next(tail)
            put(path, NEW + "\n")
            until(lambda: is_let_in(process.address, NEW, None))
            assert not is_let_in(process.address, OLD, None)
            with connect(process.address, token=NEW) as client:
                client.save("k", "a", b"")
            assert store_pb2.TailResponse.FromString(next(tail)).through_revision == 1
            tail.cancel()
        assert process.stop() == 0
    log = (data / "daemon.log").read_text()
    assert ("renewed: the token\n" in log, OLD in log, NEW in log) == (True, False, False)


def test_what_cannot_be_used_is_told_and_the_old_stays(tmp_path: Path) -> None:
    """A token's file that is removed, a key of another certificate: until they are good, all is as before."""
    authority = Authority(tmp_path)
    served = copied(authority.issue("old"), tmp_path)
    renewed = authority.issue("new")
    token = tmp_path / "token"
    put(token, OLD)
    log = tmp_path / "data" / "daemon.log"
    access = AccessOptions(Auth.TOKEN, str(token), served.cert, served.key)
    with DaemonProcess(tmp_path / "data", access=access) as process:
        token.unlink()
        put(served.key, Path(renewed.key).read_bytes())
        for words in ("the token stays as it was: token-file: ", "TLS stays as it was: tls-key: "):
            until(lambda words=words: words in log.read_text())
        assert "cannot be read: No such file" in log.read_text()
        assert "is not the key of the certificate" in log.read_text()
        assert is_let_in(process.address, OLD, Tls(authority.path))
        put(served.cert, Path(renewed.cert).read_bytes())
        put(token, NEW)
        until(lambda: is_let_in(process.address, NEW, Tls(authority.path)))
        until(lambda: "renewed: TLS" in log.read_text())
        assert log.read_text().count("stays as it was") == 2


# --- the files ---


@pytest.fixture
def token(tmp_path: Path) -> tuple[Path, Renewed[str]]:
    """A token's file, and what is read of it."""
    path = tmp_path / "token"
    put(path, OLD)
    return path, Renewed("the token", (str(path),), lambda: read_own_token(str(path), "token-file"))


PROBLEMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "removed": (lambda path: path.unlink(), "No such file"),
    "empty": (lambda path: path.write_text(""), "is not a token"),
    "too short": (lambda path: put(path, "short"), "is not a token"),
    "open to others": (lambda path: path.chmod(0o644), "others have access to"),
    "new, and open to others": (lambda path: (put(path, NEW), path.chmod(0o640)), "others have access to"),
    "a directory": (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
    "a link to nowhere": (lambda path: (path.unlink(), path.symlink_to("nowhere")), "No such file"),
    "a loop of links": (lambda path: (path.unlink(), path.symlink_to(path)), "symbolic links"),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_problem_is_logged_once_and_the_old_stays_in_force(
    token: tuple[Path, Renewed[str]], caplog: pytest.LogCaptureFixture, problem: str
) -> None:
    """At the second look, for a file may be in the middle of being written at the first; and again once it was good."""
    path, renewed = token
    make, words = PROBLEMS[problem]
    for again in (1, 2):
        make(path)
        assert not renewed.look()
        assert len(caplog.messages) == again - 1
        for _ in range(5):
            assert not renewed.look()
            assert renewed.value == (OLD if again == 1 else NEW)
        assert len(caplog.messages) == again
        assert words in caplog.messages[-1]
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        put(path, NEW)
        assert renewed.look() == (again == 1)
        assert renewed.value == NEW
    assert not any(secret[:13] in message for message in caplog.messages for secret in (OLD, NEW))


def test_how_files_are_renewed(token: tuple[Path, Renewed[str]], caplog: pytest.LogCaptureFixture) -> None:
    """In place, by a file that takes its place, by a link that is turned; and what is the same is no renewal."""
    path, renewed = token
    caplog.set_level(logging.INFO)
    path.write_text(NEW)
    assert (renewed.look(), renewed.value) == (True, NEW)
    put(path, NEW)
    assert (renewed.look(), renewed.value) == (False, NEW)
    times = path.stat()
    path.write_text(OLD)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as long, and as old, as the one before
    assert (renewed.look(), renewed.value) == (True, OLD)
    put(path.with_name("there"), NEW)
    path.unlink()
    path.symlink_to("there")
    assert (renewed.look(), renewed.value) == (True, NEW)
    put(path.with_name("elsewhere"), OLD)
    os.symlink("elsewhere", path.with_name("link"))
    os.replace(path.with_name("link"), path)
    assert (renewed.look(), renewed.value) == (True, OLD)
    put(path.with_name("elsewhere"), NEW)  # where the link leads, as with a chain of links
    assert (renewed.look(), renewed.value) == (True, NEW)
    assert caplog.messages == []


def test_files_that_belong_together_are_taken_together(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of two that are replaced one after the other nothing is told, nor taken, in between."""
    paths = (tmp_path / "left", tmp_path / "right")
    for path in paths:
        put(path, "1")

    def read() -> str:
        left, right = (path.read_text() for path in paths)
        if left != right:
            raise InvalidArgument("right", f"is {right}, and left is {left}")
        return left

    renewed = Renewed("both", tuple(map(str, paths)), read)
    for number in ("2", "3"):
        put(paths[0], number)
        assert (renewed.look(), int(renewed.value)) == (False, int(number) - 1)
        put(paths[1], number)
        assert (renewed.look(), renewed.value) == (True, number)
    assert caplog.messages == []
    put(paths[0], "4")
    renewed.look()
    put(paths[0], "5")
    renewed.look()  # another problem than at the look before
    assert caplog.messages == []
    renewed.look()
    assert len(caplog.messages) == 1


def test_a_reader_that_fails_in_its_own_way(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What a library raises is a problem like any other; at the start it is raised."""
    path = tmp_path / "file"
    put(path, "1")

    def read() -> int:
        return int(path.read_text())

    renewed = Renewed("the number", (str(path),), read)
    put(path, "one")
    for _ in range(3):
        assert not renewed.look()
    assert caplog.messages == ["what was renewed cannot be used, and the number stays as it was: ValueError"]
    with pytest.raises(ValueError, match="one"):
        Renewed("the number", (str(path),), read)


def test_files_that_are_away_for_a_while(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As with a file system that is not mounted: they are no renewal when they are back, and are missed again."""
    here, away = tmp_path / "here", tmp_path / "away"
    here.mkdir()
    put(here / "token", OLD)
    path = str(here / "token")
    renewed = Renewed("the token", (path,), lambda: read_own_token(path, "token-file"))
    for times in (1, 2):
        here.rename(away)
        for _ in range(3):
            assert not renewed.look()
        away.rename(here)
        assert (renewed.look(), renewed.value, len(caplog.messages)) == (False, OLD, times)
