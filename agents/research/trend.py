"""Trend: what has risen keeps rising, at several horizons at once."""

import math
from dataclasses import dataclass

import numpy as np

from agents.domain import Finding, MarketView
from agents.features import FloatArray, columns, ewma_volatility, standardised
from agents.research.scoring import check_periods, conviction, mean

__all__ = ["Trend"]


@dataclass(frozen=True, slots=True)
class Trend:
    """Time-series momentum over `lookbacks` bars, and the crossing of a fast and a slow moving average.

    Each signal is tanh of a move in units of what a random walk of the same volatility would make, so that noise gives
    a faint signal and a steady march a full one. A lookback longer than the window is cut to the window. Confidence
    is the signals' agreement.

    Sources: Moskowitz, Ooi and Pedersen, Time series momentum (2012): 1, 3 and 12 months, volatility with a centre of
    mass of 60 days; Brock, Lakonishok and LeBaron, Simple technical trading rules (1992): the 1-50 rule.
    """

    name: str = "trend"
    lookbacks: tuple[int, ...] = (21, 63, 252)
    fast: int = 1
    slow: int = 50
    decay: float = 60.0 / 61.0

    def __post_init__(self) -> None:
        check_periods(self.name, (*self.lookbacks, self.fast, self.slow))

    def __call__(self, view: MarketView) -> Finding:
        """Judge the closes. Raises InvalidValue for a view of fewer than MIN_BARS bars."""
        log_close = np.log(columns(view).close)
        volatility = ewma_volatility(np.diff(log_close), self.decay)
        moves = {back: _move(log_close, back, volatility) for back in self.lookbacks}
        gap = float(log_close[-self.fast :].mean()) - float(log_close[-self.slow :].mean())
        # A random walk's distance from its own average over n bars has a variance of about n / 3.
        cross = standardised(gap, volatility * math.sqrt(self.slow / 3.0))
        signals = [math.tanh(move) for move in (*moves.values(), cross)]
        listed = ", ".join(f"{move:+.2f} over {back} bars" for back, move in moves.items())
        return Finding(
            self.name,
            mean(signals),
            conviction(signals),
            f"In standard deviations the price has moved {listed}, and its {self.fast}-bar average stands "
            f"{cross:+.2f} from its {self.slow}-bar average.",
            {
                **{f"momentum_{back}": move for back, move in moves.items()},
                "cross": cross,
                "volatility": volatility,
            },
        )


def _move(log_close: FloatArray, lookback: int, volatility: float) -> float:
    back = min(lookback, len(log_close) - 1)
    return standardised(float(log_close[-1]) - float(log_close[-1 - back]), volatility * math.sqrt(back))
