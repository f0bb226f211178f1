"""Every rule of the contract is broken once, and the refusal names the field and the rule."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor

from stigmer.errors import InvalidArgument
from stigmer.pb import agentic
from stigmer.pb.agentic import agent_pb2, agentexecution_pb2, apiresource_pb2, workflow_pb2, workflow_tasks_pb2
from stigmer.resources import options, paths, rules

from .contract import contract
from .valid import Case, as_task, break_rule, cases, name_of, places, rules_of, valid

MESSAGE_LENGTH_MAX = 1_000
HOSTILE = ["x" * 1_000_000, "\x1b[2J\x00\r\n\x7f" * 1_000, "\u202egnp.exe\u2028", "\U0001f600" * 500, "%n%s{0}${A}"]


def _messages() -> Iterator[Descriptor]:
    for module in pkgutil.iter_modules(agentic.__path__):
        descriptor = importlib.import_module(f"{agentic.__name__}.{module.name}").DESCRIPTOR
        yield from descriptor.message_types_by_name.values()


MESSAGES = {one.full_name: one for one in _messages()}
CASES = list(cases(iter(MESSAGES.values())))
REQUESTS = {method.request: None for methods in contract().services.values() for method in methods.values()}
PLACES = places(MESSAGES[name] for name in REQUESTS)
FORMS = {
    name: value.number
    for value in apiresource_pb2.WorkflowTaskKind.DESCRIPTOR.values
    if (name := options.config_message_of(value)) is not None
}
# A skill is pushed and not sent whole; the rest are ids and requests that the published files have and no method takes.
IN_NO_REQUEST = {
    "agentic.agentexecution.v1.SessionId",
    "agentic.environment.v1.EnvironmentId",
    "agentic.mcpserver.v1.McpServerId",
    "agentic.session.v1.AgentId",
    "agentic.skill.v1.Skill",
    "agentic.skill.v1.SkillSpec",
    "agentic.skill.v1.SkillStatus",
    "agentic.workflowexecution.v1.WorkflowExecutionUpdate",
    "agentic.workflowexecution.v1.WorkflowId",
    "commons.apiresource.ApiResourceByOrgBySlugRequest",
    "commons.apiresource.FindApiResourcesRequest",
}


def _refusal(message: Any) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as refused:
        rules.require_valid(message)
    return refused.value


def test_the_cases_are_every_rule_of_the_contract() -> None:
    """What is broken in this file are the pairs of field and rule that wire.txt has, and no others."""
    theirs = {
        Case(message, field.name, rule)
        for message, fields in contract().messages.items()
        for field in fields
        for rule, _value in field.rules
        if rule != "id"
    }
    assert len(CASES) == len(set(CASES))
    assert set(CASES) == theirs


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_with_what_its_rules_demand_is_valid(name: str) -> None:
    """Nothing is found in it, and it is not refused."""
    message = valid(MESSAGES[name])
    assert rules.check(message) == []
    rules.require_valid(message)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_message_with_one_broken_rule_is_refused_with_field_and_rule(case: Case) -> None:
    """The one violation has path and rule, and the error's words have both."""
    field = MESSAGES[case.message].fields_by_name[case.field]
    message = valid(MESSAGES[case.message])
    path = paths.text(break_rule(message, field, case.rule))
    name = name_of(field, case.rule)
    assert [(one.path, one.rule) for one in rules.check(message)] == [(path, name)]
    error = _refusal(message)
    assert error.field == path
    assert error.message.startswith(f"{path}: ")
    assert f"[{name}]" in error.problem
    assert "more" not in error.problem.partition(f"[{name}]")[2]


@pytest.mark.parametrize("case", [case for case in CASES if case.message in PLACES], ids=str)
def test_a_rule_that_is_broken_inside_a_request_is_found_at_its_place(case: Case) -> None:
    """Wherever a message can be in a request of a service, the path goes on from the request's own fields."""
    root, inside, path = PLACES[case.message].build()
    assert rules.check(root) == []
    field = MESSAGES[case.message].fields_by_name[case.field]
    path += break_rule(inside, field, case.rule)
    found = rules.check(root)
    assert (path, name_of(field, case.rule)) in [(one.parts, one.rule) for one in found]
    # A scope without a name is also none of those that a kind of resource may have: two rules of one field.
    assert {one.parts for one in found} == {path}
    assert _refusal(root).field == paths.text(path)


@pytest.mark.parametrize("case", [case for case in CASES if case.message in FORMS], ids=str)
def test_a_rule_that_is_broken_in_a_task_s_configuration_is_found_there(case: Case) -> None:
    """The path goes through the Struct into the form that the task's kind chooses."""
    form = valid(MESSAGES[case.message])
    task = MESSAGES["ai.stigmer.agentic.workflow.v1.WorkflowTask"]
    assert rules.check(as_task(form, FORMS[case.message], task)) == []
    field = MESSAGES[case.message].fields_by_name[case.field]
    path = ("task_config", *break_rule(form, field, case.rule))
    found = rules.check(as_task(form, FORMS[case.message], task))
    assert [(one.parts, one.rule) for one in found] == [(path, name_of(field, case.rule))]


BOUNDS = ("min_len", "max_len", "gte", "lte")


@pytest.mark.parametrize("case", [case for case in CASES if case.rule in BOUNDS], ids=str)
def test_a_value_at_its_bound_is_valid(case: Case) -> None:
    """The smallest and the largest that a rule names are themselves in order."""
    field = MESSAGES[case.message].fields_by_name[case.field]
    bound = int(getattr(rules_of(field), case.rule))
    message = valid(MESSAGES[case.message])
    setattr(message, case.field, "x" * bound if case.rule.endswith("_len") else bound)
    assert rules.check(message) == []


