"""Target: the zips of skills. What is taken has to be what Python's own reader finds in it."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from resources.zipping import DEFLATED, STORED, Part, deflated, extra_field, skill, zipped

from stigmer import config
from stigmer.errors import InvalidArgument
from stigmer.resources import archives, zips

from .targets import is_safe_to_show

READERS = ("stigmer.resources.archives", "stigmer.resources.zips")
TOKENS = (
    b"PK\1\2",
    b"PK\3\4",
    b"PK\5\6",
    b"PK\6\6",
    b"PK\6\7",
    b"PK\7\x08",
    b"SKILL.md",
    b"../",
    b"/",
    b"\\",
    b"\x01\x00\x08\x00",
    b"\x75\x70",
    b"\xff\xff\xff\xff",
    b"\xff\xff",
)

_EXAMPLE = Path(__file__).parents[3] / "examples/skills/release-notes"


def one(data: bytes) -> None:
    """Check bytes as an archive."""
    try:
        archive = archives.inspect(data)
    except InvalidArgument as error:
        assert error.field == "artifact"
        assert is_safe_to_show(str(error))
        return
    _check_taken(data, archive)


def _check_taken(data: bytes, archive: archives.Archive) -> None:
    """What was taken is what its facts say, and what another reader unpacks."""
    assert archive.version_hash == hashlib.sha256(data).hexdigest()
    assert archive.unpacked_bytes <= config.ARTIFACT_UNPACKED_BYTES_MAX
    entries = zips.entries_of(data, config.ARTIFACT_ENTRIES_MAX)
    mine = {entry.name: b"".join(zips.unpacked(data, entry)) for entry in entries}
    assert len(mine) == len(entries)
    assert archive.files == sum(not name.endswith("/") for name in mine)
    assert archive.unpacked_bytes == sum(map(len, mine.values()))
    assert archive.skill_md.encode() == mine[archives.SKILL_MD].removeprefix(b"\xef\xbb\xbf")
    with zipfile.ZipFile(io.BytesIO(data)) as other:
        assert len(other.infolist()) == len(entries)
        for info, entry in zip(other.infolist(), entries, strict=True):
            assert info.filename in entry.readings
            assert ".." not in info.filename.split("/")
            assert not info.filename.startswith("/")
            assert other.read(info) == mine[entry.name], "another reader unpacks something else"


def seeds() -> Iterator[bytes]:
    """Give zips of many makers."""
    yield archives.pack(str(_EXAMPLE))
    yield skill()
    inner = Part(b"folder/inner.txt", b"x", STORED)
    yield skill(Part(b"notes.txt", b"text " * 40), Part(b"folder/"), inner, comment=b"hi")
    yield skill(Part("\u00e9.txt".encode(), b"1", flags=1 << 11), Part(b"\x82.txt", b"2"))
    yield skill(Part(b"a.txt", b"a" * 300), zip64={})
    unicode_path = extra_field(0x7075, b"\1" + b"\0\0\0\0" + b"other.txt")
    yield skill(Part(b"a.txt", b"", DEFLATED, packed=b"", extra=unicode_path))
    content = b"behind it comes a descriptor"
    crc, size = zlib.crc32(content), len(deflated(content))
    behind = b"PK\7\x08" + b"".join(number.to_bytes(4, "little") for number in (crc, size, len(content)))
    unknown = {"crc": 0, "packed_bytes": 0, "unpacked_bytes": 0}
    yield skill(Part(b"d.txt", content, flags=8, behind=behind, local=unknown))
    long = extra_field(1, len(content).to_bytes(8, "little") + size.to_bytes(8, "little"))
    yield skill(Part(b"z.txt", content, packed_bytes=0xFFFFFFFF, unpacked_bytes=0xFFFFFFFF, extra=long))
    yield zipped(Part(b"no-skill.txt", b"x"))
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("SKILL.md", "# One more\n")
        archive.writestr("data/numbers.csv", "1,2,3\n" * 50)
    yield written.getvalue()
