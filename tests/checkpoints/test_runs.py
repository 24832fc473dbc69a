"""The run registry: ids, whether a run still lives, who may work on it, and where an id leads."""

import asyncio
import os
from contextlib import nullcontext
from typing import TypedDict
from unittest.mock import AsyncMock

import pytest
from langgraph.graph import END, START, StateGraph

from agents.clock import ReplayClock
from agents.errors import CheckpointNotFound, FingerprintMismatch, LeaseLost, RunLeased, StorageError
from checkpoints.database import Database
from checkpoints.leases import Leases
from checkpoints.runs import CheckpointManager, RunStatus, check_fingerprint
from checkpoints.saver import SqlSaver

AS_OF_NS = 1_362_096_000_000_000_000  # 2013-03-01
SHAPE = {"nodes": ["a", "b"], "members": ["trend"]}


LEASE_NS = 10_000_000_000


class Home:
    """A database, a saver, leases and a manager over one folder, as one of several applications."""

    def __init__(self, folder, clock):
        self.folder = folder
        self.database = Database.open(folder / "holdfast.db")
        self.clock = clock
        self.leases = Leases(self.database, folder / "owners", clock)
        self.saver = SqlSaver(self.database, fence=self.leases.check)
        self.manager = CheckpointManager(self.database, self.saver, self.leases, folder, clock)

    def beginning(self, symbol="SIM", workflow="trade", as_of_ns=AS_OF_NS, **more):
        given = {"fingerprint": SHAPE, "parameters": {"seed": 7}} | more
        return self.manager.begin(workflow=workflow, symbol=symbol, as_of_ns=as_of_ns, **given)

    async def begin(self, *given, **more):
        """A run that was registered, and left at once."""
        async with self.beginning(*given, **more) as hold:
            pass
        return await self.manager.run(hold.run.run_id)

    async def status(self, run_id):
        return (await self.manager.run(run_id)).status

    def die(self):
        """As the operating system does it: the lock is let go, and everything else stays as it is."""
        os.close(self.leases._lock[0])
        self.leases._lock = None

    def close(self):
        self.database.close()
        self.leases.close()


@pytest.fixture
def homes(tmp_path):
    """Two applications on one folder, with one clock."""
    clock = ReplayClock(1_000)
    opened = Home(tmp_path, clock), Home(tmp_path, clock)
    yield opened
    for each in opened:
        each.close()


@pytest.fixture
def home(homes):
    return homes[0]


class Letters(TypedDict):
    text: str


def letters(saver):
    """A graph of two steps, to have something that saves checkpoints."""
    builder = StateGraph(Letters)
    for name in ("first", "second"):
        builder.add_node(name, lambda state: {"text": state["text"] + "x"})
    builder.add_edge(START, "first")
    builder.add_edge("first", "second")
    builder.add_edge("second", END)
    return builder.compile(checkpointer=saver)


async def play(home, run_id):
    """Let the graph run, under the run's lease."""
    async with home.manager.claim(run_id):
        return await invoke(home, run_id)


async def invoke(home, run_id):
    graph = letters(home.saver)
    await graph.ainvoke({"text": ""}, {"configurable": {"thread_id": run_id}}, durability="sync")
    return graph


