"""A simulated market: every symbol has its own history, the same for the same seed in every process and machine.

The history walks through regimes that an analyst should be able to tell apart, with volatility that clusters
(GARCH(1,1); Bollerslev 1986) and fat tails (Student's t with four degrees of freedom). Only uniform numbers are drawn,
because their stream is the part of numpy's generator that does not change; the rest is computed from them.
"""

import hashlib
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.bars import Bars
from agents.domain import check_symbol
from agents.errors import InvalidValue

__all__ = ["Regime", "regimes", "simulate"]

_HOUR_NS = 3_600_000_000_000
_LAST_CLOSE_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
_COUNT_MAX = 1_000_000
_HOURLY_VOLATILITY = 0.006


class Regime(StrEnum):
    """What the market is doing. A gap is one bar that opens far from the close before it."""

    TREND_UP = "trend up"
    TREND_DOWN = "trend down"
    RANGE = "range"
    CRASH = "crash"
    GAP = "gap"


class _Habit(NamedTuple):
    """How a regime moves: length in bars, drift in usual volatilities a bar, volatility and volume as multiples."""

    shortest: int
    longest: int
    drift: float
    volatility: float
    volume: float
    pull: float = 0.0  # share of the distance to where the regime began that is taken back each bar


_HABITS = {
    Regime.TREND_UP: _Habit(60, 110, 0.36, 0.9, 1.0),
    Regime.TREND_DOWN: _Habit(60, 110, -0.26, 1.0, 1.1),
    Regime.RANGE: _Habit(50, 100, 0.0, 0.7, 0.7, pull=0.15),
    Regime.CRASH: _Habit(6, 14, -1.5, 2.0, 3.0),
    Regime.GAP: _Habit(1, 1, 0.0, 1.5, 2.5),
}
_GAP_VOLATILITIES = (6.0, 12.0)
_GARCH_SHOCK, _GARCH_MEMORY, _GARCH_VARIANCE_MAX = 0.08, 0.90, 6.0
_SHOCK_MAX = 5.0
_HOMING = 0.002  # a weak pull to the start price keeps any length of history within a sane range of prices
_LOG_RANGE = 2.5  # and a hard bound, exp(2.5) = 12 times up or down, makes that certain


def simulate(symbol: str, seed: int, count: int = 512, period_ns: int = _HOUR_NS) -> Bars:
    """Make `count` bars of `period_ns`, the last one closing at 2026-01-01T00:00:00Z.

    Prices start between 20 and 500 and have two decimals, low <= open, close <= high; volume is whole and above 0.
    512 bars or more hold every regime at least once: see `regimes` for which bar is in which.

    Raises:
        InvalidValue: `symbol` is no symbol, `count` is not in 1 to 1,000,000, or `period_ns` is not in 1 to one day.
    """
    check_symbol(symbol)
    if not 1 <= period_ns <= 24 * _HOUR_NS:
        raise InvalidValue(f"period_ns is {period_ns}, and must be in [1, {24 * _HOUR_NS}]; nothing was simulated")
    draws = _generator(symbol, seed, "prices")
    start = 20.0 * 25.0 ** draws.random()
    volatility = _HOURLY_VOLATILITY * min(max((period_ns / _HOUR_NS) ** 0.5, 0.2), 5.0)
    regime_of_bar = regimes(symbol, seed, count)
    opens, closes, spreads = _walk(draws, regime_of_bar, volatility)
    wicks = -0.5 * np.log1p(-draws.random((2, count))) * spreads
    highs, lows = np.maximum(opens, closes) + wicks[0], np.minimum(opens, closes) - wicks[1]
    rounded = [np.round(start * np.exp(column), 2) for column in (opens, highs, lows, closes)]
    return Bars(
        close_ns=_LAST_CLOSE_NS - period_ns * np.arange(count - 1, -1, -1, dtype=np.int64),
        open=rounded[0],
        high=rounded[1],
        low=rounded[2],
        close=rounded[3],
        volume=_volume(draws, regime_of_bar, np.abs(closes - opens) / volatility),
    )


