"""A chart as SVG, made by hand: panels of horizontal bars, stigmer's in colour.

Bars of what is not on disk when it is acknowledged are hatched. Knows figures and titles, nothing of how they came
about.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

_WIDTH = 1040
_COLUMNS = 2
_MARGIN = 28
_GAP = 36
_BAR = 17
_STEP = 25
_LABELS = 186
_FIGURES = 74
_HEADING = 44
_FONT = "font-family='system-ui, -apple-system, Segoe UI, DejaVu Sans, sans-serif'"
_INK, _MUTED, _MINE, _OTHER, _PAPER = "#1f2430", "#667085", "#e4572e", "#9aa8bd", "#ffffff"
_FOOT = "hatched: acknowledged before it is on disk"
_HATCHINGS = (("mine", _MINE), ("other", _OTHER))


class Bar(NamedTuple):
    """One bar of a panel."""

    title: str
    value: float
    is_mine: bool
    is_durable: bool


class Panel(NamedTuple):
    """One work: a title, the unit with what is better, and bars."""

    title: str
    unit: str
    bars: Sequence[Bar]
    digits: int = 0


def svg(title: str, subtitle: str, panels: Sequence[Panel], foot: str = _FOOT) -> str:
    """Draw panels in two columns, from the left and the top, each column as long as it needs."""
    panel_width = (_WIDTH - 2 * _MARGIN - _GAP) / _COLUMNS
    tops = [float(_MARGIN + 74)] * _COLUMNS
    drawn = []
    for panel in panels:
        column = tops.index(min(tops))
        left = _MARGIN + column * (panel_width + _GAP)
        drawn.append(_panel(panel, left, tops[column], panel_width))
        tops[column] += _HEADING + _STEP * len(panel.bars) + _GAP - 10
    height = max(tops) + 24
    return "\n".join(
        [
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH} {height:.0f}' width='{_WIDTH}' "
            f"height='{height:.0f}' role='img' aria-label='{escape(title, quote=True)}' {_FONT}>",
            "<defs>" + "".join(_hatching(name, colour) for name, colour in _HATCHINGS) + "</defs>",
            f"<rect width='100%' height='100%' rx='10' fill='{_PAPER}'/>",
            _text(_MARGIN, _MARGIN + 18, title, 21, _INK, weight=700),
            _text(_MARGIN, _MARGIN + 42, subtitle, 13, _MUTED),
            *drawn,
            _text(_MARGIN, height - 16, foot, 12, _MUTED),
            "</svg>\n",
        ]
    )


def _panel(panel: Panel, left: float, top: float, width: float) -> str:
    largest = max(bar.value for bar in panel.bars) or 1.0
    room = width - _LABELS - _FIGURES
    parts = [
        _text(left, top + 12, panel.title, 15, _INK, weight=650),
        _text(left + width, top + 12, panel.unit, 12, _MUTED, anchor="end"),
        f"<line x1='{left:.1f}' y1='{top + 22:.1f}' x2='{left + width:.1f}' y2='{top + 22:.1f}' stroke='#e4e7ec'/>",
    ]
    for number, bar in enumerate(panel.bars):
        y = top + _HEADING - 12 + number * _STEP
        length = max(2.0, room * bar.value / largest)
        colour = _MINE if bar.is_mine else _OTHER
        fill = colour if bar.is_durable else f"url(#{'mine' if bar.is_mine else 'other'})"
        ink, weight = (_INK, 650) if bar.is_mine else ("#344054", 400)
        parts += [
            _text(left + _LABELS - 8, y + 13, bar.title, 12.5, ink, weight, "end"),
            f"<rect x='{left + _LABELS:.1f}' y='{y:.1f}' width='{length:.1f}' height='{_BAR}' rx='2.5' fill='{fill}'/>",
            _text(left + _LABELS + length + 6, y + 13, f"{bar.value:,.{panel.digits}f}", 12.5, ink, weight),
        ]
    return "\n".join(parts)


def _hatching(name: str, colour: str) -> str:
    return (
        f"<pattern id='{name}' width='6' height='6' patternUnits='userSpaceOnUse' patternTransform='rotate(45)'>"
        f"<rect width='6' height='6' fill='{colour}' opacity='0.35'/>"
        f"<rect width='2.4' height='6' fill='{colour}'/></pattern>"
    )


def _text(x: float, y: float, text: str, size: float, colour: str, weight: int = 400, anchor: str = "start") -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size}' fill='{colour}' font-weight='{weight}' "
        f"text-anchor='{anchor}'>{escape(text)}</text>"
    )
