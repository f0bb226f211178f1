"""Workflow executions: each of an instance, the default one where none is named."""

from __future__ import annotations

from typing import Any

from stigmer import names
from stigmer.errors import InvalidArgument
from stigmer.resources.creation import Creation
from stigmer.resources.special import Special, instances
from stigmer.resources.state import ResourceStore, Where

PENDING = 1


def _complete(creation: Creation) -> None:
    execution = creation.message
    spec = execution.spec
    if spec.workflow_instance_id:
        # The workflow is filled in, so that its executions are found by it whichever way they were made.
        instance = creation.need("workflow_instance", spec.workflow_instance_id, "spec.workflow_instance_id")
        if spec.workflow_id and spec.workflow_id != instance.spec.workflow_id:
            raise InvalidArgument(
                "spec.workflow_id",
                f"is {names.shown(spec.workflow_id)}, but the instance {spec.workflow_instance_id} is of "
                f"{names.shown(instance.spec.workflow_id)}",
                hint="leave it out: the workflow is that of the instance",
            )
        spec.workflow_id = instance.spec.workflow_id
    elif spec.workflow_id:
        workflow = creation.need("workflow", spec.workflow_id, "spec.workflow_id")
        spec.workflow_instance_id = instances.default_of(
            creation, workflow, "workflow", "workflow_instance", "workflow_id"
        )
    else:
        raise InvalidArgument(
            "spec", "names neither workflow_id nor workflow_instance_id: an execution needs one of them"
        )
    execution.status.phase = PENDING


def _configured(creation: Creation, stored: Any) -> None:
    """An execution stays with its workflow and its instance where none is named; others must be there."""
    spec = creation.message.spec
    for kind_name, field in (("workflow", "workflow_id"), ("workflow_instance", "workflow_instance_id")):
        was = getattr(stored.spec, field)
        setattr(spec, field, getattr(spec, field) or was)
        if getattr(spec, field) != was:
            creation.need(kind_name, getattr(spec, field), f"spec.{field}")


def _of_workflow(_store: ResourceStore, request: Any) -> list[Where]:
    return [("workflow", (request.workflow_id,))]


SPECIAL = Special(
    slug_is_unique=False, complete=_complete, configured=_configured, lists={"listByWorkflow": _of_workflow}
)
