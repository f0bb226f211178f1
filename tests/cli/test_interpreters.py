"""Every command in an interpreter that was started for it, as a person starts it: it imports all that it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.support import Shell
from cli.test_docs import COMMANDS

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
RECORDING = ROOT / "tests" / "data" / "traffic" / "agent-run-chat.binpb.zst"


@pytest.mark.timeout(1200)  # some forty interpreters, one after the other
def test_every_command_runs_in_an_interpreter_of_its_own(shell: Shell) -> None:
    """One after the other, with a daemon that was started so too, and without it what takes none."""
    typed: set[str] = set()

    def run(command: str, *arguments: str | Path, stdin: bytes = b"", **environ: str) -> str:
        typed.add(command)
        return shell.run(*command.split(), *arguments, stdin=stdin, interpreter=True, **environ).stdout

    for command in ("version", "kinds", "config list", "doctor"):
        assert run(command)
    assert "bash" in run("completion", "bash")
    assert "instructions" in run("explain", "agent.spec")

    run("daemon", "--detach", "--listen", "127.0.0.1:0")
    try:
        assert "pid" in run("daemon status")
        assert "agent/" in run("apply", "-f", EXAMPLES)
        assert run("diff", "-f", EXAMPLES) == ""
        assert "support-bot" in run("get", "agent", "support-bot")
        assert run("edit", "agent", "support-bot", EDITOR="true", VISUAL="", TMPDIR=str(shell.home))
        assert "agent" in run("list")
        assert "note/n saved" in run("save", "note", "n", "-f", "-", stdin=b"kept")
        assert "note/n" in run("tail", "--no-follow", "-o", "name").split()
        execution = run("run", "support-bot", "--message", "hi", "--detach", "-o", "name").strip().partition("/")[2]
        assert "pending" in run("logs", execution)
        run("wait", "aex", execution, "--for", "phase=PENDING")
        assert "release-notes" in run("skill push", EXAMPLES / "skills" / "release-notes", "--org", "acme")
        assert run("skill versions", "release-notes")
        run("skill pull", "release-notes", "--to", shell.home / "pulled")
        assert "51 updates" in run("import traffic", RECORDING)
        assert "listening on" in run("daemon logs")
        for command in ("log info", "log segments", "verify", "replay"):
            assert run(command)
        assert run("log cat", "1")
        assert "backed up" in run("backup", shell.home / "backup")
        assert "note/n" in run("delete", "note", "n")
    finally:
        run("daemon stop")
    assert "no damage" in run("backup verify", shell.home / "backup")
    run("restore", shell.home / "backup", "--data-dir", shell.home / "restored")
    assert "whole" in run("log repair")

    groups = {"config", "import", "log", "skill"}  # are told of by their commands
    assert typed | groups == set(COMMANDS)
