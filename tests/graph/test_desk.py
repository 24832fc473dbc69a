"""The order desk: whatever the broker does, a decision's order is executed once, and its fate is written down."""

import asyncio
from dataclasses import dataclass, field
from decimal import Decimal
from unittest.mock import AsyncMock, Mock

import pytest

from agents.clock import ReplayClock
from agents.domain import Fill, OrderIntent, OrderStatus, OrderType, Quote, Side
from agents.errors import BrokerUnavailable, InvalidValue, LeaseLost, OrderConflict, OrderError, OrderRefused
from agents.risk import RiskLimits
from checkpoints.database import Database
from checkpoints.ledger import BrokerReport, OrderLedger
from graph.broker import Broker
from graph.desk import Mark, OrderDesk
from graph.grid import Grid, Steps
from graph.inquiry import GRACE_S, HELD_UP_S
from graph.resilience import Guard

S_NS = 10**9
GENEROUS = RiskLimits(concentration_share_max=10.0, position_notional_max=1e9, order_notional_max=1e9)


@dataclass
class Venue(Broker):
    """A broker that executes at the price seen. `troubles`: what goes wrong with the next sends, in this order.

    `lose`: executed, and the answer is lost. `drop`: it never arrives. `refuse`, `nonsense`, `hang`: as they say.
    Without `idempotent` it executes whatever it is sent, like the many that compare with open orders only. Limit and
    stop orders rest, until they are `cancelled`, or their `filled` quantity is all of it.
    """

    idempotent: bool = True
    troubles: list[str] = field(default_factory=list)
    executions: list[OrderIntent] = field(default_factory=list)
    forgetful: bool = False
    calls: list[str] = field(default_factory=list)
    hanging: asyncio.Event = field(default_factory=asyncio.Event)
    filled: dict[str, Decimal] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)

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
                quantity = self.filled.get(client_order_id, intent.quantity)
                if intent.type is not OrderType.MARKET:
                    quantity = self.filled.get(client_order_id, Decimal(0))
                price, fee = intent.reference_price, Decimal(0)
                traded = (intent.symbol, intent.side, quantity, price, fee, intent.reference_ns)
                fills = (Fill(f"t-{client_order_id}-{quantity}", client_order_id, *traded),) if quantity else ()
                done = OrderStatus.CANCELLED if client_order_id in self.cancelled else OrderStatus.OPEN
                return BrokerReport(OrderStatus.FILLED if quantity == intent.quantity else done, f"v{number}", fills)
        return None

    async def cancel(self, client_order_id: str) -> BrokerReport | None:
        self.calls.append("cancel")
        trouble = self.troubles.pop(0) if self.troubles else ""
        if trouble == "drop":
            raise ConnectionError("the line is dead")
        if self.report(client_order_id) is not None:
            self.cancelled.add(client_order_id)
        if trouble == "nonsense":
            return {"ok": True}  # type: ignore[return-value]
        return await self.find(client_order_id)

    async def executed(self) -> None:
        return None

    async def intent(self, client_order_id: str) -> None:
        return None


class Room:
    """A desk with its ledger, a venue and a view."""

    def __init__(self, database, view, limits=GENEROUS, **venue):
        self.clock = ReplayClock(1_000 * S_NS)
        self.ledger = OrderLedger(database, clock=self.clock)
        self.venue = Venue(**venue)
        self.view = view
        self.limits = limits
        self.guard = Guard("broker", retry=None, breaker=None)
        self.desk = OrderDesk(self.ledger, self.venue, limits, self.guard, clock=self.clock)

    async def submit(self, run_id="run-1", quantity="2", side=Side.BUY, view=None, **more):
        return await self.desk.submit(
            run_id=run_id, account="paper", side=side, quantity=Decimal(quantity), view=view or self.view, **more
        )

    async def failed(self, *given, **more):
        """The names of the checks that an order does not pass."""
        return [check.name for check in (await self.submit(*given, **more)).order.checks if not check.passed]

    async def held(self, symbol="SIM"):
        return (await self.ledger.portfolio("paper")).position(symbol).quantity

    def wait(self, seconds):
        self.clock.advance_to(self.clock.now_ns() + round(seconds * S_NS))

    async def status(self, run_id="run-1"):
        (order,) = await self.ledger.orders(run_id)
        return order.status


