"""Retention: what goes, what stays and why, what is never deleted, and who may come in between."""

import asyncio
from decimal import Decimal

import pytest
from sqlalchemy import select, update

from agents.clock import ReplayClock
from agents.domain import OrderStatus
from agents.errors import CheckpointNotFound, LeaseLost, StorageError
from checkpoints import imported, store
from checkpoints.database import Database
from checkpoints.events import Entry, Timeline
from checkpoints.imported import Origin
from checkpoints.leases import runs
from checkpoints.ledger import BrokerReport
from checkpoints.retention import Retention
from checkpoints.runs import ResumePoint, RunStatus
from tests.checkpoints.homes import PARAMETERS, SHAPE, Home
from tests.checkpoints.test_ledger import allow, deny, filled, intent

DAY_NS = 86_400_000_000_000
WEEK_NS = 7 * DAY_NS


@pytest.fixture
def homes(address, tmp_path):
    clock = ReplayClock(1_000)
    opened = Home(address, tmp_path, clock), Home(address, tmp_path, clock)
    yield opened
    for each in opened:
        each.close()


@pytest.fixture
def home(homes):
    return homes[0]


def retention(home, **more):
    return Retention(home.database, home.leases, home.folder, home.clock, **more)


async def prune(home, age_ns=WEEK_NS, **more):
    return await retention(home).prune(age_ns, **more)


def later(home, by_ns=WEEK_NS):
    home.clock.advance_to(home.clock.now_ns() + by_ns)


async def ordered(home, run_id, status):
    """An order of the run, as far as this status."""
    await home.ledger.open_account("paper", Decimal(1_000))
    async with home.manager.claim(run_id):
        wanted = intent(run_id)
        await home.ledger.reserve(wanted, deny if status is OrderStatus.DENIED else allow)
        if status not in {OrderStatus.DENIED, OrderStatus.PENDING}:
            await home.ledger.mark_sending(wanted.intent_id, lambda *_: allow(None)[0])
    if status is OrderStatus.FILLED:
        await home.ledger.record(wanted.intent_id, filled(wanted, f"t-{run_id}"))
    elif status not in {OrderStatus.DENIED, OrderStatus.PENDING, OrderStatus.SENDING}:
        await home.ledger.record(wanted.intent_id, BrokerReport(status))


def stored(home, run_id):
    """Whether anything is saved of the run."""
    tables = (store.checkpoints, store.values, store.writes)
    queries = [select(table.c.thread_id).where(table.c.thread_id == run_id).limit(1) for table in tables]
    return home.database.read(lambda all_: [all_.execute(query).first() is not None for query in queries])


