"""get, getByReference and the lists: what is found, by what, in which order and in which pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import grpc
import pytest
from daemon.support import DaemonProcess

from typed.support import (
    COMPLETED,
    IN_PROGRESS,
    KIND,
    KINDS,
    ORGANIZATION,
    PENDING,
    KindFacts,
    Refused,
    Services,
    creatable,
    execution_of,
    make,
    workflow_execution_of,
)

REFERRED = [kind for kind in KINDS if kind.name not in ("agent_execution", "workflow_execution", "session", "skill")]


def ids(answer: Any) -> list[str]:
    """Give the ids in the answer of a list."""
    found = answer.entries if "entries" in answer.DESCRIPTOR.fields_by_name else answer.items
    return [one.metadata.id for one in found]


# --- one resource --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_get_of_what_is_not_there(services: Services, kind: KindFacts) -> None:
    """NOT_FOUND, in the words that clients look for."""
    with pytest.raises(Refused) as caught:
        services.of(kind).get(value="absent-1")
    assert caught.value.code is grpc.StatusCode.NOT_FOUND
    assert caught.value.message == f"{kind.message_name} not found: absent-1"
    assert (caught.value.detail.name, caught.value.detail.kind, caught.value.detail.id) == (
        "NotFound",
        kind.name,
        "absent-1",
    )


@pytest.mark.parametrize("kind", REFERRED, ids=lambda kind: kind.name)
def test_reference_names_by_slug(services: Services, kind: KindFacts) -> None:
    """By slug alone, with the organization, with the kind's number; whatever the scope says."""
    service = services.of(kind)
    made = service.create(creatable(services, kind.name, f"Referred {kind.name}"))
    slug, org = made.metadata.slug, made.metadata.org
    for reference in (
        {"slug": slug},
        {"slug": slug, "kind": kind.number},
        {"slug": slug, "org": org, "kind": kind.number},
        {"slug": slug, "org": org, "scope": ORGANIZATION},
        *({"slug": slug, "scope": scope} for scope in range(4)),
    ):
        assert service.getByReference(**reference) == made
    for reference in ({"slug": "not-there"}, {"slug": "not-there", "org": org}, {"slug": slug, "org": "elsewhere"}):
        with pytest.raises(Refused) as caught:
            service.getByReference(**reference)
        assert caught.value.code is grpc.StatusCode.NOT_FOUND
        assert caught.value.message == f"{kind.message_name} not found: {reference['slug']}"


@pytest.mark.parametrize("kind", [*REFERRED, KIND["skill"]], ids=lambda kind: kind.name)
def test_reference_that_is_none(services: Services, kind: KindFacts) -> None:
    """Without a slug, and of another kind, it is INVALID_ARGUMENT that names the field."""
    other = KIND["agent"].number if kind.name != "agent" else KIND["workflow"].number
    for reference, field in (
        ({}, "slug"),
        ({"org": "acme"}, "slug"),
        ({"slug": "x", "kind": other}, "kind"),
        ({"slug": "x", "kind": 999}, "kind"),
        ({"slug": "x", "scope": 9}, "scope"),
        ({"slug": "x", "version": "a b"}, "version"),
    ):
        with pytest.raises(Refused, match=f"INVALID_ARGUMENT: {field}: ") as caught:
            services.of(kind).getByReference(**reference)
        assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_reference_finds_by_organization(services: Services) -> None:
    """Where several have the slug, each is found by its organization; without one, that of none is meant."""
    made = {org: services.mcp_server.create(make("mcp_server", "Everywhere", org=org)) for org in ("a", "b")}
    for org, one in made.items():
        assert services.mcp_server.getByReference(slug="everywhere", org=org) == one
    with pytest.raises(Refused, match="org: several organizations have") as caught:
        services.mcp_server.getByReference(slug="everywhere")
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert all(one.metadata.id in caught.value.message for one in made.values())
    of_none = services.mcp_server.create(make("mcp_server", "Everywhere", org="", owner_scope=1))
    assert services.mcp_server.getByReference(slug="everywhere") == of_none


