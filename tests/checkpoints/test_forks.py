"""Forks: a new run that goes on from a saved state of another one, which stays as it is."""

import operator
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import END, START, StateGraph
from sqlalchemy import select

from agents.clock import ReplayClock
from agents.errors import CheckpointNotFound, RunLeased
from checkpoints import store
from checkpoints.runs import ResumePoint, RunStatus
from tests.checkpoints.homes import AS_OF_NS, PARAMETERS, SHAPE, Home, letters


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


def before(rows):
    return [row.before for row in rows]


class TestFork:
    async def test_a_new_run_with_an_id_of_the_same_kind(self, home):
        origin = await home.played()
        at = (await home.rows(origin.run_id))[2].checkpoint_id
        home.clock.advance_to(2_000)
        fork = await home.forked(at)
        assert (origin.run_id, fork.run_id) == ("trade-SIM-20130301T000000Z-1", "trade-SIM-20130301T000000Z-2")
        assert (fork.forked_from, fork.forked_at, fork.dry) == (origin.run_id, at, True)
        assert (fork.workflow, fork.symbol, fork.as_of_ns) == ("trade", "SIM", AS_OF_NS)
        assert (fork.fingerprint, fork.parameters, fork.created_ns) == (SHAPE, PARAMETERS, 2_000)
        assert (origin.forked_from, origin.forked_at, origin.dry) == (None, None, False)
        assert (home.folder / "runs" / fork.run_id).is_dir()

    async def test_from_every_state_it_comes_to_the_same_end_and_the_origin_stays(self, home):
        origin = await home.played()
        saved, end = await home.rows(origin.run_id), (await home.state(origin.run_id)).values
        for number, row in enumerate(saved[:-1]):
            fork = await home.forked(row.checkpoint_id)
            assert (await home.state(fork.run_id)).values == end
            rows = await home.rows(fork.run_id)
            assert before(rows) == before(saved)
            assert [each.copied for each in rows] == [at <= number for at in range(len(rows))]
            assert {each.checkpoint_id for each in rows if not each.copied}.isdisjoint(
                each.checkpoint_id for each in saved
            )
        assert await home.rows(origin.run_id) == saved
        assert (await home.state(origin.run_id)).values == end

    async def test_what_was_saved_later_is_not_copied(self, home):
        origin = await home.played()
        third = (await home.rows(origin.run_id))[2].checkpoint_id
        point = await home.manager.locate(third)
        async with home.manager.fork(point, fingerprint=SHAPE, parameters=PARAMETERS, dry=True) as hold:
            fork = hold.run.run_id

        def found(run_id, table, column):
            query = select(column).where(table.c.thread_id == run_id)
            return home.database.read(lambda all_: sorted(all_.execute(query).scalars()))

        kept = {row.checkpoint_id for row in (await home.rows(origin.run_id))[:2]}  # and not what the third has put out
        written = found(origin.run_id, store.writes, store.writes.c.checkpoint_id)
        assert found(fork, store.writes, store.writes.c.checkpoint_id) == [each for each in written if each in kept]
        assert len(found(fork, store.checkpoints, store.checkpoints.c.number)) == 3
        names = [set(found(run_id, store.values, store.values.c.version)) for run_id in (fork, origin.run_id)]
        assert names[0] < names[1]
        state = await home.state(fork)
        assert (state.next, state.values) == (("second",), (await home.state(origin.run_id, third)).values)

    async def test_of_a_run_that_went_back(self, home):
        """What was saved before the fork's state is copied, also what it does not come from; what came later is not."""
        origin = await home.played()
        first = await home.rows(origin.run_id)
        config = {"configurable": {"thread_id": origin.run_id, "checkpoint_id": first[2].checkpoint_id}}
        async with home.manager.claim(origin.run_id):
            await letters(home.saver).ainvoke(None, config, durability="sync")
        newest = (await home.rows(origin.run_id))[-2]
        assert newest.checkpoint_id not in {row.checkpoint_id for row in first}
        fork = await home.forked(newest.checkpoint_id)
        assert (await home.state(fork.run_id)).values["text"] == "xxx"
        older = await home.forked(first[3].checkpoint_id)
        copied = [row.checkpoint_id for row in await home.rows(older.run_id) if row.copied]
        assert copied == [row.checkpoint_id for row in first[:4]]

    async def test_at_the_head_the_finished_siblings_are_kept(self, home):
        asked, fails = [], [True]

        class Both(TypedDict):
            said: Annotated[list[str], operator.add]

        def left(state: Both) -> Both:
            asked.append("left")
            return {"said": ["left"]}

        def right(state: Both) -> Both:
            asked.append("right")
            if fails:
                raise ValueError("not now")
            return {"said": ["right"]}

        builder: Any = StateGraph(Both)
        for name, node in (("left", left), ("right", right)):
            builder.add_node(name, node)
            builder.add_edge(START, name)
            builder.add_edge(name, END)
        graph = builder.compile(checkpointer=home.saver)

        async def run(run_id, given):
            return await graph.ainvoke(given, {"configurable": {"thread_id": run_id}}, durability="sync")

        async with home.beginning() as hold:
            with pytest.raises(ValueError, match="not now"):
                await run(hold.run.run_id, {"said": []})
            await home.manager.mark(hold, RunStatus.FAILED)
        fails.clear()
        head = (await graph.aget_state({"configurable": {"thread_id": hold.run.run_id}})).config["configurable"]
        for identifier, anew in ((hold.run.run_id, ["right"]), (head["checkpoint_id"], ["right"])):
            asked.clear()
            point = await home.manager.locate(identifier)
            async with home.manager.fork(point, fingerprint=SHAPE, parameters=PARAMETERS, dry=True) as fork:
                assert fork.run.forked_at == head["checkpoint_id"]
                assert sorted((await run(fork.run.run_id, None))["said"]) == ["left", "right"]
            assert asked == anew

    async def test_of_a_run_that_is_running(self, homes):
        home, other = homes
        async with home.beginning() as hold:
            await home.play(hold.run.run_id, {"notes": [], "text": ""})
            rows = await home.rows(hold.run.run_id)
            fork = await other.forked(rows[2].checkpoint_id)
            assert await home.manager.held_runs() == {hold.run.run_id}
        assert fork.status is RunStatus.FINISHED

    async def test_it_is_held_from_the_start(self, homes):
        home, other = homes
        origin = await home.played()
        point = await home.manager.locate((await home.rows(origin.run_id))[1].checkpoint_id)
        async with home.manager.fork(point, fingerprint=SHAPE, parameters=PARAMETERS, dry=True) as hold:
            assert (hold.run.status, bool(hold.run.owner)) == (RunStatus.RUNNING, True)
            with pytest.raises(RunLeased):
                async with other.manager.claim(hold.run.run_id):
                    pass

    async def test_its_account_is_its_own_where_the_origin_has_one(self, home):
        own, shared = await home.played(), await home.played("B", account="paper")
        forks = [await home.forked((await home.rows(run.run_id))[1].checkpoint_id) for run in (own, shared)]
        assert [fork.account for fork in forks] == [forks[0].run_id, "paper"]

    async def test_what_is_not_there_is_refused_and_nothing_is_registered(self, home):
        origin = await home.played()
        async with home.beginning("B") as hold:
            empty = hold.run
        there = await home.manager.runs()
        for point in (ResumePoint(origin, "1f0-gone"), ResumePoint(empty), ResumePoint(empty, "1f0-gone")):
            with pytest.raises(CheckpointNotFound, match=r"has no saved state .* nothing was forked"):
                async with home.manager.fork(point, fingerprint=SHAPE, parameters=PARAMETERS, dry=True):
                    pass
        assert await home.manager.runs() == there


