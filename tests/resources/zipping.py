"""Zips made byte by byte, so that a test can make each of their numbers a lie."""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

STORED, DEFLATED = 0, 8
FILE = (stat.S_IFREG | 0o644) << 16
SKILL = b"# A skill\n"


class Part(NamedTuple):
    """One entry. What is None follows from the content."""

    name: bytes
    content: bytes = b""
    method: int = DEFLATED
    packed: bytes | None = None
    """The bytes as they lie in the zip."""
    flags: int = 0
    attributes: int = FILE
    needed: int = 20
    disk: int = 0
    crc: int | None = None
    packed_bytes: int | None = None
    unpacked_bytes: int | None = None
    offset: int | None = None
    extra: bytes = b""
    comment: bytes = b""
    behind: bytes = b""
    """What follows the entry, such as a descriptor."""
    local: Mapping[str, Any] = MappingProxyType({})
    """Fields that the local header has otherwise."""


def deflated(content: bytes) -> bytes:
    """Compress as a zip does."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(content) + packer.flush()


def extra_field(number: int, content: bytes) -> bytes:
    """Give an extra field with its head."""
    return struct.pack("<2H", number, len(content)) + content


def _complete(part: Part) -> Part:
    packed = part.packed
    if packed is None:
        packed = deflated(part.content) if part.method == DEFLATED else part.content
    return part._replace(
        packed=packed,
        crc=zlib.crc32(part.content) if part.crc is None else part.crc,
        packed_bytes=len(packed) if part.packed_bytes is None else part.packed_bytes,
        unpacked_bytes=len(part.content) if part.unpacked_bytes is None else part.unpacked_bytes,
    )


def _local(part: Part) -> bytes:
    part = part._replace(**part.local)
    head = struct.pack(
        *("<4s5H3I2H", b"PK\3\4", part.needed, part.flags, part.method, 0, 33),
        *(part.crc, part.packed_bytes, part.unpacked_bytes, len(part.name), len(part.extra)),
    )
    return head + part.name + part.extra


def _central(part: Part, offset: int) -> bytes:
    head = struct.pack(
        *("<4s6H3I5H2I", b"PK\1\2", 3 << 8 | 20, part.needed, part.flags, part.method, 0, 33),
        *(part.crc, part.packed_bytes, part.unpacked_bytes, len(part.name), len(part.extra), len(part.comment)),
        *(part.disk, 0, part.attributes, offset if part.offset is None else part.offset),
    )
    return head + part.name + part.extra + part.comment


def zipped(
    *parts: Part,
    before: bytes = b"",
    between: bytes = b"",
    comment: bytes = b"",
    end: dict[str, int] | None = None,
    zip64: dict[str, int] | None = None,
) -> bytes:
    """Make a zip; `between` is put before its directory, `end` and `zip64` replace numbers of its end records."""
    entries, directory = before, b""
    for part in map(_complete, parts):
        assert part.packed is not None
        directory += _central(part, len(entries))
        entries += _local(part) + part.packed + part.behind
    entries += between
    numbers = {"disk": 0, "directory_disk": 0, "here": len(parts), "entries": len(parts)}
    numbers |= {"size": len(directory), "offset": len(entries)}
    long = b""
    if zip64 is not None:
        told = {"length": 44, "at": len(entries) + len(directory), "disks": 1, **numbers, **zip64}
        head = (told["length"], 45, 45, told["disk"], told["directory_disk"])
        long = struct.pack("<4sQ2H2I", b"PK\6\6", *head)
        long += struct.pack("<4Q", told["here"], told["entries"], told["size"], told["offset"])
        long += struct.pack("<4sIQI", b"PK\6\7", 0, told["at"], told["disks"])
    numbers |= {"comment": len(comment), **(end or {})}
    return entries + directory + long + struct.pack("<4s4H2IH", b"PK\5\6", *numbers.values()) + comment


def skill(*parts: Part, **options: Any) -> bytes:
    """Make the zip of a skill, with these entries behind its SKILL.md."""
    return zipped(Part(b"SKILL.md", SKILL), *parts, **options)
