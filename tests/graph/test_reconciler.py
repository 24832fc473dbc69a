"""The ledger kept true to the broker: whatever it missed is found by the next pass, and what cannot be is told."""

import asyncio
from dataclasses import dataclass, field, replace
from decimal import Decimal

import pytest

from agents.clock import ReplayClock
from agents.domain import Fill, OrderIntent, OrderStatus, Side, TradingState
from agents.errors import OrderError, StorageError
from agents.risk import RiskLimits
from checkpoints.database import Database
from checkpoints.ledger import BrokerReport, OrderLedger
from checkpoints.trading_state import TradingSwitch
from graph.broker import Broker
from graph.comparison import Books
from graph.desk import OrderDesk
from graph.inquiry import GRACE_S, Inquiry
from graph.kill_switch import KillSwitch
from graph.reconciler import COMPARE_S, LATE_S, POLL_S, Reconciler
from graph.resilience import Guard
from graph.resilience.virtual import VirtualClock
from tests.checkpoints.test_ledger import intent, sent

S_NS = 10**9
ACTIVE, REDUCING, HALTED = TradingState


@dataclass
class Venue(Broker):
    """A venue with its own books: each order with what was filled of it, in lots with a trade id each.

    `silent`: ids of which nothing is said; `lists`, `counts`: whether it can tell what it executed, and its positions.
    """

    idempotent: bool = False
    orders: dict[str, tuple[OrderIntent, OrderStatus, list[Decimal]]] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    lists: bool = False
    counts: dict[str, Decimal] | None = None
    rests: dict[str, str] | None = None
    asked: list[str] = field(default_factory=list)
    cancels: list[str] = field(default_factory=list)

    def take(self, order, status=OrderStatus.OPEN, *lots):
        self.orders[order.intent_id] = (order, status, [Decimal(lot) for lot in lots])

    async def send(self, intent):
        raise AssertionError("a pass sends nothing")

    async def find(self, client_order_id):
        self.asked.append(client_order_id)
        await asyncio.sleep(0)
        if client_order_id in self.silent:
            raise ConnectionError("silence")
        if client_order_id not in self.orders:
            return None
        order, status, lots = self.orders[client_order_id]
        traded = [(order.symbol, order.side, lot, Decimal(100), Decimal(0), order.reference_ns) for lot in lots]
        fills = tuple(Fill(f"{client_order_id}/{n}", client_order_id, *each) for n, each in enumerate(traded))
        return BrokerReport(status, "v", fills)

    async def cancel(self, client_order_id):
        self.cancels.append(client_order_id)
        order, _, lots = self.orders[client_order_id]
        self.orders[client_order_id] = (order, OrderStatus.CANCELLED, lots)
        return await self.find(client_order_id)

    async def executed(self):
        if not self.lists:
            return None
        sums = {name: sum(lots, Decimal(0)) for name, (_, _, lots) in self.orders.items() if lots}
        return {
            name: (self.orders[name][0].symbol, self.orders[name][0].side.sign * done) for name, done in sums.items()
        }

    async def intent(self, client_order_id):
        return self.orders[client_order_id][0] if client_order_id in self.orders else None

    async def resting(self):
        return self.rests

    async def holdings(self):
        return self.counts


class Room:
    def __init__(self, database, **venue):
        self.database = database
        self.clock = ReplayClock(10_000 * S_NS)
        self.ledger = OrderLedger(database, clock=self.clock)
        self.venue = Venue(**venue)
        self.switch = TradingSwitch(database)
        self.told = []
        tell = lambda kind, detail: self.told.append((kind, dict(detail)))  # noqa: E731
        guard = Guard("broker", retry=None, breaker=None)
        self.kill = KillSwitch(self.switch, self.ledger, self.venue, guard, self.clock, tell)
        self.books = Books(self.ledger, self.venue, self.switch, self.clock, Decimal(10_000))
        self.inquiry = Inquiry(self.ledger, self.venue, guard, self.clock)
        self.reconciler = Reconciler(self.books, self.kill, self.inquiry, tell)

    async def sent(self, run_id, quantity="2", **more):
        return await sent(self.ledger, intent(run_id, quantity, **more))

    async def open(self, run_id, quantity="2", **more):
        order = await self.sent(run_id, quantity, **more)
        await self.ledger.record(order.intent_id, BrokerReport(OrderStatus.OPEN))
        self.venue.take(order)
        return order

    async def status(self, order):
        return (await self.ledger.order(order.intent_id)).status

    async def held(self):
        return (await self.ledger.portfolio("paper")).position("SIM").quantity

    async def state(self):
        now = await self.switch.read()
        return now.state, now.code

    def wait(self, seconds):
        self.clock.advance_to(self.clock.now_ns() + round(seconds * S_NS))

    def kinds(self):
        return [kind for kind, _ in self.told]


