"""diff, edit, skill; lists by labels; and what goes along with a delete."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import stigmer
from cli.support import Daemon, Shell
from cli.test_resources_commands import SECRET, answer, apply, environment, revision
from stigmer.client.sync import Client
from stigmer.pb.agentic.environment_pb2 import Environment
from stigmer.resources.options import MASK

AGENT = (
    "api_version: agentic.stigmer.ai/v1\nkind: Agent\n"
    "metadata: {{name: {name}, owner_scope: platform, labels: {labels}, tags: {tags}}}\n"
    "spec: {{instructions: long enough to pass}}\n"
)


@pytest.fixture
def client(shared: Shell) -> Iterator[Client]:
    """Connect to the daemon of the module."""
    from stigmer.daemon.info import read_daemon_info

    info = read_daemon_info(str(shared.data))
    assert info is not None
    with stigmer.connect(info.listen[0]) as connected:
        yield connected


def agent(shell: Shell, name: str, labels: str = "{}", tags: str = "[]") -> None:
    """Apply an agent."""
    shell.run("apply", "-f", "-", stdin=AGENT.format(name=name, labels=labels, tags=tags).encode())


# --- list and delete ---


def test_lists_are_newest_first_and_filtered_by_labels_tags_and_phases(shared: Shell) -> None:
    """Every label and tag must match; a phase is of executions."""
    agent(shared, "l1", "{team: a, tier: one}", "[x]")
    agent(shared, "l2", "{team: a, tier: two}", "[x, y]")
    agent(shared, "l3", "{team: b}", "[y]")

    def listed(*arguments: str) -> list[str]:
        items = json.loads(shared.run("list", "agents", "-o", "json", *arguments).stdout)["items"]
        return [item["metadata"]["name"] for item in items]

    assert listed() == ["l3", "l2", "l1"]
    assert listed("-l", "team=a") == ["l2", "l1"]
    assert listed("-l", "team=a", "--label", "tier=two") == ["l2"]
    assert listed("--tag", "y", "--limit", "1") == ["l3"]
    assert listed("--tag", "y", "-l", "team=a") == ["l2"]
    assert listed("-l", "team=c") == []
    nothing = shared.run("list", "agents", "-l", "team=c", "--tag", "z")
    assert nothing.stderr == "there are no resources of kind agent with team=c, z\n"
    for _ in range(2):
        shared.run("run", "l1", "-d")
    assert len(shared.run("list", "aex", "--phase", "Pending", "-o", "name").stdout.splitlines()) == 2
    assert shared.run("list", "aex", "--phase", "EXECUTION_IN_PROGRESS", "-o", "name").stdout == ""
    for wrong in (
        ["list", "agents", "--phase", "pending"],
        ["list", "aex", "--phase", "started"],
        ["list", "agents", "-l", "team"],
        ["list", "agents", "-l", "=a"],
        ["list", "agents", "-l", "a=b", "--prefix", "agt"],
        ["list", "note", "-l", "a=b"],
        ["list", "--tag", "x"],
    ):
        assert shared.run(*wrong, code=2).stdout == "", wrong


def test_delete_takes_along_what_hangs_on_it_and_names_it_before(shared: Shell, client: Client) -> None:
    """One commit; nothing is deleted where the answer is no."""
    agent(shared, "parent")
    shared.run("run", "parent", "-d")
    shared.run("apply", "-f", "-", stdin=environment("beside").encode())
    before = revision(shared)
    arguments = ["delete", "agent/parent", "environment/beside"]
    code, shown = answer(shared, arguments, b"n\n")
    assert code == 1
    text = shown.decode()
    assert "Delete agent/agt-" in text
    for kind in ("agent_instance/ain-", "session/ses-", "agent_execution/aex-"):
        assert kind in text.partition("and with them")[2]
    assert revision(shared) == before
    done = json.loads(shared.run(*arguments, "-o", "json").stdout)["items"]
    assert [(one["kind"], one["named"]) for one in done] == [
        ("agent_execution", False),
        ("session", False),
        ("agent_instance", False),
        ("agent", True),
        ("environment", True),
    ]
    assert [one["revision"] for one in done] == list(range(before + 1, before + 6))
    assert json.loads(shared.run("log", "cat", str(before + 1), "-o", "json").stdout)["event_count"] == 5


def test_kinds_of_ones_own_are_deleted_by_themselves(shared: Shell) -> None:
    """They cannot share a commit with the platform's."""
    apply(shared, "mixed")
    for id in ("m1", "m2"):
        shared.run("save", "note", id, "-f", "-")
    shared.run("delete", "note/m1", "environment/mixed", code=2)
    assert len(shared.run("delete", "note", "m1", "m2").stdout.splitlines()) == 2
    shared.run("delete", "environment", "mixed")