class TestWhatGoes:
    async def test_what_was_saved_goes_and_the_row_and_what_was_traded_stay(self, home):
        await Timeline(home.database).append([Entry("trade-SIM-20130301T000000Z-1", 1, "RunStarted")])
        run = await home.played()
        await ordered(home, run.run_id, OrderStatus.FILLED)
        (home.folder / "runs" / run.run_id / "report.md").write_text("bought")
        before = home.tables()
        portfolio = await home.ledger.portfolio("paper")
        later(home)

        pruned = await prune(home)

        (size,) = pruned.runs.values()
        assert (list(pruned.runs), pruned.kept) == ([run.run_id], {})
        assert size > 6
        assert stored(home, run.run_id) == [False] * 3
        after = home.tables()
        assert {name for name in before if before[name] != after[name]} == {
            "runs",
            "saved_checkpoints",
            "saved_values",
            "saved_writes",
            "timeline",
        }
        assert await home.ledger.portfolio("paper") == portfolio
        left = await home.manager.run(run.run_id)
        assert (left.status, left.parameters, left.fingerprint) == (RunStatus.PRUNED, {}, {})
        assert await home.manager.runs() == ()
        assert not (home.folder / "runs" / run.run_id).exists()
        assert (await home.ledger.orders(run.run_id))[0].status is OrderStatus.FILLED

    async def test_its_id_is_not_given_to_another(self, home):
        for number in (1, 2, 3):
            assert (await home.played()).run_id.endswith(f"-{number}")
            later(home)
            await prune(home)

    @pytest.mark.parametrize("status", [RunStatus.FINISHED, RunStatus.FAILED])
    async def test_only_what_ended_long_enough_ago(self, home, status):
        old = await home.played(status=status)
        later(home, WEEK_NS - 1)
        young = await home.played(status=status)
        assert (await prune(home)).runs == {}
        later(home, 1)
        assert list((await prune(home)).runs) == [old.run_id]
        assert await home.manager.runs() == (young,)
        assert (await home.state(young.run_id)).values["text"] == "xxx"

    async def test_many_runs(self, home):
        ids = {(await home.played(f"S{number}")).run_id for number in range(5)}
        later(home)
        assert (await prune(home)).runs.keys() == ids
        assert (await prune(home)).runs == {}
        assert len(home.tables()["runs"]) == 5
        assert home.tables()["saved_checkpoints"] == []

    async def test_somebody_elses_threads_stay(self, home):
        await home.play("theirs", {"notes": [], "text": ""})
        later(home)
        await prune(home, 0)
        assert stored(home, "theirs") == [True] * 3

    async def test_a_dry_run_says_the_same_and_deletes_nothing(self, home):
        run = await home.played()
        (home.folder / "runs" / run.run_id / "report.md").write_text("bought")
        await home.played("B", status=RunStatus.STOPPED)
        later(home)
        before = home.tables()
        would = await prune(home, dry_run=True)
        assert home.tables() == before
        assert (home.folder / "runs" / run.run_id / "report.md").read_text() == "bought"
        done = await prune(home)
        assert (would.runs, would.kept) == (done.runs, done.kept)

    async def test_an_imported_run_goes_by_the_time_of_its_import(self, home):
        run = await home.played(status=RunStatus.STOPPED)

        def take(connection):
            row = update(runs).where(runs.c.run_id == run.run_id)
            connection.execute(row.values(status=RunStatus.IMPORTED, updated_ns=DAY_NS))
            imported.keep(connection, run.run_id, Origin("stopped", DAY_NS, "[]"))

        home.database.write(take)
        later(home)
        assert (await prune(home)).runs == {}
        later(home, DAY_NS)
        assert list((await prune(home)).runs) == [run.run_id]
        assert home.tables()["imported_runs"] == []


class TestWhatStays:
    async def test_unfinished_and_held(self, homes):
        home, other = homes
        stopped = await home.played(status=RunStatus.STOPPED)
        async with home.beginning("B"):
            pass  # interrupted
        ended = await home.played("C")
        later(home)
        async with home.manager.claim(ended.run_id), home.beginning("D"):
            pruned = await prune(other, 0)
        assert (pruned.runs, pruned.kept) == ({}, {"unfinished": 2, "being worked on": 2})
        assert all(stored(home, stopped.run_id))
        assert all(stored(home, ended.run_id))

    @pytest.mark.parametrize("status", list(OrderStatus))
    async def test_an_order_whose_fate_is_open(self, home, status):
        run = await home.played()
        await ordered(home, run.run_id, status)
        later(home)
        open_ = status in {OrderStatus.PENDING, OrderStatus.SENDING, OrderStatus.OPEN, OrderStatus.UNKNOWN}
        pruned = await prune(home)
        assert (len(pruned.runs), pruned.kept) == ((0, {"with an order whose fate is open": 1}) if open_ else (1, {}))

    async def test_what_a_fork_that_stays_came_from(self, home):
        origin = await home.played()
        middle = await home.forked((await home.rows(origin.run_id))[1].checkpoint_id)
        other = await home.forked((await home.rows(origin.run_id))[1].checkpoint_id)
        later(home)
        newest = await home.forked((await home.rows(middle.run_id))[3].checkpoint_id)
        pruned = await prune(home)
        assert list(pruned.runs) == [other.run_id]
        assert pruned.kept == {"that a fork which stays came from": 2}
        later(home)
        pruned = await prune(home)
        assert set(pruned.runs) == {newest.run_id, middle.run_id, origin.run_id}

    async def test_a_fork_goes_on_without_what_it_came_from(self, home):
        origin = await home.played()
        point = await home.manager.locate((await home.rows(origin.run_id))[2].checkpoint_id)
        async with home.manager.fork(point, fingerprint=SHAPE, parameters=PARAMETERS, dry=True) as hold:
            home.saver.delete_thread(origin.run_id)
            assert (await home.play(hold.run.run_id))["text"] == "xxx"


