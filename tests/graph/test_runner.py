"""The runner: many decisions at once, stopped and taken up again, and never an order too many."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import update

from agents.clock import ReplayClock
from agents.domain import Finding, MarketView, OrderStatus, Side
from agents.errors import (
    BadBars,
    CheckpointNotFound,
    ConfigError,
    FingerprintMismatch,
    HoldfastError,
    InputError,
    LeaseLost,
    RunLeased,
    StorageError,
)
from agents.policy import load_policy
from agents.policy.named import DEMO_FOLDER
from checkpoints.leases import runs
from checkpoints.runs import RunStatus
from graph.app import App, open_app
from graph.config import load_settings
from graph.resilience import FaultPlan
from graph.resilience.virtual import VirtualClock
from graph.runner import Market, Runner
from graph.telemetry import CURRENT_RUN
from tests.graph.test_workflow import stand_in

pytestmark = pytest.mark.usefixtures("no_waiting")

ASKED: list[str] = []
HOOKS: dict[str, Callable[[], None]] = {}


async def bull(view: MarketView) -> Finding:
    """The only analyst here: always sure, unless a test has put something in its way."""
    ASKED.append(view.symbol)
    await asyncio.sleep(0)
    HOOKS.get(view.symbol, lambda: None)()
    return Finding("bull", 0.8, 0.9, "up")


async def bear(view: MarketView) -> Finding:
    return Finding("bear", -0.8, 0.9, "down")


SNEAKS: list[Callable[[MarketView], Awaitable[None]]] = []


async def sneak(view: MarketView) -> Finding:
    for each in SNEAKS:
        await each(view)
    return Finding("sneak", 0.8, 0.9, "up")


@pytest.fixture(autouse=True)
def _clean():
    ASKED.clear()
    HOOKS.clear()
    SNEAKS.clear()


class House:
    def __init__(self, app):
        self.app = app
        self.runner = Runner(app)
        self.venue = stand_in(app)
        self.entries = []
        app.recorder._watcher = self.entries.append

    async def start(self, *symbols):
        return await self.runner.start_all(sim(*symbols or ("SIM",)))

    async def resume(self, identifier):
        return await Runner(self.app).resume(identifier)

    def broker_goes_silent(self):
        """It executes what it is sent, and no answer of it arrives any more."""

        async def find(_client_order_id):
            raise ConnectionError("the line is dead")

        self.venue.troubles = ["lose"] * 50
        self.venue.find = find

    def broker_is_back(self):
        self.venue.troubles = []
        vars(self.venue).pop("find", None)
        self.app.guards["broker"].breakers["broker"].release()

    def attempts(self, name):
        return sum(entry.kind == "AttemptStarted" and entry.subject == name for entry in self.entries)


def sim(*symbols, seed=7):
    return Market(symbols, {}, seed)


@pytest.fixture
async def house(settings, monkeypatch):
    opened = []

    async def unasked(_app):
        """The books are those of a venue, which takes the paper broker's place only when the application is open."""

    monkeypatch.setattr(App, "recover", unasked)

    async def make(clock=None, **flags):
        ours = {"required": ("tests.graph.test_runner:bull",), "optional": (), "gate": {"mean_r_min": -100.0}}
        manager = open_app(settings(**(ours | flags)), clock=clock)
        opened.append(manager)
        return House(await manager.__aenter__())

    yield make
    for manager in opened:
        await manager.__aexit__(None, None, None)