@pytest.fixture
async def room(tmp_path, flat):
    databases = []

    async def make(limits=GENEROUS, cash=10_000, *, inline=False, **venue):
        databases.append(Database.open(tmp_path / f"{len(databases)}.db", inline=inline))
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
        assert await here.desk.recover() == ()
        assert here.venue.calls == ["send", "find"], "nothing is sent but by who has decided it"
        assert await here.status() is OrderStatus.SENDING
        assert (await here.submit()).order.status is OrderStatus.FILLED
        assert len(here.venue.executions) == 1

    async def test_recovery_goes_on_past_an_order_that_stays_unknown(self, room):
        here = await room(idempotent=False, troubles=["drop", "lose"])
        for run_id, quantity in (("lost", "1"), ("made", "2")):
            with pytest.raises(BrokerUnavailable):
                await here.submit(run_id, quantity)
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
        tickets = await asyncio.gather(*(here.submit(f"run-{number}", f"9.{number:02}") for number in range(12)))
        statuses = sorted(ticket.order.status for ticket in tickets)
        assert statuses == [OrderStatus.DENIED] * 9 + [OrderStatus.FILLED] * 3
        assert 27 < (await here.ledger.portfolio("paper")).position("SIM").quantity < 30

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


PRICES = {"limit": {"limit_price": Decimal(98)}, "stop": {"stop_price": Decimal(105)}}
PRICES["stop_limit"] = {**PRICES["stop"], "limit_price": Decimal(106)}


class TestKinds:
    """Every type of order, and several of one decision."""

    @pytest.mark.parametrize("kind", PRICES)
    async def test_what_rests_is_open_and_asking_again_sends_it_no_more(self, room, kind):
        here = await room()
        ticket = await here.submit(**PRICES[kind])
        order = ticket.order
        assert (order.status, order.intent.type, order.filled) == (OrderStatus.OPEN, kind, 0)
        assert (order.intent.limit_price, order.intent.stop_price) == tuple(
            PRICES[kind].get(name) for name in ("limit_price", "stop_price")
        )
        assert await here.submit(**PRICES[kind]) == ticket
        assert here.venue.calls == ["send"]
        with pytest.raises(OrderConflict):
            await here.submit(limit_price=Decimal(97))

    async def test_legs_of_a_decision_are_orders_of_their_own(self, room):
        here = await room()
        entry = (await here.submit(quantity="3")).order
        stop = (await here.submit(quantity="3", side=Side.SELL, leg="stop", stop_price=Decimal(90))).order
        target = (await here.submit(quantity="3", side=Side.SELL, leg="target", limit_price=Decimal(120))).order
        out = (await here.submit(quantity="3", side=Side.SELL, leg="exit")).order
        assert [each.intent.leg for each in await here.ledger.orders("run-1")] == ["entry", "stop", "target", "exit"]
        assert [each.status for each in (entry, stop, target, out)] == ["filled", "open", "open", "filled"]
        assert len({each.client_order_id for each in (entry, stop, target, out)}) == 4
        assert await here.held() == 0

    async def test_prices_that_are_none_are_no_order(self, room):
        here = await room()
        for price in (Decimal(0), Decimal("NaN")):
            with pytest.raises(InvalidValue):
                await here.submit(limit_price=price)
        assert here.venue.calls == []


