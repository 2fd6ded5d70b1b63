"""Small charts as inline SVG: no script, no font, no external resource; colours are the page's CSS classes.

Everything is computed in a coordinate system of CSS pixels with the origin at the top left; text is escaped.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

WIDTH = 720
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 12, 34


@dataclass(frozen=True)
class Point:
    """One estimate with its interval. `mark` is a CSS class: kept, dropped, rejected."""

    label: str
    value: float | None
    low: float | None = None
    high: float | None = None
    mark: str = "kept"
    title: str = ""


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that span [low, high]: steps of 1, 2 or 5 times a power of ten."""
    span = max(high - low, 1e-12)
    step = 10 ** math.floor(math.log10(span / count))
    step *= next((m for m in (1, 2, 5, 10) if span / (m * step) <= count), 10)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _text(x: float, y: float, text: str, anchor: str = "start", css: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{css}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>'


def _figure(height: float, body: Sequence[str], title: str, width: float = WIDTH) -> Markup:
    return Markup(
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(body)}</svg>"
    )


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def trajectory(points: Sequence[Point], *, title: str, height: int = 260) -> Markup:
    """Estimates over rounds with the incumbent as a step line, and a line at 1 (the baseline)."""
    seen = [v for p in points for v in (p.low, p.value, p.high) if v is not None]
    high = max([*seen, 1.0]) * 1.08
    low = min([*seen, 1.0, 0.9]) * 0.95
    inner = height - TOP - BOTTOM

    def y(v: float) -> float:
        return TOP + inner * (high - v) / (high - low)

    step = (WIDTH - LEFT - RIGHT) / max(1, len(points))
    body = [_axis_y(t, y(t)) for t in ticks(low, high)]
    body.append(_line(LEFT, y(1.0), WIDTH - RIGHT, y(1.0), "base"))
    body.append(_text(WIDTH - RIGHT, y(1.0) - 4, "baseline", "end", "faint"))
    best: float | None = None
    for index, point in enumerate(points):
        x = LEFT + step * (index + 0.5)
        body.append(_text(x, height - 14, point.label, "middle"))
        if best is not None:
            body.append(_line(x - step, y(best), x, y(best), "incumbent"))
        if point.value is None:
            body.append(_cross(x, TOP + inner - 8, point.title))
            continue
        if point.low is not None and point.high is not None:
            body.append(_line(x, y(point.low), x, y(point.high), f"whisker {point.mark}"))
        body.append(_dot(x, y(point.value), point))
        if point.mark == "kept":
            best = point.value
    return _figure(height, body, title)


def _axis_y(value: float, at: float) -> str:
    return _line(LEFT, at, WIDTH - RIGHT, at, "grid") + _text(LEFT - 6, at + 4, _number(value), "end")


def _dot(x: float, y: float, point: Point) -> str:
    title = f"<title>{escape(point.title)}</title>" if point.title else ""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" class="{point.mark}">{title}</circle>'


def _cross(x: float, y: float, title: str) -> str:
    return f'<path d="M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8" class="rejected"><title>{escape(title)}</title></path>'


def forest(points: Sequence[Point], *, title: str, unit: str = "x", reference: float = 1.0) -> Markup:
    """One row per estimate with its interval, on a logarithmic axis: ratios are symmetric there."""
    rows = [p for p in points if p.value is not None]
    values = [v for p in rows for v in (p.low or p.value, p.value, p.high or p.value) if v]
    low, high = min([*values, reference]) / 1.1, max([*values, reference]) * 1.1
    left, right, row = 190, 150, 26
    height = TOP + row * len(rows) + BOTTOM

    def x(v: float) -> float:
        return left + (WIDTH - left - right) * math.log(v / low) / math.log(high / low)

    body: list[str] = []
    for tick in _log_ticks(low, high):
        body.append(_line(x(tick), TOP, x(tick), height - BOTTOM, "grid"))
        body.append(_text(x(tick), height - 14, _number(tick), "middle"))
    body.append(_line(x(reference), TOP, x(reference), height - BOTTOM, "base"))
    for index, point in enumerate(rows):
        assert point.value is not None, "rows without a value were left out"
        y = TOP + row * (index + 0.5)
        body.append(_text(left - 10, y + 4, point.label[:32], "end"))
        if point.low is not None and point.high is not None:
            body.append(_line(x(point.low), y, x(point.high), y, f"whisker {point.mark}"))
        body.append(_dot(x(point.value), y, point))
        interval = f" [{point.low:.2f}, {point.high:.2f}]" if point.low and point.high else ""
        body.append(_text(WIDTH - right + 10, y + 4, f"{point.value:.2f}{unit}{interval}"))
    return _figure(height, body, title)


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [m * 10.0**d for d in decades for m in (1, 2, 5) if low <= m * 10.0**d <= high]
    return found if len(found) >= 2 else ticks(low, high, 4)


def distribution(
    series: Sequence[tuple[str, str, Sequence[float]]], *, title: str, width: int = 360, height: int = 190
) -> Markup:
    """Cumulative distributions: (name, CSS class, values in seconds at evenly spaced probabilities), in milliseconds."""
    values = [v * 1000 for _, _, vs in series for v in vs if v > 0]
    if not values:
        return Markup("")
    left, right = 34, 12
    low, high = min(values), max(values)
    high = high if high > low * 1.01 else low * 1.1
    inner = height - TOP - BOTTOM

    def x(v: float) -> float:
        return left + (width - left - right) * math.log(max(v, low) / low) / math.log(high / low)

    body: list[str] = []
    for share in (0.0, 0.5, 0.9, 1.0):
        at = TOP + inner * (1 - share)
        body.append(_line(left, at, width - right, at, "grid"))
        if share != 0.9:
            body.append(_text(left - 6, at + 4, _number(share), "end"))
    for tick in _log_ticks(low, high):
        body.append(_line(x(tick), TOP, x(tick), height - BOTTOM, "grid"))
        body.append(_text(x(tick), height - 19, f"{_number(tick)} ms", "middle"))
    for index, (name, css, quantiles) in enumerate(series):
        last = max(1, len(quantiles) - 1)
        path = " ".join(f"{x(v * 1000):.1f},{TOP + inner * (1 - i / last):.1f}" for i, v in enumerate(quantiles))
        body.append(f'<polyline points="{path}" class="curve {css}"/>')
        body.append(_text(left + 90 * index, height - 3, name, "start", f"legend {css}"))
    return _figure(height, body, title, width)


def bars(points: Sequence[Point], *, title: str, unit: str) -> Markup:
    """One horizontal bar per value; `mark` `kept` is the one that counts."""
    rows = [p for p in points if p.value is not None]
    left, right, row = 230, 110, 24
    high = max([p.value or 0.0 for p in rows] or [1.0]) or 1.0
    height = TOP + row * len(rows) + 6
    body: list[str] = []
    for index, point in enumerate(rows):
        assert point.value is not None, "rows without a value were left out"
        y = TOP + row * index
        width = (WIDTH - left - right) * point.value / high
        body.append(_text(left - 10, y + 15, point.label[:38], "end"))
        body.append(f'<rect x="{left}" y="{y + 3}" width="{width:.1f}" height="16" rx="2" class="{point.mark}"/>')
        body.append(_text(left + width + 6, y + 15, f"{point.value:.1f} {unit}"))
    return _figure(height, body, title)
