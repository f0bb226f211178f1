"""Who may talk to the daemon: the token, TLS, sockets, and the modes of what lies in a data directory."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from certificates import Authority, Files
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from daemon.support import ANY_PORT, DaemonProcess, DidNotStart
from stigmer import config, wire
from stigmer.client import connect
from stigmer.config import AccessOptions, Auth, StoreOptions, Tls
from stigmer.credentials import read_token
from stigmer.errors import Unauthenticated, Unavailable
from stigmer.pb import store_pb2
from stigmer.pb.agentic import agentexecution_pb2
from stigmer.store import Store

STORE = wire.methods(wire.STORE_SERVICE)
ADMIN = wire.methods(wire.ADMIN_SERVICE)
WITH_TOKEN = AccessOptions(Auth.TOKEN)
# Once everything is imported: another user may not be able to read this Python.
BECOME_NOBODY = "import grpc, grpc._channel, os, socket; os.setgroups([]); os.setgid(65534); os.setuid(65534)"
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def mode_of(path: Path) -> int:
    """Give the rights of a file."""
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def open_path() -> Iterator[Path]:
    """Give a directory that every user may enter, unlike those of pytest."""
    path = Path(tempfile.mkdtemp(prefix="stigmer-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


# --- the token ---


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DaemonProcess, str]]:
    """A daemon that wants a token, with a socket of its own, and the token."""
    data = tmp_path_factory.mktemp("closed") / "data"
    with DaemonProcess(data, access=WITH_TOKEN, own_socket=True) as process:
        yield process, read_token(str(data / "token"), "test")


def code_of(channel: grpc.Channel, *authorization: str, body: bytes = b"", streams: bool = False) -> grpc.StatusCode:
    """Make a call that shows these values and give its status."""
    metadata = [(wire.AUTHORIZATION_KEY, value) for value in authorization]
    try:
        if streams:
            list(channel.stream_stream(STORE["write"].path)(iter([body]), metadata=metadata, timeout=20))
        else:
            channel.unary_unary(ADMIN["status"].path)(body, metadata=metadata, timeout=20)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("streams", [False, True])
def test_only_the_token_opens_tcp(closed: tuple[DaemonProcess, str], streams: bool) -> None:
    """Missing, wrong, empty, longer, shorter, under another scheme, huge: each is refused, and the daemon goes on."""
    process, token = closed
    with grpc.insecure_channel(process.address) as channel:
        for shown in (
            (),
            ("",),
            ("Bearer",),
            ("Bearer ",),
            ("Bearer dummy-local-key",),
            (f"Bearer {token}x",),
            (f"Bearer {token[:-1]}",),
            (f"Bearer  {token}",),
            (f"Basic {token}",),
            (token,),
            ("Bearer " + "x" * 8_000,),
        ):
            assert code_of(channel, *shown, streams=streams) is grpc.StatusCode.UNAUTHENTICATED, shown
        huge = code_of(channel, "Bearer " + "x" * config.Limits().metadata_bytes_max, streams=streams)
        assert huge is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert code_of(channel, f"Bearer {token}", streams=streams) is grpc.StatusCode.OK
        assert code_of(channel, f"bearer {token}", streams=streams) is grpc.StatusCode.OK
        assert code_of(channel, "Bearer dummy-local-key", f"Bearer {token}", streams=streams) is grpc.StatusCode.OK


def test_a_refusal_says_what_to_do(closed: tuple[DaemonProcess, str]) -> None:
    """In the status for every client, and with a hint for ours; the token is in none of it."""
    process, token = closed
    with grpc.insecure_channel(process.address) as channel:
        metadata = [(wire.AUTHORIZATION_KEY, f"Bearer {token[:-1]}")]
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(STORE["get"].path)(b"", metadata=metadata, timeout=20)
        assert "send `authorization: Bearer TOKEN`" in caught.value.details()
        error = wire.error_of(dict(caught.value.trailing_metadata())[wire.ERROR_DETAIL_KEY])
        assert isinstance(error, Unauthenticated)
        assert "STIGMER_TOKEN_FILE" in (error.hint or "")
        assert token[:-1] not in f"{caught.value!r} {error} {error.hint}"


def test_a_stranger_cannot_make_the_daemon_read_a_request(closed: tuple[DaemonProcess, str]) -> None:
    """The largest request is refused like the smallest; the daemon holds none of it."""
    process, _ = closed
    path = Path(f"/proc/{process.pid}/status")
    if not path.exists():
        pytest.skip("the memory of another process is read from /proc")

    def peak() -> int:
        return int(next(line.split()[1] for line in path.read_text().splitlines() if line.startswith("VmHWM")))

    options = (("grpc.max_send_message_length", -1),)
    with grpc.insecure_channel(process.address, options) as channel:
        assert code_of(channel) is grpc.StatusCode.UNAUTHENTICATED
        before = peak()
        body = bytes(config.Limits().request_bytes_max - 1_000)
        assert code_of(channel, body=body) is grpc.StatusCode.UNAUTHENTICATED
        assert code_of(channel, body=body, streams=True) is grpc.StatusCode.UNAUTHENTICATED
        assert (peak() - before) * 1024 < len(body) // 4


def test_health_is_told_to_everybody_and_nothing_else(closed: tuple[DaemonProcess, str]) -> None:
    """Check works without a token; Watch, reflection and unknown methods want it."""
    process, token = closed
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    with grpc.insecure_channel(process.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        for call in (
            lambda: next(health.Watch(health_pb2.HealthCheckRequest())),
            lambda: next(reflection.ServerReflectionInfo(asked)),
            lambda: channel.unary_unary("/no.such/Method")(b""),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call()
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        shown = [(wire.AUTHORIZATION_KEY, f"Bearer {token}")]
        found = next(
            reflection.ServerReflectionInfo(
                iter([reflection_pb2.ServerReflectionRequest(list_services="")]), metadata=shown
            )
        )
        assert wire.STORE_SERVICE in {service.name for service in found.list_services_response.service}
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/no.such/Method")(b"", metadata=shown)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_the_socket_of_the_data_directory_wants_no_token(closed: tuple[DaemonProcess, str]) -> None:
    """Nor does it mind one; it is listed behind the address of TCP, and closed by its directory."""
    process, token = closed
    tcp, own = process.info.listen
    path = Path(own.removeprefix("unix:"))
    assert path.parts[-3:] == ("data", "run", "stigmer.sock")
    assert (mode_of(path), mode_of(path.parent), mode_of(path.parent.parent)) == (0o600, 0o700, 0o700)
    for shown in (None, token, "dummy-local-key"):
        with connect(own, token=shown) as client:
            assert client.status().listen == [tcp, own]


def test_followers_over_tcp_show_the_token(closed: tuple[DaemonProcess, str]) -> None:
    """A subscriber of one resource and a tail get what there is and what comes; without the token neither begins."""
    process, token = closed
    execution = agentexecution_pb2.AgentExecution(api_version="agentic.stigmer.ai/v1", kind="AgentExecution")
    execution.metadata.id = "aex-followed"
    subscribe = "/ai.stigmer.agentic.agentexecution.v1.AgentExecutionQueryController/subscribe"
    asked = agentexecution_pb2.AgentExecutionId(value="aex-followed").SerializeToString()
    followed = store_pb2.TailRequest(kinds=["agent_execution"], follow=True).SerializeToString()
    shown = [(wire.AUTHORIZATION_KEY, f"Bearer {token}")]
    with connect(process.info.listen[1]) as owner, grpc.insecure_channel(process.address) as channel:
        owner.save("agent_execution", "aex-followed", execution)
        paths = {subscribe: asked, STORE["tail"].path: followed}
        for path, request in paths.items():
            with pytest.raises(grpc.RpcError) as caught:
                next(channel.unary_stream(path)(request, timeout=20))
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        calls = [channel.unary_stream(path)(request, metadata=shown, timeout=20) for path, request in paths.items()]
        firsts = [next(call) for call in calls]
        execution.metadata.name = "again"
        owner.save("agent_execution", "aex-followed", execution)
        assert all(next(call) != first for call, first in zip(calls, firsts, strict=True))
        for call in calls:
            call.cancel()


def test_without_auth_a_token_is_taken_no_notice_of(tmp_path: Path) -> None:
    """As the platform's clients send one, whatever it is."""
    with DaemonProcess(tmp_path / "data") as process, grpc.insecure_channel(process.address) as channel:
        assert code_of(channel, "Bearer dummy-local-key") is grpc.StatusCode.OK
        assert not (tmp_path / "data" / "token").exists()


