"""Workflows: each has a default instance from its beginning, and takes instances and executions with it."""

from __future__ import annotations

from stigmer.resources.creation import Creation
from stigmer.resources.special import Special, instances


def _complete(creation: Creation) -> None:
    instances.make_default(creation, creation.message, "workflow_instance", "workflow_id")


SPECIAL = Special(children=(("workflow_instance", "workflow"), ("workflow_execution", "workflow")), complete=_complete)
