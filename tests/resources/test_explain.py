"""What `explain` tells, and that its examples can be applied."""

from __future__ import annotations

from pathlib import Path

import pytest

from stigmer.errors import InvalidArgument, NotFound
from stigmer.resources import explain, kinds, manifests
from stigmer.resources.kinds import Kind

from .opened import opened


def _kind(name: str) -> Kind:
    found = kinds.find(name)
    assert found is not None
    return found


def test_a_kind_is_explained_by_its_message() -> None:
    """Its comment and its fields, with types and rules."""
    found = explain.explain(_kind("agent"))
    assert (found.kind, found.path, found.type) == ("agent", "", "Agent")
    assert [field.name for field in found.fields] == ["api_version", "kind", "metadata", "spec", "status"]
    assert found.fields[2].rules == (
        "required",
        "owner_scope must be platform or organization for an agent",
    )


def test_a_path_goes_through_lists_maps_and_camel_case() -> None:
    """What is in a list or map is explained without an index."""
    found = explain.explain(_kind("agent"), "spec.mcpServers")
    assert (found.path, found.type) == ("spec.mcp_servers", "list of McpServerDefinition")
    assert [field.name for field in found.fields] == ["name", "stdio", "http", "docker", "enabled_tools"]
    assert found.fields[1].either == "stdio, http, docker"
    found = explain.explain(_kind("environment"), "spec.data.value")
    assert (found.type, found.fields, found.rules) == ("string", (), ("secret where is_secret is true",))
    assert explain.explain(_kind("environment"), "spec.data").type == "map of string to EnvironmentValue"


def test_every_rule_has_words() -> None:
    """Rules are told as a person would."""
    path = "spec.tasks.task_config.WORKFLOW_TASK_KIND_HTTP_CALL"
    call = explain.explain(_kind("workflow"), path)
    rules = {field.name: field.rules for field in call.fields}
    assert rules["timeout_seconds"] == ("at least 1", "at most 300")
    assert rules["method"] == ("required", 'one of "GET", "POST", "PUT", "DELETE", "PATCH"')
    assert explain.explain(_kind("workflow"), "spec.document.dsl").rules == (r"matches ^1\.0\.0$",)
    assert explain.explain(_kind("workflow"), "spec.tasks").rules == ("at least 1 entry",)
    assert explain.explain(_kind("agent"), "spec.instructions").rules == ("at least 10 characters",)
    assert explain.explain(_kind("mcp_server"), "spec.http.url").rules == ("required", "a URI")
    assert explain.explain(_kind("aex"), "spec.callback_token").rules == ("secret",)


def test_the_forms_of_a_task_are_told_and_can_be_walked_into() -> None:
    """The kind of a task is a step of the path; forms hold tasks again."""
    config = explain.explain(_kind("workflow"), "spec.tasks.task_config")
    assert config.forms["WORKFLOW_TASK_KIND_WAIT"] == "Waits."
    assert len(config.forms) == 13
    nested = explain.explain(_kind("workflow"), "spec.tasks.task_config.WORKFLOW_TASK_KIND_FOR.do.kind")
    assert nested.values[0] == "WORKFLOW_TASK_KIND_SET"


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("spce", "did you mean agent.spec?"),
        ("spec.mcp_servers.studio", "did you mean agent.spec.mcp_servers.stdio?"),
        ("spec.zzz", "see them: stigmer explain agent.spec"),
        ("spec.description.more", None),
    ],
)
def test_a_field_that_is_not_there_is_named_with_those_that_are(path: str, hint: str | None) -> None:
    """The hint is the next thing to type."""
    with pytest.raises(InvalidArgument) as caught:
        explain.explain(_kind("agent"), path)
    assert caught.value.hint == hint


def test_every_path_of_every_kind_can_be_explained() -> None:
    """Walks all fields down to the fourth level; each has a type and a comment, and text comes out."""

    def walk(kind: Kind, path: str, depth: int) -> int:
        found = explain.explain(kind, path)
        assert found.type
        assert found.comment
        assert explain.explain_text(found).startswith(f"{kind.name}{'.' + path if path else ''}  <")
        if depth == 0:
            return 1
        return 1 + sum(walk(kind, f"{path}.{field.name}".strip("."), depth - 1) for field in found.fields)

    assert sum(walk(kind, "", 4) for kind in kinds.all_kinds()) > 500


NEEDS_A_PARENT = {"agent_execution", "workflow_execution", "workflow_instance"}


@pytest.mark.parametrize("kind", kinds.all_kinds(), ids=lambda kind: kind.name)
def test_the_example_of_a_kind_can_be_applied(kind: Kind, tmp_path: Path) -> None:
    """It parses, keeps the rules, and is of its kind; what it belongs to has to be there."""
    (manifest,) = manifests.parse(explain.example(kind), f"{kind.name}.yaml")
    assert manifest.kind is kind
    with opened(tmp_path) as resources:
        if kind.name in NEEDS_A_PARENT:
            with pytest.raises(NotFound):
                resources.run(lambda: resources.apply_all([(kind, manifest.message)]))
            return
        (done,) = resources.run(lambda: resources.apply_all([(kind, manifest.message)]))
        assert done.written.id.startswith(f"{kind.id_prefix}-")
