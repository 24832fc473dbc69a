"""The runner: many decisions at once, stopped and taken up again, and never an order too many."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agents.domain import Finding, MarketView, OrderStatus
from agents.errors import BadBars, CheckpointNotFound, FingerprintMismatch, HoldfastError, RunLeased, StorageError
from checkpoints.runs import RunStatus
from graph.app import open_app
from graph.resilience import FaultPlan
from graph.runner import Market, Runner
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


@pytest.fixture(autouse=True)
def _clean():
    ASKED.clear()
    HOOKS.clear()


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

    def broker_is_back(self):
        self.venue.troubles = []
        self.app.guards["broker"].breakers["broker"].release()

    def attempts(self, name):
        return sum(entry.kind == "AttemptStarted" and entry.subject == name for entry in self.entries)


def sim(*symbols, seed=7):
    return Market(symbols, {}, seed)


@pytest.fixture
async def house(settings):
    opened = []

    async def make(**flags):
        ours = {"required": ("tests.graph.test_runner:bull",), "optional": (), "gate": {"mean_r_min": -100.0}}
        manager = open_app(settings(**(ours | flags)))
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
        here.venue.troubles = ["drop"] * 50
        (lost,) = await here.start()
        assert (await here.app.ledger.orders(lost.run.run_id))[0].status is OrderStatus.UNKNOWN
        here.broker_is_back()
        await here.start("B")
        assert (await here.app.ledger.orders(lost.run.run_id))[0].status is OrderStatus.FILLED

    async def test_a_report_that_cannot_be_written_undoes_nothing(self, house, monkeypatch):
        def full(folder, result):
            raise OSError("no space left")

        monkeypatch.setattr("graph.runner.write_report", full)
        here = await house()
        assert [each.run.status for each in await here.start(*"AB")] == [RunStatus.FINISHED] * 2

    async def test_a_database_that_fails_is_told_as_such(self, house, monkeypatch):
        async def full(**_):
            raise StorageError("the disk is full")

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
        monkeypatch.setattr(type(here.app.manager), "run", _with_parameters(here.app.manager, {"settings": settings}))
        result = await here.resume(row.checkpoint_id)
        assert result.run.status is RunStatus.FAILED
        assert result.run.error.startswith("OrderConflict: ")
        assert len(here.venue.executions) == 1

    async def test_killed_before_anything_was_saved_it_starts_from_its_parameters(self, house):
        here = await house()
        (model,) = await here.start()
        compiled = here.app.trade(here.app.settings, sim("SIM").feed(here.app.settings))
        run = await here.app.manager.begin(
            workflow="trade",
            symbol="SIM",
            as_of_ns=model.run.as_of_ns,
            fingerprint=compiled.fingerprint,
            parameters={"market": sim("SIM").as_json(), "settings": here.app.settings.shaping()},
        )
        result = await here.resume(run.run_id)
        assert (result.run.status, result.quantity) == (RunStatus.FINISHED, model.quantity)
        assert result.orders[0].client_order_id != model.orders[0].client_order_id

    async def test_and_not_on_bars_that_have_changed(self, house):
        here = await house()
        compiled = here.app.trade(here.app.settings, sim("SIM").feed(here.app.settings))
        run = await here.app.manager.begin(
            workflow="trade",
            symbol="SIM",
            as_of_ns=5,
            fingerprint=compiled.fingerprint,
            parameters={"market": sim("SIM").as_json(), "settings": here.app.settings.shaping()},
        )
        with pytest.raises(HoldfastError, match=r"the bars of SIM have changed .* nothing was resumed"):
            await here.resume(run.run_id)
        assert ASKED == []

    async def test_it_goes_on_with_the_settings_it_began_with(self, house, monkeypatch):
        first = await house()
        HOOKS["SIM"] = first.runner.stop
        (stopped,) = await first.start()
        (model,) = await Runner(first.app).start_all(sim("B"))
        HOOKS.clear()
        monkeypatch.setenv("HOLDFAST_STRATEGY__WEIGHT_MAX", "0.001")
        monkeypatch.setenv("HOLDFAST_RISK__QUANTITY_MAX", "0.01")
        other = await house(strategy={"weight_max": 0.002}, required=("trend",))
        finished = await other.resume(stopped.run.run_id)
        assert finished.run.status is RunStatus.FINISHED
        assert finished.plan.target_weight > 0.01
        assert finished.plan.target_weight == pytest.approx(model.plan.target_weight, rel=0.5)
        assert finished.quantity == finished.plan.quantity > 1

    async def test_a_run_that_somebody_else_holds(self, house):
        here = await house()
        (first,) = await here.start()
        row = first.checkpoints[3]
        with here.app.manager.claim(first.run.run_id):
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
        monkeypatch.setattr(type(here.app.manager), "run", _with_parameters(here.app.manager, parameters))
        with pytest.raises(FingerprintMismatch, match=r"members lost \['bull'\] and gained \['bear'\]"):
            await here.resume(stopped.run.run_id)
        monkeypatch.undo()
        assert (await here.app.manager.run(stopped.run.run_id)).status is RunStatus.STOPPED

    @pytest.mark.parametrize("identifier", ["nobody", "../x", ""])
    async def test_what_is_not_there(self, house, identifier):
        here = await house()
        with pytest.raises(CheckpointNotFound):
            await here.resume(identifier)


def _with_parameters(manager, parameters):
    """The registry, as if the run had been started with other parameters."""
    real = type(manager).run

    async def run(self, run_id):
        found = await real(self, run_id)
        return replace(found, parameters=dict(found.parameters) | parameters)

    return run


def test_a_market_is_found_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    market = Market(("A", "B"), {"A": Path("a.csv"), "B": tmp_path / "b.csv"}, 3)
    again = Market.from_json(market.as_json())
    assert again == Market(("A", "B"), {"A": tmp_path / "a.csv", "B": tmp_path / "b.csv"}, 3)
