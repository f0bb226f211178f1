"""What a person sees of a message, and that it can be read back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stigmer.pb.agentic import (
    agent_pb2,
    agentexecution_pb2,
    environment_pb2,
    executioncontext_pb2,
    workflow_pb2,
)
from stigmer.resources import kinds, manifests, messages, present
from stigmer.resources.documents import documents
from stigmer.resources.messages import Problems
from stigmer.resources.present import MASK


def test_values_look_as_people_expect() -> None:
    """Own names, enum names, whole numbers, RFC 3339, base64; what is not set is left out."""
    execution = agentexecution_pb2.AgentExecution(kind="AgentExecution")
    execution.status.phase = agentexecution_pb2.EXECUTION_IN_PROGRESS
    execution.status.audit.spec_audit.created_at.FromNanoseconds(1_500_000_000)
    execution.spec.callback_token = b"hello"
    execution.status.messages.add(type=2, content="hi").metadata.update({"tokens": 12, "cost": 0.5, "x": None})
    assert present.as_dict(execution, show_secrets=True) == {
        "kind": "AgentExecution",
        "spec": {"callback_token": "aGVsbG8="},
        "status": {
            "messages": [{"type": "MESSAGE_AI", "content": "hi", "metadata": {"cost": 0.5, "tokens": 12, "x": None}}],
            "phase": "EXECUTION_IN_PROGRESS",
            "audit": {"spec_audit": {"created_at": "1970-01-01T00:00:01.500Z"}},
        },
    }
    assert list(present.as_dict(execution)) == ["kind", "spec", "status"]


def test_what_has_no_name_or_text_is_shown_all_the_same() -> None:
    """A number without a name, a time without a text and a number that JSON lacks do not stop a `get`."""
    status: Any = agentexecution_pb2.AgentExecutionStatus(phase=77)
    status.audit.spec_audit.created_at.CopyFrom(Timestamp(seconds=10**15))
    status.messages.add().metadata.update({"n": float("nan")})
    shown = present.as_dict(status)
    assert shown["phase"] == 77
    assert shown["audit"]["spec_audit"]["created_at"] == {"seconds": 10**15, "nanos": 0}
    assert shown["messages"][0]["metadata"] == {"n": "nan"}


def test_secrets_are_masked_unless_asked_for() -> None:
    """Values that are flagged, everything in runtime_env, and callback tokens."""
    environment = environment_pb2.Environment()
    environment.spec.data["A"].value = "open"
    environment.spec.data["B"].value = "hidden"
    environment.spec.data["B"].is_secret = True
    environment.spec.data["C"].is_secret = True
    shown = present.as_dict(environment)["spec"]["data"]
    assert shown == {
        "A": {"value": "open"},
        "B": {"value": MASK, "is_secret": True},
        "C": {"is_secret": True},
    }
    execution = agentexecution_pb2.AgentExecution()
    execution.spec.runtime_env["K"].value = "hidden"
    execution.spec.callback_token = b"hidden"
    execution.status.callback_token = b"hidden"
    shown = present.as_dict(execution)
    assert shown["spec"] == {"runtime_env": {"K": {"value": MASK}}, "callback_token": MASK}
    assert shown["status"] == {"callback_token": MASK}
    assert "hidden" in present.json_text(present.as_dict(execution, show_secrets=True))


def test_secrets_inside_other_messages_are_masked() -> None:
    """An agent's env_spec holds the same values as an environment."""
    agent = agent_pb2.Agent()
    agent.spec.env_spec.data["B"].value = "hidden"
    agent.spec.env_spec.data["B"].is_secret = True
    context = executioncontext_pb2.ExecutionContext()
    context.spec.data["B"].value = "hidden"
    context.spec.data["B"].is_secret = True
    for message in (agent, context):
        assert "hidden" not in present.yaml_text(present.as_dict(message))


def test_long_texts_are_blocks_in_yaml() -> None:
    """A text of several lines reads as it was written; one line stays one line however long it is."""
    agent = agent_pb2.Agent()
    agent.spec.instructions = "First line.\nSecond line.\n"
    agent.spec.description = "word " * 60 + "end"
    text = present.yaml_text(present.as_dict(agent))
    assert "  instructions: |\n    First line.\n    Second line.\n" in text
    assert "word " * 60 + "end\n" in text