# --- secrets ---


def test_no_secret_lies_in_the_data_directory_or_is_shown_without_the_key(shell: Shell) -> None:
    """Without a daemon secrets are shown where their key is; else they stay masked, with a note, and no key is made."""
    daemon = Daemon(shell)
    apply(shell, "kept")
    raw = shell.run("get", "env", "kept", "--raw").stdout
    assert SECRET not in raw
    assert "stigmer-sealed:1:" in raw
    assert SECRET in shell.run("get", "env", "kept", "--raw", "--show-secrets").stdout
    daemon.stop()
    assert not [path for path in shell.data.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    commands = (
        ["get", "env", "kept"],
        ["list", "env", "-o", "json"],
        ["list", "env", "-o", "json", "--prefix", "env"],
        ["tail", "--no-follow", "--values", "-o", "json"],
        ["log", "cat", "1"],
    )
    for command in commands:
        assert SECRET in shell.run(*command, "--show-secrets").stdout, command
        assert SECRET not in shell.run(*command).stdout, command
    (shell.data / "secret.key").rename(shell.home / "elsewhere.key")
    for command in commands:
        done = shell.run(*command, "--show-secrets")
        assert MASK in done.stdout, command
        assert "stigmer-sealed" not in done.stdout, command
        assert "secrets stay masked: " in done.stderr
        assert SECRET in shell.run(*command, "--show-secrets", "--key-file", shell.home / "elsewhere.key").stdout
    assert not (shell.data / "secret.key").exists()


# --- diff ---


def test_diff_shows_what_an_apply_would_change(shared: Shell) -> None:
    """Exit code 1 where something would, 0 where not; secrets are masked, and a changed one says so."""
    apply(shared, "compared")
    file = shared.home / "compared.yaml"
    file.write_text(environment("compared"))
    before = revision(shared)
    assert shared.run("diff", "-f", file).stdout == ""
    file.write_text(environment("compared").replace("seen", "changed") + "---\n" + environment("new"))
    done = shared.run("diff", "-f", file, code=1)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["--- environment/compared (stored)", "+++ environment/compared (applied)"]
    assert "-      value: seen" in lines
    assert "+      value: changed" in lines
    assert lines[lines.index("--- /dev/null") + 1] == "+++ environment/new (applied)"
    assert f"+      value: {MASK}" in lines
    assert SECRET not in done.stdout
    assert "(secret, changed)" not in done.stdout
    file.write_text(environment("compared").replace(SECRET, "n3w-secret"))
    done = shared.run("diff", "-f", file, code=1)
    assert f"-      value: {MASK}\n+      value: (secret, changed)\n" in done.stdout
    assert "n3w-secret" not in done.stdout
    plain = shared.run("diff", "-f", file, "--show-secrets", code=1).stdout
    assert f"-      value: {SECRET}\n+      value: n3w-secret\n" in plain
    assert shared.run("diff", "-f", file, "-o", "name", code=1).stdout == "environment/compared\n"
    (item,) = json.loads(shared.run("diff", "-f", file, "-o", "json", code=1).stdout)["items"]
    assert (item["outcome"], item["diff"].splitlines()[0]) == ("configured", lines[0])
    assert "\x1b[32m+" in shared.run("diff", "-f", file, "--color", "always", code=1).stdout
    assert "\x1b[" not in done.stdout
    shared.run("diff", "-f", "-", stdin=b"", code=2)
    assert revision(shared) == before


# --- edit ---


def editor(home: Path, program: str) -> dict[str, str]:
    """Make an editor of a Python program, which has the file's `path` and `text`."""
    script = home / f"editor-{len(list(home.glob('editor-*')))}.py"
    script.write_text(
        f"import sys, pathlib\npath = pathlib.Path(sys.argv[-1])\ntext = path.read_text(errors='replace')\n{program}\n"
    )
    # What is kept lies in the home of the test.
    return {"EDITOR": f"{sys.executable} {script} --wait", "VISUAL": "", "TMPDIR": str(home)}


def replacing(before: str, after: str) -> str:
    """Give the program of an editor that replaces a text."""
    return f"path.write_text(text.replace({before!r}, {after!r}))"


def kept_file(stderr: str) -> Path:
    """Give the file that a command says it has kept."""
    (line,) = [line for line in stderr.splitlines() if line.startswith("your text is in ")]
    return Path(line.removeprefix("your text is in "))


def test_edit_applies_what_was_changed_and_keeps_masked_secrets(shared: Shell, client: Client) -> None:
    """The secret is not in the file, the file is its owner's alone and is gone afterwards."""
    apply(shared, "edited")
    seen = shared.home / "seen"
    look = f"pathlib.Path({str(seen)!r}).write_text(f'{{path}}\\n{{path.stat().st_mode}}\\n{{text}}')"
    done = shared.run("edit", "env", "edited", **editor(shared.home, f"{look}\n{replacing('seen', 'changed')}"))
    at = revision(shared)
    assert done.stdout == f"environment/edited configured (revision {at})\n"
    path, mode, text = seen.read_text().split("\n", 2)
    assert not Path(path).exists()
    assert stat.S_IMODE(int(mode)) == 0o600
    assert SECRET not in text
    assert text.startswith("# environment/env-")
    assert "status:" not in text
    stored = Environment.FromString(client.resources.find("environment", "edited").value)
    assert (stored.spec.data["TOKEN"].value, stored.spec.data["PLAIN"].value) == (SECRET, "changed")
    assert shared.run("edit", "env/edited", **editor(shared.home, "")).stdout == "environment/edited unchanged\n"
    assert revision(shared) == at
    replaced = editor(shared.home, replacing(MASK, "n3w-secret"))
    assert "configured" in shared.run("edit", "env", "edited", **replaced).stdout
    stored = Environment.FromString(client.resources.find("environment", "edited").value)
    assert stored.spec.data["TOKEN"].value == "n3w-secret"
    shown = editor(shared.home, replacing("n3w-secret", "shown-secret"))
    assert "configured" in shared.run("edit", "env", "edited", "--show-secrets", **shown).stdout


def test_an_edit_with_problems_opens_again_and_keeps_the_text(shared: Shell) -> None:
    """What is wrong stands on top the second time; left so, the file is named, and nothing was applied."""
    apply(shared, "broken")
    before = revision(shared)
    seen = shared.home / "twice"
    note = f"pathlib.Path({str(seen)!r}).open('a').write(text + '=====')"
    breaking = editor(shared.home, f"{note}\n{replacing('spec:', 'sepc:')}")
    done = shared.run("edit", "env", "broken", code=2, **breaking)
    first, second, _ = seen.read_text().split("=====")
    assert "not applied" not in first
    assert "# It was not applied:\n" in second
    assert "sepc: unknown field" in second
    assert "sepc" in done.stderr
    file = kept_file(done.stderr)
    assert "sepc:" in file.read_text()
    file.unlink()
    assert revision(shared) == before
    mending = editor(shared.home, f"{replacing('sepc:', 'spec:')} if 'sepc' in text else {replacing('spec:', 'sepc:')}")
    assert shared.run("edit", "env", "broken", **mending).stdout == "environment/broken unchanged\n"


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        (replacing("slug: refused", "slug: other"), "metadata.slug: cannot be changed"),
        (replacing("kind: Environment", "kind: Agent"), ""),
        (replacing("TOKEN:", "OTHER:"), "spec.data.OTHER.value: there is no secret that this could stand for"),
        (replacing("is_secret: true", "is_secret: false"), "spec.data.TOKEN.value: there is no secret"),
        ("path.write_text(text + '---\\n' + text)", "metadata.slug: "),
    ],
)
def test_an_edit_that_would_be_another_resource_or_lose_a_secret_is_refused(
    shared: Shell, program: str, problem: str
) -> None:
    """The mask is never stored in the place of a secret."""
    apply(shared, "refused")
    before = revision(shared)
    done = shared.run("edit", "env", "refused", code=2, **editor(shared.home, program))
    assert problem in done.stderr
    kept_file(done.stderr).unlink()
    assert revision(shared) == before


