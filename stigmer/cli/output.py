"""Data on stdout: tables, YAML, JSON.

Owns the formats and nothing of what is in them. Stored text is escaped wherever it could steer a terminal: in tables
by its escape, in JSON as `\\uXXXX`; YAML quotes it. A list in JSON is `{"items": [...]}`, a stream one object a line.
"""

from __future__ import annotations

import io
import json
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from stigmer.cli.units import visible

# What JSON may hold as it is but a terminal acts on: DEL, C1, invisible and bidirectional format characters.
_UNSAFE = re.compile("[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")


def rfc3339(time_ns: int) -> str:
    """Write nanoseconds since 1970 as RFC 3339 in UTC, with as many digits as it has, at least to the second."""
    seconds, rest_ns = divmod(time_ns, 1_000_000_000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return text + (f".{rest_ns:09d}".rstrip("0") if rest_ns else "") + "Z"


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table: left-aligned, two spaces between columns, no lines."""
    lines = [list(headers), *([visible(str(cell)) for cell in row] for row in rows)]
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell + " " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


def json_text(value: object, *, indent: int | None = 2) -> str:
    """Write a value as JSON, on one line where `indent` is None."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def yaml_text(value: object) -> str:
    """Write a value as YAML, in blocks; text of several lines stays several lines."""
    from ruamel.yaml import YAML
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString, LiteralScalarString

    def prepared(part: Any) -> Any:
        if isinstance(part, Mapping):
            return {prepared(key): prepared(item) for key, item in part.items()}
        if isinstance(part, list | tuple):
            return [prepared(item) for item in part]
        if not isinstance(part, str):
            return part
        if not part.replace("\n", "").isprintable():
            return DoubleQuotedScalarString(part)  # the only style that has escapes
        return LiteralScalarString(part) if _fits_block(part) else part

    yaml = YAML(typ="rt", pure=True)
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.width = 4096  # lines are broken where the text has them, nowhere else
    yaml.indent(mapping=2, sequence=4, offset=2)
    # The same list twice is two lists: no anchors in what a person reads.
    yaml.representer.ignore_aliases = lambda _data: True
    buffer = io.StringIO()
    yaml.dump(prepared(value), buffer)
    return "".join(c if c == "\n" or c.isprintable() else f"\\U{ord(c):08x}" for c in buffer.getvalue())


def _fits_block(text: str) -> bool:
    """Say whether a literal block holds a printable text exactly and reads well: it has several lines."""
    lines = text.split("\n")
    return (
        len(lines) > 1
        and bool(lines[0])
        and not lines[0].startswith(" ")
        and not text.endswith("\n\n")
        and not any(line.endswith(" ") for line in lines)
    )


def write_record(value: Mapping[str, object], output: str) -> None:
    """Print one object as YAML or JSON."""
    if output == "yaml":
        sys.stdout.write(yaml_text(value))
    else:
        sys.stdout.write(json_text(value, indent=None if output == "jsonl" else 2) + "\n")


def write_records(values: Iterator[Mapping[str, object]], output: str) -> None:
    """Print a list of objects: YAML documents, `{"items": [...]}`, or one JSON object a line; one at a time."""
    if output == "json":
        separator = ""
        sys.stdout.write('{"items": [')
        for value in values:
            indented = json_text(value).replace("\n", "\n  ")
            sys.stdout.write(f"{separator}\n  {indented}")
            separator = ","
        sys.stdout.write("\n]}\n" if separator else "]}\n")
        return
    for index, value in enumerate(values):
        if output == "yaml" and index:
            sys.stdout.write("---\n")
        write_record(value, output)
