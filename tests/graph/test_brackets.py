"""Watching brackets: an exit is on disk before it is told, closes no more than there is, and outlives any process."""

import asyncio
import csv
import os
import random
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from pathlib import Path

import pytest

from agents.bracket import Bracket
from agents.clock import ReplayClock
from agents.domain import Bar, KillSwitchReason, OrderIntent, OrderStatus, Quote, Side, TradingState
from agents.errors import StorageError
from agents.risk import RiskLimits
from checkpoints.brackets import BracketBook
from checkpoints.database import Database
from checkpoints.ledger import BrokerReport, OrderLedger
from checkpoints.trading_state import TradingSwitch
from graph.brackets import Brackets
from graph.desk import OrderDesk
from graph.kill_switch import KillSwitch
from graph.paper import PaperBroker, PaperTerms
from graph.resilience import Guard
from tests.agents.test_bracket import BEGAN_NS, S_NS, bar, entry, fresh, quote
from tests.checkpoints.test_ledger import allow, fill

DATA = Path(os.environ.get("HOLDFAST_DATA") or Path(__file__).parents[2].parent / "shared" / "data")
MINUTE_NS = 60 * S_NS


class Killed(BaseException):
    """Whoever it happens to does nothing more."""


class Death:
    """Comes with one of the next transactions of any books, when that is `committed` or before."""

    def __init__(self, at, *, committed):
        self.left, self.committed, self.came = at, committed, False
        self.real = Database.awrite

    @property
    def awrite(self):
        async def awrite(database, work):
            self.left -= 1
            if self.came or (self.left < 0 and not self.committed):
                self.came = True
                raise Killed
            done = await self.real(database, work)
            if self.left < 0:
                self.came = True
                raise Killed
            return done

        return awrite


class Lives:
    """A desk and its paper broker over what is here, one life after another."""

    def __init__(self, here, view, folder):
        self.here, self.view, self.folder = here, view, folder
        self.clock = ReplayClock(view.as_of_ns)
        self.open()

    def open(self):
        self.broker = PaperBroker.open(self.folder / "broker.db", self.clock, PaperTerms(), inline=True)
        limits = RiskLimits(concentration_share_max=10.0, duplicate_window_s=0.1)
        guard = Guard("broker", retry=None, breaker=None)
        self.desk = OrderDesk(self.here.ledger, self.broker, limits, guard, clock=self.clock)

    async def again(self):
        """As the reconciler does it at each start, and then the brackets."""
        self.broker.database.close()
        self.open()
        for order in await self.here.ledger.at_broker():
            if (report := await self.broker.find(order.client_order_id)) is not None:
                await self.here.ledger.record(order.client_order_id, report)
        await self.here.again()

    async def order(self, run_id, side, leg):
        at = {"run_id": run_id, "account": "paper", "side": side, "quantity": Decimal(10), "leg": leg}
        ticket = await self.desk.submit(**at, view=self.view, now_ns=self.clock.now_ns())
        await self.here.brackets.heard(ticket.order, 0)

    async def price(self, bid):
        self.clock.advance_to(self.clock.now_ns() + 2 * S_NS)
        for each in await self.here.brackets.on_quote(Quote("SIM", self.clock.now_ns(), Decimal(bid), Decimal(bid))):
            await self.order(each.run_id, each.side, each.leg)


class Here:
    """A ledger, and the brackets over it."""

    def __init__(self, path):
        self.database = Database.open(path, inline=True)
        self.ledger = OrderLedger(self.database)
        self.book = BracketBook(self.database)
        self.brackets = Brackets(self.book, self.ledger)

    async def again(self):
        """After a restart."""
        self.brackets = Brackets(self.book, self.ledger)
        await self.brackets.load()

    async def order(self, intent, status="filled", quantity=None):
        """An order that becomes this at the broker, in the ledger and by word of it."""
        await self.ledger.reserve(intent, allow)
        await self.ledger.mark_sending(intent.intent_id)
        amount = intent.quantity if quantity is None else Decimal(quantity)
        fills = (fill(intent, f"t-{intent.intent_id}", amount),) if amount else ()
        order = await self.ledger.record(intent.intent_id, BrokerReport(OrderStatus(status), fills=fills))
        await self.brackets.heard(order, intent.reference_ns)
        return order

    async def position(self):
        return (await self.ledger.portfolio("paper")).position("SIM").quantity

    async def saved(self):
        """Those on disk that are open."""
        return tuple(bracket for bracket in await self.book.load() if not bracket.closed)

    async def late(self, name, quantity):
        """More of an order was filled than was known when it was cancelled."""
        known = (await self.ledger.order(name)).intent
        report = BrokerReport(OrderStatus.CANCELLED, fills=(fill(known, f"late-{name}", Decimal(quantity)),))
        return await self.ledger.record(name, report)


