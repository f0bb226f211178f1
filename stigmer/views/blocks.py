"""The checksums of the blocks of LMDB's file: taken at a clean end, compared before the next beginning.

LMDB has no checksums. Those that views put into their rows show that a row is right, but not that it is there: a bit
that turns over in the head of a page hides rows without an error, and one in the number of a page may lead to an older
page, whose rows are whole. So who closes a generation clean says in its mark, which is a file, what the whole of LMDB's
file was, and who opens it next compares that before LMDB sees the file.

    offset  size  field
    0       8     the magic
    8       4     version of this layout
    12      4     bytes of a block
    16      8     bytes of LMDB's file
    24      4 n   CRC-32C of each block; none where the file is larger than is compared
    24+4n   4     CRC-32C of all that is before

An empty mark, as versions before this one left it, promises nothing of the file.
"""

from __future__ import annotations

import errno
import os
import struct

from stigmer import config
from stigmer.errors import CorruptView
from stigmer.log import files
from stigmer.log.format import crc32c

_MAGIC = b"STGMRBLK"
_VERSION = 1
_HEAD = struct.Struct("<8sIIQ")
_CRC = struct.Struct("<I")
_BLOCK_BYTES = 1024 * 1024


def checksums_of(path: str) -> bytes:
    """Give what the mark of a clean end says of a file: a checksum of each of its blocks."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        blocks = -(-size // _BLOCK_BYTES) if size <= config.VIEWS_CHECK_BYTES_MAX else 0
        crcs = [_crc(fd, size, place, _BLOCK_BYTES) for place in range(blocks)]
    finally:
        os.close(fd)
    body = _HEAD.pack(_MAGIC, _VERSION, _BLOCK_BYTES, size) + struct.pack(f"<{len(crcs)}I", *crcs)
    return body + _CRC.pack(crc32c(0, body))


def check(path: str, mark: bytes) -> bool:
    """Raise `CorruptView` unless a file is what the mark of its clean end says; False if that does not say much."""
    if not mark:
        return False
    body = mark[: -_CRC.size]
    if len(body) < _HEAD.size or mark[-_CRC.size :] != _CRC.pack(crc32c(0, body)):
        raise CorruptView("environment", "the mark of its clean end is damaged")
    magic, version, block_bytes, size = _HEAD.unpack_from(body)
    if (magic, version) != (_MAGIC, _VERSION):
        raise CorruptView("environment", "the mark of its clean end is of another version")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise CorruptView("environment", f"{path} is not there") from error
    try:
        found = os.fstat(fd).st_size
        if found != size:
            raise CorruptView("environment", f"{path} has {found} bytes, and had {size} when it was closed")
        expected = struct.unpack(f"<{(len(body) - _HEAD.size) // _CRC.size}I", body[_HEAD.size :])
        for place, crc in enumerate(expected):
            if crc != _crc(fd, size, place, block_bytes):
                raise CorruptView(
                    "environment",
                    f"{path} is not what it was when it was closed, in the bytes from {place * block_bytes} on",
                )
        return bool(expected) or size == 0
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        # Reading it through LMDB's map would end the process.
        raise CorruptView("environment", f"{path} cannot be read: {error.strerror}") from error
    finally:
        os.close(fd)


def _crc(fd: int, size: int, place: int, block_bytes: int) -> int:
    offset = place * block_bytes
    return crc32c(0, files.read_at(fd, min(block_bytes, size - offset), offset))
