"""Where settings come from, and what a wrong one says."""

from __future__ import annotations

import json
import os
import sys

import pytest

from cli.support import Shell


def settings(shell: Shell, *arguments: str, **environ: str) -> dict[str, tuple[str, str]]:
    """Give the settings in force with their origins, by name."""
    listed = shell.run("config", "list", "--show-origin", "-o", "json", *arguments, **environ).stdout
    return {item["name"]: (item["value"], item["origin"]) for item in json.loads(listed)["items"]}


def test_an_option_comes_before_the_environment_before_the_file_before_the_default(shell: Shell) -> None:
    """Each origin is named, so that a wrong value can be found."""
    file = shell.home / ".stigmer" / "config.yaml"
    file.parent.mkdir()
    nothing = {"STIGMER_DATA_DIR": ""}
    assert settings(shell, **nothing)["addr"] == ("127.0.0.1:50051", "default")
    file.write_text("backend:\n  type: local\n  local: {endpoint: 'localhost:7234'}\nother: [1]\n")
    assert settings(shell, **nothing)["addr"] == ("localhost:7234", "~/.stigmer/config.yaml (backend.local.endpoint)")
    assert settings(shell, STIGMER_ADDR="h:1")["addr"] == ("h:1", "STIGMER_ADDR")
    assert settings(shell, "--addr", "o:2", STIGMER_ADDR="h:1")["addr"] == ("o:2", "--addr")
    assert settings(shell, **nothing)["data-dir"] == ("~/.stigmer/data", "default")


def test_a_global_option_stands_before_or_after_the_verb(shell: Shell) -> None:
    """The last one counts."""
    assert shell.run("-o", "json", "version").stdout == shell.run("version", "-o", "json").stdout
    assert shell.run("-o", "yaml", "version", "-o", "json").stdout.startswith("{")
    assert settings(shell, "--timeout", "3s")["timeout"] == ("3s", "--timeout")


@pytest.mark.parametrize(
    ("arguments", "environ", "line"),
    [
        (["list", "--addr", "nowhere"], {}, 'Error: --addr: "nowhere" is not an address'),
        (["list"], {"STIGMER_ADDR": "a:b:c"}, 'Error: STIGMER_ADDR: "a:b:c" is not an address'),
        (["list", "--addr", "x:99999"], {}, 'Error: --addr: "x:99999" is not an address'),
        (
            ["list", "--timeout", "10", "--addr", "h:1"],
            {},
            'Error: --timeout: "10" is not a duration, such as 500ms, 10s or 2m',
        ),
        (
            ["kinds"],
            {"STIGMER_OUTPUT": "xml"},
            'Error: STIGMER_OUTPUT: "xml" is not one of table, wide, yaml, json, jsonl or name',
        ),
        (
            ["kinds", "-o", "\x1b[2J"],
            {},
            r'Error: --output: "\x1b[2J" is not one of table, wide, yaml, json, jsonl or name',
        ),
        (["list", "--data-dir", ""], {}, "Error: --data-dir: is empty; it takes a directory"),
        (["daemon", "--data-dir", ""], {}, "Error: --data-dir: is empty; it takes a directory"),
        (["daemon"], {"STIGMER_QUIET": "perhaps"}, 'Error: STIGMER_QUIET: "perhaps" is neither true nor false'),
        (["version"], {"STIGMER_VERBOSE": "maybe"}, 'Error: STIGMER_VERBOSE: "maybe" is neither true nor false'),
        (
            ["daemon", "--value-max", "big"],
            {},
            'Error: --value-max: "big" is not a size, such as 65536, 64KiB or 16MiB',
        ),
        (["daemon", "--segment-bytes", "1"], {}, "Error: --segment-bytes: 1 is out of bounds: 4096 to 4294967296"),
        (
            ["daemon", "--listen", "0.0.0.0:1"],
            {},
            'Error: listen: "0.0.0.0:1" can be reached from other machines, which takes TLS (--tls-cert, --tls-key) '
            "and a token (--auth token) or certificates of clients (--tls-client-ca)",
        ),
    ],
)
def test_a_wrong_value_is_a_usage_error_that_names_its_origin(
    shell: Shell, arguments: list[str], environ: dict[str, str], line: str
) -> None:
    """Whatever the value holds, it is one line on a terminal."""
    done = shell.run(*arguments, code=2, **environ)
    assert done.stderr.splitlines()[0] == line
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"backend: [unclosed", "line 1: not YAML"),
        (b"\xff\xfe", "cannot be read"),
        (b"[" * 100_000, "has too many lists and maps inside each other"),
        (b"when: 2026-13-45", "has a value that cannot be read: month"),
        (b"backend: {local: {endpoint: [a]}}", "backend.local.endpoint): is not a text"),
        (b"backend: {local: {endpoint: {a: b}}}", "backend.local.endpoint): is not a text"),
        (b"backend:\n  local:\n    endpoint: over there\n", 'backend.local.endpoint): "over there" is not an address'),
    ],
)
def test_a_broken_configuration_file_is_named(shell: Shell, content: bytes, problem: str) -> None:
    """So is the key in it."""
    file = shell.home / "mine.yaml"
    file.write_bytes(content)
    done = shell.run("list", code=2, STIGMER_CONFIG=str(file), STIGMER_DATA_DIR="")
    assert done.stderr.startswith(f"Error: {file}")
    assert problem in done.stderr.splitlines()[0]


