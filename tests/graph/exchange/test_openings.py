"""How an exchange is opened."""

import numpy as np

from agents.bars import Bars
from graph.exchange.fixed import parse
from graph.exchange.openings import client_of, opening_of
from graph.exchange.symbols import SYMBOLS
from graph.exchange.venue import Past

NOW = 1_700_000_000 * 10**9


def test_the_client_follows_from_the_seed():
    assert (client_of(7).key, client_of(7).secret) == (client_of(7).key, client_of(7).secret)
    assert len({client_of(7).key, client_of(7).secret, client_of(8).key}) == 3
    assert client_of(7).balances["BTC"].free == parse("10")


def test_a_file_is_for_the_first_symbol_and_the_last_prices_are_gone_on_from():
    prices = np.full(20, 123.0)
    bars = Bars(np.arange(1, 21, dtype=np.int64) * 60 * 10**9, prices, prices, prices, prices)
    opening = opening_of(7, NOW, bars=bars, past=Past(prices={"ETHUSDT": parse("3000")}))
    first, second = (opening.scripts[rules].history[-1].close for rules in SYMBOLS)
    assert (first, second) == (parse("123"), parse("3000"))
