"""Views to judge: made to a shape, drawn at random, and read from the real price files."""

import csv
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

from agents.domain import MarketView

DAY_NS = 86_400 * 1_000_000_000
HOUR_NS = DAY_NS // 24
# 2024-01-01, a Monday at 00:00 UTC.
MONDAY_NS = 19_723 * DAY_NS


def make_view(
    close: Sequence[float],
    *,
    spread: float = 0.002,
    volume: Sequence[float] = (),
    market: Sequence[float] = (),
    period_ns: int = HOUR_NS,
    times: Sequence[int] = (),
    calendar: str = "24/7",
) -> MarketView:
    """A view around closes: each bar opens at the close before it, and reaches `spread` beyond both."""
    closes = np.asarray(close, dtype=np.float64)
    opens = np.concatenate((closes[:1], closes[:-1]))
    return MarketView(
        symbol="TEST",
        period_ns=period_ns,
        close_ns=tuple(times) or tuple(MONDAY_NS + i * period_ns for i in range(len(closes))),
        open=tuple(opens.tolist()),
        high=tuple((np.maximum(opens, closes) * (1 + spread)).tolist()),
        low=tuple((np.minimum(opens, closes) * (1 - spread)).tolist()),
        close=tuple(closes.tolist()),
        volume=tuple(volume),
        market=tuple(market),
        calendar=calendar,
    )


def walk(count: int = 300, *, seed: int = 7, drift: float = 0.0, volatility: float = 0.01) -> np.ndarray:
    """A geometric random walk of `count` closes that begins near 100."""
    steps = np.random.default_rng(seed).normal(drift, volatility, count)
    return 100.0 * np.exp(np.cumsum(steps))


def ramp(count: int = 300, step: float = 0.002) -> np.ndarray:
    """Closes that grow by the same share every bar."""
    return 100.0 * np.exp(step * np.arange(count))


@st.composite
def views(draw: st.DrawFn) -> MarketView:
    """Random views: any seed, scale, roughness, length; some flat, some jumping, with or without volume and market."""
    count = draw(st.integers(100, 180))
    seed = draw(st.integers(0, 2**32 - 1))
    roughness = draw(st.sampled_from([0.0, 1e-5, 0.01, 0.3]))
    closes = walk(count, seed=seed, drift=draw(st.floats(-0.02, 0.02)) * bool(roughness), volatility=roughness)
    closes *= draw(st.sampled_from([1e-8, 1e-3, 1.0, 1e6, 1e12])) / 100.0
    rng = np.random.default_rng(seed + 1)
    volume = draw(st.sampled_from(["none", "zero", "sparse", "full"]))
    traded = {
        "none": (),
        "zero": np.zeros(count),
        "sparse": rng.exponential(1e9, count) * (rng.random(count) < 0.1),
        "full": rng.exponential(100.0, count),
    }[volume]
    market = walk(count, seed=seed + 2, volatility=roughness) / 100.0 if draw(st.booleans()) else ()
    period_ns = draw(st.sampled_from([60 * 1_000_000_000, HOUR_NS, 4 * HOUR_NS, DAY_NS, 7 * DAY_NS]))
    calendar = draw(st.sampled_from(["24/7", "24/5", "XNYS"]))
    return make_view(closes, volume=traded, market=market, period_ns=period_ns, calendar=calendar)


def rescaled(view: MarketView, factor: float) -> MarketView:
    """The same market quoted in another unit of money."""
    columns = {name: [price * factor for price in getattr(view, name)] for name in ("open", "high", "low", "close")}
    rest = {name: getattr(view, name) for name in ("symbol", "period_ns", "close_ns", "volume", "market", "calendar")}
    return MarketView(**columns, **rest)


REAL_FILES = (
    ("goog_daily_2004_2013.csv", DAY_NS, "XNYS"),
    ("btc_perp_1m_2022_01.csv", 60 * 1_000_000_000, "24/7"),
)


def real_view(name: str, period_ns: int, calendar: str, *, first: int, count: int = 512) -> MarketView:
    """`count` bars of a real price file from row `first` on; skips the test where the file is absent."""
    beside = Path(__file__).parents[3].parent / "shared" / "data"
    path = Path(os.environ.get("HOLDFAST_DATA", beside)) / name
    if not path.is_file():
        pytest.skip(f"real prices {name} are not at {path.parent}; set HOLDFAST_DATA to their folder")
    with path.open(newline="") as file:
        rows = list(csv.reader(file))[1 + first : 1 + first + count]
    stamps = [datetime.fromisoformat(row[0]).replace(tzinfo=UTC) for row in rows]
    prices = [[float(row[column]) for row in rows] for column in range(1, 6)]
    times = tuple(int(stamp.timestamp()) * 1_000_000_000 for stamp in stamps)
    return MarketView("REAL", period_ns, times, *prices, calendar=calendar)
