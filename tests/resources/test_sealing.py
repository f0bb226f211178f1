"""Secrets of messages: what is sealed, what stays as it is, and what a reader gets back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checks import deterministic
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from stigmer.codec import value_bytes, varint
from stigmer.errors import InvalidArgument, KeyRetired
from stigmer.pb.agentic import (
    agent_pb2,
    agentexecution_pb2,
    environment_pb2,
    executioncontext_pb2,
    workflowexecution_pb2,
)
from stigmer.resources import kinds, options, present, sealing
from stigmer.resources.present import MASK
from stigmer.vault import SEALED_PREFIX, Vault

KIND = {
    environment_pb2.Environment: "environment",
    agent_pb2.Agent: "agent",
    agentexecution_pb2.AgentExecution: "agent_execution",
    workflowexecution_pb2.WorkflowExecution: "workflow_execution",
    executioncontext_pb2.ExecutionContext: "execution_context",
}


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    """The keys of a new data directory."""
    vault = Vault.open(str(tmp_path), None, {})
    yield vault
    vault.close()


def environment(**values: str) -> Any:
    """Make an environment; what begins with S is a secret."""
    message = environment_pb2.Environment(kind="Environment", metadata={"name": "n"})
    for name, value in values.items():
        message.spec.data[name].value = value
        message.spec.data[name].is_secret = name.startswith("S")
    return message


def sealed(message: Message, vault: Vault, stored: Message | None = None, id: str = "x") -> Any:
    """Give a message as it would be stored."""
    copy = type(message)()
    copy.CopyFrom(message)
    sealing.seal(copy, KIND[type(message)], id, vault, stored)
    return copy


def revealed(message: Message, vault: Vault, id: str = "x") -> Any:
    """Give a stored message as a reader gets it."""
    kind = KIND[type(message)]
    return type(message).FromString(sealing.reveal(kind, id, value_bytes(message), vault))


# --- which values --------------------------------------------------------------------------------------------


def test_what_is_masked_is_what_is_sealed(vault: Vault) -> None:
    """Flagged values, all of runtime_env, callback tokens; what is empty, and all else, stays."""
    execution = agentexecution_pb2.AgentExecution(kind="AgentExecution", metadata={"name": "hunter2"})
    execution.spec.message = "hunter2"
    execution.spec.runtime_env["A"].value = "hunter2"
    execution.spec.runtime_env["B"].value = "hunter2"
    execution.spec.runtime_env["B"].is_secret = True
    execution.spec.runtime_env["E"].SetInParent()
    execution.spec.callback_token = b"\xff\x00"
    execution.status.callback_token = b"hunter2"
    execution.status.error = "hunter2"
    stored = sealed(execution, vault)
    assert stored.spec.message == stored.status.error == stored.metadata.name == "hunter2"
    secrets = [
        stored.spec.runtime_env["A"].value,
        stored.spec.runtime_env["B"].value,
        stored.spec.callback_token.decode("ascii"),
        stored.status.callback_token.decode("ascii"),
    ]
    assert all(text.startswith(SEALED_PREFIX) for text in secrets)
    assert len(set(secrets)) == 4
    assert stored.spec.runtime_env["E"].value == ""
    assert present.as_dict(stored) == present.as_dict(execution)
    assert revealed(stored, vault) == execution


def test_every_secret_of_the_platforms_messages_can_be_sealed() -> None:
    """It is a text or bytes in spec or status, and no form of a Struct has one: other places need other code."""
    held = {"agent", "agent_execution", "environment", "execution_context", "mcp_server", "workflow"}
    held.add("workflow_execution")
    assert {kind.name for kind in kinds.all_kinds() if sealing.may_hold_secrets(kind.name)} == held
    assert not sealing.may_hold_secrets("note")
    assert not sealing.may_hold_secrets("Environments"), "another kind for the store"
    waiting = [(kind.descriptor, 0) for kind in kinds.all_kinds()]
    seen: set[str] = set()
    found = 0
    while waiting:
        message, depth = waiting.pop()
        for field in message.fields:
            inner = options.map_value(field).message_type if options.is_map(field) else field.message_type
            if options.secret_of(field) and inner is None:
                found += 1
                assert field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES), field.full_name
                assert not field.is_repeated, field.full_name
                assert depth > 0, field.full_name
            if options.secret_of(field) and depth == 0:
                assert not field.is_repeated, field.full_name
            if inner is not None and inner.full_name not in seen:
                seen.add(inner.full_name)
                waiting.append((inner, depth + 1))
    assert found >= 5
    from stigmer.pb.agentic import workflow_tasks_pb2

    for form in workflow_tasks_pb2.DESCRIPTOR.message_types_by_name.values():
        assert not sealing._fields_to_secrets(form), form.full_name


def test_values_that_are_no_secret_need_no_key(vault: Vault, tmp_path: Path) -> None:
    """Nothing is made for them, and a message that holds none stays as it is, byte for byte."""
    for message in (environment(OPEN="value", S=""), agent_pb2.Agent(kind="Agent")):
        assert value_bytes(sealed(message, vault)) == value_bytes(message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("field", ["value", "token"])
def test_the_mask_is_refused_by_its_place(vault: Vault, tmp_path: Path, field: str) -> None:
    """It is what a person was shown in place of a secret; no key is made for it."""
    message: Any = environment(S_A="secret", S_B=MASK)
    path = r"spec\.data\.S_B\.value"
    if field == "token":
        message = agentexecution_pb2.AgentExecution()
        message.spec.callback_token = MASK.encode()
        path = r"spec\.callback_token"
    with pytest.raises(InvalidArgument, match=f"^{path}: is the text that stands for a secret"):
        sealing.prepare(KIND[type(message)], "x", message, vault)
    assert list(tmp_path.iterdir()) == []
    assert value_bytes(sealed(environment(OPEN=MASK), vault)) == value_bytes(environment(OPEN=MASK))


# --- what is stored already ----------------------------------------------------------------------------------


def test_what_changes_nothing_changes_no_byte(vault: Vault) -> None:
    """The secrets themselves, or the sealed texts that a reader without the keys would send back."""
    stored = sealed(environment(S_A="one", S_B="two", OPEN="three"), vault)
    for again in (environment(S_A="one", S_B="two", OPEN="three"), stored):
        assert value_bytes(sealed(again, vault, stored)) == value_bytes(stored)
    changed = sealed(environment(S_A="one", S_B="other", S_C="two"), vault, stored)
    assert changed.spec.data["S_A"] == stored.spec.data["S_A"]
    assert changed.spec.data["S_B"] != stored.spec.data["S_B"]
    assert changed.spec.data["S_C"].value not in {value.value for value in stored.spec.data.values()}
    assert revealed(changed, vault) == environment(S_A="one", S_B="other", S_C="two")
    assert "S_C" not in stored.spec.data, "looking for it has put it there"


def test_a_sealed_text_is_kept_only_in_its_own_place(vault: Vault) -> None:
    """Anywhere else it is a secret like any other, and is given back as it was sent."""
    stored = sealed(environment(S_A="one", S_B="two"), vault)
    text = stored.spec.data["S_A"].value
    for sent in (
        environment(S_A="one", S_B=text),
        environment(S_C=text),
        environment(S_A=text + "x"),
        environment(S_A=SEALED_PREFIX),
        environment(S_A=SEALED_PREFIX + "AAAA"),
        environment(OPEN=text),
    ):
        assert revealed(sealed(sent, vault, stored), vault) == sent
    assert revealed(sealed(environment(S_A=text), vault, None), vault) == environment(S_A=text)
    other = sealed(environment(S_A=text), vault, sealed(environment(S_A="x"), vault, id="y"), id="y")
    assert revealed(other, vault, "y") == environment(S_A=text)


def test_text_that_was_no_secret_does_not_become_one_that_opens(vault: Vault) -> None:
    """A sealed text in an open value is text; flagged later, it is sealed as such."""
    text = sealed(environment(S_A="one"), vault).spec.data["S_A"].value
    stored = environment(X=text)
    flagged = environment(X=text)
    flagged.spec.data["X"].is_secret = True
    again = sealed(flagged, vault, stored)
    assert again.spec.data["X"].value != text
    assert revealed(again, vault) == flagged


def test_what_is_stored_unsealed_is_sealed_when_it_is_sent_again(vault: Vault) -> None:
    """From before there were keys; where no secret was sent it stays as it is."""
    stored = environment(S_A="one")
    assert sealing.reveal("environment", "x", value_bytes(stored), vault) == value_bytes(stored)
    again = sealed(environment(S_A="one"), vault, stored)
    assert again.spec.data["S_A"].value.startswith(SEALED_PREFIX)
    sealer = sealing.prepare("environment", "z", environment(), vault)
    kept = environment(S_A="one")
    sealer.seal(kept, stored)
    assert kept == stored
    with pytest.raises(ValueError, match=r"spec\.data\.S_B\.value holds a secret"):
        sealer.seal(environment(S_B="new"), stored)


def test_a_secret_whose_key_is_gone_stays_until_it_is_set_again(vault: Vault) -> None:
    """A reader gets the sealed text; sent back, it is kept; another secret in its place is sealed with a new key."""
    stored = sealed(environment(S_A="one", S_B="two"), vault)
    vault.destroy(vault.retire("environment", "x"))
    assert sealing.reveal("environment", "x", value_bytes(stored), vault) == value_bytes(stored)
    mended = environment(S_A=stored.spec.data["S_A"].value, S_B="new")
    again = sealed(mended, vault, stored)
    assert again.spec.data["S_A"] == stored.spec.data["S_A"]
    assert revealed(again, vault) == mended


def test_a_sealer_is_prepared_again_after_a_deletion(vault: Vault) -> None:
    """Deleted between prepare and the decision: nothing may be sealed with a key that is about to be destroyed."""
    message = environment(S_A="one")
    sealer = sealing.prepare("environment", "x", message, vault)
    keys = vault.retire("environment", "x")
    with pytest.raises(KeyRetired):
        sealer.seal(environment(S_A="one"), None)
    again = sealing.prepare("environment", "x", message, vault)
    again.seal(message, None)
    vault.destroy(keys)
    assert revealed(message, vault) == environment(S_A="one")


def test_a_save_that_was_not_made_leaves_no_key(vault: Vault) -> None:
    """Where the resource had one before, that one stays."""
    sealing.prepare("environment", "x", environment(S_A="one"), vault).discard()
    assert vault.keys_of("environment", "x") == ()
    stored = sealed(environment(S_A="one"), vault)
    sealing.prepare("environment", "x", environment(S_A="two"), vault).discard()
    sealing.prepare("environment", "x", environment(), vault).discard()
    assert revealed(stored, vault) == environment(S_A="one")


def test_sealing_does_no_io_after_prepare(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer's thread waits for no disk, whatever is compared with what is stored."""
    stored = sealed(environment(S_A="one", S_B="two"), vault)
    sealer = sealing.prepare("environment", "x", environment(S_A="one", S_B="new"), vault)
    vault._opened.clear()

    def refuse(*_: object) -> None:
        raise AssertionError("I/O")

    for name in ("read_at", "write_at", "sync_data"):
        monkeypatch.setattr(f"stigmer.log.files.{name}", refuse)
    message = environment(S_A="one", S_B="new")
    sealer.seal(message, stored)
    assert message.spec.data["S_A"] == stored.spec.data["S_A"]


