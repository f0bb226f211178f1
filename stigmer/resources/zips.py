"""The zip format, read strictly: where each entry of an archive lies, and what comes out of it.

Follows APPNOTE.TXT of PKWARE, 4.3 and 4.5. Readers of zips disagree about bytes that are in doubt, so an archive that
was checked by one may unpack to something else with another. Here nothing is left in doubt:

- The entries lie side by side from the first byte to the directory, and the directory reaches to the end record:
  nothing overlaps, nothing lies between.
- What is told twice - sizes, checksums, names, methods - is the same both times.
- An entry gives as many bytes as the directory says, with the checksum that it says, and not one more.

Works on bytes in memory and does not trust a number in them: the directory is read entry by entry, up to a limit that
the caller gives; an entry is unpacked piece by piece. Everything that is wrong is `InvalidArgument` of the artifact.
What names are good, and how much may come out in all, is decided in `archives`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import msgspec

from stigmer.errors import InvalidArgument
from stigmer.names import shown

STORED = 0
DEFLATED = 8

# Each begins with its signature, which is compared and not unpacked; what nobody asks for is left out as well.
# number of this disk, disk of the directory, entries on this disk, entries, directory size, its offset, comment length
_END = struct.Struct("<4x4H2IH")
_END_MAGIC = b"PK\x05\x06"
# disk of the zip64 end record, its offset, disks
_LOCATOR = struct.Struct("<4xIQI")
_LOCATOR_MAGIC = b"PK\x06\x07"
# size of what follows; then from the number of this disk on as in the end record, but longer
_END64 = struct.Struct("<4xQ4x2I4Q")
_END64_MAGIC = b"PK\x06\x06"
# version needed, flags, method, CRC, packed and unpacked size, lengths of name, extra fields and comment, disk,
# external attributes, offset of the local header
_CENTRAL = struct.Struct("<6x3H4x3I4H2x2I")
_CENTRAL_MAGIC = b"PK\x01\x02"
# flags, method, CRC, packed and unpacked size, lengths of name and extra fields
_LOCAL = struct.Struct("<6x2H4x3I2H")
_LOCAL_MAGIC = b"PK\x03\x04"
# CRC, packed and unpacked size; here a signature may be missing
_DESCRIPTOR = struct.Struct("<3I")
_DESCRIPTOR64 = struct.Struct("<I2Q")
_DESCRIPTOR_MAGIC = b"PK\x07\x08"

_COMMENT_BYTES_MAX = 0xFFFF
_IN_ZIP64_16 = 0xFFFF
_IN_ZIP64_32 = 0xFFFFFFFF
_EXTRA_ZIP64 = 0x0001
_EXTRA_UNICODE_PATH = 0x7075
_VERSION_NEEDED_MAX = 63  # 6.3, the last that the format's description has, and that readers take

_FLAG_DESCRIPTOR = 1 << 3
_FLAG_PATCHED = 1 << 5
_FLAG_UTF8 = 1 << 11
# Encrypted; strongly; with a masked directory.
_FLAGS_ENCRYPTED = 1 << 0 | 1 << 6 | 1 << 13

_PACKED_PIECE_BYTES = 64 * 1024
_PIECE_BYTES = 1024 * 1024

_CUT_OFF = "it is cut off, or something was put behind its end"


class Entry(msgspec.Struct, frozen=True):
    """A file or folder of an archive, as its directory tells of it."""

    name: str
    """As most readers take it; a folder's ends with a slash."""
    readings: frozenset[str]
    """Every name that a reader may take it for: the format has known several ways to write one that is not ASCII."""
    name_bytes: bytes
    flags: int
    method: int
    crc: int
    packed_bytes: int
    unpacked_bytes: int
    """What the archive says; `unpacked` holds it to that."""
    attributes: int
    """The external ones: the mode of Unix in the upper half, those of DOS in the lower."""
    offset: int
    """Of the local header."""

    @property
    def is_folder(self) -> bool:
        """Whether the name is that of a folder."""
        return self.name.endswith("/")

    @property
    def is_encrypted(self) -> bool:
        """Whether a password would be needed."""
        return bool(self.flags & _FLAGS_ENCRYPTED)


class _End(msgspec.Struct, frozen=True):
    """What the end record, or the zip64 one in its place, says of the directory."""

    offset: int
    """Of the first end record: there the directory must end."""
    disks: frozenset[int]
    entries_here: int
    entries: int
    directory_bytes: int
    directory_offset: int