class TestIds:
    async def test_an_id_says_what_is_decided_on_and_counts(self, home):
        ids = [(await home.begin()).run_id for _ in range(3)]
        assert ids == [f"trade-SIM-20130301T000000Z-{number}" for number in (1, 2, 3)]

    async def test_the_count_goes_on_after_nine(self, home):
        for _ in range(11):
            last = await home.begin()
        assert last.run_id.endswith("-11")

    async def test_another_time_counts_anew(self, home):
        await home.begin()
        later = await home.begin(as_of_ns=AS_OF_NS + 86_400_000_000_000)
        assert later.run_id == "trade-SIM-20130302T000000Z-1"

    async def test_odd_symbols_have_ids_of_their_own(self, home):
        symbols = ["BTC/USD", "BTC:USD", "BTC-USD", "btc-usd", "^GSPC", "X" * 32]
        runs = [await home.begin(symbol) for symbol in symbols]
        assert len({run.run_id.lower() for run in runs}) == len(symbols)
        assert [run.symbol for run in runs] == symbols
        for run in runs:
            assert await home.manager.run(run.run_id) == run

    async def test_a_symbol_that_looks_like_another_ones_run(self, home):
        await home.begin("A-20130301T000000Z-9")
        assert (await home.begin("A")).run_id == "trade-A-20130301T000000Z-1"

    async def test_a_run_has_its_own_account_unless_told(self, home):
        own, shared = await home.begin(), await home.begin(account="paper")
        assert (own.account, shared.account) == (own.run_id, "paper")

    async def test_what_it_was_started_with_comes_back(self, home):
        run = await home.begin()
        assert (run.fingerprint, run.parameters) == (SHAPE, {"seed": 7})
        assert (run.created_ns, run.updated_ns) == (1_000, 1_000)
        assert await home.manager.runs() == (run,)


class TestStatus:
    @pytest.mark.parametrize("error", [None, StorageError("full")])
    async def test_of_one_that_could_not_be_marked_nobody_waits_for_who_is_gone(self, homes, monkeypatch, error):
        first, second = homes
        async with first.beginning() as hold:
            with monkeypatch.context() as patch:
                if error:
                    patch.setattr(first.database, "awrite", AsyncMock(side_effect=error))
                with pytest.raises(StorageError) if error else nullcontext():
                    await first.manager.mark(hold, RunStatus.FAILED)
        first.leases.close()
        assert len(list((first.folder / "owners").iterdir())) == (1 if error else 0)
        async with second.manager.claim(hold.run.run_id) as again:
            assert again.lease.token == 2

    @pytest.mark.parametrize("status", [RunStatus.STOPPED, RunStatus.FAILED, RunStatus.FINISHED])
    async def test_marked(self, home, status):
        run = await home.begin()
        async with home.manager.claim(run.run_id) as hold:
            home.clock.advance_to(2_000)
            marked = await home.manager.mark(hold, status, "broken")
        assert (marked.status, marked.error, marked.updated_ns) == (status, "broken", 2_000)
        assert await home.manager.run(run.run_id) == marked

    async def test_running_while_it_is_held_and_interrupted_after(self, homes):
        home, other = homes
        run = await home.begin()
        assert run.status is RunStatus.INTERRUPTED
        async with home.manager.claim(run.run_id) as hold:
            assert hold.run == run
            assert (await home.manager.mark(hold, RunStatus.RUNNING)).status is RunStatus.RUNNING
            for each in homes:
                assert await each.status(run.run_id) is RunStatus.RUNNING
                assert await each.manager.held_runs() == {run.run_id}
        assert await other.status(run.run_id) is RunStatus.INTERRUPTED

    async def test_an_owner_that_is_dead_or_late_leaves_its_run_interrupted(self, homes):
        home, other = homes
        async with home.beginning() as late, home.beginning("B") as hold:
            home.clock.advance_to(1_000 + LEASE_NS)
            listed = {run.run_id: run.status for run in await other.manager.runs()}
            assert listed == dict.fromkeys((late.run.run_id, hold.run.run_id), RunStatus.INTERRUPTED)
        async with home.beginning("C") as hold:
            assert await other.status(hold.run.run_id) is RunStatus.RUNNING
            home.die()
            assert await other.status(hold.run.run_id) is RunStatus.INTERRUPTED

    async def test_finished_stays_finished_whoever_holds_it(self, home):
        run = await home.begin()
        async with home.manager.claim(run.run_id) as hold:
            await home.manager.mark(hold, RunStatus.FINISHED)
        async with home.manager.claim(run.run_id):
            assert await home.status(run.run_id) is RunStatus.FINISHED

    async def test_an_end_and_the_lease_are_one_step(self, homes):
        home, other = homes
        async with home.beginning() as hold:
            await home.manager.mark(hold, RunStatus.STOPPED)
            with pytest.raises(LeaseLost):
                await invoke(home, hold.run.run_id)
            async with other.manager.claim(hold.run.run_id) as theirs:
                await other.manager.mark(theirs, RunStatus.RUNNING)
                with pytest.raises(LeaseLost):
                    await home.manager.mark(hold, RunStatus.FINISHED)
        assert await home.status(hold.run.run_id) is RunStatus.INTERRUPTED

    async def test_who_was_taken_over_has_no_say_in_the_status(self, homes):
        home, other = homes
        async with home.beginning() as hold:
            home.clock.advance_to(1_000 + LEASE_NS)
            async with other.manager.claim(hold.run.run_id) as theirs:
                for status in RunStatus:
                    with pytest.raises(LeaseLost, match=f"run {hold.run.run_id} "):
                        await home.manager.mark(hold, status, "mine")
                finished = await other.manager.mark(theirs, RunStatus.FINISHED)
            with pytest.raises(LeaseLost):
                await home.manager.mark(hold, RunStatus.FAILED, "mine")
        assert await home.manager.run(hold.run.run_id) == finished