class TestStart:
    async def test_a_run_from_its_registration_to_its_report(self, house, tmp_path):
        here = await house()
        (result,) = await here.start()
        assert (result.run.status, result.run.error, result.resumed_from) == (RunStatus.FINISHED, "", None)
        assert result.run.run_id == "trade-SIM-20260101T000000Z-1"
        assert (result.action, result.orders[0].status) == ("BUY", OrderStatus.FILLED)
        before = ["start", "research", "analyst", "synthesis", "strategy", "quality_gate", "execution", "end"]
        assert [row.before for row in result.checkpoints] == before
        kinds = [entry.kind for entry in result.timeline]
        assert (kinds[0], kinds[-1]) == ("RunStarted", "RunFinished")
        assert (tmp_path / "home" / "runs" / result.run.run_id / "report.md").is_file()

    async def test_at_most_so_many_at_once(self, house):
        here = await house(concurrency=2)
        await here.start(*"ABCDEF")
        active = highest = 0
        for entry in here.entries:
            active += {"RunStarted": 1, "RunFinished": -1}.get(entry.kind, 0)
            highest = max(highest, active)
        assert (highest, active) == (2, 0)

    async def test_one_that_fails_does_not_stop_the_others(self, house):
        def fail():
            raise ValueError("no data")

        HOOKS["B"] = fail
        here = await house()
        results = {result.run.symbol: result for result in await here.start(*"ABC")}
        assert [results[name].run.status for name in "ABC"] == [
            RunStatus.FINISHED,
            RunStatus.FAILED,
            RunStatus.FINISHED,
        ]
        failed = results["B"]
        assert "CriticalDegradation: 1 of 1 required analysts failed" in failed.run.error
        assert "no data" in failed.run.error
        assert (failed.orders, failed.reasons) == ((), (failed.run.error,))
        assert failed.resume_command.startswith(f"python -m graph.run --resume {failed.run.run_id} --home ")
        assert (await here.resume(failed.run.run_id)).run.status is RunStatus.FAILED, "its cause is still there"
        HOOKS.clear()
        mended = await here.resume(failed.run.run_id)
        assert mended.run.status is RunStatus.FINISHED, "the members that were missing are asked again"
        assert mended.state["synthesis"].missing == ()

    async def test_one_that_fails_before_it_could_see_who_is_missing_needs_only_one_resume(self, settings):
        ours = {"required": ("tests.graph.test_runner:bull",), "optional": (), "gate": {"mean_r_min": -100.0}}
        plan = FaultPlan.parse(["bull=error", "synthesis=error"])
        async with open_app(settings(**ours), faults=plan) as app:
            (failed,) = await Runner(app).start_all(sim("SIM"))
            assert failed.run.error.startswith("InjectedFault: "), "of the synthesis, which never looked"
            plan.faults = ()
            resumed = await Runner(app).resume(failed.run.run_id)
        assert (resumed.run.status, resumed.state["synthesis"].missing) == (RunStatus.FINISHED, ())

    async def test_orders_left_open_by_others_are_settled_first(self, house):
        here = await house()
        here.broker_goes_silent()
        (lost,) = await here.start()
        assert (await here.app.ledger.orders(lost.run.run_id))[0].status is OrderStatus.UNKNOWN
        here.broker_is_back()
        await here.start("B")
        assert (await here.app.ledger.orders(lost.run.run_id))[0].status is OrderStatus.FILLED

    async def test_one_that_never_arrived_is_sent_by_its_own_run_and_by_nobody_else(self, house):
        """Whoever starts something else does not want an order of before to go now."""
        here = await house()
        here.venue.troubles = ["drop"] * 50
        (lost,) = await here.start()
        here.broker_is_back()
        await here.start("B")
        assert (await here.app.ledger.orders(lost.run.run_id))[0].status is OrderStatus.UNKNOWN
        assert (await here.resume(lost.run.run_id)).orders[0].status is OrderStatus.FILLED
        assert len(here.venue.executions) == 2

    async def test_a_report_that_cannot_be_written_undoes_nothing(self, house, monkeypatch):
        def full(folder, result):
            raise OSError("no space left")

        monkeypatch.setattr("graph.runner.write_report", full)
        here = await house()
        assert [each.run.status for each in await here.start(*"AB")] == [RunStatus.FINISHED] * 2

    async def test_a_database_that_fails_is_told_as_such(self, house, monkeypatch):
        @asynccontextmanager
        async def full(**_):
            raise StorageError("the disk is full")
            yield

        here = await house()
        monkeypatch.setattr(here.app.manager, "begin", full)
        with pytest.raises(StorageError, match="the disk is full"):
            await here.start(*"AB")

    async def test_files_that_are_none_start_nothing(self, house, tmp_path):
        here = await house()
        (tmp_path / "x.csv").write_text("nonsense")
        with pytest.raises(BadBars):
            await here.runner.start_all(Market(("X",), {"X": tmp_path / "x.csv"}, 7))
        assert await here.app.manager.runs() == ()

    async def test_runs_on_files_share_one_account(self, house, tmp_path):
        files = {symbol: bars_file(tmp_path / f"{symbol}.csv", start) for symbol, start in (("A", 10), ("B", 20))}
        here = await house()
        results = await here.runner.start_all(Market(("A", "B"), files, 7))
        assert {result.run.account for result in results} == {"paper"}
        held = {each.symbol for each in (await here.app.ledger.portfolio("paper")).positions}
        assert held == {result.run.symbol for result in results if result.action == "BUY"}


def bars_file(path: Path, start: float) -> Path:
    rows = ["date,open,high,low,close"]
    for day in range(150):
        price = start + 0.05 * day + (0.2 if day % 2 else 0)
        rows.append(f"2020-{1 + day // 28:02}-{1 + day % 28:02},{price},{price + 1},{price - 1},{price}")
    path.write_text("\n".join(rows) + "\n")
    return path