def refused(problem: str, name: str | None = None, *, hint: str | None = None) -> InvalidArgument:
    """Give the error for an archive that is not taken; `name` is that of the entry which is to blame."""
    return InvalidArgument("artifact", problem if name is None else f"{shown(name)} {problem}", hint=hint)


def _not_a_zip(problem: str) -> InvalidArgument:
    return refused(
        f"is not a zip that can be read: {problem}", hint="make it anew, for example with: zip -r skill.zip ."
    )


# --- where things lie ------------------------------------------------------------------------------------


def entries_of(content: bytes, entries_max: int) -> list[Entry]:
    """Read the directory of an archive, and check that entries and directory fill the archive.

    Nothing is unpacked. Raises `InvalidArgument`; for more than `entries_max` entries before any of them is looked at.
    """
    end = _read_end(content)
    if end.disks != {0} or end.entries_here != end.entries:
        raise _not_a_zip("it is part of a set of several")
    if end.entries > entries_max:
        raise refused(f"has {end.entries} files and folders; at most {entries_max} are allowed")
    if end.directory_offset + end.directory_bytes != end.offset:
        raise _not_a_zip("its directory is not where its end says, or something was put before or behind it")
    entries = []
    at = end.directory_offset
    for _ in range(end.entries):
        entry, at = _read_central(content, at, end.offset)
        entries.append(entry)
    if at != end.offset:
        raise _not_a_zip(f"its directory has more than the {end.entries} entries that its end says")
    _check_layout(content, entries, end.directory_offset)
    return entries


def _read_end(content: bytes) -> _End:
    at = content.rfind(_END_MAGIC, max(0, len(content) - _END.size - _COMMENT_BYTES_MAX))
    if at < 0 or at + _END.size > len(content):
        raise _not_a_zip("its end is missing")
    disk, directory_disk, here, entries, size, offset, comment_length = _END.unpack_from(content, at)
    if at + _END.size + comment_length != len(content):
        raise _not_a_zip(_CUT_OFF)
    end = _End(at, frozenset({disk, directory_disk}), here, entries, size, offset)
    # Some readers go by the locator wherever there is one, so it is never passed over.
    locator_at = at - _LOCATOR.size
    if locator_at < 0 or not content.startswith(_LOCATOR_MAGIC, locator_at):
        return end
    return _read_end64(content, locator_at, end)


def _read_end64(content: bytes, locator_at: int, end: _End) -> _End:
    end64_disk, at, disks = _LOCATOR.unpack_from(content, locator_at)
    if end64_disk != 0 or disks > 1:
        raise _not_a_zip("it is part of a set of several")
    if at + _END64.size != locator_at or not content.startswith(_END64_MAGIC, at):
        raise _not_a_zip("its zip64 end is not where it should be")
    size, disk, directory_disk, here, entries, directory_bytes, offset = _END64.unpack_from(content, at)
    end64 = _End(at, frozenset({disk, directory_disk}), here, entries, directory_bytes, offset)
    told_twice = (
        (end.entries_here, here, _IN_ZIP64_16),
        (end.entries, entries, _IN_ZIP64_16),
        (end.directory_bytes, directory_bytes, _IN_ZIP64_32),
        (end.directory_offset, offset, _IN_ZIP64_32),
    )
    # Of the disks, the short form may say "see zip64", too.
    if (
        size != _END64.size - 12
        or not end.disks <= {0, _IN_ZIP64_16}
        or any(short not in (long, elsewhere) for short, long, elsewhere in told_twice)
    ):
        raise _not_a_zip("its two ends contradict each other")
    return end64


def _read_central(content: bytes, at: int, end: int) -> tuple[Entry, int]:
    """Read the directory's entry at an offset; give it and the offset behind it."""
    if at + _CENTRAL.size > end or not content.startswith(_CENTRAL_MAGIC, at):
        raise _not_a_zip("its directory is damaged, or shorter than its end says")
    needed, flags, method, *rest = _CENTRAL.unpack_from(content, at)
    crc, packed, unpacked, name_length, extra_length, comment_length, disk, attributes, offset = rest
    name_at = at + _CENTRAL.size
    extra_at = name_at + name_length
    next_at = extra_at + extra_length + comment_length
    if next_at > end:
        raise _not_a_zip("its directory is damaged, or shorter than its end says")
    name_bytes = content[name_at:extra_at]
    readings = _names_of(name_bytes, flags)
    name = readings[0]
    extra = _extra_of(content[extra_at : extra_at + extra_length], name)
    if disk != 0:
        raise _not_a_zip("it is part of a set of several")
    if needed & 0xFF > _VERSION_NEEDED_MAX:
        raise refused(f"needs version {needed & 0xFF} of the zip format; at most {_VERSION_NEEDED_MAX} is known", name)
    unpacked, packed, offset = _zip64_of(extra, name, unpacked, packed, offset)
    readings += _unicode_path_of(extra, name_bytes, name)
    entry = Entry(name, frozenset(readings), name_bytes, flags, method, crc, packed, unpacked, attributes, offset)
    return entry, next_at


