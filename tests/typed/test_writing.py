"""create, update, apply and delete: what is kept, what is made, what is refused, and what the log has of it."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from typed.support import (
    COMPLETED,
    IN_PROGRESS,
    KIND,
    KINDS,
    ORGANIZATION,
    KindFacts,
    Refused,
    Services,
    creatable,
    execution_of,
    make,
    names_of,
    unknown,
    workflow_execution_of,
)

CREATED = [kind for kind in KINDS if kind.name != "skill"]
APPLIED = [kind for kind in CREATED if kind.name not in ("agent_execution", "workflow_execution")]
UPDATED = [kind for kind in CREATED if kind.name != "execution_context"]
_ULID = re.compile(r"[0-7][0-9a-hjkmnp-tv-z]{25}")


def named(kinds: list[KindFacts]) -> Any:
    """Run a test for each of some kinds."""
    return pytest.mark.parametrize("kind", kinds, ids=lambda kind: kind.name)


def seconds(timestamp: Any) -> float:
    """Give a timestamp as seconds since 1970."""
    return float(timestamp.ToNanoseconds()) / 1e9


# --- slugs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Code Reviewer", "code-reviewer"),
        ("UPPER", "upper"),
        ("a  b", "a-b"),
        ("a - b", "a-b"),
        ("a--b", "a-b"),
        ("--edge--", "edge"),
        (" spaced ", "spaced"),
        ("under_score", "underscore"),
        ("dots.and/slashes", "dotsandslashes"),
        ("tab\tname", "tabname"),
        ("Ünïcode ñame", "ncode-ame"),
        ("é", None),
        ("İstanbul", "istanbul"),
        ("v1.2 (beta)!", "v12-beta"),
        ("🤖 robot", "robot"),
        ("n" * 300, "n" * 300),
    ],
)
def test_slug_is_made_of_the_name(services: Services, name: str, slug: str | None) -> None:
    """Lower case, spaces to "-", all else dropped, runs of "-" folded, ends trimmed; nothing left is refused."""
    message = make("mcp_server", name, org=f"of {name}")
    if slug is None:
        with pytest.raises(Refused, match=r"metadata\.name: "):
            services.mcp_server.create(message)
        return
    made = services.mcp_server.create(message)
    assert (made.metadata.name, made.metadata.slug) == (name, slug)
    # What was given out is taken back.
    assert services.mcp_server.update(made).metadata == made.metadata
    assert services.mcp_server.apply(made).metadata == made.metadata


@pytest.mark.parametrize("slug", ["Given_Slug", "my slug", "ünïcode", "x", "s" * 400])
def test_slug_that_is_given_is_kept(services: Services, slug: str) -> None:
    """It is not made into another one."""
    made = services.mcp_server.create(make("mcp_server", "Another Name", slug=slug))
    assert made.metadata.slug == slug
    assert services.mcp_server.getByReference(slug=slug) == made


@pytest.mark.parametrize("name", ["", " ", "\t"])
def test_name_is_needed(services: Services, name: str) -> None:
    """A resource without a name is refused, with a slug or without."""
    for slug in ("", "a-slug"):
        for verb in ("create", "apply"):
            with pytest.raises(Refused, match=r"metadata\.name: ") as caught:
                getattr(services.mcp_server, verb)(make("mcp_server", name, slug=slug))
            assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("name", ["🤖", "---", "日本語", "!?"])
def test_name_that_leaves_no_slug_says_what_to_do(services: Services, name: str) -> None:
    """Where nothing of a name can be in a slug, the caller is told to give one; then it is taken."""
    with pytest.raises(Refused, match=r"metadata\.name: .*leaves no slug") as caught:
        services.mcp_server.create(make("mcp_server", name))
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "metadata.slug" in caught.value.detail.hint
    made = services.agent.create(make("agent", name, slug=f"robot-{len(name)}-{ord(name[0])}"))
    assert made.metadata.name == name
    # Its default instance has a name as well, and a slug.
    instance = services.agent_instance.get(value=made.status.default_instance_id)
    assert (instance.metadata.name, bool(instance.metadata.slug)) == (f"{name}-default", True)


# --- uniqueness ----------------------------------------------------------------------------------------


@named([kind for kind in CREATED if kind.name not in ("agent_execution", "workflow_execution")])
def test_slug_is_unique_within_kind_and_organization(services: Services, kind: KindFacts) -> None:
    """A second one is refused and nothing is written; another organization, and none, may have the same slug."""
    service = services.of(kind)
    first = service.create(creatable(services, kind.name, f"Unique {kind.name}"))
    second = make(kind.name, f"unique {kind.name}")
    second.spec.CopyFrom(first.spec)
    before = services.revision
    with pytest.raises(Refused, match=f"{kind.message_name} .*already exists.*{first.metadata.id}") as caught:
        service.create(second)
    assert (caught.value.code, services.revision) == (grpc.StatusCode.ALREADY_EXISTS, before)
    if kind.name == "workflow_instance":
        return  # belongs to the organization of its workflow
    ids = {first.metadata.id}
    for org in ("other", "" if first.metadata.org else "another"):
        second.metadata.org = org
        ids.add(service.create(second).metadata.id)
    assert len(ids) == 3


def test_executions_may_share_a_slug(services: Services) -> None:
    """Any number of executions may have one name."""
    agent = services.agent.create(make("agent", "Shared Slugs"))
    flow = services.workflow.create(make("workflow", "Shared Slugs"))
    of_agent = {
        services.agent_execution.create(execution_of("run", agent=agent.metadata.id)).metadata.id for _ in range(3)
    }
    of_flow = {
        services.workflow_execution.create(workflow_execution_of("run", workflow=flow.metadata.id)).metadata.id
        for _ in range(3)
    }
    assert (len(of_agent), len(of_flow)) == (3, 3)


def test_of_many_who_create_at_once_one_does(services: Services) -> None:
    """However many callers want a slug at the same moment, one gets it, and its agent has the one instance."""

    def create(_number: int) -> str:
        try:
            return str(services.agent.create(make("agent", "Wanted By Many")).metadata.id)
        except Refused as refused:
            return refused.code.name

    with ThreadPoolExecutor(16) as threads:
        answers = sorted(threads.map(create, range(16)), key=len)
    assert answers[:15] == ["ALREADY_EXISTS"] * 15
    assert len(services.agent_instance.getByAgent(agent_id=answers[15]).items) == 1


def test_of_many_who_apply_at_once_one_creates(services: Services) -> None:
    """The others find it there, unchanged, and write nothing."""
    before = services.revision
    with ThreadPoolExecutor(16) as threads:
        made = list(threads.map(lambda _: services.mcp_server.apply(make("mcp_server", "Applied By Many")), range(16)))
    assert len({one.SerializeToString() for one in made}) == 1
    assert services.revision == before + 1


def test_slug_is_free_again_after_a_delete(services: Services) -> None:
    """The next one of that name is another resource."""
    first = services.mcp_server.create(make("mcp_server", "Come And Go"))
    services.mcp_server.delete(resource_id=first.metadata.id)
    second = services.mcp_server.create(make("mcp_server", "Come And Go"))
    assert (second.metadata.slug, second.metadata.id != first.metadata.id) == ("come-and-go", True)


# --- create --------------------------------------------------------------------------------------------


@named(CREATED)
def test_create_gives_identity_and_audit_and_clears_the_status(services: Services, kind: KindFacts) -> None:
    """The id is `<prefix>-<lowercase ULID>`; both audits say who and when, and "created"; a client's status is gone."""
    message = creatable(services, kind.name, f"Audited {kind.name}", labels={"a": "1"}, tags=["x", "y"])
    message.status.audit.spec_audit.event = "forged"
    message.status.audit.status_audit.created_by.id = "me"
    started = time.time()
    made = services.of(kind).create(message)
    ended = time.time()
    prefix, _, ulid = made.metadata.id.partition("-")
    assert prefix == kind.id_prefix
    assert _ULID.fullmatch(ulid)
    for info in (made.status.audit.spec_audit, made.status.audit.status_audit):
        assert (info.created_by.id, info.updated_by.id, info.event) == ("system", "system", "created")
        assert (info.created_by.avatar, info.updated_by.avatar) == ("", "")
        assert started - 0.01 <= seconds(info.created_at) == seconds(info.updated_at) <= ended + 0.01
    expected = type(message)()
    expected.CopyFrom(message)
    expected.metadata.id, expected.metadata.slug = made.metadata.id, made.metadata.slug
    assert made.metadata == expected.metadata
    assert services.of(kind).get(value=made.metadata.id) == made


