"""Executions as fills: by number, all of them, with their fees in the quote currency."""

from decimal import Decimal

import pytest

from agents.domain import Side
from agents.errors import BrokerUnavailable
from graph.grid import Grid
from graph.spot import trades as module
from graph.spot.answers import OrderAnswer
from graph.spot.rules import Market
from graph.spot.trades import Execution, Trades, fill_of
from tests.graph.spot.stub import Script, play, refusal, reply

D = Decimal
MARKET = Market("BTCUSDT", "BTC", "USDT", Grid())


def row(number, qty="1", order=5, *, fee="0.001", asset="BTC", symbol="BTCUSDT", buys=True):
    return {
        "symbol": symbol, "id": number, "orderId": order, "price": "100", "qty": qty, "quoteQty": "100",
        "commission": fee, "commissionAsset": asset, "time": 7, "isBuyer": buys,
    }  # fmt: skip


def order(executed="1", **more):
    given = {"fills": []} | more
    return OrderAnswer("BTCUSDT", 5, "me", "BUY", "FILLED", executed, update_time=7, **given)


def read(script, executed="1"):
    async def story(desk):
        return await Trades(desk.rest).of_order(order(executed), MARKET)

    return play(story, script)


@pytest.mark.parametrize(
    ("asset", "fee", "worth"), [("BTC", "0.001", "0.1"), ("USDT", "0.25", "0.25"), ("BNB", "0", "0")]
)
def test_a_fee_is_worth_something_in_the_quote_currency(asset, fee, worth):
    (fill,) = read(Script(myTrades=reply([row(9, fee=fee, asset=asset)])))
    assert (fill.trade_id, fill.fee, fill.time_ns) == ("BTCUSDT-9", D(worth), 7_000_000)


def test_a_fee_in_a_third_currency_is_worth_what_that_last_traded_at():
    script = Script(
        myTrades=reply([row(8, "0.5", asset="BNB"), row(9, "0.5", asset="BNB")]),
        **{"ticker/price": reply({"symbol": "BNBUSDT", "price": "600"})},
    )
    assert [fill.fee for fill in read(script)] == [D("0.6"), D("0.6")]
    assert script.paths().count("ticker/price") == 1


def test_a_fee_in_a_currency_without_a_price_counts_as_nothing_and_is_told():
    async def story(desk):
        trades = Trades(desk.rest)
        (fill,) = await trades.of_order(order(), MARKET)
        return fill.fee, dict(trades.unvalued)

    script = Script(myTrades=reply([row(9, asset="XYZ")]), **{"ticker/price": refusal(-1121)})
    assert play(story, script) == (0, {"XYZ": 1})


def test_without_a_rate_there_is_no_fill():
    done = Execution("me", 1, Side.BUY, D(1), D(100), D("0.1"), "BNB", 7)
    assert fill_of(done, MARKET) is None
    assert fill_of(done, MARKET, D(3)).fee == D("0.3")


def test_pages_are_read_to_their_end(monkeypatch):
    monkeypatch.setattr(module, "PAGE", 2)
    script = Script(myTrades=[reply([row(1), row(2)]), reply([row(3), row(9)]), reply([])])
    assert [fill.trade_id for fill in read(script, "4")] == [f"BTCUSDT-{number}" for number in (1, 2, 3, 9)]
    assert [each.query.partition("fromId=")[2].partition("&")[0] for each in script.asked[1:]] == ["0", "3", "10"]


@pytest.mark.parametrize(
    "answer",
    [
        reply([]),
        reply([row(9, "0.5")]),
        reply([row(9, order=6)]),
        reply([row(9, symbol="ETHUSDT")]),
        reply([row(9, "0.5"), row(9, "0.5")]),
        reply([row(9, "0.5"), row(8, "0.5")]),
        reply([row(9, "-1")]),
        reply([row(9, "0")]),
        reply([row(9, fee="x")]),
        reply([{"id": 1}]),
        reply({}),
        refusal(-1003, status=429),
        refusal(-2015, status=401),
    ],
)
def test_trades_that_are_not_all_or_cannot_be(answer):
    with pytest.raises(BrokerUnavailable):
        read(Script(myTrades=answer))


def test_an_answer_whose_fills_are_not_all_is_none():
    async def story(desk):
        with pytest.raises(BrokerUnavailable, match="did not tell all trades"):
            await Trades(desk.rest).of_answer(order(fills=[]), MARKET)

    play(story)