def _names_of(name_bytes: bytes, flags: int) -> list[str]:
    """Give what readers take a name for: UTF-8 where it says so, else that or the code page of the first PCs."""
    if name_bytes.isascii():
        return [name_bytes.decode("ascii")]
    old = name_bytes.decode("cp437")
    try:
        return [name_bytes.decode("utf-8"), old]
    except UnicodeDecodeError as error:
        if flags & _FLAG_UTF8:
            raise refused("is the name of an entry, but not in UTF-8 as it says", old) from error
        return [old]


def _extra_of(data: bytes, name: str) -> dict[int, bytes]:
    """Give the extra fields of an entry by their numbers."""
    found: dict[int, bytes] = {}
    at = 0
    # Fewer than four bytes at the end are padding of tools that align entries.
    while len(data) - at >= 4:
        number, size = struct.unpack_from("<2H", data, at)
        at += 4
        if size > len(data) - at:
            raise refused("has extra fields that are damaged", name)
        if number in found and number in (_EXTRA_ZIP64, _EXTRA_UNICODE_PATH):
            raise refused("has an extra field twice", name)
        found[number] = data[at : at + size]
        at += size
    return found


def _zip64_of(extra: dict[int, bytes], name: str, *short: int) -> list[int]:
    """Give numbers with those that do not fit into four bytes taken from the zip64 extra field, in this order."""
    field = extra.get(_EXTRA_ZIP64)
    values = list(short)
    if field is None:
        return values
    at = 0
    for place, value in enumerate(values):
        if value != _IN_ZIP64_32:
            continue
        if at + 8 > len(field):
            raise refused("has extra fields that are damaged", name)
        (values[place],) = struct.unpack_from("<Q", field, at)
        at += 8
    return values


def _unicode_path_of(extra: dict[int, bytes], name_bytes: bytes, name: str) -> list[str]:
    """Give the name in Unicode that an entry has beside its own, if it is of that name."""
    field = extra.get(_EXTRA_UNICODE_PATH)
    if field is None or len(field) < 5 or field[0] != 1 or field[1:5] != struct.pack("<I", zlib.crc32(name_bytes)):
        return []
    try:
        return [field[5:].decode("utf-8")]
    except UnicodeDecodeError as error:
        raise refused("has a second name that is not in UTF-8", name) from error


def _check_layout(content: bytes, entries: list[Entry], directory_offset: int) -> None:
    """Check that the entries lie side by side from the archive's first byte to its directory."""
    ordered = sorted(entries, key=lambda entry: entry.offset)
    begins = [*(entry.offset for entry in ordered), directory_offset]
    if begins[0] != 0:
        raise _not_a_zip("something was put before its first entry")
    for entry, end in zip(ordered, begins[1:], strict=True):
        if entry.offset == end:
            raise refused("overlaps another entry", entry.name)
        _check_local(content, entry, end)


def data_offset(content: bytes, entry: Entry) -> int:
    """Give where an entry's packed bytes begin; its local header was checked."""
    name_length, extra_length = _LOCAL.unpack_from(content, entry.offset)[-2:]
    return entry.offset + _LOCAL.size + int(name_length) + int(extra_length)


