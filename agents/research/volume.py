"""Volume: whether trading goes with the price, and how thin the market is."""

import math
from dataclasses import dataclass

import numpy as np

from agents.domain import Finding, MarketView
from agents.features import amihud_illiquidity, columns, log_ratio, relative_traded_value, signed_flow
from agents.research.scoring import abstain

__all__ = ["Volume"]


@dataclass(frozen=True, slots=True)
class Volume:
    """The slope of on-balance volume over `period` bars, trusted less where the market has become illiquid.

    The change of on-balance volume is measured against what random price directions would make of the same volumes;
    stance is tanh of half of it. Confidence is the stance's strength, divided by the rise of Amihud's illiquidity over
    that of the window, if it has risen. Without volume the analyst abstains.

    Sources: Granville (1963); Amihud (2002).
    """

    name: str = "volume"
    period: int = 20

    def __call__(self, view: MarketView) -> Finding:
        """Judge closes and volumes. Raises InvalidValue for a view of fewer than MIN_BARS bars."""
        data = columns(view)
        if not len(data.volume):
            return abstain(
                self.name, f"The source of {view.symbol} has no volume column, so there is nothing to judge."
            )
        if not data.volume.any():
            return abstain(self.name, f"Nothing was traded in the last {len(view)} bars, so there is nothing to judge.")
        flow = signed_flow(data.close[-self.period - 1 :], data.volume[-self.period - 1 :])
        returns = np.diff(np.log(data.close))
        value = relative_traded_value(data.close, data.volume)[1:]
        illiquidity = log_ratio(
            amihud_illiquidity(returns[-self.period :], value[-self.period :]), amihud_illiquidity(returns, value)
        )
        stance = math.tanh(flow / 2.0)
        return Finding(
            self.name,
            stance,
            abs(stance) * math.exp(-max(0.0, illiquidity)),
            f"On-balance volume moved {flow:+.2f} standard deviations in {self.period} bars, and a unit of trading "
            f"moves the price {math.exp(illiquidity):.2f} times as far as usual.",
            {"flow": flow, "log_illiquidity_ratio": illiquidity},
        )
