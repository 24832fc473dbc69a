"""Clients' orders over the life of the exchange, and beyond it; with the registry that finds them."""

import pytest

from graph.exchange.accounts import Account, Balance
from graph.exchange.fixed import SCALE, parse
from graph.exchange.refusal import Refusal
from graph.exchange.scripts import seeded
from graph.exchange.symbols import SYMBOLS
from graph.exchange.venue import Past, Ticket, Venue
from tests.graph.exchange.conftest import NOW_MS, Ear

BTC, ETH = SYMBOLS


def account():
    return Account("me", "s", {"USDT": Balance(1_000_000 * SCALE), "BTC": Balance(10 * SCALE)})


def venue(now_ms=NOW_MS, past=None):
    scripts = {rules: seeded(rules, 7, now_ms) for rules in SYMBOLS}
    opened = Venue(scripts, [account()], Ear(), seed=7, now_ms=now_ms, past=past or Past())
    opened.step(now_ms)
    return opened


def ticket(client_id="a", symbol="BTCUSDT", *, buy=True, kind="LIMIT", price="30000", stop="0", quantity="0.5"):
    return Ticket(symbol, buy, kind, "GTC", parse(quantity), parse(price), parse(stop), 0, client_id)


def code_of(act):
    with pytest.raises(Refusal) as refused:
        act()
    return refused.value.code


def test_an_id_is_taken_while_its_order_is_open_and_no_longer():
    """What Binance does, and what makes sending an order again under its old id so dangerous."""
    opened = venue()
    first = opened.place("me", ticket(), NOW_MS)
    assert code_of(lambda: opened.place("me", ticket(), NOW_MS)) == -2010
    assert opened.place("me", ticket(symbol="ETHUSDT", price="2400"), NOW_MS).open
    opened.engine("BTCUSDT").cancel(first, NOW_MS)
    second = opened.place("me", ticket(), NOW_MS)
    assert second.number > first.number
    assert opened.find("me", "BTCUSDT", None, "a") is second
    assert opened.find("me", "BTCUSDT", first.number, None) is first


def test_a_market_order_that_is_sent_again_is_executed_again():
    opened = venue()
    sold = [opened.place("me", ticket(kind="MARKET", price="0"), NOW_MS) for _ in range(2)]
    assert [order.status for order in sold] == ["FILLED", "FILLED"]


def test_what_cannot_be_found():
    opened = venue()
    order = opened.place("me", ticket(), NOW_MS)
    assert code_of(lambda: opened.find("me", "XUSDT", None, "a")) == -1121
    assert code_of(lambda: opened.find("me", "BTCUSDT", None, "b")) == -2013
    assert code_of(lambda: opened.find("me", "BTCUSDT", order.number, "b")) == -2013
    assert code_of(lambda: opened.find("you", "BTCUSDT", order.number, None)) == -2013
    opened.engine("BTCUSDT").cancel(order, NOW_MS)
    assert code_of(lambda: opened.resting("me", "BTCUSDT", None, "a")) == -2011


def test_too_many_orders_and_too_many_stops():
    opened = venue()
    for number in range(BTC.stops_max):
        opened.place("me", ticket(f"s{number}", kind="STOP_LOSS", price="0", stop="41000"), NOW_MS)
    one_more = ticket("one more", kind="STOP_LOSS", price="0", stop="41000")
    assert code_of(lambda: opened.place("me", one_more, NOW_MS)) == -1013
    for number in range(BTC.orders_max - BTC.stops_max):
        opened.place("me", ticket(f"o{number}", price="20000.00", quantity="0.001"), NOW_MS)
    assert code_of(lambda: opened.place("me", ticket("another", quantity="0.001"), NOW_MS)) == -1013


def test_a_dry_order_is_judged_and_not_placed():
    opened = venue()
    opened.place("me", ticket(), NOW_MS, dry=True)
    assert opened.open_orders("me", None) == []
    assert code_of(lambda: opened.place("me", ticket(price="0.001"), NOW_MS, dry=True)) == -1013


def test_after_a_restart_open_orders_stand_in_the_book_with_their_money_and_their_ids():
    before = venue()
    resting = before.place("me", ticket("rest"), NOW_MS)
    stop = before.place("me", ticket("stop", buy=False, kind="STOP_LOSS", price="0", stop="30000"), NOW_MS)
    done = before.place("me", ticket("done", kind="MARKET", price="0"), NOW_MS)
    past = Past([resting, stop, done], dict(before.accounts))
    after = venue(NOW_MS + 5_000, past)
    assert [order.client_id for order in after.open_orders("me", "BTCUSDT")] == ["rest", "stop"]
    assert after.engine("BTCUSDT").book.bids.quantity(parse("30000")) == parse("0.5")
    assert after.accounts["me"].balances == before.accounts["me"].balances
    assert after.find("me", "BTCUSDT", None, "done").status == "FILLED"
    new = after.place("me", ticket("new"), NOW_MS + 5_000)
    assert new.number > max(order.number for order in past.orders)
