"""What outlives the exchange."""

import sqlite3
from contextlib import closing

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


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("update exchange_orders set body = '{}'", r"order \d+ of BTCUSDT"),
        ("update exchange_orders set body = 'x'", r"order \d+ of BTCUSDT"),
        ('update exchange_orders set body = replace(body, \'"quantity":\', \'"quantity":"1"+\')', "order"),
        ('update exchange_orders set body = replace(body, \'"executed":0\', \'"executed":"0"\')', "order"),
        ("update exchange_balances set free = '1.5' where asset = 'USDT'", "the balance of USDT"),
    ],
)
def test_a_damaged_row_is_named_in_one_line(tmp_path, change, complaint):
    journal = FileJournal(tmp_path / "books.db")
    opened = Shop(journal=journal)
    opened.go(0.2)
    opened.order("BUY", "1", "39000", newClientOrderId="rests")
    journal.close()
    with closing(sqlite3.connect(tmp_path / "books.db")) as books, books:
        books.execute(change)
    again = FileJournal(tmp_path / "books.db")
    with pytest.raises(StorageError, match=f"{complaint}.*cannot be read.*nothing was started") as error:
        again.past()
    assert "\n" not in str(error.value)
    again.close()
