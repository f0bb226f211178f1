"""What is special to a kind: a module for each kind that has something, and `of`, which finds it.

A verb is the same for every kind, and calls what is here at named places.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from stigmer.resources.creation import Creation
from stigmer.resources.state import ResourceStore, Where

MODULES = (
    "agent",
    "agent_execution",
    "agent_instance",
    "session",
    "skill",
    "workflow",
    "workflow_execution",
    "workflow_instance",
)
"""Named as their kinds are."""


Conditions = Callable[[ResourceStore, Any], Sequence[Where]]
"""Says of a request which conditions what it lists must meet."""


class Special(msgspec.Struct, frozen=True):
    """What is special to a kind."""

    slug_is_unique: bool = True
    """In its organization."""
    children: tuple[tuple[str, str], ...] = ()
    """What is deleted with a resource: other kinds, each with the index that has this one's id."""
    complete: Callable[[Creation], None] | None = None
    """Called when a resource is created: checks what it needs, fills it in, makes what comes into being with it."""
    configured: Callable[[Creation, Any], None] | None = None
    """Called when a resource is configured, with what is stored: keeps what `complete` filled in, checks the rest."""
    lists: Mapping[str, Conditions] = {}
    """What the methods that list some of the kind ask for, beside phase and tags."""
    version_of: Callable[[str, str], tuple[str, str] | None] | None = None
    """Gives kind and id of what holds a version of a resource; None for the newest, which is the resource itself."""


_PLAIN = Special()
_found: dict[str, Special] = {}


def of(kind_name: str) -> Special:
    """Give what is special to a kind."""
    if not _found:
        for name in MODULES:
            _found[name] = importlib.import_module(f"{__name__}.{name}").SPECIAL
    return _found.get(kind_name, _PLAIN)