class TestClaim:
    async def test_registered_and_held_in_one_step(self, homes):
        """Nobody else may find a run that is registered and not held yet."""
        home, other = homes
        seen = []
        real = home.database.awrite

        async def awrite(work):
            result = await real(work)
            seen.append([(run.run_id, run.status) for run in await other.manager.runs()])
            return result

        home.database.awrite = awrite
        async with home.beginning() as hold:
            assert seen == [[(hold.run.run_id, RunStatus.RUNNING)]]
            with pytest.raises(RunLeased):
                await play(other, hold.run.run_id)

    async def test_once_at_a_time_also_in_one_process(self, homes):
        home, other = homes
        run = await home.begin()
        async with home.manager.claim(run.run_id):
            for each in homes:
                with pytest.raises(RunLeased):
                    await play(each, run.run_id)
        await play(other, run.run_id)

    async def test_the_workflow_cannot_save_without_it(self, home):
        run = await home.begin()
        with pytest.raises(LeaseLost, match="is not held by this process"):
            await invoke(home, run.run_id)
        config = {"configurable": {"thread_id": run.run_id}}
        with pytest.raises(LeaseLost):
            await asyncio.to_thread(letters(home.saver).invoke, {"text": ""}, config, durability="sync")
        config["configurable"]["checkpoint_id"] = "c1"
        with pytest.raises(LeaseLost):
            home.saver.put_writes(config, [("text", "x")], "task")
        with pytest.raises(LeaseLost):
            await home.saver.aput_writes(config, [("text", "x")], "task")
        assert not await home.manager.has_checkpoint(run.run_id)

    async def test_who_was_taken_over_saves_nothing_more(self, homes):
        home, other = homes
        async with home.beginning() as hold:
            graph = await invoke(home, hold.run.run_id)
            home.clock.advance_to(1_000 + LEASE_NS)
            async with other.manager.claim(hold.run.run_id):
                before = await other.manager.checkpoints(hold.run.run_id, graph)
                with pytest.raises(LeaseLost, match="was taken over by"):
                    await invoke(home, hold.run.run_id)
                assert await other.manager.checkpoints(hold.run.run_id, graph) == before
                await invoke(other, hold.run.run_id)

    async def test_a_saver_of_ones_own_knows_of_no_runs(self, home):
        """Documented: who opens the database with a saver without a fence writes what he wants."""
        run = await home.begin()
        graph = letters(SqlSaver(home.database))
        await graph.ainvoke({"text": ""}, {"configurable": {"thread_id": run.run_id}}, durability="sync")

    @pytest.mark.parametrize("run_id", ["../x", "", "a/b", ".", "a" * 65, "not-there"])
    async def test_an_id_never_leaves_the_folder(self, home, run_id):
        with pytest.raises(CheckpointNotFound):
            await play(home, run_id)
        assert not (home.folder / "runs").exists()

    async def test_nobody_else_can_look_into_the_folder(self, home):
        async with home.beginning() as hold:
            assert hold.folder == home.folder / "runs" / hold.run.run_id
            assert hold.folder.stat().st_mode & 0o077 == 0

    async def test_a_folder_that_cannot_be_made_leaves_the_run_free(self, homes):
        home, other = homes
        (home.folder / "runs").write_text("in the way")
        with pytest.raises(StorageError, match=r"cannot be used .* not gone on with; mend its rights"):
            await home.begin()
        (home.folder / "runs").unlink()
        (run,) = await other.manager.runs()
        assert run.status is RunStatus.INTERRUPTED
        await play(other, run.run_id)


