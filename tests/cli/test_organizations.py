"""--org: which of several resources is meant where organizations have the same name for theirs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.support import Daemon, Shell
from cli.test_changing_commands import editor, replacing
from cli.test_settings import complete

SPECS = {
    "Agent": "{instructions: long enough to pass}",
    "Workflow": "{document: {dsl: '1.0.0', namespace: acme, name: twin, version: '1.0.0'}, "
    "tasks: [{name: a, kind: WORKFLOW_TASK_KIND_SET, task_config: {variables: {x: '1'}}}]}",
    "Environment": "{data: {PLAIN: {value: seen}}}",
}
COMMANDS = (
    ["get", "agent", "twin"],
    ["edit", "agent", "twin"],
    ["delete", "agent", "twin"],
    ["run", "twin", "-d"],
    ["wait", "agent", "twin", "--for", "deleted"],
)


def manifest(kind: str, name: str, org: str) -> str:
    """Write a manifest of an organization; an empty one is none."""
    where = f"owner_scope: organization, org: {org}" if org else "owner_scope: platform"
    return (
        f"api_version: agentic.stigmer.ai/v1\nkind: {kind}\nmetadata: {{name: {name}, {where}}}\nspec: {SPECS[kind]}\n"
    )


def ids_of(shell: Shell, kind: str, slug: str) -> dict[str, str]:
    """Give the ids of the resources that have a slug, by their organizations."""
    found = json.loads(shell.run("list", kind, "-o", "json").stdout)["items"]
    return {one["metadata"].get("org", ""): one["metadata"]["id"] for one in found if one["metadata"]["slug"] == slug}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A daemon with resources that several organizations have: `twin` two, `trio` two and nobody in particular."""
    shell = Shell(tmp_path_factory.mktemp("shared"))
    running = Daemon(shell)
    wanted = [manifest(kind, "twin", org) for kind in ("Agent", "Environment") for org in ("acme", "globex")]
    wanted += [manifest("Agent", "trio", org) for org in ("acme", "globex", "")]
    wanted += [manifest("Workflow", "flow", "acme"), manifest("Agent", "alone", "initech")]
    shell.run("apply", "-f", "-", stdin="---\n".join(wanted).encode())
    yield shell
    running.stop()


def test_without_it_several_are_an_error_that_names_them(shared: Shell) -> None:
    """Each with its id, and nothing is done; where there is one that belongs to none, that is meant."""
    ids = ids_of(shared, "agents", "twin")
    before = shared.run("log", "info", "-o", "json").stdout
    for command in COMMANDS:
        done = shared.run(*command, code=2)
        assert done.stdout == ""
        problem, hint = done.stderr.splitlines()
        assert problem.startswith('Error: --org: several organizations have agent "twin": ')
        assert all(f'"{org}" ({id})' in problem for org, id in ids.items())
        assert hint == "Hint: choose one with --org ORG, or give its id"
    assert shared.run("log", "info", "-o", "json").stdout == before
    assert shared.run("get", "agent", "trio", "-o", "name").stdout == f"agent/{ids_of(shared, 'agents', 'trio')['']}\n"


def test_get_and_edit_with_it(shared: Shell) -> None:
    """In each form of a reference, of one and of several kinds, before and behind them; an id is held to it, too."""
    agents, environments = ids_of(shared, "agents", "twin"), ids_of(shared, "environments", "twin")
    for org in ("acme", "globex"):
        name = f"agent/{agents[org]}\n"
        for arguments in (["agent", "twin"], ["agent/twin"], ["agent", agents[org]], ["agt", "twin"]):
            assert shared.run("get", *arguments, "--org", org, "-o", "name").stdout == name
        assert shared.run("get", "--org", org, "agent", "trio", "-o", "name").stdout != name
        both = shared.run("get", "agent/twin", "env/twin", "--org", org, "-o", "name").stdout
        assert both == f"{name}environment/{environments[org]}\n"
        assert shared.run("edit", "agent", "twin", "--org", org, **editor(shared.home, "")).stdout.endswith(
            " unchanged\n"
        )
    change = editor(shared.home, replacing("seen", "changed"))
    assert " configured " in shared.run("edit", "env", "twin", "--org", "globex", **change).stdout
    assert "changed" in shared.run("get", "env", "twin", "--org", "globex").stdout
    assert "seen" in shared.run("get", "env", "twin", "--org", "acme").stdout


def test_what_another_organization_has_is_not_found(shared: Shell) -> None:
    """Exit code 3, by its slug and by its id; the error says where it is, or what is near."""
    alone = ids_of(shared, "agents", "alone")["initech"]
    for ref in ("alone", alone):
        for verb in ("get", "delete", "edit"):
            done = shared.run(verb, "agent", ref, "--org", "acme", code=3)
            assert done.stderr == (
                f'Error: agent "{ref}" not found in organization "acme"\n'
                "Hint: there is one of another organization: initech\n"
            )
    near = shared.run("get", "agent", "twim", "--org", "acme", code=3).stderr
    assert near.splitlines()[1] == "Hint: did you mean twin? see what is there: stigmer list agents -o wide"
    none = shared.run("get", "agent", "twin", "--org", "no-such", code=3).stderr
    assert none.splitlines()[1] == "Hint: there is one of another organization: globex, acme"
    assert shared.run("get", "agent", "alone", "-o", "name").stdout == f"agent/{alone}\n"


