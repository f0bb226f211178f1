"""Durations, sizes and ages as people write and read them.

Owns both directions of the text. Imports nothing of Stigmer but errors, so that every command may use it for free.
"""

from __future__ import annotations

import re

from stigmer.errors import InvalidArgument

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1, "b": 1, "k": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mib": 1 << 20, "g": 1 << 30, "gib": 1 << 30}

_duration_matches = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)").fullmatch
_fraction_in = re.compile(r":[0-9]{2}\.([0-9]{1,9})(?![0-9])").search
_size_matches = re.compile(r"(\d{1,18})\s*([a-z]*)").fullmatch


def parse_duration(text: str, field: str) -> float:
    """Give the seconds that "500ms", "10s" or "2m" stand for. Raises `InvalidArgument` naming `field`."""
    found = _duration_matches(text.strip().lower())
    if found is None:
        raise InvalidArgument(field, f'"{visible(text)}" is not a duration, such as 500ms, 10s or 2m')
    seconds = float(found[1]) * _SECONDS[found[2]]
    if not 0 < seconds < 1e9:
        raise InvalidArgument(field, f'"{visible(text)}" is out of bounds: more than 0, less than 11,000 days')
    return seconds


def parse_time(text: str, field: str) -> int:
    """Give the nanoseconds since 1970 of an RFC 3339 time; one without a zone is local. Raises `InvalidArgument`."""
    from datetime import datetime

    # Apart from the rest, for `datetime` has no more than six digits, and the times that we print have nine.
    fraction = _fraction_in(text)
    digits = fraction[1] if fraction is not None else ""
    try:
        when = datetime.fromisoformat(
            text.strip().replace(f".{digits}", "", 1) if digits else text.strip()
        ).astimezone()
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidArgument(field, f'"{visible(text)}" is not a time, such as 2026-01-31T12:00:00Z') from error
    return int(when.timestamp()) * 1_000_000_000 + int(digits.ljust(9, "0"))


def parse_size(text: str, field: str) -> int:
    """Give the bytes that "4096", "64MiB" or "1g" stand for. Raises `InvalidArgument` naming `field`."""
    found = _size_matches(text.strip().lower())
    if found is None or found[2] not in _BYTES:
        raise InvalidArgument(field, f'"{visible(text)}" is not a size, such as 65536, 64KiB or 16MiB')
    return int(found[1]) * _BYTES[found[2]]


def age(seconds: float) -> str:
    """Give an age in its largest whole unit: "4s", "12m", "5h", "3d"; "0s" for what lies ahead."""
    whole = max(0, int(seconds))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if whole >= size:
            return f"{whole // size}{unit}"
    return f"{whole}s"


def size(count: int) -> str:
    """Give a size in its largest binary unit: "512 B", "41.2 MiB"."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def counted(count: int, noun: str) -> str:
    """Write a number of things: "1 segment", "3 segments"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def visible(text: str) -> str:
    """Escape what is not printable, so that stored text can not steer a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def home_shortened(path: str) -> str:
    """Write a path below the home directory with `~`."""
    import os

    home = os.path.expanduser("~")
    if home != "/" and (path == home or path.startswith(home + "/")):
        return "~" + path[len(home) :]
    return path
