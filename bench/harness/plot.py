"""Bar charts as SVG, written by hand: nothing to install, and the same bytes for the same numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable
from xml.sax.saxutils import escape

WIDTH = 760
LEFT = 130
RIGHT = 110
TOP = 54
ROW = 34
BAR = 20
COLOURS = {"floor": "#9aa3ad", "ours": "#d9822b", "peer": "#4c78a8"}


@dataclass(frozen=True)
class Bar:
    """A median, and the lowest and highest of all rounds."""

    name: str
    role: str
    median: float
    low: float
    high: float
    clean: bool


def bars(title: str, unit: str, rows: list[Bar], text: Callable[[float], str]) -> str:
    """One bar for each server. The scale is logarithmic if the longest is more than thirty times the shortest."""
    top = max(max(row.high for row in rows), 1e-9)
    least = min(max(row.low, 1e-9) for row in rows)
    logarithmic = top / least > 30
    floor = 10 ** math.floor(math.log10(least)) if logarithmic else 0.0
    span = WIDTH - LEFT - RIGHT

    def x(number: float) -> float:
        if not logarithmic:
            return LEFT + span * max(number, 0) / top
        return LEFT + span * math.log10(max(number, floor) / floor) / math.log10(top / floor)

    height = TOP + ROW * len(rows) + 34
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="system-ui, sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="16" y="24" font-size="16" font-weight="600" fill="#1f2933">{escape(title)}</text>',
        f'<text x="16" y="42" font-size="12" fill="#616e7c">{escape(unit)}'
        f'{", logarithmic scale" if logarithmic else ""}; shorter is better; whiskers: lowest and highest round</text>',
    ]
    for tick in ticks(floor, top, logarithmic):
        bottom = TOP + ROW * len(rows)
        out.append(f'<line x1="{x(tick):.1f}" y1="{TOP}" x2="{x(tick):.1f}" y2="{bottom}" stroke="#e4e7eb"/>')
        out.append(
            f'<text x="{x(tick):.1f}" y="{bottom + 16}" font-size="11" fill="#7b8794" text-anchor="middle">{tick:,g}</text>'
        )
    for index, row in enumerate(rows):
        y = TOP + ROW * index + (ROW - BAR) / 2
        middle = y + BAR / 2
        end = x(row.median)
        out.append(
            f'<text x="{LEFT - 10}" y="{middle + 4:.1f}" font-size="13" fill="#323f4b" text-anchor="end">{escape(row.name)}</text>'
        )
        out.append(
            f'<rect x="{LEFT}" y="{y:.1f}" width="{max(end - LEFT, 1):.1f}" height="{BAR}" rx="2" fill="{COLOURS[row.role]}"/>'
        )
        low, high = x(row.low), x(row.high)
        if high - low > 1:
            path = f"M{low:.1f} {middle - 5:.1f}v10M{low:.1f} {middle:.1f}H{high:.1f}M{high:.1f} {middle - 5:.1f}v10"
            out.append(f'<path d="{path}" stroke="#1f2933" stroke-width="1.2" fill="none"/>')
        mark = "" if row.clean else " †"
        out.append(
            f'<text x="{max(end, high) + 8:.1f}" y="{middle + 4:.1f}" font-size="12" fill="#1f2933">{text(row.median)}{mark}</text>'
        )
    out.append("</svg>")
    return "\n".join(out) + "\n"


def ticks(floor: float, top: float, logarithmic: bool) -> list[float]:
    if logarithmic:
        return [10.0**power for power in range(round(math.log10(floor)), math.floor(math.log10(top)) + 1)]
    step = 10 ** math.floor(math.log10(top))
    while top / step < 4:
        step /= 2
    return [step * number for number in range(int(top / step) + 1)]
