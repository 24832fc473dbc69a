"""Everybody else: seeded, always there, and no privilege in the book."""

import pytest

from graph.exchange.crowd import Crowd
from graph.exchange.engine import Engine
from graph.exchange.fixed import SCALE
from graph.exchange.scripts import seeded
from tests.graph.exchange.conftest import BTC, NOW_MS, Ear, Market, fixed


class Fair:
    """A fair price that is set by hand."""

    def __init__(self, price):
        self.at = fixed(price)

    def price(self, now_ms):
        return self.at


def played(seed, steps=200):
    ear, script = Ear(), seeded(BTC, seed, NOW_MS)
    engine = Engine(BTC, {}, ear, script.history)
    crowd = Crowd(engine, script.path, seed)
    for step in range(steps):
        crowd.step(NOW_MS + step * 100)
        yield engine, ear


def test_the_same_seed_trades_alike_and_another_does_not():
    one, two, other = ([list(ear.trades) for _, ear in played(seed)][-1] for seed in (7, 7, 8))
    assert one == two != other
    assert len(one) > 100
    assert {trade.down for trade in one} == {True, False}


def test_there_is_always_a_book_of_ten_levels_that_does_not_cross():
    for engine, _ in played(7):
        bid, bid_quantity, ask, ask_quantity = engine.book.top
        assert 0 < bid < ask
        assert min(bid_quantity, ask_quantity) > 0
        assert 6 <= len(engine.book.bids.depth(99)) <= 10  # some were perhaps just taken
        assert (bid % BTC.tick, bid_quantity % BTC.step) == (0, 0)


@pytest.fixture
def market():
    return Market()


def test_it_trades_through_a_client_when_the_fair_price_goes_past_him(market):
    fair = Fair(100)
    crowd = Crowd(market.engine, fair, 7)
    crowd.step(market.now_ms)
    mine = market.submit("sell", 1, 110, name="mine")
    crowd.step(market.now_ms)
    assert mine.executed == 0
    fair.at = fixed(115)
    for _ in range(5):
        crowd.step(market.now_ms)
    assert (mine.status, mine.executions[0].price, mine.executions[0].maker) == ("FILLED", fixed(110), True)


def test_a_client_waits_for_those_who_were_there_before(market):
    crowd = Crowd(market.engine, Fair(100), 7)
    crowd.step(market.now_ms)
    bid = market.engine.book.bids.best
    mine = market.submit("buy", "0.5", bid / SCALE)
    assert market.engine.book.bids.ahead(mine) > 0
    taken = 0
    while not mine.executed:
        crowd.step(market.now_ms)
        taken = sum(each.quantity for each in market.ear.trades if each.price == bid and each.down)
    assert taken > 0


def test_what_a_client_has_taken_is_there_again_a_moment_later(market):
    crowd = Crowd(market.engine, Fair(100), 7)
    crowd.step(market.now_ms)
    order = market.submit("buy", 300)
    assert order.status == "EXPIRED"
    assert market.engine.book.asks.best == 0
    crowd.step(market.now_ms)
    assert 6 <= len(market.engine.book.asks.depth(99)) <= 10
