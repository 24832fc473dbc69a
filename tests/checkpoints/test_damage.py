"""Rows that cannot be what was written: each is named where it is read, used by nobody, and hides no other."""

from decimal import Decimal

import pytest
from sqlalchemy import text

from agents.clock import ReplayClock
from agents.domain import OrderStatus
from agents.errors import LeaseLost, StorageError
from checkpoints.audit import Audit
from checkpoints.database import Database
from checkpoints.events import Entry, Timeline
from checkpoints.ledger import OrderLedger
from checkpoints.retention import Retention
from checkpoints.runs import RunStatus
from checkpoints.trouble import legible
from tests.checkpoints.homes import Home
from tests.checkpoints.test_ledger import intent, traded

HOUR_NS = 3_600_000_000_000
LATER_NS = 10 * HOUR_NS


@pytest.fixture
def home(address, tmp_path):
    made = Home(address, tmp_path / "home", ReplayClock(HOUR_NS))
    yield made
    made.close()


def damage(home, table, column, value, where="1 = 1"):
    statement = text(f"UPDATE {table} SET {column} = :value WHERE {where}")  # noqa: S608 - names of this file
    home.database.write(lambda connection: connection.execute(statement, {"value": value}))


def takes_text(home, column):
    """A server has no text in a column of numbers."""
    numbers = {"as_of_ns", "created_ns", "updated_ns", "token", "leased_until_ns", "number", "version"}
    if column in numbers and home.database._dialect.begin_write != "BEGIN IMMEDIATE":
        pytest.skip("a server has no text in such a column")


async def claimed(home, run_id):
    async with home.manager.claim(run_id) as hold:
        return hold.run


class TestRuns:
    WRONG = (
        ("status", "fin1shed"),
        ("fingerprint", "{"),
        ("fingerprint", "[]"),
        ("parameters", "5"),
        ("as_of_ns", "noon"),
        ("created_ns", "noon"),
        ("updated_ns", "noon"),
        ("leased_until_ns", "noon"),
    )

    @pytest.mark.parametrize(("column", "value"), WRONG)
    async def test_it_is_named_and_the_others_are_listed(self, home, column, value):
        one, two = await home.played(), await home.played("OTHER")
        takes_text(home, column)
        damage(home, "runs", column, value, f"run_id = '{one.run_id}'")
        for use in (claimed(home, one.run_id), home.manager.run(one.run_id)):
            with pytest.raises(StorageError, match=rf"stored run is damaged \('{one.run_id}'\).* restore the data"):
                await use
        first, second = await home.manager.runs()
        assert (first.run_id, first.status) == (one.run_id, RunStatus.DAMAGED)
        assert first.error.startswith(f"a stored run is damaged ('{one.run_id}')")
        assert second == await home.manager.run(two.run_id)

    @pytest.mark.parametrize("column", ["token", "leased_until_ns"])
    async def test_nobody_can_claim_it_and_others_go_on(self, home, column):
        one, two = await home.played(), await home.played("OTHER", RunStatus.STOPPED)
        takes_text(home, column)
        damage(home, "runs", column, "x", f"run_id = '{one.run_id}'")
        with pytest.raises(StorageError, match="a stored run is damaged"):
            await claimed(home, one.run_id)
        async with home.manager.claim(two.run_id):
            assert two.run_id in await home.manager.held_runs()

    async def test_who_holds_it_writes_nothing_more(self, home):
        takes_text(home, "token")
        async with home.beginning() as hold:
            damage(home, "runs", "token", "x")
            with pytest.raises(LeaseLost):
                await home.play(hold.run.run_id, {"notes": ["begun"], "text": ""})

    @pytest.mark.parametrize("column", ["updated_ns", "leased_until_ns"])
    async def test_it_is_not_pruned_and_the_others_are(self, home, column):
        one, two = await home.played(), await home.played("OTHER")
        takes_text(home, column)
        damage(home, "runs", column, "x", f"run_id = '{one.run_id}'")
        home.clock.advance_to(LATER_NS)
        pruned = await Retention(home.database, home.leases, home.folder, home.clock).prune(HOUR_NS)
        assert list(pruned.runs) == [two.run_id]

    async def test_no_run_is_registered_after_a_number_that_is_none(self, home):
        await home.played()
        takes_text(home, "number")
        damage(home, "runs", "number", "x")
        with pytest.raises(StorageError, match="a stored run is damaged"):
            await home.played("OTHER")


