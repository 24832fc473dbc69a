"""The exchange's filters as a grid."""

from decimal import Decimal

import pytest

from agents.errors import BrokerUnavailable
from graph.exchange.symbols import SYMBOLS
from graph.grid import Grid, Steps
from graph.spot.answers import InfoAnswer, read
from graph.spot.rules import markets
from tests.graph.spot.stub import reply

D = Decimal


def info(*symbols):
    return read("exchangeInfo", reply({"rateLimits": [], "symbols": symbols}).body, InfoAnswer)


def symbol(*filters, **more):
    return {"symbol": "AB", "status": "TRADING", "baseAsset": "A", "quoteAsset": "B", "filters": filters} | more


def test_the_simulated_exchanges_own():
    market = markets(info(SYMBOLS[0].info()))["BTCUSDT"]
    assert (market.base, market.quote) == ("BTC", "USDT")
    lots = Steps(D("0.00001"), D("0.00001"), D(9_000))
    assert market.grid == Grid(lots, lots, Steps(D("0.01"), D("0.01"), D(1_000_000)), D(5), market_worth=True)


def test_older_filters_and_none():
    grid = markets(info(symbol({"filterType": "MIN_NOTIONAL", "minNotional": "10", "applyToMarket": False})))["AB"].grid
    assert (grid.worth_least, grid.market_worth, grid.lots) == (D(10), False, Steps())
    assert markets(info(symbol()))["AB"].grid == Grid()


@pytest.mark.parametrize("number", [None, 5, "NaN", "-1", "1e3", [], "9" * 40])
def test_rules_that_are_none(number):
    with pytest.raises(BrokerUnavailable):
        markets(info(symbol({"filterType": "LOT_SIZE", "stepSize": number})))