class TestMeanwhile:
    """What happens between the plan and the deed."""

    async def meanwhile(self, home, happens):
        """Prune, and let something happen when it is known what would go."""
        keeper = retention(home)
        plan = keeper._plan

        def planned(connection, until_ns):
            found = plan(connection, until_ns)
            happening.append(asyncio.run_coroutine_threadsafe(happens(), loop))
            happening[0].result(30)
            return found

        happening, loop = [], asyncio.get_running_loop()
        keeper._plan = planned
        return await keeper.prune(WEEK_NS)

    async def test_a_run_that_is_resumed_stays(self, homes):
        home, other = homes
        run = await home.played(status=RunStatus.FAILED)
        later(home)
        holding = other.manager.claim(run.run_id)
        pruned = await self.meanwhile(home, holding.__aenter__)
        assert pruned.runs == {}
        assert (await other.play(run.run_id))["text"] == "xxx"
        await holding.__aexit__(None, None, None)
        assert list((await prune(home)).runs) == [run.run_id]

    async def test_a_run_that_was_gone_on_with_stays(self, homes):
        home, other = homes
        run = await home.played(status=RunStatus.FAILED)
        later(home)

        async def resume():
            async with other.manager.claim(run.run_id) as hold:
                await other.manager.mark(hold, RunStatus.FINISHED)

        assert (await self.meanwhile(home, resume)).runs == {}
        assert all(stored(home, run.run_id))

    async def test_a_run_that_is_forked_stays(self, homes):
        home, other = homes
        run = await home.played()
        at = (await home.rows(run.run_id))[2].checkpoint_id
        later(home)
        assert (await self.meanwhile(home, lambda: other.forked(at))).runs == {}
        assert all(stored(home, run.run_id))

    async def test_who_comes_too_late_is_told(self, homes):
        home, other = homes
        run = await home.played()
        point = ResumePoint(run, (await home.rows(run.run_id))[2].checkpoint_id)
        later(home)
        await prune(home)
        with pytest.raises(CheckpointNotFound, match="was pruned: its saved states are gone, and its orders are kept"):
            await other.manager.locate(run.run_id)
        with pytest.raises(CheckpointNotFound, match="was pruned"):
            async with other.manager.claim(run.run_id):
                pass
        with pytest.raises(CheckpointNotFound, match="nothing was forked"):
            async with other.manager.fork(point, fingerprint=SHAPE, parameters=PARAMETERS, dry=True):
                pass
        with pytest.raises(CheckpointNotFound, match="there is no run or checkpoint"):
            await other.manager.locate(point.checkpoint_id)

    async def test_two_at_once_take_each_run_once(self, homes):
        home, other = homes
        ids = {(await home.played(f"S{number}")).run_id for number in range(4)}
        later(home)
        first, second = await asyncio.gather(prune(home), prune(other))
        assert first.runs.keys() | second.runs.keys() == ids

    async def test_an_owner_that_was_paused_for_too_long_writes_nothing_more(self, homes):
        home, other = homes
        run = await home.played()
        async with home.manager.claim(run.run_id) as hold:
            later(home)
            home.database.write(lambda all_: all_.execute(update(runs).values(leased_until_ns=1)))  # it has run out
            assert list((await prune(other)).runs) == [run.run_id]
            with pytest.raises(LeaseLost):
                await home.manager.mark(hold, RunStatus.RUNNING)
            with pytest.raises(LeaseLost):
                await home.play(run.run_id, {"notes": [], "text": ""})
        assert (await other.manager.run(run.run_id)).status is RunStatus.PRUNED