@pytest.fixture
async def room(monkeypatch):
    monkeypatch.setattr("graph.inquiry.SPACING_S", 0)
    opened = []

    async def make(**venue):
        opened.append(Database.open(":memory:", inline=True))
        made = Room(opened[-1], **venue)
        await made.ledger.open_account("paper", Decimal(10_000))
        return made

    yield make
    for database in opened:
        database.close()


class TestFates:
    async def test_what_is_found_is_adopted_with_its_fills(self, room):
        here = await room()
        one, two = await here.sent("a"), await here.sent("b")
        await here.ledger.record(two.intent_id, BrokerReport(OrderStatus.UNKNOWN))
        here.venue.take(one, OrderStatus.FILLED, "2")
        here.venue.take(two, OrderStatus.OPEN, "0.5")
        done = await here.reconciler.once()
        assert [order.status for order in done.moved] == [OrderStatus.FILLED, OrderStatus.OPEN]
        assert await here.held() == Decimal("2.5")
        assert here.kinds() == ["OrderMoved"] * 2
        assert (await here.reconciler.once()).moved == ()

    async def test_one_that_may_be_on_its_way_is_left_alone(self, room):
        here = await room()
        order = await here.sent("a")
        done = await here.reconciler.once()
        assert (done.doubts, await here.state()) == ((), (ACTIVE, "new"))
        here.wait(GRACE_S)
        assert [each.status for each in (await here.reconciler.once()).moved] == [OrderStatus.NOT_PLACED]
        assert await here.status(order) is OrderStatus.NOT_PLACED
        assert (await here.ledger.account(intent("other"))).live == {}

    async def test_silence_is_only_a_doubt_when_it_has_lasted_and_it_is_lifted_by_an_answer(self, room):
        here = await room()
        order = await here.sent("a")
        here.venue.silent = {order.intent_id}
        assert (await here.reconciler.once()).doubts == ()
        here.wait(GRACE_S)
        for compare in (False, True):
            done = await here.reconciler.once(compare=compare)
            assert len(done.doubts) == 1
            assert await here.state() == (REDUCING, "reconciliation")
        why = (await here.switch.read()).why
        assert why.startswith("it is not known how it stands with 1 order: the broker did not say what became of order")
        assert here.kinds().count("InDoubt") == 2
        here.venue.silent = set()
        await here.reconciler.once()
        assert await here.state() == (ACTIVE, "reconciled")

    async def test_an_id_that_never_executes_twice_waits_for_its_decision(self, room):
        here = await room(idempotent=True)
        order = await here.sent("a")
        here.wait(GRACE_S)
        done = await here.reconciler.once()
        assert (done.moved, done.doubts, await here.status(order)) == ((), (), OrderStatus.SENDING)

    async def test_orders_of_another_home_are_left_alone(self, room):
        here = await room()
        for run_id in ("here", "there"):
            here.venue.take(await here.sent(run_id), OrderStatus.FILLED, "2")
        books = replace(here.books, ours=lambda run_id: run_id == "here")
        done = await Reconciler(books, here.kill, here.inquiry, lambda *_: None).once()
        assert [order.intent.run_id for order in done.moved] == ["here"]

    async def test_what_cannot_be_true_together_is_a_doubt(self, room):
        here = await room()
        order = await here.open("a")
        await here.ledger.record(order.intent_id, BrokerReport(OrderStatus.FILLED))
        open_again = await here.sent("b")
        await here.ledger.record(open_again.intent_id, BrokerReport(OrderStatus.OPEN))
        real = here.venue.find

        async def find(name):
            here.venue.take(order, OrderStatus.OPEN, "1")
            return await real(order.intent_id)

        here.venue.find = find
        done = await here.reconciler.once()
        assert f"was reported for order {open_again.intent_id} and belongs to {order.intent_id}" in done.doubts[0]
        assert await here.state() == (REDUCING, "reconciliation")