# --- reading -------------------------------------------------------------------------------------------------


def test_a_value_without_a_sealed_text_is_given_back_itself(vault: Vault) -> None:
    """Every read passes here: nothing is parsed or copied, and bytes that are no message do no harm."""
    for value in (value_bytes(environment(S_A="one")), b"", b"\xff" * 100):
        assert sealing.reveal("environment", "x", value, vault) is value
    marked = SEALED_PREFIX.encode() * 2
    for kind in ("note", "session", "environments"):
        assert sealing.reveal(kind, "x", marked, vault) is marked


def test_a_sealed_text_means_nothing_outside_of_a_secret(vault: Vault) -> None:
    """In a message of an agent, a name, an open value: even one of this very resource stays as it is."""
    execution = agentexecution_pb2.AgentExecution(kind="AgentExecution")
    execution.spec.runtime_env["A"].value = "one"
    stored = sealed(execution, vault)
    text = stored.spec.runtime_env["A"].value
    stored.metadata.name = stored.spec.message = stored.status.error = text
    stored.status.messages.add(content=text).metadata.update({"text": text})
    value = value_bytes(stored)
    again = agentexecution_pb2.AgentExecution.FromString(sealing.reveal("agent_execution", "x", value, vault))
    assert again.spec.runtime_env["A"].value == "one"
    stored.spec.runtime_env["A"].value = "one"
    assert again == stored