def test_an_edit_does_not_overwrite_what_somebody_else_changed(shared: Shell) -> None:
    """Exit code 4, and the text is kept; a status that moved is no conflict."""
    apply(shared, "contended")
    command = " ".join(shared.command("apply", "-q", "-f", "-"))
    other = shared.home / "other.yaml"
    other.write_text(environment("contended").replace("seen", "theirs"))
    meanwhile = f"import os\nassert os.system({command + ' < ' + str(other)!r}) == 0"
    done = shared.run(
        "edit", "env", "contended", code=4, **editor(shared.home, f"{meanwhile}\n{replacing('seen', 'mine')}")
    )
    assert "was changed by somebody else meanwhile; nothing was applied" in done.stderr
    file = kept_file(done.stderr)
    assert f"stigmer diff -f {file}" in done.stderr
    assert "mine" in file.read_text()
    file.unlink()
    assert "theirs" in shared.run("get", "env", "contended").stdout


def test_a_status_that_moves_during_an_edit_is_no_conflict(shared: Shell, client: Client) -> None:
    """It is not what was edited."""
    apply(shared, "moving")
    found = client.resources.find("environment", "moving")
    stored = client.get("environment", found.id)
    moved = Environment.FromString(stored.value)
    moved.status.audit.status_audit.event = "moved"
    value = shared.home / "moved"
    value.write_bytes(moved.SerializeToString())
    command = " ".join(shared.command("save", "-q", "environment", found.id, "-f", str(value)))
    meanwhile = f"import os\nassert os.system({command!r}) == 0"
    done = shared.run("edit", "env", "moving", **editor(shared.home, f"{meanwhile}\n{replacing('seen', 'mine')}"))
    assert "configured" in done.stdout
    now = Environment.FromString(client.resources.find("environment", "moving").value)
    assert (now.spec.data["PLAIN"].value, now.status.audit.status_audit.event) == ("mine", "moved")
    assert now.spec.data["TOKEN"].value == SECRET


