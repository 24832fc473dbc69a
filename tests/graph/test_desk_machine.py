"""Orders under all that can happen to them, in any order: what the venue executed is what the ledger has, once."""

from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agents.clock import ReplayClock
from agents.domain import Fill, MarketView, OrderIntent, OrderStatus, OrderType, Side, TradingState
from agents.errors import BrokerUnavailable, OrderRefused
from agents.risk import RiskLimits
from checkpoints.database import Database
from checkpoints.ledger import BrokerReport, OrderLedger
from checkpoints.trading_state import TradingSwitch
from graph.broker import Broker
from graph.comparison import Books
from graph.desk import OrderDesk
from graph.inquiry import HELD_UP_S, Inquiry
from graph.kill_switch import KillSwitch
from graph.reconciler import LATE_S, Reconciler
from graph.resilience import Guard
from graph.resilience.virtual import VirtualClock

S_NS = 10**9
BEGIN_NS = 1_700_000_000 * S_NS
WINDOW_S = 60
WAITS_S = (0, 0, 0, 20, 61, 121)
ORDERS = range(2)
SIDES = (Side.BUY, Side.SELL)
LIMITED = (None, Decimal(200))  # the second one rests
LIMITS = RiskLimits(concentration_share_max=10, gross_share_max=10, drawdown_share_max=1, daily_loss_share_max=1)


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Venue(Broker):
    """Compares ids with open orders only. Messages may be lost, or be under way for as long as they live."""

    clock: ReplayClock
    idempotent: bool = False
    fault: str = ""
    kill_at: str = ""
    under_way: list[tuple[int, OrderIntent]] = field(default_factory=list)
    executed_ids: list[str] = field(default_factory=list)
    orders: dict[str, list] = field(default_factory=dict)  # id -> [intent, status]
    trades: dict[str, list[Fill]] = field(default_factory=dict)  # by order
    number: int = 0

    def step(self, name):
        if self.kill_at == name:
            self.kill_at = ""
            raise Killed

    async def send(self, intent):
        self.step("before the send")
        fault, self.fault = self.fault, ""
        if fault == "refuse":
            raise OrderRefused("no such market")
        if fault == "late":
            self.under_way.append((self.clock.now_ns() + WINDOW_S * S_NS, intent))
        elif fault != "never":
            self.take(intent)
        self.step("after the send")
        if fault in {"lose", "late", "never"}:
            raise ConnectionError("the venue hung up")
        return await self.find(intent.intent_id)

    def take(self, intent):
        known = self.orders.get(intent.intent_id)
        if known is not None and known[1] is OrderStatus.OPEN:
            return
        self.executed_ids.append(intent.intent_id)
        self.orders[intent.intent_id] = [intent, OrderStatus.OPEN]
        if intent.type is OrderType.MARKET:
            self.fill(intent.intent_id, intent.quantity / 2)
            self.fill(intent.intent_id, intent.quantity / 2)

    def fill(self, name, quantity):
        intent, status = self.orders[name]
        made = self.trades.setdefault(name, [])
        done = sum((each.quantity for each in made), Decimal(0))
        if status is OrderStatus.FILLED or done + quantity > intent.quantity:
            return
        self.number += 1
        trade = (intent.symbol, intent.side, quantity, Decimal(100), Decimal("0.1"), self.clock.now_ns())
        made.append(Fill(f"t{self.number}", name, *trade))
        if done + quantity == intent.quantity:
            self.orders[name][1] = OrderStatus.FILLED

    def arrive(self, limit_s=0):
        """What has lived too long is thrown away, but for a venue that breaks its word, by so many seconds."""
        for dies_ns, intent in self.under_way:
            if self.clock.now_ns() <= dies_ns + limit_s * S_NS:
                self.take(intent)
        self.under_way.clear()

    async def find(self, client_order_id):
        if client_order_id not in self.orders:
            return None
        return BrokerReport(self.orders[client_order_id][1], "v", tuple(self.trades.get(client_order_id, ())))

    async def cancel(self, client_order_id):
        if client_order_id in self.orders and self.orders[client_order_id][1] is OrderStatus.OPEN:
            self.orders[client_order_id][1] = OrderStatus.CANCELLED
        self.step("after the cancellation")
        return await self.find(client_order_id)

    async def executed(self):
        return None

    async def intent(self, client_order_id):
        return None


