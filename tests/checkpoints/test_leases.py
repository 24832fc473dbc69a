"""Leases: one owner at a time, taken over when it is dead or late, and fenced off when it does not know so."""

import asyncio
import os
import platform
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, select, update

from agents.clock import ReplayClock, SystemClock
from agents.errors import LeaseLost, RunLeased, StorageError
from checkpoints.database import Database
from checkpoints.leases import GIVEN_BACK, LEASE_S, RENEW_S, Lease, Leases, runs
from graph.resilience.virtual import VirtualClock
from tests.postgres import Server, missing

S = 1_000_000_000
NOW_NS = 1_767_225_600 * S  # 2026-01-01
ME = f"{platform.node()}:{os.getpid()}"


class Owner:
    """An application with a database connection and leases of its own, on the same database as the others."""

    def __init__(self, target, folder, clock, *, inline=True, **times):
        self.database = Database.open(target, inline=inline)
        self.leases = Leases(self.database, folder / "owners", clock, **times)

    def hold(self, run_id="run"):
        return self.leases.held(lambda connection: (self.leases.claim(connection, run_id), run_id))

    def write(self, run_id="run"):
        """A fenced write."""
        self.database.write(lambda connection: self.leases.check(connection, run_id))

    def row(self, run_id="run"):
        query = select(runs).where(runs.c.run_id == run_id)
        return self.database.read(lambda connection: connection.execute(query).one())

    def set(self, **values):
        self.database.write(lambda connection: connection.execute(update(runs).values(**values)))

    def register(self, *run_ids):
        rest = {"workflow": "trade", "symbol": "SIM", "as_of_ns": 0, "account": "paper", "status": "running"}
        rest |= {"fingerprint": "{}", "parameters": "{}", "created_ns": 0, "updated_ns": 0}
        rows = [{"run_id": run_id, "number": number} | rest for number, run_id in enumerate(run_ids, 1)]
        self.database.write(lambda connection: connection.execute(insert(runs), rows))

    def die(self):
        """As the operating system does it: the lock is let go, and everything else stays as it is."""
        os.close(self.leases._lock[0])
        self.leases._lock = None

    def close(self):
        self.database.close()
        self.leases.close()


@pytest.fixture
def clock():
    return ReplayClock(NOW_NS)


@pytest.fixture
def make(tmp_path, clock):
    owners = []

    def make(clock=clock, target=None, **options):
        owners.append(Owner(target or tmp_path / "holdfast.db", tmp_path, clock, **options))
        return owners[-1]

    yield make
    for owner in owners:
        owner.close()


@pytest.fixture
def two(make):
    """Two applications in this process, and a run that both know."""
    first, second = make(), make()
    first.register("run")
    return first, second


class TestClaim:
    async def test_a_claim_says_who_and_until_when_and_is_given_back(self, two, tmp_path):
        first, _ = two
        async with first.hold() as (lease, _):
            row = first.row()
            assert lease == Lease("run", 1)
            assert (row.owner, row.token, row.leased_until_ns) == (ME, 1, NOW_NS + 10 * S)
            assert _owners(tmp_path) == {Path(row.owner_lock)}
        row = first.row()
        assert (row.owner, row.owner_lock, row.token, row.leased_until_ns) == ("", "", 1, 0)

    async def test_each_claim_has_a_token_of_its_own(self, two):
        tokens = []
        for owner in (*two, *two):
            async with owner.hold() as (lease, _):
                tokens.append(lease.token)
        assert tokens == [1, 2, 3, 4]

    async def test_a_run_that_is_held_is_refused_with_who_until_when_and_what_to_do(self, two):
        first, second = two
        async with first.hold():
            with pytest.raises(RunLeased) as caught:
                async with second.hold():
                    pass
        text = str(caught.value)
        assert f"run run is being worked on by {ME}, whose lease lasts until 2026-01-01T00:00:10+00:00" in text
        assert "nothing was started; wait for it, or stop that process, and resume again" in text
        assert first.row().token == 1

    async def test_once_at_a_time_also_by_the_same_owner_however_late_it_is(self, two, clock):
        first, _ = two
        async with first.hold():
            clock.advance_to(NOW_NS + 60 * S)
            with pytest.raises(RunLeased):
                async with first.hold():
                    pass
            first.write()

    async def test_it_is_given_back_with_an_error_and_with_a_cancellation(self, two):
        first, second = two
        with pytest.raises(ZeroDivisionError):
            async with first.hold():
                raise ZeroDivisionError
        begun = asyncio.Event()

        async def work():
            async with first.hold():
                begun.set()
                await asyncio.Event().wait()

        task = asyncio.ensure_future(work())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with second.hold() as (lease, _):
            assert lease.token == 3

    async def test_a_group_of_errors_stays_one(self, two):
        first, _ = two
        with pytest.raises(ExceptionGroup, match="mine"):
            async with first.hold():
                raise ExceptionGroup("mine", [ValueError(), KeyError()])

    async def test_who_holds_what(self, make):
        first, second = make(), make()
        first.register("a", "b", "c")
        async with first.hold("a"), second.hold("b"):
            assert await first.leases.held_runs() == await second.leases.held_runs() == {"a", "b"}
        assert await first.leases.held_runs() == frozenset()


