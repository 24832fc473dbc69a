"""The slow lane: the newest bar, one decision at a time, and whatever goes wrong is told and left."""

import asyncio
from dataclasses import dataclass

import pytest

from agents.domain import Outcome
from agents.errors import AgentUnavailable, LeaseLost, StorageError
from checkpoints.runs import CheckpointManager, RunStatus
from graph.app import Compiled, open_app
from graph.config import load_settings
from graph.resilience.virtual import VirtualClock
from graph.session.slow_lane import SlowLane
from tests.graph.session.floor import APPROVED, LoopTime, bar, history, plan_of, view_of


@dataclass
class Graph:
    """Stands for a compiled workflow: it takes its time, and gives what it is told."""

    seconds: float = 0.0
    error: BaseException | None = None

    async def ainvoke(self, state, config, durability):
        assert durability == "sync"
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return {"plan": plan_of(state["view"]), "verdict": APPROVED}


class Lane:
    def __init__(self, app, graph, seconds=60.0):
        self.decided, self.told = [], []
        self.lane = SlowLane(
            app,
            Compiled(graph, {"nodes": []}, (), None),
            account="a",
            parameters={},
            seconds=seconds,
            decided=self.take,
            tell=lambda kind, detail: self.told.append((kind, detail)),
        )

    async def take(self, decided):
        self.decided.append(decided)


def play(tmp_path, graph, act, **options):
    async def run(clock):
        settings = load_settings(None, home=tmp_path, window=200)
        async with open_app(settings, clock=LoopTime(clock), inline=True) as app:
            await app.ledger.open_account("a", settings.cash)
            lane = Lane(app, graph, **options)
            task = asyncio.create_task(lane.lane.run())
            await act(lane)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return lane, await app.manager.runs()

    with VirtualClock(1) as clock:
        return clock.run(run(clock))


def views(count):
    bars = history()
    return [view_of([*bars, *(bar(number) for number in range(1, end))]) for end in range(1, count + 1)]


def test_each_bar_is_decided_once_as_a_run_of_its_own(tmp_path):
    async def act(lane):
        for view in views(2):
            lane.lane.wake(view)
            lane.lane.wake(view)
            await asyncio.sleep(1)
        lane.lane.wake(views(1)[0])
        await asyncio.sleep(1)

    lane, runs = play(tmp_path, Graph(), act)
    assert [each.view.as_of_ns for each in lane.decided] == [view.as_of_ns for view in views(2)]
    assert [(run.workflow, run.status) for run in runs] == [("plan", RunStatus.FINISHED)] * 2
    assert lane.decided[0].verdict.outcome is Outcome.APPROVE


def test_while_it_thinks_only_the_newest_bar_waits(tmp_path):
    async def act(lane):
        lane.lane.wake(views(1)[0])
        await asyncio.sleep(1)
        for view in views(4)[1:]:
            lane.lane.wake(view)
        await asyncio.sleep(100)

    lane, _ = play(tmp_path, Graph(seconds=10), act)
    assert [each.view.as_of_ns for each in lane.decided] == [views(1)[0].as_of_ns, views(4)[3].as_of_ns]
    assert lane.lane.counts["skipped"] == 2


@pytest.mark.parametrize(
    ("graph", "told"),
    [
        (Graph(error=AgentUnavailable("no model")), "AgentUnavailable: no model"),
        (Graph(error=RuntimeError("a mistake")), "RuntimeError: a mistake"),
        (Graph(seconds=1e6), "it took longer than 60 s"),
    ],
)
def test_a_decision_that_fails_is_told_its_run_says_so_and_the_next_one_is_made(tmp_path, graph, told):
    async def act(lane):
        lane.lane.wake(views(1)[0])
        await asyncio.sleep(70)
        graph.error, graph.seconds = None, 0.0
        lane.lane.wake(views(2)[1])
        await asyncio.sleep(1)

    lane, runs = play(tmp_path, graph, act)
    assert lane.told == [("DecisionFailed", {"bar": views(1)[0].as_of_ns, "error": told})]
    assert [run.status for run in runs] == [RunStatus.FAILED, RunStatus.FINISHED]
    assert len(lane.decided) == 1


def test_a_plan_that_cannot_be_taken_is_told_and_the_next_bar_is_another_chance(tmp_path):
    async def act(lane):
        take, lane.error = lane.take, StorageError("full")

        async def failing(decided):
            error, lane.error = lane.error, None
            if error is not None:
                raise error
            await take(decided)

        lane.lane._decided = failing
        for view in views(2):
            lane.lane.wake(view)
            await asyncio.sleep(1)

    lane, _ = play(tmp_path, Graph(), act)
    assert [kind for kind, _ in lane.told] == ["DecisionFailed"]
    assert len(lane.decided) == 1


def test_a_lost_lease_ends_it(tmp_path):
    async def act(lane):
        async def lost(_decided):
            raise LeaseLost("another has it")

        lane.lane._decided = lost
        lane.lane.wake(views(1)[0])
        with pytest.raises(LeaseLost):
            await lane.lane.run()

    play(tmp_path, Graph(), act)


def test_cancelled_while_the_disk_is_full_it_ends(tmp_path, monkeypatch):
    """The cancellation comes out as the error of what was to be written down then."""

    async def full(self, hold, status, error=""):
        raise StorageError("full")

    async def act(lane):
        monkeypatch.setattr(CheckpointManager, "mark", full)
        task = asyncio.create_task(lane.lane.run())
        lane.lane.wake(views(1)[0])
        await asyncio.sleep(1)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=10)
        assert done
        assert task.cancelled()

    lane, _ = play(tmp_path, Graph(seconds=1_000), act, seconds=2_000.0)
    assert not lane.told
