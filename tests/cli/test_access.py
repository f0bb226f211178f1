"""Sockets, tokens and TLS from the command line: what it finds by itself, what it is given, and to whom it shows it."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from certificates import Authority
from typed.support import Services, skill_zip

from cli.support import Daemon, Shell
from stigmer import wire
from stigmer.cli.limits import arguments_of, limits_of
from stigmer.config import Limits
from stigmer.daemon.info import read_daemon_info
from stigmer.pb import store_pb2
from stigmer.pb.agentic import environment_pb2

OTHER = "another-token-that-is-long-enough-to-be-one"
DEFAULT = ("--addr", "127.0.0.1:0")
"""As without any address, but for the port."""
HINT = (
    "Hint: its owner has it in the file `token` of the data directory: set STIGMER_TOKEN_FILE to a copy of it, "
    "STIGMER_TOKEN to the token, or use the Unix socket of the data directory"
)


@pytest.fixture
def closed(shell: Shell) -> Iterator[Daemon]:
    """A daemon with a token on TCP alone."""
    running = Daemon(shell, "--auth", "token")
    yield running
    running.stop()


def token_of(shell: Shell) -> str:
    """Give the token in the data directory."""
    return (shell.data / "token").read_text().strip()


# --- the socket ---


def test_the_socket_of_the_data_directory_is_used_first(shell: Shell) -> None:
    """By the directory and by the address of the same daemon; an address that is typed is the one that is asked."""
    daemon = Daemon(shell, where=DEFAULT)
    try:
        own = f"unix:{shell.data}/run/stigmer.sock"
        shell.run("save", "note", "n", "-f", "-", stdin=b"x")
        assert daemon.info.listen == [daemon.address, own]
        assert daemon.banner[3] == f"grpc    {daemon.address}, {own}"
        file = shell.home / "config.yaml"
        file.write_text(f"backend: {{local: {{endpoint: '{daemon.address}', data_dir: '{shell.data}'}}}}\n")
        configured = {"STIGMER_CONFIG": str(file), "STIGMER_DATA_DIR": ""}
        assert shell.run("list", "-v").stderr == f"daemon at {own}\n"
        assert shell.run("list", "-v", **configured).stderr == f"daemon at {own}\n"
        file.write_text(file.read_text().replace("127.0.0.1", "localhost"))
        assert shell.run("list", "-v", **configured).stderr == f"daemon at {own}\n"
        assert shell.run("list", "-v", "--addr", daemon.address).stderr == f"daemon at {daemon.address}\n"
        os.unlink(own.removeprefix("unix:"))
        assert shell.run("list", "-v").stderr == f"daemon at {daemon.address}\n"
    finally:
        daemon.stop()


# --- what status tells of it ---


def access_of(shell: Shell, *arguments: str) -> tuple[str, dict[str, Any]]:
    """Give what `daemon status` tells of access, as a person and as a program is told."""
    lines = shell.run("daemon", "status", *arguments).stdout.splitlines()
    (said,) = [line.removeprefix("access  ") for line in lines if line.startswith("access")]
    record: dict[str, Any] = json.loads(shell.run("daemon", "status", *arguments, "-o", "json").stdout)["access"]
    return said, record


def test_status_says_that_nothing_is_asked_over_tcp(shell: Shell) -> None:
    """Also where nobody comes over TCP; in YAML as in JSON."""
    daemon = Daemon(shell)
    nothing = {
        "auth": "none",
        "token_file": None,
        "tls": False,
        "client_certificates": False,
        "certificate_valid_until": None,
    }
    try:
        assert access_of(shell) == ("no token, no TLS", nothing)
        assert "\naccess:\n  auth: none\n" in shell.run("daemon", "status", "-o", "yaml").stdout
    finally:
        daemon.stop()
    daemon = Daemon(shell, where=("--listen", f"unix:{shell.home}/s"))
    try:
        assert access_of(shell) == ("sockets only", nothing)
    finally:
        daemon.stop()


def test_status_says_what_is_asked_over_tcp(shell: Shell, tmp_path: Path) -> None:
    """Token, TLS, certificates of clients, and the end of the daemon's own certificate."""
    authority = Authority(tmp_path)
    served, own = authority.issue("daemon", days=89.5), authority.issue("client")
    given = ["--auth", "token", "--tls-cert", served.cert, "--tls-key", served.key, "--tls-client-ca", authority.path]
    daemon = Daemon(shell, *given, where=DEFAULT)
    token = f"{shell.data}/token"
    try:
        shown = ["--addr", daemon.address, "--tls-ca", authority.path, "--tls-cert", own.cert, "--tls-key", own.key]
        for arguments in ([], shown):
            said, record = access_of(shell, *arguments)
            until = record.pop("certificate_valid_until")
            assert record == {"auth": "token", "token_file": token, "tls": True, "client_certificates": True}
            assert said == (
                f"token in {token}; TLS with certificates of clients, certificate valid for "
                f"{'90' if 'for 90' in said else '89'} days, until {until[:10]}"
            )
        assert daemon.banner[4].removeprefix("access  ") == said
    finally:
        daemon.stop()