class TestLocate:
    async def test_a_run_id_and_the_head_lead_to_the_run_older_ids_to_themselves(self, home):
        run = await home.begin()
        graph = await play(home, run.run_id)
        rows = await home.manager.checkpoints(run.run_id, graph)
        assert [row.before for row in rows] == ["start", "first", "second", "end"]
        assert rows[0].saved_at < rows[-1].saved_at
        assert (await home.manager.locate(run.run_id)).checkpoint_id is None
        assert (await home.manager.locate(rows[-1].checkpoint_id)).checkpoint_id is None
        for row in rows[:-1]:
            point = await home.manager.locate(row.checkpoint_id)
            assert (point.run.run_id, point.checkpoint_id) == (run.run_id, row.checkpoint_id)

    async def test_a_run_that_saved_nothing_yet(self, home):
        run = await home.begin()
        assert not await home.manager.has_checkpoint(run.run_id)
        assert (await home.manager.locate(run.run_id)).checkpoint_id is None
        await play(home, run.run_id)
        assert await home.manager.has_checkpoint(run.run_id)

    async def test_a_checkpoint_of_somebody_elses_thread(self, home):
        graph = await invoke(home, "not-ours")
        saved = await graph.aget_state({"configurable": {"thread_id": "not-ours"}})
        with pytest.raises(CheckpointNotFound, match="no run or checkpoint 'not-ours'"):
            await home.manager.locate(saved.config["configurable"]["checkpoint_id"])

    @pytest.mark.parametrize(
        "hostile",
        [
            "unknown",
            "",
            "../x",
            "../../etc/passwd",
            "a" * 65,
            "día",
            "\u0661",
            "run\n",
            "run id",
            "x' OR '1'='1",
            "x; DROP TABLE runs",
            "%",
            "trade-SIM-%",
            "\x00",
        ],
    )
    async def test_any_other_text_is_no_run(self, home, hostile):
        await home.begin()
        for ask in (home.manager.locate, home.manager.run, lambda text: home.manager.checkpoints(text, None)):
            with pytest.raises(CheckpointNotFound, match="nothing was done") as caught:
                await ask(hostile)
            assert "\n" not in str(caught.value)
            assert len(str(caught.value)) < 300
        assert len(await home.manager.runs()) == 1


class TestFingerprint:
    async def test_the_same_shape_goes_on(self, home):
        check_fingerprint(await home.begin(), dict(SHAPE))

    async def test_a_mismatch_names_what_came_and_went(self, home):
        with pytest.raises(FingerprintMismatch) as caught:
            check_fingerprint(await home.begin(), SHAPE | {"nodes": ["a", "c"]})
        assert "nodes lost ['b'] and gained ['c']; nothing was resumed" in str(caught.value)
        assert "members" not in str(caught.value)

    async def test_what_changed_is_named_however_long_the_rest_is(self, home):
        run = await home.begin(fingerprint={"edges": [f"node_{number}" for number in range(500)]})
        now = {"edges": [*run.fingerprint["edges"][:-1], "changed"], "version": 2}
        with pytest.raises(FingerprintMismatch) as caught:
            check_fingerprint(run, now)
        assert "edges lost ['node_499'] and gained ['changed']" in str(caught.value)
        assert "version was None and is 2" in str(caught.value)


class TestAtOnce:
    async def test_runs_begun_at_once_have_ids_of_their_own(self, home):
        runs = await asyncio.gather(*(home.begin() for _ in range(20)))
        assert {run.run_id for run in runs} == {f"trade-SIM-20130301T000000Z-{n}" for n in range(1, 21)}