def test_create_takes_nothing_of_a_status(services: Services) -> None:
    """Not a phase, not a default instance, not what a newer client may have in it."""
    agent = make("agent", "Own Status")
    agent.status.default_instance_id = "ain-forged"
    agent.status.MergeFromString(unknown())
    made = services.agent.create(agent)
    assert made.status.default_instance_id.startswith("ain-0")
    assert unknown() not in made.SerializeToString()
    execution = execution_of("own status", agent=made.metadata.id)
    execution.status.phase = COMPLETED
    execution.status.messages.add(type=1, content="forged")
    execution.status.started_at = "2020-01-01T00:00:00Z"
    status = services.agent_execution.create(execution).status
    assert (status.phase, len(status.messages), status.started_at) == (1, 0, "")


@named(CREATED)
def test_id_of_the_client_is_kept(services: Services, kind: KindFacts) -> None:
    """Whatever it looks like; taken a second time, it is refused."""
    service = services.of(kind)
    message = creatable(services, kind.name, f"Own Id {kind.name}", id=f"my.own_{kind.name}")
    made = service.create(message)
    assert made.metadata.id == f"my.own_{kind.name}"
    assert service.get(value=made.metadata.id) == made
    message.metadata.name = "Another Name"
    with pytest.raises(Refused) as caught:
        service.create(message)
    assert caught.value.code is grpc.StatusCode.ALREADY_EXISTS


