"""Agents: each has a default instance from its beginning, and takes its instances with it."""

from __future__ import annotations

from stigmer.resources.creation import Creation
from stigmer.resources.special import Special, instances


def _complete(creation: Creation) -> None:
    instances.make_default(creation, creation.message, "agent_instance", "agent_id")


SPECIAL = Special(children=(("agent_instance", "agent"),), complete=_complete)