class TestGoOn:
    """An order that was left in the middle, and of which only its id is known."""

    @pytest.mark.parametrize("trouble", ["drop", "lose", "nonsense"])
    async def test_one_that_was_lost_is_found_or_sent_again_under_its_id(self, room, trouble):
        here = await room(troubles=[trouble])
        with pytest.raises(BrokerUnavailable):
            await here.submit()
        (lost,) = await here.ledger.orders("run-1")
        for _ in range(2):
            order = await here.desk.go_on(lost.client_order_id)
            assert (order.intent, order.status) == (lost.intent, OrderStatus.FILLED)
        assert (len(here.venue.executions), await here.held()) == (1, 2)

    async def test_one_that_was_reserved_and_never_sent_is_sent(self, room, monkeypatch):
        here = await room()
        with monkeypatch.context() as patch:
            patch.setattr(OrderLedger, "mark_sending", AsyncMock(side_effect=asyncio.CancelledError))
            with pytest.raises(asyncio.CancelledError):
                await here.submit()
        (left,) = await here.ledger.orders("run-1")
        assert left.status is OrderStatus.PENDING
        assert (await here.desk.go_on(left.client_order_id)).status is OrderStatus.FILLED

    async def test_where_an_id_may_execute_twice_nothing_is_asked_or_sent(self, room):
        here = await room(idempotent=False, troubles=["drop"])
        with pytest.raises(BrokerUnavailable):
            await here.submit()
        (lost,) = await here.ledger.orders("run-1")
        here.venue.calls.clear()
        assert await here.desk.go_on(lost.client_order_id) == lost
        assert here.venue.calls == []

    async def test_nor_by_who_does_not_hold_the_run(self, room):
        here = await room(troubles=["drop"])
        with pytest.raises(BrokerUnavailable):
            await here.submit()
        (lost,) = await here.ledger.orders("run-1")
        here.venue.calls.clear()
        here.ledger._fence = Mock(side_effect=LeaseLost("another has it"))
        with pytest.raises(LeaseLost):
            await here.desk.go_on(lost.client_order_id)
        assert here.venue.calls == []

    async def test_one_that_the_ledger_does_not_have(self, room):
        with pytest.raises(OrderError, match="the ledger has no order nobody"):
            await (await room()).desk.go_on("nobody")


class TestCancel:
    async def test_what_rests_is_taken_out_and_keeps_what_was_filled(self, room):
        here = await room()
        order = (await here.submit(limit_price=Decimal(98))).order
        here.venue.filled[order.client_order_id] = Decimal("0.5")
        cancelled = await here.desk.cancel(order.client_order_id)
        assert (cancelled.status, cancelled.filled, await here.held()) == (
            OrderStatus.CANCELLED,
            Decimal("0.5"),
            Decimal("0.5"),
        )
        assert await here.desk.cancel(order.client_order_id) == cancelled
        assert here.venue.calls.count("cancel") == 1

    async def test_one_that_fills_meanwhile_is_filled(self, room):
        here = await room()
        order = (await here.submit(limit_price=Decimal(98))).order
        here.venue.filled[order.client_order_id] = Decimal(2)
        assert (await here.desk.cancel(order.client_order_id)).status is OrderStatus.FILLED

    @pytest.mark.parametrize("trouble", ["drop", "nonsense"])
    async def test_without_an_answer_it_may_rest_there_still(self, room, trouble):
        here = await room()
        order = (await here.submit(limit_price=Decimal(98))).order
        here.venue.troubles = [trouble]
        with pytest.raises(BrokerUnavailable, match=r"did not say that order .* it may be filled yet; cancel it again"):
            await here.desk.cancel(order.client_order_id)
        assert await here.status() is OrderStatus.OPEN
        assert (await here.desk.cancel(order.client_order_id)).status is OrderStatus.CANCELLED

    async def test_one_that_never_left_never_will(self, room, monkeypatch):
        here = await room()

        async def dies(*_):
            raise OrderError("the process is gone")

        with monkeypatch.context() as patch:
            patch.setattr(here.ledger, "mark_sending", dies)
            with pytest.raises(OrderError):
                await here.submit()
        (order,) = await here.ledger.orders("run-1")
        denied = await here.desk.cancel(order.client_order_id)
        assert (denied.status, denied.reason) == (OrderStatus.DENIED, "it was cancelled before it was sent")
        assert (await here.submit()).order == denied
        assert here.venue.calls == []

    async def test_one_whose_fate_is_open_is_cancelled_or_asked_about(self, room):
        here = await room(idempotent=False, troubles=["lose"])
        with pytest.raises(BrokerUnavailable):
            await here.submit(limit_price=Decimal(98))
        (order,) = await here.ledger.orders("run-1")
        assert (await here.desk.cancel(order.client_order_id)).status is OrderStatus.CANCELLED
        lost = await room(idempotent=False, troubles=["drop"])
        with pytest.raises(BrokerUnavailable):
            await lost.submit(limit_price=Decimal(98))
        (order,) = await lost.ledger.orders("run-1")
        with pytest.raises(BrokerUnavailable, match="is unknown to the broker"):
            await lost.desk.cancel(order.client_order_id)

    async def test_one_that_the_ledger_does_not_have(self, room):
        with pytest.raises(OrderError, match="the ledger has no order hf-none"):
            await (await room()).desk.cancel("hf-none")


