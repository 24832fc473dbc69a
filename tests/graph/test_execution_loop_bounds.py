"""The execution loop keeps to its plan and to the time, and orders each plan once, whatever happens around it."""

import asyncio
from dataclasses import replace
from decimal import Decimal

import pytest

from agents.domain import KillSwitchReason, OrderIntent, OrderStatus, Outcome, Quote, Side, TradingState, Verdict
from agents.errors import BrokerUnavailable, InvalidValue
from graph.execution_loop import Decision
from graph.mandate import Mandate
from tests.graph.floor import BUY, HOLD, SELL, START_NS, Floor, Says, agent_of, bar_of, mandate_of, plan_of, view_of

pytestmark = pytest.mark.usefixtures("no_waiting")


class TestBounds:
    async def test_without_a_plan_nobody_is_asked(self, floor):
        here = await floor(policy := Says())
        await here.loop.watch(view_of())
        here.listen()
        decision = await here.tick()
        assert decision == Decision("SIM", bar_of(1).close_ns, "there is no approved plan")
        assert (policy.calls, here.venue.calls) == (0, [])
        assert [event[0] for event in here.events] == ["pre_decision", "post_decision"]

    @pytest.mark.parametrize("outcome", [None, Outcome.REJECT, Outcome.REVISE])
    def test_a_plan_that_was_not_approved_is_no_mandate(self, outcome):
        verdict = None if outcome is None else Verdict(outcome, ())
        with pytest.raises(InvalidValue, match="was not approved"):
            Mandate(plan_of(), verdict, "run-1", "paper")

    async def test_a_plan_is_stale_after_its_horizon(self, floor):
        policy = Says(HOLD)
        here = await (await floor(policy)).begin(horizon_bars=3)
        for number in (1, 2, 3):
            assert "says holds" in (await here.tick(number)).reason
        policy.action = BUY
        decision = await here.tick(4)
        assert decision.reason == "the plan is stale: it was made 4 bars ago, for 3"
        assert (policy.calls, here.venue.calls) == (3, [])

    @pytest.mark.parametrize(("calendar", "stale"), [("24/7", True), ("24/5", False)])
    async def test_bars_that_are_missing_count_where_the_market_never_closes(self, floor, calendar, stale):
        here = await (await floor()).begin(horizon_bars=3, view=view_of(calendar=calendar))
        assert ("stale" in (await here.tick(5)).reason) == stale

    async def test_a_policy_cannot_trade_anything_else(self, floor):
        for action, reason in ((SELL, "against an approved BUY"), (HOLD, "says holds")):
            here = await (await floor(Says(action))).begin()
            decision = await here.tick()
            assert reason in decision.reason
            assert (decision.side, here.venue.calls) == (None, [])

    async def test_not_beyond_the_plans_stop_or_target_whatever_the_policy_says(self, floor):
        for price in ("94", "95", "120", "121"):
            here = await (await floor()).begin(stop=Decimal(95), take_profit=Decimal(120))
            decision = await here.tick(1, price)
            assert "beyond the plan's stop or take-profit" in decision.reason
            assert (decision.side, here.venue.calls) == (None, [])

    async def test_not_before_there_are_enough_bars(self, floor):
        here = await (await floor(policy := Says())).begin(view=view_of(bars=98))
        assert (await here.tick(1)).reason == "there are 99 bars, and 100 are needed"
        assert policy.calls == 0
        assert (await here.tick(2)).side is Side.BUY

    async def test_an_old_bar_is_taken_and_not_traded_on(self, floor):
        here = await (await floor(policy := Says())).begin()
        here.clock.advance_to(bar_of(5).close_ns)
        reasons = {(await here.loop.on_bar(bar_of(number))).reason for number in (1, 2, 3)}
        assert (reasons, policy.calls) == ({"the newest bar is history: the one after it should have come"}, 0)
        assert (await here.loop.on_bar(bar_of(5))).side is Side.BUY
        assert here.loop.counts["bars"] == 4

    async def test_a_newer_plan_takes_the_place_of_an_older_one_and_never_the_reverse(self, floor):
        here = await (await floor()).begin(quantity="2")
        await here.tick()
        here.loop.approve(mandate_of(BUY, "1", run_id="run-2", as_of_ns=bar_of(1).close_ns))
        with pytest.raises(InvalidValue, match="older than the one that is traded"):
            here.loop.approve(mandate_of(BUY, "9", run_id="run-3"))
        assert (await here.tick(2)).ticket.order.intent.run_id == "run-2"
        assert await here.held() == 3

    @pytest.mark.parametrize("place", ["pre_decision", "post_decision", "pre_order"])
    async def test_a_plan_that_is_withdrawn_in_the_middle_of_a_bar_is_not_traded(self, floor, place):
        here = await (await floor()).begin()
        here.loop.add_hook(place, lambda *_: here.loop.withdraw("SIM"))
        decision = await here.tick()
        assert (decision.side, decision.ticket, here.venue.calls) == (None, None, [])
        assert decision.reason == "the plan was withdrawn meanwhile"

    async def test_a_plan_that_comes_between_two_bars_can_be_decided_at_once(self, floor):
        here = await floor()
        await here.loop.watch(view_of())
        await here.tick()
        here.loop.approve(mandate_of())
        assert (await here.loop.decide("SIM")).ticket.order.status is OrderStatus.FILLED
        here.clock.advance_to(bar_of(3).close_ns)
        here.loop.approve(mandate_of(run_id="run-2"))
        assert "history" in (await here.loop.decide("SIM")).reason

    async def test_symbols_that_nobody_watches(self, floor):
        here = await floor()
        quote = Quote("SIM", START_NS, Decimal(1), Decimal(1))
        for work in (here.loop.on_bar(bar_of(1)), here.loop.on_quote(quote), here.loop.decide("SIM")):
            with pytest.raises(InvalidValue, match="not watched"):
                await work
        for call in (lambda: here.loop.approve(mandate_of()), lambda: here.loop.withdraw("SIM")):
            with pytest.raises(InvalidValue, match="not watched"):
                call()


