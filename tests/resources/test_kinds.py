"""Kinds are found by every name that people use for them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stigmer.resources import kinds

# number, name, message, prefix: the table of the contract.
TABLE = [
    (40, "agent", "Agent", "agt"),
    (41, "agent_execution", "AgentExecution", "aex"),
    (42, "session", "Session", "ses"),
    (43, "skill", "Skill", "skl"),
    (44, "mcp_server", "McpServer", "mcp"),
    (45, "agent_instance", "AgentInstance", "ain"),
    (50, "workflow", "Workflow", "wfl"),
    (51, "workflow_instance", "WorkflowInstance", "win"),
    (52, "workflow_execution", "WorkflowExecution", "wex"),
    (53, "environment", "Environment", "env"),
    (54, "execution_context", "ExecutionContext", "exec"),
]


def test_kinds_are_those_of_the_contract() -> None:
    """Number, name, message and id prefix of every kind are the contract's; only skills are versioned."""
    assert [(one.number, one.name, one.message_name, one.id_prefix) for one in kinds.all_kinds()] == TABLE
    assert [one.name for one in kinds.all_kinds() if one.versioned] == ["skill"]
    assert {one.api_version for one in kinds.all_kinds()} == {"agentic.stigmer.ai/v1"}


@pytest.mark.parametrize(
    "text",
    [
        "agent_execution",
        "agent_executions",
        "AgentExecution",
        "aex",
        "agent-executions",
        "AGENTEXECUTION",
        "Aex",
    ],
)
def test_a_kind_is_found_by_any_of_its_names(text: str) -> None:
    """Singular, plural, message and prefix, in any case and with any separator, name the same kind."""
    found = kinds.find(text)
    assert found is not None
    assert found.name == "agent_execution"


@pytest.mark.parametrize("text", ["", "agnet", "agent execution", "Ägent", "execution"])
def test_what_names_no_kind_is_not_found(text: str) -> None:
    """There is no guessing."""
    assert kinds.find(text) is None


def test_no_name_means_two_kinds() -> None:
    """All names of all kinds are different when folded."""
    every = [name for one in kinds.all_kinds() for name in {one.name, one.plural, one.id_prefix}]
    for name in every:
        found = kinds.find(name)
        assert found is not None
        assert name in (found.name, found.plural, found.id_prefix)


def test_decode_gives_none_for_what_is_no_message() -> None:
    """Unknown kinds and other bytes are left to the caller as bytes."""
    agent = kinds.find("agent")
    assert agent is not None
    assert kinds.decode("note", b"") is None
    assert kinds.decode(agent, b"\xff\xff") is None
    assert kinds.decode("agent", agent.message_class(kind="Agent").SerializeToString()).kind == "Agent"


def test_importing_kinds_imports_no_messages() -> None:
    """A command that asks for no kind does not pay for them."""
    code = "import sys; import stigmer.resources.kinds; print([m for m in sys.modules if 'agentic' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
