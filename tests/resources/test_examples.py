"""The examples in examples/ apply as they are, and show what they are there to show."""

from __future__ import annotations

from pathlib import Path

from stigmer.resources import kinds, manifests

from .opened import opened

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def test_all_examples_apply_together_and_change_nothing_the_second_time(tmp_path: Path) -> None:
    """One command creates all of it; the same command again finds it as it should be."""
    wanted = [(one.kind, one.message) for one in manifests.load([str(EXAMPLES)])]
    with opened(tmp_path) as resources:
        assert {one.outcome for one in resources.run(lambda: resources.apply_all(wanted))} == {"created"}
        revision = resources.store.status().revision
        assert {one.outcome for one in resources.run(lambda: resources.apply_all(wanted))} == {"unchanged"}
        assert resources.store.status().revision == revision


def test_examples_show_every_kind_of_task_and_of_server() -> None:
    """All thirteen tasks, and tool servers reached in all three ways."""
    text = "".join(path.read_text(encoding="utf-8") for path in EXAMPLES.glob("*.yaml"))
    from stigmer.pb.agentic import apiresource_pb2

    for name in apiresource_pb2.WorkflowTaskKind.keys()[1:]:
        assert name in text, name
    servers = {
        server.WhichOneof("server_type")
        for one in manifests.load([str(EXAMPLES / "agents.yaml")])
        for server in one.message.spec.mcp_servers
    }
    assert servers == {"stdio", "http", "docker"}


def test_references_of_examples_lead_somewhere() -> None:
    """Every skill that is referred to by slug is among the examples."""
    wanted = manifests.load([str(EXAMPLES)])
    there = {(one.kind.number, one.slug) for one in wanted}
    agent = kinds.find("agent")
    for one in wanted:
        if one.kind is agent:
            assert {(ref.kind, ref.slug) for ref in one.message.spec.skill_refs} <= there


def test_secrets_in_examples_are_placeholders() -> None:
    """Nobody commits a real one by following the example."""
    for one in manifests.load([str(EXAMPLES / "environments.yaml")]):
        for value in one.message.spec.data.values():
            assert not value.is_secret or value.value.startswith("replace-me")
