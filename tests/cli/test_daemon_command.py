"""The daemon from the command line: run, detach, status, stop, logs; and what stands in its way."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import sys
from pathlib import Path

import pytest
from daemon.support import own_address

from cli.support import Daemon, Shell
from stigmer.daemon.info import read_daemon_info


def test_the_banner_says_where_what_and_what_next(shell: Shell) -> None:
    """It is on stderr, and stdout stays empty for data."""
    daemon = Daemon(shell, "--durability", "interval")
    assert daemon.banner[0] == "stigmer 0.1.0  data ~/.stigmer/data  durability interval"
    assert daemon.banner[1].startswith("log     1 segment, ")
    assert daemon.banner[1].endswith(", revision 0")
    assert daemon.banner[2] == "views   up to date"
    assert daemon.banner[3] == f"grpc    {daemon.address}"
    assert re.match(r"ready in \d+\.\d", daemon.banner[4])
    assert daemon.process.stdout is not None
    daemon.process.terminate()
    assert daemon.process.stdout.read() == b""
    assert daemon.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_daemon_in_order(shell: Shell, number: int) -> None:
    """Ctrl-C too: the log is sealed, and the exit code is 0."""
    daemon = Daemon(shell)
    assert daemon.stop(number) == 0
    assert json.loads(shell.run("log", "segments", "-o", "jsonl").stdout)["bytes"] > 0
    assert read_daemon_info(str(shell.data)) is None


def test_status_tells_how_the_daemon_is(shell: Shell) -> None:
    """By the data directory or by the address; exit code 3 where none runs."""
    assert shell.run("daemon", "status", code=3).stderr.splitlines() == [
        "Error: no daemon runs on data directory ~/.stigmer/data",
        "Hint: stigmer daemon --detach",
    ]
    address = own_address()
    daemon = Daemon(shell, where=("--listen", address))
    try:
        status = json.loads(shell.run("daemon", "status", "-o", "json").stdout)
        assert (status["pid"], status["listen"]) == (daemon.process.pid, [daemon.address])
        by_address = shell.run("daemon", "status", "--addr", daemon.address, STIGMER_DATA_DIR="").stdout
        assert by_address.startswith(f"stigmer 0.1.0  pid {daemon.process.pid}  up ")
        assert daemon.address == address
        assert f"grpc    {address}" in by_address.splitlines()
    finally:
        daemon.stop()
    gone = shell.run("daemon", "status", "--addr", address, code=3, STIGMER_DATA_DIR="")
    assert gone.stderr.startswith(f"Error: no daemon runs at {address}\n")


def test_a_detached_daemon_outlives_the_command_and_is_stopped_by_another(shell: Shell) -> None:
    """`--detach` returns when it answers; `stop` when it has ended; stopping twice is fine."""
    started = shell.run("daemon", "--detach", "--listen", "127.0.0.1:0", "--segment-bytes", "64KiB")
    try:
        info = read_daemon_info(str(shell.data))
        assert info is not None
        assert started.stderr == f"daemon started: pid {info.pid}, {info.listen[0]}\n"
        shell.run("save", "note", "n", "-f", "-", stdin=b"x")
        again = shell.run("daemon", "--detach", "--listen", "127.0.0.1:0", code=1)
        assert again.stderr.startswith(f"Error: data directory {shell.data} is in use by pid {info.pid}")
        assert "(stigmer daemon --detach)" in again.stderr.splitlines()[0]
    finally:
        stopped = shell.run("daemon", "stop")
    assert stopped.stderr == f"daemon stopped: pid {info.pid}\n"
    assert shell.run("daemon", "stop").stderr == "no daemon runs on data directory ~/.stigmer/data\n"


def test_stop_by_address_finds_the_data_directory(shell: Shell) -> None:
    """The daemon itself says which one it owns."""
    daemon = Daemon(shell)
    shell.run("daemon", "stop", "--addr", daemon.address, STIGMER_DATA_DIR="")
    assert daemon.stop() == 0


def test_a_second_daemon_is_told_who_owns_the_directory(shell: Shell, daemon: Daemon) -> None:
    """Exit code 1, with the pid, since when, and the command."""
    done = shell.run("daemon", "--listen", "127.0.0.1:0", code=1)
    first = done.stderr.splitlines()[0]
    assert first.startswith(f"Error: data directory {shell.data} is in use by pid {daemon.process.pid} since ")
    assert first.endswith("(stigmer daemon)")


def test_a_taken_port_is_an_error_with_a_way_out(shell: Shell) -> None:
    """No second daemon shares it silently, and the data directory is let go."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for arguments in (["--listen", address], ["--addr", address], ["--detach", "--listen", address]):
            done = shell.run("daemon", *arguments, code=1)
            assert done.stderr.splitlines()[0] == f"Error: cannot listen on {address}: the address is in use"
    assert shell.run("list").stdout == ""


