"""Which daemon a command talks to, and what it does where there is none."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

from views.support import edit

from cli.support import Daemon, Shell
from stigmer.views import snapshot

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

RECORDING = Path(__file__).parents[1] / "data" / "traffic" / "agent-run-chat.binpb.zst"
HINT = "Hint: start one with `stigmer daemon --detach`, or set STIGMER_ADDR"


def fill(shell: Shell) -> Daemon:
    """Run a daemon and save something."""
    daemon = Daemon(shell)
    shell.run("save", "note", "n", "-f", "-", stdin=b"kept")
    return daemon


def test_without_a_daemon_reading_reads_the_data_directory_and_says_so(shell: Shell) -> None:
    """get, list, log, verify, replay and tail --no-follow; also after kill -9."""
    fill(shell).stop(signal.SIGKILL)
    configured = shell.without_addresses()
    said = "no daemon at 127.0.0.1:1; reading ~/.stigmer/data directly\n"
    for arguments, expected in (
        (["get", "note", "n", "--raw"], "kept"),
        (["list", "-o", "name"], "note\n"),
        (["log", "info"], "revision 1\n"),
        (["log", "segments", "-o", "name"], "00000000000000000001.log\n"),
        (["log", "cat", "1"], "kind: note"),
        (["verify"], "verified up to revision 1: "),
        (["replay"], "replayed to revision 1: "),
        (["tail", "--no-follow", "-o", "name"], "note/n\n"),
    ):
        done = shell.run(*arguments, **configured)
        assert expected in done.stdout, arguments
        assert done.stderr == said, arguments
        assert shell.run(*arguments, "-q", **configured).stderr == "", arguments


def test_a_file_without_an_end_is_refused(shell: Shell, daemon: Daemon) -> None:
    """No more of it is read than could be saved."""
    for arguments in ["save", "note", "n", "-f", "/dev/zero"], ["skill", "push", "/dev/zero"]:
        done = shell.run(*arguments, code=2)
        assert "/dev/zero: is " in done.stderr
    with open("/dev/zero", "rb") as zeros:
        done = subprocess.run(
            shell.command("save", "note", "n", "-f", "-"), stdin=zeros, capture_output=True, env=shell.environ
        )
    assert done.stderr.startswith(b"Error: -: is larger than 64.0 MiB")


def test_without_a_daemon_writing_and_following_are_exit_code_5(shell: Shell) -> None:
    """The address is named, and how to start one."""
    fill(shell).stop()
    (shell.home / "m.yaml").write_text(shell.run("explain", "agent", "--example").stdout)
    for arguments in (
        ["apply", "-f", "m.yaml"],
        ["delete", "note", "n"],
        ["save", "note", "m", "-f", "m.yaml"],
        ["tail"],
        ["import", "traffic", str(RECORDING)],
    ):
        done = shell.run(*arguments, code=5, **shell.without_addresses())
        assert done.stderr.splitlines() == ["Error: no daemon at 127.0.0.1:1", HINT], arguments
        assert done.stdout == ""
        by_directory = shell.run(*arguments, code=5)
        assert by_directory.stderr.splitlines() == [
            "Error: no daemon for data directory ~/.stigmer/data",
            "Hint: start one with `stigmer daemon --detach --data-dir ~/.stigmer/data`",
        ]


def test_without_a_store_reading_is_exit_code_5_and_makes_none(shell: Shell) -> None:
    """A directory that is not there is not created by looking."""
    done = shell.run("list", code=5, **shell.without_addresses())
    assert done.stderr.splitlines() == ["Error: no daemon at 127.0.0.1:1", HINT]
    assert not shell.data.exists()
    chosen = shell.run("list", code=1)
    assert chosen.stderr.startswith(f"Error: data directory {shell.data} ")
    assert not shell.data.exists()


def test_an_address_that_was_given_is_the_only_one_looked_at(shell: Shell) -> None:
    """Another store is not read in its stead, unless it is named too."""
    fill(shell).stop()
    for given in ({"STIGMER_ADDR": "127.0.0.1:1"}, {}):
        arguments = [] if given else ["--addr", "127.0.0.1:1"]
        done = shell.run("list", *arguments, code=5, **(given | {"STIGMER_DATA_DIR": ""}))
        assert done.stderr.splitlines()[0] == "Error: no daemon at 127.0.0.1:1"
        assert "--listen 127.0.0.1:1" in done.stderr.splitlines()[1]
        both = shell.run("list", "-o", "name", *arguments, **given)
        assert both.stdout == "note\n"


def test_a_data_directory_that_was_given_means_its_daemon_wherever_that_listens(shell: Shell, daemon: Daemon) -> None:
    """--data-dir finds the address; so nobody reads one store and writes another."""
    done = shell.run("save", "note", "n", "-f", "-", "-v", "--data-dir", shell.data, stdin=b"x", STIGMER_DATA_DIR="")
    assert done.stderr == f"daemon at {daemon.address}\n"


def test_a_daemon_that_listens_elsewhere_is_named(shell: Shell, daemon: Daemon) -> None:
    """Nothing listens at the configured address, but the directory has a daemon."""
    for arguments in (["list"], ["tail"]):
        done = shell.run(*arguments, code=5, **shell.without_addresses())
        assert done.stderr.splitlines() == [
            "Error: no daemon at 127.0.0.1:1",
            f"Hint: the daemon of ~/.stigmer/data listens on {daemon.address}: use --addr {daemon.address}, "
            "or set STIGMER_ADDR",
        ]


def test_a_directory_that_a_program_has_open_is_not_read_beside_it(shell: Shell) -> None:
    """The owner is named."""
    import os

    import stigmer

    with stigmer.open(shell.data):
        done = shell.run("list", code=5)
    assert done.stderr.splitlines()[0] == "Error: no daemon for data directory ~/.stigmer/data"
    assert f"pid {os.getpid()} is using it" in done.stderr.splitlines()[1]


def test_whatever_answers_at_the_address_without_being_a_daemon_is_exit_code_5(shell: Shell) -> None:
    """It accepts and says nothing; --timeout bounds the wait."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        done = shell.run("list", "--addr", address, "--timeout", "500ms", code=5)
    assert done.stderr.startswith("Error: ")
    assert address in done.stderr


