"""Find and apply, over a store in memory."""

from __future__ import annotations

from typing import Any

import pytest

from stigmer.errors import AlreadyExists, Conflict, InvalidArgument, NotFound
from stigmer.pb.agentic import agent_pb2, agentexecution_pb2
from stigmer.resources import kinds, manifests, operations
from stigmer.resources.operations import APPLY_ATTEMPTS, Applied, Outcome

from .fake import FakeStore

NOW_NS = 1_762_171_200_123_456_789
LATER_NS = NOW_NS + 3_600_000_000_000


def _manifest(name: str = "Bot", kind: str = "Agent", org: str = "acme", more: str = "") -> manifests.Manifest:
    text = f"""
api_version: agentic.stigmer.ai/v1
kind: {kind}
metadata: {{name: {name}, org: {org}, owner_scope: organization{more}}}
"""
    text += "spec: {instructions: long enough to pass}" if kind == "Agent" else "spec: {data: {A: {value: x}}}"
    (found,) = manifests.parse(text, f"{name}.yaml")
    return found


def _changed(manifest: manifests.Manifest, **fields: str) -> manifests.Manifest:
    message: Any = type(manifest.message)()
    message.CopyFrom(manifest.message)
    for name, value in fields.items():
        setattr(message.spec, name, value)
    return manifests.Manifest(manifest.kind, message, manifest.source, manifest.line)


def _agent(store: FakeStore, id: str) -> agent_pb2.Agent:
    return agent_pb2.Agent.FromString(store.get("agent", id).value)


def _apply(store: FakeStore, *wanted: manifests.Manifest, now_ns: int = NOW_NS) -> list[Applied]:
    numbers = iter(range(100))
    return operations.apply(store, wanted, now_ns, random=lambda size: bytes([next(numbers)] * size))


# --- apply ---------------------------------------------------------------------------------------------


def test_what_is_not_there_is_created() -> None:
    """Id minted, slug made, audit set, the client's status not taken."""
    store = FakeStore()
    wanted = _manifest()
    wanted.message.status.default_instance_id = "ain-that-no-client-chooses"
    (done,) = _apply(store, wanted)
    assert done == Applied("agent", "agt-01k94sd8kv0000000000000000", "bot", Outcome.CREATED, 1)
    stored = _agent(store, done.id)
    assert (stored.metadata.id, stored.metadata.slug, stored.metadata.org) == (done.id, "bot", "acme")
    assert stored.spec.instructions == "long enough to pass"
    assert stored.status.default_instance_id == ""
    for info in (stored.status.audit.spec_audit, stored.status.audit.status_audit):
        assert (info.event, info.created_by.id, info.updated_by.id) == ("created", "system", "system")
        assert info.created_at.ToNanoseconds() == info.updated_at.ToNanoseconds() == NOW_NS


def test_the_same_again_changes_nothing() -> None:
    """No event is made, and the revision is that of the last one."""
    store = FakeStore()
    (first,) = _apply(store, _manifest())
    (again,) = _apply(store, _manifest(), now_ns=LATER_NS)
    assert again == Applied("agent", first.id, "bot", Outcome.UNCHANGED, 1)
    assert len(store.commits) == 1


def test_a_change_configures() -> None:
    """Spec and metadata come from the manifest; of the audit only the spec's update moves."""
    store = FakeStore()
    (first,) = _apply(store, _manifest())
    changed = _changed(_manifest("BOT", more=", tags: [new]"), description="now with words")
    (done,) = _apply(store, changed, now_ns=LATER_NS)
    assert done == Applied("agent", first.id, "bot", Outcome.CONFIGURED, 2)
    stored = _agent(store, first.id)
    assert (stored.metadata.name, list(stored.metadata.tags)) == ("BOT", ["new"])
    assert stored.spec.description == "now with words"
    spec, status = stored.status.audit.spec_audit, stored.status.audit.status_audit
    assert (spec.event, spec.created_at.ToNanoseconds(), spec.updated_at.ToNanoseconds()) == (
        "updated",
        NOW_NS,
        LATER_NS,
    )
    assert (status.event, status.updated_at.ToNanoseconds()) == ("created", NOW_NS)


def test_identity_and_status_stay_as_stored() -> None:
    """A manifest found by its id changes neither id, slug, organization nor status."""
    store = FakeStore()
    (first,) = _apply(store, _manifest())
    stored = _agent(store, first.id)
    stored.status.default_instance_id = "ain-1"
    store.save("agent", first.id, stored.SerializeToString())
    other = _changed(_manifest("Renamed", org="other", more=f", id: {first.id}, slug: moved"), description="x")
    (done,) = _apply(store, other)
    assert (done.id, done.slug, done.outcome) == (first.id, "bot", Outcome.CONFIGURED)
    found = _agent(store, first.id)
    assert (found.metadata.name, found.metadata.slug, found.metadata.org) == ("Renamed", "bot", "acme")
    assert found.status.default_instance_id == "ain-1"