# --- update --------------------------------------------------------------------------------------------


@named(UPDATED)
def test_update_takes_spec_and_metadata_and_keeps_identity_and_status(services: Services, kind: KindFacts) -> None:
    """Id, slug, organization and status stay; the rest is the caller's; spec_audit moves and status_audit does not."""
    service = services.of(kind)
    made = service.create(creatable(services, kind.name, f"Updated {kind.name}", labels={"a": "1"}, tags=["x"]))
    wanted = make(kind.name, "Another Name", id=made.metadata.id, annotations={"b": "2"})
    wanted.spec.CopyFrom(made.spec)
    wanted.metadata.slug, wanted.metadata.org = "another-slug", "another-org"
    wanted.status.audit.spec_audit.created_by.id = "me"
    if kind.name in ("agent_execution", "workflow_execution"):
        wanted.status.phase = COMPLETED
    updated = service.update(wanted)
    expected = type(made)()
    expected.CopyFrom(wanted)
    for field in ("slug", "org"):
        setattr(expected.metadata, field, getattr(made.metadata, field))
    expected.status.CopyFrom(made.status)
    moved = updated.status.audit.spec_audit
    expected.status.audit.spec_audit.updated_at.CopyFrom(moved.updated_at)
    expected.status.audit.spec_audit.event = "updated"
    assert updated == expected
    assert seconds(moved.updated_at) > seconds(moved.created_at)
    assert service.get(value=made.metadata.id) == updated


def test_update_finds_by_slug_where_no_id_is_given(services: Services) -> None:
    """In the organization that is given."""
    ids = {}
    for org in ("one", "two"):
        ids[org] = services.mcp_server.create(make("mcp_server", "By Slug", org=org)).metadata.id
    for org, id in ids.items():
        wanted = make("mcp_server", "Found", slug="by-slug", org=org)
        wanted.spec.description = org
        assert services.mcp_server.update(wanted).metadata.id == id
        assert services.mcp_server.get(value=id).spec.description == org


def test_update_of_what_is_not_there(services: Services) -> None:
    """By id or by slug: NOT_FOUND in the words of the platform; by neither: INVALID_ARGUMENT. An id is not a slug."""
    services.mcp_server.create(make("mcp_server", "Is There"))
    for metadata, ref in (
        ({"id": "mcp-none"}, "mcp-none"),
        ({"slug": "is-not-there"}, "is-not-there"),
        ({"id": "mcp-none", "slug": "is-there"}, "mcp-none"),
        ({"slug": "is-there", "org": "elsewhere"}, "is-there"),
    ):
        with pytest.raises(Refused) as caught:
            services.mcp_server.update(make("mcp_server", "Is There", **metadata))
        assert (caught.value.code, caught.value.message) == (grpc.StatusCode.NOT_FOUND, f"McpServer not found: {ref}")
    with pytest.raises(Refused, match=r"metadata: .*neither id nor slug") as caught:
        services.mcp_server.update(make("mcp_server", "Is There"))
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_update_writes_even_what_is_the_same(services: Services) -> None:
    """Only apply looks whether something changes."""
    made = services.mcp_server.create(make("mcp_server", "Twice The Same"))
    before = services.revision
    services.mcp_server.update(made)
    assert services.revision == before + 1


# --- apply ---------------------------------------------------------------------------------------------