class TestTime:
    """What cannot be right is refused and told, and the next good bar is taken."""

    @pytest.mark.parametrize(
        ("bad", "why"),
        [
            (replace(bar_of(3), close_ns=bar_of(3).close_ns - 1), "before the newest"),
            (bar_of(9), "in the future"),
            (replace(bar_of(4), close_ns=bar_of(3).close_ns + 10**9), "bars come every 60 s"),
        ],
        ids=["back", "future", "too soon"],
    )
    async def test_a_bar_of_a_time_that_cannot_be(self, floor, bad, why):
        here = await (await floor()).begin()
        here.listen()
        await here.tick(3)
        here.clock.advance_to(bar_of(4).close_ns)
        here.events.clear()
        with pytest.raises(InvalidValue, match=why):
            await here.loop.on_bar(bad)
        ((name, where, error),) = here.events
        assert (name, where, type(error)) == ("on_error", "on_bar", InvalidValue)
        assert (here.loop.counts["errors"], here.told[0][0]) == (1, "LoopFailed")
        assert (await here.tick(4)).close_ns == bar_of(4).close_ns

    async def test_a_bar_that_is_there_already_is_skipped_whatever_is_in_it(self, floor):
        here = await (await floor(policy := Says(HOLD))).begin()
        await here.tick(1)
        await here.tick(2)
        for again in (bar_of(1), bar_of(2), bar_of(2, "999"), bar_of(-50)):
            assert await here.loop.on_bar(again) is None
        assert (policy.calls, here.loop.counts["duplicate_bars"]) == (2, 4)
        assert here.loop.marks() == {"SIM": 100}

    async def test_a_quote_of_a_time_that_cannot_be(self, floor):
        here = await (await floor()).begin()
        await here.loop.on_quote(Quote("SIM", START_NS, Decimal(98), Decimal(101)))
        for time_ns in (START_NS - 1, START_NS + 2 * 10**9):
            with pytest.raises(InvalidValue, match="the quote of SIM"):
                await here.loop.on_quote(Quote("SIM", time_ns, Decimal(1), Decimal(2)))
        assert here.loop.marks() == {"SIM": Decimal("99.5")}


