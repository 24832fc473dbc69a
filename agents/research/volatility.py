"""Volatility: hold less while the market is rougher than it used to be."""

import math
from dataclasses import dataclass

import numpy as np

from agents.domain import Finding, MarketView
from agents.features import bars_per_year, columns, ewma_volatility, log_ratio, parkinson_volatility
from agents.research.scoring import mean

__all__ = ["Volatility"]

_CONFIDENCE_MAX = 0.5


@dataclass(frozen=True, slots=True)
class Volatility:
    """The regime: present volatility against that of the whole window, from closes (EWMA) and from ranges (Parkinson).

    Rougher than usual gives a stance below 0, calmer one above, 0 where both are alike: -tanh of the mean log ratio.
    Risk taken per unit of return falls with variance, and equities' volatility rises as they fall. But roughness has
    no direction of its own: confidence, the strength of the ratio, is therefore at most 0.5, so that this analyst
    damps the others and does not lead them.

    Sources: RiskMetrics (1996); Parkinson (1980); Moreira and Muir, Volatility-managed portfolios (2017);
    Black, Studies of stock price volatility changes (1976).
    """

    name: str = "volatility"
    decay: float = 0.94
    range_period: int = 20

    def __call__(self, view: MarketView) -> Finding:
        """Judge closes and ranges. Raises InvalidValue for a view of fewer than MIN_BARS bars."""
        data = columns(view)
        returns = np.diff(np.log(data.close))
        now = ewma_volatility(returns, self.decay)
        usual = math.sqrt(float(np.square(returns).mean()))
        recent = parkinson_volatility(data.high[-self.range_period :], data.low[-self.range_period :])
        by_range = log_ratio(recent, parkinson_volatility(data.high, data.low))
        by_close = log_ratio(now, usual)
        calmness = math.tanh(-mean([by_close, by_range]))
        annual = now * math.sqrt(bars_per_year(view.period_ns, view.calendar))
        return Finding(
            self.name,
            calmness,
            _CONFIDENCE_MAX * abs(calmness),
            f"Volatility is {annual:.1%} a year, {math.exp(by_close):.2f} times the window's by closes and "
            f"{math.exp(by_range):.2f} times by ranges.",
            {"annual": annual, "log_ratio_close": by_close, "log_ratio_range": by_range},
        )
