"""Bars into numbers: the columns of a view as arrays, the indicators, and the policy's feature vector.

Indicators come in two kinds. *Rolling* ones take a `period` and return one value for each full window, oldest first
(shape n - period + 1, so that there is never a NaN to carry); *summaries* take exactly the bars they are to describe
and return one float. All are pure, and finite for every view that the domain accepts, if they are given logarithms of
prices: those are scale-free, and cannot overflow whatever the price. Ratios are taken by `standardised`, whose floor
keeps a market that does not move from turning rounding noise into a signal.
"""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from agents.domain import MarketView
from agents.errors import InvalidValue

__all__ = [
    "FEATURE_NAMES",
    "MIN_BARS",
    "RESOLUTION",
    "Columns",
    "FloatArray",
    "amihud_illiquidity",
    "average_true_range",
    "bars_per_year",
    "bollinger_z",
    "columns",
    "donchian_channel",
    "donchian_position",
    "efficiency_ratio",
    "ema",
    "ewma_volatility",
    "feature_vector",
    "log_ratio",
    "log_returns",
    "on_balance_volume",
    "parkinson_volatility",
    "relative_traded_value",
    "rsi",
    "signed_flow",
    "simple_returns",
    "sma",
    "standardised",
    "trend_t",
    "true_range",
]

FloatArray: TypeAlias = NDArray[np.float64]

MIN_BARS = 100
"""The least number of bars that every default analyst and the feature vector need."""

RESOLUTION = 1e-6
"""A hundredth of a basis point: log-price moves and volatilities below it are rounding, not market."""

_DAY_NS = 86_400 * 1_000_000_000


class Columns(NamedTuple):
    """The columns of a view as float64 arrays of shape (n,), oldest first; `volume` and `market` may be (0,)."""

    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    volume: FloatArray
    market: FloatArray


def columns(view: MarketView, last: int | None = None) -> Columns:
    """Return the newest `last` bars (all without it) as arrays.

    Raises:
        InvalidValue: the view has fewer than MIN_BARS bars.
    """
    if len(view) < MIN_BARS:
        raise InvalidValue(
            f"{view.symbol} has {len(view)} bars and the analysts need {MIN_BARS}; nothing was judged; "
            "load a longer history or use a shorter bar period"
        )
    picked = (view.open, view.high, view.low, view.close, view.volume, view.market)
    return Columns(*(np.array(column if last is None else column[-last:], dtype=np.float64) for column in picked))


def standardised(value: float, scale: float) -> float:
    """`value` in units of `scale`, a non-negative spread of at least RESOLUTION: 0 for a market that stands still."""
    return float(value) / max(float(scale), RESOLUTION)


def log_ratio(numerator: float, denominator: float) -> float:
    """Log of the ratio of two non-negative spreads, 0 where both are nothing: finite for all finite input."""
    return math.log((float(numerator) + RESOLUTION) / (float(denominator) + RESOLUTION))


def bars_per_year(period_ns: int, calendar: str = "24/7") -> float:
    """How many bars a year has: a per-bar volatility times its square root is the annual one.

    `24/7` trades 365 days of 24 hours; `24/5` 252 days of 24 hours; any other calendar 252 days of 6.5 hours. A bar
    of more than a day spans calendar days, of which 5 in 7 are traded unless the calendar is 24/7.
    """
    days_per_year = 365.0 if calendar == "24/7" else 252.0
    days = period_ns / _DAY_NS
    if days >= 1.0:
        return days_per_year / (days if calendar == "24/7" else max(1.0, days * 5 / 7))
    hours_per_day = 24.0 if calendar in {"24/7", "24/5"} else 6.5
    return days_per_year * max(1.0, hours_per_day / (days * 24.0))


def _require_length(values: FloatArray, least: int, period: int, indicator: str) -> None:
    if period < 1 or len(values) < least:
        raise InvalidValue(
            f"{indicator} of period {period} needs a period above 0 and {max(least, 1)} values, and has {len(values)}; "
            "nothing was computed; give a longer window or a shorter period"
        )


# --- returns -----------------------------------------------------------------------------------------------------


def simple_returns(close: FloatArray) -> FloatArray:
    """Relative price changes: prices (n,) -> (n - 1,)."""
    return close[1:] / close[:-1] - 1.0


