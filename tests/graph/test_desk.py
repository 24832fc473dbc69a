"""The order desk: whatever the broker does, a decision's order is executed once, and its fate is written down."""

import asyncio
from dataclasses import dataclass, field
from decimal import Decimal

import pytest

from agents.domain import Fill, OrderIntent, OrderStatus, Side
from agents.errors import BrokerUnavailable, OrderConflict, OrderRefused
from agents.risk import RiskLimits
from checkpoints.database import Database
from checkpoints.ledger import BrokerReport, OrderLedger
from graph.desk import OrderDesk
from graph.resilience import Guard

GENEROUS = RiskLimits(concentration_share_max=10.0, position_notional_max=1e9, order_notional_max=1e9)


@dataclass
class Venue:
    """A broker that executes at the price seen. `troubles`: what goes wrong with the next sends, in this order.

    `lose`: executed, and the answer is lost. `drop`: it never arrives. `refuse`, `nonsense`, `hang`: as they say.
    Without `idempotent` it executes whatever it is sent, like the many that compare with open orders only.
    """

    idempotent: bool = True
    troubles: list[str] = field(default_factory=list)
    executions: list[OrderIntent] = field(default_factory=list)
    forgetful: bool = False
    calls: list[str] = field(default_factory=list)
    hanging: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, intent: OrderIntent) -> BrokerReport:
        self.calls.append("send")
        await asyncio.sleep(0)
        trouble = self.troubles.pop(0) if self.troubles else ""
        if trouble == "drop":
            raise ConnectionError("the line is dead")
        if trouble == "refuse":
            raise OrderRefused("no such market")
        if trouble == "hang":
            self.hanging.set()
            await asyncio.Event().wait()
        known = self.report(intent.intent_id) if self.idempotent else None
        if known is None:
            self.executions.append(intent)
        if trouble == "lose":
            raise TimeoutError("no answer")
        if trouble == "nonsense":
            return {"ok": True}  # type: ignore[return-value]
        return self.report(intent.intent_id)

    async def find(self, client_order_id: str) -> BrokerReport | None:
        self.calls.append("find")
        await asyncio.sleep(0)
        return None if self.forgetful else self.report(client_order_id)

    def report(self, client_order_id: str) -> BrokerReport | None:
        for number, intent in enumerate(self.executions):
            if intent.intent_id == client_order_id:
                price, fee = intent.reference_price, Decimal(0)
                traded = (intent.symbol, intent.side, intent.quantity, price, fee, intent.reference_ns)
                return BrokerReport(
                    OrderStatus.FILLED, f"v{number}", (Fill(f"t-{client_order_id}", client_order_id, *traded),)
                )
        return None


class Room:
    """A desk with its ledger, a venue and a view."""

    def __init__(self, database, view, limits=GENEROUS, **venue):
        self.ledger = OrderLedger(database)
        self.venue = Venue(**venue)
        self.view = view
        self.limits = limits
        self.guard = Guard("broker", retry=None, breaker=None)
        self.desk = OrderDesk(self.ledger, self.venue, limits, self.guard)

    async def submit(self, run_id="run-1", quantity="2", side=Side.BUY, view=None):
        return await self.desk.submit(
            run_id=run_id, account="paper", side=side, quantity=Decimal(quantity), view=view or self.view
        )

    async def status(self, run_id="run-1"):
        (order,) = await self.ledger.orders(run_id)
        return order.status


@pytest.fixture
async def room(tmp_path, flat):
    databases = []

    async def make(limits=GENEROUS, cash=10_000, **venue):
        databases.append(Database.open(tmp_path / f"{len(databases)}.db"))
        room = Room(databases[-1], flat(), limits, **venue)
        await room.ledger.open_account("paper", Decimal(cash))
        return room

    yield make
    for database in databases:
        database.close()


