"""A session's pictures: price with its fills, equity, drawdown; off any screen, the same bytes for the same session."""

from collections.abc import Sequence
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

from agents.domain import Side
from checkpoints.sessions import SessionMark
from graph.session.status import SessionResult

__all__ = ["Curve", "pictures", "thinned"]

_POINTS_MAX = 2_000
_SIZE = (10.0, 3.2)
_BLUE, _GREEN, _RED = "#2563a8", "#1a7f4b", "#b3261e"
Curve = tuple[list[datetime], list[float]]
"""Times, UTC, and values."""


def pictures(result: SessionResult) -> dict[str, bytes]:
    """PNG files by name: `price`, `equity`, `drawdown`; none for a session that never came to a mark."""
    if not result.marks:
        return {}
    drawn = {"price": _price(result), "equity": _equity(result), "drawdown": _drawdown(result)}
    return {name: _png(figure) for name, figure in drawn.items()}


def thinned(marks: Sequence[SessionMark], value: str, most: int = _POINTS_MAX) -> Curve:
    """A curve of `most` points at most: of each stretch the lowest and the highest, so that no extreme is lost."""
    return _thin([(mark.time_ns, float(getattr(mark, value))) for mark in marks], most)


def _thin(points: list[tuple[int, float]], most: int) -> Curve:
    if len(points) > most:
        size = -(-2 * len(points) // most)
        stretches = [points[begin : begin + size] for begin in range(0, len(points), size)]
        points = [
            point
            for stretch in stretches
            for point in sorted({min(stretch, key=lambda each: each[1]), max(stretch, key=lambda each: each[1])})
        ]
    return [datetime.fromtimestamp(at / 1e9, tz=UTC) for at, _ in points], [value for _, value in points]


def _lost(marks: Sequence[SessionMark]) -> list[tuple[int, float]]:
    """What of the highest equity was lost at each mark, in percent, as a number below zero."""
    peak, points = 0.0, []
    for mark in marks:
        equity = float(mark.equity)
        peak = max(peak, equity)
        points.append((mark.time_ns, -100 * (peak - equity) / peak if peak > 0 else 0.0))
    return points


def _axes(title: str, unit: str) -> tuple[Any, Any]:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter  # noqa: PLC0415 - half a second to load
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=_SIZE, dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_ylabel(unit)
    axes.set_xlabel("UTC")
    axes.grid(visible=True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    locator: Any = AutoDateLocator()  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC))  # type: ignore[no-untyped-call]
    axes.ticklabel_format(axis="y", useOffset=False, style="plain")
    return figure, axes


def _price(result: SessionResult) -> Any:
    figure, axes = _axes(f"{result.run.symbol}: price and fills", "price")
    axes.plot(*thinned(result.marks, "price"), color=_BLUE, linewidth=1.1, label="price")
    for side, marker, colour in ((Side.BUY, "^", _GREEN), (Side.SELL, "v", _RED)):
        fills = [fill for fill in result.fills if fill.side is side]
        times = [datetime.fromtimestamp(fill.time_ns / 1e9, tz=UTC) for fill in fills]
        prices = [float(fill.price) for fill in fills]
        axes.scatter(times, prices, marker=marker, color=colour, s=42, zorder=3, label=f"{side} ({len(fills)})")
    axes.legend(loc="best", fontsize=8, framealpha=0.8)
    return figure


def _equity(result: SessionResult) -> Any:
    figure, axes = _axes("Equity", "currency")
    axes.plot(*thinned(result.marks, "equity"), color=_BLUE, linewidth=1.2)
    axes.axhline(float(result.opening_cash), color="grey", linewidth=0.8, linestyle="--")
    return figure


def _drawdown(result: SessionResult) -> Any:
    figure, axes = _axes("Drawdown from the highest equity", "%")
    times, lost = _thin(_lost(result.marks), _POINTS_MAX)  # first lost, then thinned: a thinned curve has other peaks
    axes.fill_between(times, lost, 0.0, color=_RED, alpha=0.35, linewidth=0)
    axes.plot(times, lost, color=_RED, linewidth=0.9)
    axes.set_ylim(top=0.0 if min(lost) < 0 else 0.1)
    return figure


def _png(figure: Any) -> bytes:
    file = BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