class TestMeasured:
    """What the checks are held against comes from the ledger, the bars and the quote."""

    async def test_the_same_again_is_a_duplicate_and_after_the_window_it_is_not(self, room, flat):
        here = await room()
        await here.submit("a", now_ns=here.view.as_of_ns)
        assert await here.failed("b", now_ns=here.view.as_of_ns + 4 * S_NS) == ["duplicate_intent"]
        assert await here.failed("c", "1.9", now_ns=here.view.as_of_ns + 4 * S_NS) == []
        assert await here.failed("d", now_ns=here.view.as_of_ns + 6 * S_NS) == []

    async def test_what_was_throttled_is_a_duplicate_by_what_was_asked_for(self, room, flat):
        here = await room()
        thin = flat(volume=(5.0,) * 120)
        assert (await here.submit("a", view=thin)).order.intent.quantity == Decimal("0.5")
        assert await here.failed("b", view=thin) == ["duplicate_intent"]

    async def test_orders_come_only_so_fast_but_the_way_out_stays_open(self, room):
        here = await room(RiskLimits(concentration_share_max=10, rate_count_max=3))
        at = [here.view.as_of_ns + second * S_NS for second in (0, 20, 40, 50, 61)]
        for number, now_ns in enumerate(at[:3]):
            assert await here.failed(f"run-{number}", f"1.{number}", now_ns=now_ns) == []
        assert await here.failed("fourth", "1.5", now_ns=at[3]) == ["order_rate"]
        assert await here.failed("out", "1.5", Side.SELL, now_ns=at[3]) == []
        assert await here.failed("later", "1.6", now_ns=at[4]) == ["order_rate"]  # the way out counts
        assert await here.failed("much later", "1.6", now_ns=at[4] + 61 * S_NS) == []

    async def test_worth_within_the_window(self, room):
        here = await room(RiskLimits(concentration_share_max=10, rate_notional_max=1_000.0))
        await here.submit("a", "6")
        assert await here.failed("b", "5") == ["order_rate"]
        assert await here.failed("c", "4") == []

    async def test_it_does_not_trade_with_its_own_resting_order(self, room):
        here = await room()
        await here.submit("rests", "1", Side.SELL, limit_price=Decimal(104))
        assert await here.failed("market") == ["self_trade"]
        assert await here.failed("below", limit_price=Decimal(103)) == []
        order = (await here.ledger.orders("rests"))[0]
        await here.desk.cancel(order.client_order_id)
        assert await here.failed("market again", "2.1") == []

    async def test_other_symbols_and_their_open_orders_count(self, room, flat):
        here = await room(RiskLimits(concentration_share_max=1, gross_share_max=0.5))
        await here.submit("other", "20", view=flat("BBB"))
        await here.submit("rests", "20", view=flat("CCC"), limit_price=Decimal(98))
        assert await here.failed("more", "11") == ["open_exposure"]
        assert await here.failed("less", "9") == []
        dear = {"BBB": Mark(Decimal(500), Decimal(500))}
        assert await here.failed("marked", "1", marks=dear) == ["open_exposure"]

    async def test_a_loss_in_another_symbol_is_a_loss_of_the_day(self, room, flat):
        here = await room(RiskLimits(concentration_share_max=1))
        await here.submit("other", "20", view=flat("BBB", last_day=19_990))
        fallen = {"BBB": Mark(Decimal(80), Decimal(100))}
        assert await here.failed("more", "1", marks=fallen) == ["daily_loss"]
        assert await here.failed("again", "1", marks={"BBB": Mark(Decimal(80), Decimal(81))}) == []

    async def test_an_old_quote_refuses_and_a_wide_one_shrinks(self, room):
        here = await room()
        now_ns = here.view.as_of_ns
        old = Quote("SIM", now_ns - 61 * S_NS, Decimal("99.9"), Decimal("100.1"))
        assert await here.failed("old", quote=old, now_ns=now_ns) == ["price_collar"]
        wide = Quote("SIM", now_ns, Decimal("99.5"), Decimal("100.5"))
        ticket = await here.submit("wide", quote=wide, now_ns=now_ns)
        assert ticket.order.intent.quantity == Decimal("0.4")
        assert "a spread of 100.0 bps" in ticket.reasons[0]

    async def test_what_is_restricted_and_what_the_broker_keeps_rejecting(self, room):
        assert await (await room(RiskLimits(restricted=("sim",)))).failed() == ["restricted"]
        here = await room(RiskLimits(concentration_share_max=10, reject_streak_max=1), troubles=["refuse", "refuse"])
        await here.submit("a", "1")
        await here.submit("b", "1.1")
        assert await here.failed("c", "1.2") == ["reject_streak"]


