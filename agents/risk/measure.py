"""From a proposal to what its checks compare: floats, with NaN for whatever is no number or rests on one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Context, Decimal
from typing import Any, NamedTuple

from agents.domain import Side
from agents.errors import InvalidValue
from agents.risk.limits import RiskLimits
from agents.risk.number import exact, number
from agents.risk.proposal import NO_REFERENCE, Holding, OwnOrder, Proposal
from agents.rules import check_symbol

__all__ = ["Measures", "measure"]

_S_NS = 1_000_000_000
_DOWN = Context(prec=60, rounding=ROUND_DOWN, traps=[])


@dataclass(slots=True)
class Measures:
    """A proposal in numbers. `wrong`: names of what cannot be traded with; `symbol` "" where it is none.

    `worth` of a unit, at the dearest of the price seen, the limit and the stop price; `off` the order's price from the
    reference, or from its own stop price, as a share of it, None without one, and `reference_age_s`; `after` the signed
    position if this order and every open one of its side fill; `closable` how much of the position it can close,
    whatever becomes of those; `reducing` whether it only does that; `elsewhere` worth of the positions in other symbols
    at their worst; `twins` like it within the window, `sent` within the other and what they are worth, `crossed`
    resting orders that it meets.
    """

    wrong: list[str]
    symbol: str
    quantity: float
    exact_quantity: Decimal
    price: float
    limit_price: float | None
    stop_price: float | None
    worth: float
    off: float | None
    reference_age_s: float
    after: float
    closable: Decimal
    reducing: bool
    equity: float
    day_profit: float
    peak_equity: float
    rejects_in_row: float
    elsewhere: float
    twins: float
    sent: float
    sent_worth: float
    crossed: float


def measure(proposal: Proposal, limits: RiskLimits) -> Measures:
    """Never raises."""
    sign = proposal.side.sign if isinstance(proposal.side, Side) else math.nan
    quantity, price, held = number(proposal.quantity), number(proposal.price), number(proposal.held)
    limit_price = None if proposal.limit_price is None else number(proposal.limit_price)
    stop_price = None if proposal.stop_price is None else number(proposal.stop_price)
    own = _own(proposal.orders)
    reach = _reach(price, limit_price, stop_price, sign * limits.price_collar_share_max)
    book = _tally(proposal, limits, own, reach) if own is not None else _UNREADABLE
    closable = _closable(proposal, held * sign, own)
    wanted = exact(proposal.quantity)
    age_s = _reference_age_s(proposal)
    measures = Measures(
        wrong=[],
        symbol=_symbol(proposal.symbol),
        quantity=quantity,
        exact_quantity=wanted,
        price=price,
        limit_price=limit_price,
        stop_price=stop_price,
        worth=_dearest(price, limit_price, stop_price),
        off=_off(proposal, price, limit_price, stop_price, sign),
        reference_age_s=age_s,
        after=held + sign * (book.same_side + quantity),
        closable=closable,
        reducing=quantity > 0 and wanted <= closable,
        equity=number(proposal.equity),
        day_profit=number(proposal.day_profit),
        peak_equity=number(proposal.peak_equity),
        rejects_in_row=number(proposal.rejects_in_row),
        elsewhere=_elsewhere(proposal.symbol, proposal.others, own),
        twins=book.twins,
        sent=book.sent,
        sent_worth=book.sent_worth,
        crossed=book.crossed,
    )
    measures.wrong = _wrong(proposal, measures, held, readable=own is not None)
    return measures


def _symbol(value: Any) -> str:
    try:
        return check_symbol(value) if isinstance(value, str) else ""
    except InvalidValue:
        return ""


def _dearest(price: float, *others: float | None) -> float:
    """Of those that there are; NaN where one of them is no number."""
    known = [price, *(other for other in others if other is not None)]
    return math.nan if any(map(math.isnan, known)) else max(known)


def _reach(price: float, limit_price: float | None, stop_price: float | None, slip: float) -> float:
    """The worst price at which the order may execute; `slip` of a market order, as a signed share."""
    if limit_price is not None:
        return limit_price
    worst = price if stop_price is None or (stop_price - price) * slip < 0 else stop_price
    return worst * (1 + slip)


def _off(
    proposal: Proposal, price: float, limit_price: float | None, stop_price: float | None, sign: float
) -> float | None:
    """A limit price is off only on the side that costs; the price of a market order on both: its decision is outdated.

    An order with a stop price waits until the market is there, and so it is that price which its limit is held against.
    None without a reference, NaN with one that cannot be read.
    """
    reference = stop_price if _is_without_reference(proposal) else number(proposal.reference_price)
    if reference is None or not reference > 0:
        return None if reference is None else math.nan
    if limit_price is not None:
        return _beyond(limit_price, reference if stop_price is None else stop_price, sign)
    return abs(price - reference) / reference if stop_price is None else 0.0


def _beyond(limit_price: float, reference: float, sign: float) -> float:
    """How far a limit price costs more than the reference, as a share of it."""
    if not reference > 0:
        return math.nan
    off = (limit_price - reference) / reference
    return 0.0 if off * sign < 0 else off * sign


def _is_without_reference(proposal: Proposal) -> bool:
    return isinstance(proposal.reference_price, str) and proposal.reference_price == NO_REFERENCE


def _reference_age_s(proposal: Proposal) -> float:
    """How far the reference is from now: one from the future is as doubtful as an old one. NaN if it cannot be told."""
    if _is_without_reference(proposal):
        return 0.0
    if type(proposal.reference_ns) is not int or type(proposal.time_ns) is not int:
        return math.nan
    return number(abs(proposal.time_ns - proposal.reference_ns)) / _S_NS


def _wrong(proposal: Proposal, measures: Measures, held: float, *, readable: bool) -> list[str]:
    """Equity that is used up is no reason to keep a position: only an order that opens one needs it above 0."""
    equity = measures.equity
    fits = {
        "symbol": bool(measures.symbol),
        "side": isinstance(proposal.side, Side),
        "quantity": measures.quantity > 0,
        "price": measures.price > 0,
        "limit_price": measures.limit_price is None or measures.limit_price > 0,
        "stop_price": measures.stop_price is None or measures.stop_price > 0,
        "equity": equity > 0 or (measures.reducing and equity <= 0),
        "held": not math.isnan(held),
        "day_profit": not math.isnan(measures.day_profit),
        "time_ns": type(proposal.time_ns) is int,
        "period_ns": type(proposal.period_ns) is int and proposal.period_ns > 0,
        "orders": readable,
        "others": not math.isnan(measures.elsewhere),
        "peak_equity": measures.peak_equity >= 0,
        "rejects_in_row": measures.rejects_in_row >= 0,
    }
    return [name for name, fit in fits.items() if not fit]


class _Own(NamedTuple):
    """An `OwnOrder` of which every number is one."""

    symbol: str
    sign: int
    quantity: float
    price: float
    sent_ns: int
    open: float
    limit_price: float | None
    exact_open: Decimal
    asked: float
    same_decision: bool


def _own(orders: Any) -> list[_Own] | None:
    """None where one of them cannot be read: what cannot be counted cannot be bounded."""
    own: list[_Own] = []
    for order in orders if isinstance(orders, tuple | list) else (None,):
        readable = _readable(order)
        if readable is None:
            return None
        own.append(readable)
    return own


def _readable(order: Any) -> _Own | None:
    if not (isinstance(order, OwnOrder) and isinstance(order.side, Side) and isinstance(order.symbol, str)):
        return None
    quantity, price, still = number(order.quantity), number(order.price), number(order.open)
    limit_price = None if order.limit_price is None else number(order.limit_price)
    asked = quantity if order.asked is None else number(order.asked)
    if not (quantity > 0 and price > 0 and still >= 0 and asked > 0 and (limit_price is None or limit_price > 0)):
        return None
    if type(order.sent_ns) is not int:
        return None
    left = exact(order.open) if still else Decimal(0)
    return _Own(
        order.symbol,
        order.side.sign,
        quantity,
        price,
        order.sent_ns,
        still,
        limit_price,
        left,
        asked,
        order.same_decision is True,
    )


class _Book(NamedTuple):
    """What the account's own orders come to."""

    same_side: float
    twins: float
    sent: float
    sent_worth: float
    crossed: float


