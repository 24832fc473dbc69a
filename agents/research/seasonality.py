"""Seasonality: what the hour of the day or the day of the week has done before."""

import math
from dataclasses import dataclass

import numpy as np

from agents.domain import Finding, MarketView
from agents.features import FloatArray, columns, log_returns, standardised
from agents.research.scoring import abstain

__all__ = ["Seasonality"]

_HOUR_NS = 3_600 * 1_000_000_000
_DAY_NS = 24 * _HOUR_NS
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True, slots=True)
class Seasonality:
    """Compares the mean return of the season that the next bar falls in with that of all other seasons.

    The season is the hour of the day (UTC) for bars shorter than a day, else the day of the week; bars of a week or
    more have none. One sample is a whole season of one cycle (this Monday, today's 14 h), so that sixty bars of one
    hour are one sample and not sixty. Stance is tanh of half of Welch's t; confidence grows from |t| = 1 to 1 at
    |t| = 3, the hurdle for effects that were found by looking for them. Fewer than `cycles_min` samples: it abstains.

    Sources: French, Stock returns and the weekend effect (1980); Heston, Korajczyk and Sadka, Intraday patterns in the
    cross-section of stock returns (2010); Harvey, Liu and Zhu, ... and the cross-section of expected returns (2016).
    """

    name: str = "seasonality"
    cycles_min: int = 8

    def __call__(self, view: MarketView) -> Finding:
        """Judge closes and their times. Raises InvalidValue for a view of fewer than MIN_BARS bars."""
        returns = log_returns(columns(view).close)
        if view.period_ns >= 7 * _DAY_NS:
            return abstain(self.name, "Bars of a week or more have no hour and no weekday, so there is no season.")
        season, label = _next_season(view)
        inside, outside = _split(view, returns, season)
        least = max(2, self.cycles_min)
        if min(len(inside), len(outside)) < least:
            return abstain(
                self.name, f"The window holds {len(inside)} samples of {label}, and at least {least} are needed."
            )
        excess = float(inside.mean()) - float(outside.mean())
        error = math.sqrt(float(inside.var(ddof=1)) / len(inside) + float(outside.var(ddof=1)) / len(outside))
        t = standardised(excess, error)
        return Finding(
            self.name,
            math.tanh(t / 2.0),
            min(1.0, max(0.0, (abs(t) - 1.0) / 2.0)),
            f"The next bar falls in {label}, which returned {excess * 1e4:+.2f} bp more than other times on average of "
            f"{len(inside)} samples (t = {t:+.2f}).",
            {"t": t, "excess_bp": excess * 1e4, "samples": float(len(inside)), "season": float(season)},
        )


def _next_season(view: MarketView) -> tuple[int, str]:
    """The season of the next bar, and its name; a market that rests on weekends goes from Friday to Monday."""
    next_ns = view.as_of_ns + view.period_ns
    if view.period_ns < _DAY_NS:
        hour = next_ns // _HOUR_NS % 24
        return hour, f"{hour:02d} h UTC"
    weekday = _weekday(next_ns // _DAY_NS)
    if weekday >= 5 and view.calendar != "24/7":
        weekday = 0
    return weekday, _WEEKDAYS[weekday]


def _weekday(day: int) -> int:
    """Monday 0 to Sunday 6, of a day counted from 1970-01-01, which was a Thursday."""
    return (day + 3) % 7


def _split(view: MarketView, returns: FloatArray, season: int) -> tuple[FloatArray, FloatArray]:
    """The summed returns of every cycle's season: those of `season`, and those of the others."""
    daily = view.period_ns >= _DAY_NS
    unit = _DAY_NS if daily else _HOUR_NS
    slots = np.array([close_ns // unit for close_ns in view.close_ns[1:]])
    starts = np.flatnonzero(np.diff(slots, prepend=slots[0] - 1))
    totals = np.add.reduceat(returns, starts)
    seasons = (slots[starts] + 3) % 7 if daily else slots[starts] % 24
    return totals[seasons == season], totals[seasons != season]