def test_a_token_stays_over_restarts_and_is_made_once(tmp_path: Path) -> None:
    """Its file is ours alone, holds 32 random bytes, and is in no log."""
    data = tmp_path / "data"
    with DaemonProcess(data, access=WITH_TOKEN) as process:
        token = read_token(str(data / "token"), "test")
        assert (mode_of(data / "token"), len(token)) == (0o600, 43)
        assert process.stop() == 0
    with DaemonProcess(data, access=WITH_TOKEN) as process, connect(process.address, token=token) as client:
        assert client.save("k", "a", b"") == 1
    log = (data / "daemon.log").read_text()
    assert log.count("made a token") == 1
    assert token not in log


def test_a_token_of_ones_own(tmp_path: Path) -> None:
    """It is read from the file that was named, without the line's end, and nothing is made in the data directory."""
    path = tmp_path / "mine"
    path.write_text("0123456789abcdef0123456789abcdef\n")
    path.chmod(0o600)
    access = AccessOptions(Auth.TOKEN, str(path))
    with (
        DaemonProcess(tmp_path / "data", access=access) as process,
        connect(process.address, token="0123456789abcdef0123456789abcdef") as client,
    ):
        client.status()
    assert not (tmp_path / "data" / "token").exists()


@pytest.mark.parametrize(
    ("content", "mode", "problem"),
    [
        (b"", 0o600, "is not a token"),
        (b"too-short", 0o600, "is not a token"),
        (b"x" * 513, 0o600, "is not a token"),
        (b"two words that are long enough, but two", 0o600, "is not a token"),
        (b"\xff" * 40, 0o600, "is not a token"),
        (b"s3cret" * 8, 0o644, "others have access to"),
        (b"s3cret" * 8, 0o640, "others have access to"),
        (None, 0o700, "cannot be read: Is a directory"),
    ],
)
def test_a_token_file_that_cannot_be_used(tmp_path: Path, content: bytes | None, mode: int, problem: str) -> None:
    """The daemon does not start, and does not say what is in it."""
    path = tmp_path / "mine"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(DidNotStart) as caught:
        DaemonProcess(tmp_path / "data", access=AccessOptions(Auth.TOKEN, str(path)))
    assert "InvalidArgument: token-file" in caught.value.stderr
    assert problem in caught.value.stderr
    assert "s3cret" not in caught.value.stderr