class TestWhoseItIs:
    """Forks have checkpoints with the ids of those that they were copied from."""

    async def test_a_copied_checkpoint_is_that_of_the_run_which_saved_it(self, home):
        origin = await home.played()
        saved = await home.rows(origin.run_id)
        fork = await home.forked(saved[2].checkpoint_id)
        again = await home.forked((await home.rows(fork.run_id))[3].checkpoint_id)
        assert (again.forked_from, origin.forked_from) == (fork.run_id, None)
        for row in saved[:-1]:
            assert await home.manager.locate(row.checkpoint_id) == ResumePoint(origin, row.checkpoint_id)
        for run in (fork, again):
            own = [row for row in await home.rows(run.run_id) if not row.copied]
            for row in own[:-1]:
                assert await home.manager.locate(row.checkpoint_id) == ResumePoint(run, row.checkpoint_id)
            assert await home.manager.locate(own[-1].checkpoint_id) == ResumePoint(run)

    async def test_a_run_that_was_forked_before_it_went_on_keeps_its_own(self, home):
        """The copies are saved before what the origin saves later, and are not taken for it."""
        async with home.beginning() as hold:
            run_id = hold.run.run_id
            config = {"configurable": {"thread_id": run_id}}
            graph = letters(home.saver)
            await graph.ainvoke({"notes": [], "text": ""}, config, durability="sync", interrupt_before=["second"])
            fork = await home.forked(run_id)
            await graph.ainvoke(None, config, durability="sync")
        origin = await home.manager.run(run_id)
        rows = await home.rows(run_id)
        assert [(await home.manager.locate(row.checkpoint_id)).run for row in rows] == [origin] * 5
        assert [row.copied for row in rows] == [False] * 5
        assert [row.copied for row in await home.rows(fork.run_id)] == [True] * 3 + [False] * 2

    async def test_without_the_origin_it_is_the_forks(self, home):
        origin = await home.played()
        saved = await home.rows(origin.run_id)
        fork = await home.forked(saved[2].checkpoint_id)
        home.saver.delete_thread(origin.run_id)
        assert (await home.manager.locate(saved[0].checkpoint_id)).run == fork

    async def test_a_thread_of_somebody_else_is_no_run(self, home):
        config = {"configurable": {"thread_id": "theirs"}}
        await letters(home.saver).ainvoke({"notes": [], "text": ""}, config, durability="sync")
        saved = (await letters(home.saver).aget_state(config)).config["configurable"]["checkpoint_id"]
        with pytest.raises(CheckpointNotFound, match="there is no run or checkpoint"):
            await home.manager.locate(saved)


