"""`backup`, `restore`, `log repair` and `doctor` as a person meets them."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from log.support import flip_bit, frames_in, segment_files, set_version

from cli.support import Daemon, Shell
from stigmer.model import Save
from stigmer.store import Store
from stigmer.version import VERSION


def fill(shell: Shell, count: int = 3) -> None:
    """Make a store of a few resources, closed clean."""
    with Store.open(shell.data) as store:
        for number in range(count):
            store.save("note", f"n{number}", b"value %d" % number)


# --- backup and restore ----------------------------------------------------------------------------------


def test_a_store_is_backed_up_and_restored(shell: Shell, daemon: Daemon) -> None:
    """Of a running daemon; what is new is copied; the restored store opens with another id and the same resources."""
    for number in range(2):
        shell.run("save", "note", f"n{number}", "-f", "-", stdin=b"x")
    backup, new = shell.home / "backup", shell.home / "new"
    assert "backed up to revision 2: 1 segment, 0 artifacts" in shell.run("backup", backup).stdout
    shell.run("save", "note", "n2", "-f", "-", stdin=b"x")
    made = json.loads(shell.run("backup", backup, "-o", "json").stdout)
    assert (made["revision"], made["segments"]) == (3, 1)
    assert 0 < made["bytes_copied"] < made["bytes"]
    assert "checked up to revision 3: 3 frames, 0 artifacts, no damage" in shell.run("backup", "verify", backup).stdout
    restored = json.loads(shell.run("restore", backup, "--data-dir", new, "-o", "json").stdout)
    assert restored["store_id"] != made["store_id"]
    assert restored["revision"] == 3
    assert shell.run("list", "note", "-o", "name", "--data-dir", new).stdout.split() == [
        "note/n0",
        "note/n1",
        "note/n2",
    ]
    shell.run("verify", "--data-dir", new)


def test_a_directory_whose_name_is_not_utf_8_is_backed_up(shell: Shell) -> None:
    """By its daemon, which tells the path escaped, and without one."""
    data, copy = shell.home / "d\udcffta", shell.home / "c\udcffpy"
    shell.run("daemon", "--detach", "--listen", "127.0.0.1:0", "--data-dir", data)
    try:
        shell.run("save", "note", "a", "-f", "-", "--data-dir", data, stdin=b"v")
        shell.run("backup", copy, "--data-dir", data)
    finally:
        shell.run("daemon", "stop", "--data-dir", data)
    shell.run("backup", copy, "--data-dir", data)
    shell.run("restore", copy, "--data-dir", shell.home / "n\udcffw")
    assert shell.run("get", "note", "a", "--raw", "--data-dir", shell.home / "n\udcffw").stdout == "v"


def test_restores_to_a_revision_and_to_a_time(shell: Shell) -> None:
    """A time may be RFC 3339; of two cuts at once, and of one that leaves nothing, neither is made."""
    fill(shell)
    backup = shell.home / "backup"
    shell.run("backup", backup)
    event = json.loads(shell.run("tail", "--no-follow", "-o", "jsonl").stdout.splitlines()[1])
    cuts = {"--to-revision": "2", "--to-time": event["time"]}
    for number, (option, value) in enumerate(cuts.items()):
        new = shell.home / f"new{number}"
        assert "restored to revision 2 in ~" in shell.run("restore", backup, "--data-dir", new, option, value).stdout
    nowhere = shell.home / "nowhere"
    for arguments, error in (
        (("--to-revision", "4"), "4 is not in the backup, which has 1 to 3"),
        (("--to-time", "1999-12-31"), "the first commit in the backup is later than 1999-12-3"),
        (("--to-time", "yesterday"), "is not a time"),
        (("--to-revision", "1", "--to-time", "2020-01-01"), "exclude each other"),
    ):
        assert error in shell.run("restore", backup, "--data-dir", nowhere, *arguments, code=2).stderr
    assert not nowhere.exists()
    assert "is not empty" in shell.run("restore", backup, code=1).stderr


def test_a_damaged_backup_is_exit_code_6(shell: Shell) -> None:
    """Verify names the file; a restore does too."""
    fill(shell)
    backup = shell.home / "backup"
    shell.run("backup", backup)
    segment = segment_files(backup / "log")[0]
    flip_bit(segment, 100 * 8)
    assert segment.name in shell.run("backup", "verify", backup, code=6).stdout
    assert json.loads(shell.run("backup", "verify", backup, "-o", "json", code=6).stdout)["problems"]
    assert segment.name in shell.run("restore", backup, "--data-dir", shell.home / "new", code=6).stderr
    shutil.rmtree(backup)
    assert "is no backup" in shell.run("backup", "verify", backup, code=1).stderr


def test_a_backup_of_a_damaged_log_is_exit_code_6(shell: Shell) -> None:
    """With a daemon on it that does not know yet; the place is named."""
    fill(shell)
    running = Daemon(shell)
    try:
        segment = segment_files(shell.data / "log")[0]
        flip_bit(segment, (frames_in(segment)[1][0] + 60) * 8)
        assert f"{segment}, offset" in shell.run("backup", shell.home / "backup", code=6).stderr
    finally:
        running.stop()


# --- repair ----------------------------------------------------------------------------------------------


def test_a_log_is_repaired_on_request(shell: Shell) -> None:
    """First it says what is lost and changes nothing; then it does what exactly that was accepted for."""
    fill(shell)
    segment = segment_files(shell.data / "log")[0]
    flip_bit(segment, (frames_in(segment)[1][0] + 60) * 8)
    damaged = segment.read_bytes()
    refused = shell.run("list", code=6)
    assert "stigmer log repair" in refused.stderr
    said = shell.run("log", "repair", code=6)
    assert "lost: 2..2" in said.stdout
    assert "stigmer log repair --accept-loss 2..2" in said.stderr
    assert segment.read_bytes() == damaged
    assert "not what is lost" in shell.run("log", "repair", "--accept-loss", "1..3", code=2).stderr
    assert "is not a range" in shell.run("log", "repair", "--accept-loss", "2", code=2).stderr
    assert "the log is whole, up to revision 3" in shell.run("log", "repair", "--accept-loss", "2..2").stdout
    (kept,) = shell.data.glob("log.damaged-*")
    assert (kept / segment.name).read_bytes() == damaged
    assert shell.run("list", "lost_revisions", "-o", "name").stdout.split() == ["lost_revisions/2-2"]
    shell.run("verify")
    assert json.loads(shell.run("log", "repair", "-o", "json").stdout)["damages"] == []


# --- verify ----------------------------------------------------------------------------------------------


def test_verify_quick_and_whole(shell: Shell) -> None:
    """The same command with and without a daemon; quick counts frames too."""
    fill(shell)
    said = "compared checksums up to revision 3: 3 frames, "
    assert said in shell.run("verify", "--quick").stdout
    running = Daemon(shell)
    try:
        assert said in shell.run("verify", "--quick").stdout
        assert json.loads(shell.run("verify", "-o", "json").stdout)["frames"] == 0
        segment = segment_files(shell.data / "log")[0]
        flip_bit(segment, (frames_in(segment)[1][0] + 60) * 8)
        assert f"{segment}, offset" in shell.run("verify", "--quick", code=6).stderr
    finally:
        running.stop()


def test_ctrl_c_says_that_verify_goes_on(shell: Shell) -> None:
    """The next one does; nothing that was folded is folded again."""
    with Store.open(shell.data) as store:
        for number in range(20):
            store.commit([Save("note", f"{number}-{place}", b"x") for place in range(3000)])
    aside = shell.data / "views" / "verify" / "data.mdb"

    def begun() -> bool:
        try:
            return aside.stat().st_size >= 1 << 20
        except FileNotFoundError:
            return False

    while True:
        process = shell.start("verify")
        while process.poll() is None and not begun():
            pass
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        if process.returncode:
            break  # else it was at its end before this test saw its beginning
    assert process.returncode == 130
    assert b"`stigmer verify` goes on where it stopped" in said
    assert "went on from revision " in shell.run("verify").stdout
    assert not aside.exists()


# --- doctor ----------------------------------------------------------------------------------------------


def findings(shell: Shell, code: int = 0, *arguments: str, **environ: str) -> dict[str, tuple[str, str, str]]:
    """Give what the doctor found, by the name of the check; of several, the worst."""
    answer = json.loads(shell.run("doctor", "-o", "json", *arguments, code=code, **environ).stdout)
    found: dict[str, tuple[str, str, str]] = {}
    order = ["ok", "warn", "fail"]
    for item in answer["items"]:
        before = found.get(item["check"])
        if before is None or order.index(item["level"]) > order.index(before[0]):
            found[item["check"]] = (item["level"], item["found"], item["cure"] or "")
    return found


def test_all_is_well_without_and_with_a_daemon(shell: Shell) -> None:
    """Each line is ok, and nothing is changed but the name in LOCK."""
    fill(shell)
    before = {path: path.read_bytes() for path in (shell.data / "log").iterdir()}
    names = sorted(os.listdir(shell.data))
    found = findings(shell)
    assert {level for level, _, _ in found.values()} == {"ok"}, found
    assert {"python", "packages", "fsync", "log", "views", "clock", "lmdb", "secrets", "room"} <= set(found)
    assert sorted(os.listdir(shell.data)) == names
    assert {path: path.read_bytes() for path in (shell.data / "log").iterdir()} == before
    running = Daemon(shell)
    try:
        found = findings(shell)
        assert {level for level, _, _ in found.values()} == {"ok"}, found
        assert running.address in found["address"][1]
        assert f"stigmer {VERSION}" in found["daemon"][1]
    finally:
        running.stop()
    text = shell.run("doctor").stdout
    assert "ok    fsync" in text
    assert shell.run("doctor", "-q").stdout == ""


def leave_unfinished(shell: Shell) -> None:
    (shell.data / "UNFINISHED").write_text('{"operation": "restore", "command": "stigmer restore DIR"}')


def damage_seal(shell: Shell) -> None:
    header = segment_files(shell.data / "log")[0]
    flip_bit(header, 20 * 8)


def cut_log(shell: Shell) -> None:
    segment = segment_files(shell.data / "log")[0]
    os.truncate(segment, frames_in(segment)[1][0])


def newer_log(shell: Shell) -> None:
    set_version(segment_files(shell.data / "log")[0], 9)


def open_to_others(shell: Shell) -> None:
    shell.data.chmod(0o755)


def no_views(shell: Shell) -> None:
    shutil.rmtree(shell.data / "views")


def views_of_another(shell: Shell) -> None:
    shutil.rmtree(shell.data / "views")
    with Store.open(shell.data.with_name("other")) as other:
        for number in range(100):
            other.save("note", f"n{number}", b"x")
    shutil.copytree(shell.data.with_name("other") / "views", shell.data / "views")


def torn_file(shell: Shell) -> None:
    (shell.data / "log" / "00000000000000000001.log.64.torn").write_bytes(b"x")


def future(shell: Shell) -> None:
    later = 4_000_000_000 * 10**9
    with Store.open(shell.data) as store:
        store._log.last_time_ns = later
        store.save("note", "late", b"x")


def bad_key(shell: Shell) -> None:
    (shell.data / "secret.key").write_text("nonsense\n")
    (shell.data / "secret.key").chmod(0o600)


def file_instead(shell: Shell) -> None:
    shutil.rmtree(shell.data)
    shell.data.write_text("x")


def nothing(shell: Shell) -> None:
    shutil.rmtree(shell.data)


@pytest.mark.parametrize(
    ("breaking", "check", "level", "found", "cure"),
    [
        (leave_unfinished, "unfinished", "fail", "a restore of it was not finished", "stigmer restore DIR"),
        (damage_seal, "log", "fail", "header is damaged", "stigmer log repair"),
        (cut_log, "views", "fail", "cut short or exchanged", "stigmer log repair"),
        (newer_log, "log", "fail", "newer stigmer", "upgrade"),
        (open_to_others, "directory", "warn", "open to others (mode 0755)", "chmod 700"),
        (no_views, "views", "warn", "there are none", "folds them"),
        (views_of_another, "views", "warn", "are of another store", "folds them"),
        (torn_file, "leftovers", "warn", "64.torn", "remove it"),
        (future, "clock", "warn", "ahead of the clock", "timedatectl"),
        (bad_key, "secrets", "fail", "does not hold the base64", "restore it"),
        (file_instead, "directory", "fail", "is not a directory", "--data-dir"),
        (nothing, "directory", "warn", "is not there yet", "stigmer daemon"),
    ],
)
def test_each_broken_state_has_its_cure(
    shell: Shell, breaking: Callable[[Shell], None], check: str, level: str, found: str, cure: str
) -> None:
    """The line names what is wrong and what helps; only a failure is exit code 1."""
    fill(shell)
    breaking(shell)
    seen = findings(shell, 1 if level == "fail" else 0)[check]
    assert seen[0] == level, seen
    assert found in seen[1]
    assert cure in seen[2]


def test_an_installation_that_no_daemon_starts_with(shell: Shell) -> None:
    """protobuf in its pure-Python form is named."""
    fill(shell)
    found = findings(shell, 1, PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION="python")
    assert "pure-Python" in found["protobuf"][1]


def test_a_few_open_files_are_warned_of(shell: Shell) -> None:
    """The limit that counts is the one that a daemon may raise its own to."""
    fill(shell)
    answer = shell.run("doctor", wrapper=("sh", "-c", 'ulimit -n 256; exec "$@"', "sh"))
    assert "warn  open files   a process may open 256" in answer.stdout


def test_a_daemon_that_is_stopped_or_of_another_version(shell: Shell, daemon: Daemon) -> None:
    """A daemon of another version is named, and so is one that cannot be reached."""
    path = shell.data / "daemon.json"
    info = json.loads(path.read_bytes())
    path.write_text(json.dumps({**info, "version": "0.0.1"}))
    assert findings(shell)["daemon"][:2] == ("warn", f"it is stigmer 0.0.1, this is {VERSION}")
    path.write_text(json.dumps({**info, "listen": ["127.0.0.1:1"]}))
    assert findings(shell, 1)["address"][0] == "fail"
    path.unlink()
    assert "no daemon that listens" in findings(shell)["lock"][1]
    assert daemon.process.poll() is None


def test_an_address_that_is_somebody_elses(shell: Shell, daemon: Daemon, tmp_path: Path) -> None:
    """Where clients of this directory would meet another daemon, it is said."""
    with Store.open(tmp_path / "other"):
        pass
    found = findings(shell, 0, "--data-dir", str(tmp_path / "other"), "--addr", daemon.address)
    assert found["address"][:2] == (
        "warn",
        f"something listens at {daemon.address} that is not the daemon of this data directory",
    )
