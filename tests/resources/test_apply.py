"""Apply, plan and find of manifests, over a real store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stigmer.errors import Conflict, InvalidArgument, NotFound, StigmerError
from stigmer.pb.agentic import agent_pb2
from stigmer.resources import kinds, manifests
from stigmer.resources.verbs import Applied, Resources

from .opened import opened

Outcomes = list[tuple[str, str]]


@pytest.fixture
def resources(tmp_path: Path) -> Iterator[Resources]:
    with opened(tmp_path) as found:
        yield found


def _environment(name: str = "Bot", org: str = "acme", more: str = "", description: str = "") -> manifests.Manifest:
    """Write a manifest of a kind that brings nothing along."""
    text = f"""
api_version: agentic.stigmer.ai/v1
kind: Environment
metadata: {{name: {name}, org: {org}, owner_scope: organization{more}}}
spec: {{description: "{description}", data: {{A: {{value: x}}}}}}
"""
    (found,) = manifests.parse(text, f"{name}.yaml")
    return found


def _apply(resources: Resources, *wanted: manifests.Manifest) -> list[Applied]:
    pairs = [(one.kind, one.message) for one in wanted]
    done: list[Applied] = resources.run(lambda: resources.apply_all(pairs))
    return done


def _outcomes(applied: list[Applied]) -> Outcomes:
    return [(one.slug, one.outcome) for one in applied]


def _stored(resources: Resources, id: str) -> Any:
    kind = kinds.find("environment")
    assert kind is not None
    return kinds.parsed(kind, id, resources.store.get("environment", id).value)


def _save(resources: Resources, id: str, value: bytes) -> None:
    """Save behind the back of the verbs."""
    store: Any = resources.store
    store.save("environment", id, value)


def _revision(resources: Resources) -> int:
    store: Any = resources.store
    revision: int = store.status().revision
    return revision


# --- apply ---------------------------------------------------------------------------------------------


def test_what_is_not_there_is_created(resources: Resources) -> None:
    """Id minted, slug made, audit set; the client's status is not taken."""
    wanted = _environment("My Bot")
    message: Any = wanted.message
    message.status.audit.spec_audit.event = "what no client says"
    (done,) = _apply(resources, wanted)
    assert (done.slug, done.outcome, done.revision) == ("my-bot", "created", 1)
    assert done.written.id.startswith("env-01")
    stored = _stored(resources, done.written.id)
    assert (stored.metadata.id, stored.metadata.slug, stored.metadata.org) == (done.written.id, "my-bot", "acme")
    for info in (stored.status.audit.spec_audit, stored.status.audit.status_audit):
        assert (info.event, info.created_by.id, info.updated_by.id) == ("created", "system", "system")
        assert info.created_at == info.updated_at


def test_the_same_again_changes_nothing(resources: Resources) -> None:
    """No event is made, and the revision is that of the last one."""
    _apply(resources, _environment())
    (again,) = _apply(resources, _environment())
    assert (again.outcome, again.revision, _revision(resources)) == ("unchanged", 1, 1)


def test_a_change_configures(resources: Resources) -> None:
    """Spec and metadata come from the manifest; of the audit only the spec's update moves."""
    (first,) = _apply(resources, _environment())
    (done,) = _apply(resources, _environment("BOT", more=", tags: [new]", description="words"))
    assert (done.written.id, done.outcome, done.revision) == (first.written.id, "configured", 2)
    stored = _stored(resources, done.written.id)
    assert (stored.metadata.name, list(stored.metadata.tags), stored.spec.description) == ("BOT", ["new"], "words")
    spec, status = stored.status.audit.spec_audit, stored.status.audit.status_audit
    assert (spec.event, spec.updated_at.ToNanoseconds() > spec.created_at.ToNanoseconds()) == ("updated", True)
    assert (status.event, status.updated_at) == ("created", spec.created_at)