class TestOpen:
    async def test_fills_that_came_later_are_booked_once_each(self, room):
        here = await room()
        order = await here.open("a", "3")
        for lots in (["1"], ["1"], ["1", "1"]):
            here.venue.take(order, OrderStatus.OPEN, *lots)
            await here.reconciler.once(compare=False)
        assert await here.held() == 2
        here.venue.take(order, OrderStatus.FILLED, "1", "1", "1")
        done = await here.reconciler.once(compare=False)
        assert (await here.held(), [each.status for each in done.moved]) == (3, [OrderStatus.FILLED])
        assert here.venue.asked.count(order.intent_id) == 4

    async def test_what_the_broker_has_cancelled_keeps_what_was_filled(self, room):
        here = await room()
        order = await here.open("a")
        here.venue.take(order, OrderStatus.CANCELLED, "0.5")
        await here.reconciler.once()
        assert (await here.status(order), await here.held()) == (OrderStatus.CANCELLED, Decimal("0.5"))

    async def test_one_that_the_broker_does_not_know_any_more_is_a_doubt(self, room):
        here = await room()
        order = await here.open("a")
        del here.venue.orders[order.intent_id]
        done = await here.reconciler.once(compare=False)
        assert done.doubts == (f"order {order.intent_id} was open, and the broker does not know it any more",)
        assert await here.state() == (REDUCING, "reconciliation")
        assert here.venue.asked.count(order.intent_id) == 4, "a copy of its books may be behind"

    async def test_silence_about_one_that_rests_is_no_news(self, room):
        here = await room()
        order = await here.open("a")
        here.venue.silent = {order.intent_id}
        here.wait(10 * GRACE_S)
        assert (await here.reconciler.once()).doubts == ()

    async def test_many_are_asked_about_a_few_at_a_time(self, room):
        here = await room()
        for number in range(40):
            await here.open(f"run-{number}")
        active = highest = 0
        real = here.venue.find

        async def find(name):
            nonlocal active, highest
            active += 1
            highest = max(highest, active)
            await asyncio.sleep(0)
            active -= 1
            return await real(name)

        here.venue.find = find
        await here.reconciler.once()
        assert highest == 8
        assert len(here.venue.asked) == 40


class TestCancelled:
    async def test_what_was_filled_before_and_is_heard_of_late_is_booked_when_all_books_are_compared(self, room):
        here = await room()
        order = await here.open("a")
        here.venue.take(order, OrderStatus.CANCELLED)
        await here.reconciler.once()
        here.venue.take(order, OrderStatus.CANCELLED, "0.5")
        assert (await here.reconciler.once(compare=False)).moved == ()
        for moved in (1, 0):
            assert len((await here.reconciler.once()).moved) == moved
            assert (await here.status(order), await here.held()) == (OrderStatus.CANCELLED, Decimal("0.5"))
        here.venue.take(order, OrderStatus.FILLED, "0.5", "1.5")
        await here.reconciler.once()
        assert (await here.status(order), await here.held()) == (OrderStatus.FILLED, 2)

    async def test_for_as_long_as_is_stated(self, room):
        here = await room()
        order = await here.open("a")
        here.venue.take(order, OrderStatus.CANCELLED)
        await here.reconciler.once()
        here.wait(LATE_S + 1)
        here.venue.take(order, OrderStatus.CANCELLED, "0.5")
        assert (await here.reconciler.once()).moved == ()


class TestTurnedUp:
    async def not_placed(self, here):
        order = await here.sent("a")
        here.wait(GRACE_S)
        await here.reconciler.once()
        assert await here.status(order) is OrderStatus.NOT_PLACED
        return order

    async def test_what_turns_up_alone_is_booked_and_told(self, room):
        here = await room()
        order = await self.not_placed(here)
        here.venue.take(order, OrderStatus.FILLED, "2")
        done = await here.reconciler.once()
        assert [each.status for each in done.late] == [OrderStatus.FILLED]
        assert (await here.held(), await here.state()) == (2, (ACTIVE, "new"))
        assert "OrderTurnedUp" in here.kinds()

    @pytest.mark.parametrize(("status", "state"), [(OrderStatus.FILLED, REDUCING), (OrderStatus.NOT_PLACED, ACTIVE)])
    async def test_beside_the_next_attempt_it_is_for_a_person_to_look_at(self, room, status, state):
        here = await room()
        order = await self.not_placed(here)
        again = await sent(here.ledger, order.next_attempt())
        here.venue.take(again, OrderStatus.FILLED, "2")
        fills = (await here.venue.find(again.intent_id)).fills if status is OrderStatus.FILLED else ()
        if status is OrderStatus.NOT_PLACED:
            del here.venue.orders[again.intent_id]
        await here.ledger.record(again.intent_id, BrokerReport(status, fills=fills))
        here.venue.take(order, OrderStatus.FILLED, "2")
        await here.reconciler.once()
        assert (await here.state())[0] is state
        if state is REDUCING:
            assert await here.held() == 4
            assert await here.state() == (REDUCING, "breach")
            await here.reconciler.once()
            assert await here.state() == (REDUCING, "breach"), "it is not lifted by itself"

    @pytest.mark.parametrize(
        ("more", "state"),
        [({"leg": "entry-2"}, REDUCING), ({"leg": "exit", "side": Side.SELL}, ACTIVE), ({"decision": 1}, ACTIVE)],
    )
    async def test_nor_beside_another_leg_that_does_the_same(self, room, more, state):
        """Who slices a plan, or closes a position, goes on with the next leg."""
        here = await room()
        order = await self.not_placed(here)
        other = await here.sent("a", **more)
        here.venue.take(other, OrderStatus.FILLED, "2")
        here.venue.take(order, OrderStatus.FILLED, "2")
        await here.reconciler.once()
        assert (await here.state())[0] is state

    async def test_what_was_ordered_before_it_was_lost_is_no_second_try(self, room):
        here = await room()
        before = await here.sent("a", leg="entry-0")
        here.venue.take(before, OrderStatus.FILLED, "2")
        order = await self.not_placed(here)
        here.venue.take(order, OrderStatus.FILLED, "2")
        await here.reconciler.once()
        assert (await here.held(), await here.state()) == (4, (ACTIVE, "new"))

    async def test_it_is_looked_for_as_long_as_is_stated(self, room):
        here = await room()
        order = await self.not_placed(here)
        here.wait(LATE_S - GRACE_S)
        here.venue.asked.clear()
        await here.reconciler.once()
        assert here.venue.asked == [order.intent_id]
        here.wait(1)
        await here.reconciler.once()
        assert here.venue.asked == [order.intent_id]

    async def test_one_that_the_venue_refused_is_as_good_as_not_placed(self, room):
        here = await room()
        order = await self.not_placed(here)
        here.venue.take(order, OrderStatus.REJECTED)
        assert (await here.reconciler.once()).late == ()
        assert await here.status(order) is OrderStatus.NOT_PLACED