class TestWayOut:
    """What closes a position is neither blocked by an exposure limit nor shrunk by a wild market."""

    WILD = [100.0, 130.0] * 60

    @pytest.mark.parametrize("told", [True, False])
    async def test_the_way_out_goes_whole_and_the_way_in_does_not(self, room, flat, told):
        here = await room()
        await here.submit("in", "5", view=flat(last_day=19_990))
        wild = flat(closes=self.WILD)
        out = await here.submit("out", "5", Side.SELL, view=wild, held=Decimal(5) if told else None)
        assert (out.order.intent.quantity, out.reasons, await here.held()) == (5, (), 0)
        assert (await here.submit("in again", "5", view=wild)).order.intent.quantity < 2

    async def test_asked_again_after_a_crash_the_order_is_the_one_that_was_sent(self, room, flat):
        """The position is closed by then, and the market would take another size now."""
        here = await room()
        await here.submit("in", "5", view=flat(last_day=19_990))
        wild = flat(closes=self.WILD)
        out = await here.submit("out", "5", Side.SELL, view=wild)
        again = await here.submit("out", "5", Side.SELL, view=wild)
        assert again.order == out.order
        assert again.reasons == ("of 5 that were asked for, 5 were ordered",)
        with pytest.raises(OrderConflict):
            await here.submit("out", "4", Side.SELL, view=wild)

    async def test_a_position_beyond_every_limit_can_be_closed(self, room, flat):
        here = await room(cash=10_000)
        await here.submit("in", "90", view=flat(last_day=19_990))
        tight = RiskLimits(
            position_notional_max=1, order_notional_max=1, concentration_share_max=1e-6, rate_count_max=1
        )
        desk = OrderDesk(here.ledger, here.venue, tight, here.guard, clock=here.clock)
        lost = flat(closes=[100.0] * 119 + [1.0])
        sell = {"account": "paper", "side": Side.SELL, "view": lost}
        order = (await desk.submit(run_id="out", quantity=Decimal(90), **sell)).order
        assert (order.status, await here.held()) == (OrderStatus.FILLED, 0)