def test_identity_and_status_stay_as_stored(resources: Resources) -> None:
    """A manifest that is found by its id changes neither id, slug, organization nor status."""
    (first,) = _apply(resources, _environment())
    status = _stored(resources, first.written.id).status.audit.status_audit
    other = _environment("Renamed", "other", f", id: {first.written.id}, slug: moved", "x")
    (done,) = _apply(resources, other)
    assert (done.written.id, done.slug, done.outcome) == (first.written.id, "bot", "configured")
    found = _stored(resources, first.written.id)
    assert (found.metadata.name, found.metadata.slug, found.metadata.org) == ("Renamed", "bot", "acme")
    assert found.status.audit.status_audit == status


def test_a_clients_own_id_is_kept(resources: Resources) -> None:
    """An id in the manifest is not replaced by a minted one."""
    (done,) = _apply(resources, _environment(more=", id: my-own"))
    assert done.written.id == _stored(resources, "my-own").metadata.id == "my-own"


def test_the_same_slug_in_another_organization_is_another_resource(resources: Resources) -> None:
    """A slug belongs to an organization."""
    assert _outcomes(_apply(resources, _environment(), _environment(org="other"))) == [("bot", "created")] * 2


def test_all_of_it_is_one_commit(resources: Resources) -> None:
    """Revisions are told in the order of the manifests, and what does not change has none."""
    _apply(resources, _environment("a"), _environment("b"))
    done = _apply(resources, _environment("c"), _environment("a"), _environment("b", description="x"))
    assert [(one.slug, one.outcome, one.revision) for one in done] == [
        ("c", "created", 3),
        ("a", "unchanged", 1),
        ("b", "configured", 4),
    ]
    store: Any = resources.store
    assert store.frame(3).event_count == 2


def test_one_that_is_refused_takes_the_others_with_it(resources: Resources) -> None:
    """Nothing is half applied."""
    instance = kinds.find("workflow_instance")
    assert instance is not None
    orphan: Any = instance.message_class(api_version=instance.api_version, kind=instance.message_name)
    orphan.metadata.name, orphan.spec.workflow_id = "orphan", "wfl-nowhere"
    wanted = [(_environment().kind, _environment().message), (instance, orphan)]
    with pytest.raises(NotFound):
        resources.run(lambda: resources.apply_all(wanted))
    assert _revision(resources) == 0


def test_what_a_newer_client_stored_survives(resources: Resources) -> None:
    """Unknown fields of the message, its metadata and its spec stay."""
    unknown = b"\xf2\x3f\x05hello"  # field 1022, five bytes
    (first,) = _apply(resources, _environment())
    stored = _stored(resources, first.written.id)
    for message in (stored, stored.metadata, stored.spec):
        message.MergeFromString(unknown)
    _save(resources, first.written.id, stored.SerializeToString())
    assert _apply(resources, _environment())[0].outcome == "unchanged"
    assert _apply(resources, _environment(description="x"))[0].outcome == "configured"
    found = _stored(resources, first.written.id)
    assert found.SerializeToString().count(unknown) == 3


def test_what_a_manifest_leaves_out_is_removed(resources: Resources) -> None:
    """Lists, maps, messages and the other choice of a oneof do not linger."""
    agent = kinds.find("agent")
    assert agent is not None
    before: Any = agent_pb2.Agent(api_version=agent.api_version, kind=agent.message_name)
    before.metadata.name, before.metadata.owner_scope = "bot", 1
    before.spec.instructions = "long enough to pass"
    after: Any = agent_pb2.Agent()
    after.CopyFrom(before)
    before.metadata.labels["a"] = "b"
    before.metadata.tags.append("x")
    before.spec.mcp_servers.add(name="m").http.url = "http://x"
    before.spec.env_spec.data["A"].value = "x"
    after.spec.mcp_servers.add(name="m").stdio.command = "x"
    resources.run(lambda: resources.apply_all([(agent, before)]))
    (done,) = resources.run(lambda: resources.apply_all([(agent, after)]))
    found = agent_pb2.Agent.FromString(resources.store.get("agent", done.written.id).value)
    assert found.spec == after.spec
    assert not found.metadata.labels
    assert not found.metadata.tags


