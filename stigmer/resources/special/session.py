"""Sessions: their executions go with them."""

from __future__ import annotations

from typing import Any

from stigmer.resources.special import Special
from stigmer.resources.state import ResourceStore, Where


def _of_agent(store: ResourceStore, request: Any) -> list[Where]:
    """Sessions belong to instances; what is given is an agent, or an instance itself."""
    instances = store.find_ids("agent_instance", "agent", request.agent_id)
    return [("agent_instance", (request.agent_id, *(one.id for one in instances)))]


SPECIAL = Special(children=(("agent_execution", "session"),), lists={"listByAgent": _of_agent})