@named(APPLIED)
def test_apply_creates_then_updates_then_writes_nothing(services: Services, kind: KindFacts) -> None:
    """The same manifest again appends no event and gives what is stored; a changed one is an update."""
    service = services.of(kind)
    manifest = creatable(services, kind.name, f"Applied {kind.name}", labels={"z": "1", "a": "2"})
    made = service.apply(manifest)
    assert made.status.audit.spec_audit.event == "created"
    before = services.revision
    assert service.apply(manifest) == made
    assert service.apply(made) == made
    assert services.revision == before
    manifest.metadata.labels["z"] = "3"
    changed = service.apply(manifest)
    assert (changed.metadata.id, changed.metadata.labels["z"]) == (made.metadata.id, "3")
    assert changed.status.audit.spec_audit.event == "updated"
    assert changed.status.audit.status_audit == made.status.audit.status_audit
    assert services.revision == before + 1


def test_apply_looks_in_the_organization_of_the_manifest(services: Services) -> None:
    """The same slug in another organization is another resource."""
    one = services.mcp_server.apply(make("mcp_server", "Two Orgs", org="one"))
    two = services.mcp_server.apply(make("mcp_server", "Two Orgs", org="two"))
    assert one.metadata.id != two.metadata.id
    before = services.revision
    assert services.mcp_server.apply(make("mcp_server", "Two Orgs", org="one")) == one
    assert services.revision == before


def test_apply_of_an_agent_makes_its_instance_once(services: Services) -> None:
    """With the agent itself, in one commit; an apply that changes the agent leaves the instance alone."""
    before = services.revision
    agent = make("agent", "Applied With Instance")
    made = services.agent.apply(agent)
    agent.spec.description = "changed"
    changed = services.agent.apply(agent)
    assert changed.status.default_instance_id == made.status.default_instance_id != ""
    assert [names_of(commit) for commit in services.commits(before)] == [
        [("save", "agent_instance", made.status.default_instance_id), ("save", "agent", made.metadata.id)],
        [("save", "agent", made.metadata.id)],
    ]


# --- delete --------------------------------------------------------------------------------------------


@named(CREATED)
def test_delete_gives_what_was_deleted(services: Services, kind: KindFacts) -> None:
    """The whole message; then it is not there any more, for a get and for another delete."""
    service = services.of(kind)
    field = "resource_id" if kind.name in ("environment", "execution_context", "mcp_server") else "value"
    made = service.create(creatable(services, kind.name, f"Deleted {kind.name}"))
    id = made.metadata.id
    assert service.delete(**{field: id}) == made
    for verb, named_by in (("get", "value"), ("delete", field)):
        with pytest.raises(Refused) as caught:
            getattr(service, verb)(**{named_by: id})
        assert caught.value.code is grpc.StatusCode.NOT_FOUND
        assert caught.value.message == f"{kind.message_name} not found: {id}"


def test_delete_takes_a_message_and_force(services: Services) -> None:
    """Where the platform's input for deletes has them; they change nothing here."""
    made = services.environment.create(make("environment", "Forced"))
    gone = services.environment.delete(resource_id=made.metadata.id, version_message="bye", force=True)
    assert gone == made


def test_agent_takes_all_that_hangs_on_it(services: Services) -> None:
    """Instances, their sessions and those sessions' executions go first, in one commit, and nothing else does."""
    agent = services.agent.create(make("agent", "Doomed Agent"))
    other = services.agent.create(make("agent", "Spared Agent"))
    instance = make("agent_instance", "Doomed Instance")
    instance.spec.agent_id = agent.metadata.id
    instance = services.agent_instance.create(instance)
    session = make("session", "Doomed Session")
    session.spec.agent_instance_id = instance.metadata.id
    session = services.session.create(session)
    of_session = services.agent_execution.create(execution_of("one", session=session.metadata.id))
    of_agent = services.agent_execution.create(execution_of("two", agent=agent.metadata.id))
    spared = services.agent_execution.create(execution_of("three", agent=other.metadata.id))
    before = services.revision
    assert services.agent.delete(value=agent.metadata.id) == agent
    (commit,) = services.commits(before)
    assert {op for op, _, _ in names_of(commit)} == {"delete"}
    order = [id for _, _, id in names_of(commit)]
    assert sorted(order) == sorted(
        [
            agent.metadata.id,
            agent.status.default_instance_id,
            instance.metadata.id,
            session.metadata.id,
            of_session.metadata.id,
            of_agent.metadata.id,
            of_agent.spec.session_id,
        ]
    )
    for child, parent in (
        (of_session.metadata.id, session.metadata.id),
        (session.metadata.id, instance.metadata.id),
        (instance.metadata.id, agent.metadata.id),
        (of_agent.metadata.id, of_agent.spec.session_id),
        (of_agent.spec.session_id, agent.status.default_instance_id),
        (agent.status.default_instance_id, agent.metadata.id),
    ):
        assert order.index(child) < order.index(parent)
    assert services.agent_execution.get(value=spared.metadata.id) == spared
    assert services.session.get(value=spared.spec.session_id)


