"""Cross-asset: how the symbol does beside the other symbols, and whether they lead it."""

import math
from dataclasses import dataclass

import numpy as np

from agents.domain import Finding, MarketView
from agents.features import RESOLUTION, FloatArray, columns, log_returns, standardised
from agents.research.scoring import abstain, check_periods, conviction, mean

__all__ = ["CrossAsset"]


@dataclass(frozen=True, slots=True)
class CrossAsset:
    """Relative strength and lead-lag against `view.market`, the equal-weight index of the other symbols.

    Relative strength is the sum of the last `lookback` returns that beta times the market does not explain, in standard
    deviations: what beats its market goes on to do so. Lead-lag is the t-statistic of the regression of a return on
    the market's return one bar before, times the direction of the market's newest bar: what the market has just done
    and the symbol has yet to do. Each becomes tanh; confidence is their agreement. Without a market it abstains.

    Sources: Jegadeesh and Titman (1993); Blitz, Huij and Martens, Residual momentum (2011); Lo and MacKinlay, When are
    contrarian profits due to stock market overreaction? (1990).
    """

    name: str = "cross_asset"
    lookback: int = 63

    def __post_init__(self) -> None:
        check_periods(self.name, (self.lookback,))

    def __call__(self, view: MarketView) -> Finding:
        """Judge closes beside the market's. Raises InvalidValue for a view of fewer than MIN_BARS bars."""
        data = columns(view)
        if not len(data.market):
            return abstain(self.name, f"No other symbol was loaded beside {view.symbol}, so there is no market.")
        if not data.market.all():
            return abstain(self.name, "The market index touches 0, so its returns are not defined.")
        own, market = log_returns(data.close), log_returns(data.market)
        beta = _slope(own, market)
        rest = own - beta * market
        back = min(self.lookback, len(rest))
        relative = standardised(float(rest[-back:].sum()), math.sqrt(float(np.square(rest).mean()) * back))
        lead = _correlation_t(own[1:], market[:-1])
        push = standardised(float(market[-1]), math.sqrt(float(np.square(market).mean())))
        signals = [math.tanh(relative), math.tanh(lead / 2.0) * math.tanh(push)]
        return Finding(
            self.name,
            mean(signals),
            conviction(signals),
            f"Beyond its beta of {beta:.2f} the symbol moved {relative:+.2f} standard deviations in {back} bars; the "
            f"market leads it with t = {lead:+.2f} and last moved {push:+.2f} deviations.",
            {"beta": beta, "relative": relative, "lead_t": lead, "push": push},
        )


def _slope(own: FloatArray, market: FloatArray) -> float:
    """Least squares beta; 0 against a market that stands still."""
    own_centred, market_centred = own - own.mean(), market - market.mean()
    variance = max(float(np.square(market_centred).mean()), RESOLUTION**2)
    return float((own_centred * market_centred).mean()) / variance


def _correlation_t(left: FloatArray, right: FloatArray) -> float:
    """t-statistic of the correlation of two series (n,); 0 where one of them stands still."""
    spread = max(float(left.std()), RESOLUTION) * max(float(right.std()), RESOLUTION)
    correlation = float(((left - left.mean()) * (right - right.mean())).mean()) / spread
    return correlation * math.sqrt((len(left) - 2) / max(1.0 - correlation**2, 1e-6))
