"""Markdown tables, and the place in a page where a tool puts them: between two marker comments.

What is written by hand around the markers stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path


class NoMarkers(Exception):
    """A page has no place for the results."""


def put_between_markers(page: Path, name: str, text: str) -> None:
    """Replace what a page has between `<!-- name:begin -->` and `<!-- name:end -->`. Raises `NoMarkers`."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    whole = page.read_text(encoding="utf-8")
    before, found_begin, rest = whole.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise NoMarkers(f"{page} lacks the lines {begin} and {end}, between which the results are put")
    body = text.strip("\n")  # the spaces of an indented first line stay
    page.write_text(f"{before}{begin}\n\n{body}\n\n{end}{after}", encoding="utf-8")


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def verdict(is_reached: bool | None) -> str:
    """Say whether a target is reached; None where it was not measured."""
    return {True: "reached", False: "not reached", None: "not measured"}[is_reached]
