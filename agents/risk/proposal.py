"""What is proposed, and all that it meets: plain values, deliberately unchecked, since the checks judge them."""

from dataclasses import dataclass
from typing import Final

from agents.domain import Side, TradingState
from agents.risk.number import Number

__all__ = ["NO_REFERENCE", "Holding", "OwnOrder", "Proposal"]

NO_REFERENCE: Final = "no reference"
"""The caller has no second price to hold the order's price against. A price that it lost is None or NaN instead."""


@dataclass(frozen=True, slots=True)
class OwnOrder:
    """An order of the same account, that is open or was sent lately. Orders that were DENIED were never sent.

    `quantity` as it was sent, in units, and `open` what may still fill of it; `price` that a unit was valued at;
    `sent_ns`; `limit_price` where it can rest in the book, None for a market order; `asked` the quantity before the
    throttle, None where that is not another one; `same_decision`: another leg of the decision that proposes.
    """

    symbol: str
    side: Side
    quantity: Number
    price: Number
    sent_ns: int
    open: Number = 0
    limit_price: Number | None = None
    asked: Number | None = None
    same_decision: bool = False


@dataclass(frozen=True, slots=True)
class Holding:
    """A position in another symbol: signed units, and the price that a unit is valued at."""

    symbol: str
    quantity: Number
    price: Number


@dataclass(frozen=True, slots=True)
class Proposal:
    """An order that is proposed. What follows the first ten has defaults that say: there is nothing of the kind.

    `quantity` in units; `price` that the decision saw, in the account's currency; `held` the signed position; `equity`
    of the account; `day_profit` since the day began (a loss is negative); `time_ns` when the order would go, and
    `period_ns` from bar to bar of the decision.

    `limit_price` and `stop_price` the order's own, None where it has none; `orders` of the account that are open or
    within the windows of the limits, this one not among them; `others` its positions in other symbols; `peak_equity`
    the highest so far; `rejects_in_row` of the broker since something was accepted last, or trading was activated;
    `reference_price` of the market at `reference_ns`; `trading` and why it is so.
    """

    symbol: str
    side: Side
    quantity: Number
    price: Number
    held: Number
    equity: Number
    day_profit: Number
    calendar: str
    time_ns: int
    period_ns: int
    limit_price: Number | None = None
    stop_price: Number | None = None
    orders: tuple[OwnOrder, ...] = ()
    others: tuple[Holding, ...] = ()
    peak_equity: Number = 0
    rejects_in_row: int = 0
    reference_price: Number | str = NO_REFERENCE
    reference_ns: int = 0
    trading: TradingState = TradingState.ACTIVE
    trading_why: str = ""