_UNREADABLE = _Book(math.nan, math.nan, math.nan, math.nan, math.nan)


def _tally(proposal: Proposal, limits: RiskLimits, own: Sequence[_Own], reach: float) -> _Book:
    """`reach`: the worst price at which the order may execute."""
    if not own:
        return _Book(0.0, 0.0, 0.0, 0.0, 0.0)
    if type(proposal.time_ns) is not int or not isinstance(proposal.side, Side):
        return _UNREADABLE
    sign = proposal.side.sign
    wanted = (proposal.symbol, sign, number(proposal.quantity))
    ours = [each for each in own if each.symbol == proposal.symbol]
    # A clock that was set back puts what was just sent into the future: it was sent lately all the same.
    aged = [(each, abs(proposal.time_ns - each.sent_ns)) for each in own]
    recent = [each for each, age in aged if age < limits.duplicate_window_s * _S_NS]
    twins = [each for each in recent if (each.symbol, each.sign, each.asked) == wanted and not each.same_decision]
    sent = [each for each, age in aged if age < limits.rate_window_s * _S_NS]
    return _Book(
        same_side=sum(each.open for each in ours if each.sign == sign),
        twins=float(len(twins)),
        sent=float(len(sent)),
        sent_worth=sum(each.quantity * each.price for each in sent),
        crossed=float(sum(_meets(each, sign, reach) for each in ours)),
    )


def _meets(resting: _Own, sign: int, reach: float) -> bool:
    """Whether an order could execute against one of the account's own that rests on the other side."""
    if resting.sign == sign or not resting.open or resting.limit_price is None:
        return False
    return not (reach - resting.limit_price) * sign < 0


def _closable(proposal: Proposal, along: float, own: Sequence[_Own] | None) -> Decimal:
    """`along`: the position in the direction of the order; below 0 there is something to close."""
    if own is None or not along < 0:
        return Decimal(0)
    left = exact(proposal.held).copy_abs()
    for each in own:
        if each.open and each.symbol == proposal.symbol and each.sign == proposal.side.sign:
            left = _DOWN.subtract(left, each.exact_open)
    return max(left, Decimal(0))


def _elsewhere(here: Any, others: Any, own: Sequence[_Own] | None) -> float:
    """For each other symbol the larger of the position with all buys and with all sells filled, at its price."""
    if own is None or not isinstance(others, tuple | list):
        return math.nan
    worst: dict[str, list[float]] = {}
    for each in others:
        if not (isinstance(each, Holding) and isinstance(each.symbol, str)):
            return math.nan
        quantity, price = number(each.quantity), number(each.price)
        if math.isnan(quantity) or not price > 0:
            return math.nan
        entry = worst.setdefault(each.symbol, [0.0, 0.0, price])
        entry[0] += quantity
        entry[1] += quantity
    for order in own:
        if order.open:
            entry = worst.setdefault(order.symbol, [0.0, 0.0, order.price])
            entry[order.sign < 0] += order.sign * order.open
    sides = [(max(abs(long), abs(short)), price, symbol) for symbol, (long, short, price) in worst.items()]
    return sum(units * price for units, price, symbol in sides if symbol != here)
