"""Start-up as recovery: whatever became of the files, the books agree before an order goes, and none goes twice."""

import asyncio
import json
import sqlite3
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path

import pytest

from agents.clock import ReplayClock
from agents.domain import Fill, OrderStatus, Side, TradingState
from agents.errors import OrderError, StorageError
from agents.risk import RiskLimits
from checkpoints.database import Database
from checkpoints.ledger import BrokerReport, OrderLedger
from checkpoints.runs import RunStatus
from checkpoints.trading_state import Trading, TradingSwitch
from graph import recovery
from graph.app import App, open_app
from graph.broker import Broker
from graph.command import Command, execute
from graph.comparison import Books, Comparison
from graph.desk import OrderDesk
from graph.paper import PaperBroker
from graph.recovery import Home
from graph.resilience import FaultPlan, Guard
from graph.runner import Market, Runner
from tests.checkpoints.test_backup import DAMAGES
from tests.checkpoints.test_trading_state import HALTED, REDUCING, intent

pytestmark = pytest.mark.usefixtures("no_waiting")

ROOT = Path(__file__).resolve().parents[2]
FIRST, SECOND = "trade-ONE-20260101T000000Z-1", "trade-TWO-20260101T000000Z-1"
OURS = {"required": ("tests.graph.test_runner:bull",), "optional": (), "gate": {"mean_r_min": -100.0}}


@pytest.fixture
def home(settings, tmp_path, monkeypatch, capsys):
    return TheHome(settings(**OURS), tmp_path / "home", monkeypatch, capsys)


class TheHome:
    """A home folder, opened again and again."""

    def __init__(self, settings, folder, monkeypatch, capsys):
        self.settings = settings
        self.folder = folder
        self.main, self.books = folder / "holdfast.db", folder / "broker.db"
        self.monkeypatch = monkeypatch
        self.capsys = capsys

    @asynccontextmanager
    async def open(self, *, backups=True, **more):
        """The application; without `backups` as one that is killed before it makes one at its end."""
        with self.monkeypatch.context() as patch:
            if not backups:
                patch.setattr(Home, "back_up", lambda *_, **__: [])
            async with open_app(self.settings, **more) as app:
                yield app

    async def trade(self, *symbols, **more):
        """One run each, and its one order."""
        async with self.open(**more) as app:
            results = await Runner(app).start_all(Market(symbols, {}, 7))
        return [result.orders[0] for result in results]

    async def execute(self, verb, subject, **more):
        return await asyncio.to_thread(execute, Command(verb, subject, flags={"home": self.folder}, **more))

    def told(self):
        """What a person was told since the last time."""
        return self.capsys.readouterr().err.splitlines()

    def logged(self, kind):
        log = self.folder / "failures.log"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [line for line in lines if line["event"] == kind]

    def without_backups(self):
        for each in (self.folder / "backups").glob("*.0*"):
            each.unlink()


async def state_of(app):
    now = await app.switch.read()
    return now.state, now.code


