"""YAML 1.2 and JSON text into nodes that know their line.

Owns syntax: what a scalar is (YAML's core schema: `on` and `yes` are strings), documents, aliases. Knows nothing
of messages.

Bounded, whatever the text holds: `DEPTH_MAX` levels, and `EXPANDED_BYTES_MAX` after aliases are expanded. An alias
is the same node again, so that a bomb of aliases is counted, not built. Nothing here recurses over the text.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from stigmer import names

TEXT_BYTES_MAX = 16 * 1024 * 1024
"""The largest text that is read."""
EXPANDED_BYTES_MAX = 32 * 1024 * 1024
"""The most that one text may come to when every alias is replaced by what it stands for."""
NODE_BYTES = 64
"""What a node counts for beside its text."""
DEPTH_MAX = 64
"""How many lists and maps may be inside each other."""


class Shape(enum.Enum):
    """What a node is."""

    NULL = "null"
    BOOL = "bool"
    NUMBER = "number"
    STRING = "string"
    LIST = "list"
    MAP = "map"


class Node(msgspec.Struct, frozen=True):
    """A value as it was written."""

    shape: Shape
    line: int
    """Of its beginning, from 1; 0 where it came from no text."""
    text: str = ""
    """Of a scalar."""
    entries: tuple[Node, ...] = ()
    """Of a list."""
    fields: tuple[tuple[Node, Node], ...] = ()
    """Of a map, in the order of the text; the same key may be there twice."""
    size: int = NODE_BYTES
    """Of itself and everything inside, aliases expanded."""
    depth: int = 0
    """How many lists and maps are inside each other, this one included; 0 for a scalar."""


class DocumentError(Exception):
    """Text that is not YAML or JSON, or goes beyond a bound. Stays in this package."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(line, problem)
        self.line = line
        self.problem = problem


def documents(text: str, *, json_only: bool) -> Iterator[Node]:
    """Give the documents of a text one by one, empty ones left out; raises `DocumentError`.

    With `json_only` the text must be JSON (several values one after the other are several documents); else it may
    be either, and JSON is found by how it begins.
    """
    if json_only or text.lstrip("\ufeff \t\r\n")[:1] in ("{", "["):
        try:
            values = list(_json_values(text))
        except DocumentError:
            # What begins like JSON may still be YAML's flow style.
            if json_only:
                raise
        else:
            yield from _build(_json_events(values))
            return
    yield from _build(_yaml_events(text))


# --- building nodes ------------------------------------------------------------------------------------


class _Scalar(msgspec.Struct, frozen=True):
    node: Node
    anchor: str | None = None


class _Start(msgspec.Struct, frozen=True):
    shape: Shape
    line: int
    anchor: str | None = None


class _End(msgspec.Struct, frozen=True):
    pass


class _Alias(msgspec.Struct, frozen=True):
    name: str
    line: int


class _DocumentEnd(msgspec.Struct, frozen=True):
    pass


_Event = _Scalar | _Start | _End | _Alias | _DocumentEnd


