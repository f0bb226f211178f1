"""What stigmer is meant to reach against the others, as ratios of one run, and whether it does."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.peers.catalogue import BY_NAME, EMBEDDED, FLOOR, STIGMER
from benchmarks.peers.run import Results

_UMADB = ("umadb",)  # with the key as a tag: without it a key's events cannot be found, which is another work
_JETSTREAM = ("jetstream-always", "jetstream-default")
_JSON_FULL = ("sqlite-json-full",)
_BLOB_FULL = ("sqlite-blob-full",)


class Target(NamedTuple):
    """A work, and how many times the best of some others stigmer is to do of it."""

    work: str
    text: str
    """What is compared, for the table."""
    factor: float
    others: tuple[str, ...]
    mine: str = STIGMER
    other_work: str = ""
    """Where the others are measured at another work."""


class Line(NamedTuple):
    """One line of the table of targets."""

    text: str
    target: str
    measured: str
    reached: bool | None
    """None where it was not measured."""


RATIOS: tuple[Target, ...] = (
    Target("one", "one save after another, durable, to UmaDB", 0.9, _UMADB),
    Target("one", "one save after another, durable, to etcd", 0.9, ("etcd",)),
    Target(
        "flight-64",
        "64 in flight, durable, to the best of UmaDB, etcd, JetStream with sync, Redis",
        4,
        (*_UMADB, "etcd", "jetstream-always", "redis"),
    ),
    Target("bulk", "bulk of 300-byte events, durable, to UmaDB", 2.5, _UMADB),
    Target("replay-long", "`long`, embedded, one execution, to SQLite with JSON text", 4, _JSON_FULL, EMBEDDED),
    Target("replay-long", "`long`, embedded, one execution, to SQLite BLOB", 1, _BLOB_FULL, EMBEDDED),
    Target("replay-long-10", "`long`, embedded, 10 at once, to SQLite with JSON text", 10, _JSON_FULL, EMBEDDED),
    Target("replay-long-10", "`long`, embedded, 10 at once, to SQLite BLOB", 2.5, _BLOB_FULL, EMBEDDED),
    Target("gets", "gets, 32 in flight, to etcd", 8, ("etcd",)),
    Target("gets", "gets, 32 in flight, to JetStream", 3, _JETSTREAM),
    Target("list", "list of 10,000, to etcd", 2, ("etcd",)),
    Target("catch-up", "catch-up read of the log, to UmaDB", 1.5, _UMADB),
    Target("unary-saves", "unary saves without batching, 32 in flight, to a server that does nothing", 0.85, (FLOOR,)),
    Target("unary-gets", "unary gets without batching, 32 in flight, to a server that does nothing", 0.85, (FLOOR,)),
    Target("flight-1000", "saves, 1,000 in flight, to 64 in flight", 1.5, (STIGMER,), other_work="flight-64"),
)
_BULK_MIN = 170_000
_LOG_RATIO_MAX = 0.5
_ARRIVAL_MS_MAX = 5.0


def lines(results: Results) -> list[Line]:
    """Compare what was measured with every target."""
    found: list[Line] = []
    for target in RATIOS:
        found.append(_ratio(results, target))
        if target.work == "bulk":
            bulk = median(results, "bulk", STIGMER)
            text = "bulk of 300-byte events, durable"
            shown = "" if bulk is None else f"{bulk:,.0f} events/s"
            found.append(Line(text, f"{_BULK_MIN:,} events/s", shown, None if bulk is None else bulk >= _BULK_MIN))
        if target.work == "replay-long-10" and target.others == _BLOB_FULL:
            found += [_log_ratio(results, recording) for recording in ("tools", "long")]
    p99 = median(results, "fan-out-10", STIGMER, "p99_ms")
    shown = "" if p99 is None else f"{p99:.1f} ms"
    reached = None if p99 is None else p99 < _ARRIVAL_MS_MAX
    found.append(
        Line("save to arrival with 10 tails, idle machine, p99", f"under {_ARRIVAL_MS_MAX:.0f} ms", shown, reached)
    )
    return found


def median(results: Results, work: str, peer: str, figure: str = "rate") -> float | None:
    """Give the median over the rounds of what a peer did; None where it was not measured."""
    rounds = results.figures.get(work, {}).get(peer, [])
    values = [figures[figure] for figures in rounds if figure in figures]
    return statistics.median(values) if values else None


def _ratio(results: Results, target: Target) -> Line:
    mine = median(results, target.work, target.mine)
    others = {name: median(results, target.other_work or target.work, name) for name in target.others}
    present = {name: value for name, value in others.items() if value is not None}
    goal = f"{target.factor:g} x"
    if mine is None or not present:
        return Line(target.text, goal, "", None)
    best = max(present, key=lambda name: present[name])
    ratio = mine / present[best]
    to = "" if len(target.others) == 1 else f" ({BY_NAME[best].title})"
    return Line(target.text, goal, f"{ratio:.2f} x{to}", ratio >= target.factor)


def _log_ratio(results: Results, recording: str) -> Line:
    kept = median(results, f"replay-{recording}", EMBEDDED, "log_bytes")
    final = median(results, f"replay-{recording}", EMBEDDED, "final_bytes")
    text = f"bytes in the log for `{recording}`, to the final value"
    goal = f"at most {_LOG_RATIO_MAX:g} x"
    if kept is None or not final:
        return Line(text, goal, "", None)
    return Line(text, goal, f"{kept / final:.2f} x", kept / final <= _LOG_RATIO_MAX)


def reached_of(found: Sequence[Line]) -> str:
    """Say how many targets are reached."""
    measured = [line for line in found if line.reached is not None]
    return f"{sum(bool(line.reached) for line in measured)} of {len(measured)}"