class TestWhole:
    @pytest.mark.parametrize("damage", ["header zeroed", "cut in half", "a page overwritten", "a letter", "gone"])
    async def test_a_damaged_ledger_is_restored_and_what_it_lost_is_adopted(self, home, damage):
        (first,) = await home.trade("ONE")
        (second,) = await home.trade("TWO", backups=False)
        assert home.told() == []
        DAMAGES[damage](home.main)

        async with home.open() as app:
            (line,) = home.told()
            assert line.startswith("warning: holdfast.db was damaged (")
            assert "holdfast.db.corrupt.2" in line
            assert " and the backup of 2" in line
            assert f"the registry lacks 1 run: {SECOND}; the ledger adopted from the broker 1 order: " in line
            assert f"{second.client_order_id} (buy {second.filled:f} TWO, run {SECOND})" in line
            assert line.endswith("; trading is ACTIVE")
            assert await state_of(app) == (TradingState.ACTIVE, "reconciled")
            assert [run.run_id for run in await app.manager.runs()] == [FIRST]
            assert await app.ledger.orders(FIRST) == (first,)
            (adopted,) = await app.ledger.orders(SECOND)
            assert replace(adopted, reason="", checks=()) == replace(second, checks=())
            for order in (first, second):
                held = (await app.ledger.portfolio(order.intent.account)).position(order.intent.symbol)
                assert (held.quantity, held.average_price) == (order.filled, order.price)
        assert bool(list(home.folder.glob("holdfast.db.corrupt.*"))) is (damage != "gone")
        (lost,) = home.logged("FileRestored")
        assert (lost["name"], lost["runs"]) == ("holdfast.db", [SECOND])
        assert lost["backup"] in line
        (entry,) = home.logged("OrderAdopted")
        assert (entry["order"], entry["of_run"]) == (second.client_order_id, SECOND)
        assert home.logged("TradingState")[0]["why"].startswith("the books agree; 1 orders were adopted")

        async with home.open() as app:  # the same decision once more
            (result,) = await Runner(app).start_all(Market(("TWO",), {}, 7))
            assert [order.client_order_id for order in result.orders] == [second.client_order_id]
            assert len(await app.broker.orders()) == 2
        assert home.told() == []

    async def test_a_run_that_goes_on_from_before_its_order_finds_it_adopted(self, home):
        async with home.open(faults=FaultPlan.parse(["synthesis=error"])) as app:
            (failed,) = await Runner(app).start_all(Market(("ONE",), {}, 7))
        async with home.open(backups=False) as app:
            done = await Runner(app).resume(FIRST)
            assert (failed.run.status, done.orders[0].status) == (RunStatus.FAILED, OrderStatus.FILLED)
        DAMAGES["header zeroed"](home.main)
        async with home.open() as app:
            assert (await app.manager.run(FIRST)).status is RunStatus.FAILED
            again = await Runner(app).resume(FIRST)
            assert again.run.status is RunStatus.FINISHED
            assert [order.client_order_id for order in again.orders] == [done.orders[0].client_order_id]
            assert again.portfolio.positions == done.portfolio.positions
            assert len(await app.broker.orders()) == 1

    async def test_without_a_backup_it_begins_anew_with_what_the_broker_knows(self, home):
        orders = await home.trade("ONE", "TWO", backups=False)
        DAMAGES["a letter"](home.main)
        async with home.open() as app:
            (line,) = home.told()
            assert "is begun anew: there was no good backup" in line
            assert (
                f"the registry lacks 2 runs: {FIRST}, {SECOND}; the ledger adopted from the broker 2 orders: " in line
            )
            assert await state_of(app) == (TradingState.ACTIVE, "reconciled")
            for order in orders:
                portfolio = await app.ledger.portfolio(order.intent.account)
                assert portfolio.position(order.intent.symbol).quantity == order.filled
                assert portfolio.cash == home.settings.cash - order.filled * order.price - order.fee

    async def test_until_the_books_are_compared_trading_is_reducing_even_if_the_start_dies(self, home, monkeypatch):
        await home.trade("ONE")
        DAMAGES["a letter"](home.main)

        def dies(*_, **__):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(recovery.Database, "open", dies)
            with pytest.raises(KeyboardInterrupt):
                App.open(home.settings)
        with monkeypatch.context() as patch:
            patch.setattr(PaperBroker, "open", dies)
            with pytest.raises(KeyboardInterrupt):
                App.open(home.settings)
        app = App.open(home.settings)
        assert [loss.name for loss in app.home.losses] == ["holdfast.db"]
        assert await state_of(app) == (TradingState.REDUCING, "restored_backup")
        app.close()
        app = App.open(home.settings)
        assert (app.home.losses, await state_of(app)) == ((), (TradingState.REDUCING, "restored_backup"))
        await app.recover()
        assert await state_of(app) == (TradingState.ACTIVE, "reconciled")
        app.close()

    async def test_damage_that_is_met_is_looked_for_by_the_next_start(self, home, monkeypatch):
        await home.trade("ONE")
        monkeypatch.setattr("checkpoints.backup._SMALL_BYTES", 0)
        monkeypatch.setattr("checkpoints.backup._is_due", lambda *_, **__: False)
        async with home.open() as app:
            overwritten = 4096 * (home.main.stat().st_size // 4096 - 4)
            with home.main.open("r+b") as file:
                file.seek(overwritten)
                file.write(b"J" * 4096 * 4)
            app.database.close()
            app.database = app.home.database  # the closed one: what it met is known
            app.database.damaged = True
        async with home.open() as app:
            assert [loss.name for loss in app.home.losses] == ["holdfast.db"]
        (line,) = home.told()
        assert line.endswith("trading is ACTIVE")


class TestMismatch:
    async def test_a_broker_that_lost_its_books_leaves_trading_reducing_until_an_operator_says_so(self, home):
        (first,) = await home.trade("ONE")
        await home.trade("TWO", backups=False)
        home.without_backups()
        DAMAGES["a letter"](home.books)
        for start in range(2):
            async with home.open() as app:
                assert await state_of(app) == (TradingState.REDUCING, "reconciliation")
            (line,) = home.told()
            assert line.startswith(
                "warning: broker.db was damaged (file is" if start == 0 else "warning: the ledger and"
            )
            assert "differ in 2 positions: " in line
            assert f"{FIRST} ONE: {first.filled:f} in the ledger, 0 at the broker" in line
            assert f"{first.client_order_id} (the broker has never seen it)" in line
            assert line.endswith('trading is REDUCING; compare the positions with the broker\'s, and let it go on by'
                                 ' --activate "WHY"')  # fmt: skip
        assert {each["client_order_id"] for each in home.logged("BooksDiffer")} > {first.client_order_id}
        (refused,) = await home.trade("THREE")
        assert refused.status is OrderStatus.DENIED
        (check,) = [each for each in refused.checks if not each.passed]
        assert (check.name, check.value, check.limit) == ("trading_state", "reducing", "closes at most 0")
        assert "only what closes a position goes" in refused.reason

        home.told()
        assert await home.execute("activate", " ") == 2
        assert home.told() == ["error: --activate needs a reason; nothing was changed; say why trading may go on"]
        assert await home.execute("activate", "books were lost", json=True) == 0
        said = json.loads(home.capsys.readouterr().out)
        assert (said["trading"], said["was"], said["accepted"]) == ("active", "reducing", 2)
        async with home.open() as app:
            now = await app.switch.read()
            assert (now.state, now.code, now.why) == (TradingState.ACTIVE, "operator", "books were lost")
            assert now.who
        assert home.told() == []
        (traded,) = await home.trade("THREE")
        assert traded.status is OrderStatus.FILLED
        with closing(sqlite3.connect(home.books)) as connection:
            connection.execute("DELETE FROM paper_orders")
            connection.commit()
        async with home.open() as app:
            assert await state_of(app) == (TradingState.REDUCING, "reconciliation")
        (line,) = home.told()
        assert "differ in 1 position: " in line

    async def test_an_order_of_which_the_broker_has_not_kept_whose_it_is(self, home):
        (order,) = await home.trade("ONE", backups=False)
        with closing(sqlite3.connect(home.books)) as connection:  # as the first version kept it
            connection.execute("UPDATE paper_orders SET detail = json_object('run_id', ?, 'leg', 'entry')", (FIRST,))
            connection.commit()
        home.main.unlink()
        async with home.open() as app:
            assert await state_of(app) == (TradingState.REDUCING, "reconciliation")
        (line,) = home.told()
        assert "of an unknown account ONE: 0 in the ledger, " in line
        assert f"{order.client_order_id} (the broker has not kept whose it is)" in line
        assert await home.execute("activate", "flat by hand") == 0
        why = home.logged("TradingState")[0]["why"]
        assert home.capsys.readouterr().out == (
            "trading is ACTIVE: every order goes that passes its checks; it was REDUCING (reconciliation, holdfast:"
            f" {why}); 1 differences to the broker's books were accepted\n"
        )
        async with home.open() as app:
            assert await state_of(app) == (TradingState.ACTIVE, "operator")

    async def test_quantities_that_differ_and_a_fate_that_does(self, home):
        orders = await home.trade("ONE", "TWO")
        with closing(sqlite3.connect(home.main)) as connection:
            connection.execute("UPDATE fills SET quantity = '1' WHERE symbol = 'ONE'")
            connection.execute("DELETE FROM fills WHERE symbol = 'TWO'")
            connection.execute("UPDATE orders SET status = 'rejected' WHERE symbol = 'TWO'")
            connection.commit()
        async with home.open() as app:
            found = await app.books().compare()
        assert {each.client_order_id: (each.ledger, each.broker) for each in found.differences} == {
            orders[0].client_order_id: (1, orders[0].filled),
            orders[1].client_order_id: (0, orders[1].filled),
        }
        assert {each.why.split(";")[0] for each in found.differences} == {
            "not the same quantity was filled",
            f"order {orders[1].client_order_id} is rejected and cannot become filled",
        }
        assert found.positions == tuple(
            (order.intent.account, order.intent.symbol, each, order.filled)
            for order, each in zip(orders, (Decimal(1), Decimal(0)), strict=True)
        )

    @pytest.mark.parametrize("theirs", [HALTED, replace(REDUCING, code="operator")])
    async def test_what_an_operator_has_set_is_left_alone(self, home, theirs):
        async with home.open() as app:
            assert await app.switch.set(theirs, instead_of=await app.switch.read())
        for again in (False, True):
            if again:
                DAMAGES["a letter"](home.main)
            async with home.open() as app:
                assert await app.switch.read() == theirs


class TestBackups:
    async def test_one_is_made_when_it_ends_and_only_if_something_changed(self, home):
        await home.trade("ONE")
        made = sorted(each.name for each in (home.folder / "backups").iterdir())
        assert [name.split(".2")[0] for name in made] == ["broker.db.000001", "holdfast.db.000001", "lock"]
        async with home.open() as app:
            await app.manager.runs()
        assert sorted(each.name for each in (home.folder / "backups").iterdir()) == made

    async def test_a_long_process_makes_one_now_and_then(self, home):
        clock = ReplayClock(10**18)
        async with home.open(clock=clock) as app:
            app.back_up()
            await app.ledger.open_account("more", Decimal(1))
            app.back_up()
            assert len(list((home.folder / "backups").glob("holdfast.db.0*"))) == 1
            clock.advance_to(10**18 + 601 * 10**9)
            app.back_up()
            assert len(list((home.folder / "backups").glob("holdfast.db.0*"))) == 2

    async def test_one_that_cannot_be_made_is_one_warning_and_stops_nothing(self, home):
        home.folder.mkdir()
        (home.folder / "backups").write_text("in the way")
        async with home.open() as app:
            app.back_up()
            (line,) = home.told()
            assert line.startswith(f"warning: {home.main} could not be backed up (")
            assert line.endswith("; trading goes on without")
            (result,) = await Runner(app).start_all(Market(("ONE",), {}, 7))
            assert result.orders[0].status is OrderStatus.FILLED
        assert home.told() == []
        assert len(home.logged("BackupFailed")) == 4


class TestFirstVersion:
    """A home that the first version left: an order, and a run that was interrupted."""

    @pytest.fixture
    def home(self, settings, tmp_path, monkeypatch, capsys):
        folder = tmp_path / "home"
        folder.mkdir()
        dumps = {"holdfast.db": ROOT / "tests/checkpoints/schema_1.sql", "broker.db": ROOT / "tests/graph/broker_1.sql"}
        for name, dump in dumps.items():
            with closing(sqlite3.connect(folder / name)) as connection:
                connection.executescript(dump.read_text())
        return TheHome(settings(), folder, monkeypatch, capsys)

    async def test_its_run_goes_on_and_ends_as_it_would_have(self, home):
        async with home.open() as app:
            assert await state_of(app) == (TradingState.ACTIVE, "new")
            first, second = await app.manager.runs()
            assert (first.status, second.status) == (RunStatus.FINISHED, RunStatus.INTERRUPTED)
            reported = await Runner(app).resume(first.run_id)
            assert (reported.action, len(reported.checkpoints), len(reported.state["findings"])) == ("BUY", 8, 2)
        async with home.open() as app:
            result = await Runner(app).resume(second.run_id)
            assert (result.run.status, result.action) == (RunStatus.FINISHED, "BUY")
            (before,), (after,) = reported.orders, result.orders
            assert (after.filled, after.price, after.status) == (before.filled, before.price, OrderStatus.FILLED)
            assert len(await app.broker.orders()) == 2
        assert home.told() == []


@dataclass
class Mute(Broker):
    """A broker that finds orders, and cannot tell which it executed."""

    known: dict[str, BrokerReport] = field(default_factory=dict)
    idempotent: bool = False
    sent: list[str] = field(default_factory=list)

    async def executed(self):
        return None

    async def intent(self, client_order_id):
        return None

    async def find(self, client_order_id):
        return self.known.get(client_order_id)

    async def send(self, order):
        self.sent.append(order.intent_id)
        raise ConnectionError("the line is dead")


class Slow(Mute):
    """A broker that has told what it executed before it executed the rest."""

    async def executed(self):
        return {}


def report(order):
    fill = Fill("t1", order.intent_id, order.symbol, order.side, order.quantity, Decimal(100), Decimal(0), 1)
    return BrokerReport(OrderStatus.FILLED, "b1", (fill,))


@pytest.fixture
async def books():
    with Database.open(":memory:", inline=True) as database:
        ledger = OrderLedger(database)
        await ledger.open_account("paper", Decimal(10_000))
        yield Books(ledger, Mute(), TradingSwitch(database), ReplayClock(9), Decimal(10_000))


class TestOtherBrokers:
    async def test_one_that_cannot_tell_leaves_trading_reducing_after_a_restore(self, books):
        assert await books.reconcile() == (Comparison(listed=False), await books.switch.read())
        await books.ledger.reserve(intent("old"), lambda _: ())
        await books.ledger.reserve(intent("gone"), lambda _: ())
        books.broker.known[intent("gone").intent_id] = report(intent("gone"))
        await books.switch.set(REDUCING, instead_of=await books.switch.read())
        found, now = await books.reconcile()
        assert now == REDUCING
        assert recovery.story((), (), found, now) == (
            "the broker cannot tell what it executed; trading is REDUCING; compare the positions with the broker's, and"
            ' let it go on by --activate "WHY"'
        )
        assert (await books.ledger.order(intent("gone").intent_id)).status is OrderStatus.FILLED
        old = await books.ledger.order(intent("old").intent_id)
        assert (old.status, old.reason) == (OrderStatus.UNKNOWN, "the ledger is an older copy: it may have been sent")
        await books.activate("anna", "looked")
        assert (await books.reconcile())[1].code == "operator"

    async def test_what_is_executed_while_the_books_are_compared_is_no_difference(self, books):
        books = replace(books, broker=Slow())
        order = intent()
        await books.ledger.adopt(order, report(order), Decimal(0))
        books.broker.known[order.intent_id] = report(order)
        assert (await books.compare()).differences == ()
        books.broker.known.clear()
        assert [each.ledger for each in (await books.compare()).differences] == [10]

    async def test_on_a_server_the_orders_of_another_home_are_no_concern_of_this_broker(self, books):
        books = replace(books, broker=Slow(), ours=lambda run_id: run_id == "here")
        for number, run_id in enumerate(("here", "there")):
            order = intent(run_id)
            fill = replace(report(order).fills[0], trade_id=f"t{number}")
            await books.ledger.adopt(order, replace(report(order), fills=(fill,)), Decimal(0))
        (apart,) = (await books.compare()).differences
        assert apart.client_order_id == intent("here").intent_id

    async def test_a_message_names_a_few_and_counts_the_rest(self, books):
        books = replace(books, broker=Slow())
        for number in range(9):
            order = intent(f"run-{number}", symbol=f"S{number}")
            fill = replace(report(order).fills[0], trade_id=f"t{number}")
            await books.ledger.adopt(order, replace(report(order), fills=(fill,)), Decimal(0))
        found, now = await books.reconcile()
        line = recovery.story((), ("a",), found, now)
        assert line.startswith(
            "the registry lacks 1 run: a; the ledger and the broker differ in 9 positions: paper S0: 10 in"
        )
        assert "paper S4: 10 in the ledger, 0 at the broker and 4 more, by 9 orders: " in line
        assert "S5" not in line


class TestDesk:
    """What the desk sends while trading is not active."""

    @pytest.fixture
    def desk(self, books):
        books.broker.idempotent = True
        return OrderDesk(books.ledger, books.broker, RiskLimits(), Guard("broker", retry=None))

    @pytest.fixture
    def submit(self, desk, flat):
        async def submit(side=Side.BUY, quantity="10", run_id="run-1"):
            view = flat(calendar="24/7")
            return (
                await desk.submit(run_id=run_id, account="paper", side=side, quantity=Decimal(quantity), view=view)
            ).order

        return submit

    async def set(self, books, trading):
        assert await books.switch.set(trading, instead_of=await books.switch.read())

    async def test_the_state_is_one_of_the_checks(self, books, submit, monkeypatch):
        monkeypatch.setattr(books.ledger, "mark_sending", None)  # it does not come to that
        await self.set(books, HALTED)
        order = await submit()
        assert (order.status, books.broker.sent) == (OrderStatus.DENIED, [])
        assert [check.name for check in order.checks if not check.passed] == ["trading_state"]
        assert len(order.checks) >= 15

    async def test_an_order_that_was_lost_on_its_way_is_not_sent_again_while_trading_is_halted(
        self, books, desk, submit
    ):
        with pytest.raises(OrderError, match="its fate is unknown"):
            await submit()
        assert len(books.broker.sent) == 1
        await self.set(books, HALTED)
        with pytest.raises(
            OrderError, match=r"did not reach the broker, and trading is HALTED \(lunch\); .*; it was not"
        ):
            await submit()
        assert await desk.recover() == ()
        assert len(books.broker.sent) == 1
        await self.set(books, Trading(TradingState.ACTIVE, "operator", "anna", "back", 9))
        with pytest.raises(OrderError, match="its fate is unknown"):
            await submit()
        assert len(books.broker.sent) == 2

    async def test_an_order_that_was_reserved_and_never_sent_is_denied(self, books, desk, submit, monkeypatch):
        async def dies(*_):
            raise StorageError("the disk is gone")

        with monkeypatch.context() as patch:
            patch.setattr(books.ledger, "mark_sending", dies)
            with pytest.raises(StorageError):
                await submit()
        await self.set(books, REDUCING)
        order = await submit()
        assert (order.status, books.broker.sent) == (OrderStatus.DENIED, [])
        assert [check.name for check in order.checks if not check.passed] == ["trading_state"]

    async def test_reducing_lets_a_closing_order_through(self, books, submit):
        held = intent("held")
        await books.ledger.adopt(held, report(held), Decimal(0))
        await self.set(books, REDUCING)
        with pytest.raises(OrderError, match="its fate is unknown"):  # it was sent
            await submit(Side.SELL, run_id="closes")
        assert (await submit(Side.SELL, "0.5", run_id="more")).status is OrderStatus.DENIED