@pytest.fixture
async def here(tmp_path):
    made = Here(tmp_path / "holdfast.db")
    await made.ledger.open_account("paper", Decimal(100_000))
    yield made
    made.database.close()


@pytest.fixture
async def held(here):
    """A position of 10, bought at 100, with a stop at 95 and a target at 110."""
    await here.brackets.open(fresh())
    await here.order(entry())
    return here


class TestExits:
    async def test_one_is_on_disk_before_it_is_told(self, held):
        (intent,) = await held.brackets.on_quote(quote("94"))
        assert (intent.leg, intent.quantity, intent.side) == ("stop", 10, Side.SELL)
        (saved,) = await held.saved()
        assert (saved.sprung, saved.exit) == ("stop", intent)
        assert held.brackets.has_sprung("run-1")
        assert not held.brackets.has_sprung("run-1", 1)

    async def test_one_that_cannot_be_written_down_is_not_told_and_comes_with_the_next_price(self, held, monkeypatch):
        async def full(*_):
            raise StorageError("the disk is full")

        monkeypatch.setattr(BracketBook, "save", full)
        with pytest.raises(StorageError):
            await held.brackets.on_quote(quote("94"))
        monkeypatch.undo()
        (intent,) = await held.brackets.on_quote(quote("94", at_s=2))
        assert intent.reference_ns == BEGAN_NS + 2 * S_NS

    async def test_it_is_told_again_until_it_is_heard_of_and_once_it_is_filled_nothing_is_watched(self, held):
        (intent,) = await held.brackets.on_quote(quote("94"))
        assert await held.brackets.on_quote(quote("94", at_s=1.5)) == ()
        assert await held.brackets.on_quote(quote("94", at_s=2)) == (intent,)
        await held.order(intent)
        assert (held.brackets.all(), await held.saved(), await held.position()) == ((), (), 0)
        assert await held.brackets.on_quote(quote("1", at_s=9)) == ()

    async def test_of_a_bar_too(self, held):
        (intent,) = await held.brackets.on_bar(bar("100 111 94 100"), BEGAN_NS)
        assert (intent.leg, intent.reference_price) == ("stop", 95)

    async def test_prices_that_touch_nothing_cost_no_transaction(self, held, monkeypatch):
        def never(*_):
            raise AssertionError

        await held.brackets.open(replace(fresh(trail="4"), run_id="run-2"))
        order = await held.order(entry(run_id="run-2"))
        await held.brackets.on_quote(quote("101"))
        for name in ("awrite", "aread"):
            monkeypatch.setattr(Database, name, never)
        for number in range(2, 50):
            assert await held.brackets.on_quote(quote("100", at_s=number)) == ()
            await held.brackets.heard(order, 0)
            assert await held.brackets.on_quote(quote("1", at_s=number, symbol="OTHER")) == ()

    async def test_many_prices_and_news_at_once(self, held):
        told = await asyncio.gather(
            *(held.brackets.on_quote(quote("94", at_s=1 + number / 100)) for number in range(50))
        )
        (intent,) = [intent for exits in told for intent in exits]
        order = await held.order(intent)
        await asyncio.gather(
            *(held.brackets.heard(order, 0) for _ in range(9)), held.brackets.on_quote(quote("1", at_s=9))
        )
        assert (held.brackets.all(), await held.position()) == ((), 0)

    @pytest.mark.parametrize("status", [OrderStatus.SENDING, OrderStatus.UNKNOWN])
    async def test_one_that_may_never_have_left_is_asked_for_again_after_a_restart(self, held, status):
        """To a broker that knows every id for ever nobody but who asks for it sends it again."""
        (intent,) = await held.brackets.on_quote(quote("94"))
        await held.ledger.reserve(intent, allow)
        await held.ledger.mark_sending(intent.intent_id)
        if status is OrderStatus.UNKNOWN:
            await held.ledger.record(intent.intent_id, BrokerReport(status))
        await held.again()
        assert await held.brackets.on_quote(quote("94", at_s=2)) == (intent,)


