"""The fast lane: each bar is decided once, within an approved plan, and nothing that goes wrong beside it stops it."""

import asyncio
import math
import threading
from dataclasses import replace
from decimal import Decimal
from itertools import permutations

import numpy as np
import pytest
from sqlalchemy import text

from agents.domain import Check, KillSwitchReason, OrderStatus, Quote, Side, TradePlan, TradingAction, TradingState
from agents.errors import ConfigError, InvalidValue, StorageError
from agents.policy import RulePolicy
from agents.risk import Proposal, RiskLimits, pre_trade_checks, throttle_size, trip_reason
from checkpoints.audit import Audit
from graph.execution_loop import HOOKS
from graph.mandate import Mandate
from graph.risk_events import RiskEvents
from tests.agents.policy.conftest import write_bundle
from tests.graph.floor import (
    APPROVED,
    BUY,
    GENEROUS,
    HOLD,
    HOUR_NS,
    MINUTE_NS,
    SELL,
    START_NS,
    Says,
    agent_of,
    bar_of,
    mandate_of,
    plan_of,
    view_of,
)

pytestmark = pytest.mark.usefixtures("no_waiting")


class TestExecutionLoopFixes:
    async def test_trading_action_enum_integration(self, floor):
        """An action is a TradingAction from the policy to the order; whatever else a policy answers is none."""
        here = await (await floor(RulePolicy())).begin()
        decision = await here.tick()
        assert decision.answer.action is BUY
        assert decision.side is decision.ticket.order.intent.side is Side.BUY
        for action in (1, 2, np.int64(1), "BUY", "buy", True, None, 1.0):
            here = await (await floor(Says(action))).begin()
            decision = await here.tick()
            assert (decision.answer.action, decision.side, decision.ticket) == (HOLD, None, None), action
            assert (decision.answer.action_reason, here.venue.calls) == ("policy_fault", [])

    async def test_async_model_prediction(self, floor):
        """A model that takes long does so in a thread: the event loop goes on, and a second bar does not pile up."""
        free, threads, begun = threading.Event(), [], asyncio.Event()
        loop = asyncio.get_running_loop()

        def think():
            threads.append(threading.current_thread())
            loop.call_soon_threadsafe(begun.set)
            free.wait()

        agent = agent_of(Says(before=think))
        agent.inline = False
        here = await (await floor(agent=agent)).begin()
        thinking = asyncio.create_task(here.tick())
        await begun.wait()
        turns = 0
        for _ in range(1_000):
            await asyncio.sleep(0)
            turns += 1
        assert (turns, thinking.done()) == (1_000, False), "the loop has gone on a thousand times"
        free.set()
        decision = await thinking
        assert (decision.side, decision.ticket.order.status) == (Side.BUY, OrderStatus.FILLED)
        assert threading.main_thread() not in threads

    async def test_thread_safe_trading_state(self, floor):
        """Whoever brings bars at the same time: each is decided once, one after the other, and the plan traded once."""
        here = await (await floor()).begin(quantity="2")
        inside, most, decided = 0, 0, []

        async def enters(*_):
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)

        async def leaves(decision):
            nonlocal inside
            await asyncio.sleep(0)
            decided.append(decision.close_ns)
            inside -= 1

        here.loop.add_hook("pre_decision", enters)
        here.loop.add_hook("post_decision", leaves)
        here.clock.advance_to(bar_of(9).close_ns)

        quote = Quote("SIM", bar_of(9).close_ns, Decimal("99.99"), Decimal("100.01"))
        async with asyncio.TaskGroup() as group:
            for number in range(1, 10):
                for _ in range(4):
                    group.create_task(here.loop.on_bar(bar_of(number)))
                group.create_task(here.loop.on_quote(quote))
        assert most == 1
        assert decided == [bar_of(number).close_ns for number in range(1, 10)]
        assert here.loop.counts["duplicate_bars"] == 27
        assert (len(here.venue.executions), await here.held()) == (1, 2)

    async def test_complete_order_execution_path(self, floor):
        """Bar, features, policy, bounds, checks, ledger, broker, fill, profit: and the hooks in this order."""
        here = await (await floor()).begin(quantity="3")
        here.listen()
        decision = await here.tick()
        order = decision.ticket.order
        assert (order.status, order.filled, order.intent.run_id) == (OrderStatus.FILLED, 3, "run-1")
        assert len(order.checks) == 15
        assert await here.orders() == (order,)
        assert here.venue.executions == [order.intent]
        names = ["pre_decision", "post_decision", "pre_order", "on_fill", "post_order"]
        assert [event[0] for event in here.events] == names
        assert here.events[3][1:] == (order, Decimal(3))
        assert here.events[4][1] == decision
        await here.tick(2, "110")
        portfolio = await here.loop.portfolio("paper")
        assert portfolio == await here.app.ledger.portfolio("paper")
        assert portfolio.unrealised(here.loop.marks()) == 30, "three units, ten dearer"
        counts = {"bars": 2, "decisions": 2, "orders": 1, "fills": 1}
        assert {name: here.loop.counts[name] for name in counts} == counts
        assert here.loop.latency.count == 2

    async def test_risk_check_integration(self, floor):
        """What risk denies is not sent, and says which check; trading that is REDUCING opens nothing."""
        here = await (await floor(risk={"order_notional_max": 150})).begin()
        order = (await here.tick()).ticket.order
        assert (order.status, here.venue.calls) == (OrderStatus.DENIED, [])
        assert [check.name for check in order.checks if not check.passed] == ["order_size"]
        here = await (await floor()).begin()
        kill = here.app.kill_switch()
        await kill.trip(kill.because(TradingState.REDUCING, KillSwitchReason.OPERATOR, "anna", "lunch"))
        order = (await here.tick()).ticket.order
        assert ([check.name for check in order.checks if not check.passed], here.venue.calls) == (["trading_state"], [])

    async def test_configurable_bar_period(self, floor, settings):
        """The period is that of the settings; bars that come in another are refused."""
        for seconds in (1, 300, 3_600):
            period_ns = seconds * 10**9
            here = await floor(bar_period=seconds, policy="rule")
            loop = here.loop = await here.app.execution_loop(here.app.settings)
            await loop.watch(view_of(period_ns=period_ns))
            loop.approve(mandate_of())
            for number in (1, 2, 3):
                here.clock.advance_to(bar_of(number, period_ns=period_ns).close_ns)
                assert (await loop.on_bar(bar_of(number, period_ns=period_ns))).close_ns == here.clock.now_ns()
            here.clock.advance_to(early_ns := here.clock.now_ns() + period_ns // 3)
            with pytest.raises(InvalidValue, match="bars come every"):
                await loop.on_bar(replace(bar_of(3), close_ns=early_ns))
            with pytest.raises(ConfigError, match="bar_period"):
                await loop.watch(view_of("B", period_ns=period_ns * 2))
        with pytest.raises(ConfigError, match="bar_period"):
            settings(bar_period=0)

    async def test_hook_error_handling(self, floor):
        """Hooks that raise, hang, swallow their cancellation or are cancelled: the order is sent all the same."""
        here = await (await floor(options={"hook_seconds": 0.001})).begin()
        errors = []

        def raises(*_):
            raise ValueError("mine")

        async def raises_later(*_):
            await asyncio.sleep(0)
            raise ZeroDivisionError

        async def hangs(*_):
            await asyncio.Event().wait()

        async def is_cancelled(*_):
            raise asyncio.CancelledError

        for name in HOOKS:
            for hook in (raises, raises_later, hangs, is_cancelled):
                here.loop.add_hook(name, hook)
        here.loop.add_hook("on_error", lambda where, error: errors.append((where, type(error).__name__)))
        decision = await here.tick()
        assert decision.ticket.order.status is OrderStatus.FILLED
        assert (await here.tick(2)).reason == "all of the plan was ordered"
        kinds = ["ValueError", "ZeroDivisionError", "TimeoutError", "RuntimeError"]
        for name in ("pre_order", "on_fill", "post_order"):
            assert [kind for where, kind in errors if where == name] == kinds
            assert here.loop.hook_failures[name] == 4
        assert here.loop.hook_failures["on_error"] > 4
        assert {kind for kind, _ in here.told} == {"HookFailed"}
        assert here.loop.counts["errors"] == 0


class TestRiskCallbacksFixes:
    def test_comprehensive_pre_trade_check(self):
        """The six steps, in their order, all of them made, each failing by itself when it alone is broken."""
        fine = {
            "symbol": "SIM",
            "side": Side.BUY,
            "quantity": 10,
            "price": 100,
            "held": 0,
            "equity": 100_000,
            "day_profit": 0,
            "calendar": "24/5",
            "time_ns": START_NS + 12 * HOUR_NS,  # a Friday
            "period_ns": MINUTE_NS,
        }
        limits = RiskLimits(position_notional_max=20_000, order_notional_max=10_000)
        broken = {
            "parameters": {"price": math.nan},
            "position_size": {"held": 195},
            "order_size": {"quantity": 101},
            "daily_loss": {"day_profit": -3_001},
            "concentration": {"held": 120, "equity": 30_000},
            "market_hours": {"time_ns": START_NS + 36 * HOUR_NS},
        }
        assert all(check.passed for check in pre_trade_checks(Proposal(**fine), limits))
        for name, change in broken.items():
            checks = pre_trade_checks(Proposal(**(fine | change)), limits)
            assert [check.name for check in checks[:6]] == list(broken)
            wrong = {check.name: check for check in checks if not check.passed}
            assert wrong[name].reason
            if name != "parameters":  # what cannot be measured fails wherever it is measured
                assert list(wrong) == [name]

    async def test_daily_loss_limit_check(self, floor):
        """A day that lost 3 % leaves only the way out, and trading says so."""
        here = await (await floor(cash=1_000)).begin(quantity="9")
        await here.tick()
        here.loop.approve(mandate_of(BUY, "1", run_id="run-2"))
        order = (await here.tick(2, "95")).ticket.order
        checks = {check.name: check for check in order.checks if not check.passed}
        assert order.status is OrderStatus.DENIED
        assert checks["daily_loss"].value == pytest.approx(45 / 955)
        now = await here.app.switch.read()
        assert (now.state, now.code) == (TradingState.REDUCING, "loss_limit")
        here.loop.approve(closing("run-3", "9"))
        here.loop._lane.agent = agent_of(Says(SELL))
        assert (await here.tick(3, "95")).ticket.order.status is OrderStatus.FILLED
        assert await here.held() == 0

    async def test_position_concentration_check(self, floor):
        """More than 30 % of the account in one symbol is too much, and 30 % is not."""
        here = await (await floor(risk={"concentration_share_max": 0.3}, cash=1_000)).begin(quantity="4")
        order = (await here.tick()).ticket.order
        assert [check.name for check in order.checks if not check.passed] == ["concentration"]
        here.loop.approve(mandate_of(BUY, "3", run_id="run-2"))
        assert (await here.tick(2)).ticket.order.status is OrderStatus.FILLED
        assert await here.held() == 3

    async def test_enhanced_throttle_size(self, floor):
        """Spread, volatility and the absolute cap shrink what opens a position, each with its reason."""
        limits = RiskLimits(spread_bps_max=20, volatility_max=0.04, quantity_max=30)
        small = throttle_size(Decimal(100), limits, spread_bps=40.0, volatility=0.2)
        assert small.quantity == 20
        assert len(small.reasons) == 2, "the cap of 30 does not bind any more"
        assert throttle_size(Decimal(100), limits, spread_bps=10.0).quantity == 30
        assert throttle_size(Decimal(100), limits, closing=Decimal(100), spread_bps=4e3).quantity == 30
        here = await (await floor(risk=GENEROUS | {"spread_bps_max": 20})).begin(quantity="4")
        await here.loop.on_quote(Quote("SIM", START_NS, Decimal("99.8"), Decimal("100.2")))
        decision = await here.tick()
        assert decision.ticket.order.intent.quantity == 2, "a spread of 40 bps, and 20 are allowed"
        assert "a spread of 40.0 bps" in decision.ticket.reasons[0]

    async def test_volume_participation_throttling(self, floor):
        """A tenth of the average bar at a time; what a slice leaves, the next bar asks for, under a leg of its own."""
        view = view_of(volume=(10.0,) * 120)
        here = await (await floor(risk=GENEROUS | {"duplicate_window_s": 1})).begin(quantity="2.5", view=view)
        sizes = []
        for number in range(1, 6):
            decision = await here.tick(number, volume=10)
            sizes.append(None if decision.ticket is None else decision.ticket.order.intent.quantity)
        assert sizes == [1, 1, Decimal("0.5"), None, None]
        assert [order.intent.leg for order in await here.orders()] == ["entry", "entry-2", "entry-3"]
        assert await here.held() == Decimal("2.5")
        assert decision.reason == "all of the plan was traded"

    def test_risk_event_handler_thread_safety(self):
        """Events from many threads, while callbacks come and go: whoever stays hears every one, once."""
        events, heard, start = RiskEvents(), [], threading.Barrier(9)
        events.subscribe(heard.append)

        def emit(number):
            start.wait()
            for step in range(200):
                events("TradingChanged", {"from": number, "step": step})

        def come_and_go():
            start.wait()
            for _ in range(500):
                events.subscribe(lambda event: None)()

        threads = [threading.Thread(target=emit, args=(number,)) for number in range(8)]
        threads.append(threading.Thread(target=come_and_go))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seen = {(event.detail["from"], event.detail["step"]) for event in heard}
        assert (len(heard), len(seen), events.counts["TradingChanged"]) == (1_600, 1_600, 1_600)
        assert len(events._subscribers) == 1

    async def test_async_callback_handling(self, floor):
        """Both kinds of callbacks hear of a halt; one that fails or hangs keeps neither the halt nor the others."""
        here = await floor()
        events, heard = here.app.risk_events, []
        events.seconds = 0.001

        def fails(event):
            raise ValueError("mine")

        async def fails_later(event):
            raise ZeroDivisionError

        async def hangs(event):
            await asyncio.Event().wait()

        async def hears(event):
            await asyncio.sleep(0)
            heard.append(("later", event.kind, event.reason))

        for callback in (fails, fails_later, hangs, hears):
            events.subscribe(callback)
        end = events.subscribe(lambda event: heard.append(("at once", event.kind, event.reason)))
        kill = here.app.kill_switch()
        await kill.trip(kill.because(TradingState.HALTED, KillSwitchReason.BREACH, "holdfast", "too fast"))
        await events.settle()
        assert sorted(heard) == [(when, "TradingChanged", KillSwitchReason.BREACH) for when in ("at once", "later")]
        assert events.counts["CallbackFailed"] == 3
        assert (await here.app.switch.read()).state is TradingState.HALTED
        end()
        events("AuditFailed", {"state": "halted", "error": "x"})
        await events.settle()
        assert [when for when, *_ in heard].count("at once") == 1

    async def test_kill_switch_reason_mapping(self, floor):
        """What an order's checks show of the account has a code, a state, an audit entry and an event."""
        cases = (
            (failed("trading_state", "unreadable", "active"), "unreadable_state", "halted"),
            (failed("daily_loss", 0.04, 0.03), "loss_limit", "reducing"),
            (failed("drawdown", 0.2, 0.1), "drawdown", "halted"),
            (failed("reject_streak", 6.0, 5.0), "reject_streak", "reducing"),
            (failed("order_rate", "61 worth 1", "60 worth 2"), "breach", "reducing"),
        )
        for check, code, state in cases:
            assert trip_reason([check]) is KillSwitchReason(code)
            here, heard = await (await floor()).begin(), []
            here.app.risk_events.subscribe(heard.append)
            order = (await here.tick()).ticket.order
            await here.app.kill_switch().judge(order, [check])
            now = await here.app.switch.read()
            assert (now.state, now.code) == (state, code)
            assert [(event.kind, event.reason) for event in heard] == [("TradingChanged", KillSwitchReason(code))]
            (entry,) = await Audit(here.app.database).entries()
            assert (entry.detail["code"], entry.detail["to"]) == (code, state)
        for size in ("order_size", "price_collar", "duplicate_intent"):
            assert trip_reason([failed(size, 2.0, 1.0)]) is None, "what is wrong with an order stops no trading"

    async def test_emergency_stop_graceful_degradation(self, floor):
        """Without the audit log, and then without the database, a halt holds; everybody is told what failed."""
        here = await (await floor()).begin()
        heard = []
        here.app.risk_events.subscribe(lambda event: heard.append(event.kind))
        await here.app.database.awrite(lambda connection: connection.execute(text("DROP TABLE audit")))
        kill = here.app.kill_switch()
        await kill.trip(kill.because(TradingState.HALTED, KillSwitchReason.OPERATOR, "anna", "the feed lies"))
        assert heard == ["TradingChanged", "AuditFailed"]
        decision = await here.tick()
        assert (decision.ticket.order.status, here.venue.calls) == (OrderStatus.DENIED, [])
        assert "the feed lies" in decision.ticket.order.reason

        here = await (await floor()).begin()

        async def gone(work):
            raise StorageError("the disk is full")

        real, here.app.database.awrite = here.app.database.awrite, gone
        here.app.risk_events.subscribe(lambda event: heard.append(event.kind))
        kill = here.app.kill_switch()
        await kill.trip(kill.because(TradingState.HALTED, KillSwitchReason.OPERATOR, "anna", "the feed lies"))
        assert heard[2:] == ["TripFailed"]
        here.app.database.awrite = real
        decision = await here.tick()
        assert (decision.ticket.order.status, here.venue.calls) == (OrderStatus.DENIED, [])


class TestActionTypeCompatibility:
    def test_action_type_conversion(self):
        """One coding of actions, and no text in it."""
        assert [(int(action), action.name) for action in TradingAction] == [(0, "HOLD"), (1, "BUY"), (2, "SELL")]
        sides = {action: plan_of(action).side for action in TradingAction}
        assert sides == {HOLD: None, BUY: Side.BUY, SELL: Side.SELL}
        assert (TradingAction(1), TradingAction["SELL"]) == (BUY, SELL)
        for wrong in ("1", "BUY", 3, -1, None):
            with pytest.raises(ValueError, match="TradingAction"):
                TradingAction(wrong)
        assert [side.sign for side in Side] == [1, -1]

    @pytest.mark.parametrize("form", ["mlp", "torchscript"])
    def test_all_action_conversions(self, tmp_path, form):
        """What an output means to a bundle, HOLD=1 of old among it, is said by its metadata, and by nothing else."""
        seen = {0.0: 0, 2.0: 1, -2.0: 2}  # the first input -> the greatest output
        for coding in permutations(TradingAction):
            names = [action.name for action in coding]
            agent = agent_of(write_bundle(tmp_path, form, name="-".join(names), actions=names))
            for first, output in seen.items():
                action, info = agent.predict(np.array([first, 0, 0, 0]))
                assert action is coding[output]
                assert info["is_fallback"] is False
        fallback = agent_of(write_bundle(tmp_path, form, name="none", actions=["HOLD", "BUY"]))
        assert (fallback.predict(np.zeros(4))[0], fallback.is_fallback) == (HOLD, True)


def closing(run_id, quantity):
    """A plan that closes a long position."""
    plan = TradePlan("SIM", SELL, 0.0, Decimal(quantity), Decimal(95), horizon_bars=20, as_of_ns=START_NS)
    return Mandate(plan, APPROVED, run_id, "paper")


def failed(name, value, limit):
    return Check(name, passed=False, value=value, limit=limit)
