"""Breakout: a price that leaves its old range keeps going."""

import math
from dataclasses import dataclass

import numpy as np

from agents.domain import Finding, MarketView
from agents.features import average_true_range, columns, donchian_channel, donchian_position, standardised
from agents.research.scoring import check_periods, clip_unit, mean

__all__ = ["Breakout"]


@dataclass(frozen=True, slots=True)
class Breakout:
    """Where the close stands in the Donchian channels of the bars *before* it.

    In a channel the stance is the cube of the position in it: faint in the middle, and full at the border and beyond.
    Confidence is half the strength of the stances at the border, and rises to all of it as the close leaves the
    channel by the average true range and more: a break by a tick is often a false one.

    Sources: Donchian (1960); Faith, Way of the Turtle (2007): channels of 20 and 55 bars, true range of 20.
    """

    name: str = "breakout"
    periods: tuple[int, ...] = (20, 55)
    range_period: int = 20

    def __post_init__(self) -> None:
        check_periods(self.name, self.periods)

    def __call__(self, view: MarketView) -> Finding:
        """Judge highs, lows and closes. Raises InvalidValue for a view shorter than MIN_BARS or a channel."""
        data = columns(view)
        high, low, close = np.log(data.high), np.log(data.low), np.log(data.close)
        newest = float(close[-1])
        average_range = float(average_true_range(high, low, close, self.range_period)[-1])
        positions, excesses = [], []
        for period in self.periods:
            uppers, lowers = donchian_channel(high[-period - 1 : -1], low[-period - 1 : -1], period)
            upper, lower = float(uppers[-1]), float(lowers[-1])
            positions.append(donchian_position(newest, upper, lower))
            excesses.append(standardised(max(newest - upper, lower - newest, 0.0), average_range))
        stances = [clip_unit(position) ** 3 for position in positions]
        excess = mean(excesses)
        listed = " and ".join(f"{p:+.2f} of {n} bars" for p, n in zip(positions, self.periods, strict=True))
        return Finding(
            self.name,
            mean(stances),
            abs(mean(stances)) * (0.5 + 0.5 * math.tanh(excess)),
            f"In the channels (-1 lowest low, +1 highest high) the close is at {listed}, "
            f"on average {excess:.2f} true ranges outside.",
            {
                **{f"position_{n}": p for p, n in zip(positions, self.periods, strict=True)},
                "excess": excess,
                "average_range": average_range,
            },
        )
