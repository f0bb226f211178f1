"""Reads tests/data/contract/wire.txt, the facts that the resources' messages must equal."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import NamedTuple

WIRE = Path(__file__).parent.parent / "data" / "contract" / "wire.txt"
NOT_SERVED = "ai.stigmer.agentic.workflowrunner."
_FIELD = re.compile(r"\s+(\d+) (\w+): (repeated )?(\S+)(?:\s+oneof=(\w+))?(?:\s+\[(.*)\])?")


class Field(NamedTuple):
    """One field of a message."""

    number: int
    name: str
    repeated: bool
    type: str
    oneof: str | None
    rules: tuple[tuple[str, object], ...]
    """Sorted pairs of a rule's name and its value."""


class Contract(NamedTuple):
    """Everything that wire.txt has of messages and enums, without the service that is not served."""

    messages: dict[str, list[Field]]
    enums: dict[str, dict[str, int]]


@functools.cache
def contract() -> Contract:
    """Parse wire.txt."""
    found = Contract({}, {})
    fields: list[Field] = []
    for line in WIRE.read_text(encoding="utf-8").splitlines():
        if line.startswith("message "):
            fields = found.messages.setdefault(line.removeprefix("message "), [])
        elif line.startswith("enum "):
            name, _, values = line.removeprefix("enum ").partition(": ")
            pairs = (value.split("=") for value in values.split(", "))
            found.enums[name] = {value: int(number) for value, number in pairs}
        elif (match := _FIELD.fullmatch(line)) is not None:
            number, name, repeated, type_, oneof, rules = match.groups()
            fields.append(Field(int(number), name, bool(repeated), type_, oneof, _rules(rules or "")))
    for part in found:
        for name in [name for name in part if name.startswith(NOT_SERVED)]:
            del part[name]
    return found


def _rules(text: str) -> tuple[tuple[str, object], ...]:
    rules: dict[str, object] = {}
    if (cel := re.search(r'cel \{ id: "([^"]*)" message: "[^"]*" expression: "([^"]*)" \}', text)) is not None:
        what = "reference_kinds" if "this.kind" in cel[2] else "owner_scopes"
        rules["id"] = cel[1]
        rules[what] = tuple(int(number) for number in re.findall(r"== (\d+)", cel[2]))
        text = text.replace(cel[0], "")
    if "required: true" in text:
        rules["required"] = True
    if "defined_only: true" in text:
        rules["defined_only"] = True
    if "uri: true" in text:
        rules["uri"] = True
    for name in ("min_len", "max_len", "min_items", "gte", "lte"):
        if (match := re.search(rf"\b{name}: ([\d.]+)", text)) is not None:
            rules[name] = float(match[1])
    for name in ("pattern", "const"):
        if (match := re.search(rf'\b{name}: "((?:[^"\\]|\\.)*)"', text)) is not None:
            rules[name] = match[1].replace("\\\\", "\\")
    if allowed := re.findall(r'\bin: "([^"]*)"', text):
        rules["in"] = tuple(allowed)
    assert rules or not text.strip(), f"a rule that this parser does not know: {text}"
    return tuple(sorted(rules.items()))
