"""Workflow instances: of a workflow that is there, and within its organization."""

from __future__ import annotations

from typing import Any

from stigmer import names
from stigmer.errors import InvalidArgument
from stigmer.resources.creation import Creation
from stigmer.resources.special import Special, instances
from stigmer.resources.state import ResourceStore, Where


def _complete(creation: Creation) -> None:
    metadata = creation.message.metadata
    workflow = creation.need("workflow", creation.message.spec.workflow_id, "spec.workflow_id").metadata
    both = metadata.owner_scope == workflow.owner_scope == instances.ORGANIZATION
    if both and metadata.org != workflow.org:
        raise InvalidArgument(
            "metadata.org",
            f"is {names.shown(metadata.org)}, but the workflow {workflow.id} belongs to {names.shown(workflow.org)}",
        )


def _configured(creation: Creation, stored: Any) -> None:
    if creation.message.spec.workflow_id != stored.spec.workflow_id:
        _complete(creation)


def _of_workflow(_store: ResourceStore, request: Any) -> list[Where]:
    return [("workflow", (request.workflow_id,))]


SPECIAL = Special(
    children=(("workflow_execution", "workflow_instance"),),
    complete=_complete,
    configured=_configured,
    lists={"getByWorkflow": _of_workflow},
)