def log_returns(close: FloatArray) -> FloatArray:
    """Changes of log price: prices (n,) -> (n - 1,); finite for any positive prices."""
    return np.diff(np.log(close))


# --- averages and channels ---------------------------------------------------------------------------------------


def sma(values: FloatArray, period: int) -> FloatArray:
    """Simple moving average, (n,) -> (n - period + 1,)."""
    _require_length(values, period, period, "sma")
    return np.asarray(sliding_window_view(values, period).mean(axis=1))


def ema(values: FloatArray, period: int) -> FloatArray:
    """Exponential moving average with weight 2 / (period + 1), begun at the first value, (n,) -> (n,)."""
    _require_length(values, 1, period, "ema")
    return _smoothed(values, 2.0 / (period + 1.0))


def _smoothed(values: FloatArray, weight: float) -> FloatArray:
    smoothed = accumulate(values.tolist(), lambda previous, value: previous + weight * (value - previous))
    return np.fromiter(smoothed, dtype=np.float64, count=len(values))


def _wilder(values: FloatArray, period: int) -> FloatArray:
    """Wilder's smoothing: the mean of the first `period` values, then weight 1 / period; (n,) -> (n - period + 1,)."""
    seeded = np.concatenate(([values[:period].mean()], values[period:]))
    return _smoothed(seeded, 1.0 / period)


def bollinger_z(values: FloatArray, period: int = 20) -> FloatArray:
    """Distance from the moving average in population standard deviations, log prices (n,) -> (n - period + 1,).

    The bands stand at +-2. Source: Bollinger, Bollinger on Bollinger Bands (2001).
    """
    _require_length(values, period, period, "bollinger_z")
    # Anchoring each window at its newest value makes a constant window exactly zero, not rounding noise.
    windows = sliding_window_view(values, period)
    behind = windows[:, -1:] - windows
    return np.asarray(behind.mean(axis=1) / np.maximum(behind.std(axis=1), RESOLUTION))


def donchian_channel(high: FloatArray, low: FloatArray, period: int = 20) -> tuple[FloatArray, FloatArray]:
    """Highest high and lowest low of the last `period` bars, (n,) -> two of (n - period + 1,).

    Source: Donchian, Commodities: High Finance in Copper (Financial Analysts Journal 16/6, 1960).
    """
    _require_length(high, period, period, "donchian_channel")
    return sliding_window_view(high, period).max(axis=1), sliding_window_view(low, period).min(axis=1)


def donchian_position(value: float, upper: float, lower: float) -> float:
    """Where a log price stands in its channel: -1 at `lower`, +1 at `upper`, beyond outside; 0 in a flat channel."""
    return standardised(float(value) - (float(upper) + float(lower)) / 2.0, (float(upper) - float(lower)) / 2.0)


# --- range and volatility ----------------------------------------------------------------------------------------


def true_range(high: FloatArray, low: FloatArray, close: FloatArray) -> FloatArray:
    """The bar's range, widened to the close before it, (n,) -> (n,); the first bar has only its own range.

    Source: Wilder, New Concepts in Technical Trading Systems (1978).
    """
    before = np.concatenate((np.clip(close[:1], low[:1], high[:1]), close[:-1]))
    return np.asarray(np.maximum(high, before) - np.minimum(low, before))


def average_true_range(high: FloatArray, low: FloatArray, close: FloatArray, period: int = 14) -> FloatArray:
    """Wilder's smoothed true range, (n,) -> (n - period + 1,), in the unit of its input: prices or log prices.

    Source: Wilder, New Concepts in Technical Trading Systems (1978).
    """
    _require_length(close, period, period, "average_true_range")
    return _wilder(true_range(high, low, close), period)


def rsi(values: FloatArray, period: int = 14) -> FloatArray:
    """Relative strength index in [0, 100], prices or log prices (n,) -> (n - period,); 50 where nothing moved.

    Source: Wilder, New Concepts in Technical Trading Systems (1978).
    """
    _require_length(values, period + 1, period, "rsi")
    change = np.diff(values)
    gain = _wilder(np.maximum(change, 0.0), period)
    total = gain + _wilder(np.maximum(-change, 0.0), period)
    moved = total > 0.0
    return np.asarray(np.where(moved, 100.0 * gain / np.where(moved, total, 1.0), 50.0))


