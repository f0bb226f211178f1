"""tail, and what happens to any output when its reader or the person has had enough."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest

from cli.support import Daemon, Shell
from stigmer.daemon.info import read_daemon_info


def save(shell: Shell, kind: str, id: str, value: bytes = b"x") -> None:
    """Save one resource."""
    shell.run("save", kind, id, "-f", "-", stdin=value)


def test_tail_prints_a_line_for_each_event_with_its_revision(shell: Shell, daemon: Daemon) -> None:
    """In a table, by name, as objects; every format has the same events."""
    save(shell, "note", "a", b"hello")
    save(shell, "blob", "b")
    shell.run("delete", "note", "a")
    lines = shell.run("tail", "--no-follow").stdout.splitlines()
    assert lines[0].split() == ["REVISION", "TIME", "CHANGE", "SIZE", "RESOURCE"]
    rows = [line.split() for line in lines[1:]]
    assert [(row[0], row[2], row[-1]) for row in rows] == [
        ("1", "save", "note/a"),
        ("2", "save", "blob/b"),
        ("3", "delete", "note/a"),
    ]
    assert shell.run("tail", "--no-follow", "-o", "name").stdout.split() == ["note/a", "blob/b", "note/a"]
    for output in ("json", "jsonl"):
        events = [json.loads(line) for line in shell.run("tail", "--no-follow", "-o", output).stdout.splitlines()]
        assert [event["revision"] for event in events] == [1, 2, 3]
        assert events[0]["size"] == 5
        assert "value" not in events[0]
    valued = shell.run("tail", "--no-follow", "-o", "json", "--values").stdout.splitlines()[0]
    assert json.loads(valued)["value"] == "aGVsbG8="
    assert shell.run("tail", "--no-follow", "-o", "yaml").stdout.count("---\n") == 2
    assert "T" in shell.run("tail", "--no-follow", "-o", "wide").stdout.splitlines()[1].split()[1]


def test_tail_starts_where_it_is_told_and_filters(shell: Shell, daemon: Daemon) -> None:
    """--from, --kind (by any of its names), --prefix; a start beyond the end is an error."""
    for id in ("a1", "a2", "b1"):
        save(shell, "note", id)
        save(shell, "environment", id)
    assert shell.run("tail", "--no-follow", "--from", "5", "-o", "name").stdout.split() == ["note/b1", "environment/b1"]
    some = shell.run("tail", "--no-follow", "--kind", "env", "--prefix", "a", "-o", "name").stdout.split()
    assert some == ["environment/a1", "environment/a2"]
    assert shell.run("tail", "--no-follow", "--from", "now").stdout == ""
    assert shell.run("tail", "--no-follow", "--from", "7").stdout == ""
    done = shell.run("tail", "--from", "8", code=2)
    assert done.stderr.splitlines() == [
        "Error: --from: 8 is beyond the end of the log, which is at revision 6",
        "Hint: for what comes: stigmer tail --from now",
    ]
    misspelt = shell.run("tail", "--no-follow", "--kind", "agnt")
    assert misspelt.stderr == '"agnt" is no kind of the platform; did you mean agent?\n'


def test_tail_follows_and_ctrl_c_says_how_to_resume(shell: Shell, daemon: Daemon) -> None:
    """What is saved later comes without asking; resuming neither loses nor repeats."""
    save(shell, "note", "one")
    tail = shell.start("tail", "-o", "name", "--kind", "note", "--data-dir", str(shell.data))
    assert tail.stdout is not None
    assert tail.stderr is not None
    assert tail.stdout.readline() == b"note/one\n"
    save(shell, "note", "two")
    assert tail.stdout.readline() == b"note/two\n"
    tail.send_signal(signal.SIGINT)
    assert tail.wait(30) == 130
    said = tail.stderr.read().decode()
    assert f"resume with: stigmer tail --from 3 --kind note --data-dir {shell.data}\n" in said
    assert "Traceback" not in said
    for pipe in (tail.stdout, tail.stderr):
        pipe.close()
    save(shell, "note", "three")
    assert shell.run("tail", "--no-follow", "--from", "3", "--kind", "note", "-o", "name").stdout == "note/three\n"


def test_a_reader_that_has_seen_enough_ends_the_command_quietly(shell: Shell, daemon: Daemon) -> None:
    """As in `stigmer list | head -1`: no message, and exit code 0; an endless tail ends too."""
    from stigmer import Save, connect

    with connect(daemon.address) as client:
        client.commit([Save("note", f"n{number:05}", bytes(50)) for number in range(20_000)])
    for arguments in (["list", "note", "-o", "name"], ["list", "note"], ["list", "note", "-o", "json"], ["tail"]):
        command = " ".join(shell.command(*arguments))
        done = subprocess.run(
            ["bash", "-c", f"{command} | head -1; echo ${{PIPESTATUS[0]}}"],
            capture_output=True,
            env=shell.environ,
            timeout=60,
            check=True,
        )
        assert done.stderr == b"", arguments
        assert done.stdout.splitlines()[-1] == b"0", arguments


def test_a_reader_that_was_never_there_ends_the_command_quietly(shell: Shell) -> None:
    """A short answer fails only when it is flushed at the end, and must not be flushed once more."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(shell.command("kinds"), stdout=writer, stderr=subprocess.PIPE, env=shell.environ)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_full_disk_under_stdout_is_an_error(shell: Shell) -> None:
    """/dev/full takes nothing; the exit code says so."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(shell.command("kinds"), stdout=full, stderr=subprocess.PIPE, env=shell.environ)
    assert done.returncode == 1
    assert done.stderr == b"Error: cannot write to standard output: No space left on device\n"


def test_remarks_that_nobody_can_read_are_no_error(shell: Shell) -> None:
    """A daemon goes on where its banner found no room, and ends with status 0."""
    with Path("/dev/full").open("wb") as full:
        daemon = subprocess.Popen(shell.command("daemon", "--listen", "127.0.0.1:0"), stderr=full, env=shell.environ)
    try:
        while read_daemon_info(str(shell.data)) is None:
            assert daemon.poll() is None
            time.sleep(0.02)
        shell.run("save", "note", "a", "-f", "-", stdin=b"v")
    finally:
        daemon.terminate()
    assert daemon.wait(60) == 0


def test_what_is_typed_is_utf_8_in_every_locale(shell: Shell, daemon: Daemon) -> None:
    """As it is printed."""
    save(shell, "note", "grün")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert shell.run("get", "note", "grün", "--raw", **plain).stdout == "x"


def test_an_encoding_that_lacks_a_character_is_no_error(shell: Shell, daemon: Daemon) -> None:
    """It is shown by its escape."""
    save(shell, "note", "grün")
    assert shell.run("list", "note", "-o", "name", PYTHONIOENCODING="ascii").stdout == "note/gr\\xfcn\n"


def test_data_for_programs_is_utf_8_in_every_locale(shell: Shell, daemon: Daemon) -> None:
    """An escape that is not JSON's would be other data, or none."""
    save(shell, "note", "grün")
    latin = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert json.loads(shell.run("get", "note", "-o", "json", **latin).stdout)["items"][0]["id"] == "grün"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [("list note >&-", 0), ("list note <&- >&- 2>&-", 0), ("get note none >&-", 3), ("list none 2>&-", 0)],
)
def test_a_closed_standard_stream_is_no_error(shell: Shell, daemon: Daemon, arguments: str, code: int) -> None:
    """What would go there goes nowhere, and nothing else is taken for it."""
    save(shell, "note", "first")
    command = [*shell.command(), arguments]
    done = subprocess.run(
        ["sh", "-c", " ".join(command)], capture_output=True, env=shell.environ, cwd=shell.home, timeout=60
    )
    assert done.returncode == code, done.stderr
    assert done.stdout == b""
    assert b"Traceback" not in done.stderr
    assert b"bug" not in done.stderr