def test_a_client_s_own_id_is_kept() -> None:
    """An id in the manifest is not replaced by a minted one."""
    store = FakeStore()
    (done,) = _apply(store, _manifest(more=", id: my-own"))
    assert done.id == "my-own"
    assert _agent(store, "my-own").metadata.id == "my-own"


def test_the_same_slug_in_another_organization_is_another_resource() -> None:
    """A slug belongs to an organization."""
    store = FakeStore()
    _apply(store, _manifest())
    assert [one.outcome for one in _apply(store, _manifest(org="other"))] == [Outcome.CREATED]


def test_all_of_it_is_one_commit() -> None:
    """What changes is one commit with preconditions; revisions are told in the order of the manifests."""
    store = FakeStore()
    _apply(store, _manifest("a"), _manifest("b"))
    done = _apply(store, _manifest("c"), _manifest("a"), _changed(_manifest("b"), description="x"))
    assert [(one.slug, str(one.outcome), one.revision) for one in done] == [
        ("c", "created", 3),
        ("a", "unchanged", 1),
        ("b", "configured", 4),
    ]
    assert [change.expected_revision for change in store.commits[1]] == [0, 2]


def test_what_a_newer_client_stored_survives() -> None:
    """Unknown fields of the message, its metadata, its spec and a message in it stay."""
    store = FakeStore()
    unknown = b"\xf2\x3f\x05hello"  # field 1022, five bytes
    wanted = _changed(_manifest())
    wanted.message.spec.env_spec.description = "env"
    (first,) = _apply(store, wanted)
    stored = _agent(store, first.id)
    for message in (stored, stored.metadata, stored.spec, stored.spec.env_spec):
        message.MergeFromString(unknown)
    store.save("agent", first.id, stored.SerializeToString())
    assert _apply(store, wanted)[0].outcome is Outcome.UNCHANGED
    (done,) = _apply(store, _changed(wanted, description="x"))
    assert done.outcome is Outcome.CONFIGURED
    found = _agent(store, first.id)
    for message in (found, found.metadata, found.spec, found.spec.env_spec):
        assert message.SerializeToString().endswith(unknown) or unknown in message.SerializeToString()
    assert found.SerializeToString().count(unknown) == 4


def test_what_a_manifest_leaves_out_is_removed() -> None:
    """Lists, maps, messages and the other choice of a oneof do not linger."""
    store = FakeStore()
    before = _manifest(more=", labels: {a: b}, tags: [x]")
    before.message.spec.mcp_servers.add(name="m").http.url = "http://x"
    before.message.spec.env_spec.data["A"].value = "x"
    before.message.spec.description = "words"
    (first,) = _apply(store, before)
    after = _manifest()
    after.message.spec.mcp_servers.add(name="m").stdio.command = "x"
    _apply(store, after)
    found = _agent(store, first.id)
    assert found.spec == after.message.spec
    assert not found.metadata.labels
    assert not found.metadata.tags


def test_a_change_in_between_is_planned_anew() -> None:
    """A conflict is not the caller's trouble: what is there now is read again, and nothing is lost."""
    store = FakeStore()
    (first,) = _apply(store, _manifest())

    def interfere(store: FakeStore) -> None:
        store.before_commit = lambda _store: None
        other = _agent(store, first.id)
        other.status.default_instance_id = "ain-of-somebody-else"
        store.save("agent", first.id, other.SerializeToString())

    store.before_commit = interfere
    (done,) = _apply(store, _changed(_manifest(), description="x"))
    assert (done.outcome, done.revision) == (Outcome.CONFIGURED, 3)
    assert _agent(store, first.id).status.default_instance_id == "ain-of-somebody-else"


def test_a_creation_in_between_becomes_an_update() -> None:
    """Two people apply the same new manifest with their own id: one resource, not two."""
    store = FakeStore()

    def interfere(store: FakeStore) -> None:
        store.before_commit = lambda _store: None
        other = _manifest(more=", id: mine, slug: bot")
        store.save("agent", "mine", other.message.SerializeToString())

    store.before_commit = interfere
    (done,) = _apply(store, _changed(_manifest(more=", id: mine"), description="x"))
    assert (done.id, done.outcome) == ("mine", Outcome.CONFIGURED)