def test_keys_that_interrupt_are_for_the_editor(shared: Shell) -> None:
    """A terminal sends them to both, and an editor that goes on is waited for; one that they end interrupts all."""
    apply(shared, "interrupted")
    press = "import os, signal\nfor number in (signal.SIGINT, signal.SIGQUIT): os.kill(os.getppid(), number)"
    program = f"{press}\n{replacing('seen', 'changed')}"
    assert "configured" in shared.run("edit", "env", "interrupted", **editor(shared.home, program)).stdout
    ended = f"{replacing('changed', 'again')}\nimport os, signal\n"
    ended += "signal.signal(signal.SIGINT, signal.SIG_DFL); os.kill(os.getpid(), signal.{})"
    for number, code in ("SIGINT", 130), ("SIGKILL", 1):
        done = shared.run("edit", "env", "interrupted", code=code, **editor(shared.home, ended.format(number)))
        file = kept_file(done.stderr)
        assert "again" in file.read_text()
        file.unlink()
    assert done.stderr.endswith("was ended by signal 9; nothing was applied\n")


def test_a_text_that_is_not_utf_8_is_kept(shared: Shell) -> None:
    """It is told as what it is, and stands in the editor again."""
    apply(shared, "unreadable")
    program = "path.write_bytes(path.read_bytes().replace(b'seen', b'se\\xffen'))"
    done = shared.run("edit", "env", "unreadable", code=2, **editor(shared.home, program))
    assert "not UTF-8 text: byte 0xff" in done.stderr
    file = kept_file(done.stderr)
    assert b"se\xffen" in file.read_bytes()
    file.unlink()


