"""A whole session on virtual time: hours in seconds, and whatever breaks in between."""

import asyncio
import shutil
from decimal import Decimal

import pytest

from agents.domain import KillSwitchReason, OrderStatus, Quote, Side, TradingState
from agents.errors import FeedDead, LeaseLost, StorageError
from checkpoints.ledger import OrderLedger
from checkpoints.runs import RunStatus
from checkpoints.trading_state import TradingSwitch
from graph.desk import OrderDesk
from graph.resilience import Fault, FaultPlan
from graph.session.session import Viewer
from graph.session.slow_lane import Decided
from tests.graph.session.floor import APPROVED, START_NS, Home, bar, buy, history, minute, plan_of, quote, view_of

QUIET = [(second, "100") for second in range(1, 701)]


def quotes(*spans):
    """One quote a second at a price, for each `(from, until, price)`."""
    return [(second, price) for begin, end, price in spans for second in range(begin, end)]


class TestTenMinutes:
    def test_a_session_of_ten_minutes_ends_without_an_error(self, home):
        result = home.sit(2)
        assert (result.run.status, result.run.error, result.counts["errors"]) == (RunStatus.FINISHED, "", 0)
        assert result.elapsed_s >= 600
        assert result.counts["slow_decisions"] == result.counts["lane_bars"] == 10
        assert result.fills, "this seed trades"
        assert all(order.status is OrderStatus.FILLED for order in result.orders)
        assert {order.intent.run_id for order in result.orders} == {result.run.run_id}
        assert result.resume_command is None
        last = home.seen.shown[-1]
        assert (last.equity, last.position) == (result.equity, result.portfolio.position("BTCUSDT"))
        assert (last.fills, last.orders, last.decisions) == (len(result.fills), len(result.orders), 10)

    def test_the_same_seed_gives_the_same_session(self, home, tmp_path):
        one, other = home.sit(2), Home(tmp_path).sit(2)
        assert one.marks == other.marks
        assert one.fills == other.fills
        assert Home(tmp_path / "3").sit(3).marks != one.marks

    def test_marks_tell_the_whole_way(self, home):
        result = home.sit(2)
        assert [round(mark.elapsed_ns / 1e9) for mark in result.marks[:4]] == [0, 5, 10, 15]
        assert len(result.marks) >= 120
        assert result.marks[-1].position == result.portfolio.position("BTCUSDT").quantity

    def test_a_stream_that_ends_ends_the_session(self, home):
        result = home.sit(lines=quotes((1, 30, "100")))
        assert result.run.status is RunStatus.FINISHED, "nothing is left of it"
        assert home.seen.of("StreamEnded")


