"""The numbers that orders are held against."""

import math
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any

from agents.errors import ConfigError
from agents.risk.number import exact, number
from agents.rules import check_symbol

__all__ = ["Limit", "RiskLimits", "explain_limits"]


@dataclass(frozen=True, slots=True)
class _Rule:
    """How a limit is read: its unit, one sentence, and the largest value that still holds anything."""

    unit: str
    meaning: str
    at_most: float = math.inf


def _limit(default: Any, unit: str, meaning: str, at_most: float = math.inf) -> Any:
    return field(default=default, metadata={"rule": _Rule(unit, meaning, at_most)})


_EQUITY, _MONEY, _UNITS = "share of equity", "currency", "units"


@dataclass(frozen=True, slots=True)
class RiskLimits:
    """Limits of one account; each is the largest value that passes. A share is a part of one: 0.03 is 3 %.

    Each field carries its unit and its meaning, which `explain_limits` gives; docs/risk.md has the reasons.

    Raises:
        ConfigError: a limit is not a finite number above 0, or so large that it would hold nothing.
        InvalidValue: a restricted symbol is none.
    """

    position_notional_max: float = _limit(250_000.0, _MONEY, "worth of one symbol's position if every open order fills")
    order_notional_max: float = _limit(100_000.0, _MONEY, "worth of one order")
    daily_loss_share_max: float = _limit(0.03, _EQUITY, "loss since the day of the order's market began", 1.0)
    concentration_share_max: float = _limit(
        0.30, _EQUITY, "worth of one symbol's position if every open order fills", 10
    )
    price_collar_share_max: float = _limit(0.05, "share of the reference", "distance of an order's price from it", 1.0)
    reference_age_max_s: float = _limit(60.0, "seconds", "age of the price that an order's price is held against")
    duplicate_window_s: float = _limit(
        5.0, "seconds", "time in which the same symbol, side and quantity goes only once"
    )
    rate_window_s: float = _limit(60.0, "seconds", "time over which orders are counted and their worth is summed")
    rate_count_max: int = _limit(60, "orders", "orders sent within the rate window")
    rate_notional_max: float = _limit(1_000_000.0, _MONEY, "worth of the orders sent within the rate window")
    gross_share_max: float = _limit(1.0, _EQUITY, "worth of all positions together if every open order fills", 10.0)
    drawdown_share_max: float = _limit(0.10, "share of the peak", "fall of equity from its highest value", 1.0)
    reject_streak_max: int = _limit(5, "orders", "orders that the broker rejected one after another")
    restricted: tuple[str, ...] = _limit((), "symbols", "symbols in which nothing is traded, in any case of letters")
    participation_max: float = _limit(0.10, "share of volume", "order size by the average volume of a bar", 1.0)
    spread_bps_max: float = _limit(20.0, "basis points", "spread above which sizes shrink in proportion", 10_000.0)
    volatility_max: float = _limit(0.04, "share of the price", "one-bar volatility above which sizes shrink alike", 1.0)
    quantity_max: float | None = _limit(None, _UNITS, "absolute cap of an order's size; none where it is left out")
    quantity_step: Decimal = _limit(Decimal("0.0001"), _UNITS, "sizes are whole multiples of it")  # noqa: RUF009

    def __post_init__(self) -> None:
        for each in fields(self):
            object.__setattr__(self, each.name, _checked(each.name, getattr(self, each.name)))
        if self.quantity_max is not None and self.quantity_max < self.quantity_step:
            raise ConfigError(
                f"the risk limit quantity_max is {self.quantity_max}, below one quantity_step of {self.quantity_step};"
                " nothing could ever be ordered; set it to a step or more"
            )


_DEFAULTS = {each.name: each.default for each in fields(RiskLimits)}
_RULES: dict[str, _Rule] = {each.name: each.metadata["rule"] for each in fields(RiskLimits)}


def _checked(name: str, value: Any) -> Any:
    """The limit in its own type, so that the checks meet nothing else."""
    if name == "restricted":
        return _symbols(value)
    if name == "quantity_max" and value is None:
        return None
    found, at_most = number(value), _RULES[name].at_most
    if not 0 < found <= at_most:
        bounds = "above 0" if at_most == math.inf else f"above 0, at most {at_most:g}"
        share = "; a share of 30 % is written 0.3" if _RULES[name].unit.startswith("share") else ""
        raise ConfigError(
            f"the risk limit {name} is {_shown(value)}; no order can be checked against it;"
            f" set a number {bounds}{share}"
        )
    if isinstance(_DEFAULTS[name], int):
        return _whole(name, value)
    return exact(value) if isinstance(_DEFAULTS[name], Decimal) else found


def _shown(value: Any) -> str:
    """A whole number of thousands of digits cannot even be printed."""
    return f"{value!r:.60}" if not isinstance(value, int) or abs(value) < 10**60 else "beyond all measure"


def _whole(name: str, value: Any) -> int:
    if value != int(value):
        raise ConfigError(f"the risk limit {name} is {value}; orders are counted in whole numbers; set one of them")
    return int(value)


def _symbols(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple | set | frozenset):
        raise ConfigError(
            f"the risk limit restricted is {_shown(value)}; whom it restricts cannot be told; give a list of symbols"
        )
    return tuple(sorted({check_symbol(each).upper() for each in value}))


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit for people: `value` None where there is none; `unit` and one sentence on what it bounds."""

    name: str
    value: float | int | Decimal | tuple[str, ...] | None
    unit: str
    meaning: str


def explain_limits(limits: RiskLimits) -> tuple[Limit, ...]:
    """Every limit with its unit and meaning, in the order in which the checks ask for them."""
    return tuple(Limit(name, getattr(limits, name), rule.unit, rule.meaning) for name, rule in _RULES.items())