class TestOnce:
    """Whatever happens, a plan is ordered once: the ledger knows how much of it is gone."""

    async def again(self, here, *given, **more):
        """The same floor as after a crash: with a loop that remembers nothing."""
        venue = here.venue
        other = Floor(here.app, here.clock, agent_of(Says()))
        other.venue = here.app.broker = venue
        other.loop._desk = here.app.desk(here.app.settings)
        return await other.begin(*given, **more)

    async def test_a_loop_that_is_started_again_orders_nothing_twice(self, floor):
        here = await (await floor()).begin()
        await here.tick(1)
        there = await self.again(here)
        assert (await there.tick(2)).reason == "all of the plan was ordered"
        assert (await there.tick(3)).reason == "all of the plan was traded"
        assert len(here.venue.executions) == 1

    async def test_what_the_workflow_has_sent_is_the_first_order_of_the_plan(self, floor):
        here = await (await floor()).begin(quantity="2")
        await here.app.desk(here.app.settings).submit(
            run_id="run-1", account="paper", side=Side.BUY, quantity=Decimal(2), view=view_of()
        )
        assert (await here.tick()).reason == "all of the plan was ordered"
        assert (len(here.venue.executions), await here.held()) == (1, 2)

    async def test_an_order_whose_fate_is_unknown_counts_until_it_is_known(self, floor):
        here = await (await floor()).begin()
        here.venue.idempotent, here.venue.troubles = False, ["lose"]
        with pytest.raises(BrokerUnavailable):
            await here.tick(1)
        assert (await here.tick(2)).reason == "all of the plan was ordered"
        await here.app.desk(here.app.settings).recover()
        assert (await here.tick(3)).reason == "all of the plan was ordered"
        assert (len(here.venue.executions), await here.held()) == (1, 2)

    async def test_an_order_that_was_written_down_and_not_sent_goes_on_from_there(self, floor, monkeypatch):
        here = await (await floor()).begin()

        async def killed(*_):
            raise OSError("it was killed here")

        with monkeypatch.context() as patched:
            patched.setattr(here.app.ledger, "mark_sending", killed)
            with pytest.raises(OSError, match="killed here"):
                await here.tick(1)
        assert [order.status for order in await here.orders()] == [OrderStatus.PENDING]
        there = await self.again(here)
        assert (await there.tick(2)).ticket.order.status is OrderStatus.FILLED
        assert [order.intent.leg for order in await here.orders()] == ["entry"]

    async def test_what_was_denied_is_asked_for_again_with_the_next_bar(self, floor):
        here = await (await floor()).begin()
        kill = here.app.kill_switch()
        await kill.trip(kill.because(TradingState.REDUCING, KillSwitchReason.OPERATOR, "anna", "lunch"))
        assert (await here.tick(1)).ticket.order.status is OrderStatus.DENIED
        reduced = await here.app.switch.read()
        active = replace(reduced, state=TradingState.ACTIVE, why="lunch is over")
        assert await here.app.switch.release(active, instead_of=reduced)
        assert (await here.tick(2)).ticket.order.status is OrderStatus.FILLED
        assert [(order.intent.leg, order.status) for order in await here.orders()] == [
            ("entry", OrderStatus.DENIED),
            ("entry-2", OrderStatus.FILLED),
        ]

    async def test_fills_that_come_later_are_told_once(self, floor):
        here = await (await floor()).begin()
        here.listen()
        order = (await here.tick()).ticket.order
        resting = replace(order, intent=order.intent.next_attempt(), status=OrderStatus.OPEN, filled=Decimal(1))
        here.events.clear()
        more = replace(resting, filled=Decimal("1.5"))
        for each in (order, order, resting, resting, more, resting, more):  # old news in between
            await here.loop.on_order(each)
        assert [(name, filled) for name, _, filled in here.events] == [("on_fill", 1), ("on_fill", Decimal("0.5"))]

    async def test_an_order_that_never_arrived_goes_on_with_the_next_bar(self, floor):
        """Nobody else sends it again to a broker that knows every id for ever, and its plan would wait for it."""
        here = await (await floor()).begin(quantity="2")
        here.venue.troubles = ["drop", "hang"]
        with pytest.raises(BrokerUnavailable):
            await here.tick()
        hung = asyncio.create_task(here.tick(2))
        await here.venue.hanging.wait()
        hung.cancel()
        await asyncio.wait([hung])
        here.listen()
        decision = await here.tick(3)
        (order,) = await here.orders()
        assert (decision.reason, order.status, order.intent.leg) == (
            "all of the plan was ordered",
            OrderStatus.FILLED,
            "entry",
        )
        assert [given for name, *given in here.events if name == "on_fill"] == [[order, 2]]
        assert (await here.held(), len(here.venue.executions)) == (2, 1)

    async def test_where_that_is_not_safe_it_counts_as_if_it_filled(self, floor):
        here = await (await floor()).begin(quantity="2")
        here.venue.idempotent, here.venue.troubles = False, ["drop"]
        with pytest.raises(BrokerUnavailable):
            await here.tick()
        assert (await here.tick(2)).reason == "all of the plan was ordered"
        assert here.venue.calls.count("send") == 1

    async def test_one_whose_fate_stays_open_keeps_no_bar_from_being_decided(self, floor):
        here = await (await floor()).begin(quantity="2")
        here.venue.troubles = ["drop", "drop"]
        with pytest.raises(BrokerUnavailable):
            await here.tick()
        assert (await here.tick(2)).reason == "all of the plan was ordered"
        assert (await here.tick(3)).reason == "all of the plan was ordered"
        assert await here.held() == 2

    async def test_it_remembers_a_thousand_orders_and_not_all(self, floor):
        here = await (await floor()).begin()
        order = (await here.tick()).ticket.order
        intent = order.intent
        given = {name: getattr(intent, name) for name in ("run_id", "account", "symbol", "side", "quantity")}
        for decision in range(1_100):
            other = OrderIntent.derive(**given, reference_price=Decimal(1), reference_ns=1, decision=decision)
            await here.loop.on_order(replace(order, intent=other))
        assert len(here.loop._filled) == 1_000

    async def test_other_symbols_count_at_what_they_are_worth_now(self, floor):
        here = await (await floor()).begin(quantity="10")
        await here.tick()
        await here.loop.watch(view_of("B"))
        await here.loop.on_quote(Quote("SIM", here.clock.now_ns(), Decimal(199), Decimal(201)))
        here.loop.approve(mandate_of(BUY, "1", "B", run_id="run-2"))
        order = (await here.tick(1, symbol="B")).ticket.order
        exposure = next(check for check in order.checks if check.name == "open_exposure")
        assert exposure.value == pytest.approx((10 * 200 + 100) / (100_000 + 10 * 100))


class TestThread:
    async def test_a_policy_that_does_not_answer_within_a_bar_is_left_and_everything_held(self, floor):
        import threading

        free = threading.Event()
        agent = agent_of(policy := Says(before=free.wait))
        agent.inline = False
        here = await floor(agent=agent, options={"bar_period": 0.001})
        await here.loop.watch(view_of(period_ns=10**6))
        here.loop.approve(mandate_of())
        for number in (1, 2):
            here.clock.advance_to(bar_of(number, period_ns=10**6).close_ns)
            decision = await here.loop.on_bar(bar_of(number, period_ns=10**6))
            assert (decision.answer.action, decision.answer.action_reason) == (HOLD, "no_answer_in_time")
        free.set()
        await asyncio.wait({here.loop._lane._asked})
        assert (policy.calls, here.venue.calls) == (1, []), "the second bar did not queue up behind the first"
        here.clock.advance_to(bar_of(3, period_ns=10**6).close_ns)
        assert (await here.loop.on_bar(bar_of(3, period_ns=10**6))).side is Side.BUY