class TestTakeover:
    """What a lease's end and a free lock say, and what they do not."""

    async def test_a_dead_owner_on_this_machine_is_not_waited_for(self, two):
        first, second = two
        async with first.hold():
            assert await second.leases.held_runs() == {"run"}
            first.die()
            assert await second.leases.held_runs() == frozenset()
            async with second.hold() as (lease, _):
                assert lease.token == 2

    async def test_one_elsewhere_is_waited_for_until_its_lease_has_run_out(self, two, clock):
        first, second = two
        with suppress(LeaseLost):
            async with first.hold():
                first.die()
                first.set(owner="elsewhere:1")
                clock.advance_to(NOW_NS + 10 * S - 1)
                with pytest.raises(RunLeased, match="elsewhere:1"):
                    async with second.hold():
                        pass
                clock.advance_to(NOW_NS + 10 * S)
                async with second.hold():
                    assert second.row().owner == ME

    async def test_a_lock_file_that_is_gone_or_cannot_be_read_proves_nothing(self, two):
        first, second = two
        async with first.hold():
            first.leases._lock[1].unlink()
            assert await second.leases.held_runs() == {"run"}
            for path in ("", "no/such/file", "\0"):
                first.set(owner_lock=path)
                assert await second.leases.held_runs() == {"run"}

    async def test_looking_at_a_pipe_does_not_wait_for_somebody_to_write_to_it(self, two, tmp_path):
        first, second = two
        os.mkfifo(tmp_path / "pipe")
        async with first.hold():
            first.set(owner_lock=str(tmp_path / "pipe"))
            await second.leases.held_runs()

    async def test_a_paused_owner_is_taken_over_though_it_has_its_lock(self, two, clock):
        first, second = two
        async with first.hold():
            clock.advance_to(NOW_NS + 10 * S)
            assert await second.leases.held_runs() == frozenset()
            async with second.hold() as (lease, _):
                assert lease.token == 2
                with pytest.raises(LeaseLost):
                    first.write()
                second.write()
            with pytest.raises(LeaseLost):  # it is over, and the first is still not its owner
                first.write()
            async with second.hold():  # the first lock is still held, and is nobody's evidence any more
                second.die()
            assert (first.row().token, first.row().owner) == (3, "")

    async def test_what_the_old_owner_gives_back_is_not_the_new_ones(self, two, clock):
        first, second = two
        holding = first.hold()
        await holding.__aenter__()
        clock.advance_to(NOW_NS + 10 * S)
        async with second.hold():
            await holding.__aexit__(None, None, None)
            assert (second.row().owner, second.row().token) == (ME, 2)
            second.write()

    def test_a_killed_process_is_not_waited_for_and_a_stopped_one_is(self, make, tmp_path):
        here = make(SystemClock(), inline=False)
        here.register("run")
        with _holder(tmp_path) as child:
            assert child.stdout.readline() == "held\n"
            child.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, child.pid, os.WSTOPPED)
            with pytest.raises(RunLeased, match=f":{child.pid}, whose lease lasts until 20"):
                asyncio.run(_claimed(here))
            child.send_signal(signal.SIGKILL)
            child.wait()
            assert asyncio.run(_claimed(here)) == 2

    def test_a_forked_child_does_not_keep_what_its_parent_held(self, make, tmp_path):
        """An analyst may fork; the child must not look like its parent when that one is dead."""
        here = make(SystemClock(), inline=False)
        here.register("run")
        with _holder(tmp_path, "if os.fork() == 0:\n            sys.stdin.read(); os._exit(0)\n        ") as parent:
            assert parent.stdout.readline() == "held\n"
            parent.send_signal(signal.SIGKILL)
            parent.wait()
            assert asyncio.run(_claimed(here)) == 2, "the child still holds it"
            parent.stdin.close()


