"""The recorder: what guards tell is kept by run, and trouble with keeping it stops nobody."""

import asyncio
import json
from collections import Counter

import pytest

from agents.clock import ReplayClock
from agents.errors import StorageError
from checkpoints.database import Database
from checkpoints.events import Entry, Timeline
from graph.resilience import AttemptFailed, AttemptStarted, Breaker, Fault, FaultAction, FaultPlan, Guard, GuardEvent
from graph.resilience.virtual import VirtualClock
from graph.telemetry import CURRENT_RUN, FailureLog, Recorder


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


async def test_what_happens_outside_of_a_run_is_shown_and_in_no_timeline(timeline):
    shown = []
    recorder = Recorder(timeline, ReplayClock(5), shown.append)
    recorder(AttemptStarted("broker", "broker", 1.0, 1))
    await recorder.flush("")
    assert [(entry.run_id, entry.subject) for entry in shown] == [("", "broker")]
    assert await timeline.entries("") == ()


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


async def test_what_waits_is_bounded_and_what_is_lost_is_counted_and_told():
    broken = BrokenTimeline()
    shown = []
    recorder = Recorder(broken, ReplayClock(5), shown.append)
    for _ in range(10_030):
        recorder.note("run-1", "tick")
    await recorder.flush("run-1")
    for _ in range(20):
        recorder.note("run-1", "tick")
    assert len(shown) == 10_050, "who watches sees them all"
    broken.error = None
    await recorder.flush("run-1")
    await recorder.flush("run-1")
    assert [entry.kind for entry in broken.kept] == ["tick"] * 10_000 + ["EntriesLost"]
    assert (broken.kept[-1].detail, shown[-1]) == ({"count": 50}, broken.kept[-1])


class TestFailureLog:
    def test_every_kind_of_event_is_either_fine_or_logged(self, tmp_path):
        kinds = {kind.__name__ for kind in GuardEvent.__subclasses__()}
        fine = {"AttemptStarted", "AttemptSucceeded", "QuorumReached"}
        assert fine < kinds
        log = FailureLog(tmp_path / "failures.log")
        for kind in sorted(kinds | {"RunStarted", "RunFinished", "RunFailed", "EntriesLost"}):
            log(Entry("run-1", 5, kind, "trend"))
        log.close()
        logged = {line["event"] for line in lines(tmp_path)}
        assert logged == (kinds - fine) | {"RunFailed", "EntriesLost"}

    async def test_a_failure_outside_of_any_run_is_in_the_log(self, tmp_path):
        log = FailureLog(tmp_path / "failures.log")
        recorder = Recorder(BrokenTimeline(), ReplayClock(5), log)
        with pytest.raises(ConnectionError):
            await Guard("broker", retry=None, observers=[recorder])(fails)
        log.close()
        (line,) = lines(tmp_path)
        assert (line["event"], line["subject"], "run_id" in line) == ("AttemptFailed", "broker", False)


async def fails():
    raise ConnectionError("no broker")


def lines(folder):
    return [json.loads(line) for line in (folder / "failures.log").read_text().splitlines()]


class Strikes(FaultPlan):
    """A plan that keeps its own account of what it did, to compare the records with."""

    def __init__(self, *given, **more):
        super().__init__(*given, **more)
        self.struck = []

    def draw(self, link, now):
        found = super().draw(link, now)
        self.struck += [(link, self._calls[link], str(fault.action)) for fault in found]
        return found


class Flaky(Timeline):
    """A timeline whose database fails every third time."""

    calls = 0

    async def append(self, entries):
        self.calls += 1
        if self.calls % 3 == 0:
            raise StorageError("database is locked")
        await super().append(entries)


def test_of_thousands_of_failures_each_is_in_the_timeline_and_in_the_log(tmp_path):
    """Errors, hangs and nonsense, in several runs at once, behind guards that all of them share."""
    agents = [f"agent-{number}" for number in range(8)]
    runs = [f"run-{number}" for number in range(10)]
    plan = Strikes(
        [
            Fault("agent-*", FaultAction.ERROR, rate=0.3),
            Fault("agent-[0-3]", FaultAction.CORRUPT, rate=0.1),
            Fault("agent-[4-7]", FaultAction.HANG, rate=0.05),
        ],
        seed=7,
    )
    calls = []

    async def answer(number):
        await asyncio.sleep(0.01)
        calls.append(number)
        return number

    async def work(run_id, guards, recorder):
        CURRENT_RUN.set(run_id)
        for turn in range(60):
            await asyncio.sleep(0.5)
            await asyncio.gather(*(guard(answer, turn) for guard in guards), return_exceptions=True)
            await recorder.flush(run_id)

    async def main(clock):
        with Database.open(tmp_path / "timeline.db", inline=True) as database:
            timeline, log = Flaky(database), FailureLog(tmp_path / "failures.log")
            recorder = Recorder(timeline, ReplayClock(5), log)
            guards = [
                Guard(
                    name,
                    attempt_timeout=2.0,
                    breaker=Breaker(open_seconds=1.0, open_growth=1.0),
                    faults=plan,
                    observers=[recorder],
                    accept=lambda value: value in range(60),
                )
                for name in agents
            ]
            async with asyncio.TaskGroup() as group:
                for run_id in runs:
                    group.create_task(work(run_id, guards, recorder))
            for run_id in runs:
                for _ in range(2):  # the database fails at most once in a row
                    await recorder.flush(run_id)
            log.close()
            return [entry for run_id in runs for entry in await timeline.entries(run_id)]

    with VirtualClock(7) as clock:
        entries = clock.run(main(clock))
    logged = lines(tmp_path)
    for records in (
        [(entry.kind, entry.subject, entry.detail) for entry in entries],
        [(line["event"], line["subject"], line) for line in logged],
    ):
        told = Counter((subject, detail["action"]) for kind, subject, detail in records if kind == "FaultInjected")
        failed = [(subject, detail) for kind, subject, detail in records if kind == "AttemptFailed"]
        # An error ends the call before the next fault of the plan is reached: what it hid did not happen.
        happened = Counter(first_of(plan.struck))
        assert told == happened
        assert sum(happened.values()) > 2000
        named = [detail["error"] for _, detail in failed if detail["error_type"] == "InjectedFault"]
        errors = [(link, count) for link, count, action in plan.struck if action == "error"]
        expected = {f"the fault plan failed call {count} of {link!r}; it was not made" for link, count in errors}
        assert len(named) == len(errors) == len(expected)
        assert set(named) == expected, "each by its own number"
        kinds = Counter(detail["error_type"] for _, detail in failed)
        timed_out = sum(kind == "TimedOut" for kind, _, _ in records)
        assert kinds["AgentTimeout"] == timed_out == sum(n for (_, action), n in happened.items() if action == "hang")
        assert kinds["AgentUnavailable"] == sum(n for (_, action), n in happened.items() if action == "corrupt")
        assert sum(kinds.values()) == sum(happened.values())
        assert {"BreakerOpened", "BreakerClosed", "RetryScheduled", "CallRejected"} <= {kind for kind, _, _ in records}


def first_of(struck):
    """The fault that was acted on, of every call that was struck."""
    seen = {}
    for link, count, action in struck:
        seen.setdefault((link, count), action)
    return [(link, action) for (link, _), action in seen.items()]