def on_terminal(shell: Shell, *arguments: str, **environ: str) -> str:
    """Run a command whose stderr is a terminal, and give what it wrote there."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        shell.command(*arguments),
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=shell.environ | {"TERM": "xterm"} | environ,
    ) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # what Linux says at the end of a terminal
                break
            if not part:
                break
            written += part
        process.wait(60)
    os.close(ours)
    return written.decode()


def test_colour_is_for_terminals_and_no_color_is_honoured(shell: Shell) -> None:
    """--color always and never decide otherwise."""
    assert "\x1b[" not in shell.run("lst", code=2).stderr
    assert "\x1b[1;31mError:" in on_terminal(shell, "lst")
    assert "\x1b[" not in on_terminal(shell, "lst", NO_COLOR="1")
    assert "\x1b[" not in on_terminal(shell, "--color", "never", "lst")
    assert "\x1b[" not in on_terminal(shell, "lst", STIGMER_COLOR="never")
    assert "\x1b[" not in on_terminal(shell, "lst", TERM="dumb")
    assert "\x1b[1;31mError:" in shell.run("--color", "always", "lst", code=2).stderr


def test_long_work_shows_a_bar_on_a_terminal_and_nothing_when_quiet(shell: Shell, daemon: Daemon) -> None:
    """The answer is on stdout either way."""
    save(shell, "note", "n")
    assert shell.run("verify").stderr == ""
    assert "\x1b[" in on_terminal(shell, "verify")
    assert on_terminal(shell, "verify", "--quiet") == ""