def test_secrets_moved_to_another_resource_stay_closed(vault: Vault) -> None:
    """What is stored under another id, or as another kind, is given as it is stored."""
    value = value_bytes(sealed(environment(S_A="one"), vault))
    sealed(environment(S_A="other"), vault, id="y")
    assert sealing.reveal("environment", "y", value, vault) == value
    context = executioncontext_pb2.ExecutionContext.FromString(value)
    assert sealing.reveal("execution_context", "x", value_bytes(context), vault) == value_bytes(context)


def test_a_secret_that_does_not_fit_its_field_is_left_sealed(vault: Vault) -> None:
    """Bytes that are no UTF-8, put by someone in the place of a text."""
    stored = environment(S_A=vault.key_for("environment", "x").seal(b"\xff"))
    assert revealed(stored, vault) == stored


def test_what_is_not_known_survives(vault: Vault) -> None:
    """Unknown fields and numbers of enums, at every level, groups too, through sealing and opening."""
    unknown = varint(777 << 3 | 2) + b"\x03new" + varint(778 << 3) + b"\x05" + varint(779 << 3 | 5) + b"1234"
    group = varint(780 << 3 | 3) + varint(1 << 3) + b"\x07" + varint(780 << 3 | 4)
    for extra in (unknown, unknown + group):
        execution = agentexecution_pb2.AgentExecution(kind="AgentExecution")
        execution.spec.runtime_env["A"].value = "one"
        execution.spec.runtime_env["A"].MergeFromString(extra)
        execution.spec.MergeFromString(extra)
        execution.status.phase = 77
        execution.status.MergeFromString(extra)
        execution.MergeFromString(extra)
        stored = sealed(execution, vault)
        assert b"one" not in value_bytes(stored)
        for message in (stored, revealed(stored, vault)):
            assert value_bytes(message).count(b"\x03new") == 4
            assert message.status.phase == 77
        assert value_bytes(revealed(stored, vault)) == value_bytes(execution)