def test_a_socket_in_the_file_system_serves_as_well(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Two addresses, one daemon."""
    shell = Shell(tmp_path_factory.mktemp("s"))
    path = f"/tmp/stigmer-test-{os.getpid()}.sock"
    daemon = Daemon(shell, "--listen", f"unix:{path}")
    try:
        shell.run("save", "note", "n", "-f", "-", "--addr", f"unix:{path}", stdin=b"x")
        assert shell.run("list", "--addr", daemon.address, "-o", "name").stdout == "note\n"
    finally:
        daemon.stop()
    assert not os.path.exists(path)


@pytest.mark.parametrize("verb", [["daemon", "--listen", "127.0.0.1:0"], ["daemon", "--detach"], ["list"]])
def test_a_data_directory_that_can_not_be_one_is_named(shell: Shell, verb: list[str]) -> None:
    """A file in its place; a directory below a file."""
    file = shell.home / "file"
    file.write_text("mine")
    for path in (file, file / "below"):
        done = shell.run(*verb, "--data-dir", path, code=1)
        assert done.stderr.startswith(f"Error: data directory {path} "), done.stderr
        assert done.stderr.splitlines()[1].startswith("Hint: ")
    assert file.read_text() == "mine"


def test_a_read_only_data_directory_is_named(shell: Shell) -> None:
    """The daemon does not start, and nothing is a traceback."""
    parent = shell.home / "read-only"
    parent.mkdir(mode=0o500)
    # Root may write everywhere, unless it gives up its capabilities.
    without_rights = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    done = shell.run("daemon", "--listen", "127.0.0.1:0", "--data-dir", parent / "data", code=1, wrapper=without_rights)
    assert done.stderr.startswith(f"Error: data directory {parent / 'data'} ")


@pytest.mark.parametrize("verb", [["list"], ["tail"], ["daemon", "status"], ["daemon", "stop"]])
def test_a_directory_that_is_closed_to_us_is_not_said_to_have_no_daemon(shell: Shell, verb: list[str]) -> None:
    """Whether one runs there cannot be known."""
    closed = shell.home / "closed"
    closed.mkdir(mode=0o000)
    without_rights = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    done = shell.run(*verb, "--data-dir", closed, code=1, wrapper=without_rights)
    assert done.stderr.startswith(f"Error: data directory {closed} is not readable\nHint: ")


def first_segment(shell: Shell) -> Path:
    """Give the file of the log that holds revision 1."""
    return shell.data / "log" / f"{1:020}.log"


def test_a_newer_format_is_refused_and_left_alone(shell: Shell) -> None:
    """The header of a segment says version 9, and its checksum is right."""
    from stigmer.log.format import crc32c

    Daemon(shell).stop()
    path = first_segment(shell)
    content = bytearray(path.read_bytes())
    content[8] = 9
    content[60:64] = crc32c(0, bytes(content[:60])).to_bytes(4, "little")
    path.write_bytes(content)
    for verb in (["daemon", "--listen", "127.0.0.1:0"], ["list"]):
        done = shell.run(*verb, code=1)
        assert "was written by a newer stigmer (format 9)" in done.stderr.splitlines()[0]
        assert done.stderr.splitlines()[1].startswith("Hint: upgrade stigmer")
    assert path.read_bytes() == bytes(content)


def test_a_damaged_log_is_exit_code_6_and_names_the_place(shell: Shell) -> None:
    """One flipped bit in what was sealed."""
    daemon = Daemon(shell)
    shell.run("save", "note", "n", "-f", "-", stdin=b"precious")
    daemon.stop()
    path = first_segment(shell)
    content = path.read_bytes()
    damaged = content.replace(b"precious", b"preciouz")
    assert damaged != content
    path.write_bytes(damaged)
    for verb in (["daemon", "--listen", "127.0.0.1:0"], ["verify"], ["list"]):
        done = shell.run(*verb, code=6)
        assert done.stderr.startswith(f"Error: {path}, offset 64, revision 1: "), done.stderr
    assert path.read_bytes() == damaged


def test_logs_print_the_process_log(shell: Shell) -> None:
    """What the daemon wrote, and with -f what it writes."""
    done = shell.run("daemon", "logs", code=1)
    assert done.stderr.startswith("Error: data directory ~/.stigmer/data has no daemon.log")
    daemon = Daemon(shell)
    follower = shell.start("daemon", "logs", "-f")
    assert follower.stdout is not None
    assert follower.stderr is not None
    assert b"listening on" in follower.stdout.readline()
    daemon.stop()
    while b"sealed" not in (line := follower.stdout.readline()):
        assert line
    follower.send_signal(signal.SIGINT)
    assert follower.wait(30) == 130
    assert b"Traceback" not in follower.stderr.read()
    follower.stdout.close()
    follower.stderr.close()
    assert "sealed" in shell.run("daemon", "logs").stdout


def test_a_home_that_cannot_be_made_is_told(shell: Shell) -> None:
    """/proc takes no directory, and says that there is no such thing."""
    for arguments in ["daemon"], ["daemon", "--detach"]:
        done = shell.run(*arguments, "--data-dir", "/proc/nobody/data", code=1)
        assert done.stderr.splitlines() == [
            "Error: data directory /proc/nobody/data cannot be used: No such file or directory",
            "Hint: choose another with --data-dir",
        ]


def test_a_wait_of_months_is_no_error(shell: Shell) -> None:
    """`poll` counts to three weeks."""
    shell.run("daemon", "--detach", "--listen", "127.0.0.1:0", "--timeout", "90d")
    assert "daemon stopped" in shell.run("daemon", "stop", "--timeout", "90d").stderr


def test_bare_surroundings(shell: Shell) -> None:
    """No home, no locale, a narrow umask, few files, and a folder to be in that cannot be written: it serves."""
    directory = shell.home / "dätä"
    file = shell.home / "value"
    file.write_bytes(b"v")
    bare = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "HOME": ""}
    narrow = ["sh", "-c", 'umask 077; ulimit -n 64; cd /proc; unset HOME; exec "$@"', "sh"]
    where = ["--data-dir", directory]
    python_path = ":".join(path for path in sys.path if path)
    shell.run("daemon", "--detach", "--listen", "127.0.0.1:0", *where, wrapper=narrow, PYTHONPATH=python_path, **bare)
    try:
        shell.run("save", "note", "first", "-f", file, *where)
        got = shell.run("get", "note", "first", "--raw", *where, wrapper=narrow, PYTHONPATH=python_path, **bare)
        assert got.stdout == "v"
    finally:
        shell.run("daemon", "stop", *where)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