class TestStop:
    async def test_asked_to_stop_it_finishes_the_step_and_goes_on_later(self, house):
        here = await house()
        HOOKS["SIM"] = here.runner.stop
        (stopped,) = await here.start()
        assert (stopped.run.status, stopped.orders) == (RunStatus.STOPPED, ())
        assert stopped.checkpoints[-1].before == "synthesis"
        finished = await here.resume(stopped.run.run_id)
        assert (finished.run.status, finished.resumed_from) == (RunStatus.FINISHED, stopped.run.run_id)
        assert (ASKED, len(here.venue.executions)) == (["SIM"], 1)

    async def test_what_waits_for_its_turn_is_not_started(self, house):
        here = await house(concurrency=1)
        HOOKS["A"] = here.runner.stop
        results = await here.start(*"ABC")
        assert [(each.run.symbol, each.run.status) for each in results] == [("A", RunStatus.STOPPED)]

    async def test_asked_while_a_run_is_being_set_up(self, house, monkeypatch):
        here = await house()
        real = here.app.ledger.open_account

        async def open_account(*given):
            here.runner.stop()
            await real(*given)

        monkeypatch.setattr(here.app.ledger, "open_account", open_account)
        (stopped,) = await here.start()
        assert (stopped.run.status, ASKED, here.venue.calls) == (RunStatus.STOPPED, [], [])
        monkeypatch.undo()
        finished = await here.resume(stopped.run.run_id)
        assert (finished.run.status, len(here.venue.executions)) == (RunStatus.FINISHED, 1)

    async def test_a_cancelled_run_is_interrupted_and_goes_on(self, house):
        here = await house()
        task = asyncio.ensure_future(here.start())
        HOOKS["SIM"] = task.cancel
        with pytest.raises(asyncio.CancelledError):
            await task
        (run,) = await here.app.manager.runs()
        assert run.status is RunStatus.INTERRUPTED
        HOOKS.clear()
        assert (await here.resume(run.run_id)).run.status is RunStatus.FINISHED
        assert len(here.venue.executions) == 1


class TestResume:
    async def test_a_finished_run_is_only_reported(self, house, tmp_path):
        here = await house()
        (first,) = await here.start()
        calls = list(here.venue.calls)
        again = await here.resume(first.run.run_id)
        by_head = await here.resume(first.checkpoints[-1].checkpoint_id)
        assert replace(again, resumed_from=None) == replace(by_head, resumed_from=None) == first
        assert (ASKED, here.venue.calls) == (["SIM"], calls)

    async def test_a_failed_send_is_made_good_with_one_order(self, house):
        here = await house()
        here.venue.troubles = ["drop"] * 50
        (failed,) = await here.start()
        assert (failed.run.status, failed.orders[0].status) == (RunStatus.FAILED, OrderStatus.UNKNOWN)
        assert failed.run.error.startswith("BrokerUnavailable: ")
        assert failed.action == "BUY", "it may be at the broker"
        here.broker_is_back()
        finished = await here.resume(failed.run.run_id)
        assert (finished.run.status, finished.run.error) == (RunStatus.FINISHED, "")
        assert (ASKED, len(here.venue.executions)) == (["SIM"], 1)
        kinds = [entry.kind for entry in finished.timeline if entry.kind.startswith("Run")]
        assert kinds == ["RunStarted", "RunFailed", "RunResumed", "RunFinished"]

    async def test_its_own_lost_order_is_settled_before_anything_is_decided(self, house):
        here = await house()
        here.broker_goes_silent()
        (failed,) = await here.start()
        assert failed.orders[0].status is OrderStatus.UNKNOWN
        here.broker_is_back()
        runner = Runner(here.app)
        runner.stop()
        stopped = await runner.resume(failed.run.run_id)
        assert (stopped.run.status, stopped.orders[0].status) == (RunStatus.STOPPED, OrderStatus.FILLED)

    async def test_while_the_broker_is_still_dead_it_fails_again(self, house):
        here = await house()
        here.venue.troubles = ["drop"] * 50
        (failed,) = await here.start()
        again = await here.resume(failed.run.run_id)
        assert (again.run.status, len(here.venue.executions)) == (RunStatus.FAILED, 0)

    async def test_an_older_checkpoint_goes_back_and_sends_nothing_again(self, house):
        here = await house()
        (first,) = await here.start()
        for row, asked in zip(first.checkpoints[:-1], [1, 1, 1, 0, 0, 0, 0], strict=True):
            ASKED.clear()
            result = await here.resume(row.checkpoint_id)
            assert result.run.status is RunStatus.FINISHED, row.before
            assert (len(ASKED), result.orders) == (asked, first.orders), row.before
        assert (len(here.venue.executions), here.venue.calls) == (1, ["send"])
        assert here.attempts("execution") == 1 + 7

    async def test_a_decision_that_comes_out_otherwise_after_going_back_is_refused(self, house, monkeypatch):
        here = await house()
        (first,) = await here.start()
        row = next(row for row in first.checkpoints if row.before == "strategy")
        settings = here.app.settings.shaping() | {"strategy": {"weight_max": 0.01}}
        monkeypatch.setattr(here.app.manager, "claim", _with_parameters(here.app.manager, {"settings": settings}))
        result = await here.resume(row.checkpoint_id)
        assert result.run.status is RunStatus.FAILED
        assert result.run.error.startswith("OrderConflict: ")
        assert len(here.venue.executions) == 1

    async def test_killed_before_anything_was_saved_it_starts_from_its_parameters(self, house):
        here = await house()
        (model,) = await here.start()
        run = await registered(here.app, model.run.as_of_ns)
        result = await here.resume(run.run_id)
        assert (result.run.status, result.quantity) == (RunStatus.FINISHED, model.quantity)
        assert result.orders[0].client_order_id != model.orders[0].client_order_id

    async def test_and_not_on_bars_that_have_changed(self, house):
        here = await house()
        run = await registered(here.app, as_of_ns=5)
        with pytest.raises(HoldfastError, match=r"the bars of SIM have changed .* nothing was resumed"):
            await here.resume(run.run_id)
        assert ASKED == []

    async def test_it_goes_on_with_the_settings_it_began_with(self, house, monkeypatch):
        first = await house()
        monkeypatch.setenv("HOLDFAST_STRATEGY__WEIGHT_MAX", "0.001")
        monkeypatch.setenv("HOLDFAST_RISK__QUANTITY_MAX", "0.01")
        other = await house(strategy={"weight_max": 0.002}, required=("trend",))
        HOOKS["SIM"] = first.runner.stop
        (stopped,) = await first.start()
        (model,) = await Runner(first.app).start_all(sim("B"))
        HOOKS.clear()
        finished = await other.resume(stopped.run.run_id)
        assert finished.run.status is RunStatus.FINISHED
        assert finished.plan.target_weight > 0.01
        assert finished.plan.target_weight == pytest.approx(model.plan.target_weight, rel=0.5)
        assert finished.quantity == finished.plan.quantity > 1

    async def test_a_run_that_somebody_else_holds(self, house):
        here = await house()
        (first,) = await here.start()
        row = first.checkpoints[3]
        async with here.app.manager.claim(first.run.run_id):
            for identifier in (first.run.run_id, row.checkpoint_id):
                with pytest.raises(RunLeased, match="nothing was started"):
                    await here.resume(identifier)
        assert ASKED == ["SIM"]

    async def test_two_resumes_at_once_are_one(self, house):
        here = await house()
        HOOKS["SIM"] = here.runner.stop
        (stopped,) = await here.start()
        both = await asyncio.gather(*(here.resume(stopped.run.run_id) for _ in range(2)), return_exceptions=True)
        assert sorted(type(each).__name__ for each in both) == ["RunLeased", "RunResult"]
        assert len(here.venue.executions) == 1

    async def test_a_workflow_of_another_shape(self, house, monkeypatch):
        here = await house()
        HOOKS["SIM"] = here.runner.stop
        (stopped,) = await here.start()
        settings = here.app.settings.shaping() | {"required": ["tests.graph.test_runner:bear"]}
        parameters = {"settings": settings}
        monkeypatch.setattr(here.app.manager, "claim", _with_parameters(here.app.manager, parameters))
        with pytest.raises(FingerprintMismatch, match=r"members lost \['bull'\] and gained \['bear'\]"):
            await here.resume(stopped.run.run_id)
        monkeypatch.undo()
        assert (await here.app.manager.run(stopped.run.run_id)).status is RunStatus.STOPPED

    @pytest.mark.parametrize("identifier", ["nobody", "../x", ""])
    async def test_what_is_not_there(self, house, identifier):
        here = await house()
        with pytest.raises(CheckpointNotFound):
            await here.resume(identifier)


