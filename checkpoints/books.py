"""What an account has: folds over its fills, and what a review of an order sees of it.

A fold over every fill at every order would cost more with each of them. So what was folded is kept, and the next look
adds what has come since: numbers of fills only grow, and a fill is never changed. What is kept was read in a
transaction that is committed: one that is undone takes its fills along.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from operator import index
from typing import Any, NamedTuple

from sqlalchemy import Column, Connection, Integer, Table, bindparam, func, insert, literal_column, select

from agents.domain import Fill, OrderIntent, OrderStatus, Portfolio, Side
from agents.errors import OrderError
from agents.risk import OwnOrder
from checkpoints.database import metadata
from checkpoints.funding import Payment, payments_after, payments_within
from checkpoints.orders import LIVE, accounts, fill_of, fills, orders, status_in
from checkpoints.statement import Statement
from checkpoints.trading_state import Trading
from checkpoints.trouble import legible

__all__ = ["DAY_NS", "Account", "Books", "Fold", "Look", "Opening", "account_of", "begin_anew"]

DAY_NS = 86_400_000_000_000
_ACCOUNTS_MAX = 256
"""Accounts whose folds are kept: a market that is simulated has one for each run."""
_OPENINGS_MAX = 4
"""Beginnings of a day that are kept of an account: it may trade in several exchanges, each with a day of its own."""

_fresh_starts = Table(
    "fresh_starts",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("after_order", Integer, nullable=False),
    Column("after_fill", Integer, nullable=False),
)

_ACCEPTED = (OrderStatus.OPEN, OrderStatus.FILLED, OrderStatus.CANCELLED)
_SENT = (
    OrderStatus.SENDING,
    OrderStatus.UNKNOWN,
    OrderStatus.OPEN,
    OrderStatus.FILLED,
    OrderStatus.CANCELLED,
    OrderStatus.REJECTED,
)

_FILL = tuple(
    fills.c[name]
    for name in ("number", "trade_id", "intent_id", "symbol", "side", "quantity", "price", "fee", "time_ns")
)
_mine = fills.c.account == bindparam("account")
_CASH = Statement(select(accounts.c.account, accounts.c.opening_cash).where(accounts.c.account == bindparam("account")))
_FILLS_FROM = Statement(select(*_FILL).where(_mine & (fills.c.number >= bindparam("number"))).order_by(fills.c.number))
_FILLS_WITHIN = Statement(
    select(*_FILL)
    .where(_mine & (fills.c.time_ns >= bindparam("since_ns")) & (fills.c.time_ns < bindparam("until_ns")))
    .where(fills.c.number <= bindparam("number"))
)
_STANDING = tuple(
    orders.c[name]
    for name in (
        "intent_id",
        "symbol",
        "side",
        "quantity",
        "reference_price",
        "reference_ns",
        "type",
        "limit_price",
        "status",
        "run_id",
        "decision",
        "leg",
        "asked",
    )
)
_its_account = orders.c.account == bindparam("account")
_open = select(*_STANDING).where(status_in(LIVE) & _its_account)
_OPEN = Statement(_open)
_lately = (orders.c.reference_ns > bindparam("since_ns")) & (orders.c.reference_ns < bindparam("to_ns"))
_OPEN_OR_LATELY = Statement(_open.union(select(*_STANDING).where(_its_account & _lately & status_in(_SENT))))
_FILLED_OF_OPEN = Statement(
    select(fills.c.intent_id, fills.c.quantity)
    .join(orders, orders.c.intent_id == fills.c.intent_id)
    .where(status_in(LIVE) & _its_account)
)
_START = Statement(select(*_fresh_starts.c).order_by(_fresh_starts.c.number.desc()).limit(1))


def _is_newer_than_any(status: OrderStatus) -> Any:
    """Than the account's newest order with this status: one seek in an index."""
    newest = select(func.max(orders.c.number)).where(status_in((status,)) & _its_account)
    return orders.c.number > func.coalesce(newest.scalar_subquery(), literal_column("0"))


_REJECTED_IN_ROW = Statement(
    select(func.count())
    .select_from(orders)
    .where(status_in((OrderStatus.REJECTED,)) & _its_account & (orders.c.number > bindparam("after")))
    .where(*map(_is_newer_than_any, _ACCEPTED))
)