def test_workflow_takes_instances_and_executions(services: Services) -> None:
    """Executions of any of its instances go with it, in one commit, before the instances and the workflow."""
    flow = services.workflow.create(make("workflow", "Doomed Flow"))
    instance = make("workflow_instance", "Doomed Flow Instance")
    instance.spec.workflow_id = flow.metadata.id
    instance = services.workflow_instance.create(instance)
    executions = [
        services.workflow_execution.create(workflow_execution_of("one", workflow=flow.metadata.id)),
        services.workflow_execution.create(workflow_execution_of("two", instance=instance.metadata.id)),
    ]
    before = services.revision
    assert services.workflow.delete(value=flow.metadata.id) == flow
    (commit,) = services.commits(before)
    order = names_of(commit)
    assert order[-1] == ("delete", "workflow", flow.metadata.id)
    ids = [id for _, _, id in order]
    instances = [flow.status.default_instance_id, instance.metadata.id]
    assert sorted(ids) == sorted([flow.metadata.id, *instances, *(one.metadata.id for one in executions)])
    for execution in executions:
        assert ids.index(execution.metadata.id) < ids.index(execution.spec.workflow_instance_id)


def test_workflow_takes_executions_of_other_instances(services: Services) -> None:
    """An execution that names a workflow and an instance of another one goes with either."""
    for place in range(2):
        pair = [services.workflow.create(make("workflow", f"Mixed {place} {one}")) for one in range(2)]
        instance = pair[1].status.default_instance_id
        run = services.workflow_execution.create(
            workflow_execution_of("mixed", workflow=pair[0].metadata.id, instance=instance)
        )
        before = services.revision
        services.workflow.delete(value=pair[place].metadata.id)
        (commit,) = services.commits(before)
        assert ("delete", "workflow_execution", run.metadata.id) in names_of(commit)


def test_session_and_instances_take_what_is_theirs(services: Services) -> None:
    """A session its executions; an instance of an agent its sessions; an instance of a workflow its executions."""
    agent = services.agent.create(make("agent", "Keeps Itself"))
    flow = services.workflow.create(make("workflow", "Keeps Itself"))
    run = services.agent_execution.create(execution_of("run", agent=agent.metadata.id))
    again = services.agent_execution.create(execution_of("run", session=run.spec.session_id))
    started = services.agent_execution.updateStatus(execution_id=again.metadata.id, status={"phase": IN_PROGRESS})
    assert started.status.phase == IN_PROGRESS
    of_flow = services.workflow_execution.create(workflow_execution_of("run", workflow=flow.metadata.id))
    before = services.revision
    services.session.delete(value=run.spec.session_id)
    third = services.agent_execution.create(execution_of("run", agent=agent.metadata.id))
    services.agent_instance.delete(value=agent.status.default_instance_id)
    services.workflow_instance.delete(value=flow.status.default_instance_id)
    deletes = [names_of(commit) for commit in services.commits(before) if commit[0].op == "delete"]
    assert [[id for _, _, id in commit] for commit in deletes] == [
        [run.metadata.id, again.metadata.id, run.spec.session_id],
        [third.metadata.id, third.spec.session_id, agent.status.default_instance_id],
        [of_flow.metadata.id, flow.status.default_instance_id],
    ]
    assert services.agent.get(value=agent.metadata.id).metadata.id == agent.metadata.id


def test_a_resource_goes_once_even_where_two_ways_lead_to_it(services: Services) -> None:
    """An execution that hangs on its workflow and on an instance of it is deleted by one event."""
    flow = services.workflow.create(make("workflow", "Two Ways"))
    run = services.workflow_execution.create(workflow_execution_of("run", workflow=flow.metadata.id))
    assert (run.spec.workflow_id, run.spec.workflow_instance_id) == (flow.metadata.id, flow.status.default_instance_id)
    before = services.revision
    services.workflow.delete(value=flow.metadata.id)
    (commit,) = services.commits(before)
    assert [id for _, _, id in names_of(commit)].count(run.metadata.id) == 1
    assert ORGANIZATION in KIND["workflow"].owner_scopes