# --- other users of this machine ---


@only_root
def test_another_user_gets_in_nowhere(open_path: Path) -> None:
    """Neither through the socket, nor over TCP, nor at the token; not even where everybody may enter the parent."""
    data = open_path / "data"
    with DaemonProcess(data, access=WITH_TOKEN, own_socket=True) as process:
        own = process.info.listen[1].removeprefix("unix:")
        program = f"""
{BECOME_NOBODY}
for attempt in (lambda: open({str(data / "token")!r}), lambda: socket.socket(socket.AF_UNIX).connect({own!r})):
    try:
        attempt()
    except PermissionError:
        print("refused")
with grpc.insecure_channel({process.address!r}) as channel:
    try:
        channel.unary_unary({ADMIN["status"].path!r})(b"", timeout=20)
    except grpc.RpcError as error:
        print(error.code().name)
"""
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, cwd=open_path, timeout=60
        )
        assert done.stdout.split() == ["refused", "refused", "UNAUTHENTICATED"], done.stderr


@only_root
def test_another_user_is_refused_by_a_socket_alone(open_path: Path) -> None:
    """A socket that was asked for elsewhere, in a directory of everybody, is closed by its own mode."""
    path = open_path / "s"
    with DaemonProcess(open_path / "data", f"unix:{path}"):
        assert mode_of(path) == 0o600
        program = f"{BECOME_NOBODY}; socket.socket(socket.AF_UNIX).connect({str(path)!r})"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
        assert "PermissionError" in done.stderr