def test_an_editor_that_fails_changes_nothing(shared: Shell) -> None:
    """It is named; an empty text is no wish either."""
    apply(shared, "unedited")
    before = revision(shared)
    failed = shared.run("edit", "env", "unedited", code=1, EDITOR="false", VISUAL="")
    assert failed.stderr == "Error: the editor false ended with status 1; nothing was applied\n"
    missing = shared.run("edit", "env", "unedited", code=1, EDITOR="no-such-editor", VISUAL="")
    assert missing.stderr.startswith("Error: cannot start the editor no-such-editor: ")
    emptied = shared.run("edit", "env", "unedited", **editor(shared.home, "path.write_text('')"))
    assert "nothing was changed" in emptied.stderr
    assert shared.run("edit", "note", "n", code=2).stderr.startswith("Error: KIND: note is no kind of the platform")
    shared.run("edit", "env", "none", code=3, EDITOR="false")
    assert revision(shared) == before


# --- skill ---


def test_a_skill_is_pushed_listed_and_pulled(shared: Shell) -> None:
    """The same content is the same version; a tag moves to the newest that is given it."""
    folder = shared.home / "some-skill"
    folder.mkdir()
    (folder / "SKILL.md").write_text("---\nname: tidy-up\n---\nTidy up.\n")
    (folder / "tool.py").write_text("print('one')\n")
    pushed = shared.run("skill", "push", folder, "--tag", "stable").stdout
    assert pushed.startswith("skill/tidy-up pushed (version ")
    assert pushed.endswith(", tag stable)\n")
    assert shared.run("skill", "push", folder, "--tag", "stable").stdout == pushed.replace("pushed", "unchanged")
    (folder / "tool.py").write_text("print('two')\n")
    second = json.loads(shared.run("skill", "push", folder, "-o", "json").stdout)
    versions = json.loads(shared.run("skill", "versions", "tidy-up", "-o", "json").stdout)["items"]
    assert [one["tags"] for one in versions] == [[], ["stable"]]
    assert versions[0]["version"] == second["version"]
    assert shared.run("skill", "versions", "tidy-up").stdout.splitlines()[2].split()[:2] == [
        versions[1]["version"][:12],
        "stable",
    ]
    for version in ("stable", versions[1]["version"]):
        got = json.loads(shared.run("get", "skill", "tidy-up", "--version", version, "-o", "json").stdout)
        assert got["status"]["version_hash"] == versions[1]["version"]
    assert "skill versions tidy-up" in shared.run("get", "skill", "tidy-up", "--version", "none", code=3).stderr
    shared.run("get", "agent", "tidy-up", "--version", "x", code=3)
    old, new, zipped = shared.home / "old", shared.home / "new", shared.home / "new.zip"
    shared.run("skill", "pull", "tidy-up", "--version", "stable", "--to", old)
    shared.run("skill", "pull", "tidy-up", "--to", new)
    assert [(path / "tool.py").read_text() for path in (old, new)] == ["print('one')\n", "print('two')\n"]
    shared.run("skill", "pull", "tidy-up", "--to", zipped)
    assert "unchanged" in shared.run("skill", "push", zipped, "--name", "tidy-up").stdout
    assert shared.run("skill", "pull", "tidy-up", "--to", new, code=2).stderr.startswith("Error: --to: ")
    named = shared.run("skill", "push", folder, "--name", "Other", "--org", "acme", "-o", "name").stdout
    assert named.startswith("skill/skl-")


def test_what_is_no_skill_is_not_pushed(shared: Shell) -> None:
    """The folder and what it lacks are named."""
    empty = shared.home / "empty"
    empty.mkdir()
    assert "has no SKILL.md" in shared.run("skill", "push", empty, code=2).stderr
    assert shared.run("skill", "push", shared.home / "nowhere", code=2).stdout == ""
    (empty / "SKILL.md").write_text("words")
    assert shared.run("skill", "push", empty, "--tag", "no tag", code=2).stdout == ""
    assert "empty" not in shared.run("list", "skills").stdout
