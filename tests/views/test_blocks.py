"""The checksums of LMDB's file in the mark of a clean end."""

from __future__ import annotations

from pathlib import Path

import pytest

from stigmer import config
from stigmer.errors import CorruptView
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


def test_mark_that_says_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty one, and that of a file that is too large, do not stand for the file; the size is still compared."""
    assert not blocks.check(str(path), b"")
    monkeypatch.setattr(config, "VIEWS_CHECK_BYTES_MAX", 1 << 20)
    mark = blocks.checksums_of(str(path))
    assert not blocks.check(str(path), mark)
    path.write_bytes(b"short")
    with pytest.raises(CorruptView, match="has 5 bytes"):
        blocks.check(str(path), mark)