def test_a_daemon_that_does_not_tell_of_access(shell: Shell) -> None:
    """One of an older version: nothing is said in the place of what it does not tell."""
    old = store_pb2.StatusResponse(version="0.0.9", pid=7, listen=["127.0.0.1:1"]).SerializeToString()
    path = wire.methods(wire.ADMIN_SERVICE)["status"].path

    class Old(grpc.GenericRpcHandler):
        def service(self, details: Any) -> grpc.RpcMethodHandler[bytes, bytes] | None:
            return grpc.unary_unary_rpc_method_handler(lambda _, __: old) if details.method == path else None

    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads, handlers=[Old()])
        where = ("daemon", "status", "--addr", f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        server.start()
        said = shell.run(*where).stdout
        record = json.loads(shell.run(*where, "-o", "json").stdout)
        server.stop(None).wait()
    assert (said.startswith("stigmer 0.0.9  pid 7"), "access" in said, record["access"]) == (True, False, None)


def test_status_says_how_many_were_refused(shell: Shell, closed: Daemon) -> None:
    """Where there were any, and where to read more."""
    assert "refused" not in shell.run("daemon", "status").stdout
    assert json.loads(shell.run("daemon", "status", "-o", "json").stdout)["refused"] == {}
    strangers = {"STIGMER_DATA_DIR": str(shell.home / "none"), "STIGMER_ADDR": closed.address}
    for _ in range(2):
        shell.run("list", **strangers, code=1)
    record = json.loads(shell.run("daemon", "status", "-o", "json").stdout)["refused"]
    assert record.keys() == {"UNAUTHENTICATED"}
    said = f"refused {record['UNAUTHENTICATED']} unauthenticated; see: stigmer daemon logs"
    assert said in shell.run("daemon", "status").stdout.splitlines()


# --- the token ---


def test_the_token_of_the_data_directory_is_found(shell: Shell, closed: Daemon) -> None:
    """For reading, writing and following, by the directory and by the address; and the banner says where it is."""
    token = token_of(shell)
    assert closed.banner[4] == f"access  token in {shell.data}/token"
    shell.run("save", "note", "n", "-f", "-", stdin=b"kept")
    for by in ([], ["--addr", closed.address]):
        assert shell.run("get", "note", "n", "--raw", *by).stdout == "kept"
        assert shell.run("tail", "--no-follow", "-o", "name", *by).stdout == "note/n\n"
        assert shell.run("verify", *by).returncode == 0
    follower = shell.start("tail", "-o", "name")
    assert follower.stdout is not None
    assert follower.stderr is not None
    assert follower.stdout.readline() == b"note/n\n"
    follower.terminate()
    follower.wait(30)
    follower.stdout.close()
    follower.stderr.close()
    for arguments in (["daemon", "status"], ["daemon", "logs"], ["config", "list", "--show-origin"], ["list", "-v"]):
        done = shell.run(*arguments)
        assert token not in done.stdout + done.stderr, arguments
    assert shell.run("daemon", "status", "--addr", closed.address).returncode == 0


def test_a_token_that_is_given(shell: Shell, closed: Daemon, tmp_path: Path) -> None:
    """By option, by environment, by a file that the environment or the configuration names: in this order."""
    copy = tmp_path / "copy"
    copy.write_text(token_of(shell))
    wrong = tmp_path / "wrong"
    wrong.write_text(OTHER)
    elsewhere = {"STIGMER_DATA_DIR": str(tmp_path / "none"), "STIGMER_ADDR": closed.address}
    assert shell.run("list", **elsewhere, STIGMER_TOKEN_FILE=str(copy)).returncode == 0
    assert shell.run("list", **elsewhere, STIGMER_TOKEN=token_of(shell)).returncode == 0
    assert shell.run("list", **elsewhere, STIGMER_TOKEN=token_of(shell), STIGMER_TOKEN_FILE=str(wrong)).returncode == 0
    assert shell.run("list", "--token-file", copy, **elsewhere, STIGMER_TOKEN=OTHER).returncode == 0
    file = shell.home / "config.yaml"
    file.write_text(f"backend: {{local: {{token_file: '{copy}'}}}}\n")
    assert shell.run("list", **elsewhere, STIGMER_CONFIG=str(file)).returncode == 0


@pytest.mark.parametrize("arguments", [["list"], ["tail"], ["save", "note", "n", "-f", "-"], ["daemon", "status"]])
def test_without_the_token_nothing_is_done_and_the_way_is_told(
    shell: Shell, closed: Daemon, arguments: list[str]
) -> None:
    """Exit code 1; what was shown in vain is not printed."""
    elsewhere = {"STIGMER_DATA_DIR": str(shell.home / "none"), "STIGMER_ADDR": closed.address}
    for given, problem in (({}, "has no token"), ({"STIGMER_TOKEN": OTHER}, "has another token than the daemon's")):
        done = shell.run(*arguments, code=1, **elsewhere, **given)
        assert done.stderr.splitlines() == [f"Error: the call {problem}; send `authorization: Bearer TOKEN`", HINT]
        assert OTHER not in done.stdout


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"STIGMER_TOKEN": "two words"}, "Error: STIGMER_TOKEN: is not a token: one line of 1 to 512 visible"),
        ({"STIGMER_TOKEN_FILE": "/none"}, 'Error: token-file: "/none" cannot be read: No such file or directory'),
    ],
)
def test_a_token_that_is_none(shell: Shell, closed: Daemon, given: dict[str, str], line: str) -> None:
    """It is a usage error that names where it comes from."""
    done = shell.run("list", "--addr", closed.address, code=2, **given)
    assert done.stderr.startswith(line)
    assert "two words" not in done.stderr