class OrderMachine(RuleBasedStateMachine):
    """Two decisions of one run: one for a market order, and one for an order that rests."""

    def __init__(self):
        super().__init__()
        self.database = Database.open(":memory:", inline=True)
        self.clock = ReplayClock(BEGIN_NS)
        self.venue = Venue(self.clock)
        self.reports: list[tuple[str, BrokerReport]] = []
        self.late: set[str] = set()
        self.broke_its_word = False
        self.start()

    def teardown(self):
        self.clock.advance_to(self.clock.now_ns() + 200 * S_NS)
        self.venue.arrive()
        self.reconcile()
        self.check_books(whole=True)
        self.database.close()

    def start(self):
        """A process: all that it had in memory is gone."""
        self.ledger = OrderLedger(self.database, clock=self.clock)
        switch, guard = TradingSwitch(self.database), Guard("broker", retry=None, breaker=None)
        kill = KillSwitch(switch, self.ledger, self.venue, guard, self.clock, lambda *_: None)
        books = Books(self.ledger, self.venue, switch, self.clock, Decimal(10_000))
        inquiry = Inquiry(self.ledger, self.venue, guard, self.clock)
        self.switch = switch
        self.desk = OrderDesk(self.ledger, self.venue, LIMITS, guard, kill, clock=self.clock)
        self.reconciler = Reconciler(books, kill, inquiry, lambda *_: None)

    def run(self, work):
        with VirtualClock(0) as clock:
            return clock.run(work)

    @initialize()
    def open(self):
        self.run(self.ledger.open_account("paper", Decimal(10_000)))

    # What happens.

    def submit(self, number):
        prices = dict.fromkeys(("open", "high", "low", "close"), (100.0,) * 120)
        times = tuple(BEGIN_NS + number * 3600 * S_NS - (119 - n) * S_NS for n in range(120))
        wanted = {"side": SIDES[number], "quantity": Decimal(2), "limit_price": LIMITED[number]}
        view = MarketView("SIM", S_NS, times, **prices)
        return self.desk.submit(run_id="run-1", account="paper", decision=number, view=view, **wanted)

    @rule(
        number=st.sampled_from([0, 0, *ORDERS]),
        fault=st.sampled_from(["late", "late", "", "lose", "never", "refuse"]),
        after_s=st.sampled_from(WAITS_S),
    )
    def decide(self, number, fault, after_s=0):
        self.wait(after_s)
        self.venue.fault = fault
        with suppress(BrokerUnavailable):
            self.run(self.submit(number))
        self.venue.fault = ""

    @rule(
        number=st.sampled_from(ORDERS),
        at=st.sampled_from(["before the send", "after the send", "marked", "reserved"]),
        fault=st.sampled_from(["", "late"]),
        held_up_s=st.sampled_from([0, HELD_UP_S]),
    )
    def decide_and_die(self, number, at, fault, held_up_s):
        self.venue.fault, self.venue.kill_at = fault, at
        real = self.ledger.mark_sending

        async def mark_sending(*given):
            self.venue.step("reserved")
            marked = await real(*given)
            self.venue.step("marked")
            self.clock.advance_to(self.clock.now_ns() + round(held_up_s * S_NS))
            return marked

        self.ledger.mark_sending = mark_sending
        with suppress(Killed, BrokerUnavailable):
            self.run(self.submit(number))
        self.venue.fault = self.venue.kill_at = ""
        self.start()

    def wait(self, seconds):
        self.clock.advance_to(self.clock.now_ns() + seconds * S_NS)

    @precondition(lambda self: self.venue.under_way)
    @rule(breaks_its_word=st.sampled_from([False, False, True]))
    def what_is_under_way_arrives(self, breaks_its_word):
        late = any(dies_ns < self.clock.now_ns() for dies_ns, _ in self.venue.under_way)
        self.broke_its_word = self.broke_its_word or (breaks_its_word and late)
        self.venue.arrive(10**9 if breaks_its_word else 0)

    @rule(number=st.sampled_from(ORDERS), part=st.sampled_from(["0.5", "1", "2"]))
    def fill(self, number, part):
        """Also of an order that is cancelled: a late fill."""
        for name in self.of(number):
            late, before = self.venue.orders[name][1] is OrderStatus.CANCELLED, self.venue.number
            self.venue.fill(name, Decimal(part))
            if late and self.venue.number > before:
                self.late.add(f"t{self.venue.number}")

    @rule(number=st.sampled_from(ORDERS), part=st.sampled_from(["", "0.5", "2"]), dies=st.booleans())
    def cancel(self, number, part, dies):
        """It may be filled while the cancellation is on its way."""
        for name in [each.client_order_id for each in self.orders() if each.intent.decision == number]:
            if part and name in self.venue.orders:
                self.venue.fill(name, Decimal(part))
            self.venue.kill_at = "after the cancellation" if dies else ""
            try:
                self.run(self.desk.cancel(name))
            except (BrokerUnavailable, Killed):
                self.start()
            self.venue.kill_at = ""

    @rule(after_s=st.sampled_from(WAITS_S))
    def reconcile(self, after_s=0):
        self.wait(after_s)
        doubled = self.tried_again_and_there()
        self.run(self.reconciler.once())
        for name in self.venue.orders:
            self.reports.append((name, self.run(self.venue.find(name))))
        if doubled:
            reached.add("two attempts at once")
            assert self.run(self.switch.read()).state is not TradingState.ACTIVE, "people must know of it"

    def tried_again_and_there(self):
        """Whether an order that was taken for not placed is at the venue, beside the next attempt at it."""
        orders = self.orders()
        there = {
            each.intent.decision
            for each in orders
            if each.status is OrderStatus.NOT_PLACED and each.client_order_id in self.venue.orders
        }
        again = {
            each.intent.decision
            for each in orders
            if each.intent.attempt > 1 and each.status not in {OrderStatus.DENIED, OrderStatus.NOT_PLACED}
        }
        return bool(there & again) and not self.is_long_ago()

    def is_long_ago(self):
        return self.clock.now_ns() - BEGIN_NS > LATE_S * S_NS

    @precondition(lambda self: self.reports)
    @rule(data=st.data())
    def hear_something_again(self, data):
        """An old message, or the same twice: it says nothing new."""
        name, report = data.draw(st.sampled_from(self.reports))
        known = {each.client_order_id for each in self.orders()}
        if name in known and self.status(name) is not OrderStatus.PENDING:
            self.run(self.ledger.record(name, report))

    # What must be.

    def orders(self):
        return self.run(self.ledger.orders("run-1"))

    def status(self, name):
        return self.run(self.ledger.order(name)).status

    def of(self, number):
        return [name for name, (intent, _) in self.venue.orders.items() if intent.decision == number]

    @invariant()
    def no_id_is_executed_twice(self):
        assert len(set(self.venue.executed_ids)) == len(self.venue.executed_ids)

    @invariant()
    def a_decision_is_executed_once(self):
        if not self.broke_its_word:
            for number in ORDERS:
                assert len(self.of(number)) <= 1

    @invariant()
    def what_is_booked_was_executed(self):
        self.check_books(whole=False)

    def check_books(self, *, whole):
        """The portfolio is the fold of what was booked, and what was booked is the venue's, each trade once."""
        made = {each.trade_id: each for name in self.venue.orders for each in self.venue.trades.get(name, ())}
        booked = self.booked()
        assert len(set(booked)) == len(booked)
        assert set(booked) <= set(made)
        if whole:
            open_or_lately = {name for name in self.venue.orders if self.is_looked_at(name)}
            assert {each for each in made if made[each].client_order_id in open_or_lately} <= set(booked)
        trades = [made[each] for each in booked]
        portfolio = self.run(self.ledger.portfolio("paper"))
        assert portfolio.position("SIM").quantity == sum((t.quantity * t.side.sign for t in trades), Decimal(0))
        assert portfolio.cash == 10_000 - sum((t.quantity * t.side.sign * t.price + t.fee for t in trades), Decimal(0))

    def is_looked_at(self, name):
        """What was sent too long ago may be filled late, and only a venue that lists what it executed tells of that."""
        return self.run(self.ledger.sent_ns(name)) > self.clock.now_ns() - LATE_S * S_NS

    def booked(self):
        query = "SELECT trade_id FROM fills ORDER BY number"
        return self.database.read(lambda connection: [row[0] for row in connection.exec_driver_sql(query)])

    @invariant()
    def rare_states_are_noticed(self):
        for order in self.orders():
            reached.add(str(order.status))
            reached.update(["another attempt"] * (order.intent.attempt > 1))
        reached.update(["a late fill"] * bool(self.late & set(self.booked())))