def test_a_configuration_file_is_read_only_where_it_decides(shell: Shell) -> None:
    """A broken file does not stop a call that needs nothing of it."""
    (shell.home / "mine.yaml").write_text("[")
    shell.run("version", STIGMER_CONFIG=str(shell.home / "mine.yaml"))
    shell.run("config", "list", code=2, STIGMER_CONFIG=str(shell.home / "mine.yaml"), STIGMER_DATA_DIR="")


@pytest.mark.parametrize(
    ("arguments", "line", "hint"),
    [
        (["lst"], 'Error: stigmer has no command "lst"', "Hint: did you mean stigmer list?"),
        (["zzz"], 'Error: stigmer has no command "zzz"', "Hint: stigmer --help"),
        (["daemon", "stpo"], 'Error: stigmer daemon has no command "stpo"', "Hint: did you mean stigmer daemon stop?"),
        (
            ["daemon", "start"],
            'Error: stigmer daemon has no command "start"',
            "Hint: did you mean stigmer daemon --detach?",
        ),
        (["get"], "Error: Missing argument 'KIND [REF...]'", "Hint: stigmer get --help"),
        (["get", "agent", "--nope"], "Error: No such option '--nope'", "Hint: stigmer get --help"),
        (["apply"], "Error: Missing option '-f' / '--file'", "Hint: stigmer apply --help"),
        (["delete"], "Error: name resources (KIND REF...), or manifests with -f", "Hint: stigmer delete --help"),
        (["get", "agent/a", "b"], 'Error: "b" is not KIND/REF', "Hint: stigmer get --help"),
        (
            ["get", "agent", "a/b"],
            'Error: "a/b": write KIND REF... or KIND/REF..., not both',
            "Hint: stigmer get --help",
        ),
        (
            ["get", "agent", "--raw"],
            "Error: --raw writes the value of one resource: name one",
            "Hint: stigmer get --help",
        ),
        (
            ["completion"],
            "Error: Missing argument '{bash|zsh|fish}'. Choose from: bash, zsh, fish",
            "Hint: stigmer completion --help",
        ),
        (
            ["list", "--limit", "3"],
            "Error: the options that choose among resources need a KIND",
            "Hint: stigmer list --help",
        ),
        (
            ["tail", "--from", "0"],
            'Error: Invalid value for \'--from\': "0" is neither a revision (1, 2, 3, ...) nor "now"',
            "Hint: stigmer tail --help",
        ),
        (
            ["tail", "--from", "1" * 5000],
            f'Error: Invalid value for \'--from\': "{"1" * 80}..." is neither a revision (1, 2, 3, ...) nor "now"',
            "Hint: stigmer tail --help",
        ),
        (
            ["explain", "agnet"],
            'Error: kind: "agnet" is not a known kind',
            "Hint: did you mean agent? see them: stigmer kinds",
        ),
    ],
)
def test_a_wrong_command_line_says_what_and_where_to_look(
    shell: Shell, arguments: list[str], line: str, hint: str
) -> None:
    """Exit code 2, the error, and the next command to type."""
    done = shell.run(*arguments, code=2)
    assert done.stderr.splitlines() == [line, hint]


