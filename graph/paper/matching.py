"""How orders in the book meet prices: pure rules, in which there is no clock, no storage and no chance.

- Nothing is seen before it was there. A price that was known when an order was sent never fills it, nor does one from
  before the order arrived. An order that arrives while a bar is under way sees the bar's close alone.
- Who takes a price pays the ask or gets the bid, and slips; a limit bounds that. Who waited in the book gets the own
  limit: the price came to the order. Where the market jumped past it, it is the worst price that there was.
- A stop is triggered where the market trades at its price or beyond it. In a bar that opens beyond it, it is filled at
  the open; else at its own price; and slips.
- Of a bar all orders together get a share of the volume, of a quote what stands there; stops and market orders first,
  then limits, each in the order of arrival. So a stop is served before a target where a bar touches both.
- Of the way inside a bar nothing is assumed but that it begins at the open and ends at the close: a stop-limit that is
  triggered on the way is filled there if its limit allows it, else it waits for the next price.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Context, Decimal

from agents.domain import Bar, OrderIntent, Quote, Side, towards_zero
from graph.paper.terms import PaperTerms

__all__ = ["Interest", "Met", "Path", "Prices", "Resting", "fee_of", "match", "slipped"]

_EXACT = Context(prec=80)
_CENT_MILLIONTH = Decimal("1e-8")
_DIGITS = Context(prec=12)
_DIGITS_MAX = 40
_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Resting:
    """An order in the book, or on its way there.

    `number`: the order of arrival; prices up to `after_ns` were known when it was sent; it is in the book from
    `live_ns` on, and no more from `ends_ns` on. `triggered`: of a stop; `rested`: its limit has met a price that did
    not fill it, so that it waits in the book now.
    """

    intent: OrderIntent
    number: int
    after_ns: int
    live_ns: int
    ends_ns: int
    filled: Decimal = _ZERO
    triggered: bool = False
    rested: bool = False

    @property
    def left(self) -> Decimal:
        """What is to be filled yet."""
        return _EXACT.subtract(self.intent.quantity, self.filled)

    @property
    def waits_for_stop(self) -> bool:
        return self.intent.stop_price is not None and not self.triggered

    @property
    def restless(self) -> bool:
        """Whether it does something with the next price, whatever that is."""
        return not self.waits_for_stop and (self.intent.limit_price is None or not self.rested)


@dataclass(frozen=True, slots=True)
class Path:
    """Prices in the order of time, but for `low` and `high`, of which it is not known when they were."""

    open: Decimal
    low: Decimal
    high: Decimal
    close: Decimal


@dataclass(frozen=True, slots=True)
class Prices:
    """What the market did up to `time_ns`. `begin_ns`: since when; None: only the close counts.

    `room`: how much can be bought and sold at these prices, None for any quantity; with `shared` both together.
    """

    symbol: str
    time_ns: int
    begin_ns: int | None
    bid: Path
    ask: Path
    room: Mapping[Side, Decimal | None]
    shared: bool

    @classmethod
    def of_quote(cls, quote: Quote) -> "Prices":
        """A quote: one moment."""
        bid, ask = (Path(price, price, price, price) for price in (quote.bid, quote.ask))
        room = {Side.BUY: quote.ask_size, Side.SELL: quote.bid_size}
        return cls(quote.symbol, quote.time_ns, quote.time_ns, bid, ask, room, shared=False)

    @classmethod
    def of_bar(cls, bar: Bar, begin_ns: int | None, terms: PaperTerms) -> "Prices":
        """A bar that began at `begin_ns`, with the spread of `terms` around its prices."""
        half = terms.spread_bps / 20_000
        bid, ask = (
            Path(*(_rounded(_EXACT.multiply(price, share)) for price in (bar.open, bar.low, bar.high, bar.close)))
            for share in (1 - half, 1 + half)
        )
        room = None if bar.volume is None else _EXACT.multiply(bar.volume, terms.participation)
        return cls(bar.symbol, bar.close_ns, begin_ns, bid, ask, {Side.BUY: room, Side.SELL: room}, shared=True)


@dataclass(frozen=True, slots=True)
class Met:
    """What prices did to an order: how it stands after, and what was executed. `quantity` 0: nothing was.

    `ended`: it left the book before these prices.
    """

    order: Resting
    quantity: Decimal = _ZERO
    price: Decimal = _ZERO
    fee: Decimal = _ZERO
    ended: bool = False


def match(orders: Iterable[Resting], prices: Prices, terms: PaperTerms) -> list[Met]:
    """What becomes of the orders of one symbol; those of which nothing becomes are left out."""
    room = dict(prices.room)
    found = []
    for order in sorted(orders, key=lambda each: (_waits_at_limit(each), each.number)):
        met = _meet(order, prices, room[order.intent.side], terms)
        if met is None:
            continue
        found.append(met)
        for side in Side if prices.shared else (order.intent.side,):
            left = room[side]
            room[side] = None if left is None else left - met.quantity
    return found


def slipped(price: Decimal, side: Side, terms: PaperTerms, limit: Decimal | None = None) -> Decimal:
    """The price that whoever takes it gets: worse by the slippage, and not beyond the limit."""
    worse = _rounded(_EXACT.multiply(price, 1 + side.sign * terms.slippage_bps / 10_000))
    if limit is None:
        return worse
    return min(worse, limit) if side is Side.BUY else max(worse, limit)


def fee_of(quantity: Decimal, price: Decimal, bps: Decimal) -> Decimal:
    """The fee of one execution, in hundred-millionths."""
    fee = _EXACT.divide(_EXACT.multiply(_EXACT.multiply(quantity, price), bps), 10_000)
    return _EXACT.quantize(fee, _CENT_MILLIONTH) if fee.adjusted() < _DIGITS_MAX else _DIGITS.plus(fee)


def _rounded(price: Decimal) -> Decimal:
    """To hundred-millionths; a price that is a matter of those, and one beyond all measure, to twelve digits."""
    usual = 0 <= price.adjusted() < _DIGITS_MAX
    return (_EXACT.quantize(price, _CENT_MILLIONTH) if usual else _DIGITS.plus(price)).normalize(_EXACT)


def _waits_at_limit(order: Resting) -> bool:
    return order.intent.limit_price is not None and order.intent.stop_price is None


def _meet(order: Resting, prices: Prices, room: Decimal | None, terms: PaperTerms) -> Met | None:
    if prices.time_ns >= order.ends_ns:
        return Met(order, ended=True)
    if prices.time_ns <= order.after_ns or prices.time_ns < order.live_ns:
        return None
    after, price, bps = _offer(order, _seen(order, prices), terms)
    quantity = _ZERO if price is None else _share(order, room)
    if price is None or quantity <= 0:
        return None if after == order else Met(after)
    after = replace(after, filled=_EXACT.add(order.filled, quantity))
    return Met(after, quantity, price, fee_of(quantity, price, bps))


def _share(order: Resting, room: Decimal | None) -> Decimal:
    """What is left of the order, or of the market, in the steps that the order's own quantity has."""
    if room is None or room >= order.left:
        return order.left
    exponent = order.intent.quantity.as_tuple().exponent
    assert isinstance(exponent, int)  # noqa: S101 - an intent's quantity is finite
    return towards_zero(max(room, _ZERO), Decimal(1).scaleb(min(exponent, 0)))