# --- the socket of the data directory ---


def test_a_data_directory_whose_path_is_too_long_for_a_socket(tmp_path: Path) -> None:
    """The daemon says so in its log, and serves without."""
    data = tmp_path / ("d" * 100) / "data"
    with DaemonProcess(data, own_socket=True) as process, connect(process.address) as client:
        assert process.info.listen == [process.address]
        client.status()
    assert "the path of a socket has at most 107 bytes" in (data / "daemon.log").read_text()


def test_something_in_the_place_of_the_own_socket(tmp_path: Path) -> None:
    """It is left alone, and the daemon goes on without."""
    data = tmp_path / "data"
    (data / "run" / "stigmer.sock").mkdir(parents=True)
    with DaemonProcess(data, own_socket=True) as process:
        assert process.info.listen == [process.address]
    assert "no socket in the data directory" in (data / "daemon.log").read_text()


def test_the_own_socket_of_a_daemon_that_was_killed(tmp_path: Path) -> None:
    """It is replaced by the next daemon's, and goes with that."""
    data = tmp_path / "data"
    with DaemonProcess(data, own_socket=True) as first:
        first.kill()
    assert (data / "run" / "stigmer.sock").exists()
    with DaemonProcess(data, own_socket=True) as second:
        with connect(second.info.listen[1]) as client:
            assert client.status().pid == second.pid
        assert second.stop() == 0
    assert not (data / "run" / "stigmer.sock").exists()


# --- TLS ---


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs the certificates of daemons and clients."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def served(authority: Authority) -> Files:
    """A daemon's certificate."""
    return authority.issue("daemon", days=89.5)


def tls(files: Files, client_ca: str | None = None, auth: Auth = Auth.NONE) -> AccessOptions:
    """Give the options of a daemon with TLS."""
    return AccessOptions(auth, None, files.cert, files.key, client_ca)


@pytest.mark.parametrize("auth", [Auth.NONE, Auth.TOKEN])
@pytest.mark.parametrize("is_mutual", [False, True])
def test_tls(tmp_path: Path, authority: Authority, served: Files, auth: Auth, is_mutual: bool) -> None:
    """With and without certificates of clients, with and without a token; and the log tells until when."""
    own = authority.issue("client")
    access = tls(served, authority.path if is_mutual else None, auth)
    with DaemonProcess(tmp_path / "data", access=access, own_socket=True) as process:
        token = read_token(str(tmp_path / "data" / "token"), "test") if auth is Auth.TOKEN else None
        shown = Tls(authority.path, own.cert, own.key) if is_mutual else Tls(authority.path)
        for address in (process.address, process.address.replace("127.0.0.1", "localhost")):
            with connect(address, token=token, tls=shown) as client:
                client.save("k", "a", b"v")
        with connect(process.info.listen[1]) as client:
            assert client.get("k", "a").value == b"v"
        with pytest.raises(Unavailable, match="ended the connection at once") as plain:
            connect(process.address, token=token)
        assert "--tls-ca" in (plain.value.hint or "")
        if auth is Auth.TOKEN:
            with pytest.raises(Unauthenticated):
                connect(process.address, tls=shown)
    log = (tmp_path / "data" / "daemon.log").read_text()
    assert "certificate valid for 89 days" in log or "certificate valid for 90 days" in log


def test_clients_without_a_certificate_or_with_a_strangers(tmp_path: Path, authority: Authority, served: Files) -> None:
    """They do not get as far as a call, and are told what may be wrong; the daemon goes on."""
    stranger = Authority(tmp_path, "stranger").issue("client")
    own = authority.issue("client")
    with DaemonProcess(tmp_path / "data", access=tls(served, authority.path)) as process:
        for shown in (Tls(authority.path), Tls(authority.path, stranger.cert, stranger.key)):
            with pytest.raises(Unavailable) as caught:
                connect(process.address, tls=shown)
            assert "--tls-cert" in (caught.value.hint or "")
        with connect(process.address, tls=Tls(authority.path, own.cert, own.key)) as client:
            client.status()