def ewma_volatility(returns: FloatArray, decay: float = 0.94) -> float:
    """Exponentially weighted root mean square of returns (n,), newest weighted most; per bar.

    Source: J.P. Morgan/Reuters, RiskMetrics Technical Document (1996), with its daily decay of 0.94.
    """
    _require_length(returns, 1, 1, "ewma_volatility")
    weights = decay ** np.arange(len(returns) - 1, -1, -1, dtype=np.float64)
    return math.sqrt(float(weights @ np.square(returns)) / float(weights.sum()))


def parkinson_volatility(high: FloatArray, low: FloatArray) -> float:
    """Volatility per bar from the prices' ranges, highs and lows (n,).

    Source: Parkinson, The Extreme Value Method for Estimating the Variance of the Rate of Return (1980).
    """
    _require_length(high, 1, 1, "parkinson_volatility")
    ranges = np.log(high) - np.log(low)
    return math.sqrt(float(np.square(ranges).mean()) / (4.0 * math.log(2.0)))


# --- trend -------------------------------------------------------------------------------------------------------


def efficiency_ratio(values: FloatArray) -> float:
    """Net move / path length of log prices (n,), in [0, 1]: 1 for a straight line, about n ** -0.5 for a random walk.

    Source: Kaufman, Smarter Trading (1995).
    """
    _require_length(values, 2, 1, "efficiency_ratio")
    path = float(np.abs(np.diff(values)).sum())
    return min(1.0, standardised(abs(float(values[-1]) - float(values[0])), path))


def trend_t(values: FloatArray) -> float:
    """t-statistic of the slope of log prices (n,) over time, by least squares.

    Prices are no independent draws, so that even a random walk scores high: read it as a rank, not as a probability.
    """
    _require_length(values, 3, 1, "trend_t")
    time = np.arange(len(values), dtype=np.float64)
    time -= time.mean()
    anchored = values - values[-1]
    anchored -= anchored.mean()
    squares = float(time @ time)
    slope = float(time @ anchored) / squares
    residual = anchored - slope * time
    return standardised(slope * math.sqrt(squares), math.sqrt(float(residual @ residual) / (len(values) - 2)))


# --- volume ------------------------------------------------------------------------------------------------------


def on_balance_volume(close: FloatArray, volume: FloatArray) -> FloatArray:
    """Running sum of volume, signed by the price change of its bar, begun at 0; (n,) -> (n,).

    Source: Granville, New Key to Stock Market Profits (1963).
    """
    signed = np.sign(np.diff(close)) * volume[1:]
    return np.concatenate(([0.0], np.cumsum(signed)))


def signed_flow(close: FloatArray, volume: FloatArray) -> float:
    """Change of on-balance volume over (n,) bars, in standard deviations of what random price directions give.

    0 where there is no volume; never beyond +-sqrt(n).
    """
    busiest = float(volume[1:].max()) if len(volume) > 1 else 0.0
    if busiest <= 0.0:
        return 0.0
    shares = volume / busiest
    return float(on_balance_volume(close, shares)[-1]) / math.sqrt(float(np.square(shares[1:]).sum()))


def relative_traded_value(close: FloatArray, volume: FloatArray) -> FloatArray:
    """Price times volume as a share of the window's greatest, (n,) -> (n,) in [0, 1]; 0 where nothing was traded.

    Shares below 1e-12 count as 1e-12, which bounds what a single dust trade can do to an average.
    """
    traded = volume > 0.0
    if not traded.any():
        return np.zeros_like(close)
    logs = np.log(close) + np.log(np.where(traded, volume, 1.0))
    logs -= logs[traded].max()
    return np.asarray(np.where(traded, np.exp(np.clip(logs, math.log(1e-12), 0.0)), 0.0))


def amihud_illiquidity(returns: FloatArray, traded_value: FloatArray) -> float:
    """Mean absolute return per unit of traded value over the bars (n,) that traded; 0.0 if none did.

    Source: Amihud, Illiquidity and stock returns (Journal of Financial Markets 5, 2002).
    """
    traded = traded_value > 0.0
    if not traded.any():
        return 0.0
    return float((np.abs(returns[traded]) / traded_value[traded]).mean())


# --- the feature vector ------------------------------------------------------------------------------------------

_HORIZONS = (1, 5, 20, 60)