def _check_local(content: bytes, entry: Entry, end: int) -> None:
    """Check an entry where it lies: what its own header says, and that it reaches to the beginning of the next one."""
    name = entry.name
    if entry.offset + _LOCAL.size > end or not content.startswith(_LOCAL_MAGIC, entry.offset):
        raise refused("does not begin where the directory says", name)
    flags, method, crc, packed, unpacked, name_length, extra_length = _LOCAL.unpack_from(content, entry.offset)
    name_at = entry.offset + _LOCAL.size
    extra_at = name_at + name_length
    data_at = extra_at + extra_length
    data_end = data_at + entry.packed_bytes
    if data_end > end:
        raise refused("overlaps what comes behind it", name)
    extra = _extra_of(content[extra_at:data_at], name)
    name_bytes = content[name_at:extra_at]
    differs = name_bytes != entry.name_bytes or not entry.readings.issuperset(_unicode_path_of(extra, name_bytes, name))
    # How the name is written makes a difference only where it is not ASCII.
    telling = _FLAGS_ENCRYPTED | _FLAG_PATCHED | (0 if name_bytes.isascii() else _FLAG_UTF8)
    if differs or method != entry.method or flags & telling != entry.flags & telling:
        raise refused("is told of in one way by the directory and in another by its own header", name)
    unpacked, packed = _zip64_of(extra, name, unpacked, packed)
    told = (crc, packed, unpacked)
    if flags & _FLAG_DESCRIPTOR:
        # Its writer knew these only at the end; some put them in here as well, some put in "see behind".
        agrees = all(
            value in (0, _IN_ZIP64_32, known)
            for value, known in zip(told, (entry.crc, entry.packed_bytes, entry.unpacked_bytes), strict=True)
        )
        _check_descriptor(content[data_end:end], entry)
    else:
        agrees = told == (entry.crc, entry.packed_bytes, entry.unpacked_bytes)
        if data_end != end:
            raise refused("is followed by bytes that belong to no entry", name)
    if not agrees:
        raise refused("is told of in one way by the directory and in another by its own header", name)


def _check_descriptor(behind: bytes, entry: Entry) -> None:
    expected = (entry.crc, entry.packed_bytes, entry.unpacked_bytes)
    bare = behind.removeprefix(_DESCRIPTOR_MAGIC) if len(behind) in (16, 24) else behind
    shape = {_DESCRIPTOR.size: _DESCRIPTOR, _DESCRIPTOR64.size: _DESCRIPTOR64}.get(len(bare))
    if shape is None or shape.unpack(bare) != expected:
        raise refused("is followed by bytes that belong to no entry", entry.name)


# --- what comes out --------------------------------------------------------------------------------------


def unpacked(content: bytes, entry: Entry) -> Iterator[bytes]:
    """Unpack an entry of `entries_of`, in pieces of at most 1 MiB. Raises `InvalidArgument`.

    Ends at the first byte that is more than the directory says; so what the directory says of all entries, added up,
    bounds what comes out of them.
    """
    if entry.is_encrypted:
        raise refused("is encrypted", entry.name, hint="make the zip without a password")
    begin = data_offset(content, entry)
    packed = memoryview(content)[begin : begin + entry.packed_bytes]
    if entry.flags & _FLAG_PATCHED or entry.method not in (STORED, DEFLATED):
        raise refused(
            f"is compressed in a way that not every reader knows (method {entry.method})",
            entry.name,
            hint="make the zip with deflate, the usual way",
        )
    # Some writers say of an empty file or a folder that it is deflated, and write nothing.
    pieces = _inflated(packed, entry.name) if entry.method == DEFLATED and packed else _cut(packed)
    size, crc = 0, 0
    for piece in pieces:
        size += len(piece)
        if size > entry.unpacked_bytes:
            raise refused(f"holds more than the {entry.unpacked_bytes} bytes that the zip says", entry.name)
        crc = zlib.crc32(piece, crc)
        yield piece
    if size != entry.unpacked_bytes:
        raise refused(f"holds {size} bytes, not {entry.unpacked_bytes} as the zip says", entry.name)
    if crc != entry.crc:
        raise refused("is damaged: its checksum does not match", entry.name)


def _cut(data: memoryview) -> Iterator[bytes]:
    for at in range(0, len(data), _PIECE_BYTES):
        yield bytes(data[at : at + _PIECE_BYTES])


def _inflated(packed: memoryview, name: str) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    for at in range(0, len(packed), _PACKED_PIECE_BYTES):
        # What was not taken is copied by each call, so it is given in small parts.
        rest = bytes(packed[at : at + _PACKED_PIECE_BYTES])
        while True:
            try:
                piece = inflater.decompress(rest, _PIECE_BYTES)
            except zlib.error as error:
                raise refused(f"is damaged: {error}", name) from error
            yield piece
            rest = inflater.unconsumed_tail
            # A full piece may leave more to come, even where all was taken in.
            if inflater.eof or (not rest and len(piece) < _PIECE_BYTES):
                break
        if inflater.eof:
            if inflater.unused_data or at + _PACKED_PIECE_BYTES < len(packed):
                raise refused("has bytes behind the end of what is compressed", name)
            return
    raise refused("is damaged: what is compressed does not end", name)