@dataclass(frozen=True, slots=True)
class _View:
    """The way of the prices as one side sees it: `best` and `worst` are what they were for who trades on it."""

    open: Decimal
    best: Decimal
    worst: Decimal
    sign: int

    def beyond(self, price: Decimal, limit: Decimal) -> bool:
        """Whether the price is at the limit, or worse than it."""
        return (price - limit) * self.sign >= 0

    def within(self, price: Decimal, limit: Decimal) -> bool:
        """Whether the price is at the limit, or better than it."""
        return (price - limit) * self.sign <= 0


def _seen(order: Resting, prices: Prices) -> _View:
    side = order.intent.side
    path = prices.ask if side is Side.BUY else prices.bid
    if prices.begin_ns is None or order.live_ns > prices.begin_ns:
        return _View(path.close, path.close, path.close, side.sign)
    best, worst = (path.low, path.high) if side is Side.BUY else (path.high, path.low)
    return _View(path.open, best, worst, side.sign)


def _offer(order: Resting, view: _View, terms: PaperTerms) -> tuple[Resting, Decimal | None, Decimal]:
    """The order after these prices, the price that it gets (None for none), and the fee for it."""
    at, from_open = view.open, True
    stop, limit = order.intent.stop_price, order.intent.limit_price
    if stop is not None and not order.triggered:
        if not view.beyond(view.worst, stop):
            return order, None, _ZERO
        from_open = view.beyond(view.open, stop)
        at = view.open if from_open else stop
        order = replace(order, triggered=True)
    if limit is None:
        return order, slipped(at, order.intent.side, terms), terms.taker_fee_bps
    if not order.rested and view.within(at, limit):
        return order, slipped(at, order.intent.side, terms, limit), terms.taker_fee_bps
    order = replace(order, rested=True)
    if from_open and view.within(view.best, limit):
        return order, limit if view.beyond(view.worst, limit) else view.worst, terms.maker_fee_bps
    return order, None, _ZERO


@dataclass(frozen=True, slots=True)
class Interest:
    """Which prices could do anything to some orders: those from `due_ns` on, at or below, at or above a price."""

    due_ns: int | None = None
    below: Decimal | None = None
    above: Decimal | None = None

    @classmethod
    def of(cls, orders: Sequence[Resting]) -> "Interest":
        """What wakes any of the orders."""
        due_ns: int | None = None
        below: Decimal | None = None
        above: Decimal | None = None
        for order in orders:
            restless = order.restless
            due = min(order.ends_ns, order.live_ns) if restless else order.ends_ns
            due_ns = due if due_ns is None or due < due_ns else due_ns
            price = order.intent.stop_price if order.waits_for_stop else order.intent.limit_price
            if restless or price is None:
                continue
            if order.waits_for_stop is (order.intent.side is Side.SELL):  # the price has to fall to it
                below = price if below is None or price > below else below
            else:
                above = price if above is None or price < above else above
        return cls(due_ns, below, above)

    def also(self, order: Resting) -> "Interest":
        """This, and what wakes one more order."""
        one = Interest.of((order,))
        return Interest(
            due_ns=min((each for each in (self.due_ns, one.due_ns) if each is not None), default=None),
            below=max((each for each in (self.below, one.below) if each is not None), default=None),
            above=min((each for each in (self.above, one.above) if each is not None), default=None),
        )

    def wakes(self, time_ns: int, low: Decimal, high: Decimal) -> bool:
        """Whether prices between the lowest bid and the highest ask may do anything."""
        return (
            (self.due_ns is not None and time_ns >= self.due_ns)
            or (self.below is not None and low <= self.below)
            or (self.above is not None and high >= self.above)
        )