def test_log_cat_shows_the_frame_of_a_revision(shell: Shell, daemon: Daemon) -> None:
    """Its place, its header, its events; a revision that is not there is exit code 3."""
    shell.run("save", "note", "n", "-f", "-", "--expected-revision", "0", stdin=b"kept")
    frame = json.loads(shell.run("log", "cat", "1", "-o", "json").stdout)
    assert (frame["segment"], frame["offset"], frame["first_revision"]) == ("00000000000000000001.log", 64, 1)
    (event,) = frame["events"]
    assert (event["change"], event["kind"], event["id"], event["expected_revision"], event["value"]) == (
        "save",
        "note",
        "n",
        0,
        "a2VwdA==",
    )
    assert shell.run("log", "cat", "99", code=3).stderr.startswith("Error: ")
    info = json.loads(shell.run("log", "info", "-o", "json").stdout)
    assert (info["revision"], info["resources"], info["segments"]) == (1, 1, 1)
    assert shell.run("log", "segments").stdout.splitlines()[0].split() == [
        "NAME",
        "FIRST",
        "LAST",
        "SIZE",
        "SAVED",
        "STATE",
        "AGE",
    ]


def test_log_shows_what_deltas_save(shell: Shell, daemon: Daemon) -> None:
    """In all, by segment and by frame, through the daemon and without it."""
    assert "saved " not in shell.run("log", "info").stdout
    value = random.Random(1).randbytes(20_000)
    for number in range(3):
        shell.run("save", "note", "n", "-f", "-", stdin=value + b"%d" % number)
    info = json.loads(shell.run("log", "info", "-o", "json").stdout)
    (segment,) = map(json.loads, shell.run("log", "segments", "-o", "jsonl").stdout.splitlines())
    frame = json.loads(shell.run("log", "cat", "3", "-o", "json").stdout)
    assert 39_000 < info["log_saved_bytes"] == segment["saved_bytes"] < 40_000
    assert info["log_bytes"] == segment["bytes"] < 21_000
    assert (frame["codec"], frame["base_revision"], frame["depth"]) == ("delta", 2, 2)
    assert frame["bytes"] < 200 < 20_000 < frame["payload_bytes"] < 20_100
    assert "saved     39.0 KiB by deltas: 20.0 KiB for 59.0 KiB\n" in shell.run("log", "info").stdout
    assert " 39.0 KiB " in shell.run("log", "segments").stdout
    daemon.stop()
    assert "saved     39.0 KiB by deltas: " in shell.run("log", "info", **shell.without_addresses()).stdout


