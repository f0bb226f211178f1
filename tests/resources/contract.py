"""Reads tests/data/contract/wire.txt, the facts that the resources' messages and services must equal."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import NamedTuple

WIRE = Path(__file__).parent.parent / "data" / "contract" / "wire.txt"
NOT_SERVED = "ai.stigmer.agentic.workflowrunner."
_PACKAGE = re.compile(r"## \S+   package (\S+)")
_METHOD = re.compile(r"  rpc (\w+)\((stream )?(\S+)\) -> (stream )?(\S+)")
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


class Method(NamedTuple):
    """One method of a service."""

    request: str
    request_streams: bool
    response: str
    response_streams: bool


class Contract(NamedTuple):
    """Everything that wire.txt has, without the service that is not served and its messages.

    Each part has full names as keys; that of a service has its methods by their short names.
    """

    packages: dict[str, None]
    messages: dict[str, list[Field]]
    enums: dict[str, dict[str, int]]
    services: dict[str, dict[str, Method]]


@functools.cache
def contract() -> Contract:
    """Parse wire.txt. A line that is not understood fails, so that no fact is passed over in silence."""
    found = Contract({}, {}, {}, {})
    fields: list[Field] = []
    methods: dict[str, Method] = {}
    package = ""
    for line in WIRE.read_text(encoding="utf-8").splitlines():
        if line.startswith(("message ", "enum ", "service ")):
            what, name = line.split(" ")[:2]
            assert name.removesuffix(":").rpartition(".")[0] == package, line
            if what == "message":
                fields = found.messages.setdefault(name, [])
            elif what == "service":
                methods = found.services.setdefault(name, {})
            else:
                pairs = (value.split("=") for value in line.partition(": ")[2].split(", "))
                found.enums[name.removesuffix(":")] = {value: int(number) for value, number in pairs}
        elif (match := _PACKAGE.fullmatch(line)) is not None:
            package = match[1]
            found.packages[package] = None
        elif (match := _METHOD.fullmatch(line)) is not None:
            name, request_streams, request, response_streams, response = match.groups()
            methods[name] = Method(request, bool(request_streams), response, bool(response_streams))
        elif (match := _FIELD.fullmatch(line)) is not None:
            number, name, repeated, type_, oneof, rules = match.groups()
            fields.append(Field(int(number), name, bool(repeated), type_, oneof, _rules(rules or "")))
        else:
            assert not line, f"a line that this parser does not know: {line}"
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