class TestOtherGraphs:
    """What a saver keeps for graphs that are built otherwise."""

    @pytest.mark.parametrize("stateful", [False, True])
    async def test_channels_that_are_rebuilt_and_subgraphs(self, home, stateful):
        class Items(TypedDict):
            items: Annotated[list[str], DeltaChannel(lambda old, new: [*old, *(each for some in new for each in some)])]
            count: Annotated[int, operator.add]

        def step(state: Items) -> Any:
            return {"items": [f"{state['count']} " * 500], "count": 1}

        inner: Any = StateGraph(Items)
        inner.add_node("a", step)
        inner.add_edge(START, "a")
        outer: Any = StateGraph(Items)
        names = ("one", "inside", "two", "three")
        for name in names:
            outer.add_node(name, inner.compile(checkpointer=stateful or None) if name == "inside" else step)
        for start, end in zip((START, *names), (*names, END), strict=True):
            outer.add_edge(start, end)
        graph = outer.compile(checkpointer=home.saver)

        def config(run_id):
            return {"configurable": {"thread_id": run_id}}

        async with home.beginning() as hold:
            origin = hold.run.run_id
            await graph.ainvoke({"items": [], "count": 0}, config(origin), durability="sync")
        end = (await graph.aget_state(config(origin))).values
        saved = await home.manager.checkpoints(origin, graph)
        for row in saved[:-1]:
            point = await home.manager.locate(row.checkpoint_id)
            async with home.manager.fork(point, fingerprint=SHAPE, parameters=PARAMETERS, dry=True) as hold:
                fork = hold.run.run_id
                await graph.ainvoke(None, config(fork), durability="sync")
            assert (await graph.aget_state(config(fork))).values == end, row.before
        assert (await graph.aget_state(config(origin))).values == end
