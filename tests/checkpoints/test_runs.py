"""The run registry: ids, whether a run still lives, who may work on it, and where an id leads."""

import asyncio
import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
from typing import TypedDict

import pytest
from langgraph.graph import END, START, StateGraph

from agents.clock import ReplayClock, SystemClock
from agents.errors import CheckpointNotFound, FingerprintMismatch, RunLeased, StorageError
from checkpoints.database import Database
from checkpoints.runs import CheckpointManager, RunStatus, check_fingerprint
from checkpoints.saver import SqlSaver

AS_OF_NS = 1_362_096_000_000_000_000  # 2013-03-01
SHAPE = {"nodes": ["a", "b"], "members": ["trend"]}


class Home:
    """A database, a saver and a manager over one folder."""

    def __init__(self, folder):
        self.folder = folder
        self.database = Database.open(folder / "holdfast.db")
        self.clock = ReplayClock(1_000)
        self.saver = SqlSaver(self.database)
        self.manager = CheckpointManager(self.database, self.saver, folder, self.clock)

    async def begin(self, symbol="SIM", workflow="trade", as_of_ns=AS_OF_NS, **more):
        return await self.manager.begin(
            workflow=workflow, symbol=symbol, as_of_ns=as_of_ns, fingerprint=SHAPE, parameters={"seed": 7}, **more
        )


@pytest.fixture
def home(tmp_path):
    opened = Home(tmp_path)
    yield opened
    opened.database.close()


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
    @pytest.mark.parametrize("status", [RunStatus.STOPPED, RunStatus.FAILED, RunStatus.FINISHED])
    async def test_marked(self, home, status):
        run = await home.begin()
        home.clock.advance_to(2_000)
        marked = await home.manager.mark(run.run_id, status, "broken")
        assert (marked.status, marked.error, marked.updated_ns) == (status, "broken", 2_000)
        assert await home.manager.run(run.run_id) == marked

    async def test_marking_a_run_that_is_not_there(self, home):
        with pytest.raises(CheckpointNotFound):
            await home.manager.mark("trade-none", RunStatus.FINISHED)

    async def test_running_while_it_is_held_and_interrupted_after(self, home):
        run = await home.begin()
        with home.manager.claim(run.run_id):
            assert (await home.manager.run(run.run_id)).status is RunStatus.RUNNING
        assert (await home.manager.run(run.run_id)).status is RunStatus.INTERRUPTED

    async def test_finished_stays_finished_whoever_holds_it(self, home):
        run = await home.begin()
        await home.manager.mark(run.run_id, RunStatus.FINISHED)
        with home.manager.claim(run.run_id):
            assert (await home.manager.run(run.run_id)).status is RunStatus.FINISHED

    async def test_a_killed_process_leaves_its_run_interrupted_and_free(self, home):
        run = await home.begin()
        child, ready = _holder(home.folder, run.run_id)
        try:
            assert ready.recv() == "held"
            assert (await home.manager.run(run.run_id)).status is RunStatus.RUNNING
            with pytest.raises(RunLeased, match="another process; nothing was started"), home.manager.claim(run.run_id):
                pass
        finally:
            os.kill(child.pid, signal.SIGKILL)
            child.join()
        assert (await home.manager.run(run.run_id)).status is RunStatus.INTERRUPTED
        with home.manager.claim(run.run_id) as folder:
            assert folder == home.folder / "runs" / run.run_id


def _holder(folder, run_id):
    """A child process that holds a run until it is killed."""
    context = multiprocessing.get_context("spawn")
    ready, told = context.Pipe(duplex=False)
    child = context.Process(target=_hold, args=(folder, run_id, told), daemon=True)
    child.start()
    return child, ready


def _hold(folder, run_id, told):
    with CheckpointManager(None, None, folder, None).claim(run_id):
        told.send("held")
        signal.pause()