def test_the_token_is_shown_to_no_other_daemon(shell: Shell, closed: Daemon) -> None:
    """Whoever else is at an address that was typed gets no token of a data directory that lies at hand."""
    seen: list[Any] = []
    is_seen = threading.Event()

    class Curious(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> None:
            seen.append(dict(handler_call_details.invocation_metadata))
            is_seen.set()

    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads, handlers=[Curious()])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        shell.run("list", "--addr", f"127.0.0.1:{port}", code=1)
        assert is_seen.is_set()
        shell.run("list", "--addr", f"127.0.0.1:{port}", code=1, STIGMER_TOKEN=OTHER)
        server.stop(None).wait()
    assert "authorization" not in seen[0]
    assert seen[-1]["authorization"] == f"Bearer {OTHER}"


# --- TLS ---


def test_tls_in_the_background(shell: Shell, tmp_path: Path) -> None:
    """Every option reaches a daemon that is detached; its owner needs neither token nor certificate on the socket."""
    authority = Authority(tmp_path)
    served, own = authority.issue("daemon", days=30.5), authority.issue("client")
    options = ["--auth", "token", "--tls-cert", served.cert, "--tls-key", served.key, "--tls-client-ca", authority.path]
    limits = ["--tails-max", "7", "--idle-timeout", "90s", "--metadata-max", "8KiB", "--queue-max", "1MiB"]
    shell.run("daemon", "--detach", *DEFAULT, *options, *limits)
    try:
        info = read_daemon_info(str(shell.data))
        assert info is not None
        address = info.listen[0]
        shell.run("save", "note", "n", "-f", "-", stdin=b"kept")
        shown = ["--addr", address, "--tls-ca", authority.path, "--tls-cert", own.cert, "--tls-key", own.key]
        assert shell.run("get", "note", "n", "--raw", *shown).stdout == "kept"
        refused = shell.run("list", "--addr", address, "--tls-ca", authority.path, code=5)
        assert refused.stderr.splitlines() == [
            f"Error: the daemon at {address} ended the connection at once",
            "Hint: it may want TLS (--tls-ca), or a certificate of this client that it trusts (--tls-cert, --tls-key)",
        ]
        command = Path(f"/proc/{info.pid}/cmdline").read_bytes().split(b"\0")
        for option in (*options, *arguments_of(Limits(tails_max=7, idle_seconds=90, metadata_bytes_max=8192))):
            assert option.encode() in command, option
        assert "TCP takes: token in" in (shell.data / "daemon.log").read_text()
    finally:
        shell.run("daemon", "stop")


