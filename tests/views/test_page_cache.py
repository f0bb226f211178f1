"""What was not synced is whole while boot and mount are the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stigmer.views import page_cache
from stigmer.views.page_cache import page_cache_id


def test_one_directory_is_in_one_page_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is asked for, until the machine boots again."""
    first = page_cache_id(str(tmp_path))
    (tmp_path / "below").mkdir()
    assert page_cache_id(str(tmp_path / "below")) == first != ""
    monkeypatch.setattr(page_cache, "boot_id", lambda: "another")
    assert page_cache_id(str(tmp_path)) != first


@pytest.mark.skipif(" " not in page_cache_id("/"), reason="this system does not tell mounts apart; Linux 6.8 does")
def test_mounts_are_told_apart() -> None:
    """By a number behind the boot."""
    root, proc = page_cache_id("/"), page_cache_id("/proc")
    assert root != proc
    assert re.fullmatch(r"\S+ [0-9]+", root)
    assert root.split()[0] == proc.split()[0]


def test_a_directory_that_is_not_there_is_in_the_page_cache_of_the_boot(tmp_path: Path) -> None:
    """Nothing is known of its mount."""
    assert page_cache_id(str(tmp_path / "none")) == page_cache.boot_id()


def test_without_a_boot_there_is_no_page_cache_to_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount's number alone may be another's in the next boot."""
    monkeypatch.setattr(page_cache, "boot_id", lambda: "")
    assert page_cache_id(str(tmp_path)) == ""