def test_yaml_shows_the_same_thing_twice_instead_of_an_alias() -> None:
    """No anchors in what a person reads."""
    shared = ["a"]
    assert "&" not in present.yaml_text({"x": shared, "y": shared})


def test_yaml_cannot_play_tricks_with_a_terminal() -> None:
    """The same characters are escaped in YAML, in keys too."""
    text = present.yaml_text({"\u202e": "\x1b[31m \x9b \u202e \ufeff é 漢", "b": "two\nlines \u2028"})
    assert text == '"\\u202e": "\\e[31m \\x9B \\u202e \\uFEFF é 漢"\nb: "two\\nlines \\L"\n'


def test_json_cannot_play_tricks_with_a_terminal() -> None:
    """Controls and characters that turn text round are escaped, and mean the same."""
    data = {"a": "\x1b[31m \x9b \u202e \u200b \x7f é 漢"}
    text = present.json_text(data, indent=None)
    assert text == '{"a": "\\u001b[31m \\u009b \\u202e \\u200b \\u007f é 漢"}'
    assert json.loads(text) == data


def test_a_table_shows_name_slug_org_and_phase() -> None:
    """The phase where the status has one; of an unknown phase its number."""
    execution = agentexecution_pb2.AgentExecution(metadata={"name": "N", "slug": "n", "org": "o"})
    execution.status.phase = 3
    assert present.summary(execution) == present.Summary("N", "n", "o", "EXECUTION_COMPLETED")
    execution.status.phase = 9
    assert present.summary(execution).phase == "9"
    assert present.summary(agent_pb2.Agent(metadata={"name": "N"})) == present.Summary("N", "", "", "")


# Of the two zeros the negative one is shown as the other, and is not among these.
texts = st.text(st.characters(exclude_categories=["Cs"])) | st.text("ab \n\t:#-'\"|>&*!%{}[],?~=<0123456789.+eyn_")
structs = st.recursive(
    st.none()
    | st.booleans()
    | texts
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False).map(lambda number: number + 0.0),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def _workflow(description: str, values: dict[str, Any], labels: dict[str, str]) -> workflow_pb2.Workflow:
    workflow = workflow_pb2.Workflow(metadata={"name": "x", "labels": labels}, spec={"description": description})
    workflow.spec.tasks.add(name="t").task_config.update(values)
    return workflow


def _read(text: str, *, json_only: bool) -> workflow_pb2.Workflow:
    (node,) = documents(text, json_only=json_only)
    workflow = workflow_pb2.Workflow()
    problems = Problems()
    messages.fill(workflow, node, (), problems)
    assert problems.found == []
    return workflow


@settings(deadline=None)  # the first example imports the YAML library
@given(texts, st.dictionaries(texts, structs, max_size=3), st.dictionaries(texts, texts, max_size=2))
@example("", {"": "...\n"}, {})
def test_what_is_shown_reads_back_to_the_same_message(
    description: str, values: dict[str, Any], labels: dict[str, str]
) -> None:
    """Whatever the texts and numbers are, YAML and JSON lose nothing."""
    workflow = _workflow(description, values, labels)
    data = present.as_dict(workflow)
    assert _read(present.yaml_text(data), json_only=False) == workflow
    assert _read(present.json_text(data), json_only=True) == workflow
    assert _read(present.json_text(data, indent=None), json_only=False) == workflow


@pytest.mark.parametrize("text", ["2020-01-01", "1_000", "0b1", "0o7", "yes", "on", "~", "=", "<<", "1e3", ".5", "-"])
def test_strings_that_look_like_something_else_stay_strings(text: str) -> None:
    """They are quoted where YAML 1.2 would read them otherwise."""
    assert _read(present.yaml_text({"spec": {"description": text}}), json_only=False).spec.description == text


def test_what_get_prints_can_be_applied() -> None:
    """The dict of a stored resource, status and all, is a manifest of the same spec."""
    from stigmer.resources import explain

    for kind in kinds.all_kinds():
        (made,) = manifests.parse(explain.example(kind), kind.name)
        message: Any = made.message
        message.status.audit.spec_audit.event = "created"
        for text in (
            present.yaml_text(present.as_dict(message, show_secrets=True)),
            present.json_text(present.as_dict(message, show_secrets=True)),
        ):
            (again,) = manifests.parse(text, "again")
            assert again.message.spec == message.spec
            assert again.message.metadata == message.metadata
            assert not again.message.HasField("status")
