"""Agent executions: each belongs to a session, which is made where none is named."""

from __future__ import annotations

from typing import Any

from stigmer.errors import InvalidArgument
from stigmer.resources.creation import Creation
from stigmer.resources.special import Special, instances
from stigmer.resources.state import ResourceStore, Where

SUBJECT = "Auto-created session"
PENDING = 1


def _complete(creation: Creation) -> None:
    execution = creation.message
    spec = execution.spec
    if spec.session_id:
        creation.need("session", spec.session_id, "spec.session_id")
    elif spec.agent_id:
        spec.session_id = _make_session(creation)
    else:
        raise InvalidArgument("spec", "names neither session_id nor agent_id: an execution needs one of them")
    execution.status.phase = PENDING


def _configured(creation: Creation, stored: Any) -> None:
    """An execution stays in its session where none is named; another one must be there."""
    spec = creation.message.spec
    spec.session_id = spec.session_id or stored.spec.session_id
    if spec.session_id != stored.spec.session_id:
        creation.need("session", spec.session_id, "spec.session_id")


def _make_session(creation: Creation) -> str:
    """Make a session with the default instance of the agent; give its id."""
    agent = creation.need("agent", creation.message.spec.agent_id, "spec.agent_id")
    instance_id = instances.default_of(creation, agent, "agent", "agent_instance", "agent_id")
    org = creation.message.metadata.org or agent.metadata.org
    scope = instances.ORGANIZATION if org else instances.IDENTITY
    session = creation.along("session", "session", scope, org)
    # The id is what makes the name one of its own.
    unique = session.metadata.id.removeprefix("ses-")
    session.metadata.name = session.metadata.slug = f"session-{unique}"
    session.spec.agent_instance_id = instance_id
    session.spec.subject = SUBJECT
    creation.save("session", session)
    return str(session.metadata.id)


def _of_session(_store: ResourceStore, request: Any) -> list[Where]:
    return [("session", (request.session_id,))]


SPECIAL = Special(
    slug_is_unique=False, complete=_complete, configured=_configured, lists={"listBySession": _of_session}
)