class TestPosition:
    """No exit opens what it should close."""

    async def test_what_somebody_else_has_closed_is_not_closed_again(self, held):
        await held.order(entry(Side.SELL, "4", run_id="flatten-1"))
        (intent,) = await held.brackets.on_quote(quote("94"))
        assert intent.quantity == 6
        await held.order(intent)
        assert (held.brackets.all(), await held.position()) == ((), 0)

    @pytest.mark.parametrize("more", ["10", "15"])
    async def test_a_position_that_is_gone_or_turned_is_watched_no_more(self, held, more):
        await held.order(entry(Side.SELL, more, run_id="flatten-1"))
        assert await held.brackets.on_quote(quote("94")) == ()
        assert (held.brackets.all(), await held.saved()) == ((), ())

    async def test_while_others_are_closing_it_it_has_sprung_and_waits(self, held):
        other = entry(Side.SELL, "4", run_id="flatten-1")
        await held.order(other, "open", "0")
        assert await held.brackets.on_quote(quote("94")) == ()
        assert held.brackets.has_sprung("run-1")
        await held.ledger.record(other.intent_id, BrokerReport(OrderStatus.CANCELLED))
        (intent,) = await held.brackets.on_quote(quote("120", at_s=1.1))  # it does not matter what the price is now
        assert (intent.quantity, intent.leg) == (10, "stop")

    async def test_as_long_as_they_leave_enough_it_does_not_wait(self, held):
        await held.order(entry(quantity="15", run_id="by-hand"))
        await held.order(entry(Side.SELL, "15", run_id="flatten-1"), "open", "5")
        await held.order(entry(quantity="10", run_id="more"), "open", "0")  # which closes nothing
        (intent,) = await held.brackets.on_quote(quote("94"))
        assert intent.quantity == 10

    async def test_what_was_asked_for_is_asked_for_again_as_it_was(self, held):
        (intent,) = await held.brackets.on_quote(quote("94"))
        await held.order(entry(Side.SELL, "4", run_id="flatten-1"), "open", "0")
        assert await held.brackets.on_quote(quote("94", at_s=2)) == (intent,)

    async def test_an_order_that_rests_is_no_closing_that_could_be_waited_for(self, held):
        await held.order(entry(Side.SELL, "10", run_id="by-hand", limit_price=Decimal(110)), "open", "0")
        (intent,) = await held.brackets.on_quote(quote("94"))
        assert intent.quantity == 10

    async def test_two_brackets_of_one_position_close_their_own(self, held):
        await held.brackets.open(replace(fresh(stop="90"), run_id="run-2"))
        await held.order(entry(run_id="run-2"))
        exits = await held.brackets.on_quote(quote("80"))
        assert [(each.run_id, each.quantity) for each in exits] == [("run-1", 10), ("run-2", 10)]
        for each in exits:
            await held.order(each)
        assert await held.position() == 0

    async def test_and_no_more_than_there_is_left_of_it(self, held):
        await held.brackets.open(replace(fresh(), run_id="run-2"))
        await held.order(entry(run_id="run-2"))
        await held.order(entry(Side.SELL, "5", run_id="by-hand"))
        (first,) = await held.brackets.on_quote(quote("94"))
        assert await held.brackets.on_quote(quote("94", at_s=1.5)) == ()
        await held.order(first)
        (second,) = await held.brackets.on_quote(quote("94", at_s=2))
        assert (first.quantity, second.quantity) == (10, 5)
        await held.order(second)
        assert (await held.position(), held.brackets.all()) == (0, ())


