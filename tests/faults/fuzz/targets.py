"""The targets by name, their inputs to begin with, and mutations of them that need no fuzzer."""

from __future__ import annotations

import importlib
import os
import random
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, cast

NAMES = ("frames", "commits", "messages", "manifests", "archives", "tokens")
FOUND = Path(__file__).parents[2] / "data" / "fuzz"
"""Inputs that were faults once, in a directory for each target."""

INPUT_BYTES_MAX = 64 << 10
_IN_MEMORY = "/dev/shm"
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, (1 << 63) - 1, (1 << 64) - 1)
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_STEPS_MAX = 6
_RANGE_BYTES_MAX = 64


class Target(Protocol):
    """What a target's module has."""

    READERS: Sequence[str]
    TOKENS: Sequence[bytes]

    def one(self, data: bytes) -> None:
        """Raise for a fault."""

    def seeds(self) -> Iterable[bytes]:
        """Give inputs to begin with."""


def load(name: str) -> Target:
    """Import a target; with it, what it fuzzes."""
    return cast("Target", importlib.import_module(f".{name}", __package__))


def found(name: str) -> list[Path]:
    """Give the files with inputs that were faults of a target once."""
    return sorted(path for path in (FOUND / name).glob("*") if path.is_file())


def inputs(name: str) -> list[bytes]:
    """Give what the fuzzing of a target begins with."""
    return [*load(name).seeds(), *(path.read_bytes() for path in found(name))]


def scratch_directory() -> str:
    """Give a new directory; in memory where there is one, for what is written by a target need not survive anything."""
    return tempfile.mkdtemp(prefix="stigmer-fuzz-", dir=_IN_MEMORY if os.path.isdir(_IN_MEMORY) else None)


def is_safe_to_show(text: str) -> bool:
    """Say whether a text may go to a terminal: nothing in it controls, hides, or turns round what is beside it."""
    return not any(unicodedata.category(character) in _UNSAFE for character in text)


def mutations(inputs: Sequence[bytes], tokens: Sequence[bytes], source: random.Random) -> Iterator[bytes]:
    """Give inputs with a few changes each, without end; the same ones for the same state of `source`."""
    steps: tuple[Callable[[bytearray], None], ...] = (
        lambda data: _flip(data, source),
        lambda data: _put(data, source, source.choice(_NUMBERS).to_bytes(8, "little")[: source.choice((1, 2, 4, 8))]),
        lambda data: _put(data, source, source.choice(tokens)),
        lambda data: _insert(data, source, source.choice(tokens)),
        lambda data: _insert(data, source, bytes(_range_of(data, source))),
        lambda data: _insert(data, source, bytes(_range_of(bytearray(source.choice(inputs)), source))),
        lambda data: _remove(data, source),
        lambda data: data.__delitem__(slice(source.randint(0, len(data)), None)),
    )
    # Cutting short is one of many: what is left is often nothing.
    weights = (6, 4, 3, 3, 2, 2, 3, 1)
    while True:
        data = bytearray(source.choice(inputs))
        for step in source.choices(steps, weights, k=source.randint(1, _STEPS_MAX)):
            step(data)
        yield bytes(data[:INPUT_BYTES_MAX])


def _flip(data: bytearray, source: random.Random) -> None:
    if data:
        data[source.randrange(len(data))] ^= 1 << source.randrange(8)


def _put(data: bytearray, source: random.Random, piece: bytes) -> None:
    at = source.randint(0, len(data))
    data[at : at + len(piece)] = piece


def _insert(data: bytearray, source: random.Random, piece: bytes) -> None:
    at = source.randint(0, len(data))
    data[at:at] = piece


def _remove(data: bytearray, source: random.Random) -> None:
    at = source.randint(0, len(data))
    del data[at : at + source.randint(1, _RANGE_BYTES_MAX)]


def _range_of(data: bytearray, source: random.Random) -> bytearray:
    at = source.randint(0, len(data))
    return data[at : at + source.randint(1, _RANGE_BYTES_MAX)]
