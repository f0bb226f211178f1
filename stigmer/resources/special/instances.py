"""The default instance of an agent or a workflow: what an execution uses that names no instance."""

from __future__ import annotations

from typing import Any

from stigmer.resources.creation import Creation

DESCRIPTION = "Default instance (auto-created, no custom configuration)"
ORGANIZATION = 2
"""The owner scope of what belongs to an organization."""
IDENTITY = 3
"""The owner scope of what belongs to one person."""


def make_default(creation: Creation, parent: Any, kind_name: str, parent_field: str) -> str:
    """Make the default instance of `parent`, whose id goes into a field of the spec; give the instance's id."""
    metadata = parent.metadata
    org = metadata.org if metadata.owner_scope == ORGANIZATION else ""
    instance = creation.along(kind_name, f"{metadata.name}-default", metadata.owner_scope, org)
    setattr(instance.spec, parent_field, metadata.id)
    instance.spec.description = DESCRIPTION
    creation.save(kind_name, instance)
    parent.status.default_instance_id = instance.metadata.id
    return str(instance.metadata.id)


def default_of(creation: Creation, parent: Any, parent_kind: str, kind_name: str, parent_field: str) -> str:
    """Give the id of the default instance of a stored `parent`; it is made where it is not there (any more)."""
    id = parent.status.default_instance_id
    if id and creation.state.get(kind_name, id) is not None:
        return str(id)
    id = make_default(creation, parent, kind_name, parent_field)
    creation.state.save(parent_kind, parent.metadata.id, parent)
    return id