async def _claimed(owner):
    async with owner.hold() as (lease, _):
        return lease.token


def _holder(folder, extra=""):
    """A process that holds a run until it is killed."""
    script = (
        "import asyncio, os, signal, sys\n"
        "from pathlib import Path\n"
        "from agents.clock import SystemClock\n"
        "from checkpoints.database import Database\n"
        "from checkpoints.leases import Leases\n"
        "async def main(folder):\n"
        "    database = Database.open(folder / 'holdfast.db')\n"
        "    leases = Leases(database, folder / 'owners', SystemClock())\n"
        "    async with leases.held(lambda connection: (leases.claim(connection, 'run'), None)):\n"
        f"        {extra}print('held', flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main(Path(sys.argv[1])))\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


class TestFence:
    async def test_an_unknown_thread_is_nobodys_business(self, two):
        first, _ = two
        first.write("somebody-elses-thread")

    async def test_a_registered_run_is_written_by_nobody_who_does_not_hold_it(self, two):
        first, second = two
        with pytest.raises(LeaseLost, match="run run is not held by this process; nothing more was written"):
            first.write()
        async with first.hold():
            first.write()
            with pytest.raises(LeaseLost, match="is not held by this process"):
                second.write()
        with pytest.raises(LeaseLost):
            first.write()

    async def test_it_says_who_has_it_now(self, two, clock):
        first, second = two
        async with first.hold():
            clock.advance_to(NOW_NS + 10 * S)
            async with second.hold():
                with pytest.raises(LeaseLost, match=f"run run was taken over by {ME}; nothing more was written"):
                    first.write()
            with pytest.raises(LeaseLost, match="taken over by another process, which is done with it"):
                first.write()

    async def test_a_run_that_was_deleted_is_not_written_to(self, two):
        first, _ = two
        async with first.hold():
            first.database.write(lambda connection: connection.execute(delete(runs)))
            with pytest.raises(LeaseLost, match="not in the registry any more"):
                first.write()

    async def test_what_was_written_before_in_the_same_transaction_is_undone(self, two):
        first, _ = two

        def work(connection):
            connection.execute(update(runs).values(error="changed"))
            first.leases.check(connection, "run")

        with pytest.raises(LeaseLost):
            first.database.write(work)
        assert first.row().error == ""

    async def test_a_row_is_changed_under_its_own_lease_only(self, two, clock):
        first, second = two

        def changed(owner, lease, error):
            return owner.database.write(lambda connection: owner.leases.update(connection, lease, {"error": error}))

        async with first.hold() as (old, _):
            assert changed(first, old, "a")
            clock.advance_to(NOW_NS + 10 * S)
            async with second.hold() as (new, _):
                assert not changed(first, old, "b")
                assert changed(second, new, "c")
            assert not changed(second, new, "d"), "it was given back"
        assert first.row().error == "c"


@pytest.fixture(scope="module")
def server():
    started = Server()
    yield started
    started.stop()


def _file(tmp_path, request):
    return tmp_path / "holdfast.db"


def _server(tmp_path, request):
    return request.getfixturevalue("server").fresh()


TARGETS = [
    pytest.param(_file, id="sqlite"),
    pytest.param(_server, id="postgres", marks=pytest.mark.skipif(bool(missing()), reason=str(missing()))),
]


@pytest.mark.parametrize("target", TARGETS)
class TestTwoConnections:
    """A claim and a fenced write at the same moment: one of them waits for the other's commit."""

    @pytest.fixture
    def pair(self, make, target, tmp_path, request):
        where = target(tmp_path, request)
        pair = [make(SystemClock(), target=where, inline=False, lease_s=0.05, renew_s=0.04) for _ in range(2)]
        pair[0].register("run")
        return pair

    def test_a_claim_waits_for_a_write_that_was_let_through(self, pair):
        first, second = pair
        holding = first.leases
        holding._tokens["run"] = 0  # as if it had claimed, and were paused since
        inside, go, order = threading.Event(), threading.Event(), []

        def write(connection):
            holding.check(connection, "run")
            inside.set()
            assert go.wait(10)
            order.append("written")

        def claim():
            asyncio.run(_claimed(second))
            order.append("claimed")

        writer = threading.Thread(target=partial(first.database.write, write))
        claimer = threading.Thread(target=claim)
        writer.start()
        assert inside.wait(10)
        claimer.start()
        claimer.join(0.3)
        assert claimer.is_alive(), "it did not wait"
        go.set()
        writer.join()
        claimer.join()
        assert order == ["written", "claimed"]
        with pytest.raises(LeaseLost):
            first.write()

    def test_a_write_waits_for_a_claim_and_is_refused(self, pair):
        first, second = pair
        first.leases._tokens["run"] = 0
        second.leases._lock = second.leases._locked()
        inside, go, refused = threading.Event(), threading.Event(), []

        def claim(connection):
            second.leases.claim(connection, "run")
            inside.set()
            assert go.wait(10)

        def write():
            try:
                first.write()
            except LeaseLost as error:
                refused.append(error)

        claimer = threading.Thread(target=partial(second.database.write, claim))
        writer = threading.Thread(target=write)
        claimer.start()
        assert inside.wait(10)
        writer.start()
        writer.join(0.3)
        assert writer.is_alive(), "it did not wait"
        go.set()
        claimer.join()
        writer.join()
        assert len(refused) == 1

    def test_of_twenty_claims_at_once_one_has_it(self, pair):
        owners = [pair[0]] * 10 + [pair[1]] * 10
        began = threading.Barrier(len(owners))

        async def one(owner):
            began.wait()
            async with owner.hold():
                return await asyncio.to_thread(owner.row)

        def outcome(owner, outcomes):
            try:
                outcomes.append(asyncio.run(one(owner)).token)
            except RunLeased as error:
                outcomes.append(error)

        for owner in pair:
            owner.leases._lease_s, owner.leases._renew_s = 60.0, 20.0
        outcomes = []
        threads = [threading.Thread(target=outcome, args=(owner, outcomes)) for owner in owners]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        tokens = [each for each in outcomes if isinstance(each, int)]
        assert tokens
        assert len(set(tokens)) == len(tokens), "two had it with one token"
        assert pair[0].row().token == len(tokens)


@pytest.mark.skipif(bool(missing()), reason=str(missing()))
class TestServer:
    def test_a_fenced_row_is_locked_against_whoever_would_change_it(self, make, server):
        """Not only against our own writes, which wait for each other anyhow."""
        import psycopg

        url = server.fresh()
        first = make(target=url)
        first.register("run")
        first.leases._tokens["run"] = 0

        def work(connection):
            first.leases.check(connection, "run")
            with (
                psycopg.connect(f"{url}%20-clock_timeout%3D50") as other,
                pytest.raises(psycopg.errors.LockNotAvailable),
            ):
                other.execute("UPDATE runs SET token = 1")

        first.database.write(work)

    async def test_a_lease_is_measured_by_the_servers_clock(self, make, server):
        url = server.fresh()
        first, second = make(ReplayClock(0), target=url), make(ReplayClock(NOW_NS * 2), target=url)
        first.register("run")
        ((now_ns,),) = server.run("SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000000 AS BIGINT)")
        async with first.hold():
            assert now_ns + 9 * S < first.row().leased_until_ns < now_ns + 20 * S
            with pytest.raises(RunLeased):
                async with second.hold():
                    pass


class Story:
    """Two applications on virtual time."""

    def __init__(self, folder, clock):
        self.clock = clock
        self.first, self.second = (Owner(folder / "holdfast.db", folder, self) for _ in range(2))
        self.first.register("run")

    def now_ns(self):
        return round(self.clock.now * S)

    def left_s(self):
        return self.first.row().leased_until_ns / S - self.clock.now

    def close(self):
        self.first.close()
        self.second.close()


@pytest.fixture
def story(tmp_path):
    with VirtualClock(seed=3) as clock:
        story = Story(tmp_path, clock)
        yield story
        story.close()


async def _forever():
    await asyncio.sleep(1000)
    pytest.fail("nobody ended it")


class TestRenewal:
    def test_a_lease_is_renewed_for_as_long_as_the_work_lasts(self, story):
        least = []

        async def work():
            async with story.first.hold():
                for _ in range(600):
                    await asyncio.sleep(0.1)
                    least.append(story.left_s())
                    with pytest.raises(RunLeased):
                        async with story.second.hold():
                            pass

        story.clock.run(work())
        assert LEASE_S - RENEW_S - 0.2 < min(least) < max(least) <= LEASE_S

    def test_who_is_taken_over_is_stopped_at_the_next_renewal(self, story):
        async def work():
            async def held():
                async with story.first.hold():
                    taken.set()
                    await _forever()

            with pytest.raises(LeaseLost, match="taken over"):
                await held()
            return story.clock.now

        async def rival():
            await taken.wait()
            story.first.set(leased_until_ns=1)  # as if the first had been paused for that long
            async with story.second.hold():
                await asyncio.sleep(60)
                assert story.second.row().token == 2

        async def both():
            async with asyncio.TaskGroup() as group:
                stopped = group.create_task(work())
                group.create_task(rival())
            return stopped.result()

        taken = asyncio.Event()
        began = story.clock.now
        assert story.clock.run(both()) - began < RENEW_S + 0.5

    def test_work_that_is_lost_and_swallows_its_cancellation_has_no_result(self, story):
        async def work():
            async with story.first.hold():
                story.first.set(token=7)
                with suppress(asyncio.CancelledError):
                    await _forever()

        with pytest.raises(LeaseLost):
            story.clock.run(work())

    def test_a_database_that_fails_for_less_than_a_lease_is_outlived(self, story):
        async def work():
            async with story.first.hold():
                await asyncio.sleep(1)
                with _failing(story.first.database, StorageError("no room")):
                    await asyncio.sleep(8)
                await asyncio.sleep(1)
                assert story.left_s() > LEASE_S - RENEW_S
                await asyncio.sleep(60)
                story.first.write()

        story.clock.run(work())

    @pytest.mark.parametrize("trouble", [StorageError("no room left"), None], ids=["fails", "hangs"])
    def test_one_that_fails_for_longer_ends_the_work_before_the_lease_ends(self, story, trouble):
        async def work():
            async with story.first.hold():
                with _failing(story.first.database, trouble):
                    await _forever()

        began = story.clock.now
        with pytest.raises(LeaseLost, match=r"could not be renewed for 10 s .* resume it when") as caught:
            story.clock.run(work())
        assert ("no room left" in str(caught.value)) == (trouble is not None)
        assert story.clock.now - began == pytest.approx(LEASE_S, abs=0.1)
        assert story.first.row().owner == "", "what could be given back was given back"

    def test_a_database_that_hangs_does_not_hold_up_the_end(self, story):
        async def work():
            async with story.first.hold():
                story.first.database.awrite = lambda _: _forever()

        began = story.clock.now
        story.clock.run(work())
        assert story.clock.now - began == pytest.approx(RENEW_S, abs=0.1)
        with pytest.raises(LeaseLost):
            story.first.write()

    def test_who_wakes_up_late_and_was_not_missed_goes_on(self, story):
        async def work():
            async with story.first.hold():
                await asyncio.sleep(1)
                story.clock._loop._now += 100  # the process was paused
                assert story.left_s() < 0
                await asyncio.sleep(1)
                assert story.left_s() > 8
                story.first.write()

        story.clock.run(work())

    def test_nothing_is_renewed_once_it_was_ended(self, story):
        async def work():
            async with story.first.hold() as (lease, _):
                story.first.leases.end(lease)
                story.first.set(owner="", leased_until_ns=0)
                await asyncio.sleep(60)
                assert story.first.row().leased_until_ns == 0

        story.clock.run(work())


@contextmanager
def _failing(database, error):
    """While it lasts the database's writes raise `error`, or, without one, never end."""

    async def awrite(work):
        if error is None:
            await _forever()
        raise error

    database.awrite = awrite
    try:
        yield
    finally:
        del database.awrite


class Blocked:
    """While it lasts this database's file is locked against everybody else."""

    def __init__(self, database):
        self._connection = sqlite3.connect(database._name, isolation_level=None)

    def __enter__(self):
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, *_):
        self._connection.close()