def test_what_no_request_holds_is_known() -> None:
    """Every message with rules is in a request or in a task's configuration, but for those that no method takes."""
    forms = places(MESSAGES[name] for name in FORMS)
    rest = {case.message for case in CASES} - PLACES.keys() - forms.keys()
    assert {name.removeprefix("ai.stigmer.") for name in rest} == IN_NO_REQUEST


# --- the words -----------------------------------------------------------------------------------------


def test_the_words_have_problem_rule_and_value() -> None:
    """A length says how many there are and shows what; other rules have the value in their words."""
    error = _refusal(agent_pb2.AgentSpec(instructions="abc"))
    assert error.message == 'instructions: must have at least 10 characters, has 3 [min_len]: "abc"'
    assert _refusal(agent_pb2.AgentSpec()).problem == (
        "must not be empty (must have at least 10 characters, has 0) [min_len]"
    )
    error = _refusal(workflow_tasks_pb2.AgentExecutionConfig(temperature=2))
    assert error.message == "temperature: must be at most 1, is 2 [lte]"
    error = _refusal(agentexecution_pb2.AgentExecutionUpdateStatusInput(execution_id="aex-1"))
    assert error.message == "status: is required [required]"


def test_other_broken_rules_are_counted() -> None:
    """The first is told in full, of the rest how many they are."""
    document = workflow_pb2.WorkflowDocument(dsl="1.0.0", namespace="a")
    assert _refusal(document).message == "name: is required [required]; 1 more rule is broken"
    document.ClearField("namespace")
    assert _refusal(document).message == "namespace: is required [required]; 2 more rules are broken"


def test_no_more_violations_are_looked_for_than_are_counted() -> None:
    """A message of a million broken ones is refused after the first hundred."""
    spec = agent_pb2.AgentSpec(instructions="long enough")
    spec.mcp_servers.extend([agent_pb2.McpServerDefinition()] * 1_000)
    assert len(rules.check(spec)) == 1_000
    assert len(rules.check(spec, limit=3)) == 3
    assert rules.check(spec, limit=3) == rules.check(spec)[:3]
    error = _refusal(spec)
    assert error.field == "mcp_servers[0].name"
    assert error.problem == "is required [required]; at least 99 more rules are broken"


# --- hostile values ------------------------------------------------------------------------------------


def _assert_safe_to_show(error: InvalidArgument) -> None:
    assert error.message.isprintable()
    assert len(error.message) <= MESSAGE_LENGTH_MAX


@pytest.mark.parametrize("value", HOSTILE, ids=["long", "control", "bidirectional", "emoji", "format"])
@pytest.mark.parametrize(
    "case", [case for case in CASES if case.rule in ("pattern", "const", "in", "uri", "max_len")], ids=str
)
def test_a_hostile_text_is_refused_in_a_line_that_is_short_and_safe(case: Case, value: str) -> None:
    """Whatever stands in a field, the words are printable, and few."""
    message = valid(MESSAGES[case.message])
    setattr(message, case.field, value)
    if not (found := rules.check(message)):
        # Any characters will do for some patterns and lengths, so long as they are of a kind, or few.
        assert case.rule in ("pattern", "max_len")
        return
    assert case.field in [one.path for one in found]
    _assert_safe_to_show(_refusal(message))


@pytest.mark.parametrize("value", HOSTILE, ids=["long", "control", "bidirectional", "emoji", "format"])
def test_a_hostile_key_of_a_map_is_shown_short_and_safe(value: str) -> None:
    """A path has the keys of maps in it, and they are anybody's."""
    spec = agentexecution_pb2.AgentExecutionSpec(message="x")
    spec.runtime_env[value].is_secret = True
    error = _refusal(spec)
    assert error.field.startswith("runtime_env[")
    _assert_safe_to_show(error)


def test_keys_inside_of_keys_make_no_endless_path() -> None:
    """A configuration with deep and long keys is refused in words that fit a header."""
    task = workflow_pb2.WorkflowTask(name="t", kind=apiresource_pb2.WORKFLOW_TASK_KIND_RUN)
    task.task_config["workflow"] = "w"
    inside = task.task_config.get_or_create_struct("input")
    for _ in range(20):
        inside = inside.get_or_create_struct("\U0001f600" * 100)
    inside["number"] = float("nan")
    error = _refusal(task)
    assert error.problem.endswith("[form]")
    assert error.field.startswith("task_config.input[")
    assert error.field.endswith("...")
    _assert_safe_to_show(error)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_none_is_refused_in_a_form_too(value: float) -> None:
    """A Struct can hold what JSON cannot write."""
    config = workflow_tasks_pb2.AgentExecutionConfig(temperature=value)
    assert _refusal(config).field == "temperature"
    task = workflow_pb2.WorkflowTask(name="t", kind=apiresource_pb2.WORKFLOW_TASK_KIND_WAIT)
    task.task_config["seconds"] = value
    assert _refusal(task).field == "task_config.seconds"


def test_a_secret_has_no_rule_that_would_show_it() -> None:
    """Where a rule's words have the value in them, the value is none that may not be shown."""
    for message in MESSAGES.values():
        for field in message.fields:
            if options.secret_of(field):
                shown = {option.name: value for option, value in rules_of(field).ListFields()}
                # What is too short for one character has nothing in it to show.
                assert shown.items() <= {"min_len": 1, "required": True}.items(), field.full_name