class Look(NamedTuple):
    """How far back a review looks: when the account's day began, and for how long an order was sent lately."""

    day_ns: int
    recent_ns: int = 0


@dataclass(frozen=True, slots=True)
class Opening:
    """The account as its day began: cash, quantities by symbol, and the prices of the last fills before."""

    cash: Decimal
    quantities: Mapping[str, Decimal] = field(default_factory=dict)
    prices: Mapping[str, Decimal] = field(default_factory=dict)

    def equity(self, marks: Mapping[str, Decimal]) -> Decimal:
        """Worth at `marks` (symbol -> price); a symbol without one counts at its last fill's price."""
        worth = (quantity * marks.get(symbol, self.prices[symbol]) for symbol, quantity in self.quantities.items())
        return self.cash + sum(worth, Decimal(0))


@dataclass(frozen=True, slots=True)
class Account:
    """What a review of an order sees, read inside the reserving transaction.

    `opening`: the account as the decision's day began; `prices`: of the last fills, by symbol; `live`: signed quantity
    by symbol of orders that are reserved or at the broker and not yet filled; `orders`: those, and what was sent
    lately, the order itself and earlier attempts at it not among them; `closable`: how much of its symbol's position
    the order can close at most, whatever becomes of those others; `trading`: whether trading goes on; `peak`: the
    highest equity so far, at the prices of fills; `rejects_in_row`: of the broker, since it accepted something. Both
    count from `begin_anew` on.
    """

    portfolio: Portfolio
    opening: Opening
    live: Mapping[str, Decimal]
    closable: Decimal
    trading: Trading
    peak: Decimal = Decimal(0)
    rejects_in_row: int = 0
    prices: Mapping[str, Decimal] = field(default_factory=dict)
    orders: tuple[OwnOrder, ...] = ()


class _Seen(NamedTuple):
    """A price and when it was paid: a fill that is heard of late must not pass for the newest price."""

    time_ns: int
    price: Decimal


@dataclass(frozen=True, slots=True)
class _Held:
    """Sums over the fills of before a day, which do not depend on the order in which they are added."""

    cash: Decimal
    quantities: Mapping[str, Decimal]
    prices: Mapping[str, _Seen]

    def with_fills(self, more: Sequence[Fill]) -> "_Held":
        if not more:
            return self
        cash, quantities, prices = self.cash, dict(self.quantities), dict(self.prices)
        for fill in more:
            signed = fill.quantity * fill.side.sign
            cash -= signed * fill.price + fill.fee
            quantities[fill.symbol] = quantities.get(fill.symbol, _NONE) + signed
            _see(prices, fill)
        return _Held(cash, quantities, prices)

    def with_cash(self, amount: Decimal) -> "_Held":
        return replace(self, cash=self.cash + amount)

    def as_opening(self) -> Opening:
        held = {symbol: quantity for symbol, quantity in self.quantities.items() if quantity}
        return Opening(self.cash, held, {symbol: self.prices[symbol].price for symbol in held})


_NONE = Decimal(0)


def _see(prices: dict[str, _Seen], fill: Fill) -> None:
    if fill.symbol not in prices or prices[fill.symbol].time_ns <= fill.time_ns:
        prices[fill.symbol] = _Seen(fill.time_ns, fill.price)


class _Start(NamedTuple):
    """From when on peak and rejections count: behind this order and this fill; number 0 for the very beginning."""

    number: int = 0
    after_order: int = 0
    after_fill: int = 0