def test_verify_and_replay_report_rows_and_differences(shell: Shell, daemon: Daemon) -> None:
    """Through the daemon, while it serves."""
    for number in range(3):
        shell.run("save", "note", f"n{number}", "-f", "-", stdin=b"x")
    report = json.loads(shell.run("verify", "-o", "json").stdout)
    assert (report["revision"], report["differences"], report["examples"]) == (3, 0, [])
    before = report["generation"]
    assert json.loads(shell.run("replay", "-o", "json").stdout)["generation"] > before
    assert shell.run("verify").stdout.startswith("verified up to revision 3: ")


def test_views_that_were_thrown_away_are_folded_again(shell: Shell) -> None:
    """The README's promise: the log is the truth."""
    import shutil

    fill(shell).stop()
    shutil.rmtree(shell.data / "views")
    daemon = Daemon(shell)
    assert shell.run("get", "note", "n", "--raw").stdout == "kept"
    assert "no differences" in shell.run("verify").stdout
    daemon.stop()


def test_views_that_differ_from_the_log_are_exit_code_6_until_a_replay(shell: Shell) -> None:
    """A row is taken out of the snapshot behind the store's back."""
    fill(shell).stop()
    edit(shell.data, lambda opened, transaction: transaction.delete(b"note/n", db=opened[snapshot.DATABASE]))
    done = shell.run("verify", code=6)
    assert "1 difference," in done.stdout
    assert "note/n" in done.stdout
    assert done.stderr.splitlines()[-1] == "Hint: stigmer replay"
    assert "1 difference," in shell.run("replay").stdout
    assert "no differences" in shell.run("verify").stdout


# --- import ---


def test_a_recording_is_played_update_by_update(shell: Shell, daemon: Daemon) -> None:
    """51 updates are 51 revisions, and the last one is the whole execution."""
    done = shell.run("import", "traffic", RECORDING)
    assert done.stdout.startswith("agent_execution/aex-recorded 51 updates, ")
    assert done.stdout.endswith("revision 51)\n")
    execution = json.loads(shell.run("get", "aex", "aex-recorded", "-o", "json").stdout)
    assert execution["kind"] == "AgentExecution"
    assert execution["metadata"]["id"] == "aex-recorded"
    assert execution["status"]["messages"]
    assert execution["status"]["phase"] in ("EXECUTION_COMPLETED", "EXECUTION_IN_PROGRESS")
    other = json.loads(shell.run("import", "traffic", RECORDING, "--as", "aex-other", "-o", "json").stdout)
    assert (other["id"], other["updates"], other["revision"]) == ("aex-other", 51, 102)
    lines = shell.run("list", "aex").stdout.splitlines()
    assert len(lines) == 3


def test_a_file_that_is_no_recording_changes_nothing(shell: Shell, daemon: Daemon) -> None:
    """Cut short, or something else altogether; also where the first file is good."""
    cut = shell.home / "cut.zst"
    cut.write_bytes(RECORDING.read_bytes()[:-100])
    other = shell.home / "other.zst"
    other.write_text("api_version: agentic.stigmer.ai/v1\n")
    for file, problem in ((cut, "ends in the middle"), (other, "is not a recording")):
        done = shell.run("import", "traffic", RECORDING, file, code=2)
        assert done.stderr.startswith(f"Error: {file}: {problem}"), done.stderr
    for name, content, problem in (
        ("message", b"\x03abc", "update 1 is no AgentExecutionUpdateStatusInput"),
        ("nameless", b"\x00", "update 1: execution_id: must not be empty"),
        ("empty", b"", "has no update in it"),
    ):
        file = shell.home / name
        file.write_bytes(zstd.compress(content))
        done = shell.run("import", "traffic", RECORDING, file, code=2)
        assert done.stderr.startswith(f"Error: {file}: {problem}"), done.stderr
    missing = shell.run("import", "traffic", shell.home / "none.zst", code=1)
    assert missing.stderr == f"Error: {shell.home / 'none.zst'}: No such file or directory\n"
    assert shell.run("list", "-o", "name").stdout == ""