class LoopTime:
    """The wall clock of a simulation is its loop's."""

    def __init__(self, clock):
        self._clock = clock

    def now_ns(self):
        return round(self._clock.now * 1e9)


async def registered(app, as_of_ns):
    """A run of which nothing was saved yet when its process was killed."""
    compiled = app.trade(app.settings, sim("SIM").feed(app.settings))
    parameters = {"market": sim("SIM").as_json(), "settings": app.settings.shaping()}
    given = {"workflow": "trade", "symbol": "SIM", "fingerprint": compiled.fingerprint, "parameters": parameters}
    async with app.manager.begin(as_of_ns=as_of_ns, **given) as hold:
        return hold.run


def _with_parameters(manager, parameters):
    """Claims of runs, as if they had been started with other parameters."""
    real = manager.claim

    @asynccontextmanager
    async def claim(run_id):
        async with real(run_id) as hold:
            yield replace(hold, run=replace(hold.run, parameters=dict(hold.run.parameters) | parameters))

    return claim


class TestTwoApplications:
    """Two applications on one home: a run is one's, and then the other's, and never both's."""

    @pytest.fixture
    async def two(self, house):
        clock = ReplayClock(1_000)
        first, second = await house(clock=clock), await house(clock=clock)
        second.app.broker = first.app.broker  # one venue for both
        return first, second, lambda: clock.advance_to(clock.now_ns() + 10_000_000_000)

    def test_in_a_simulation_too(self, settings):
        """On virtual time, with databases that need no threads: the first is paused, and the second waits for it."""
        ours = {"required": ("tests.graph.test_runner:bull",), "optional": (), "gate": {"mean_r_min": -100.0}}

        async def second_turn(app):
            while True:
                try:
                    return await Runner(app).resume("trade-SIM-20260101T000000Z-1")
                except (CheckpointNotFound, RunLeased):
                    await asyncio.sleep(1)

        async def play(clock):
            opened = [open_app(settings(**ours), clock=clock, inline=True) for _ in range(2)]
            async with opened[0] as first, opened[1] as second:
                venue = second.broker = stand_in(first)
                first.leases._renew_s = 1e6  # it is paused, and only what is saved after its pause is delayed
                _delay_saving(first, lambda: asyncio.sleep(60))
                runner = Runner(first)
                both = await asyncio.gather(runner.start_all(sim("SIM")), second_turn(second))
                return both, runner.lost, len(venue.executions)

        with VirtualClock(seed=5) as clock:
            began = clock.now
            (results, finished), lost, executions = clock.run(play(LoopTime(clock)))
            assert 60 <= clock.now - began < 70
        assert (results, [type(each) for each in lost]) == ([], [LeaseLost])
        assert (finished.run.status, executions) == (RunStatus.FINISHED, 1)
        resumed = next(entry.time_ns for entry in finished.timeline if entry.kind == "RunResumed")
        assert 10 <= resumed / 1e9 - began < 12, "it was not waited for, or for too long"

    async def test_a_run_cannot_be_resumed_before_its_work_begins(self, two, monkeypatch):
        first, second, _ = two
        real, refused = first.app.ledger.open_account, []

        async def open_account(*given):
            (run,) = await second.app.manager.runs()
            assert run.status is RunStatus.RUNNING
            with pytest.raises(RunLeased) as caught:
                await second.resume(run.run_id)
            refused.append(str(caught.value))
            await real(*given)

        monkeypatch.setattr(first.app.ledger, "open_account", open_account)
        (result,) = await first.start()
        assert (result.run.status, ASKED, len(refused)) == (RunStatus.FINISHED, ["SIM"], 1)

    async def test_one_that_was_taken_over_writes_and_orders_nothing_more(self, two):
        first, second, expire = two
        taken = asyncio.Event()

        async def take_over():
            (run,) = await second.app.manager.runs()
            HOOKS.clear()
            taken_over.append(await second.resume(run.run_id))
            taken.set()

        def pause():
            expire()
            rivals.append(asyncio.ensure_future(take_over()))

        taken_over, rivals = [], []
        HOOKS["SIM"] = pause
        _delay_saving(first.app, taken.wait)
        assert await first.start() == []
        (lost,) = first.runner.lost
        assert isinstance(lost, LeaseLost)
        assert "was taken over by another process, which is done with it; nothing more was written" in str(lost)
        (finished,) = taken_over
        assert finished.run == await first.app.manager.run(finished.run.run_id)
        assert (finished.run.status, len(finished.orders), len(first.venue.executions)) == (RunStatus.FINISHED, 1, 1)
        assert (await first.resume(finished.run.run_id)).checkpoints == finished.checkpoints
        assert [entry.kind for entry in first.entries][-1] == "RunLost"

    async def test_one_that_is_taken_over_while_it_resumes_says_so(self, two):
        first, second, expire = two
        HOOKS["SIM"] = first.runner.stop
        (stopped,) = await first.start()
        ASKED.clear()

        async def mark(*given):
            expire()
            assert (await second.resume(stopped.run.run_id)).run.status is RunStatus.FINISHED
            return await real(*given)

        real, first.app.manager.mark = first.app.manager.mark, mark
        with pytest.raises(LeaseLost):
            await first.resume(stopped.run.run_id)
        assert (ASKED, len(first.venue.executions)) == ([], 1)

    async def test_the_others_go_on(self, two):
        first, second, _ = two

        def lose():
            thefts.append(asyncio.ensure_future(_steal(second.app, "B")))

        thefts = []
        HOOKS["B"] = lose
        _delay_saving(first.app, lambda: asyncio.gather(*thefts))
        results = await first.start(*"ABC")
        assert {each.run.symbol: each.run.status for each in results} == dict.fromkeys("AC", RunStatus.FINISHED)
        assert [type(each) for each in first.runner.lost] == [LeaseLost]

    async def test_also_where_one_is_somebody_elses_before_it_begins(self, house, monkeypatch):
        here = await house()
        real = here.app.manager.begin

        def begin(**given):
            if given["symbol"] == "B":
                raise RunLeased("B is somebody's")
            return real(**given)

        monkeypatch.setattr(here.app.manager, "begin", begin)
        results = await here.start(*"ABC")
        assert [each.run.symbol for each in results] == ["A", "C"]
        assert [str(each) for each in here.runner.lost] == ["B is somebody's"]

    async def test_orders_of_a_run_that_somebody_holds_are_left_alone(self, two):
        first, second, expire = two
        first.broker_goes_silent()
        (lost,) = await first.start()
        first.broker_is_back()

        async def status():
            return (await first.app.ledger.orders(lost.run.run_id))[0].status

        async with first.app.manager.claim(lost.run.run_id):
            await second.start("B")
            assert await status() is OrderStatus.UNKNOWN
            (other,) = await second.start("C")
            await second.resume(other.checkpoints[0].checkpoint_id)
            assert await status() is OrderStatus.UNKNOWN
            expire()
            await second.start("D")
            assert await status() is OrderStatus.FILLED