class TestFolders:
    async def test_those_that_a_killed_prune_left_go_with_the_next(self, home):
        run = await home.played()
        later(home)
        folder = home.folder / "runs" / run.run_id
        await prune(home)
        folder.mkdir()
        (folder / "report.md").write_text("x" * 10)
        (home.folder / "runs" / "of nobody").mkdir()
        assert (await prune(home)).runs == {run.run_id: 10}
        assert [each.name for each in (home.folder / "runs").iterdir()] == ["of nobody"]

    async def test_a_link_is_not_followed(self, home, tmp_path):
        run = await home.played()
        folder, precious = home.folder / "runs" / run.run_id, tmp_path / "precious"
        precious.mkdir()
        (precious / "file").write_text("kept")
        folder.rmdir()
        folder.symlink_to(precious)
        later(home)
        assert list((await prune(home)).runs) == [run.run_id]
        assert (await prune(home)).runs == {}
        assert (precious / "file").read_text() == "kept"

    async def test_where_folders_mark_whose_a_run_is_one_with_orders_stays_empty(self, home):
        traded, quiet = await home.played(), await home.played("B")
        await ordered(home, traded.run_id, OrderStatus.FILLED)
        for run in (traded, quiet):
            (home.folder / "runs" / run.run_id / "report.md").write_text("x")
        later(home)
        for _ in range(2):
            await retention(home, marks=True).prune(WEEK_NS)
            assert [each.name for each in (home.folder / "runs").iterdir()] == [traded.run_id]
            assert list((home.folder / "runs" / traded.run_id).iterdir()) == []


class TestRoom:
    """The file: free room is used again, and given back where that is worth it."""

    @pytest.fixture
    def filed(self, tmp_path):
        home = Home(str(tmp_path / "holdfast.db"), tmp_path, ReplayClock(1_000))
        yield home
        home.close()

    def fill(self, home, run_id):
        """2.8 MB of it, as they are."""
        bodies = (b"\xee1" * 700_000, b"\xee2" * 700_000)
        writes = [store.WriteRow(run_id, "", "c", body[:2].hex(), 0, "", "x", "bytes", body) for body in bodies]
        home.database.write(lambda connection: store.save_writes(connection, writes))

    async def test_a_file_that_is_mostly_free_is_made_shorter(self, filed, tmp_path, monkeypatch):
        run = await filed.played()
        monkeypatch.setattr(store, "_COMPRESSED_MIN", 10**9)
        self.fill(filed, run.run_id)
        later(filed)
        before = (tmp_path / "holdfast.db").stat().st_size + (tmp_path / "holdfast.db-wal").stat().st_size
        pruned = await prune(filed)
        assert pruned.compacted > 2_000_000
        assert pruned.free_bytes == 0
        assert (tmp_path / "holdfast.db").stat().st_size == pruned.file_bytes < 500_000 < before
        assert (await filed.played("B")).status is RunStatus.FINISHED

    async def test_not_while_somebody_works_whose_lease_could_not_be_renewed(self, filed, monkeypatch):
        run = await filed.played()
        monkeypatch.setattr(store, "_COMPRESSED_MIN", 10**9)
        self.fill(filed, run.run_id)
        later(filed)
        async with filed.beginning("B"):
            pruned = await prune(filed)
        assert (list(pruned.runs), pruned.compacted) == ([run.run_id], 0)
        assert pruned.free_bytes > 2_000_000
        assert (await prune(filed)).compacted > 2_000_000

    async def test_where_it_cannot_be_done_the_room_stays_free(self, filed, monkeypatch):
        def full(_):
            raise StorageError("the disk is full")

        run = await filed.played()
        monkeypatch.setattr(store, "_COMPRESSED_MIN", 10**9)
        self.fill(filed, run.run_id)
        later(filed)
        monkeypatch.setattr(Database, "compact", full)
        pruned = await prune(filed)
        assert (pruned.compacted, pruned.free_bytes > 2_000_000) == (0, True)

    async def test_a_little_is_left_free_for_later_runs(self, filed):
        for number in range(8):
            await filed.played(f"S{number}")
        later(filed)
        pruned = await prune(filed)
        assert (pruned.compacted, 0 < pruned.free_bytes < pruned.file_bytes) == (0, True)