def test_addresses_of_other_machines(shell: Shell, tmp_path: Path) -> None:
    """Refused with the options that are missing, before a data directory is made."""
    done = shell.run("daemon", "--listen", "0.0.0.0:0", "--auth", "token", code=2)
    assert done.stderr.splitlines() == [
        'Error: listen: "0.0.0.0:0" can be reached from other machines, which takes TLS (--tls-cert, --tls-key) '
        "and a token (--auth token) or certificates of clients (--tls-client-ca)",
        "Hint: add these options, or listen on 127.0.0.1:PORT, [::1]:PORT or unix:PATH",
    ]
    assert not shell.data.exists()


# --- limits ---


def test_limits_are_written_as_they_are_read() -> None:
    """A detached daemon gets what was typed, whatever it was."""
    changed = Limits(**{name: value + 1 for name, value in json.loads(_as_json(Limits())).items()})
    for limits in (Limits(), changed):
        given: dict[str, Any] = dict.fromkeys((option for option, _ in _pairs(limits)), None)
        for option, value in _pairs(limits):
            given[option] = int(value) if value.isdigit() and "max" in option and not _is_size(option) else value
        assert limits_of(given) == limits


def _as_json(limits: Limits) -> str:
    return json.dumps({name: getattr(limits, name) for name in Limits.__struct_fields__})


def _pairs(limits: Limits) -> list[tuple[str, str]]:
    words = iter(arguments_of(limits))
    return [(option.removeprefix("--").replace("-", "_"), value) for option, value in zip(words, words, strict=True)]


def _is_size(option: str) -> bool:
    return option in ("request_max", "metadata_max")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--tails-max", "-1"], "Error: --tails-max: -1 is out of bounds: 0 to 1000000"),
        (["--idle-timeout", "soon"], 'Error: --idle-timeout: "soon" is not a duration, such as 500ms, 10s or 2m'),
        (["--metadata-max", "1"], "Error: --metadata-max: 1 is out of bounds: 1024 to 1048576"),
        (["--calls-max", "3000"], "Error: --calls-max: 3000 calls leave none to who writes beside 1000 tails and "),
        (["--queue-max", "1"], "Error: --queue-max: 1 is out of bounds: 65536 to 17179869184"),
    ],
)
def test_a_limit_that_is_none(shell: Shell, arguments: list[str], line: str) -> None:
    """It is a usage error that names the option."""
    assert shell.run("daemon", *arguments, code=2).stderr.startswith(line)


# --- files ---


def test_a_busy_data_directory_is_closed_to_others(shell: Shell) -> None:
    """Whatever the umask: log, views, secrets, artifacts, token, sockets, logs; also the parents that were made."""
    everything = ("sh", "-c", 'umask 000; exec "$@"', "sh")
    shell.run("daemon", "--detach", *DEFAULT, "--auth", "token", "--segment-bytes", "4KiB", wrapper=everything)
    try:
        for number in range(5):
            shell.run("save", "note", f"{number}", "-f", "-", stdin=os.urandom(5_000))
        info = read_daemon_info(str(shell.data))
        assert info is not None
        with Services(info.listen[1]) as services:
            services.skill.push(name="Search", org="acme", artifact=skill_zip())
            secret = environment_pb2.Environment(api_version="agentic.stigmer.ai/v1", kind="Environment")
            secret.metadata.name, secret.metadata.org, secret.metadata.owner_scope = "production", "acme", 2
            secret.spec.data["TOKEN"].value, secret.spec.data["TOKEN"].is_secret = "hunter2", True
            services.environment.create(secret)
        shell.run("replay")
        names = {path.relative_to(shell.data).parts[0] for path in shell.data.rglob("*")}
        assert names >= {"LOCK", "log", "views", "artifacts", "run", "token", "secrets.keys", "secret.key"}
        assert names >= {"daemon.json", "daemon.log", "daemon.out"}
        assert _open_to_others(shell.home / ".stigmer") == []
    finally:
        shell.run("daemon", "stop", wrapper=everything)
    assert _open_to_others(shell.home / ".stigmer") == []


def _open_to_others(root: Path) -> list[str]:
    return [str(path) for path in (root, *root.rglob("*")) if stat.S_IMODE(path.lstat().st_mode) & 0o077]
