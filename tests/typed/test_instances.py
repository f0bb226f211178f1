"""What comes into being with a resource: default instances, sessions; and what an execution needs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from typed.support import (
    IDENTITY,
    ORGANIZATION,
    PENDING,
    PLATFORM,
    Refused,
    Services,
    execution_of,
    make,
    names_of,
    workflow_execution_of,
)

DESCRIPTION = "Default instance (auto-created, no custom configuration)"
PARENTS = pytest.mark.parametrize("name", ["agent", "workflow"])


@PARENTS
@pytest.mark.parametrize(("scope", "org", "its_org"), [(ORGANIZATION, "acme", "acme"), (PLATFORM, "acme", "")])
def test_default_instance_comes_with_its_parent(
    services: Services, name: str, scope: int, org: str, its_org: str
) -> None:
    """In the same commit: named after it, of its scope, in its organization where that is the scope."""
    before = services.revision
    parent = getattr(services, name).create(make(name, f"With Default {scope}", owner_scope=scope, org=org))
    id = parent.status.default_instance_id
    (commit,) = services.commits(before)
    assert names_of(commit) == [("save", f"{name}_instance", id), ("save", name, parent.metadata.id)]
    instance = getattr(services, f"{name}_instance").get(value=id)
    metadata = instance.metadata
    assert (metadata.name, metadata.slug) == (f"With Default {scope}-default", f"with-default-{scope}-default")
    assert (metadata.owner_scope, metadata.org) == (scope, its_org)
    assert (getattr(instance.spec, f"{name}_id"), instance.spec.description) == (parent.metadata.id, DESCRIPTION)
    for info in (instance.status.audit.spec_audit, instance.status.audit.status_audit):
        assert (info.created_by.id, info.event) == ("system", "created")
        assert info.created_at == parent.status.audit.spec_audit.created_at
    assert getattr(services, name).get(value=parent.metadata.id) == parent


@PARENTS
def test_default_instance_whose_slug_is_taken(services: Services, name: str) -> None:
    """It gets another slug, and the parent is created all the same."""
    other = getattr(services, name).create(make(name, f"Other {name}"))
    taken = make(f"{name}_instance", f"Taken {name}-default")
    taken.metadata.owner_scope, taken.metadata.org = ORGANIZATION, "acme"
    setattr(taken.spec, f"{name}_id", other.metadata.id)
    taken = getattr(services, f"{name}_instance").create(taken)
    parent = getattr(services, name).create(make(name, f"Taken {name}"))
    instance = getattr(services, f"{name}_instance").get(value=parent.status.default_instance_id)
    assert instance.metadata.name == taken.metadata.name
    assert instance.metadata.slug.startswith(f"{taken.metadata.slug}-")


def test_workflow_instance_needs_its_workflow(services: Services) -> None:
    """NOT_FOUND where there is none, and nothing is written."""
    before = services.revision
    for verb in ("create", "apply"):
        with pytest.raises(Refused) as caught:
            getattr(services.workflow_instance, verb)(make("workflow_instance", "Orphan"))
        assert (caught.value.code, caught.value.message) == (
            grpc.StatusCode.NOT_FOUND,
            "Workflow not found: wfl-none",
        )
    assert services.revision == before


@pytest.mark.parametrize(
    ("flow", "instance", "is_taken"),
    [
        ((ORGANIZATION, "a"), (ORGANIZATION, "a"), True),
        ((ORGANIZATION, "a"), (ORGANIZATION, "b"), False),
        ((ORGANIZATION, "a"), (IDENTITY, "b"), True),
        ((PLATFORM, "a"), (ORGANIZATION, "b"), True),
    ],
)
def test_workflow_instance_belongs_to_the_organization_of_its_workflow(
    services: Services, flow: tuple[int, str], instance: tuple[int, str], is_taken: bool
) -> None:
    """Where both are scoped to an organization, it must be the same."""
    name = f"Scoped {flow} {instance}"
    parent = services.workflow.create(make("workflow", name, owner_scope=flow[0], org=flow[1]))
    wanted = make("workflow_instance", name, owner_scope=instance[0], org=instance[1])
    wanted.spec.workflow_id = parent.metadata.id
    if is_taken:
        assert services.workflow_instance.create(wanted).spec.workflow_id == parent.metadata.id
        return
    with pytest.raises(Refused, match=r"INVALID_ARGUMENT: metadata\.org: ") as caught:
        services.workflow_instance.create(wanted)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


# --- executions ----------------------------------------------------------------------------------------


def test_execution_of_an_agent_gets_a_session(services: Services) -> None:
    """Session and execution in one commit; the session is of the default instance and says that nobody asked for it."""
    agent = services.agent.create(make("agent", "Without Session"))
    before = services.revision
    made = services.agent_execution.create(execution_of("first", agent=agent.metadata.id))
    session = services.session.get(value=made.spec.session_id)
    (commit,) = services.commits(before)
    assert names_of(commit) == [
        ("save", "session", session.metadata.id),
        ("save", "agent_execution", made.metadata.id),
    ]
    assert (made.status.phase, made.spec.agent_id) == (PENDING, agent.metadata.id)
    assert session.spec.agent_instance_id == agent.status.default_instance_id
    assert session.spec.subject == "Auto-created session"
    assert session.metadata.name.startswith("session-")
    assert (session.metadata.owner_scope, session.metadata.org) == (ORGANIZATION, "acme")
    again = services.agent_execution.create(execution_of("second", agent=agent.metadata.id))
    other = services.session.get(value=again.spec.session_id)
    assert (other.metadata.id != session.metadata.id, other.metadata.name != session.metadata.name) == (True, True)


def test_session_for_an_agent_of_the_platform_is_a_person_s(services: Services) -> None:
    """Its scope is one that sessions may have."""
    agent = services.agent.create(make("agent", "Of The Platform", owner_scope=PLATFORM, org=""))
    made = services.agent_execution.create(execution_of("run", agent=agent.metadata.id))
    session = services.session.get(value=made.spec.session_id)
    assert (session.metadata.owner_scope, session.metadata.org) == (IDENTITY, "")
    assert services.session.update(session).metadata == session.metadata


def test_execution_in_a_session(services: Services) -> None:
    """Nothing else is made; the session is the one that is named, also where an agent is named as well."""
    agent = services.agent.create(make("agent", "With Session"))
    session = make("session", "Of Executions")
    session.spec.agent_instance_id = agent.status.default_instance_id
    session = services.session.create(session)
    before = services.revision
    for named in ({}, {"agent": agent.metadata.id}):
        made = services.agent_execution.create(execution_of("run", session=session.metadata.id, **named))
        assert (made.spec.session_id, made.status.phase) == (session.metadata.id, PENDING)
    assert services.revision == before + 2


def test_execution_of_an_agent_without_its_default_instance(services: Services) -> None:
    """The instance is made anew, and the agent told of it, in the commit of the execution."""
    agent = services.agent.create(make("agent", "Lost Default"))
    services.agent_instance.delete(value=agent.status.default_instance_id)
    before = services.revision
    made = services.agent_execution.create(execution_of("run", agent=agent.metadata.id))
    (commit,) = services.commits(before)
    kinds = [kind for _, kind, _ in names_of(commit)]
    assert kinds == ["agent_instance", "agent", "session", "agent_execution"]
    instance = services.agent.get(value=agent.metadata.id).status.default_instance_id
    assert services.session.get(value=made.spec.session_id).spec.agent_instance_id == instance
    assert services.agent_instance.get(value=instance).metadata.name == "Lost Default-default"


def test_execution_needs_what_it_names(services: Services) -> None:
    """Neither session nor agent: INVALID_ARGUMENT; one that is not there: NOT_FOUND; and nothing is written."""
    agent = services.agent.create(make("agent", "Is Needed"))
    before = services.revision
    for execution, code, message in (
        (execution_of("run"), "INVALID_ARGUMENT", "spec: names neither session_id nor agent_id"),
        (execution_of("run", session="ses-none"), "NOT_FOUND", "Session not found: ses-none"),
        (execution_of("run", agent="agt-none"), "NOT_FOUND", "Agent not found: agt-none"),
        (execution_of("run", session="ses-none", agent=agent.metadata.id), "NOT_FOUND", "Session not found: ses-none"),
    ):
        with pytest.raises(Refused) as caught:
            services.agent_execution.create(execution)
        assert (caught.value.code.name, caught.value.message[: len(message)]) == (code, message)
    assert services.revision == before


def test_execution_of_a_workflow(services: Services) -> None:
    """By workflow, its default instance is found or made; by instance, it is that one; PENDING in any case."""
    flow = services.workflow.create(make("workflow", "Runs"))
    by_flow = services.workflow_execution.create(workflow_execution_of("run", workflow=flow.metadata.id))
    assert by_flow.spec.workflow_instance_id == flow.status.default_instance_id
    by_instance = services.workflow_execution.create(
        workflow_execution_of("run", instance=flow.status.default_instance_id)
    )
    assert by_instance.spec.workflow_instance_id == flow.status.default_instance_id
    assert by_flow.status.phase == by_instance.status.phase == PENDING
    services.workflow_instance.delete(value=flow.status.default_instance_id)
    before = services.revision
    made = services.workflow_execution.create(workflow_execution_of("run", workflow=flow.metadata.id))
    (commit,) = services.commits(before)
    assert [kind for _, kind, _ in names_of(commit)] == ["workflow_instance", "workflow", "workflow_execution"]
    now = services.workflow.get(value=flow.metadata.id).status.default_instance_id
    assert made.spec.workflow_instance_id == now != flow.status.default_instance_id


def test_execution_of_a_workflow_needs_what_it_names(services: Services) -> None:
    """Neither workflow nor instance: INVALID_ARGUMENT; one that is not there: NOT_FOUND; and nothing is written."""
    before = services.revision
    for execution, code, message in (
        (workflow_execution_of("run"), "INVALID_ARGUMENT", "spec: names neither workflow_id nor workflow_instance_id"),
        (workflow_execution_of("run", workflow="wfl-none"), "NOT_FOUND", "Workflow not found: wfl-none"),
        (workflow_execution_of("run", instance="win-none"), "NOT_FOUND", "WorkflowInstance not found: win-none"),
    ):
        with pytest.raises(Refused) as caught:
            services.workflow_execution.create(execution)
        assert (caught.value.code.name, caught.value.message[: len(message)]) == (code, message)
    assert services.revision == before


def test_lost_default_instance_is_made_once_for_many(services: Services) -> None:
    """However many executions come at once, the agent gets one instance, and each execution its own session."""
    agent = services.agent.create(make("agent", "Many At Once"))
    services.agent_instance.delete(value=agent.status.default_instance_id)

    def run(number: int) -> str:
        return str(services.agent_execution.create(execution_of(f"r{number}", agent=agent.metadata.id)).spec.session_id)

    with ThreadPoolExecutor(16) as threads:
        sessions = set(threads.map(run, range(32)))
    assert len(sessions) == 32
    assert services.agent_instance.getByAgent(agent_id=agent.metadata.id).total_count == 1


def test_creating_an_execution_starts_nothing(services: Services) -> None:
    """It is in the log for runners to see, and nobody touches it."""
    agent = services.agent.create(make("agent", "Is Left Alone"))
    made = services.agent_execution.create(execution_of("run", agent=agent.metadata.id))
    services.agent.update(agent)
    assert services.agent_execution.get(value=made.metadata.id) == made
    assert [event.id for commit in services.commits() for event in commit].count(made.metadata.id) == 1


def test_execution_of_another_workflows_instance(services: Services) -> None:
    """An instance and a workflow that is not its own are INVALID_ARGUMENT, and nothing is written."""
    one, other = (services.workflow.create(make("workflow", name)) for name in ("Mine", "Not mine"))
    before = services.revision
    execution = workflow_execution_of("run", workflow=other.metadata.id, instance=one.status.default_instance_id)
    with pytest.raises(Refused) as caught:
        services.workflow_execution.create(execution)
    assert caught.value.code.name == "INVALID_ARGUMENT"
    assert caught.value.message.startswith("spec.workflow_id: ")
    assert services.revision == before
    execution.spec.workflow_id = one.metadata.id
    assert services.workflow_execution.create(execution).spec.workflow_id == one.metadata.id
