"""The paper broker's books: those of before are brought up to date, and their damage is mended as any file's."""

import json
import sqlite3
from contextlib import closing
from decimal import Decimal

import pytest

from agents.clock import ReplayClock
from agents.domain import OrderStatus, Side
from agents.errors import StorageError
from checkpoints.database import Database
from graph.paper import PaperBroker
from graph.paper.books import tables
from graph.recovery import open_home
from tests.checkpoints.test_backup import DAMAGES
from tests.checkpoints.test_migrations import contents, shape, version
from tests.graph.paper.market import BARE, SEEN_NS, intent, quote


def detail(run_id, reference, limit):
    """As it was kept beside the columns."""
    order = {"run_id": run_id, "leg": "entry", "account": "paper", "decision": 0}
    return json.dumps(order | {"reference_price": reference, "limit_price": limit})


BOUGHT = intent(quantity="1.50", reference_price=Decimal("99.9"))
LIMITED = intent("run-2", Side.SELL, "3", limit="1E+2")
OLD = intent("run-3")
FIRST = """
CREATE TABLE paper_orders (
    client_order_id VARCHAR(32) NOT NULL, number INTEGER NOT NULL, symbol VARCHAR(32) NOT NULL,
    side VARCHAR(4) NOT NULL, quantity VARCHAR(64) NOT NULL, price VARCHAR(64) NOT NULL, fee VARCHAR(64) NOT NULL,
    time_ns VARCHAR(32) NOT NULL, detail TEXT NOT NULL, PRIMARY KEY (client_order_id), UNIQUE (number)
);
"""
ROWS = [
    (BOUGHT.intent_id, 1, "SIM", "buy", "1.50", "99.92", "0.014988", str(SEEN_NS), detail("run-1", "99.9", None)),
    (LIMITED.intent_id, 2, "SIM", "sell", "3", "100", "0.03", str(SEEN_NS), detail("run-2", "100", "1E+2")),
    (OLD.intent_id, 3, "SIM", "buy", "2", "100", "0.02", str(SEEN_NS), "{}"),
]
VERSIONED = "CREATE TABLE holdfast_schema (version INTEGER NOT NULL); INSERT INTO holdfast_schema VALUES (1);"


@pytest.fixture(params=["", VERSIONED], ids=["unversioned", "versioned"])
def first(request, tmp_path):
    """Books as the first versions left them: two orders that were kept whole, and one of before that."""
    path = tmp_path / "broker.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(FIRST + request.param)
        connection.executemany("INSERT INTO paper_orders VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", ROWS)
        connection.commit()
    return path


class TestFirstBooks:
    def test_they_become_what_new_ones_are(self, first, tmp_path):
        with Database.open(first, tables) as old, Database.open(tmp_path / "new.db", tables) as new:
            assert shape(old) == shape(new)
            assert version(old) == version(new) == 2

    async def test_every_order_is_as_it_was(self, first):
        broker = PaperBroker.open(first, ReplayClock(SEEN_NS), BARE)
        reports = [await broker.find(order.intent_id) for order in (BOUGHT, LIMITED, OLD)]
        assert [report.status for report in reports] == [OrderStatus.FILLED] * 3
        assert [report.broker_order_id for report in reports] == ["paper-1", "paper-2", "paper-3"]
        fills = [fill for report in reports for fill in report.fills]
        assert [fill.trade_id for fill in fills] == [f"paper-{each.intent_id}-1" for each in (BOUGHT, LIMITED, OLD)]
        assert [str(fill.price) for fill in fills] == ["99.92", "100", "100"]
        assert [str(fill.fee) for fill in fills] == ["0.014988", "0.03", "0.02"]
        assert {fill.time_ns for fill in fills} == {SEEN_NS}
        assert await broker.executed() == {
            BOUGHT.intent_id: ("SIM", Decimal("1.50")),
            LIMITED.intent_id: ("SIM", Decimal(-3)),
            OLD.intent_id: ("SIM", Decimal(2)),
        }
        assert [await broker.intent(order.intent_id) for order in (BOUGHT, LIMITED, OLD)] == [BOUGHT, LIMITED, None]
        broker.database.close()

    async def test_no_order_of_theirs_is_executed_again(self, first):
        broker = PaperBroker.open(first, ReplayClock(SEEN_NS), BARE)
        for order in (BOUGHT, LIMITED, OLD):
            assert (await broker.send(order)).status is OrderStatus.FILLED
        assert await broker.on_quote(quote("100")) == {}
        assert (await broker.send(intent("run-4"))).broker_order_id == "paper-4"
        broker.database.close()

    def test_the_file_as_it_was_is_kept(self, first):
        before = contents(first)
        Database.open(first, tables).close()
        (kept,) = [each for each in (first.parent / "backups").iterdir() if each.name != "lock"]
        assert kept.name.endswith(".schema-1")
        assert contents(kept) == before

    def test_a_later_version_is_left_alone(self, tmp_path):
        Database.open(tmp_path / "broker.db", tables).close()
        with closing(sqlite3.connect(tmp_path / "broker.db")) as connection:
            connection.execute("UPDATE holdfast_schema SET version = 3")
            connection.commit()
        with pytest.raises(StorageError, match="this program knows versions 1 to 2"):
            PaperBroker.open(tmp_path / "broker.db")


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_resting_order_outlives_the_damage_of_its_file(tmp_path, damage):
    order, clock = intent(limit="50"), ReplayClock(SEEN_NS)
    home = open_home(tmp_path, clock, terms=BARE)
    await home.broker.send(order)
    _close(home)
    assert home.back_up(ending=True) == []
    home.close()
    DAMAGES[damage](tmp_path / "broker.db")
    again = open_home(tmp_path, clock, terms=BARE)
    (loss,) = again.losses
    assert (loss.name, bool(loss.backup)) == ("broker.db", True)
    assert order.intent_id in await again.broker.on_quote(quote("50"))
    _close(again)
    again.close()


def _close(home):
    home.broker.database.close()
    home.database.close()