# --- lists ---------------------------------------------------------------------------------------------


class Sessions(NamedTuple):
    """Sessions that are all of a daemon."""

    services: Services
    ids: list[str]
    """Newest first."""


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sessions]:
    """Sixty sessions, of which every third one is tagged, in a daemon of their own: other tests make sessions, too."""
    with DaemonProcess(tmp_path_factory.mktemp("listed") / "data") as process, Services(process.address) as services:
        made = []
        for number in range(60):
            session = make("session", f"Listed {number}", tags=["all", *(["third"] if number % 3 == 0 else [])])
            session.spec.agent_instance_id = f"ain-{number % 2}"
            made.append(services.session.create(session).metadata.id)
        yield Sessions(services, made[::-1])


def test_list_gives_the_newest_first(listed: Sessions) -> None:
    """Fifty at a time where the request says nothing, or nonsense."""
    services, sessions = listed
    for size in (0, -1):
        answer = services.session.list(page_size=size)
        assert (ids(answer), answer.total_pages) == (sessions[:50], 2)


@pytest.mark.parametrize(("size", "pages"), [(7, 9), (20, 3), (59, 2), (60, 1), (61, 1), (1000, 1), (100_000, 1)])
def test_pages_by_number_and_by_token(listed: Sessions, size: int, pages: int) -> None:
    """Both ways through a list give every resource once; there are as many pages as total_pages says."""
    services, sessions = listed
    by_number, by_token, token = [], [], ""
    for page in range(1, pages + 1):
        answer = services.session.list(page_size=size, page_token=str(page))
        assert answer.total_pages == pages
        by_number += ids(answer)
        answered = services.session.call("list", page_size=size, page_token=token)
        assert answered.message.total_pages == pages
        by_token += ids(answered.message)
        token = answered.next_page_token
    assert (by_number, by_token, token) == (sessions, sessions, "")
    assert ids(services.session.list(page_size=size, page_token=str(pages + 1))) == []
    assert ids(services.session.list(page_size=size, page_token="0")) == sessions[:size]


def test_token_goes_on_where_the_page_ended(listed: Sessions) -> None:
    """Also where something was created meanwhile; pages by number do so until the first one is read again."""
    services, sessions = listed
    first = services.session.call("list", page_size=10)
    extra = services.session.create(make("session", "Came Between"))
    try:
        second = services.session.list(page_size=10, page_token=first.next_page_token)
        assert ids(first.message) + ids(second) == sessions[:20]
        assert ids(services.session.list(page_size=10, page_token="2")) == sessions[10:20]
        assert ids(services.session.list(page_size=10)) == [extra.metadata.id, *sessions[:9]]
        assert ids(services.session.list(page_size=10, page_token="2")) == sessions[9:19]
    finally:
        services.session.delete(value=extra.metadata.id)