def test_a_change_in_between_is_applied_upon(resources: Resources) -> None:
    """What others save between the preparation and the commit is what the manifest is applied to."""
    (first,) = _apply(resources, _environment())
    store: Any = resources.store

    def interfere() -> None:
        store.before_transact = lambda: None
        other = _stored(resources, first.written.id)
        other.status.audit.status_audit.event = "of somebody else"
        _save(resources, first.written.id, other.SerializeToString())

    store.before_transact = interfere
    (done,) = _apply(resources, _environment(description="x"))
    assert (done.outcome, done.revision) == ("configured", 3)
    assert _stored(resources, first.written.id).status.audit.status_audit.event == "of somebody else"


def test_a_creation_in_between_becomes_an_update(resources: Resources) -> None:
    """Two people apply the same new manifest: one resource, not two."""
    store: Any = resources.store

    def interfere() -> None:
        store.before_transact = lambda: None
        _apply(resources, _environment(more=", id: mine"))

    store.before_transact = interfere
    (done,) = _apply(resources, _environment(description="x"))
    assert (done.written.id, done.outcome) == ("mine", "configured")


def test_an_expected_revision_that_is_not_so_refuses_all_of_it(resources: Resources) -> None:
    """Also where the resource is not there; 0 expects nothing."""
    (first,) = _apply(resources, _environment())
    changed, new = _environment(description="x"), _environment("new")

    def apply(*expected: int) -> list[Applied]:
        wanted = [(changed.kind, changed.message), (new.kind, new.message)]
        done: list[Applied] = resources.run(lambda: resources.apply_all(wanted, expected))
        return done

    with pytest.raises(Conflict) as caught:
        apply(first.revision + 1, 0)
    assert (caught.value.expected_revision, caught.value.actual_revision) == (2, 1)
    with pytest.raises(Conflict) as caught:
        apply(first.revision, 7)
    assert caught.value.actual_revision == 0
    assert _revision(resources) == 1
    assert _outcomes(apply(first.revision, 0)) == [("bot", "configured"), ("new", "created")]


def test_an_id_that_an_unreadable_value_holds_is_not_overwritten(resources: Resources) -> None:
    """Bytes that are no message stay."""
    _save(resources, "mine", b"\xff\xff")
    with pytest.raises(StigmerError, match="no Environment"):
        _apply(resources, _environment(more=", id: mine"))
    assert resources.store.get("environment", "mine").value == b"\xff\xff"


def test_a_plan_writes_nothing(resources: Resources) -> None:
    """It tells the outcome, and how the resource would be stored."""
    wanted = _environment()
    (planned,) = resources.plan_all([(wanted.kind, wanted.message)])
    assert (planned.outcome, planned.slug, planned.revision, planned.written.before) == ("created", "bot", 0, None)
    assert b"acme" in planned.written.value
    assert _revision(resources) == 0


# --- find ----------------------------------------------------------------------------------------------


def test_found_by_id_and_by_slug(resources: Resources) -> None:
    """A slug of two organizations needs one of them, or the id; the error names both."""
    _apply(resources, _environment("one", more=", id: env-one"), _environment("two", more=", id: env-two"))
    _apply(resources, _environment("two", "other", ", id: env-two-other"))
    kind = _environment().kind
    assert resources.find(kind, "env-two").id == "env-two"
    assert resources.find(kind, "one").id == "env-one"
    with pytest.raises(InvalidArgument, match=r'"acme" \(env-two\), "other" \(env-two-other\)'):
        resources.find(kind, "two")
    assert resources.find(kind, "two", "other").id == "env-two-other"
    with pytest.raises(NotFound):
        resources.find(kind, "one", "other")
    with pytest.raises(NotFound, match="Environment not found: none"):
        resources.find(kind, "none")


def test_values_that_are_no_messages_do_not_stop_a_search(resources: Resources) -> None:
    """They are passed over by slug and found by id."""
    _apply(resources, _environment("one"))
    _save(resources, "broken", b"\xff\xff")
    kind = _environment().kind
    assert resources.find(kind, "one").id.startswith("env-")
    assert resources.find(kind, "broken").value == b"\xff\xff"
