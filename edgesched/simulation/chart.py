"""Two charts as one SVG file: how latencies are distributed, and how busy each board was.

Written by hand: two charts of lines and bars are a page of code, and a plotting library would be the largest dependency
of the project. Every browser shows the file.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT, MARGIN = 960, 420, 60
PLOT_W, PLOT_H = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN
COLOURS = ("#1b6ca8", "#d1495b", "#3f7d4e", "#b07d12", "#6b4c9a", "#4a4a4a")


def svg(
    latencies_ms: Mapping[str, Sequence[float]], busy: Mapping[str, Sequence[float]], boards: Sequence[str], title: str
) -> str:
    """latencies_ms: by strategy. busy: by strategy, a fraction per board, in the order of `boards`."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {2 * HEIGHT}" font-family="sans-serif" '
        'font-size="13"><rect width="100%" height="100%" fill="white"/>',
        f'<text x="{WIDTH / 2}" y="24" text-anchor="middle" font-size="17">{html.escape(title)}</text>',
        *_distribution(latencies_ms),
        f'<g transform="translate(0 {HEIGHT})">',
        *_utilisation(busy, boards),
        "</g></svg>",
    ]
    return "\n".join(parts)


def _distribution(latencies_ms: Mapping[str, Sequence[float]]) -> list[str]:
    """Part of the pictures (down) that took at most so long (right, logarithmic)."""
    everything = [ms for values in latencies_ms.values() for ms in values if math.isfinite(ms)]
    low = math.log10(max(0.1, min(everything)))
    high = math.log10(max(everything)) if max(everything) > min(everything) else low + 1.0
    parts = _frame("time to the answer, ms (logarithmic)", "part of the pictures")

    def x(ms: float) -> float:
        return MARGIN + PLOT_W * (math.log10(max(0.1, ms)) - low) / (high - low)

    def y(part: float) -> float:
        return MARGIN + PLOT_H * (1 - part)

    for power in range(math.floor(low), math.floor(high) + 1):
        for factor in (1, 2, 5):
            if low <= (at := power + math.log10(factor)) <= high:
                parts += _tick_below(x(10**at), f"{10**at:g}")
    for part in (0.5, 0.9, 0.99):
        parts.append(_line(MARGIN, y(part), MARGIN + PLOT_W, y(part), "#dddddd"))
        parts.append(f'<text x="{MARGIN - 6}" y="{y(part) + 4:.1f}" text-anchor="end">{part:.0%}</text>')
    for i, (name, values) in enumerate(latencies_ms.items()):
        ordered = sorted(values)
        steps = [min(len(ordered) - 1, round(k * (len(ordered) - 1) / 400)) for k in range(401)]
        points = " ".join(f"{x(ordered[k]):.1f},{y((k + 1) / len(ordered)):.1f}" for k in steps)
        colour = COLOURS[i % len(COLOURS)]
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{points}"/>')
        parts += _legend(i, name)
    return parts


def _utilisation(busy: Mapping[str, Sequence[float]], boards: Sequence[str]) -> list[str]:
    parts = _frame("", "busy part of the slots' time")
    group = PLOT_W / max(1, len(boards))
    bar = 0.8 * group / max(1, len(busy))
    for part in (0.0, 0.5, 1.0):
        at = MARGIN + PLOT_H * (1 - part)
        parts.append(f'<text x="{MARGIN - 6}" y="{at + 4:.1f}" text-anchor="end">{part:.0%}</text>')
    for i, (name, fractions) in enumerate(busy.items()):
        for j, fraction in enumerate(fractions):
            left = MARGIN + j * group + 0.1 * group + i * bar
            height = PLOT_H * min(1.0, fraction)
            told = html.escape(f"{boards[j]}, {name}: {fraction:.0%}")
            parts.append(
                f'<rect x="{left:.1f}" y="{MARGIN + PLOT_H - height:.1f}" width="{bar:.1f}" height="{height:.1f}" '
                f'fill="{COLOURS[i % len(COLOURS)]}"><title>{told}</title></rect>'
            )
        parts += _legend(i, name)
    step = max(1, math.ceil(len(boards) / 10))
    for j in range(0, len(boards), step):
        parts += _tick_below(MARGIN + (j + 0.5) * group, boards[j])
    return parts


def _frame(below: str, left: str) -> list[str]:
    return [
        f'<rect x="{MARGIN}" y="{MARGIN}" width="{PLOT_W}" height="{PLOT_H}" fill="none" stroke="#888888"/>',
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 14}" text-anchor="middle">{html.escape(below)}</text>',
        f'<text x="16" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 16 {HEIGHT / 2})">'
        f"{html.escape(left)}</text>",
    ]


def _tick_below(x: float, text: str) -> list[str]:
    bottom = MARGIN + PLOT_H
    return [
        _line(x, bottom, x, bottom + 5, "#888888"),
        f'<text x="{x:.1f}" y="{bottom + 19}" text-anchor="middle" font-size="11">{html.escape(text)}</text>',
    ]


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _legend(i: int, name: str) -> list[str]:
    """In one row above the frame, where nothing is drawn over it."""
    x, y = MARGIN + i * PLOT_W / len(COLOURS), MARGIN - 10
    return [
        f'<rect x="{x:.0f}" y="{y - 9}" width="10" height="10" fill="{COLOURS[i % len(COLOURS)]}"/>',
        f'<text x="{x + 15:.0f}" y="{y}" font-size="12">{html.escape(name)}</text>',
    ]