def test_a_daemon_that_is_not_trusted(tmp_path: Path, authority: Authority, served: Files) -> None:
    """A certificate of another authority, or a daemon without one, is told apart from no daemon."""
    other = Authority(tmp_path, "other")
    with DaemonProcess(tmp_path / "data", access=tls(served)) as process:
        with pytest.raises(Unavailable, match="shows a certificate that is not trusted") as caught:
            connect(process.address, tls=Tls(other.path))
        assert "STIGMER_TLS_CA" in (caught.value.hint or "")
    with DaemonProcess(tmp_path / "plain") as process, pytest.raises(Unavailable, match="does not speak TLS"):
        connect(process.address, tls=Tls(authority.path))


@pytest.mark.parametrize(
    ("access", "refusal"),
    [
        (AccessOptions(), "which takes TLS"),
        (AccessOptions(Auth.TOKEN), "which takes TLS"),
        ("tls", "and a token (--auth token) or certificates of clients"),
        ("tls+token", None),
        ("mtls", None),
    ],
)
def test_other_machines_are_served_only_with_tls_and_a_credential(
    tmp_path: Path, authority: Authority, served: Files, access: AccessOptions | str, refusal: str | None
) -> None:
    """Else the daemon does not start, names the address and the options, and makes nothing."""
    if isinstance(access, str):
        access = tls(
            served,
            authority.path if access == "mtls" else None,
            Auth.TOKEN if access.endswith("token") else Auth.NONE,
        )
    if refusal is None:
        with DaemonProcess(tmp_path / "data", "0.0.0.0:0", access=access) as process:
            assert process.address.startswith("0.0.0.0:")
        return
    with pytest.raises(DidNotStart) as caught:
        DaemonProcess(tmp_path / "data", ANY_PORT, "0.0.0.0:0", access=access)
    assert '"0.0.0.0:0" can be reached from other machines' in caught.value.stderr
    assert refusal in caught.value.stderr
    assert not (tmp_path / "data").exists()


def test_certificates_that_cannot_be_used(tmp_path: Path, authority: Authority, served: Files) -> None:
    """Each problem is named with its option and its file, before anything is made."""
    other = authority.issue("other")
    expired = authority.issue("expired", days=-1)
    future = authority.issue("future", begins_in_days=0.5)
    encrypted = authority.issue("encrypted", password=b"hunter2")
    readable = authority.issue("readable")
    os.chmod(readable.key, 0o644)
    junk = tmp_path / "junk"
    junk.write_text("-----BEGIN CERTIFICATE-----\njunk\n-----END CERTIFICATE-----\n")
    junk.chmod(0o600)
    for access, words in (
        (AccessOptions(tls_cert=served.cert), "tls-key: is missing"),
        (AccessOptions(tls_key=served.key), "tls-cert: is missing"),
        (AccessOptions(tls_client_ca=authority.path), "tls-client-ca: needs TLS"),
        (tls(Files(served.cert, other.key)), f"tls-key: {other.key} is not the key of the certificate"),
        (tls(expired), f"tls-cert: {expired.cert} expired at "),
        (tls(future), f"tls-cert: {future.cert} is not valid before "),
        (tls(encrypted), f"tls-key: {encrypted.key} is encrypted"),
        (tls(readable), f"tls-key: others have access to {readable.key} (mode 0644)"),
        (tls(Files(str(junk), served.key)), f"tls-cert: {junk} holds no certificate"),
        (tls(Files(served.cert, str(junk))), f"tls-key: {junk} holds no private key"),
        (tls(Files(served.cert, "/none")), 'tls-key: "/none" cannot be read: No such file'),
        (tls(served, str(junk)), f"tls-client-ca: {junk} holds no certificate"),
    ):
        with pytest.raises(DidNotStart) as caught:
            DaemonProcess(tmp_path / "data", access=access)
        assert words in caught.value.stderr, words
        assert "hunter2" not in caught.value.stderr
    assert not (tmp_path / "data").exists()


