"""Phases of executions by their names, as a person writes them: `completed`, `IN_PROGRESS`, `EXECUTION_FAILED`."""

from __future__ import annotations

from stigmer.errors import InvalidArgument
from stigmer.resources import kinds, options

PREFIX = "EXECUTION_"
COMPLETED = 3
FINAL = frozenset((3, 4, 5))
"""An execution in one of these does not change any more."""


def _names(kind: str) -> dict[int, str]:
    """Give the phases of a kind, without what all of their names begin with; none where it has no phase."""
    known = kinds.find(kind)
    status = known.descriptor.fields_by_name["status"].message_type if known is not None else None
    field = status.fields_by_name.get("phase") if status is not None else None
    if field is None:
        return {}
    values = options.enum_of(field).values
    return {value.number: value.name.removeprefix(PREFIX) for value in values if value.number}


def phase_number(kind: str, text: str, field: str) -> int:
    """Give the number of a phase. Raises `InvalidArgument`."""
    wanted = text.upper().replace("-", "_").removeprefix(PREFIX)
    known = _names(kind)
    if not known:
        raise InvalidArgument(field, f"resources of kind {kind} have no phase; executions have")
    for number, name in known.items():
        if name == wanted:
            return number
    every = ", ".join(name.lower().replace("_", "-") for name in known.values())
    raise InvalidArgument(field, f'"{text}" is no phase; there is {every}')


def phase_name(kind: str, number: int) -> str:
    """Give the name of a phase, such as "COMPLETED"."""
    return _names(kind).get(number, str(number))