NO_TEXT = "S=b\udcffd"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "bot", "--secret", NO_TEXT], "'--secret'"),
        (["run", "bot", "-e", NO_TEXT], "'-e' / '--env'"),
        (["run", "bot", "-m", NO_TEXT], "'-m' / '--message'"),
        (["get", "agent", NO_TEXT], "'KIND [REF...]'"),
        (["get", "agent", "a", "--org", NO_TEXT], "'--org'"),
        (["logs", NO_TEXT], "'EXECUTION'"),
        (["list", "agents", "-l", NO_TEXT], "'-l' / '--label'"),
        (["explain", f"agent.{NO_TEXT}"], "'KIND[.FIELD...]'"),
        (["skill", "push", "folder", "--tag", NO_TEXT], "'--tag'"),
    ],
)
def test_what_is_not_utf_8_is_named_and_not_repeated(shell: Shell, arguments: list[str], named: str) -> None:
    """It may be a secret."""
    done = shell.run(*arguments, code=2)
    assert done.stderr.splitlines() == [
        f"Error: Invalid value for {named}: it is not UTF-8 text",
        "Hint: type it in UTF-8, or set the terminal to UTF-8",
    ]


def test_a_folder_that_is_gone_is_told(shell: Shell) -> None:
    """It is what a path without a beginning starts from."""
    gone = ["sh", "-c", 'mkdir gone && cd gone && rmdir ../gone && exec "$@"', "sh"]
    python_path = ":".join(os.path.abspath(path) for path in sys.path if path)
    for arguments in ["daemon", "--listen", "unix:s"], ["skill", "push", "."]:
        done = shell.run(*arguments, code=1, wrapper=gone, PYTHONPATH=python_path)
        assert done.stderr.splitlines() == [
            "Error: the folder that this was called in is gone",
            "Hint: cd to one that is there",
        ], arguments


def test_without_a_command_help_is_shown(shell: Shell) -> None:
    """With --help it is what was asked for; without, a usage error."""
    assert "Usage: stigmer" in shell.run("--help").stdout
    assert "Usage: stigmer" in shell.run(code=2).stderr
    assert "tail" in shell.run("log", code=2).stderr + shell.run("-h").stdout


def test_a_bug_is_one_line_and_its_traceback_is_for_whoever_asks(shell: Shell) -> None:
    """A broken installation stands in for a bug: a module that cannot be imported."""
    broken = shell.home / "broken"
    (broken / "ruamel").mkdir(parents=True)
    (broken / "ruamel" / "__init__.py").write_text("raise RuntimeError('broken on purpose')")
    done = shell.run("version", "-o", "yaml", code=1, PYTHONPATH=str(broken))
    assert done.stderr.splitlines() == [
        "Error: RuntimeError: broken on purpose",
        "Hint: this is a bug in stigmer; run with -v for the traceback",
    ]
    assert "Traceback" in shell.run("version", "-o", "yaml", "-v", code=1, PYTHONPATH=str(broken)).stderr


def test_help_does_not_import_what_it_does_not_need(shell: Shell) -> None:
    """`stigmer --help` is instant because nothing large is imported."""
    import subprocess

    script = """
import sys
sys.argv[1:] = ["--help"]
try:
    from stigmer.cli import main
    main()
finally:
    print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=shell.environ, check=True)
    imported = set(done.stdout.splitlines()[-1].split())
    assert not imported & {"grpc", "google.protobuf", "msgspec", "ruamel.yaml", "rich", "asyncio", "lmdb", "uvloop"}


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_the_shell(shell: Shell, shell_name: str) -> None:
    """Bash is asked whether it can be read."""
    import subprocess

    script = shell.run("completion", shell_name).stdout
    assert "_STIGMER_COMPLETE" in script
    if shell_name == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def complete(shell: Shell, line: str) -> list[str]:
    """Give what the shell would offer at the end of a line."""
    words = line.split(" ")
    answer = shell.run(
        _STIGMER_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1), code=None
    ).stdout
    return [entry.partition(",")[2] for entry in answer.splitlines() if entry]


def test_completion_offers_commands_and_kinds(shell: Shell) -> None:
    """No daemon runs, and nothing is said about it."""
    assert complete(shell, "stigmer re") == ["replay", "restore"]
    assert complete(shell, "stigmer daemon st") == ["status", "stop"]
    assert complete(shell, "stigmer get agent_e") == ["agent_execution"]
    assert complete(shell, "stigmer get agent ") == []
    assert complete(shell, "stigmer list -o ya") == ["yaml"]