class TestClaim:
    async def test_once_at_a_time_also_in_one_process(self, home):
        run = await home.begin()
        with home.manager.claim(run.run_id), pytest.raises(RunLeased), home.manager.claim(run.run_id):
            pass

    async def test_looking_does_not_stand_in_the_way(self, home, monkeypatch):
        run = await home.begin()
        with home.manager.claim(run.run_id) as folder:
            pass
        looking = (folder / "lock").open()
        fcntl.flock(looking, fcntl.LOCK_SH)
        real, calls = fcntl.flock, []

        def flock(file, kind):
            calls.append(kind)
            if len(calls) == 5:  # the one who looks is gone again
                looking.close()
            return real(file, kind)

        monkeypatch.setattr(fcntl, "flock", flock)
        with home.manager.claim(run.run_id):
            monkeypatch.undo()
            assert (await home.manager.run(run.run_id)).status is RunStatus.RUNNING

    async def test_who_looks_for_ever_is_not_waited_for_for_ever(self, home):
        run = await home.begin()
        with home.manager.claim(run.run_id) as folder:
            pass
        with (folder / "lock").open() as looking:
            fcntl.flock(looking, fcntl.LOCK_SH)
            with pytest.raises(RunLeased), home.manager.claim(run.run_id):
                pass

    @pytest.mark.parametrize("run_id", ["../x", "", "a/b", ".", "a" * 65])
    def test_an_id_never_leaves_the_folder(self, home, run_id):
        with pytest.raises(CheckpointNotFound), home.manager.claim(run_id):
            pass
        assert not (home.folder / "runs").exists()

    async def test_nobody_else_can_look_into_the_folder(self, home):
        run = await home.begin()
        with home.manager.claim(run.run_id) as folder:
            assert folder.stat().st_mode & 0o077 == 0


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
        graph = await play(home, "not-ours")
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
        run = await home.manager.begin(
            workflow="trade",
            symbol="SIM",
            as_of_ns=AS_OF_NS,
            fingerprint={"edges": [f"node_{number}" for number in range(500)]},
            parameters={},
        )
        now = {"edges": [*run.fingerprint["edges"][:-1], "changed"], "version": 2}
        with pytest.raises(FingerprintMismatch) as caught:
            check_fingerprint(run, now)
        assert "edges lost ['node_499'] and gained ['changed']" in str(caught.value)
        assert "version was None and is 2" in str(caught.value)


class TestAtOnce:
    async def test_runs_begun_at_once_have_ids_of_their_own(self, home):
        runs = await asyncio.gather(*(home.begin() for _ in range(20)))
        assert {run.run_id for run in runs} == {f"trade-SIM-20130301T000000Z-{n}" for n in range(1, 21)}


def test_a_forked_child_does_not_keep_the_run(tmp_path):
    """An analyst may fork; the child must not hold the run when the parent has let go of it."""
    script = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from agents.clock import SystemClock\n"
        "from checkpoints.runs import CheckpointManager\n"
        "manager = CheckpointManager(None, None, Path(sys.argv[1]), SystemClock())\n"
        "with manager.claim('r'):\n"
        "    if os.fork() == 0:\n"
        "        print('child', flush=True)\n"
        "        sys.stdin.read()\n"
        "        os._exit(0)\n"
        "    sys.stdin.readline()\n"
        "print('let go', flush=True)\n"
    )
    manager = CheckpointManager(None, None, tmp_path, SystemClock())
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout.readline() == "child\n"
        assert manager.is_held("r")
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert not manager.is_held("r"), "the child still holds it"
        parent.stdin.close()


def test_a_run_that_cannot_be_looked_at_is_not_free(tmp_path):
    manager = CheckpointManager(None, None, tmp_path, SystemClock())
    (tmp_path / "runs" / "r" / "lock").mkdir(parents=True)
    assert manager.is_held("r")
    with pytest.raises(StorageError, match="cannot be used"), manager.claim("r"):
        pass