reached: set[str] = set()
"""What the machine has come by: a promise is worth what it was tried with."""


def test_whatever_happens_in_whatever_order():
    run_state_machine_as_test(OrderMachine, settings=settings(max_examples=80, stateful_step_count=30, deadline=None))


@pytest.fixture
def machine():
    """One that is led by hand to where chance seldom comes."""
    made = OrderMachine()
    made.open()
    reached.clear()
    yield made
    made.rare_states_are_noticed()
    made.no_id_is_executed_twice()
    made.what_is_booked_was_executed()
    made.teardown()


def test_a_venue_that_breaks_its_word_executes_a_decision_twice_and_people_know_of_it(machine):
    machine.decide(0, "late")
    machine.reconcile(121)
    machine.decide(0, "")
    machine.a_decision_is_executed_once()
    machine.what_is_under_way_arrives(breaks_its_word=True)
    assert len(machine.of(0)) == 2
    machine.reconcile()
    machine.rare_states_are_noticed()
    assert reached >= {"another attempt", "two attempts at once"}
    assert machine.run(machine.ledger.portfolio("paper")).position("SIM").quantity == 4


def test_a_venue_that_keeps_its_word_never_does(machine):
    machine.decide(0, "late")
    machine.reconcile(59)
    machine.reconcile(62)
    machine.decide(0, "")
    machine.what_is_under_way_arrives(breaks_its_word=False)
    machine.reconcile()
    machine.a_decision_is_executed_once()
    machine.rare_states_are_noticed()
    assert "another attempt" in reached


def test_a_late_fill_of_an_order_that_was_cancelled_is_booked_once(machine):
    machine.decide(1, "")
    machine.cancel(1, "", dies=False)
    machine.fill(1, "0.5")
    (name,) = machine.of(1)
    for _ in range(2):
        machine.run(machine.ledger.record(name, machine.run(machine.venue.find(name))))
    machine.rare_states_are_noticed()
    assert "a late fill" in reached
    assert machine.run(machine.ledger.portfolio("paper")).position("SIM").quantity == Decimal("-0.5")