def test_a_certificate_that_ends_soon_is_warned_of(tmp_path: Path, authority: Authority) -> None:
    """In the log of each start."""
    with DaemonProcess(tmp_path / "data", access=tls(authority.issue("soon", days=3))):
        pass
    assert "ends in 3.0 days" in (tmp_path / "data" / "daemon.log").read_text()


def test_handshakes_that_fail_fill_no_file(tmp_path: Path, authority: Authority, served: Files) -> None:
    """What strangers do is nothing that the daemon writes down for each of them."""
    with DaemonProcess(tmp_path / "data", access=tls(served)) as process:
        before = (tmp_path / "data" / "daemon.log").stat().st_size
        for _ in range(5):
            with pytest.raises(Unavailable):
                connect(process.address)
        assert (tmp_path / "data" / "daemon.log").stat().st_size == before
        assert process.stop() == 0
        assert process.read_stderr() == ""


# --- modes ---

UMASK_0 = ("sh", "-c", 'umask 000; exec "$@"', "sh")


def open_to_others(root: Path) -> list[tuple[str, str]]:
    """Walk a directory and give what is there with rights for anybody but its owner."""
    found = []
    for path in (root, *root.rglob("*")):
        expected = 0o700 if path.is_dir() else 0o600
        if mode_of(path) != expected:
            found.append((str(path.relative_to(root)), oct(mode_of(path))))
    return found


def test_what_a_store_makes_is_closed_to_others(tmp_path: Path) -> None:
    """Embedded, in a process whose umask takes nothing; the parents that it makes, too."""
    program = """
import os, sys
from stigmer.config import StoreOptions
from stigmer.store import Store
with Store.open(sys.argv[1], StoreOptions(segment_bytes=4096)) as store:
    for _ in range(50):
        store.save("k", "a", os.urandom(500))
    store.replay()
"""
    home = tmp_path / "home"
    subprocess.run([*UMASK_0, sys.executable, "-c", program, str(home / "a" / "data")], check=True, timeout=60)
    assert len(list((home / "a" / "data" / "log").iterdir())) > 5
    assert open_to_others(home) == []


def test_what_is_found_open_is_closed_and_named(tmp_path: Path) -> None:
    """A directory of before, with modes of before; each in the log."""
    data = tmp_path / "data"
    with DaemonProcess(data) as process:
        assert process.stop() == 0
    for path in (data, data / "log", data / "views"):
        path.chmod(0o755)
    (data / "daemon.log").chmod(0o644)
    with DaemonProcess(data, own_socket=True):
        assert open_to_others(data) == []
    log = (data / "daemon.log").read_text()
    for name in ("data", "data/log", "data/views", "data/daemon.log"):
        assert f"closed to others, who had access to it (mode 0{'644' if 'daemon' in name else '755'}): " in log
        assert f"{tmp_path / name}\n" in log


def test_a_directory_with_foreign_files_is_left_as_it_is(tmp_path: Path) -> None:
    """Its own entries are closed, the others' are not, and the log warns."""
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o755)
    (data / "notes.txt").write_text("mine")
    (data / "notes.txt").chmod(0o644)
    with DaemonProcess(data):
        assert (mode_of(data), mode_of(data / "notes.txt")) == (0o755, 0o644)
        assert {mode_of(path) for path in data.iterdir() if path.name != "notes.txt"} == {0o600, 0o700}
    assert "others have access to the data directory (mode 0755)" in (data / "daemon.log").read_text()


def test_the_store_inside_is_whole_whatever_the_modes(tmp_path: Path) -> None:
    """Closing changes rights, not contents."""
    data = tmp_path / "data"
    with Store.open(data, StoreOptions(segment_bytes=4096)) as store:
        store.save("k", "a", b"v")
    data.chmod(0o777)
    with DaemonProcess(data) as process, connect(process.address) as client:
        assert client.get("k", "a").value == b"v"
        request = store_pb2.GetRequest(kind="k", id="a").SerializeToString()
        with grpc.insecure_channel(process.address) as channel:
            assert channel.unary_unary(STORE["get"].path)(request)
