"""Mean reversion: a price far from its average comes back, unless it is going somewhere."""

from dataclasses import dataclass

import numpy as np

from agents.domain import Finding, MarketView
from agents.features import bollinger_z, columns, efficiency_ratio, rsi
from agents.research.scoring import clip_unit, mean

__all__ = ["MeanReversion"]


@dataclass(frozen=True, slots=True)
class MeanReversion:
    """Leans against an overbought or oversold market: RSI and distance from the Bollinger middle, half and half.

    The stance is full where RSI reaches 30 or 70 and the price a band. Confidence is the strength of the stance times
    1 - Kaufman's efficiency ratio over `trend_period`: in a straight march the extremes are the trend, not an error.

    Sources: Wilder (1978): RSI of 14, 30/70; Bollinger (2001): 20 bars, 2 deviations; Kaufman (1995).
    """

    name: str = "mean_reversion"
    rsi_period: int = 14
    rsi_band: float = 20.0
    average_period: int = 20
    deviations: float = 2.0
    trend_period: int = 60

    def __call__(self, view: MarketView) -> Finding:
        """Judge the closes. Raises InvalidValue for a view shorter than MIN_BARS or a period."""
        log_close = np.log(columns(view).close)
        strength = float(rsi(log_close, self.rsi_period)[-1])
        distance = float(bollinger_z(log_close[-self.average_period :], self.average_period)[-1])
        trending = efficiency_ratio(log_close[-self.trend_period - 1 :])
        stance = mean([clip_unit((50.0 - strength) / self.rsi_band), clip_unit(-distance / self.deviations)])
        return Finding(
            self.name,
            stance,
            abs(stance) * (1.0 - trending),
            f"RSI is {strength:.1f} and the price {distance:+.2f} deviations from its {self.average_period}-bar "
            f"average, while {trending:.0%} of the last {self.trend_period} bars' path went one way.",
            {"rsi": strength, "bollinger_z": distance, "efficiency": trending},
        )