@pytest.mark.parametrize("token", ["nonsense", "-1", "1.5", "²", "9" * 40, "%%%", "AAAA" * 2_000])
def test_token_that_was_not_given_out(services: Services, token: str) -> None:
    """It is INVALID_ARGUMENT; so is a token of another list."""
    with pytest.raises(Refused, match="INVALID_ARGUMENT: page_token: ") as caught:
        services.session.list(page_token=token)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_token_of_another_list(listed: Sessions) -> None:
    """A token belongs to the filter that it was given out for."""
    services = listed.services
    token = services.session.call("list", page_size=10).next_page_token
    for request in ({"tags": ["all"]}, {"tags": ["third"]}):
        with pytest.raises(Refused, match="INVALID_ARGUMENT: page_token: ") as caught:
            services.session.list(page_token=token, **request)
        assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_all_tags_must_match(listed: Sessions) -> None:
    """Each tag narrows the list; total_pages counts what is left."""
    services, sessions = listed
    third = [id for place, id in enumerate(reversed(sessions)) if place % 3 == 0][::-1]
    for tags, found in (
        (["third"], third),
        (["third", "all"], third),
        (["all", "all"], sessions),
        (["third", "none"], []),
        (["THIRD"], []),
        ([""], []),
    ):
        answer = services.session.list(tags=tags, page_size=7)
        assert (ids(answer), answer.total_pages) == (found[:7], -(-len(found) // 7)), tags


def test_page_size_is_capped(services: Services) -> None:
    """A page has a thousand entries at the most, and total_pages counts by what a page really has."""
    agent = services.agent.create(make("agent", "Many Sessions"))
    instance = agent.status.default_instance_id
    try:
        made = []
        for number in range(1_003):
            session = make("session", f"Capped {number}")
            session.spec.agent_instance_id = instance
            made.append(services.session.create(session).metadata.id)
        answered = services.session.call("listByAgent", agent_id=agent.metadata.id, page_size=5_000)
        assert (ids(answered.message), answered.message.total_pages) == (made[:2:-1], 2)
        rest = services.session.call(
            "listByAgent", agent_id=agent.metadata.id, page_size=5_000, page_token=answered.next_page_token
        )
        assert (ids(rest.message), rest.next_page_token) == (made[2::-1], "")
    finally:
        services.agent.delete(value=agent.metadata.id)


def test_a_page_fits_into_what_clients_receive(services: Services) -> None:
    """A client with gRPC's limit of 4 MiB gets a page of as many large resources as fit, and a token for the others."""
    flow = services.workflow.create(make("workflow", "Large Executions"))
    made = []
    for number in range(6):
        execution = workflow_execution_of(f"Large {number}", workflow=flow.metadata.id)
        execution.spec.trigger_message = "x" * 1_300_000
        made.append(services.workflow_execution.create(execution).metadata.id)
    found, token = [], ""
    for expected in (3, 3):
        page = services.workflow_execution.call("listByWorkflow", workflow_id=flow.metadata.id, page_token=token)
        assert len(page.message.entries) == expected
        found += ids(page.message)
        token = page.next_page_token
    assert (found, token) == (made[::-1], "")
    services.workflow.delete(value=flow.metadata.id)


def test_sessions_by_agent_and_by_instance(listed: Sessions) -> None:
    """`listByAgent` takes the id of an agent, whose instances' sessions are meant, or of an instance."""
    services, sessions = listed
    agent = services.agent.create(make("agent", "Has Sessions"))
    second = make("agent_instance", "Second Instance")
    second.spec.agent_id = agent.metadata.id
    instances = [agent.status.default_instance_id, services.agent_instance.create(second).metadata.id]
    made: list[tuple[str, str]] = []
    for number in range(6):
        session = make("session", f"Of Agent {number}")
        session.spec.agent_instance_id = instances[number % 2]
        made.insert(0, (services.session.create(session).metadata.id, instances[number % 2]))
    of_agent = services.session.listByAgent(agent_id=agent.metadata.id, page_size=4)
    assert (ids(of_agent), of_agent.total_pages) == ([id for id, _ in made[:4]], 2)
    for instance in instances:
        found = services.session.listByAgent(agent_id=instance)
        assert (ids(found), found.total_pages) == ([id for id, its in made if its == instance], 1)
    assert ids(services.session.listByAgent(agent_id="ain-0")) == sessions[1::2]
    empty = services.session.listByAgent(agent_id="agt-none")
    assert (ids(empty), empty.total_pages) == ([], 0)
    services.agent.delete(value=agent.metadata.id)  # and with it its sessions: what is listed is as it was


def test_instances_by_agent_and_by_workflow(services: Services) -> None:
    """By number of page, for those requests have no token; one counts resources, the other pages."""
    agent = services.agent.create(make("agent", "Has Instances"))
    flow = services.workflow.create(make("workflow", "Has Instances"))
    of_agent, of_flow = [agent.status.default_instance_id], [flow.status.default_instance_id]
    for number in range(4):
        instance = make("agent_instance", f"Listed Instance {number}")
        instance.spec.agent_id = agent.metadata.id
        of_agent.insert(0, services.agent_instance.create(instance).metadata.id)
        instance = make("workflow_instance", f"Listed Instance {number}")
        instance.spec.workflow_id = flow.metadata.id
        of_flow.insert(0, services.workflow_instance.create(instance).metadata.id)
    everything = services.agent_instance.getByAgent(agent_id=agent.metadata.id)
    assert (ids(everything), everything.total_count) == (of_agent, 5)
    for number, place in ((0, 0), (1, 0), (2, 2), (3, 4), (4, 6)):
        info = {"num": number, "size": 2}
        page = services.agent_instance.getByAgent(agent_id=agent.metadata.id, page_info=info)
        assert (ids(page), page.total_count) == (of_agent[place : place + 2], 5)
        pages = services.workflow_instance.getByWorkflow(workflow_id=flow.metadata.id, page_info=info)
        assert (ids(pages), pages.total_pages) == (of_flow[place : place + 2], 3)


def test_executions_by_phase_and_tags(services: Services) -> None:
    """Phase and tags must all match; an execution is found by the phase that it has now."""
    agent = services.agent.create(make("agent", "Has Executions"))
    flow = services.workflow.create(make("workflow", "Has Executions"))
    before = {name: ids(getattr(services, name).list(page_size=1000)) for name in ("agent_execution",)}
    run = services.agent_execution.create(execution_of("a", agent=agent.metadata.id, tags=["p", "q"]))
    more = [
        services.agent_execution.create(execution_of("b", session=run.spec.session_id, tags=["p"])) for _ in range(3)
    ]
    made = [one.metadata.id for one in reversed([run, *more])]
    assert ids(services.agent_execution.list(page_size=1000)) == made + before["agent_execution"]
    assert ids(services.agent_execution.list(tags=["p"])) == made
    assert ids(services.agent_execution.list(tags=["q", "p"])) == made[-1:]
    services.agent_execution.updateStatus(execution_id=made[0], status={"phase": IN_PROGRESS})
    services.agent_execution.updateStatus(execution_id=made[1], status={"phase": COMPLETED})
    assert ids(services.agent_execution.list(tags=["p"], phase=PENDING)) == made[2:]
    assert ids(services.agent_execution.list(tags=["p"], phase=IN_PROGRESS)) == made[:1]
    assert ids(services.agent_execution.list(tags=["p"], phase=COMPLETED)) == made[1:2]
    assert ids(services.agent_execution.list(tags=["p"], phase=99)) == []
    by_session = services.agent_execution.listBySession(session_id=run.spec.session_id, page_size=3)
    assert (ids(by_session), by_session.total_pages) == (made[:3], 2)
    assert ids(services.agent_execution.listBySession(session_id="ses-none")) == []
    instance = make("workflow_instance", "Of Executions")
    instance.spec.workflow_id = flow.metadata.id
    instance = services.workflow_instance.create(instance)
    of_flow = [
        services.workflow_execution.create(workflow_execution_of("x", workflow=flow.metadata.id)).metadata.id,
        services.workflow_execution.create(workflow_execution_of("y", instance=instance.metadata.id)).metadata.id,
    ][::-1]
    services.workflow_execution.updateStatus(execution_id=of_flow[0], status={"phase": IN_PROGRESS})
    assert ids(services.workflow_execution.listByWorkflow(workflow_id=flow.metadata.id)) == of_flow
    assert ids(services.workflow_execution.list(phase=IN_PROGRESS)) == of_flow[:1]
    assert of_flow[1] in ids(services.workflow_execution.list(phase=PENDING))


def test_lists_give_whole_messages(services: Services) -> None:
    """What a list has of a resource is what a get gives."""
    made = services.session.create(make("session", "Whole", labels={"a": "b"}, tags=["whole"]))
    (listed,) = services.session.list(tags=["whole"]).entries
    assert listed == made == services.session.get(value=made.metadata.id)
