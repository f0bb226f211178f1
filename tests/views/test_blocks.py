"""The checksums of LMDB's file in the mark of a clean end."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from stigmer import config
from stigmer.errors import CorruptView
from stigmer.log import files
from stigmer.log.format import crc32c
from stigmer.views import blocks


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of three blocks, the last one short."""
    path = tmp_path / "data.mdb"
    path.write_bytes(b"".join(bytes([number]) * (1 << 20) for number in range(2)) + b"the rest")
    return path


def test_file_that_is_what_it_was_is_believed(path: Path) -> None:
    """Its mark has a checksum of each block."""
    mark = blocks.checksums_of(str(path))
    assert len(mark) == 24 + 3 * 4 + 4
    assert blocks.check(str(path), mark)


@pytest.mark.parametrize("offset", [0, 4095, (1 << 20) - 1, 1 << 20, (2 << 20) - 1, 2 << 20, (2 << 20) + 7])
@pytest.mark.parametrize("bit", [1, 128])
def test_bit_turned_over_is_found(path: Path, offset: int, bit: int) -> None:
    """Wherever it is; the error names the block."""
    mark = blocks.checksums_of(str(path))
    data = bytearray(path.read_bytes())
    data[offset] ^= bit
    path.write_bytes(data)
    with pytest.raises(CorruptView, match=f"in the bytes from {offset >> 20 << 20} on"):
        blocks.check(str(path), mark)


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (2 << 20) + 7, (2 << 20) + 9, 4 << 20])
def test_file_of_another_size_is_found(path: Path, size: int) -> None:
    """Shorter or longer."""
    mark = blocks.checksums_of(str(path))
    path.write_bytes(path.read_bytes()[:size].ljust(size, b"\0"))
    with pytest.raises(CorruptView, match=f"has {size} bytes, and had 2097160"):
        blocks.check(str(path), mark)


def test_file_that_is_lost_is_found(path: Path) -> None:
    """As damage, not as an error of the operating system."""
    mark = blocks.checksums_of(str(path))
    path.unlink()
    with pytest.raises(CorruptView, match="is not there"):
        blocks.check(str(path), mark)


def test_every_damage_to_the_mark_is_found(path: Path) -> None:
    """Each bit, and each cut but the one that leaves nothing."""
    mark = blocks.checksums_of(str(path))
    for bit in range(len(mark) * 8):
        damaged = bytearray(mark)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptView, match="the mark of its clean end"):
            blocks.check(str(path), bytes(damaged))
    for size in range(1, len(mark)):
        with pytest.raises(CorruptView, match="the mark of its clean end"):
            blocks.check(str(path), mark[:size])


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        (b"", "is damaged"),
        (b"STGMRBLK", "is damaged"),
        (struct.pack("<8sIIQ", b"STGMRBLK", 2, 1 << 20, 2097160), "is of another version"),
        (struct.pack("<8sIIQ", b"STGMRCKP", 1, 1 << 20, 2097160), "is of another version"),
    ],
    ids=["no head", "half a head", "another version", "another magic"],
)
def test_mark_that_is_whole_and_none(path: Path, head: bytes, problem: str) -> None:
    """Its own checksum alone does not make a mark."""
    with pytest.raises(CorruptView, match=f"the mark of its clean end {problem}"):
        blocks.check(str(path), head + struct.pack("<I", crc32c(0, head)))


def test_mark_with_other_blocks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How large they are is said by the mark, not by the version that reads it."""
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", 4096)
    mark = blocks.checksums_of(str(path))
    monkeypatch.undo()
    assert blocks.check(str(path), mark)
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptView, match="in the bytes from 4096 on"):
        blocks.check(str(path), mark)


def test_empty_file_is_believed(path: Path) -> None:
    """There is nothing in it that could be wrong."""
    path.write_bytes(b"")
    assert blocks.check(str(path), blocks.checksums_of(str(path)))


def test_file_that_cannot_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that the disk does not give is damage; any other error says nothing of the file."""
    mark = blocks.checksums_of(str(path))
    code = errno.EIO

    def fail(_fd: int, _size: int, _offset: int) -> bytes:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files, "read_at", fail)
    with pytest.raises(CorruptView, match="cannot be read"):
        blocks.check(str(path), mark)
    code = errno.ENOMEM
    with pytest.raises(OSError, match=os.strerror(code)):
        blocks.check(str(path), mark)


def test_mark_that_says_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty one, and that of a file that is too large, do not stand for the file; the size is still compared."""
    assert not blocks.check(str(path), b"")
    monkeypatch.setattr(config, "VIEWS_CHECK_BYTES_MAX", 1 << 20)
    mark = blocks.checksums_of(str(path))
    assert not blocks.check(str(path), mark)
    path.write_bytes(b"short")
    with pytest.raises(CorruptView, match="has 5 bytes"):
        blocks.check(str(path), mark)