class TestTheWay:
    async def test_an_order_is_on_disk_as_sending_before_it_is_sent_and_filled_after(self, room):
        here = await room()
        real, seen = here.venue.send, []

        async def send(intent):
            seen.append(await here.status())
            return await real(intent)

        here.venue.send = send
        ticket = await here.submit()
        assert seen == [OrderStatus.SENDING]
        assert (ticket.order.status, ticket.order.filled, ticket.order.price) == (OrderStatus.FILLED, 2, 100)
        assert ticket.order.broker_order_id == "v0"
        assert (await here.ledger.portfolio("paper")).position("SIM").quantity == 2

    async def test_asking_again_is_answered_from_the_ledger(self, room):
        here = await room()
        first = await here.submit()
        here.venue.calls.clear()
        assert await here.submit() == first
        assert here.venue.calls == []

    async def test_a_decision_that_comes_out_otherwise_is_refused(self, room):
        here = await room()
        await here.submit()
        with pytest.raises(OrderConflict):
            await here.submit(quantity="3")
        assert len(here.venue.executions) == 1

    async def test_what_risk_denies_is_not_sent(self, room):
        here = await room(RiskLimits(concentration_share_max=0.01))
        ticket = await here.submit()
        assert ticket.order.status is OrderStatus.DENIED
        assert [check.name for check in ticket.order.checks if not check.passed] == ["concentration"]
        assert len(ticket.order.checks) >= 6
        assert here.venue.calls == []

    async def test_a_size_throttled_to_nothing_is_no_order(self, room, flat):
        here = await room()
        ticket = await here.submit(view=flat(volume=(0.0,) * 120))
        assert ticket.order is None
        assert "average bar volume" in ticket.reasons[0]
        assert ticket.reasons[-1] == "nothing is left of 2 to order"
        assert (here.venue.calls, await here.ledger.orders("run-1")) == ([], ())

    async def test_a_throttled_size_is_what_is_sent(self, room, flat):
        here = await room()
        ticket = await here.submit(view=flat(volume=(5.0,) * 120))
        assert ticket.order.intent.quantity == Decimal("0.5")
        assert "reduced to 0.5000" in ticket.reasons[0]


class TestTrouble:
    async def test_an_answer_that_was_lost_is_found_and_nothing_is_executed_twice(self, room):
        for idempotent in (True, False):
            here = await room(idempotent=idempotent, troubles=["lose"])
            with pytest.raises(BrokerUnavailable, match=r"TimeoutError: no answer.*its fate is unknown"):
                await here.submit()
            assert await here.status() is OrderStatus.UNKNOWN
            assert (await here.submit()).order.status is OrderStatus.FILLED
            assert len(here.venue.executions) == 1
            assert here.venue.calls == ["send", "find"]

    async def test_an_answer_that_is_none(self, room):
        here = await room(troubles=["nonsense"])
        with pytest.raises(BrokerUnavailable, match="which is no report"):
            await here.submit()
        assert await here.status() is OrderStatus.UNKNOWN
        assert (await here.submit()).order.filled == 2
        assert len(here.venue.executions) == 1

    async def test_a_refusal_is_final(self, room):
        here = await room(troubles=["refuse"])
        ticket = await here.submit()
        assert (ticket.order.status, ticket.order.reason) == (OrderStatus.REJECTED, "no such market")
        assert (await here.submit()).order == ticket.order
        assert here.venue.calls == ["send"]

    async def test_an_order_that_never_arrived_is_sent_again_under_its_id(self, room):
        here = await room(troubles=["drop"])
        with pytest.raises(BrokerUnavailable):
            await here.submit()
        assert (await here.submit()).order.status is OrderStatus.FILLED
        assert here.venue.calls == ["send", "find", "send"]

    async def test_a_venue_that_forgets_ids_is_never_sent_a_lost_order_again(self, room):
        here = await room(idempotent=False, troubles=["lose"], forgetful=True)
        with pytest.raises(BrokerUnavailable):
            await here.submit()
        for _ in range(3):
            with pytest.raises(BrokerUnavailable, match="it was not sent again; ask later"):
                await here.submit()
        assert len(here.venue.executions) == 1
        here.venue.forgetful = False
        assert (await here.submit()).order.status is OrderStatus.FILLED

    async def test_cancelled_in_the_middle_of_the_send_and_settled_by_recovery(self, room):
        here = await room(troubles=["hang"])
        async with asyncio.TaskGroup() as group:
            task = group.create_task(here.submit())
            await here.venue.hanging.wait()
            assert await here.status() is OrderStatus.SENDING
            task.cancel()
        assert task.cancelled()
        assert await here.status() is OrderStatus.SENDING
        (settled,) = await here.desk.recover()
        assert settled.status is OrderStatus.FILLED
        assert len(here.venue.executions) == 1
        assert await here.desk.recover() == ()

    async def test_recovery_goes_on_past_an_order_that_stays_unknown(self, room):
        here = await room(idempotent=False, troubles=["drop", "lose"])
        for run_id in ("lost", "made"):
            with pytest.raises(BrokerUnavailable):
                await here.submit(run_id)
        settled = await here.desk.recover()
        assert [order.intent.run_id for order in settled] == ["made"]
        assert await here.status("lost") is OrderStatus.UNKNOWN

    async def test_recovery_with_a_dead_broker_changes_nothing(self, room):
        here = await room(troubles=["lose"])
        with pytest.raises(BrokerUnavailable):
            await here.submit()

        async def find(client_order_id):
            raise ConnectionError("dead")

        here.venue.find = find
        assert await here.desk.recover() == ()
        with pytest.raises(BrokerUnavailable, match=r"ConnectionError: dead.*nothing was sent"):
            await here.submit()
        assert await here.status() is OrderStatus.UNKNOWN


