"""Rules: what they mean where it is not plain. test_every_rule.py breaks each of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from google.protobuf import struct_pb2
from google.protobuf.message_factory import GetMessageClass

from stigmer.pb.agentic import (
    agent_pb2,
    agentinstance_pb2,
    apiresource_pb2,
    environment_pb2,
    mcpserver_pb2,
    skill_pb2,
    workflow_pb2,
    workflow_tasks_pb2,
)
from stigmer.resources import rules
from stigmer.resources.rules import check

WAIT = apiresource_pb2.WORKFLOW_TASK_KIND_WAIT
FOR = apiresource_pb2.WORKFLOW_TASK_KIND_FOR


def _message(full_name: str) -> Any:
    return GetMessageClass(workflow_tasks_pb2.DESCRIPTOR.pool.FindMessageTypeByName(full_name))()


def test_the_environments_kind_is_taken_beside_the_published_slip() -> None:
    """environment_refs may be of kind environment, and of the kind that was published by mistake."""
    for kind in (52, 53):
        spec = agentinstance_pb2.AgentInstanceSpec(agent_id="a", environment_refs=[{"kind": kind, "slug": "x"}])
        assert check(spec) == []


def test_rules_of_strings_hold_for_the_empty_string() -> None:
    """An empty string is too short, and does not match a pattern; a pattern may allow it."""
    assert [one.rule for one in check(agent_pb2.AgentSpec())] == ["min_len"]
    assert [one.rule for one in check(skill_pb2.SkillStatus())] == ["pattern"]
    assert check(skill_pb2.SkillSpec(skill_md="x", tag="")) == []


def test_length_counts_characters_not_bytes() -> None:
    """Ten umlauts are ten characters."""
    assert check(agent_pb2.AgentSpec(instructions="ä" * 10)) == []


def test_a_pattern_s_end_is_the_end_of_the_text() -> None:
    """A line feed at the end is not let pass, as Python's `$` would."""
    document = workflow_pb2.WorkflowDocument(dsl="1.0.0\n", namespace="a", name="b", version="c")
    assert [one.rule for one in check(document)] == ["pattern"]


def test_a_timeout_left_out_is_in_order_and_a_port_left_out_is_not() -> None:
    """Zero stands for "not set" only where the field says so."""
    call = workflow_tasks_pb2.HttpCallTaskConfig(method="GET", endpoint={"uri": "x"})
    assert check(call) == []
    assert [one.path for one in check(mcpserver_pb2.PortMapping(host_port=1))] == ["container_port"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5])
def test_a_number_that_is_none_breaks_its_bounds(value: float) -> None:
    """NaN compares false with every bound and is refused all the same."""
    broken = {one.rule for one in check(workflow_tasks_pb2.AgentExecutionConfig(temperature=value))}
    assert broken == {"gte", "lte"} if math.isnan(value) else len(broken) == 1


def test_a_uri_needs_a_scheme_and_no_blanks() -> None:
    """Only what RFC 3986 allows is a URI."""
    for url, valid in [
        ("https://example.com/mcp?x=%20#top", True),
        ("urn:a:b", True),
        ("example.com/mcp", False),
        ("https://example.com/a b", False),
        ("https://${HOST}/", False),
        ("https://example.com/%zz", False),
    ]:
        assert (check(mcpserver_pb2.HttpServerConfig(url=url)) == []) is valid, url


def test_lists_and_maps_are_checked_entry_by_entry() -> None:
    """The path has the index in a list and the key in a map."""
    spec = agent_pb2.AgentSpec(instructions="long enough")
    spec.mcp_servers.add(name="fine")
    spec.mcp_servers.add().stdio.command = ""
    assert [one.path for one in check(spec)] == ["mcp_servers[1].name", "mcp_servers[1].stdio.command"]
    context = _message("ai.stigmer.agentic.executioncontext.v1.ExecutionContextSpec")
    context.execution_id = "x"
    context.data["A"].value = "fine"
    context.data["odd key\n"].is_secret = True
    assert [one.path for one in check(context)] == ['data["odd key\\n"].value']


def _task(kind: int, config: dict[str, object]) -> workflow_pb2.WorkflowTask:
    struct = struct_pb2.Struct()
    struct.update(config)
    return workflow_pb2.WorkflowTask(name="t", kind=kind, task_config=struct)


def test_the_configuration_of_a_task_is_checked_as_its_kind_s_message() -> None:
    """Its rules hold, with a path that goes on into the configuration."""
    assert check(_task(WAIT, {"seconds": 5})) == []
    assert [(one.path, one.rule) for one in check(_task(WAIT, {}))] == [("task_config.seconds", "required")]
    found = check(_task(WAIT, {"seconds": -1}))
    assert [(one.path, one.rule) for one in found] == [("task_config.seconds", "gte")]


def test_a_configuration_of_the_wrong_type_is_one_violation() -> None:
    """What cannot be read is said once, and not called missing too."""
    found = check(_task(WAIT, {"seconds": "five"}))
    assert [(one.path, one.rule) for one in found] == [("task_config.seconds", "form")]


def test_tasks_inside_tasks_are_checked() -> None:
    """Nested lists of tasks have the same rules, each violation is found once."""
    inner = {"name": "i", "kind": "WORKFLOW_TASK_KIND_WAIT", "task_config": {"seconds": -3}}
    middle = {"name": "m", "kind": FOR, "task_config": {"each": "x", "in": "y", "do": [inner]}}
    found = check(_task(FOR, {"each": "x", "in": "y", "do": [middle]}))
    assert [one.path for one in found] == ["task_config.do[0].task_config.do[0].task_config.seconds"]


def test_fields_of_a_newer_client_are_let_pass_in_a_configuration() -> None:
    """Checking is not where unknown fields are refused: a manifest is."""
    assert check(_task(WAIT, {"seconds": 5, "jitter": 1})) == []


def test_a_violation_shows_the_value_escaped_and_short() -> None:
    """What stands in a message cannot play tricks with a terminal."""
    found = check(environment_pb2.EnvironmentId())
    assert found[0].value == ""
    wrong = mcpserver_pb2.HttpServerConfig(url="\x1b[31m" + "x" * 1000)
    violation = check(wrong)[0]
    assert isinstance(violation, rules.Violation)
    assert "\x1b" not in violation.value + violation.problem
    assert len(violation.value) < 120
