"""Reading a log file that grows and is rotated by its writer.

Owns following by name: when another file has taken the name, the old one is read to its end first.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import IO

LOOK_SECONDS = 0.2
"""A file tells nobody that it has grown; this is how often it is looked at."""


def read_lines(path: str) -> Iterator[str]:
    """Give the lines of a file. Raises `FileNotFoundError` where there is none."""
    with open(path, encoding="utf-8", errors="backslashreplace") as file:
        for line in file:
            yield line.rstrip("\n")


def follow_lines(path: str) -> Iterator[str]:
    """Give the lines of a file, then those that come, for ever. Raises `FileNotFoundError` where there is none yet."""
    while True:
        with open(path, encoding="utf-8", errors="backslashreplace") as file:
            while not _has_successor(file, path):
                yield from _whole_lines(file)
                time.sleep(LOOK_SECONDS)
            yield from _whole_lines(file)  # what was written between the last look and the rotation


def _whole_lines(file: IO[str]) -> Iterator[str]:
    """Give the lines that are complete; one that is still being written is left for later."""
    while True:
        begin = file.tell()
        line = file.readline()
        if not line.endswith("\n"):
            file.seek(begin)
            return
        yield line.rstrip("\n")


def _has_successor(file: IO[str], path: str) -> bool:
    try:
        named = os.stat(path)
    except FileNotFoundError:
        return False  # in the middle of a rotation
    return not os.path.samestat(named, os.fstat(file.fileno()))
