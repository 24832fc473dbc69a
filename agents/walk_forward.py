"""Would this rule have lost its shirt on the very history it was given? A quick check of sanity, not a backtest."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from agents import conditions, features
from agents.domain import MarketView
from agents.strategist import StrategySettings

__all__ = ["WalkForward", "walk_forward"]


@dataclass(frozen=True, slots=True)
class WalkForward:
    """`trades` taken, their mean profit in units of the risk taken (R), and the share that won."""

    trades: int = 0
    mean_r: float = 0.0
    hit_rate: float = 0.0


def walk_forward(
    view: MarketView,
    stance_of: Callable[[MarketView], float],
    settings: StrategySettings,
    *,
    points_max: int = 16,
) -> WalkForward:
    """Apply the rule at up to `points_max` earlier moments of the view, each time seeing only the bars before it.

    Each trade is entered at the close, and left at the stop, the take-profit or the horizon, whichever comes first;
    a bar that touches both counts as stopped. `stance_of` maps a view to a stance in [-1, 1].
    """
    last = len(view) - settings.horizon_bars
    span = last - features.MIN_BARS
    if span < 1:
        return WalkForward()
    moments = np.unique(np.linspace(features.MIN_BARS, last, num=min(points_max, span), dtype=int))
    results = [result for moment in moments if (result := _trade(view, int(moment), stance_of, settings)) is not None]
    if not results:
        return WalkForward()
    return WalkForward(len(results), float(np.mean(results)), float(np.mean(np.array(results) > 0)))


def _first(view: MarketView, count: int) -> MarketView:
    start = max(0, count - 2 * features.MIN_BARS)
    part = slice(start, count)
    columns = ("close_ns", "open", "high", "low", "close", "volume", "market")
    return replace(view, **{name: getattr(view, name)[part] for name in columns})


def _trade(
    view: MarketView, moment: int, stance_of: Callable[[MarketView], float], settings: StrategySettings
) -> float | None:
    """The outcome in R of one trade taken after `moment` bars, or None where the rule has no view."""
    before = _first(view, moment)
    stance = stance_of(before)
    if not abs(stance) >= settings.stance_min or (stance < 0 and not settings.allow_short):
        return None
    direction = 1.0 if stance > 0 else -1.0
    entry = view.close[moment - 1]
    risk = settings.stop_atr * conditions.true_range(before)
    if risk <= 0:
        return None
    ahead = slice(moment, moment + settings.horizon_bars)
    worst, best = (view.low, view.high) if direction > 0 else (view.high, view.low)
    for adverse, favourable in zip(worst[ahead], best[ahead], strict=True):
        if (adverse - entry) * direction <= -risk:
            return -1.0
        if (favourable - entry) * direction >= settings.reward_risk * risk:
            return settings.reward_risk
    return (view.close[moment + settings.horizon_bars - 1] - entry) * direction / risk
