"""The recorder: what guards tell is kept by run, and trouble with keeping it stops nobody."""

import asyncio

import pytest

from agents.clock import ReplayClock
from agents.errors import StorageError
from checkpoints.database import Database
from checkpoints.events import Timeline
from graph.resilience import AttemptFailed, AttemptStarted, Guard
from graph.telemetry import CURRENT_RUN, Recorder


class BrokenTimeline:
    def __init__(self):
        self.error: BaseException | None = StorageError("the disk is full")
        self.kept = []

    async def append(self, entries):
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.kept += entries


@pytest.fixture
def timeline(tmp_path):
    with Database.open(tmp_path / "timeline.db") as database:
        yield Timeline(database)


@pytest.fixture
def in_run():
    token = CURRENT_RUN.set("run-1")
    yield
    CURRENT_RUN.reset(token)


async def test_a_guards_event_becomes_an_entry_of_the_current_run(timeline, in_run):
    recorder = Recorder(timeline, ReplayClock(5))
    recorder(AttemptStarted("trend", "trend", 1.0, 1))
    recorder(AttemptFailed("trend", "trend/rules", 2.0, 2, 0.5, "no", "ValueError"))
    await recorder.flush("run-1")
    first, second = await timeline.entries("run-1")
    assert (first.time_ns, first.kind, first.subject, first.detail) == (5, "AttemptStarted", "trend", {"attempt": 1})
    told = {"link": "trend/rules", "attempt": 2, "seconds": 0.5, "error": "no", "error_type": "ValueError"}
    assert second.detail == told


async def test_runs_that_share_a_guard_keep_their_own_events(timeline):
    recorder = Recorder(timeline, ReplayClock(5))
    guard = Guard("trend", observers=[recorder])

    async def ask():
        await asyncio.sleep(0)
        return 1

    async def work(run_id):
        CURRENT_RUN.set(run_id)
        await guard(ask)
        await recorder.flush(run_id)

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(work(f"run-{number}"))
    for number in range(5):
        kinds = [entry.kind for entry in await timeline.entries(f"run-{number}")]
        assert kinds == ["AttemptStarted", "AttemptSucceeded"]


async def test_what_happens_outside_of_a_run_is_in_no_timeline(timeline):
    shown = []
    recorder = Recorder(timeline, ReplayClock(5), shown.append)
    recorder(AttemptStarted("broker", "broker", 1.0, 1))
    await recorder.flush("")
    assert (shown, await timeline.entries("")) == ([], ())


async def test_a_watcher_sees_every_entry_at_once(timeline, in_run):
    shown = []
    recorder = Recorder(timeline, ReplayClock(5), shown.append)
    recorder(AttemptStarted("trend", "trend", 1.0, 1))
    recorder.note("run-2", "RunStarted")
    assert [(entry.run_id, entry.kind) for entry in shown] == [("run-1", "AttemptStarted"), ("run-2", "RunStarted")]
    assert await timeline.entries("run-1") == ()


@pytest.mark.parametrize("error", [StorageError("full"), asyncio.CancelledError()])
async def test_entries_that_could_not_be_written_wait_for_the_next_time(error):
    broken = BrokenTimeline()
    broken.error = error
    recorder = Recorder(broken, ReplayClock(5))
    recorder.note("run-1", "one")
    try:
        await recorder.flush("run-1")
    except asyncio.CancelledError:
        assert isinstance(error, asyncio.CancelledError)
    recorder.note("run-1", "two")
    broken.error = None
    await recorder.flush("run-1")
    await recorder.flush("run-1")
    assert [entry.kind for entry in broken.kept] == ["one", "two"]


async def test_what_waits_is_bounded():
    broken = BrokenTimeline()
    shown = []
    recorder = Recorder(broken, ReplayClock(5), shown.append)
    for _ in range(10_050):
        recorder.note("run-1", "tick")
    broken.error = None
    await recorder.flush("run-1")
    assert (len(broken.kept), len(shown)) == (10_000, 10_050)
