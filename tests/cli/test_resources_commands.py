"""apply, get, list, delete, save, kinds and explain, against a daemon."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from cli.support import Shell
from stigmer.resources.kinds import all_kinds

KINDS = [kind.name for kind in all_kinds()]
SECRET = "hunter2-hunter2"


def environment(name: str) -> str:
    """Write a manifest with a secret."""
    return (
        "api_version: agentic.stigmer.ai/v1\nkind: Environment\n"
        f"metadata: {{name: {name}, owner_scope: organization, org: acme}}\n"
        f"spec: {{data: {{TOKEN: {{value: {SECRET}, is_secret: true}}, PLAIN: {{value: seen}}}}}}\n"
    )


def apply(shell: Shell, *names: str) -> None:
    """Apply environments of these names."""
    shell.run("apply", "-f", "-", stdin="---\n".join(map(environment, names)).encode())


def revision(shell: Shell) -> int:
    """Give the last revision of the log."""
    return int(json.loads(shell.run("log", "info", "-o", "json").stdout)["revision"])


# --- apply ---


def test_apply_tells_what_became_of_each_manifest_and_changes_nothing_twice(shared: Shell) -> None:
    """Created, unchanged, configured; and a dry run tells without doing."""
    file = shared.home / "one.yaml"
    file.write_text(environment("applied"))
    before = revision(shared)
    dry = shared.run("apply", "-f", file, "--dry-run")
    assert dry.stdout == "environment/applied created (dry run)\n"
    assert revision(shared) == before
    assert shared.run("apply", "-f", file).stdout == f"environment/applied created (revision {before + 1})\n"
    assert shared.run("apply", "-f", file).stdout == "environment/applied unchanged\n"
    assert revision(shared) == before + 1
    file.write_text(environment("applied").replace("seen", "changed"))
    assert shared.run("apply", "-f", file).stdout == f"environment/applied configured (revision {before + 2})\n"
    assert shared.run("apply", "-f", file, "-q").stdout == ""
    assert json.loads(shared.run("apply", "-f", file, "-o", "json").stdout)["items"][0]["outcome"] == "unchanged"


def test_apply_of_nothing_is_an_error(shared: Shell) -> None:
    """An empty stdin, as a generator that failed leaves it, is refused like an empty folder."""
    told = shared.run("apply", "-f", "-", stdin=b"", code=2)
    assert told.stderr.startswith("Error: --file: there is no manifest in what was given; nothing was applied")


def test_apply_takes_folders_stdin_and_several_files_as_one_commit(shared: Shell) -> None:
    """All revisions of one call are in one frame."""
    folder = shared.home / "folder"
    folder.mkdir()
    (folder / "a.yaml").write_text(environment("folder-a"))
    (folder / "b.yml").write_text(environment("folder-b") + "---\n" + environment("folder-c"))
    done = shared.run("apply", "-f", folder, "-f", "-", stdin=environment("from-stdin").encode())
    assert len(done.stdout.splitlines()) == 4
    frame = json.loads(shared.run("log", "cat", str(revision(shared)), "-o", "json").stdout)
    assert frame["event_count"] == 4


def test_a_manifest_with_problems_names_them_all_and_writes_nothing(shared: Shell) -> None:
    """The first line says which file and line; a good manifest beside a bad one is not applied either."""
    before = revision(shared)
    file = shared.home / "bad.yaml"
    file.write_text(environment("good") + "---\n" + environment("bad").replace("spec:", "sepc:"))
    done = shared.run("apply", "-f", file, code=2)
    assert done.stderr.startswith(f"Error: {file}:")
    assert "sepc" in done.stderr
    assert shared.run("apply", "-f", shared.home / "nowhere.yaml", code=2).stderr.startswith("Error: ")
    assert shared.run("apply", "-f", "-", stdin=b"kind: [", code=2).stderr.startswith("Error: stdin:")
    assert revision(shared) == before


def test_what_get_and_list_print_can_be_applied_again(shared: Shell) -> None:
    """Status is dropped, so nothing changes."""
    apply(shared, "roundtrip")
    for output in ("yaml", "json"):
        printed = shared.run("get", "environment", "roundtrip", "-o", output, "--show-secrets").stdout
        done = shared.run("apply", "-f", "-", stdin=printed.encode())
        assert done.stdout == "environment/roundtrip unchanged\n"
    printed = shared.run("list", "environment", "-o", "json", "--show-secrets").stdout
    assert "created" not in shared.run("apply", "-f", "-", stdin=printed.encode()).stdout


# --- get and list ---


def test_get_prints_the_message_as_yaml_with_its_revision_in_a_comment(shared: Shell) -> None:
    """By slug or id, by any name of the kind, as KIND REF or KIND/REF."""
    apply(shared, "gotten")
    text = shared.run("get", "environment", "gotten").stdout
    assert text.startswith(f"# revision {revision(shared)}, updated 2")
    message = YAML(typ="safe").load(text)
    assert message["kind"] == "Environment"
    id = message["metadata"]["id"]
    for form in (["env", "gotten"], ["Environment", id], ["environments/gotten"], [f"environment/{id}"]):
        assert shared.run("get", *form).stdout == text
    assert shared.run("get", "env", "gotten", "-o", "name").stdout == f"environment/{id}\n"
    assert json.loads(shared.run("get", "env", "gotten", "-o", "json").stdout) == message
    assert len(shared.run("get", "env", "gotten", "-o", "jsonl").stdout.splitlines()) == 1


def test_several_resources_are_documents_in_yaml_and_items_in_json(shared: Shell) -> None:
    """In the order in which they were named."""
    apply(shared, "first", "second")
    many = shared.run("get", "environment/second", "environment/first").stdout
    assert [d["metadata"]["name"] for d in YAML(typ="safe").load_all(many)] == ["second", "first"]
    items = json.loads(shared.run("get", "environment", "second", "first", "-o", "json").stdout)["items"]
    assert [item["metadata"]["name"] for item in items] == ["second", "first"]


def test_secrets_are_masked_everywhere_unless_asked_for(shared: Shell) -> None:
    """In get, list, tail and log cat, in every format that shows values."""
    apply(shared, "secretive")
    at = str(revision(shared))
    commands = [
        ["get", "environment", "secretive"],
        ["get", "environment", "secretive", "-o", "json"],
        ["list", "environment", "-o", "jsonl"],
        ["tail", "--no-follow", "--from", at, "-o", "json", "--values"],
        ["log", "cat", at],
        ["log", "cat", at, "-o", "json"],
    ]
    for command in commands:
        assert SECRET not in shared.run(*command).stdout, command
        assert SECRET in shared.run(*command, "--show-secrets").stdout, command
    assert SECRET in shared.run(*commands[0], STIGMER_SHOW_SECRETS="1").stdout


def test_what_is_not_there_is_exit_code_3_with_close_names(shared: Shell) -> None:
    """The message names the resource, the hint what to type."""
    apply(shared, "support-desk")
    done = shared.run("get", "environment", "suport-desk", code=3)
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        'Error: environment "suport-desk" not found',
        "Hint: did you mean support-desk? see what is there: stigmer list environments",
    ]
    assert shared.run("delete", "environment", code=2).stderr.splitlines()[0].endswith("KIND REF...")
    # One of several: nothing of the others is printed, so that what is printed is whole.
    assert shared.run("get", "environment", "support-desk", "none", "-o", "json", code=3).stdout == ""
    misspelt = shared.run("get", "enviroment", "support-desk", code=3).stderr.splitlines()[1]
    assert misspelt == "Hint: did you mean the kind environment? see the kinds: stigmer kinds"
    assert shared.run("get", "unheard_of", "x", code=3).stderr.startswith('Error: unheard_of "x" not found\n')
    assert shared.run("delete", "environment", "suport-desk", code=3).stdout == ""
    bad = shared.run("get", "no kind", "x", code=2).stderr
    assert bad.startswith('Error: kind: "no kind" is not a kind')


def test_a_list_is_a_table_of_the_kind_or_counts(shared: Shell) -> None:
    """Upper-case headers, two spaces, relative ages; `get KIND` is the same list."""
    apply(shared, "listed")
    lines = shared.run("list", "environments").stdout.splitlines()
    assert lines[0].split() == ["ID", "NAME", "REVISION", "UPDATED"]
    row = next(line.split() for line in lines if " listed " in line)
    assert row[0].startswith("env-")
    assert row[3][-1] in "sm"
    assert not any(line.endswith(" ") for line in lines)
    assert shared.run("get", "env").stdout.splitlines()[0] == lines[0]
    wide = shared.run("list", "env", "-o", "wide").stdout.splitlines()
    assert wide[0].split() == ["ID", "NAME", "SLUG", "ORG", "PHASE", "SIZE", "REVISION", "UPDATED", "CREATED"]
    counts = dict(line.split() for line in shared.run("list").stdout.splitlines())
    assert int(counts["environment"]) == len(lines) - 1
    assert counts["KIND"] == "COUNT"


def test_an_empty_list_is_done(shared: Shell) -> None:
    """Nothing on stdout but what the format needs, and exit code 0."""
    done = shared.run("list", "nothing_here")
    assert (done.stdout, done.stderr) == ("", "there are no resources of kind nothing_here\n")
    assert shared.run("list", "agnet").stderr == "there are no resources of kind agnet; did you mean agent?\n"
    below = shared.run("list", "nothing_here", "--prefix", "x")
    assert below.stderr == 'there are no resources of kind nothing_here whose ids start with "x"\n'
    assert json.loads(shared.run("list", "nothing_here", "-o", "json").stdout) == {"items": []}
    assert shared.run("list", "nothing_here", "-o", "jsonl").stdout == ""


def test_prefix_and_limit_hold_across_pages(shared: Shell) -> None:
    """More resources than one page asks for."""
    from stigmer import Save, connect
    from stigmer.daemon.info import read_daemon_info

    info = read_daemon_info(str(shared.data))
    assert info is not None
    with connect(info.listen[0]) as client:
        client.commit([Save("paged", f"p{number:03}", b"") for number in range(250)])
    assert len(shared.run("list", "paged", "-o", "name").stdout.splitlines()) == 250
    limited = shared.run("list", "paged", "--limit", "130", "-o", "name").stdout.splitlines()
    assert (len(limited), limited[-1]) == (130, "paged/p129")
    assert len(shared.run("list", "paged", "--prefix", "p24", "-o", "name").stdout.splitlines()) == 10


# --- save ---


def test_save_keeps_any_bytes_under_any_kind(shared: Shell) -> None:
    """What goes in comes out; without --raw it is described."""
    value = bytes(range(256)) * 3
    saved = shared.run("save", "blob", "b1", "-f", "-", stdin=value)
    at = revision(shared)
    assert saved.stdout == f"blob/b1 saved (revision {at})\n"
    import subprocess

    raw = subprocess.run(shared.command("get", "blob/b1", "--raw"), capture_output=True, env=shared.environ, check=True)
    assert raw.stdout == value
    record = json.loads(shared.run("get", "blob", "b1", "-o", "json").stdout)
    assert (record["kind"], record["id"], record["revision"], record["size"]) == ("blob", "b1", at, 768)
    assert base64.b64decode(record["value"]) == value
    assert "768 B" in shared.run("list", "blob").stdout


def test_bytes_that_are_not_their_kinds_message_are_described(shared: Shell) -> None:
    """Metadata, and how many bytes there are."""
    shared.run("save", "agent", "agt-broken", "--file", "-", stdin=b"\xff\xff\xff")
    record = YAML(typ="safe").load(shared.run("get", "agent", "agt-broken").stdout)
    assert record["undecodable"] == "3 bytes"
    assert record["id"] == "agt-broken"
    shared.run("delete", "agent", "agt-broken")


def test_an_expected_revision_that_is_not_so_is_a_conflict(shared: Shell) -> None:
    """Exit code 4, with both revisions; 0 means that it must not exist."""
    shared.run("save", "note", "n1", "-f", "-", "--expected-revision", "0", stdin=b"one")
    at = revision(shared)
    done = shared.run("save", "note", "n1", "-f", "-", "--expected-revision", "0", stdin=b"two", code=4)
    assert done.stderr.splitlines()[0] == f'Error: note "n1" already exists, at revision {at}'
    done = shared.run("save", "note", "n1", "-f", "-", "--expected-revision", str(at + 9), stdin=b"two", code=4)
    assert done.stderr.splitlines()[0] == (
        f'Error: note "n1" is at revision {at}, not at the expected revision {at + 9}'
    )
    shared.run("save", "note", "n1", "-f", "-", "--expected-revision", str(at), stdin=b"two")


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["save", "no/kind", "x", "-f", "-"], 2, "Error: kind: "),
        (["save", "note", "a/b", "-f", "-"], 2, 'Error: id: "a/b" must not contain'),
        (["save", "note", "\x1b[2J", "-f", "-"], 2, r'Error: id: "\x1b[2J" contains U+001B'),
        (["save", "note", "x", "-f", "/nowhere"], 1, "Error: /nowhere: No such file or directory"),
    ],
)
def test_a_save_that_can_not_be_made_says_why(shared: Shell, arguments: list[str], code: int, line: str) -> None:
    """Nothing is written, and nothing raw reaches the terminal."""
    done = shared.run(*arguments, stdin=b"x", code=code)
    assert done.stderr.startswith(line)


def test_a_format_that_is_none_is_refused_before_anything_is_written(shared: Shell) -> None:
    """A save, an apply and a delete that end as a usage error have changed nothing."""
    shared.run("save", "formats", "kept", "-f", "-")
    shared.run("save", "formats", "new", "-f", "-", "-o", "xml", code=2)
    shared.run("delete", "formats", "kept", "-o", "xml", code=2)
    shared.run("save", "formats", "new", "-f", "-", code=2, STIGMER_QUIET="perhaps")
    assert shared.run("list", "formats", "-o", "name").stdout == "formats/kept\n"


def test_a_value_beyond_the_limit_is_refused(shared: Shell, tmp_path: Path) -> None:
    """The limit is named, with the option that sets it."""
    file = tmp_path / "large"
    file.write_bytes(bytes(17 << 20))
    done = shared.run("save", "note", "large", "-f", file, code=1)
    assert "--value-max" in done.stderr


# --- delete ---


def test_delete_is_one_commit_and_tells_each(shared: Shell) -> None:
    """By reference, twice the same counts once; or by manifest."""
    apply(shared, "gone-a", "gone-b", "gone-c")
    before = revision(shared)
    done = shared.run("delete", "environment", "gone-a", "gone-b", "gone-a")
    assert [line.split(" ")[1:] for line in done.stdout.splitlines()] == [
        ["deleted", "(revision", f"{before + 1})"],
        ["deleted", "(revision", f"{before + 2})"],
    ]
    assert shared.run("get", "environment", "gone-a", code=3).stdout == ""
    by_manifest = shared.run("delete", "-f", "-", "-y", stdin=environment("gone-c").encode())
    assert f"deleted (revision {before + 3})" in by_manifest.stdout
    apply(shared, "kept")
    shared.run("delete", "environment", "kept", "gone-a", code=3)
    shared.run("get", "environment", "kept")


def answer(shell: Shell, arguments: list[str], typed: bytes) -> tuple[int, bytes]:
    """Run a command on a terminal, type something, and give its exit code and what it showed."""
    import os
    import pty
    import subprocess

    ours, theirs = pty.openpty()
    with subprocess.Popen(
        shell.command(*arguments), stdin=theirs, stdout=theirs, stderr=theirs, env=shell.environ, start_new_session=True
    ) as process:
        os.close(theirs)
        shown = b""
        while b"?" not in shown:
            shown += os.read(ours, 4096)
        os.write(ours, typed)
        code = process.wait(60)
    os.close(ours)
    return code, shown


def test_delete_asks_on_a_terminal_and_only_there(shared: Shell) -> None:
    """No is the default; Ctrl-D is no too."""
    apply(shared, "asked")
    arguments = ["delete", "environment", "asked"]
    code, shown = answer(shared, arguments, b"\n")
    assert code == 1
    assert b"Delete environment/env-" in shown
    assert answer(shared, arguments, b"\x04")[0] == 130
    shared.run("get", "environment", "asked")
    assert answer(shared, arguments, b"y\n")[0] == 0
    shared.run("get", "environment", "asked", code=3)


# --- kinds and explain ---


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_an_example_that_can_be_applied(shared: Shell, kind: str) -> None:
    """`explain --example` is where a manifest begins; what it belongs to has to be there."""
    example = shared.run("explain", kind, "--example").stdout
    done = shared.run("apply", "--dry-run", "-f", "-", stdin=example.encode(), code=None)
    if kind in ("agent_execution", "workflow_execution", "workflow_instance"):
        assert (done.returncode, " not found: " in done.stderr) == (3, True), done.stderr
    else:
        assert done.returncode == 0, done.stderr


def test_kinds_and_explain_tell_what_can_be_written(shell: Shell) -> None:
    """Without a daemon; in every format."""
    assert shell.run("kinds", "-o", "name").stdout.split() == KINDS
    assert "AgentExecution" in shell.run("kinds").stdout
    assert len(json.loads(shell.run("kinds", "-o", "json").stdout)["items"]) == len(KINDS)
    assert shell.run("explain", "agents").stdout.startswith("agent  <Agent>\n")
    assert "<string>" in shell.run("explain", "agent.spec.instructions").stdout
    assert json.loads(shell.run("explain", "agent.spec", "-o", "json").stdout)["path"] == "spec"
    done = shell.run("explain", "agent.spec.intsructions", code=2)
    assert done.stderr.splitlines()[1] == "Hint: did you mean agent.spec.instructions?"
