"""Agent instances: their sessions go with them."""

from __future__ import annotations

from typing import Any

from stigmer.resources.special import Special
from stigmer.resources.state import ResourceStore, Where


def _of_agent(_store: ResourceStore, request: Any) -> list[Where]:
    return [("agent", (request.agent_id,))]


SPECIAL = Special(children=(("session", "agent_instance"),), lists={"getByAgent": _of_agent})