class TestStops:
    def drop(self, home, lines, **bounds):
        async def during(app, session):
            await minute(session, 2)
            await buy(app, session, **bounds)

        return home.sit(lines=lines, during=during, minutes=2)

    def test_a_stop_is_sent_on_the_tick_that_touches_it_and_filled_by_a_later_one(self, home):
        result = self.drop(home, quotes((1, 40, "100"), (40, 41, "94"), (41, 130, "93")))
        entry, stop = result.orders
        assert (entry.intent.side, entry.filled, stop.intent.side, stop.filled) == (Side.BUY, 2, Side.SELL, 2)
        assert (stop.intent.leg, stop.intent.reference_ns // 10**9) == ("stop", START_NS // 10**9 + 40)
        sold = [fill for fill in result.fills if fill.side is Side.SELL]
        assert len(sold) == 1
        assert Decimal("92.9") < sold[0].price < Decimal(93), "by a price of after its way, never the one before"
        assert sold[0].time_ns > stop.intent.reference_ns
        assert not result.portfolio.positions

    def test_a_target_is_taken(self, home):
        result = self.drop(home, quotes((1, 40, "100"), (40, 130, "111")))
        assert [order.intent.leg for order in result.orders] == ["entry", "target"]
        assert result.portfolio.realised > 20

    def test_one_tick_below_the_stop_is_enough(self, home):
        """A price that is there for one message, and gone with the next."""
        lines = [*quotes((1, 40, "100")), (40.0, "94"), (40.01, "100"), *quotes((41, 130, "100"))]
        assert [order.intent.leg for order in self.drop(home, lines).orders] == ["entry", "stop"]

    def test_bars_alone_spring_stops_too(self, home):
        async def during(app, session):
            await minute(session, 70)
            await buy(app, session)

        lines = [(60, bar(1)), (120, bar(2)), (180, bar(3)), (240, bar(4, "90")), (300, bar(5, "90"))]
        result = home.sit(lines=lines, during=during, minutes=5)
        assert [order.intent.leg for order in result.orders] == ["entry", "stop"]
        assert not result.portfolio.positions

    def test_a_plan_that_was_stopped_out_is_not_traded_again(self, home):
        result = self.drop(home, quotes((1, 40, "100"), (40, 42, "94"), (42, 130, "100")))
        assert [order.intent.leg for order in result.orders] == ["entry", "stop"]

    def test_a_plan_for_another_position_is_left(self, home):
        async def during(app, session):
            await minute(session, 2)
            await buy(app, session)
            await minute(session, 10)
            await session.take_plan(self.decided())

        result = home.sit(lines=QUIET[:60], during=during, minutes=1)
        assert home.seen.of("PlanOutdated")
        assert len(result.orders) == 1

    def decided(self):
        view = view_of(history())
        return Decided(view, plan_of(view), APPROVED, Decimal(0), "plan-1")


class TestLinkCut:
    def test_five_seconds_without_a_link_are_survived_and_stops_hold_afterwards(self, home):
        async def during(app, session):
            await minute(session, 2)
            await buy(app, session)

        lines = quotes((1, 40, "100"), (45, 60, "100"), (60, 130, "94"))
        result = home.sit(lines=lines, during=during, minutes=2)
        assert (result.run.status, result.counts["errors"]) == (RunStatus.FINISHED, 0)
        assert [order.intent.leg for order in result.orders] == ["entry", "stop"]
        assert not result.portfolio.positions

    def test_a_price_that_fell_while_the_link_was_cut_springs_the_stop(self, home):
        async def during(app, session):
            await minute(session, 2)
            await buy(app, session)

        result = home.sit(lines=quotes((1, 40, "100"), (45, 130, "94")), during=during, minutes=2)
        assert [order.intent.leg for order in result.orders] == ["entry", "stop"]


class TestStaleData:
    LINES = quotes((1, 30, "100"), (42, 60, "100"), (125, 260, "100"))

    async def test_trading_is_reduced_then_halted_and_goes_on_again(self, home):
        result = await asyncio.to_thread(home.sit, lines=self.LINES, minutes=4)
        states = await home.audit()
        assert states == ("reducing", "active", "reducing", "halted", "active")
        assert result.trading.state is TradingState.ACTIVE
        told = [detail["why"] for detail in home.seen.of("TradingChanged")]
        assert told[0].startswith("no price of BTCUSDT for 1")
        assert "it goes on after 3 new ones" in told[0]

    def test_a_feed_that_is_mute_from_the_start_reduces_as_soon(self, home):
        """Where quotes have to come, nobody waits for a bar."""
        changed = []

        async def during(app, session):
            while (await app.switch.read()).state is TradingState.ACTIVE:  # noqa: ASYNC110 - only time is waited for
                await asyncio.sleep(0.5)
            changed.append(session.status().elapsed_s)

        home.sit(lines=[(25, "100"), (26, "100")], minutes=1, during=during)
        assert 10 <= changed[0] < 12

    async def test_an_operators_state_stays(self, home):
        async def during(app, session):
            await minute(session, 20)
            kill = app.kill_switch()
            await kill.trip(kill.because(TradingState.REDUCING, KillSwitchReason.OPERATOR, "anna", "lunch"))

        result = await asyncio.to_thread(home.sit, lines=self.LINES, minutes=4, during=during)
        assert (result.trading.state, result.trading.who) == (TradingState.REDUCING, "anna")
        assert await home.audit() == ("reducing",)

    def test_a_stop_that_was_touched_while_trading_was_halted_goes_when_it_goes_on(self, home):
        async def during(app, session):
            await minute(session, 2)
            await buy(app, session)

        lines = quotes((1, 30, "100"), (100, 200, "94"))
        result = home.sit(lines=lines, during=during, minutes=3)
        assert not result.portfolio.positions
        assert any(
            order.intent.leg.startswith("stop") and order.status is OrderStatus.FILLED for order in result.orders
        )


class TestEndAndGoOn:
    def test_asked_to_stop_it_finishes_what_is_in_flight_and_goes_on_later(self, home):
        async def during(app, session):
            await minute(session, 5)
            await buy(app, session)
            await asyncio.sleep(0.01)  # it was sent, and is filled by a price that is yet to come
            session.stop()

        first = home.sit(lines=QUIET, during=during)
        assert (first.run.status, first.elapsed_s < 10) == (RunStatus.STOPPED, True)
        assert first.resume_command == f"python -m graph.run --resume {first.run.run_id} --home {home.folder}"
        assert [order.status for order in first.orders] == [OrderStatus.FILLED], "it was on its way, and was waited for"
        later = [(second, "94" if second > 60 else "100") for second, _ in QUIET]
        second = home.sit(lines=later, run_id=first.run.run_id)
        assert (second.run.status, second.run.run_id) == (RunStatus.FINISHED, first.run.run_id)
        assert 600 <= second.elapsed_s < 603
        assert [order.intent.leg for order in second.orders] == ["entry", "stop"], "its stop was watched again"

    def test_killed_it_has_position_orders_and_equity_exactly(self, home, tmp_path):
        """The files as they were at one moment: what a process that is killed then leaves behind."""
        left = {}

        async def during(app, session):
            await minute(session, 5)
            await buy(app, session)
            await minute(session, 20)
            status = session.status()
            left.update(position=status.position, equity=status.equity, orders=await app.ledger.orders(status.run_id))
            shutil.copytree(home.folder, tmp_path / "left")

        first = home.sit(lines=QUIET, during=during)
        after = Home(tmp_path / "left")
        result = after.sit(
            lines=[(s, p) for s, p in QUIET if s > 60], run_id=first.run.run_id, start_ns=START_NS + 60 * 10**9
        )
        begun = after.seen.shown[0]
        assert (begun.position, begun.equity) == (left["position"], left["equity"])
        assert begun.position.quantity == 2
        assert begun.brackets == 1
        assert result.run.status is RunStatus.FINISHED
        assert result.orders[:1] == left["orders"]
        assert len({fill.trade_id for fill in result.fills}) == len(result.fills) == 1

    def test_killed_while_an_order_is_on_its_way_it_is_sent_once(self, home, tmp_path, monkeypatch):
        real = OrderDesk._send

        async def copies(desk, intent):
            answer = await real(desk, intent)
            if not (tmp_path / "left").exists():
                shutil.copytree(home.folder, tmp_path / "left")
            return answer

        monkeypatch.setattr(OrderDesk, "_send", copies)

        async def during(app, session):
            await minute(session, 5)
            await buy(app, session)

        first = home.sit(lines=QUIET, during=during)
        after = Home(tmp_path / "left")
        result = after.sit(
            lines=[(s, p) for s, p in QUIET if s > 60], run_id=first.run.run_id, start_ns=START_NS + 60 * 10**9
        )
        assert [order.status for order in result.orders] == [OrderStatus.FILLED]
        assert result.portfolio.position("BTCUSDT").quantity == 2

    def test_killed_before_an_order_reached_the_broker_it_is_given_up_and_trading_goes_on(
        self, home, tmp_path, monkeypatch
    ):
        real = OrderDesk._send

        async def copies(desk, intent):
            if not (tmp_path / "left").exists():
                shutil.copytree(home.folder, tmp_path / "left")  # SENDING, and the broker has not heard of it
            return await real(desk, intent)

        monkeypatch.setattr(OrderDesk, "_send", copies)

        async def during(app, session):
            await minute(session, 5)
            await buy(app, session)

        first = home.sit(lines=QUIET, during=during)

        async def again(app, session):
            await minute(session, 140)
            await buy(app, session)

        after = Home(tmp_path / "left")
        bars = [(60.5, bar(1)), (120.5, bar(2))]
        later = sorted([*[(s, p) for s, p in QUIET if s > 60], *bars], key=lambda each: each[0])
        result = after.sit(lines=later, run_id=first.run.run_id, start_ns=START_NS + 60 * 10**9, during=again)
        assert [order.status for order in result.orders] == [OrderStatus.NOT_PLACED, OrderStatus.FILLED]
        assert result.portfolio.position("BTCUSDT").quantity == 2

    def test_a_session_that_is_over_is_only_reported(self, home):
        first = home.sit(lines=QUIET)
        again = home.sit(lines=QUIET, run_id=first.run.run_id)
        assert (again.run.status, again.marks) == (RunStatus.FINISHED, first.marks)
        assert not home.seen.shown

    def test_a_stream_that_is_dead_fails_it_and_it_can_be_gone_on_with(self, home, monkeypatch):
        async def dead(self):
            yield quote(1, "100")
            raise FeedDead("market data failed 10 times in a row")

        with monkeypatch.context() as patch:
            patch.setattr("tests.graph.session.floor.Script.events", dead)
            first = home.sit(lines=[(1, "100")])
        assert first.run.status is RunStatus.FAILED
        assert first.run.error.startswith("FeedDead")
        assert home.sit(lines=QUIET, run_id=first.run.run_id).run.status is RunStatus.FINISHED


class TestLosses:
    def test_too_large_a_loss_trips_the_session_and_its_stop_goes_all_the_same(self, home):
        home.settings = {"risk": {"daily_loss_share_max": 0.0001}}

        async def during(app, session):
            await minute(session, 2)
            await buy(app, session, quantity="10", stop="95")

        lines = quotes((1, 40, "100"), (40, 60, "98"), (60, 130, "94"))
        result = home.sit(lines=lines, during=during, minutes=2)
        assert (result.trading.state, result.trading.code) == (TradingState.REDUCING, "loss_limit")
        assert "of the equity was lost since the day began" in result.trading.why
        assert not result.portfolio.positions

    def test_it_stays_tripped_after_a_restart_until_somebody_lets_it_go_on(self, home):
        home.settings = {"risk": {"daily_loss_share_max": 0.0001}}

        async def during(app, session):
            await minute(session, 2)
            await buy(app, session, quantity="10", stop="90")
            await minute(session, 50)
            session.stop()

        lines = quotes((1, 40, "100"), (40, 130, "98"))
        first = home.sit(lines=lines, during=during, minutes=3)
        assert first.trading.state is TradingState.REDUCING

        async def released(app, session):
            await minute(session, 70)
            await app.books().activate("anna", "looked at it")

        second = home.sit(
            lines=quotes((61, 200, "98")),
            minutes=3,
            run_id=first.run.run_id,
            during=released,
            start_ns=START_NS + 60 * 10**9,
        )
        assert second.trading.state is TradingState.ACTIVE, "what was lost before was looked at"


class TestSlowLane:
    @pytest.mark.parametrize("action", ["hang", "error"])
    def test_a_slow_lane_that_hangs_or_dies_delays_no_tick_and_no_stop(self, home, action):
        plan = FaultPlan([Fault(target="research", action=action)], seed=1)

        async def during(app, session):
            await minute(session, 70)
            await buy(app, session)

        lines = sorted(
            [*quotes((1, 90, "100"), (90, 260, "94")), (60.5, bar(1)), (120.5, bar(2)), (180.5, bar(3))],
            key=lambda each: each[0],
        )
        result = home.sit(lines=lines, during=during, minutes=4, faults=plan)
        assert result.counts["slow_failed"] >= 1
        assert home.seen.of("DecisionFailed")
        stop = next(order for order in result.orders if order.intent.leg == "stop")
        assert stop.intent.reference_ns == START_NS + 90 * 10**9
        assert result.run.status is RunStatus.FINISHED


class TestKillSwitch:
    def test_a_halt_by_file_is_heeded_within_a_heartbeat_without_an_order(self, home):
        async def during(app, session):
            await minute(session, 10)
            (home.folder / "HALT").write_text("enough")

        result = home.sit(lines=QUIET[:60], during=during, minutes=1)
        assert (result.trading.state, result.trading.code) == (TradingState.HALTED, "file")
        changed = home.seen.of("TradingChanged")
        assert [detail["state"] for detail in changed] == ["halted"]


class TestFunding:
    def test_a_position_pays_at_the_funding_time_and_once_over_a_restart(self, home):
        home.settings = {"session": {"funding_rate": 0.001, "funding_every": 60}}

        async def during(app, session):
            await minute(session, 2)
            await buy(app, session)
            await minute(session, 70)
            session.stop()

        first = home.sit(lines=QUIET, during=during, minutes=3)
        assert first.portfolio.realised == Decimal("-0.2"), "a tenth of a percent of two units at 100, once"
        second = home.sit(
            lines=[(s, p) for s, p in QUIET if s > 75],
            minutes=3,
            run_id=first.run.run_id,
            start_ns=START_NS + 75 * 10**9,
        )
        assert second.portfolio.realised == Decimal("-0.6"), "at 120 and 180 seconds"
        assert second.equity == second.portfolio.cash + 200

    def test_a_market_without_takes_nothing(self, home):
        async def during(app, session):
            await minute(session, 2)
            await buy(app, session)

        assert home.sit(lines=QUIET, during=during, minutes=3).portfolio.realised == 0


def test_a_process_that_lost_the_session_writes_nothing_more(home):
    """Neither marks nor brackets: what it knows is old."""

    async def during(app, session):
        await minute(session, 5)
        await buy(app, session)
        await minute(session, 20)
        before = await app.database.aread(_rows)
        app.leases.forget()
        with pytest.raises(LeaseLost):
            await session._account.mark()
        with pytest.raises(LeaseLost):
            await session._brackets._save(session._brackets.all())
        assert await app.database.aread(_rows) == before

    with pytest.raises(LeaseLost):
        home.sit(lines=QUIET, during=during, minutes=1)


def _rows(connection):
    tables = ("session_marks", "brackets")
    return [connection.exec_driver_sql(f"SELECT * FROM {table}").all() for table in tables]  # noqa: S608


class TestWhatMustNotHurt:
    """What is no reason to end a session, or to forget what it knows."""

    def test_asked_twice_to_stop_it_can_be_gone_on_with(self, home):
        async def during(app, session):
            await minute(session, 5)
            session.stop()
            session.stop()

        result = home.sit(lines=QUIET[:60], during=during, minutes=1)
        assert result.run.status is RunStatus.STOPPED
        assert result.resume_command

    def test_a_price_of_something_else_is_not_what_is_held(self, home):
        other = Quote("ETHUSDT", START_NS + 20 * 10**9, Decimal(1), Decimal(2))
        lines = sorted([*QUIET[:60], (20.5, other)], key=lambda each: each[0])

        async def during(app, session):
            await minute(session, 2)
            await buy(app, session)

        result = home.sit(lines=lines, during=during, minutes=1)
        assert {mark.price for mark in result.marks} == {Decimal(100)}
        assert (result.counts["other_symbols"], result.counts["errors"]) == (1, 0)
        assert [order.intent.leg for order in result.orders] == ["entry"]

    def test_whoever_looks_on_may_fail(self, home):
        class Blind(Viewer):
            def show(self, status):
                raise RuntimeError("no screen")

            def tell(self, kind, detail):
                raise RuntimeError("no screen")

        home.seen = Blind()
        result = home.sit(lines=QUIET[:60], minutes=0.5)
        assert (result.run.status, result.run.error) == (RunStatus.FINISHED, "")
        assert result.counts["viewer_failed"] > 30

    def test_a_loss_found_under_a_halt_that_passes_is_not_forgotten_with_it(self, home):
        """The feed dies, trading is HALTED for that, and the first price after it is lower than may be."""
        home.settings = {"risk": {"daily_loss_share_max": 0.0001}}

        async def during(app, session):
            await minute(session, 2)
            await buy(app, session, stop="50")

        lines = quotes((1, 30, "100"), (125, 200, "90"))
        result = home.sit(lines=lines, during=during, minutes=3)
        assert (result.trading.state, result.trading.code) == (TradingState.REDUCING, KillSwitchReason.LOSS_LIMIT)

    def test_a_loss_that_could_not_be_written_is_tried_again(self, home, monkeypatch):
        home.settings = {"risk": {"daily_loss_share_max": 0.0001}}
        real, failed = TradingSwitch.trip, []

        async def trip(self, stricter):
            if len(failed) < 2:
                failed.append(stricter)
                raise StorageError("full")
            return await real(self, stricter)

        monkeypatch.setattr(TradingSwitch, "trip", trip)

        async def during(app, session):
            await minute(session, 2)
            await buy(app, session, stop="50")

        result = home.sit(lines=quotes((1, 30, "100"), (30, 60, "90")), during=during, minutes=1)
        assert len(failed) == 2
        assert (result.trading.state, result.trading.code) == (TradingState.REDUCING, KillSwitchReason.LOSS_LIMIT)

    def test_a_funding_payment_that_could_not_be_written_is_due_still(self, home, monkeypatch):
        home.settings = {"session": {"funding_rate": 0.001, "funding_every": 60}}
        real, failed = OrderLedger.fund, []

        async def fund(self, *payment):
            if not failed:
                failed.append(payment)
                raise StorageError("full")
            return await real(self, *payment)

        monkeypatch.setattr(OrderLedger, "fund", fund)

        async def during(app, session):
            await minute(session, 2)
            await buy(app, session)

        result = home.sit(lines=QUIET[:80], during=during, minutes=1.2)
        assert failed
        assert result.portfolio.realised == Decimal("-0.2")

    def test_where_nobody_knows_what_is_under_way_nothing_is_opened(self, home, monkeypatch):
        async def during(app, session):
            await minute(session, 2)

            async def unknown(self):
                raise StorageError("full")

            with monkeypatch.context() as broken:
                broken.setattr(OrderLedger, "at_broker", unknown)
                await buy(app, session)

        result = home.sit(lines=QUIET[:30], during=during, minutes=0.5)
        assert home.seen.of("PlanOutdated")
        assert not result.orders

    def test_a_drawdown_found_under_a_halt_that_passes_takes_its_place(self, home):
        home.settings = {"risk": {"drawdown_share_max": 0.0001, "daily_loss_share_max": 0.5}}

        async def during(app, session):
            await minute(session, 2)
            await buy(app, session, stop="50")

        result = home.sit(lines=quotes((1, 30, "100"), (125, 200, "90")), during=during, minutes=3)
        assert (result.trading.state, result.trading.code) == (TradingState.HALTED, KillSwitchReason.DRAWDOWN)