def test_delete_with_it(shared: Shell) -> None:
    """That of the organization goes, the others stay; -f says its own organization."""
    wanted = "---\n".join(manifest("Environment", "gone", org) for org in ("acme", "globex", "initech"))
    shared.run("apply", "-f", "-", stdin=wanted.encode())
    ids = ids_of(shared, "environments", "gone")
    deleted = shared.run("delete", "env", "gone", "--org", "acme", "-o", "name").stdout
    assert deleted == f"environment/{ids['acme']}\n"
    assert ids_of(shared, "environments", "gone").keys() == {"globex", "initech"}
    file = shared.home / "globex.yaml"
    file.write_text(manifest("Environment", "gone", "globex"))
    shared.run("delete", "-f", file, "--org", "globex", code=2)
    shared.run("delete", "-f", file)
    assert ids_of(shared, "environments", "gone").keys() == {"initech"}
    assert (
        shared.run("wait", "env", "gone", "--org", "acme", "--for", "deleted").stdout
        == "environment/gone is not there\n"
    )


def test_run_with_it(shared: Shell) -> None:
    """The execution is of that organization's agent; a workflow is found, or pointed out, in it."""
    ids = ids_of(shared, "agents", "twin")
    for org, id in ids.items():
        made = json.loads(shared.run("run", "twin", "--org", org, "-d", "-o", "json").stdout)
        execution = json.loads(shared.run("get", "aex", made["id"], "-o", "json").stdout)
        assert (made["agent_id"], execution["metadata"]["org"]) == (id, org)
    made = json.loads(shared.run("run", "workflow/flow", "--org", "acme", "-d", "-o", "json").stdout)
    assert made["workflow_id"] == ids_of(shared, "workflows", "flow")["acme"]
    pointed = shared.run("run", "flow", "--org", "acme", code=3).stderr
    assert pointed.splitlines()[1] == "Hint: there is such a workflow: stigmer run workflow/flow --org acme"
    assert "workflow" not in shared.run("run", "flow", "--org", "globex", code=3).stderr


def test_skills_with_it(shared: Shell, tmp_path: Path) -> None:
    """Their versions are listed and pulled."""
    for org in ("acme", "globex"):
        folder = tmp_path / org
        folder.mkdir()
        (folder / "SKILL.md").write_text(f"---\nname: tidy\ndescription: of {org}\n---\nDo.\n")
        shared.run("skill", "push", folder, "--org", org)
    assert "--org: several organizations have skill" in shared.run("skill", "versions", "tidy", code=2).stderr
    listed = {shared.run("skill", "versions", "tidy", "--org", org).stdout for org in ("acme", "globex")}
    assert len(listed) == 2
    shared.run("skill", "pull", "tidy", "--org", "globex", "--to", tmp_path / "out")
    assert "of globex" in (tmp_path / "out" / "SKILL.md").read_text()


def test_where_it_makes_no_sense(shared: Shell) -> None:
    """A list, and kinds of one's own, which have no organizations: exit code 2."""
    shared.run("save", "note", "n", "-f", "-", stdin=b"x")
    assert "--org chooses among" in shared.run("get", "agents", "--org", "acme", code=2).stderr
    for command in (["get", "note", "n"], ["delete", "note/n"], ["get", "agent/twin", "note/n"]):
        assert '"note" is no kind of the platform' in shared.run(*command, "--org", "acme", code=2).stderr
    assert shared.run("get", "note", "n", "--raw").stdout == "x"


def test_it_reads_the_data_directory_where_no_daemon_runs(shell: Shell) -> None:
    """As it does with a daemon."""
    daemon = Daemon(shell)
    shell.run("apply", "-f", "-", stdin="---\n".join(manifest("Agent", "twin", org) for org in ("a", "b")).encode())
    ids = ids_of(shell, "agents", "twin")
    daemon.stop()
    assert shell.run("get", "agent", "twin", "--org", "b", "-o", "name").stdout == f"agent/{ids['b']}\n"
    assert shell.run("get", "agent", ids["a"], "--org", "b", code=3).stdout == ""
    assert "several organizations" in shell.run("get", "agent", "twin", code=2).stderr


def test_completion_of_organizations_and_within_one(shared: Shell) -> None:
    """Those of the kind that was typed; and names of the organization that was."""
    assert complete(shared, "stigmer get agent twin --org ") == ["acme", "globex", "initech"]
    assert complete(shared, "stigmer delete env/twin --org g") == ["globex"]
    assert complete(shared, "stigmer run twin --org i") == ["initech"]
    assert complete(shared, "stigmer run workflow/flow --org ") == ["acme"]
    assert complete(shared, "stigmer get --org initech agent a")[:1] == ["alone"]
    names = complete(shared, "stigmer get --org initech agent ")
    assert names == ["alone", ids_of(shared, "agents", "alone")["initech"]]