class TestLateFill:
    """An entry that was cancelled turns out to have been filled, when its position is closed already."""

    @pytest.fixture
    async def gone(self, here):
        """6 of 10 were bought, and the stop has closed them."""
        await here.brackets.open(fresh())
        opening = await here.order(entry(), "cancelled", "6")
        (intent,) = await here.brackets.on_quote(quote("94"))
        await here.order(intent)
        assert (here.brackets.all(), await here.position()) == ((), 0)
        return opening.client_order_id

    async def test_of_one_that_has_sprung_it_goes_with_the_next_price(self, here, gone):
        await here.brackets.heard(await here.late(gone, "4"), BEGAN_NS + 2 * S_NS)
        assert await here.position() == 4
        (intent,) = await here.brackets.on_quote(quote("105", at_s=3))
        assert (intent.leg, intent.quantity, intent.side) == ("stop-2", 4, Side.SELL)
        await here.order(intent)
        assert (here.brackets.all(), await here.saved(), await here.position()) == ((), (), 0)

    async def test_also_where_nobody_was_there_to_hear_of_it(self, here, gone):
        await here.late(gone, "4")
        await here.again()
        (intent,) = await here.brackets.on_quote(quote("105", at_s=3))
        assert (intent.leg, intent.quantity) == ("stop-2", 4)

    async def test_one_that_was_closed_by_others_is_watched_again(self, here):
        await here.brackets.open(fresh())
        opening = await here.order(entry(), "cancelled", "6")
        await here.order(entry(Side.SELL, "6", run_id="flatten-1"))
        assert await here.brackets.on_quote(quote("94")) == ()
        await here.again()
        await here.brackets.heard(await here.late(opening.client_order_id, "4"), BEGAN_NS + 2 * S_NS)
        assert await here.brackets.on_quote(quote("100", at_s=3)) == ()
        (intent,) = await here.brackets.on_quote(quote("94", at_s=4))
        assert (intent.leg, intent.quantity) == ("stop", 4)

    async def test_nothing_more_is_ordered_for_a_decision_whose_position_was_closed(self, here, gone):
        for _ in range(2):
            assert here.brackets.has_sprung("run-1")
            await here.brackets.open(fresh())
            assert here.brackets.all() == ()
            await here.again()

    async def test_it_is_remembered_for_a_day_and_not_longer(self, here, gone):
        (closed,) = await here.book.load()
        day_ns = 86_400 * S_NS
        await here.brackets.open(replace(fresh(), run_id="run-2", since_ns=closed.tried_ns + day_ns))
        assert here.brackets.has_sprung("run-1")
        await here.brackets.open(replace(fresh(), run_id="run-3", since_ns=closed.tried_ns + day_ns + 1))
        assert not here.brackets.has_sprung("run-1")
        assert [each.run_id for each in await here.book.load()] == ["run-2", "run-3"]

    async def test_one_that_is_open_again_is_not_let_go(self, here, gone):
        (closed,) = await here.book.load()
        await here.brackets.heard(await here.late(gone, "4"), BEGAN_NS)
        await here.brackets.open(replace(fresh(), run_id="run-2", since_ns=closed.tried_ns + 2 * 86_400 * S_NS))
        assert {each.run_id: each.held for each in here.brackets.all()} == {"run-1": 4, "run-2": 0}

    async def test_one_that_is_forgotten_is_covered_no_more(self, here, gone):
        await here.brackets.forget("run-1")
        await here.brackets.heard(await here.late(gone, "4"), BEGAN_NS + 2 * S_NS)
        assert (here.brackets.all(), await here.book.load()) == ((), ())


