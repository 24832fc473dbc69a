"""How a measurement becomes a stance and a confidence: the few rules that all rule-based analysts share."""

import math
from collections.abc import Sequence

from agents.domain import Finding
from agents.errors import InvalidValue

__all__ = ["abstain", "check_periods", "clip_unit", "conviction", "mean"]

_DOUBT = 0.25


def mean(signals: Sequence[float]) -> float:
    """The plain average of at least one signal, correctly rounded."""
    return math.fsum(signals) / len(signals)


def clip_unit(value: float) -> float:
    """Cut `value` to [-1, 1]."""
    return min(1.0, max(-1.0, value))


def conviction(signals: Sequence[float]) -> float:
    """How far several signals in [-1, 1] say the same, and say it loudly: in [0, 0.8].

    |sum| / sum of |signal| is 1 where all point one way and 0 where they cancel; a doubt of a quarter for each signal
    is added below, so that faint signals convince little, silence not at all, and nothing wholly.
    """
    loudness = math.fsum(abs(signal) for signal in signals)
    return abs(math.fsum(signals)) / (loudness + _DOUBT * len(signals))


def abstain(name: str, reason: str) -> Finding:
    """A finding without weight: stance 0 with confidence 0, and the reason why there is nothing to say."""
    return Finding(name, 0.0, 0.0, reason)


def check_periods(name: str, periods: Sequence[int]) -> None:
    """Raise InvalidValue unless there is at least one period, and every one is 1 bar or longer."""
    if not periods or min(periods) < 1:
        raise InvalidValue(
            f"{name} got periods {tuple(periods)}; it cannot judge with them; give one or more, each at least 1 bar"
        )