def _delay_saving(app, until):
    """From its first analyst's answer on, a run is as if paused, until `until` is done."""

    async def later(real, *given):
        if ASKED:
            await until()
        return await real(*given)

    for name in ("aput", "aput_writes"):
        setattr(app.saver, name, partial(later, getattr(app.saver, name)))


async def _steal(app, symbol):
    """Take a run away from whoever works on it, and leave it."""
    steal = update(runs).where(runs.c.symbol == symbol).values(token=9)
    await app.database.awrite(lambda connection: connection.execute(steal))


def test_a_market_is_found_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    market = Market(("A", "B"), {"A": Path("a.csv"), "B": tmp_path / "b.csv"}, 3)
    again = Market.from_json(market.as_json())
    assert again == Market(("A", "B"), {"A": tmp_path / "a.csv", "B": tmp_path / "b.csv"}, 3)


class TestPolicy:
    @pytest.fixture
    def mine(self, tmp_path):
        return Path(shutil.copytree(DEMO_FOLDER, tmp_path / "mine"))

    async def test_what_it_said_is_told(self, house):
        (result,) = await (await house()).start()
        told = result.as_json()["policy"]
        assert told.pop("latency_us") > 0
        assert told == {
            "policy_id": "demo_mlp",
            "policy_type": "mlp",
            "action": "BUY",
            "action_reason": "greatest_output",
            "is_fallback": False,
        }

    async def test_one_that_cannot_be_used_trades_nothing(self, house, tmp_path):
        here = await house(policy=str(tmp_path / "gone"))
        (result,) = await here.start()
        assert (result.run.status, result.action, here.venue.executions) == (RunStatus.FINISHED, "HOLD", [])
        assert result.as_json()["policy"]["is_fallback"] is True
        assert any(f"there is no file {tmp_path / 'gone'}" in reason for reason in result.reasons)

    async def test_a_run_goes_on_with_the_policy_that_it_was_started_with(self, house, mine):
        here = await house(policy=str(mine))
        HOOKS["SIM"] = here.runner.stop
        (stopped,) = await here.start()
        pin = load_policy(mine).metadata.pin
        kept = stopped.run.parameters["settings"]
        assert (stopped.run.status, kept["policy"], kept["policy_sha256"]) == (RunStatus.STOPPED, str(mine), pin)
        here.app.settings = here.app.settings.model_copy(update={"policy": "hold-cash"})
        resumed = await here.resume(stopped.run.run_id)
        assert (resumed.state["policy"].policy_id, resumed.action) == ("demo_mlp", "BUY")

    async def test_a_bundle_that_was_exchanged_is_not_the_one(self, house, mine):
        here = await house(policy=str(mine))
        HOOKS["SIM"] = here.runner.stop
        (stopped,) = await here.start()
        path = mine / "metadata.json"
        path.write_text(path.read_text().replace("demo_mlp", "another"))
        resumed = await here.resume(stopped.run.run_id)
        assert (resumed.state["policy"].is_fallback, resumed.action) == (True, "HOLD")
        assert any("the settings say" in reason for reason in resumed.reasons)

    async def test_one_that_could_not_be_used_may_be_mended(self, house, mine):
        here = await house(policy=str(mine.rename(mine.with_name("away")).with_name("mine")))
        HOOKS["SIM"] = here.runner.stop
        (stopped,) = await here.start()
        assert stopped.run.parameters["settings"]["policy_sha256"] == ""
        mine.with_name("away").rename(mine)
        here.app.policies.clear()
        assert (await here.resume(stopped.run.run_id)).action == "BUY"

    async def test_what_if_it_were_another(self, house, mine):
        here = await house(policy=str(mine))
        (first,) = await here.start()
        before = next(row.checkpoint_id for row in first.checkpoints if row.before == "execution")
        forks = [await Runner(here.app).fork(before, changes={"policy": name}) for name in ("hold-cash", "rule")]
        assert [fork.state["policy"].policy_id for fork in forks] == ["hold_cash", "rule_plan"]
        assert [fork.run.parameters["settings"]["policy_sha256"] for fork in forks] == ["", ""]


