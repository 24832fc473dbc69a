"""What outlives the exchange."""

import pytest

from agents.errors import StorageError
from graph.exchange.journal import FileJournal
from tests.graph.exchange.conftest import Shop


def states(opened):
    registry = opened.exchange.venue.registry(opened.client.key, "BTCUSDT")
    return [(order.client_id, order.number, order.status, order.executed, order.executions) for order in registry]


def balances(opened):
    return opened.exchange.venue.accounts[opened.client.key].balances


def test_orders_executions_and_balances_are_what_they_were(tmp_path):
    journal = FileJournal(tmp_path / "books.db")
    before = Shop(journal=journal)
    before.go(0.2)
    before.order("BUY", "2.5", newClientOrderId="done")
    before.order("BUY", "1", "39000", newClientOrderId="rests")
    before.order("SELL", "1", type="STOP_LOSS", stopPrice="35000", newClientOrderId="waits")
    before.order("BUY", "1", "38000", newClientOrderId="gone")
    before.ask("DELETE", "order", signed=True, symbol="BTCUSDT", origClientOrderId="gone")
    journal.close()

    again = FileJournal(tmp_path / "books.db")
    past = again.past()
    after = Shop(journal=again, past=past)
    assert states(after) == states(before)
    assert balances(after) == balances(before)
    assert past.prices["BTCUSDT"] == before.engine.recent[-1].price or past.prices["BTCUSDT"] > 0
    after.go(0.2)
    names = [each["clientOrderId"] for each in after.ask("GET", "openOrders", signed=True).json]
    assert names == ["rests", "waits"]
    cancelled = after.ask("DELETE", "order", signed=True, symbol="BTCUSDT", origClientOrderId="rests")
    assert cancelled.json["status"] == "CANCELED"
    again.close()


def test_a_file_that_cannot_be_used(tmp_path):
    with pytest.raises(StorageError):
        FileJournal(tmp_path)