FEATURE_NAMES: tuple[str, ...] = (
    *(f"return_{horizon}" for horizon in _HORIZONS),  # log return / (volatility * sqrt(horizon))
    "volatility_annual",  # EWMA volatility, annualised
    "volatility_ratio",  # log(EWMA volatility / volatility of the window)
    "range_ratio",  # log(Parkinson volatility of 20 bars / of the window)
    "atr_ratio",  # ATR(14) of log prices: about ATR / price
    "rsi",  # (RSI(14) - 50) / 50
    "bollinger_z",  # z-score over 20 bars
    "donchian_20",  # place in the channel of the last 20 bars, in [-1, 1]
    "donchian_55",
    "average_gap",  # log(close / SMA(50)) / (volatility * sqrt(50 / 3))
    "trend_t",  # sign(t) * log(1 + |t|) of the slope over 60 bars
    "efficiency",  # Kaufman's ratio over 60 bars
    "body",  # (close - open) / (high - low) of the newest bar
    "volume_ratio",  # log(newest volume / mean of 20); 0 without a volume column, as the two below
    "signed_flow",  # on-balance volume over 20 bars, standardised
    "illiquidity_ratio",  # log(Amihud of 20 bars / of the window)
)
"""What each entry of `feature_vector` is, in order."""

_LIMIT = 5.0


def feature_vector(view: MarketView) -> FloatArray:
    """Return the features named in FEATURE_NAMES, shape (19,), float64: every entry finite and in [-5, 5].

    Only the newest MIN_BARS bars are read, so the vector does not depend on how long a window the caller keeps.

    Raises:
        InvalidValue: the view has fewer than MIN_BARS bars.
    """
    data = columns(view, last=MIN_BARS)
    log_close = np.log(data.close)
    returns = np.diff(log_close)
    volatility = ewma_volatility(returns)
    values = [
        *(_momentum(log_close, horizon, volatility) for horizon in _HORIZONS),
        volatility * math.sqrt(bars_per_year(view.period_ns, view.calendar)),
        log_ratio(volatility, math.sqrt(float(np.square(returns).mean()))),
        log_ratio(parkinson_volatility(data.high[-20:], data.low[-20:]), parkinson_volatility(data.high, data.low)),
        *_price_features(data, log_close, volatility),
        *_volume_features(data, returns),
    ]
    return np.clip(np.array(values, dtype=np.float64), -_LIMIT, _LIMIT)


def _momentum(log_close: FloatArray, horizon: int, volatility: float) -> float:
    return standardised(float(log_close[-1]) - float(log_close[-1 - horizon]), volatility * math.sqrt(horizon))


def _price_features(data: Columns, log_close: FloatArray, volatility: float) -> Sequence[float]:
    log_high, log_low = np.log(data.high), np.log(data.low)
    newest = float(log_close[-1])
    slope_t = trend_t(log_close[-60:])
    body = standardised(newest - math.log(float(data.open[-1])), float(log_high[-1] - log_low[-1]))
    return (
        float(average_true_range(log_high, log_low, log_close)[-1]),
        float(rsi(log_close)[-1]) / 50.0 - 1.0,
        float(bollinger_z(log_close[-20:])[-1]),
        *(_place(newest, log_high[-period:], log_low[-period:]) for period in (20, 55)),
        standardised(newest - float(log_close[-50:].mean()), volatility * math.sqrt(50.0 / 3.0)),
        math.copysign(math.log1p(abs(slope_t)), slope_t),
        efficiency_ratio(log_close[-61:]),
        min(1.0, max(-1.0, body)),
    )


def _place(newest: float, log_high: FloatArray, log_low: FloatArray) -> float:
    return min(1.0, max(-1.0, donchian_position(newest, float(log_high.max()), float(log_low.min()))))


def _volume_features(data: Columns, returns: FloatArray) -> Sequence[float]:
    if not data.volume.any():
        return (0.0, 0.0, 0.0)
    shares = data.volume / data.volume.max()
    value = relative_traded_value(data.close, data.volume)[1:]
    return (
        log_ratio(float(shares[-1]), float(shares[-20:].mean())),
        signed_flow(data.close[-21:], data.volume[-21:]),
        log_ratio(amihud_illiquidity(returns[-20:], value[-20:]), amihud_illiquidity(returns, value)),
    )