def test_a_broken_value_never_makes_a_read_fail(vault: Vault) -> None:
    """Cut short or changed anywhere, it is opened as far as it can be, or given as it is stored."""
    execution = agentexecution_pb2.AgentExecution(kind="AgentExecution", metadata={"name": "n"})
    execution.spec.runtime_env["A"].value = "one"
    execution.status.callback_token = b"two"
    value = value_bytes(sealed(execution, vault))
    for end in range(len(value)):
        sealing.reveal("agent_execution", "x", value[:end], vault)
    for bit in range(8 * len(value)):
        changed = bytearray(value)
        changed[bit // 8] ^= 1 << bit % 8
        sealing.reveal("agent_execution", "x", bytes(changed), vault)
    for tail in (b"\x0a", b"\xff" * 11, b"\x22\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x09\x00", b"\x07"):
        assert sealing.reveal("agent_execution", "x", value + tail, vault) == value + tail


def test_a_large_status_is_not_parsed(vault: Vault) -> None:
    """What is beside the secrets is copied as bytes: its encoding stays, even one that nobody would write."""
    execution = agentexecution_pb2.AgentExecution(kind="AgentExecution")
    execution.spec.runtime_env["A"].value = "one"
    # Twice the same field, the second of which counts: a parser would write one of them.
    status = b"\x32\x05first\x32\x06second" + b"\x0a\x07\x12\x05hello" * 80_000
    odd = varint(5 << 3 | 2) + varint(len(status)) + status
    value = value_bytes(sealed(execution, vault)) + odd
    begun = time.process_time()
    opened = sealing.reveal("agent_execution", "x", value, vault)
    seconds = time.process_time() - begun
    assert opened == value_bytes(execution) + odd
    assert seconds < 0.05


values = st.text(max_size=20) | st.sampled_from([MASK + "x", SEALED_PREFIX, SEALED_PREFIX + "AAAA"])
entries = st.dictionaries(st.text(max_size=5), st.tuples(values, st.booleans()), max_size=4)


def _message(made: type[Any], data: dict[str, tuple[str, bool]], token: bytes) -> Any:
    message = made(kind="any", metadata={"name": SEALED_PREFIX})
    if made is agent_pb2.Agent:
        target = message.spec.env_spec.data
    elif hasattr(message.spec, "runtime_env"):
        target = message.spec.runtime_env
        message.spec.callback_token = token
    else:
        target = message.spec.data
    for key, (value, is_secret) in data.items():
        target[key].value = value
        target[key].is_secret = is_secret
    return message


@deterministic
@given(st.sampled_from(list(KIND)), st.binary(max_size=10), st.lists(entries, min_size=1, max_size=4))
def test_whatever_is_saved_is_read_back_and_only_the_log_is_without_it(
    tmp_path_factory: pytest.TempPathFactory,
    made: type[Any],
    token: bytes,
    states: list[dict[str, tuple[str, bool]]],
) -> None:
    """State after state of a resource: each reads back byte for byte, and saved again it changes nothing."""
    directory = tmp_path_factory.mktemp("vault")
    vault = Vault.open(str(directory), None, {})
    stored = None
    for state in states:
        message = _message(made, state, token)
        now = sealed(message, vault, stored)
        assert value_bytes(revealed(now, vault)) == value_bytes(message)
        assert value_bytes(sealed(message, vault, now)) == value_bytes(now)
        assert value_bytes(sealed(now, vault, now)) == value_bytes(now)
        assert present.as_dict(now) == present.as_dict(message)
        secrets = [secret.plaintext for secret in sealing._secrets(message, None, False, ())]
        for secret in sealing._secrets(now, None, False, ()):
            assert secret.plaintext not in secrets
        stored = now
    vault.close()
    for path in directory.iterdir():
        path.unlink()