def regimes(symbol: str, seed: int, count: int = 512) -> tuple[Regime, ...]:
    """The regime of each bar of `simulate(symbol, seed, count)`, oldest first.

    Raises:
        InvalidValue: `symbol` is no symbol, or `count` is not in 1 to 1,000,000.
    """
    check_symbol(symbol)
    if not 1 <= count <= _COUNT_MAX:
        raise InvalidValue(f"count is {count}, and must be in [1, {_COUNT_MAX}]; nothing was simulated")
    draws, order = _generator(symbol, seed, "regimes"), tuple(Regime)
    bars: list[Regime] = []
    while len(bars) < count:  # each round adds all five, in a new order, and so at least one bar
        for at in np.argsort(draws.random(len(order)), kind="stable"):
            habit = _HABITS[order[at]]
            length = habit.shortest + int(draws.random() * (habit.longest - habit.shortest + 1))
            bars.extend([order[at]] * length)
    return tuple(bars[:count])


def _generator(symbol: str, seed: int, purpose: str) -> np.random.Generator:
    """Not `hash()`, which differs from process to process."""
    digest = hashlib.sha256(f"{seed}\x1f{symbol}\x1f{purpose}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


def _shocks(draws: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Student's t, four degrees of freedom, scaled to variance 1; its closed quantile is from Shaw (2006)."""
    uniform = draws.random(count)
    alpha = np.clip(4.0 * uniform * (1.0 - uniform), 1e-12, 1.0)
    root = np.sqrt(alpha)
    size = 2.0 * np.sqrt(np.maximum(np.cos(np.arccos(root) / 3.0) / root - 1.0, 0.0))
    return np.asarray(np.clip(np.sign(uniform - 0.5) * size / np.sqrt(2.0), -_SHOCK_MAX, _SHOCK_MAX))


def _walk(
    draws: np.random.Generator, regime_of_bar: tuple[Regime, ...], volatility: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Open, close and volatility of each bar, in logarithms relative to the start price."""
    count = len(regime_of_bar)
    shocks, gaps = _shocks(draws, count).tolist(), _gaps(draws, regime_of_bar, volatility).tolist()
    opens, closes, spreads = np.empty(count), np.empty(count), np.empty(count)
    level, variance, anchor, previous = 0.0, 1.0, 0.0, None
    for at, regime in enumerate(regime_of_bar):
        habit = _HABITS[regime]
        if regime is not previous:
            anchor, previous = level, regime
        opened = level + gaps[at]
        shock = variance**0.5 * shocks[at]
        spread = volatility * habit.volatility * variance**0.5
        move = volatility * (habit.drift + habit.volatility * shock)
        level = opened + move - habit.pull * (opened - anchor) - _HOMING * opened
        level = min(max(level, -_LOG_RANGE), _LOG_RANGE)
        variance = 1.0 - _GARCH_SHOCK - _GARCH_MEMORY + _GARCH_SHOCK * shock * shock + _GARCH_MEMORY * variance
        variance = min(variance, _GARCH_VARIANCE_MAX)
        opens[at], closes[at], spreads[at] = opened, level, spread
    return opens, closes, spreads


def _gaps(draws: np.random.Generator, regime_of_bar: tuple[Regime, ...], volatility: float) -> NDArray[np.float64]:
    """How far each bar opens from the close before it: 0 but for the gaps, which go up or down."""
    low, high = _GAP_VOLATILITIES
    sizes, sides = draws.random((2, len(regime_of_bar)))
    jumps = volatility * (low + (high - low) * sizes) * np.where(sides < 0.5, -1.0, 1.0)
    return np.where([regime is Regime.GAP for regime in regime_of_bar], jumps, 0.0)


def _volume(
    draws: np.random.Generator, regime_of_bar: tuple[Regime, ...], moves: NDArray[np.float64]
) -> NDArray[np.float64]:
    """More is traded in a crash, and on bars that move."""
    usual = 10_000.0 * 100.0 ** draws.random()
    busy = np.array([_HABITS[regime].volume for regime in regime_of_bar])
    noise = np.exp(draws.random(len(regime_of_bar)) - 0.5)
    return np.asarray(np.maximum(np.round(usual * busy * noise * (0.5 + 0.5 * moves)), 1.0))