def test_giving_up_after_a_few_conflicts() -> None:
    """Somebody who always comes first is reported, not fought for ever."""
    store = FakeStore()
    (first,) = _apply(store, _manifest())
    attempts = []

    def interfere(store: FakeStore) -> None:
        attempts.append(1)
        store.save("agent", first.id, store.get("agent", first.id).value)

    store.before_commit = interfere
    with pytest.raises(Conflict):
        _apply(store, _changed(_manifest(), description="x"))
    assert len(attempts) == APPLY_ATTEMPTS


def test_an_id_that_an_unreadable_value_holds_is_not_overwritten() -> None:
    """Bytes that are no message are not matched, and the precondition of a creation keeps them."""
    store = FakeStore()
    store.save("agent", "mine", b"\xff\xff")
    with pytest.raises(AlreadyExists):
        _apply(store, _manifest(more=", id: mine"))
    assert store.get("agent", "mine").value == b"\xff\xff"


def test_a_plan_writes_nothing() -> None:
    """A dry run tells the outcome and how the resource would be stored."""
    store = FakeStore()
    (planned,) = operations.plan(store, [_manifest()], NOW_NS)
    assert (planned.outcome, planned.slug, planned.stored) == (Outcome.CREATED, "bot", None)
    assert planned.message.metadata.id == planned.id
    assert not store.resources


def test_two_manifests_of_one_resource_are_refused() -> None:
    """However the manifests were made."""
    with pytest.raises(manifests.ManifestError, match=r"is given already by Bot\.yaml:2"):
        _apply(FakeStore(), _manifest(), _manifest())


def test_an_ambiguous_slug_is_not_guessed_at() -> None:
    """Two stored executions may share a slug: the manifest must say which."""
    store = FakeStore()
    execution = agentexecution_pb2.AgentExecution(metadata={"name": "x", "slug": "x"})
    for id in ("aex-1", "aex-2"):
        execution.metadata.id = id
        store.save("agent_execution", id, execution.SerializeToString())
    kind = kinds.find("aex")
    assert kind is not None
    wanted = manifests.Manifest(kind, agentexecution_pb2.AgentExecution(metadata={"name": "x"}))
    with pytest.raises(InvalidArgument, match="aex-1"):
        _apply(store, wanted)


def test_nothing_to_apply_is_nothing_done() -> None:
    """An empty list makes no commit."""
    assert operations.apply(FakeStore(), [], NOW_NS) == []


# --- find ----------------------------------------------------------------------------------------------


@pytest.fixture
def filled() -> FakeStore:
    store = FakeStore(page_length=2)
    for name in ("one", "two", "three", "four"):
        _apply(store, _manifest(name, more=f", id: agt-{name}"))
    _apply(store, _manifest("two", org="other", more=", id: agt-two-other"))
    return store


def test_found_by_id_and_by_slug_on_every_page(filled: FakeStore) -> None:
    """Any name of the kind will do."""
    assert operations.find(filled, "agents", "agt-two").id == "agt-two"
    assert [operations.find(filled, "agt", slug).id for slug in ("one", "three", "four")] == [
        "agt-one",
        "agt-three",
        "agt-four",
    ]


def test_a_slug_of_two_organizations_needs_one(filled: FakeStore) -> None:
    """The error names the organizations and the ids."""
    with pytest.raises(InvalidArgument) as caught:
        operations.find(filled, "agent", "two")
    assert '"acme" (agt-two), "other" (agt-two-other)' in str(caught.value)
    assert operations.find(filled, "agent", "two", org="other").id == "agt-two-other"


def test_an_organization_that_does_not_match_finds_nothing(filled: FakeStore) -> None:
    """Not by the id either."""
    with pytest.raises(NotFound):
        operations.find(filled, "agent", "agt-one", org="other")


def test_not_found_says_what_may_be_meant(filled: FakeStore) -> None:
    """Close names and the next command are in the hint."""
    with pytest.raises(NotFound, match='agent "thre" not found') as caught:
        operations.find(filled, "agent", "thre")
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("did you mean three")
    assert "stigmer list agents" in caught.value.hint


def test_a_kind_of_one_s_own_has_ids_only() -> None:
    """The store takes any kind; its values are not looked at."""
    store = FakeStore()
    store.save("note", "first", b"anything")
    assert operations.find(store, "note", "first").value == b"anything"
    with pytest.raises(NotFound) as caught:
        operations.find(store, "note", "firs")
    assert "did you mean first?" in str(caught.value.hint)


def test_values_that_are_no_messages_do_not_stop_a_search(filled: FakeStore) -> None:
    """They are passed over by slug and found by id."""
    filled.save("agent", "broken", b"\xff\xff")
    assert operations.find(filled, "agent", "four").id == "agt-four"
    assert operations.find(filled, "agent", "broken").value == b"\xff\xff"
