"""What the exchange has executed and the account holds, as its own pages tell it."""

from decimal import Decimal

import pytest

from agents.errors import BrokerUnavailable
from graph.grid import Grid
from graph.spot import books as module
from graph.spot import trades as of_trades
from graph.spot.answers import OrderAnswer
from graph.spot.books import ExchangeBooks
from graph.spot.rules import Market
from graph.spot.trades import Trades
from tests.graph.spot.stub import Script, play, refusal, reply
from tests.graph.spot.test_trades import row

D = Decimal
NAME = "hf" + "a" * 26
MARKETS = {"BTCUSDT": Market("BTCUSDT", "BTC", "USDT", Grid())}


def order(number, name=NAME, executed="1", status="FILLED", side="BUY", **more):
    return {
        "symbol": "BTCUSDT", "orderId": number, "clientOrderId": name, "side": side, "status": status,
        "executedQty": executed,
    } | more  # fmt: skip


def account(**balances):
    return reply({"balances": [{"asset": asset, "free": free, "locked": "0"} for asset, free in balances.items()]})


def firsts(script, path, name):
    asked = [each.query for each in script.asked if each.path == path]
    return [query.partition(f"{name}=")[2].partition("&")[0] for query in asked]


def executed(script, times=1):
    async def story(desk):
        books = ExchangeBooks(desk.rest, Trades(desk.rest), MARKETS)
        for _ in range(times):
            found = await books.executed()
        return dict(found)

    return play(story, script)


def test_what_was_executed_by_our_ids():
    rows = [
        order(1),
        order(2, f"{NAME}-2", "0.5", "CANCELED", "SELL"),
        order(3, "web_1"),
        order(4, f"{NAME}-3", "0", "CANCELED"),
    ]
    assert executed(Script(allOrders=reply(rows))) == {
        NAME: ("BTCUSDT", D(1)),
        f"{NAME}-2": ("BTCUSDT", D("-0.5")),
    }


def test_an_id_that_was_executed_twice_counts_twice():
    assert executed(Script(allOrders=reply([order(1), order(2)]))) == {NAME: ("BTCUSDT", D(2))}


def test_pages_are_read_to_their_end_and_what_is_over_is_not_read_again(monkeypatch):
    monkeypatch.setattr(module, "PAGE", 2)
    script = Script(
        allOrders=[
            reply([order(1), order(2, f"{NAME}-2")]),
            reply([order(5, f"{NAME}-3", "0", "NEW"), order(6, f"{NAME}-4")]),
            reply([]),
            reply([order(5, f"{NAME}-3", "3"), order(6, f"{NAME}-4")]),
            reply([]),
        ]
    )
    found = executed(script, 2)
    assert firsts(script, "allOrders", "orderId") == ["0", "3", "7", "3", "7"]
    assert {name: quantity for name, (_, quantity) in found.items()} == {
        NAME: 1, f"{NAME}-2": 1, f"{NAME}-3": 3, f"{NAME}-4": 1,
    }  # fmt: skip


def test_what_was_filled_late_is_known_when_it_was_looked_up():
    async def story(desk):
        books = ExchangeBooks(desk.rest, Trades(desk.rest), MARKETS)
        await books.executed()
        books.moved(OrderAnswer("BTCUSDT", 1, NAME, "BUY", "FILLED", "2"))
        books.moved(OrderAnswer("BTCUSDT", 77, "web_1", "BUY", "FILLED", "2"))
        return dict(await books.executed())

    script = Script(allOrders=[reply([order(1, status="CANCELED")]), reply([])])
    assert play(story, script) == {NAME: ("BTCUSDT", D(2))}


@pytest.mark.parametrize(
    "answer",
    [
        reply([order(2), order(1)]),
        reply([order(1), order(1)]),
        reply([order(1, symbol="ETHUSDT")]),
        reply([order(1, status="GONE")]),
        reply([order(1, side="HOLD")]),
        reply([order(1, executed="x")]),
        reply([{}]),
        refusal(-2015, status=401),
    ],
)
def test_orders_that_cannot_be(answer):
    with pytest.raises(BrokerUnavailable):
        executed(Script(allOrders=answer))


def holdings(script, times=1):
    async def story(desk):
        books = ExchangeBooks(desk.rest, Trades(desk.rest), MARKETS)
        return [await books.holdings() for _ in range(times)][-1]

    return play(story, script)


def test_holdings_are_what_trades_come_to_before_fees_whatever_was_there_before():
    script = Script(
        myTrades=[reply([row(1, "2"), row(2, "0.5", buys=False, asset="USDT")]), reply([])],
        account=account(BTC="11.499", USDT="5"),
    )
    assert holdings(script) == {"BTCUSDT": D("1.5")}


def test_what_comes_and_goes_otherwise_is_a_difference():
    script = Script(
        myTrades=[reply([row(1, "2")]), reply([]), reply([row(2, "1")]), reply([])],
        account=[account(BTC="11.999"), account(BTC="8.998")],
    )
    assert holdings(script, 2) == {"BTCUSDT": D(-1)}


def test_what_is_traded_meanwhile_is_read_again():
    script = Script(
        myTrades=[reply([row(1)]), reply([row(2)]), reply([]), reply([])],
        account=[account(BTC="0.999"), account(BTC="1.998")],
    )
    assert holdings(script) == {"BTCUSDT": D(2)}
    assert script.paths().count("account") == 2


def test_what_is_traded_in_too_fast_cannot_be_counted():
    numbers = iter(range(1_000))
    script = Script(myTrades=lambda: reply([row(next(numbers))]), account=account(BTC="1"))
    assert holdings(script) is None


def test_trades_are_read_on_from_where_they_were(monkeypatch):
    monkeypatch.setattr(of_trades, "PAGE", 2)
    script = Script(myTrades=[reply([row(1), row(7)]), reply([]), reply([])], account=account(BTC="1"))
    holdings(script)
    assert firsts(script, "myTrades", "fromId") == ["0", "8", "8"]


@pytest.mark.parametrize("answer", [refusal(-2015, status=401), reply({}), account(BTC="NaN")])
def test_an_account_that_does_not_tell(answer):
    with pytest.raises(BrokerUnavailable):
        holdings(Script(myTrades=reply([]), account=answer))