class TestRestart:
    async def test_a_stop_outlives_the_process(self, held):
        await held.again()
        (intent,) = await held.brackets.on_quote(quote("94"))
        await held.again()
        assert await held.brackets.on_quote(quote("94", at_s=2)) == (intent,)

    async def test_what_became_of_its_orders_meanwhile_is_read_from_the_ledger(self, held):
        (intent,) = await held.brackets.on_quote(quote("94"))
        held.brackets = Brackets(held.book, held.ledger)  # nobody listens
        await held.order(intent, "open", "3")
        await held.again()
        (bracket,) = held.brackets.all()
        assert (bracket.held, bracket.heard_of) == (7, True)
        assert await held.brackets.on_quote(quote("94", at_s=99)) == ()

    async def test_a_bracket_is_opened_before_its_first_order_and_not_twice(self, here):
        await here.brackets.open(fresh())
        await here.again()
        await here.brackets.open(fresh(stop="90"))  # nothing was opened yet: the newer plan counts
        await here.order(entry(), "open", "3")
        await here.brackets.open(fresh(stop="80"))
        await here.again()
        (bracket,) = here.brackets.all()
        assert (bracket.stop, bracket.held) == (90, 3)

    async def test_one_that_is_forgotten_stays_so(self, held):
        await held.brackets.forget("run-1")
        await held.again()
        assert (held.brackets.all(), await held.brackets.on_quote(quote("1"))) == ((), ())

    async def test_a_stop_that_has_moved_is_on_disk_within_a_second(self, here):
        await here.brackets.open(fresh(target=None, trail="4"))
        await here.order(entry())
        steps = ((1, "101", 97), (1.5, "103", 97), (1.9, "102", 97), (2, "102", 99), (2.5, "104", 99), (9, "106", 102))
        for at_s, bid, on_disk in steps:
            await here.brackets.on_quote(quote(bid, at_s=at_s))
            (saved,) = await here.saved()
            assert saved.stop == on_disk
        await here.again()
        assert [(each.stop, each.best) for each in here.brackets.all()] == [(102, 106)]

    async def test_one_that_springs_or_is_gone_just_after_its_stop_moved_is_on_disk_at_once(self, here):
        for run_id in ("run-1", "run-2"):
            await here.brackets.open(replace(fresh(target=None, trail="4"), run_id=run_id))
            await here.order(entry(run_id=run_id))
        await here.brackets.on_quote(quote("101"))
        await here.order(entry(Side.SELL, "10", run_id="flatten-1"))
        exits = await here.brackets.on_quote(quote("96", at_s=1.1))
        assert [each.exit for each in await here.saved()] == [*exits, None]
        await here.order(exits[0])
        assert await here.brackets.on_quote(quote("96", at_s=1.2)) == ()
        assert await here.saved() == ()

    async def test_one_whose_position_is_gone_just_after_its_stop_moved_is_gone_from_the_disk_at_once(self, here):
        await here.brackets.open(fresh(target=None, trail="4"))
        await here.order(entry())
        await here.brackets.on_quote(quote("101"))
        await here.order(entry(Side.SELL, "10", run_id="flatten-1"))
        assert await here.brackets.on_quote(quote("96", at_s=1.1)) == ()
        assert await here.saved() == ()

    async def test_one_that_was_closed_meanwhile_is_gone_from_the_disk_too(self, held):
        (intent,) = await held.brackets.on_quote(quote("94"))
        held.brackets = Brackets(held.book, held.ledger)
        await held.order(intent)
        await held.again()
        assert (held.brackets.all(), await held.saved()) == ((), ())


