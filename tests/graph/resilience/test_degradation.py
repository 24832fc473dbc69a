import asyncio
import gc
import sys

import pytest

from agents.errors import ConfigError, CriticalDegradation, OrderRefused
from graph.resilience import Degradation, Degraded, Guard, Ladder


def member(answer, seconds=0.0):
    async def ask(*args):
        await asyncio.sleep(seconds)
        if isinstance(answer, Exception):
            raise answer
        return (answer, *args)

    return ask


def members(working, failing, prefix="m"):
    good = {f"{prefix}{n}": member(n) for n in range(working)}
    return good | {f"{prefix}{n}": member(ConnectionError(n)) for n in range(working, working + failing)}


async def test_all_members_are_asked_at_the_same_time_and_answer_in_order(now):
    began = now()
    roll = await Degradation("swarm")({"a": member(1, 3), "b": member(2, 1)}, {"c": member(3, 2)}, "view")
    assert now() - began == pytest.approx(3)
    assert list(roll.answers.items()) == [("a", (1, "view")), ("b", (2, "view")), ("c", (3, "view"))]
    assert roll.failed == {}
    assert roll.level == 0


@pytest.mark.parametrize(("good", "bad", "level"), [(8, 2, 0), (7, 3, 1), (4, 6, 2)])
async def test_missing_optional_members_lower_the_level(good, bad, level, heard, now):
    roll = await Degradation("swarm", observers=[heard])({}, members(good, bad))
    assert roll.level == level
    assert list(roll.failed) == [f"m{n}" for n in range(good, 10)]
    assert heard == ([Degraded("swarm", "swarm", now(), level, tuple(roll.failed))] if level else [])


async def test_too_many_required_missing_is_critical_and_names_them(heard):
    with pytest.raises(
        CriticalDegradation, match=r"2 of 5 required members of 'swarm' failed \(m3, m4\), more than 30 %"
    ) as caught:
        await Degradation("swarm", observers=[heard])(members(3, 2), members(20, 0, "o"))
    assert len(caught.value.__cause__.exceptions) == 2
    assert heard[0].level == 2


async def test_three_of_ten_required_missing_is_not_yet_critical():
    assert (await Degradation("swarm")(members(7, 3), {})).level == 1


async def test_members_behind_guards_that_hang_cost_their_timeout_only(now):
    async def hang():
        await asyncio.Event().wait()

    began = now()
    guard = Guard("slow", attempt_timeout=4, retry=None)
    roll = await Degradation("swarm")(members(9, 0), {"slow": guard.wrap(hang)})
    assert now() - began == pytest.approx(4)
    assert list(roll.failed) == ["slow"]


async def test_a_refusal_is_not_a_missing_member():
    with pytest.raises(OrderRefused):
        await Degradation("swarm")(members(9, 0), {"x": member(OrderRefused("no"))})
    assert asyncio.current_task().cancelling() == 0


@pytest.mark.parametrize("how", ["its own", "of its task"])
async def test_a_member_that_ends_in_a_cancellation_which_nobody_wanted_is_missing(how):
    async def cancelled():
        if how == "of its task":
            asyncio.current_task().cancel("pool closed")
            await asyncio.sleep(1)
        raise asyncio.CancelledError("pool closed")

    roll = await Degradation("swarm")(members(9, 0), {"x": cancelled})
    assert list(roll.failed) == ["x"]
    assert "'x' ended in a cancellation" in str(roll.failed["x"])
    assert "CancelledError: pool closed" in str(roll.failed["x"])
    with pytest.raises(CriticalDegradation, match=r"1 of 3 required members of 'swarm' failed \(x\)"):
        await Degradation("swarm")(members(2, 0) | {"x": cancelled}, {})


@pytest.mark.parametrize("turns", range(4))
async def test_a_cancellation_of_the_caller_is_passed_on_and_ends_the_members(turns):
    ended = []

    async def slow():
        try:
            await asyncio.sleep(50)
        finally:
            ended.append(1)

    async def cancelled():
        raise asyncio.CancelledError

    task = asyncio.create_task(Degradation("swarm")({}, {"a": slow, "b": slow, "c": cancelled}))
    for _ in range(2 + turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert ended == [1, 1]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
async def test_a_refusal_of_an_eager_task_leaves_nothing_behind(recwarn):
    async def refusing():
        raise OrderRefused("no")

    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    with pytest.raises(OrderRefused):
        await Degradation("swarm")({"x": refusing}, members(2, 0))
    assert asyncio.current_task().cancelling() == 0
    await asyncio.sleep(0)  # where a cancellation that was left over would strike
    gc.collect()
    assert not recwarn.list


async def test_a_name_cannot_be_both():
    with pytest.raises(ConfigError, match="m0 would be required and optional"):
        await Degradation("swarm")(members(1, 0), members(1, 0))


def test_a_ladder_gets_worse_at_once_and_better_step_by_step():
    ladder = Ladder(recover_after=3)
    assert [ladder.observe(level) for level in (0, 2, 0, 0, 0, 0, 0, 0, 0)] == [0, 2, 2, 2, 1, 1, 1, 0, 0]


def test_a_relapse_starts_the_count_again():
    ladder = Ladder(recover_after=3)
    assert [ladder.observe(level) for level in (1, 0, 0, 1, 0, 0, 0)] == [1, 1, 1, 1, 1, 1, 0]
    with pytest.raises(ConfigError, match="recovers after 0 looks"):
        Ladder(0)


async def test_a_swarm_heals_by_itself_when_its_members_answer_again(heard):
    swarm = Degradation("swarm", ladder=Ladder(recover_after=2), observers=[heard])
    levels = [(await swarm({}, members(10 - bad, bad))).level for bad in (0, 6, 0, 0, 0, 0, 0)]
    assert levels == [0, 2, 2, 1, 1, 0, 0]
    assert [event.level for event in heard] == [2, 2, 1, 1, 0]
