"""A directory for a log."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_MEMORY = Path("/dev/shm")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where a log can be made."""
    return tmp_path / "log"


@pytest.fixture
def quick_directory(tmp_path: Path) -> Iterator[Path]:
    """Where a log can be made; in memory where there is such a place, for tests that open one many thousand times."""
    if not _MEMORY.is_dir():
        yield tmp_path / "log"
        return
    with tempfile.TemporaryDirectory(prefix="stigmer-test-", dir=_MEMORY) as made:
        yield Path(made) / "log"