class TestStrangers:
    async def test_orders_that_rest_there_and_are_nobodys_are_reported(self, room):
        here = await room()
        mine = await here.open("a")
        here.venue.rests = {mine.intent_id: "SIM", "by-hand": "BTC"}
        assert (await here.reconciler.once()).strangers == ("by-hand",)
        assert here.told[-1] == ("StrangerOrder", {"order": "by-hand", "symbol": "BTC"})
        assert (await here.reconciler.once(compare=False)).strangers == ()
        assert await here.state() == (ACTIVE, "new")


class TestRun:
    """On its timer, in virtual time."""

    def play(self, seconds, work):
        async def story():
            with Database.open(":memory:", inline=True) as database:
                here = Room(database)
                await here.ledger.open_account("paper", Decimal(10_000))
                begun = asyncio.get_running_loop().time()
                task = asyncio.create_task(here.reconciler.run())
                passes = []
                real = Reconciler.once

                async def once(self, **given):
                    passes.append((asyncio.get_running_loop().time() - begun, given["compare"]))
                    return await real(self, **given)

                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(Reconciler, "once", once)
                    await work(here)
                    await asyncio.sleep(seconds)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                assert task.cancelled()
                return here, passes

        with VirtualClock(3) as clock:
            return clock.run(story())

    def test_it_looks_at_orders_often_and_at_all_books_now_and_then(self):
        async def work(here):
            self.order = await here.open("a")
            here.venue.take(self.order, OrderStatus.FILLED, "2")

        here, passes = self.play(601, work)
        assert [round(at) for at, _ in passes] == [round(POLL_S * (n + 1)) for n in range(len(passes))]
        assert [round(at) for at, compare in passes if compare] == [COMPARE_S, 2 * COMPARE_S]
        assert here.kinds() == ["OrderMoved"]

    @pytest.mark.parametrize(
        "error", [StorageError("the disk is full"), RuntimeError("a broker's own"), OrderError("no")]
    )
    def test_a_pass_that_fails_is_told_and_the_next_is_made(self, error):
        async def work(here):
            real, failures = here.ledger.at_broker, [error, error]

            async def at_broker():
                if failures:
                    raise failures.pop()
                return await real()

            here.ledger.at_broker = at_broker
            here.venue.take(await here.open("a"), OrderStatus.FILLED, "2")

        here, _ = self.play(4 * POLL_S + 1, work)
        assert here.kinds() == ["ReconcileFailed", "ReconcileFailed", "OrderMoved"]
        assert str(error) in here.told[0][1]["error"]


async def test_beside_a_desk_that_is_sending(room, flat):
    """A pass in the middle of a send: what the desk hears and what the pass finds is one and the same order."""
    here = await room()
    sending = asyncio.Event()

    async def send(order):
        here.venue.take(order, OrderStatus.FILLED, order.quantity)
        sending.set()
        for _ in range(20):
            await asyncio.sleep(0)
        return await here.venue.find(order.intent_id)

    here.venue.send = send
    desk = OrderDesk(here.ledger, here.venue, RiskLimits(), Guard("broker", retry=None), clock=here.clock)
    task = asyncio.create_task(
        desk.submit(run_id="a", account="paper", side=Side.BUY, quantity=Decimal(2), view=flat())
    )
    await sending.wait()
    done = await here.reconciler.once()
    assert [each.status for each in done.moved] == [OrderStatus.FILLED]
    assert (await task).order.status is OrderStatus.FILLED
    assert await here.held() == 2