@dataclass(frozen=True, slots=True)
class Fold:
    """An account's fills up to one of them, which has this number and trade id; and its funding up to `paid`."""

    cash: Decimal
    portfolio: Portfolio
    prices: Mapping[str, _Seen]
    peak: Decimal
    start: _Start
    number: int = 0
    trade_id: str = ""
    paid: int = 0
    openings: Mapping[int, _Held] = field(default_factory=dict)

    @classmethod
    def empty(cls, account: str, cash: Decimal, start: _Start) -> "Fold":
        """Without a fill."""
        return cls(cash, Portfolio(account, cash), {}, _NONE if start.number else cash, start)

    def with_fills(self, rows: Sequence[Any]) -> "Fold":
        """The fold with the fills of these rows, which follow those that are in it."""
        if not rows:
            return self
        portfolio, prices, peak = self.portfolio, dict(self.prices), self.peak
        made = [_fill(row) for row in rows]
        for row, fill in zip(rows, made, strict=True):
            portfolio = portfolio.apply(fill)
            _see(prices, fill)
            if row[0] > self.start.after_fill:
                peak = max(peak, _equity(portfolio, prices))
        openings = {
            day_ns: held.with_fills([fill for fill in made if fill.time_ns < day_ns])
            for day_ns, held in self.openings.items()
        }
        return replace(
            self,
            portfolio=portfolio,
            prices=prices,
            peak=peak,
            number=rows[-1][0],
            trade_id=rows[-1][1],
            openings=openings,
        )

    def with_funding(self, payments: Sequence[Payment]) -> "Fold":
        """The fold with these payments, which follow those that are in it."""
        if not payments:
            return self
        portfolio, came = self.portfolio, sum((each.amount for each in payments), _NONE)
        openings = {
            day_ns: held.with_cash(sum((each.amount for each in payments if each.time_ns < day_ns), _NONE))
            for day_ns, held in self.openings.items()
        }
        portfolio = replace(portfolio, cash=portfolio.cash + came, realised=portfolio.realised + came)
        return replace(self, portfolio=portfolio, paid=payments[-1].number, openings=openings)


class Books:
    """The folds that are kept, by account. Used from any thread."""

    def __init__(self) -> None:
        self._kept: dict[str, Fold] = {}
        self._lock = threading.Lock()

    def read(self, connection: Connection, account: str, day_ns: int | None = None) -> Fold:
        """The account as it is in the transaction of `connection`, with the opening of a day, if one is named.

        To be handed to `keep` when that transaction is committed, or has only read.

        Raises:
            OrderError: there is no such account.
        """
        known = self._kept.get(account)
        start = _Start._make(_START.row(connection) or (0, 0, 0))
        if known is not None:
            rows = _FILLS_FROM.rows(connection, account=account, number=known.number)
            if known.start == start and _goes_on(known, rows):
                fold = _paid(connection, known.with_fills(rows[1:] if known.number else rows))
                return fold if day_ns is None else _opened(connection, fold, day_ns)
            self.forget(account)
        cash = _CASH.row(connection, account=account)
        if cash is None:
            raise OrderError(f"there is no account {account!r}; nothing can be traded in it; open it first")
        rows = _FILLS_FROM.rows(connection, account=account, number=1)
        fold = _paid(connection, Fold.empty(account, _opening_cash(cash), start).with_fills(rows))
        return fold if day_ns is None else _opened(connection, fold, day_ns)

    def keep(self, fold: Fold) -> None:
        """Go on from here the next time."""
        account = fold.portfolio.account
        with self._lock:
            known = self._kept.pop(account, fold)
            older = known.start == fold.start and known.number > fold.number
            self._kept[account] = known if older else fold
            while len(self._kept) > _ACCOUNTS_MAX:
                del self._kept[next(iter(self._kept))]

    def forget(self, account: str) -> None:
        """Begin with the first fill the next time."""
        with self._lock:
            self._kept.pop(account, None)


@legible("account", lambda row: row[0])
def _opening_cash(row: Any) -> Decimal:
    return Decimal(row[1])


def _goes_on(known: Fold, rows: Sequence[Any]) -> bool:
    """Whether the newest fill of the fold is there still, and the same: a server may have lost what it acknowledged."""
    if not known.number:
        return True
    return bool(rows) and rows[0][0] == known.number and rows[0][1] == known.trade_id


def _paid(connection: Connection, fold: Fold) -> Fold:
    return fold.with_funding(payments_after(connection, fold.portfolio.account, fold.paid))


def _opened(connection: Connection, fold: Fold, day_ns: int) -> Fold:
    """The fold with the opening of this day, which goes on from the newest one before it."""
    if day_ns in fold.openings:
        return fold
    before = max((each for each in fold.openings if each < day_ns), default=None)
    held = _Held(fold.cash, {}, {}) if before is None else fold.openings[before]
    since_ns = _BEGINNING if before is None else before
    rows = _FILLS_WITHIN.rows(
        connection, account=fold.portfolio.account, since_ns=since_ns, until_ns=day_ns, number=fold.number
    )
    came = payments_within(connection, fold.portfolio.account, since_ns, day_ns, fold.paid)
    openings = {**fold.openings, day_ns: held.with_fills([_fill(row) for row in rows]).with_cash(came)}
    while len(openings) > _OPENINGS_MAX:
        del openings[next(iter(openings))]
    return replace(fold, openings=openings)