class TestFork:
    async def fork(self, here, identifier, **more):
        return await Runner(here.app).fork(identifier, **more)

    async def test_from_every_state_it_decides_alike_and_sends_nothing(self, house):
        here = await house()
        (first,) = await here.start()
        calls, bought = list(here.venue.calls), first.orders[0].intent
        for row, asked in zip(first.checkpoints[:-1], [1, 1, 1, 0, 0, 0, 0], strict=True):
            ASKED.clear()
            fork = await self.fork(here, row.checkpoint_id)
            assert (fork.run.status, fork.run.dry, len(ASKED)) == (RunStatus.FINISHED, True, asked), row.before
            assert (fork.run.forked_from, fork.run.forked_at) == (first.run.run_id, row.checkpoint_id)
            assert (fork.action, fork.resumed_from) == ("HOLD", None)
            (order,) = fork.orders
            assert (order.status, order.intent.quantity, order.intent.run_id) == (
                OrderStatus.DENIED,
                bought.quantity,
                fork.run.run_id,
            )
            assert fork.reasons[-1] == f"dry fork: buy {first.quantity:f} SIM was not sent"
            assert {check.name for check in order.checks} >= {"order_size", "trading_state"}
            assert await here.app.ledger.orders(fork.run.run_id) == ()
            told = next(entry.detail for entry in fork.timeline if entry.kind == "RunForked")
            assert told == {"origin": first.run.run_id, "checkpoint": row.checkpoint_id, "dry": True, "changes": {}}
            assert fork.as_json()["dry"] is True
        assert (here.venue.calls, len(await here.app.ledger.executed())) == (calls, 1)
        assert replace(await here.resume(first.run.run_id), resumed_from=None) == first
        assert not any(entry.kind == "RunForked" for entry in here.entries if entry.run_id == first.run.run_id)

    async def test_with_orders_it_sends_one_of_its_own(self, house):
        here = await house()
        (first,) = await here.start()
        fork = await self.fork(here, first.checkpoints[2].checkpoint_id, orders=True)
        assert (fork.run.dry, fork.action, fork.quantity) == (False, "BUY", first.quantity)
        assert fork.orders[0].client_order_id != first.orders[0].client_order_id
        assert (fork.run.account, len(here.venue.executions)) == (fork.run.run_id, 2)
        assert await here.app.ledger.portfolio(first.run.account) == first.portfolio

    async def test_with_other_settings_and_all_else_alike(self, house):
        here = await house()
        (first,) = await here.start()
        before_plan = first.checkpoints[4].checkpoint_id
        changes = {"strategy": {"weight_max": 0.01}, "cash": 5}
        fork = await self.fork(here, before_plan, changes=changes)
        assert fork.orders[0].intent.quantity < first.quantity / 2
        kept, now = (run.parameters["settings"] for run in (first.run, fork.run))
        assert now["strategy"] == kept["strategy"] | {"weight_max": 0.01}
        assert {name for name in now if now[name] != kept[name]} == {"strategy", "cash"}
        assert fork.portfolio.cash == 5
        again = await self.fork(here, fork.checkpoints[0].checkpoint_id)
        assert again.run.parameters == fork.run.parameters
        told = {entry.run_id: entry.detail["changes"] for entry in here.entries if entry.kind == "RunForked"}
        assert told == {fork.run.run_id: changes, again.run.run_id: {}}

    @pytest.mark.parametrize(
        ("changes", "error", "says"),
        [
            ({"required": ["tests.graph.test_runner:bear"]}, FingerprintMismatch, r"members lost \['bull'\]"),
            ({"strategy": {"weight_max": "much"}}, ConfigError, "setting strategy.weight_max does not fit"),
        ],
    )
    async def test_settings_that_it_cannot_go_on_with(self, house, changes, error, says):
        here = await house()
        (first,) = await here.start()
        with pytest.raises(error, match=says):
            await self.fork(here, first.checkpoints[2].checkpoint_id, changes=changes)
        assert len(await here.app.manager.runs()) == 1

    async def test_after_an_end_there_is_nothing_to_do(self, house):
        here = await house()
        (first,) = await here.start()
        end = first.checkpoints[-1].checkpoint_id
        for identifier in (first.run.run_id, end):
            with pytest.raises(InputError, match=r"came to an end at its newest state, .* nothing was forked"):
                await self.fork(here, identifier)
        await here.resume(first.checkpoints[5].checkpoint_id)
        with pytest.raises(InputError, match=f"came to an end at checkpoint {end}, "):
            await self.fork(here, end)
        assert len(await here.app.manager.runs()) == 1

    async def test_an_id_that_is_not_there(self, house):
        here = await house()
        with pytest.raises(CheckpointNotFound):
            await self.fork(here, "nobody")
        (model,) = await here.start()
        run = await registered(here.app, model.run.as_of_ns)
        with pytest.raises(CheckpointNotFound, match="has no saved state yet; nothing was forked"):
            await self.fork(here, run.run_id)
        assert len(await here.app.manager.runs()) == 2

    async def test_of_one_that_was_stopped_which_goes_on_by_itself(self, house):
        here = await house()
        HOOKS["SIM"] = here.runner.stop
        (stopped,) = await here.start()
        fork = await self.fork(here, stopped.run.run_id)
        assert (fork.run.status, ASKED, here.venue.calls) == (RunStatus.FINISHED, ["SIM"], [])
        finished = await here.resume(stopped.run.run_id)
        assert (finished.run.status, ASKED, len(here.venue.executions)) == (RunStatus.FINISHED, ["SIM"], 1)

    async def test_of_one_that_failed_for_want_of_analysts_asks_them_again(self, house):
        def fail():
            raise ValueError("no data")

        here = await house()
        HOOKS["SIM"] = fail
        (failed,) = await here.start()
        assert failed.run.error.startswith("CriticalDegradation: ")
        HOOKS.clear()
        fork = await self.fork(here, failed.run.run_id)
        assert (fork.run.status, fork.orders[0].status) == (RunStatus.FINISHED, OrderStatus.DENIED)

    async def test_stopped_and_gone_on_with_it_is_as_dry_as_before(self, house):
        here = await house()
        (first,) = await here.start()
        runner = Runner(here.app)
        runner.stop()
        stopped = await runner.fork(first.checkpoints[2].checkpoint_id)
        assert (stopped.run.status, stopped.run.dry) == (RunStatus.STOPPED, True)
        finished = await here.resume(stopped.run.run_id)
        assert (finished.run.status, finished.run.dry, finished.action) == (RunStatus.FINISHED, True, "HOLD")
        rewound = await here.resume(finished.checkpoints[-2].checkpoint_id)
        assert (rewound.run.dry, rewound.action, len(here.venue.executions)) == (True, "HOLD", 1)

    async def test_a_dry_one_leaves_alone_what_others_have_sent(self, house):
        here = await house()
        here.broker_goes_silent()
        (failed,) = await here.start()
        assert failed.orders[0].status is OrderStatus.UNKNOWN
        here.broker_is_back()
        calls = list(here.venue.calls)
        dry = await self.fork(here, failed.checkpoints[-1].checkpoint_id)
        assert (dry.run.status, here.venue.calls) == (RunStatus.FINISHED, calls)
        assert (await here.app.ledger.orders(failed.run.run_id))[0].status is OrderStatus.UNKNOWN
        await self.fork(here, failed.checkpoints[-1].checkpoint_id, orders=True)
        assert (await here.app.ledger.orders(failed.run.run_id))[0].status is OrderStatus.FILLED
        assert len(here.venue.executions) == 2

    async def test_an_analyst_that_orders_by_itself_is_refused_too(self, house):
        here = await house(required=("tests.graph.test_runner:sneak",))
        tickets = []

        async def order(view):
            desk, run_id = here.app.desk(here.app.settings), CURRENT_RUN.get()
            submitted = desk.submit(
                run_id=run_id, account=run_id, side=Side.BUY, quantity=Decimal(1), view=view, decision=9
            )
            tickets.append(await submitted)

        SNEAKS.append(order)
        (first,) = await here.start()
        assert (tickets[0].order.status, len(here.venue.executions)) == (OrderStatus.FILLED, 2)
        await self.fork(here, first.checkpoints[1].checkpoint_id)
        assert (tickets[1].order.status, len(here.venue.executions)) == (OrderStatus.DENIED, 2)

    async def test_an_order_of_its_origin_is_none_of_its_own(self, house):
        """As it would be in a workflow with steps after the order."""
        here = await house()
        (first,) = await here.start()
        fork = await self.fork(here, first.checkpoints[2].checkpoint_id)
        graph = here.app.trade(here.app.settings, None).graph
        config = {"configurable": {"thread_id": fork.run.run_id}}
        async with here.app.manager.claim(fork.run.run_id):
            await graph.aupdate_state(config, {"orders": list(first.orders)}, as_node="execution")
        again = await here.resume(fork.run.run_id)
        assert (again.state["orders"], again.orders, again.action) == (list(first.orders), (), "HOLD")

    async def test_on_files_it_sees_the_account_that_all_share(self, house, tmp_path):
        here = await house()
        files = {"A": bars_file(tmp_path / "a.csv", 10)}
        (first,) = await here.runner.start_all(Market(("A",), files, 7))
        (tmp_path / "a.csv").unlink()
        fork = await self.fork(here, first.checkpoints[1].checkpoint_id)
        assert (fork.run.status, fork.run.account) == (RunStatus.FINISHED, "paper")
        assert fork.portfolio == first.portfolio


class TestExchange:
    @pytest.mark.parametrize("verb", ["start", "resume", "fork"])
    async def test_history_is_not_traded_at_an_exchange(self, tmp_path, verb):
        settings = load_settings(None, home=tmp_path, broker="exchange")
        async with open_app(settings, broker=lambda app: app.home.broker) as app:
            runner = Runner(app)
            acts = {
                "start": lambda: runner.start_all(Market(("SIM",), {}, 7)),
                "resume": lambda: runner.resume("trade-SIM-1"),
                "fork": lambda: runner.fork("trade-SIM-1"),
            }
            with pytest.raises(ConfigError, match="decides on history, and the setting broker is exchange"):
                await acts[verb]()
            assert await app.manager.runs() == ()

    async def test_an_exchange_without_a_key_is_not_opened(self, tmp_path):
        with pytest.raises(ConfigError, match="key or secret is not set"):
            async with open_app(load_settings(None, home=tmp_path, broker="exchange")):
                pass