def _owners(folder):
    return set((folder / "owners").iterdir())


class TestLockFiles:
    async def test_each_owner_has_one_and_removes_it(self, two, tmp_path):
        first, second = two
        async with first.hold():
            (mine,) = _owners(tmp_path)
            assert mine.stat().st_mode & 0o077 == 0
            assert (tmp_path / "owners").stat().st_mode & 0o077 == 0
        async with second.hold():
            assert len(_owners(tmp_path)) == 2
        first.leases.close()
        second.leases.close()
        assert _owners(tmp_path) == set()
        async with first.hold():
            assert len(_owners(tmp_path)) == 1

    async def test_one_who_could_not_give_back_is_known_to_be_gone_when_it_is(self, two):
        """As with a full disk: the row says that the run is held, for as long as the lease would last."""
        first, second = two
        with ExitStack() as trouble:
            async with first.hold():
                trouble.enter_context(_failing(first.database, StorageError("full")))
        with pytest.raises(RunLeased):  # it is there still, and may yet
            await _claimed(second)
        first.leases.close()
        async with second.hold() as (lease, _):
            assert lease.token == 2

    async def test_one_who_is_cancelled_while_it_claims_is_known_to_be_gone_too(self, make):
        first, second = make(inline=False), make()
        first.register("run")
        started = asyncio.Event()

        async def claim():
            started.set()
            async with first.hold():
                pytest.fail("it was cancelled before")

        with Blocked(second.database):
            task = asyncio.create_task(claim())
            await started.wait()
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        first.database.close()  # what waited is committed
        assert second.row().leased_until_ns > NOW_NS
        first.leases.close()
        async with second.hold() as (lease, _):
            assert lease.token == 2

    async def test_what_was_given_back_by_others_words_leaves_no_file(self, two, tmp_path):
        first, _ = two
        async with first.hold() as (lease, _):
            first.leases.end(lease)
            first.database.write(lambda connection: first.leases.update(connection, lease, GIVEN_BACK))
            first.leases.returned(lease)
        first.leases.close()
        assert _owners(tmp_path) == set()

    async def test_who_only_looks_makes_none(self, two, tmp_path):
        assert await two[0].leases.held_runs() == frozenset()
        assert not (tmp_path / "owners").exists()

    async def test_what_the_killed_left_is_removed_when_it_is_old(self, make, tmp_path):
        first, second, third = (make() for _ in range(3))
        first.register("a", "b")
        async with first.hold("a"):
            first.die()
        async with second.hold("b"):
            assert len(_owners(tmp_path)) == 2
            for path in _owners(tmp_path):
                os.utime(path, ns=(NOW_NS - 2 * 86_400 * S,) * 2)
            async with third.hold("a"):
                assert _owners(tmp_path) == {second.leases._lock[1], third.leases._lock[1]}

    async def test_one_that_worked_for_days_is_still_found_dead(self, make, tmp_path):
        first, second = make(), make()
        first.register("a", "b")
        async with first.hold("a"):
            os.utime(first.leases._lock[1], ns=(NOW_NS - 2 * 86_400 * S,) * 2)
            async with first.hold("b"):
                first.die()
                async with second.hold("b"):
                    assert len(_owners(tmp_path)) == 2, "what says that the other run is free was removed"

    async def test_a_folder_that_cannot_be_used_claims_nothing(self, two, tmp_path):
        first, _ = two
        (tmp_path / "owners").write_text("in the way")
        with pytest.raises(StorageError, match=r"cannot be used .* nothing was started"):
            async with first.hold():
                pass
        assert first.row().token == 0

    async def test_any_host_name_makes_a_file_name(self, two, monkeypatch):
        monkeypatch.setattr(platform, "node", lambda: "../über host")
        first, second = two
        async with first.hold():
            assert first.row().owner == f"../über host:{os.getpid()}"
            assert await second.leases.held_runs() == {"run"}
            first.die()
            assert await second.leases.held_runs() == frozenset()