class TestNextAttempt:
    """A venue that would execute an id twice is never sent it again: what was lost is tried anew, once certain."""

    async def lost(self, room, **more):
        here = await room(inline=True, idempotent=False, troubles=["drop"], **more)
        with pytest.raises(BrokerUnavailable):
            await here.submit()
        return here

    async def test_before_the_time_is_over_it_is_asked_about_once(self, room):
        here = await self.lost(room)
        here.wait(GRACE_S - 1)
        with pytest.raises(BrokerUnavailable, match="it was not sent again; ask later"):
            await here.submit()
        assert here.venue.calls == ["send", "find"]
        assert await here.status() is OrderStatus.UNKNOWN

    async def test_then_it_is_not_placed_and_the_next_attempt_goes_under_its_own_id(self, room, monkeypatch):
        here = await self.lost(room)
        here.wait(GRACE_S)
        monkeypatch.setattr("graph.inquiry.SPACING_S", 0)
        (first,) = await here.desk.recover()
        assert (first.status, here.venue.calls) == (OrderStatus.NOT_PLACED, ["send", "find", "find", "find"])
        assert first.reason == "the broker had never seen it after 120 s, asked 3 times"
        second = (await here.submit()).order
        assert second.client_order_id == f"{first.client_order_id}-2"
        assert (second.status, len(here.venue.executions), await here.held()) == (OrderStatus.FILLED, 1, 2)
        assert (await here.submit()).order == second
        assert here.venue.calls.count("send") == 2

    async def test_it_is_checked_as_any_other_and_the_one_before_it_is_no_duplicate(self, room, monkeypatch, flat):
        here = await self.lost(room)
        here.wait(GRACE_S)
        monkeypatch.setattr("graph.inquiry.SPACING_S", 0)
        await here.desk.recover()
        await here.submit("other", "2.1")
        poor = OrderDesk(here.ledger, here.venue, RiskLimits(concentration_share_max=0.01), here.guard)
        denied = (
            await poor.submit(run_id="run-1", account="paper", side=Side.BUY, quantity=Decimal(2), view=here.view)
        ).order
        assert (denied.status, denied.intent.attempt) == (OrderStatus.DENIED, 2)
        assert [each.name for each in denied.checks if not each.passed] == ["concentration"]

    async def test_one_that_turns_up_after_all_is_booked_beside_the_next(self, room, monkeypatch):
        here = await self.lost(room)
        here.wait(GRACE_S)
        monkeypatch.setattr("graph.inquiry.SPACING_S", 0)
        (first,) = await here.desk.recover()
        await here.submit()
        here.venue.executions.append(first.intent)
        await here.ledger.record(first.client_order_id, here.venue.report(first.client_order_id))
        assert await here.held() == 4

    async def test_who_was_held_up_on_the_way_does_not_send(self, room, monkeypatch):
        here = await room(idempotent=False)
        real = here.ledger.mark_sending

        async def slowly(*given):
            marked = await real(*given)
            here.wait(HELD_UP_S)
            return marked

        monkeypatch.setattr(here.ledger, "mark_sending", slowly)
        order = (await here.submit()).order
        assert (order.status, here.venue.calls) == (OrderStatus.NOT_PLACED, [])
        assert order.reason == "it was held up for 20 s on its way out, and was not sent"
        here.venue.idempotent = True
        assert (await here.submit("other")).order.status is OrderStatus.FILLED


class TestGrid:
    """What a venue does not take is brought to what it takes, before there is an order."""

    GRID = Grid(lots=Steps(Decimal("0.5"), Decimal(1), Decimal(10)), ticks=Steps(Decimal(1)), worth_least=Decimal(5))

    async def test_the_order_is_what_the_venue_takes(self, room):
        here = await room()
        here.venue.grid = lambda _: self.GRID
        ticket = await here.submit(quantity="2.7", limit_price=Decimal("99.5"))
        assert (ticket.order.intent.quantity, ticket.order.intent.limit_price) == (Decimal("2.5"), Decimal(99))
        assert ticket.reasons == (
            "quantity 2.7 became 2.5, which the venue takes",
            "limit 99.5 became 99, which the venue takes",
        )
        again = await here.submit(quantity="2.7", limit_price=Decimal("99.5"))
        assert again.order.client_order_id == ticket.order.client_order_id

    async def test_what_is_too_little_is_no_order(self, room):
        here = await room()
        here.venue.grid = lambda _: self.GRID
        ticket = await here.submit(quantity="0.9")
        assert ticket.order is None
        assert ticket.reasons == (
            "quantity 0.5 is below 1, the least that the venue takes",
            "nothing is left of 0.9 to order",
        )
        assert (await here.ledger.orders("run-1"), here.venue.calls) == ((), [])
