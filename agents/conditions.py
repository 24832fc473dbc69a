"""What sizing, bounds and risk ask of a market view: one number each, from the newest bars."""

import math

import numpy as np

from agents.domain import MarketView
from agents.features import average_true_range, bars_per_year, ewma_volatility, log_returns

__all__ = ["annual_volatility", "average_volume", "bar_volatility", "true_range"]

_LOOKBACK = 100  # bars; older ones weigh nothing in an average of decay 0.94


def true_range(view: MarketView) -> float:
    """Average true range of 14 bars in price units, of all bars where there are fewer."""
    high, low, close = (np.array(column[-_LOOKBACK:]) for column in (view.high, view.low, view.close))
    # In units of a power of two, which changes no digit, the sums stay finite at any price.
    unit = math.ldexp(1.0, math.frexp(float(high.max()))[1] - 1)
    period = min(14, len(close))
    return float(average_true_range(high / unit, low / unit, close / unit, period)[-1]) * unit


def bar_volatility(view: MarketView) -> float:
    """Exponentially weighted volatility of one bar's log return; 0.0 where there is only one bar."""
    return ewma_volatility(log_returns(np.array(view.close[-_LOOKBACK:]))) if len(view) > 1 else 0.0


def annual_volatility(view: MarketView) -> float:
    """`bar_volatility` times the square root of the bars in a year."""
    return bar_volatility(view) * math.sqrt(bars_per_year(view.period_ns, view.calendar))


def average_volume(view: MarketView) -> float | None:
    """Mean volume of the last 20 bars in units; None where the source has no volume."""
    if not view.volume:
        return None
    newest = view.volume[-20:]
    return math.fsum(volume / len(newest) for volume in newest)
