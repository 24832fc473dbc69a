"""Stops on every price: a database that fails for a while loses none of them."""

from decimal import Decimal

import pytest

from agents.bracket import Bracket
from agents.domain import Order, OrderIntent, OrderStatus, Side
from agents.errors import StorageError
from graph.session.stops import Stops
from tests.graph.session.floor import PERIOD_NS, START_NS, SYMBOL, bar, quote


class Brackets:
    """Stands for the brackets: a stop at 95 and a target at 110 of one unit, in memory, and a disk that may be full."""

    def __init__(self):
        self.bracket = Bracket("run", "a", SYMBOL, Side.BUY, Decimal(95), Decimal(110), since_ns=START_NS)
        self.bracket = self.bracket.heard(order_of("entry", Side.BUY, OrderStatus.FILLED), START_NS)
        self.full = False
        self.news = []
        self.flushed = 0

    async def on_quote(self, quote):
        after, intent = self.bracket.on_quote(quote)
        if after != self.bracket:
            self._save()
        self.bracket = after
        return () if intent is None else (intent,)

    async def on_bar(self, bar, begin_ns):
        self._save()
        after, intent = self.bracket.on_bar(bar, begin_ns)
        self.bracket = after
        return () if intent is None else (intent,)

    async def heard(self, order, at_ns):
        self._save()
        self.news.append((order.client_order_id, at_ns))

    async def flush(self):
        self._save()
        self.flushed += 1

    def all(self):
        return (self.bracket,)

    def _save(self):
        if self.full:
            raise StorageError("the disk is full")


def order_of(leg, side, status):
    intent = OrderIntent.derive(
        run_id="run", account="a", symbol=SYMBOL, side=side, quantity=Decimal(1), reference_price=Decimal(100),
        reference_ns=START_NS, leg=leg,
    )  # fmt: skip
    return Order(intent, status, filled=Decimal(1), price=Decimal(100))


class Ledger:
    def __init__(self, *orders):
        self.known = orders

    async def orders(self, run_id, decision=None):
        assert (run_id, decision) == ("run", 0)
        return self.known


class Clock:
    def now_ns(self):
        return START_NS + 7


@pytest.fixture
def floor():
    class Floor:
        brackets, told, left = Brackets(), [], []
        ledger = Ledger()

    floor = Floor()
    floor.stops = Stops(
        floor.brackets, floor.ledger, Clock(), run_id="run", period_ns=PERIOD_NS,
        leave=floor.left.append, tell=lambda kind, detail: floor.told.append((kind, detail)),
    )  # fmt: skip
    floor.told.clear()
    floor.left.clear()
    return floor


@pytest.mark.parametrize(("touch", "leg"), [("94", "stop"), ("111", "target")])
async def test_a_price_that_touched_while_the_disk_was_full_counts_when_it_is_not(floor, touch, leg):
    await floor.stops.on_quote(quote(1, "100"))
    floor.brackets.full = True
    for number, price in enumerate(("99", touch, "100", "101"), start=2):
        await floor.stops.on_quote(quote(number, price))
    assert floor.left == []
    assert floor.told[0] == ("TickFailed", {"error": "StorageError: the disk is full"})
    floor.brackets.full = False
    await floor.stops.on_quote(quote(9, "100"))
    assert {intent.leg for intent in floor.left} == {leg}
    assert len({intent.intent_id for intent in floor.left}) == 1, "however often it is asked for"


async def test_prices_that_touch_nothing_are_no_trouble_for_a_full_disk(floor):
    floor.brackets.full = True
    for number in range(1, 100):
        await floor.stops.on_quote(quote(number, "100"))
    assert floor.told == []


async def test_a_bar_is_watched_with_its_beginning(floor):
    await floor.stops.on_bar(bar(1, "94"))
    assert [intent.leg for intent in floor.left] == ["stop"]
    floor.brackets.full = True
    await floor.stops.on_bar(bar(2, "94"))
    assert floor.told[-1][0] == "TickFailed"


async def test_news_that_could_not_be_written_down_is_at_the_next_look(floor):
    floor.brackets.full = True
    order = order_of("entry", Side.BUY, OrderStatus.FILLED)
    await floor.stops.heard(order)
    assert [kind for kind, _ in floor.told] == ["NewsFailed"]
    with pytest.raises(StorageError):
        await floor.stops.catch_up()
    floor.brackets.full = False
    await floor.stops.catch_up()
    assert floor.brackets.news == [(order.client_order_id, START_NS + 7)]
    await floor.stops.catch_up()
    assert len(floor.brackets.news) == 1


async def test_what_somebody_else_wrote_down_is_heard_too(floor):
    """A sweep of the kill switch cancels an order that had been filled in part."""
    order = order_of("entry", Side.BUY, OrderStatus.CANCELLED)
    floor.ledger.known = (order,)
    await floor.stops.catch_up()
    assert floor.brackets.news == [(order.client_order_id, START_NS)]


async def test_at_the_end_all_is_saved_and_a_full_disk_is_told(floor):
    await floor.stops.save()
    assert floor.brackets.flushed == 1
    floor.brackets.full = True
    await floor.stops.save()
    assert floor.told[-1][0] == "TickFailed"