class TestAtOnce:
    @pytest.mark.parametrize("idempotent", [True, False])
    async def test_fifty_submits_of_one_decision_execute_once(self, room, idempotent):
        here = await room(idempotent=idempotent)
        tickets = await asyncio.gather(*(here.submit() for _ in range(50)), return_exceptions=True)
        assert len(here.venue.executions) == 1
        if idempotent:
            assert {ticket.order.status for ticket in tickets} == {OrderStatus.FILLED}
        assert {type(each) for each in tickets if isinstance(each, BaseException)} <= {BrokerUnavailable}
        assert (await here.submit()).order.status is OrderStatus.FILLED
        assert (await here.ledger.portfolio("paper")).position("SIM").quantity == 2

    async def test_runs_of_one_account_cannot_break_a_limit_together(self, room):
        here = await room(RiskLimits(concentration_share_max=0.30))  # 30 units at 100 of 10,000
        tickets = await asyncio.gather(*(here.submit(f"run-{number}", "10") for number in range(12)))
        statuses = sorted(ticket.order.status for ticket in tickets)
        assert statuses == [OrderStatus.DENIED] * 9 + [OrderStatus.FILLED] * 3
        assert (await here.ledger.portfolio("paper")).position("SIM").quantity == 30

    async def test_an_order_whose_fate_is_unknown_counts(self, room):
        here = await room(RiskLimits(concentration_share_max=0.30), troubles=["drop"])
        with pytest.raises(BrokerUnavailable):
            await here.submit("lost", "25")
        assert (await here.submit("next", "10")).order.status is OrderStatus.DENIED


class TestDailyLoss:
    LIMITS = RiskLimits(daily_loss_share_max=0.03, concentration_share_max=10.0)

    async def test_todays_fall_counts_though_the_position_is_still_in_profit(self, room, flat):
        here = await room(self.LIMITS)
        await here.submit("old", "50", view=flat(price=50.0, last_day=19_990))
        fallen = flat(closes=[100.0] * 119 + [90.0], last_day=20_000)
        order = (await here.submit("new", "1", view=fallen)).order
        (check,) = [each for each in order.checks if each.name == "daily_loss"]
        assert check.value == pytest.approx(50 * 10 / (10_000 + 50 * 40))
        assert order.status is OrderStatus.DENIED

    async def test_last_weeks_fall_is_not_todays(self, room, flat):
        here = await room(self.LIMITS)
        await here.submit("old", "50", view=flat(price=100.0, last_day=19_990))
        order = (await here.submit("new", "1", view=flat(price=80.0))).order
        assert [each.value for each in order.checks if each.name == "daily_loss"] == [0.0]
        assert order.status is OrderStatus.FILLED