class _Builder:
    """Puts the events of one document together into its node."""

    def __init__(self) -> None:
        self._open: list[tuple[_Start, list[Node]]] = []
        self._anchors: dict[str, Node | None] = {}
        self._size = 0
        self.done: Node | None = None

    def start(self, event: _Start) -> None:
        self._count(NODE_BYTES, event.line)
        if len(self._open) == DEPTH_MAX:
            raise _too_deep(event.line)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        self._open.append((event, []))

    def end(self) -> None:
        event, children = self._open.pop()
        size = NODE_BYTES + sum(child.size for child in children)
        depth = 1 + max((child.depth for child in children), default=0)
        if event.shape is Shape.LIST:
            node = Node(Shape.LIST, event.line, entries=tuple(children), size=size, depth=depth)
        else:
            for key in children[::2]:
                if key.depth:
                    raise DocumentError(key.line, "a key must be a plain word, not a list or a map")
            pairs = tuple(zip(children[::2], children[1::2], strict=True))
            node = Node(Shape.MAP, event.line, fields=pairs, size=size, depth=depth)
        self._add(node, event.anchor)

    def scalar(self, event: _Scalar) -> None:
        self._count(event.node.size, event.node.line)
        self._add(event.node, event.anchor)

    def alias(self, event: _Alias) -> None:
        if event.name not in self._anchors:
            raise DocumentError(event.line, f"the alias *{event.name} stands for nothing before it")
        node = self._anchors[event.name]
        if node is None:
            raise DocumentError(event.line, f"the alias *{event.name} stands for what it is inside of")
        self._count(node.size, event.line)
        if len(self._open) + node.depth > DEPTH_MAX:
            raise _too_deep(event.line)
        self._add(node, None)

    def _count(self, size: int, line: int) -> None:
        self._size += size
        if self._size > EXPANDED_BYTES_MAX:
            limit_mib = EXPANDED_BYTES_MAX // (1024 * 1024)
            raise DocumentError(line, f"comes to more than {limit_mib} MiB with its aliases expanded")

    def _add(self, node: Node, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = node
        if self._open:
            self._open[-1][1].append(node)
        else:
            self.done = node


def _too_deep(line: int) -> DocumentError:
    return DocumentError(line, f"more than {DEPTH_MAX} lists and maps inside each other")


def _build(events: Iterator[_Event]) -> Iterator[Node]:
    builder = _Builder()
    for event in events:
        match event:
            case _Start():
                builder.start(event)
            case _End():
                builder.end()
            case _Scalar():
                builder.scalar(event)
            case _Alias():
                builder.alias(event)
            case _DocumentEnd():
                if builder.done is not None and builder.done.shape is not Shape.NULL:
                    yield builder.done
                builder = _Builder()


def _scalar(shape: Shape, text: str, line: int, anchor: str | None = None) -> _Scalar:
    if shape is Shape.STRING:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DocumentError(line, "an escape stands for half a character (a lone surrogate)") from error
    return _Scalar(Node(shape, line, text, size=NODE_BYTES + len(text)), anchor)


# --- YAML ----------------------------------------------------------------------------------------------

_IS_NULL = re.compile(r"~|null|Null|NULL|")
_IS_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_IS_NUMBER = re.compile(
    r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"
    r"|[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_TAG = "tag:yaml.org,2002:"
_TAGGED = {
    _TAG + "null": _IS_NULL,
    _TAG + "bool": _IS_BOOL,
    _TAG + "int": _IS_NUMBER,
    _TAG + "float": _IS_NUMBER,
}


def _shape_of_plain(text: str) -> Shape:
    """Give what an unquoted scalar is by YAML 1.2's core schema."""
    if _IS_NULL.fullmatch(text):
        return Shape.NULL
    if _IS_BOOL.fullmatch(text):
        return Shape.BOOL
    return Shape.NUMBER if _IS_NUMBER.fullmatch(text) else Shape.STRING


def _yaml_events(text: str) -> Iterator[_Event]:
    from ruamel.yaml import YAML
    from ruamel.yaml import events as yaml_events
    from ruamel.yaml.error import MarkedYAMLError, YAMLStreamError
    from ruamel.yaml.reader import ReaderError

    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            line = event.start_mark.line + 1
            match event:
                case yaml_events.ScalarEvent():
                    yield _scalar(_shape_of_yaml(event, line), event.value, line, event.anchor)
                case yaml_events.SequenceStartEvent():
                    yield _Start(Shape.LIST, line, event.anchor)
                case yaml_events.MappingStartEvent():
                    yield _Start(Shape.MAP, line, event.anchor)
                case yaml_events.SequenceEndEvent() | yaml_events.MappingEndEvent():
                    yield _End()
                case yaml_events.AliasEvent():
                    yield _Alias(str(event.anchor), line)
                case yaml_events.DocumentEndEvent():
                    yield _DocumentEnd()
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise DocumentError(mark.line + 1 if mark else 0, f"not YAML: {_yaml_problem(error)}") from error
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise DocumentError(line, f"not YAML: it contains U+{ord(text[error.position]):04X}") from error
    except YAMLStreamError as error:
        raise DocumentError(0, f"not YAML: {error}") from error


def _shape_of_yaml(event: Any, line: int) -> Shape:
    tag = str(event.tag) if event.tag is not None else None
    if tag is None:
        return _shape_of_plain(event.value) if event.style in (None, "") else Shape.STRING
    if tag in ("!", _TAG + "str", _TAG + "binary"):
        return Shape.STRING
    if tag in _TAGGED and _TAGGED[tag].fullmatch(event.value):
        return _shape_of_plain(event.value)
    raise DocumentError(line, f"the tag {names.shown(tag)} is not one that manifests can have here")


def _yaml_problem(error: Any) -> str:
    problem = " ".join(str(part) for part in (error.context, error.problem) if part)
    if "'\\t'" in problem:
        return "a tab where none can be; YAML is indented with spaces"
    return problem


# --- JSON ----------------------------------------------------------------------------------------------

_TOKEN = re.compile(r'[{}\[\]]|"(?:[^"\\]|\\.)*"|[^\s{}\[\],:"]+')


def _json_values(text: str) -> Iterator[tuple[str, int]]:
    """Give the JSON values that stand one after the other in a text, each with its line."""
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    position = 0
    line = 1
    while (found := re.compile(r"[^\s\ufeff]").search(text, position)) is not None:
        line += text.count("\n", position, found.start())
        position = found.start()
        try:
            _, end = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise DocumentError(error.lineno, f"not JSON: {error.msg}") from error
        except RecursionError as error:
            raise _too_deep(line) from error
        except ValueError as error:
            raise DocumentError(line, f"not JSON: {error}") from error
        yield text[position:end], line
        line += text.count("\n", position, end)
        position = end


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number that JSON has")


def _json_events(values: list[tuple[str, int]]) -> Iterator[_Event]:
    """Give the events of values that are known to be JSON: commas and colons need no second look."""
    for value, first_line in values:
        line, position = first_line, 0
        for token in _TOKEN.finditer(value):
            line += value.count("\n", position, token.start())
            position = token.start()
            word = token[0]
            match word[0]:
                case "{":
                    yield _Start(Shape.MAP, line)
                case "[":
                    yield _Start(Shape.LIST, line)
                case "}" | "]":
                    yield _End()
                case '"':
                    yield _scalar(Shape.STRING, json.loads(word), line)
                case _:
                    yield _scalar(_shape_of_plain(word), word, line)
        yield _DocumentEnd()