class TestLedger:
    ORDERS = (
        ("status", "fi11ed"),
        ("side", "bxy"),
        ("type", ""),
        ("quantity", "1O"),
        ("reference_price", "NaN"),
        ("limit_price", "x"),
        ("checks", "[{}]"),
        ("checks", "["),
    )

    @pytest.fixture
    async def order(self, home):
        await home.ledger.open_account("paper", Decimal(1000))
        wanted = intent("run-1")
        await traded(home.ledger, wanted, "t1")
        return wanted

    @pytest.mark.parametrize(("column", "value"), ORDERS)
    async def test_an_order(self, home, order, column, value):
        damage(home, "orders", column, value)
        with pytest.raises(StorageError, match=rf"a stored order is damaged \('{order.intent_id}'\)"):
            await home.ledger.orders("run-1")

    async def test_a_fill_whose_number_is_none(self, home, order):
        takes_text(home, "number")
        damage(home, "fills", "number", "x")
        with pytest.raises(StorageError, match=r"a stored fill is damaged \('t1'\)"):
            await OrderLedger(home.database).portfolio("paper")

    @pytest.mark.parametrize(("column", "value"), [("side", "sel1"), ("quantity", "two"), ("price", "-"), ("fee", "")])
    async def test_a_fill(self, home, order, column, value):
        damage(home, "fills", column, value)
        readers = [home.ledger.portfolio("paper"), home.ledger.orders("run-1")]
        readers += [home.ledger.executed()] if column in {"side", "quantity"} else []
        for reading in readers:
            with pytest.raises(StorageError, match="a stored fill is damaged"):
                await reading

    async def test_what_the_books_are_compared_by(self, home, order):
        damage(home, "orders", "status", "fi11ed")
        with pytest.raises(StorageError, match=rf"a stored order is damaged \('{order.intent_id}'\)"):
            await home.ledger.executed()

    @pytest.mark.parametrize("value", ["x", "", "1e"])
    async def test_an_account(self, home, order, value):
        damage(home, "accounts", "opening_cash", value)
        with pytest.raises(StorageError, match=r"a stored account is damaged \('paper'\)"):
            await OrderLedger(home.database).portfolio("paper")

    async def test_an_order_that_others_are_measured_against(self, home, order):
        damage(home, "orders", "status", OrderStatus.OPEN)
        damage(home, "orders", "quantity", "x")
        with pytest.raises(StorageError, match="a stored order is damaged"):
            await home.ledger.account(intent("run-2"))


class TestRest:
    @pytest.mark.parametrize("value", ["", "5", "null", "[1]", "{", "[" * 100_000])
    async def test_an_entry_of_the_timeline_is_shown_as_it_is(self, home, value):
        timeline = Timeline(home.database)
        await timeline.append([Entry("r", 1, "Begun"), Entry("r", 2, "Ended", detail={"a": 1})])
        damage(home, "timeline", "detail", value, "number = 1")
        first, second = await timeline.entries("r")
        assert (first.kind, first.detail) == ("Begun", {"unreadable": value})
        assert second.detail == {"a": 1}

    async def test_the_head_of_the_audit_log(self, home):
        takes_text(home, "number")
        damage(home, "audit_head", "number", "x")
        found = await Audit(home.database).verify()
        assert (found.at, found.wrong) == (
            1,
            "its head has no number: whether the log ends with entry 0 is not known",
        )

    def test_the_version_of_the_tables(self, home, address):
        takes_text(home, "version")
        damage(home, "holdfast_schema", "version", "x")
        with pytest.raises(StorageError, match="a stored version of the tables is damaged"):
            Database.open(address)

    def test_only_what_a_wrong_value_makes_is_taken_for_damage(self):
        @legible("thing", lambda row: row[0])
        def read(row):
            raise row[1]

        for error in (ValueError("x"), TypeError("x"), KeyError("x"), ArithmeticError("x"), RecursionError("x")):
            with pytest.raises(StorageError, match=rf"a stored thing is damaged \('a'\): {type(error).__name__}"):
                read(("a", error))
        for error in (OSError("x"), StorageError("x"), KeyboardInterrupt()):
            with pytest.raises(type(error)) as caught:
                read(("a", error))
            assert caught.value is error