_BEGINNING = -(2**63)


def account_of(
    connection: Connection, books: Books, intent: OrderIntent, trading: Trading, look: Look
) -> tuple[Account, Fold]:
    """What a review of this order sees, in the transaction of `connection`; and the fold, for `Books.keep`."""
    fold = books.read(connection, intent.account, look.day_ns)
    known = _orders_beside(connection, intent, look)
    live: dict[str, Decimal] = {}
    closing = _NONE  # by others that are on the same side
    for own in known:
        if own.open:
            left = Decimal(own.open)
            live[own.symbol] = live.get(own.symbol, _NONE) + left * own.side.sign
            closing += left if (own.symbol, own.side) == (intent.symbol, intent.side) else _NONE
    against = -fold.portfolio.position(intent.symbol).quantity * intent.side.sign
    account = Account(
        portfolio=fold.portfolio,
        opening=fold.openings[look.day_ns].as_opening(),
        live=live,
        closable=max(against - closing, _NONE),
        trading=trading,
        peak=fold.peak,
        rejects_in_row=_rejects_in_row(connection, intent.account, fold.start),
        prices={symbol: seen.price for symbol, seen in fold.prices.items()},
        orders=known,
    )
    return account, fold


def _orders_beside(connection: Connection, intent: OrderIntent, look: Look) -> tuple[OwnOrder, ...]:
    """Those of the account that may still fill, and those that were sent lately."""
    if look.recent_ns:
        since_ns, to_ns = intent.reference_ns - look.recent_ns, intent.reference_ns + look.recent_ns
        rows = _OPEN_OR_LATELY.rows(connection, account=intent.account, since_ns=since_ns, to_ns=to_ns)
    else:
        rows = _OPEN.rows(connection, account=intent.account)
    filled: dict[str, Decimal] = {}
    if any(row[8] in LIVE for row in rows):
        for name, quantity in _FILLED_OF_OPEN.rows(connection, account=intent.account):
            filled[name] = filled.get(name, _NONE) + Decimal(quantity)
    decision = (intent.run_id, intent.decision)
    return tuple(
        _own_order(row, filled.get(row[0], _NONE), same_decision=(run_id, number) == decision)
        for row in rows
        for run_id, number, leg in (row[9:12],)
        if (run_id, number, leg) != (*decision, intent.leg)
    )


@legible("order", lambda row: row[0])
def _own_order(row: Any, filled: Decimal, *, same_decision: bool) -> OwnOrder:
    """What is filled beyond what was ordered makes no room."""
    _, symbol, side, quantity, price, sent_ns, kind, limit_price, status, *_, asked = row
    wanted = Decimal(quantity)
    return OwnOrder(
        symbol=symbol,
        side=Side(side),
        quantity=wanted,
        price=Decimal(price),
        sent_ns=sent_ns,
        open=max(wanted - filled, _NONE) if status in LIVE else _NONE,
        limit_price=Decimal(limit_price) if limit_price is not None and kind == "limit" else None,
        asked=None if asked is None else Decimal(asked),
        same_decision=same_decision,
    )


def _rejects_in_row(connection: Connection, account: str, start: _Start) -> int:
    return int(_REJECTED_IN_ROW.row(connection, account=account, after=start.after_order)[0])


def begin_anew(connection: Connection) -> None:
    """What was lost from a peak, and rejected, before now has been looked at: it is counted no more."""
    newest = [
        connection.execute(select(func.coalesce(func.max(table.c.number), 0))).scalar_one()
        for table in (_fresh_starts, orders, fills)
    ]
    values = {"number": newest[0] + 1, "after_order": newest[1], "after_fill": newest[2]}
    connection.execute(insert(_fresh_starts).values(**values))


def _equity(portfolio: Portfolio, prices: Mapping[str, _Seen]) -> Decimal:
    return portfolio.equity({held.symbol: prices[held.symbol].price for held in portfolio.positions})


@legible("fill", lambda row: row[1])
def _fill(row: Any) -> Fill:
    index(row[0])
    return fill_of(row[1:])
