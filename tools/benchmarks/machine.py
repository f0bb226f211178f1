"""What the figures were measured on, and how a table of them is printed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_PACKAGES = ("grpcio", "protobuf", "lmdb", "google-crc32c", "msgspec")


class Row(NamedTuple):
    """One line of a table."""

    work: str
    figure: str
    expected: str = ""


def describe() -> list[str]:
    """Describe the machine, in a few lines."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    return [
        f"{os.cpu_count()} cores ({_processor()}), {memory_gib:.0f} GiB, {platform.system()} {platform.release()}",
        f"Python {platform.python_version()}; {versions}",
        f"for scale: write and fdatasync of 1 KiB {sync_us():.0f} us; "
        f"a plain Python loop of a million additions {loop_ms():.0f} ms (medians)",
    ]


def print_table(rows: list[Row]) -> None:
    """Print rows as a Markdown table."""
    titles = Row("work", "measured", "expected")
    widths = [max(len(row[column]) for row in [titles, *rows]) for column in range(3)]
    for number, row in enumerate([titles, *rows]):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("| " + " | ".join(cells) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


def rate(count: float, seconds: float, unit: str = "/s") -> str:
    """Write a rate for people."""
    return f"{count / seconds:,.0f}{unit}"


def median_seconds(work: Callable[[], object], times: int = 5) -> float:
    """Do some work several times and give the median of the seconds it took."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def resident_mib(pid: int) -> tuple[float, float]:
    """Give the resident memory of a process, and how much of it is its own rather than pages of files."""
    fields = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        fields[name] = value
    return tuple(int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon"))  # type: ignore[return-value]


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def loop_ms() -> float:
    """Time a plain Python loop of a million additions: how fast the machine is just now."""

    def add() -> None:
        total = 0
        for number in range(1_000_000):
            total += number

    return median_seconds(add, 9) * 1e3


def sync_us(directory: str | None = None) -> float:
    """Time a write and fdatasync of 1 KiB, in a directory, by default that of temporary files."""
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        block = os.urandom(1024)

        def write() -> None:
            os.write(file.fileno(), block)
            os.fsync(file.fileno()) if not hasattr(os, "fdatasync") else os.fdatasync(file.fileno())

        return median_seconds(write, 200) * 1e6