class TestThroughTheDesk:
    """The exit that a bracket wants is the order that the desk makes of it."""

    @pytest.mark.parametrize("side", list(Side))
    async def test_from_the_plan_to_flat_on_quotes(self, here, flat, tmp_path, side):
        view = flat(volume=(100.0,) * 120)
        start_ns = view.as_of_ns
        clock, limits = ReplayClock(start_ns), RiskLimits(participation_max=0.1, concentration_share_max=10.0)
        broker = PaperBroker.open(tmp_path / "broker.db", clock, PaperTerms(), at_once=False, inline=True)
        desk = OrderDesk(here.ledger, broker, limits, Guard("broker", retry=None, breaker=None), clock=clock)
        low, high = Decimal(95), Decimal(110)
        prices = (low, high) if side is Side.BUY else (high, low)
        await here.brackets.open(Bracket("run-1", "paper", "SIM", side, *prices, since_ns=start_ns))

        async def order(side, quantity, leg, price):
            at = {"view": view, "quote": price, "now_ns": clock.now_ns()}
            ticket = await desk.submit(run_id="run-1", account="paper", side=side, quantity=quantity, leg=leg, **at)
            await here.brackets.heard(ticket.order, clock.now_ns())
            return ticket.order

        async def on_quote(bid, at_s):
            found = Quote("SIM", start_ns + round(at_s * S_NS), Decimal(bid), Decimal(bid))
            clock.advance_to(found.time_ns)
            for name, report in (await broker.on_quote(found)).items():
                await here.brackets.heard(await here.ledger.record(name, report), found.time_ns)
            exits = await here.brackets.on_quote(found)
            return [(intent, await order(intent.side, intent.quantity, intent.leg, found)) for intent in exits]

        await on_quote("100", 1)
        entered = await order(side, Decimal(50), "entry", Quote("SIM", clock.now_ns(), Decimal(100), Decimal(100)))
        assert (entered.intent.quantity, entered.status) == (
            10,
            OrderStatus.OPEN,
        )  # throttled by volume, and on its way
        assert await on_quote("100", 2) == []
        ((intent, sent),) = await on_quote("94" if side is Side.BUY else "111", 3)
        assert (sent.client_order_id, sent.intent.quantity, sent.intent.leg) == (intent.intent_id, 10, "stop")
        assert await on_quote("90" if side is Side.BUY else "115", 4) == []
        assert (await here.position(), here.brackets.all(), await here.saved()) == (0, (), ())
        broker.database.close()

    async def test_killed_at_any_step_of_an_exit_it_goes_once(self, here, flat, tmp_path, monkeypatch):
        lives = Lives(here, flat(), tmp_path)
        for number in count():
            run_id, death = f"run-{number}", Death(number // 2, committed=bool(number % 2))
            await here.brackets.open(
                Bracket(run_id, "paper", "SIM", Side.BUY, Decimal(95), since_ns=lives.clock.now_ns())
            )
            await lives.order(run_id, Side.BUY, "entry")
            with monkeypatch.context() as patch, suppress(Killed):
                patch.setattr(Database, "awrite", death.awrite)
                await lives.price("94")
            await lives.again()
            await lives.price("94")
            exits = [each for each in await here.ledger.orders(run_id) if each.intent.leg != "entry"]
            assert [(each.intent.leg, each.filled) for each in exits] == [("stop", 10)]
            assert (await here.position(), here.brackets.all()) == (0, ())
            assert await lives.broker.holdings() == {"SIM": 0}
            if not death.came:
                break
        assert number >= 2 * 6, "bracket, PENDING, SENDING, the broker's books, FILLED, bracket"
        lives.broker.database.close()

    async def test_an_exit_that_the_desk_denied_or_nobody_took_goes_as_soon_as_it_can(self, here, flat, tmp_path):
        """A full queue says nothing, and is asked again after a second; a denial takes the next leg."""
        view = flat()
        clock = ReplayClock(view.as_of_ns)
        broker = PaperBroker.open(tmp_path / "broker.db", clock, PaperTerms(), inline=True)
        guard, switch = Guard("broker", retry=None, breaker=None), TradingSwitch(here.database)
        kill = KillSwitch(switch, here.ledger, broker, guard, clock, lambda *_: None)
        limits = RiskLimits(concentration_share_max=10.0)
        desk = OrderDesk(here.ledger, broker, limits, guard, kill, clock=clock)

        async def order(side, quantity, leg):
            at = {"run_id": "run-1", "account": "paper", "side": side, "quantity": quantity, "leg": leg}
            ticket = await desk.submit(**at, view=view, now_ns=clock.now_ns())
            await here.brackets.heard(ticket.order, clock.now_ns())
            return ticket.order.status

        async def exits(at_s):
            clock.advance_to(view.as_of_ns + round(at_s * S_NS))
            return await here.brackets.on_quote(Quote("SIM", clock.now_ns(), Decimal(94), Decimal(94)))

        await here.brackets.open(Bracket("run-1", "paper", "SIM", Side.BUY, Decimal(95), since_ns=view.as_of_ns))
        assert await order(Side.BUY, Decimal(10), "entry") is OrderStatus.FILLED
        (dropped,) = await exits(1)
        await kill.trip(kill.because(TradingState.HALTED, KillSwitchReason.OPERATOR, "anna", "lunch"))
        (again,) = await exits(2)
        assert again == dropped
        assert await order(again.side, again.quantity, again.leg) is OrderStatus.DENIED
        (second,) = await exits(3)
        assert await order(second.side, second.quantity, second.leg) is OrderStatus.DENIED
        assert await exits(4.9) == ()
        looser = kill.because(TradingState.ACTIVE, KillSwitchReason.OPERATOR, "anna", "back")
        assert await switch.release(looser, instead_of=await switch.read())
        (third,) = await exits(5)
        assert (again.leg, second.leg, third.leg) == ("stop", "stop-2", "stop-3")
        assert await order(third.side, third.quantity, third.leg) is OrderStatus.FILLED
        assert (await here.position(), here.brackets.all()) == (0, ())
        broker.database.close()


def minutes():
    path = DATA / "btc_perp_1m_2022_01.csv"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in the folder of real price data (HOLDFAST_DATA)")
    with path.open() as file:
        for row in csv.DictReader(file):
            at = datetime.fromisoformat(row["timestamp"]).replace(tzinfo=UTC)
            yield Bar(
                "SIM", int(at.timestamp()) * S_NS, *(Decimal(row[name]) for name in ("open", "high", "low", "close"))
            )


class Session:
    """Buys at every hour, or sells, with a stop, a target and a trailing stop, at a paper broker fed by minutes."""

    def __init__(self, folder, start_ns):
        self.folder, self.clock = folder, ReplayClock(start_ns)
        self.events = []
        self.open()

    def open(self):
        self.here = Here(self.folder / "holdfast.db")
        self.broker = PaperBroker.open(self.folder / "broker.db", self.clock, PaperTerms(), at_once=False, inline=True)

    async def restart(self):
        self.close()
        self.open()
        for order in await self.here.ledger.at_broker():  # as the reconciler does it at each start
            await self.here.ledger.record(order.client_order_id, await self.broker.find(order.client_order_id))
        await self.here.brackets.load()

    def close(self):
        self.here.database.close()
        self.broker.database.close()

    async def send(self, intent):
        order = await self.here.ledger.reserve(intent, allow)
        if await self.here.ledger.mark_sending(intent.intent_id):
            order = await self.here.ledger.record(intent.intent_id, await self.broker.send(order.intent))
        await self.here.brackets.heard(order, intent.reference_ns)

    async def on_bar(self, found):
        begin_ns = found.close_ns - MINUTE_NS
        self.clock.advance_to(found.close_ns)
        for name, report in (await self.broker.on_bar(found, begin_ns)).items():
            order = await self.here.ledger.record(name, report)
            await self.here.brackets.heard(order, found.close_ns)
            self.events.append((found.close_ns, order.intent.run_id, order.intent.leg, str(order.status), order.price))
        for intent in await self.here.brackets.on_bar(found, begin_ns):
            await self.send(intent)

    async def enter(self, number, found, side):
        run_id, price, away = f"run-{number}", found.close, found.close * Decimal("0.002")
        low, high = price - away, price + away
        stop, target = (low, high) if side is Side.BUY else (high, low)
        bracket = Bracket(run_id, "paper", "SIM", side, stop, target, away, since_ns=found.close_ns)
        await self.here.brackets.open(bracket)
        order = {"run_id": run_id, "account": "paper", "symbol": "SIM", "side": side, "quantity": Decimal("0.5")}
        await self.send(OrderIntent.derive(**order, reference_price=price, reference_ns=found.close_ns))


async def trade(folder, bars, restarts):
    """Plays the bars, restarting before some of them; gives what happened."""
    folder.mkdir()
    session = Session(folder, bars[0].close_ns)
    await session.here.ledger.open_account("paper", Decimal(1_000_000))
    for number, found in enumerate(bars):
        if number in restarts:
            await session.restart()
        await session.on_bar(found)
        if number % 60 == 0:
            await session.enter(number, found, Side.BUY if number % 120 else Side.SELL)
    portfolio = await session.here.ledger.portfolio("paper")
    orders = [order for n in range(0, len(bars), 60) for order in await session.here.ledger.orders(f"run-{n}")]
    watched = session.here.brackets.all()
    session.close()
    return session.events, portfolio, orders, watched


async def test_ten_hours_of_minutes_come_out_the_same_however_often_it_is_interrupted(tmp_path):
    bars = list(minutes())[: 10 * 60]
    events, portfolio, orders, watched = await trade(tmp_path / "whole", bars, set())
    legs = {leg for _, _, leg, _, _ in events}
    assert {"entry", "stop", "target"} <= legs
    by_run = {}
    for order in orders:
        by_run.setdefault(order.intent.run_id, []).append(order)
    for run_id, (opening, *closing) in by_run.items():
        closed = sum((order.filled for order in closing), Decimal(0))
        is_open = [bracket.held for bracket in watched if bracket.run_id == run_id]
        assert opening.filled - closed == sum(is_open, Decimal(0))
        assert len(closing) <= 1, "the stop and the target of one position were both sent"
    held = sum((bracket.held * bracket.side.sign for bracket in watched), Decimal(0))
    assert portfolio.position("SIM").quantity == held
    restarts = set(random.Random(7).sample(range(1, len(bars)), 30))  # noqa: S311 - no secret
    again = await trade(tmp_path / "interrupted", bars, restarts)
    assert again[:3] == (events, portfolio, orders)
