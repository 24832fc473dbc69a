"""What an order meets: the market it goes into and the account it is for, as risk wants to have them. Pure."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from agents import rules
from agents.clock import NANOSECONDS
from agents.conditions import average_volume, bar_volatility
from agents.domain import Check, MarketView, OrderIntent, Quote
from agents.errors import InvalidValue
from agents.risk import (
    NO_REFERENCE,
    Holding,
    Proposal,
    RiskLimits,
    Throttled,
    day_start_ns,
    pre_trade_checks,
    throttle_size,
)
from checkpoints.ledger import Account, Look

__all__ = ["Mark", "Scene", "review", "throttled"]

_MINUTE_NS = 60 * NANOSECONDS
_BPS = Decimal(10_000)


@dataclass(frozen=True, slots=True)
class Mark:
    """What a unit of another symbol of the account is worth now, and was when the day began, where that is known."""

    price: Decimal
    opening: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """The market that an order goes into: what its decision saw, and what is known besides.

    `quote`: the newest of the symbol, None where there is none. `now_ns`: when the order goes; None for a decision on
    history, which goes at its own time, and is asked for the hours of its bars: others for those of their minute.
    `marks`: of the account's other symbols; one that is not among them counts at the price of its last fill.

    Raises:
        InvalidValue: the quote is that of another symbol, or `now_ns` is no time.
    """

    view: MarketView
    quote: Quote | None = None
    now_ns: int | None = None
    marks: Mapping[str, Mark] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.now_ns is not None:
            rules.whole("now_ns", self.now_ns, 0)
            rules.require(self.now_ns < 2**63, f"now_ns is {self.now_ns}, which no database can keep")
        if self.quote is not None and self.quote.symbol != self.view.symbol:
            raise InvalidValue(
                f"a quote of {self.quote.symbol} came with an order in {self.view.symbol}; nothing was ordered; give"
                " the quote of its own symbol"
            )

    @property
    def time_ns(self) -> int:
        """When the order goes."""
        return self.view.as_of_ns if self.now_ns is None else self.now_ns

    @property
    def period_ns(self) -> int:
        """The bars that its hours are asked for."""
        return self.view.period_ns if self.now_ns is None else min(self.view.period_ns, _MINUTE_NS)

    @property
    def price(self) -> Decimal:
        """What a unit is worth now."""
        return self.view.last_price if self.quote is None else (self.quote.bid + self.quote.ask) / 2

    @property
    def day_ns(self) -> int:
        """When the day of the symbol's market began."""
        return day_start_ns(self.view.calendar, self.time_ns, self.period_ns)

    def look(self, limits: RiskLimits) -> Look:
        """How far back a review of the order looks."""
        recent_s = max(limits.rate_window_s, limits.duplicate_window_s)
        return Look(self.day_ns, min(round(recent_s * NANOSECONDS), _LOOK_NS_MAX))

    def worth(self) -> dict[str, Decimal]:
        """Prices by symbol, as far as they are known."""
        return {**{symbol: mark.price for symbol, mark in self.marks.items()}, self.view.symbol: self.price}

    def opening(self) -> dict[str, Decimal]:
        """The last prices of before the day, as far as they are known."""
        known = {symbol: mark.opening for symbol, mark in self.marks.items() if mark.opening is not None}
        view = self.view
        before = bisect_left(view.close_ns, self.day_ns)
        return {**known, view.symbol: Decimal(str(view.close[before - 1]))} if before else known


_LOOK_NS_MAX = 2**62
"""Distances of time that a database can add to a time; a century and a half is for ever."""


def throttled(quantity: Decimal, held: Decimal, sign: int, scene: Scene, limits: RiskLimits) -> Throttled:
    """What the market can take of a quantity; `held`: the position, of which the order may close some."""
    spread = None if scene.quote is None else (scene.quote.ask - scene.quote.bid) / scene.price * _BPS
    return throttle_size(
        quantity,
        limits,
        closing=_closing(quantity, held, sign),
        average_volume=average_volume(scene.view),
        volatility=bar_volatility(scene.view),
        spread_bps=None if spread is None else float(spread),
    )


def _closing(quantity: Decimal, held: Decimal, sign: int) -> Decimal:
    """How much of a quantity closes a position; nothing of what is no number, which the throttle refuses."""
    if not (_is_number(quantity) and _is_number(held) and held * sign < 0):
        return Decimal(0)
    return min(quantity, held.copy_abs())


def _is_number(value: Any) -> bool:
    return isinstance(value, Decimal) and value.is_finite()


def review(intent: OrderIntent, asked: Decimal, scene: Scene, books: Account, limits: RiskLimits) -> tuple[Check, ...]:
    """Hold an order against all checks, at the size that was asked for."""
    return pre_trade_checks(_proposal(intent, asked, scene, books), limits)


def _proposal(intent: OrderIntent, asked: Decimal, scene: Scene, books: Account) -> Proposal:
    marks = {**books.prices, **scene.worth()}
    equity = books.portfolio.equity(marks)
    reference, reference_ns = _reference(intent, scene)
    return Proposal(
        symbol=intent.symbol,
        side=intent.side,
        quantity=asked,
        price=intent.reference_price,
        held=books.portfolio.position(intent.symbol).quantity,
        equity=equity,
        day_profit=equity - books.opening.equity(scene.opening()),
        calendar=scene.view.calendar,
        time_ns=scene.time_ns,
        period_ns=scene.period_ns,
        limit_price=intent.limit_price,
        stop_price=intent.stop_price,
        orders=books.orders,
        others=tuple(
            Holding(held.symbol, held.quantity, marks[held.symbol])
            for held in books.portfolio.positions
            if held.symbol != intent.symbol
        ),
        peak_equity=books.peak,
        rejects_in_row=books.rejects_in_row,
        reference_price=reference,
        reference_ns=reference_ns,
        trading=books.trading.state,
        trading_why=books.trading.why,
    )


def _reference(intent: OrderIntent, scene: Scene) -> tuple[Decimal | str, int]:
    """A quote is the market's own price; without one, the newest bar's is, for an order that has a price of its own."""
    if scene.quote is not None:
        return scene.price, scene.quote.time_ns
    if intent.limit_price is None:
        return NO_REFERENCE, 0
    return scene.view.last_price, scene.view.as_of_ns
