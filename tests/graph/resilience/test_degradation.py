import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.errors import ConfigError, CriticalDegradation, OrderRefused
from graph.resilience import Degradation, Degraded, Guard, Ladder, level_of, too_many_missing


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


@pytest.mark.parametrize(
    ("answered", "asked", "level"),
    [(10, 10, 0), (8, 10, 0), (7, 10, 1), (5, 10, 1), (4, 10, 2), (0, 10, 2), (0, 0, 0), (4, 5, 0)],
)
def test_levels_change_below_80_and_below_50_percent(answered, asked, level):
    assert level_of(answered, asked) == level


@pytest.mark.parametrize(
    ("failed", "required", "critical"), [(3, 10, False), (4, 10, True), (1, 3, True), (0, 0, False), (1, 4, False)]
)
def test_more_than_30_percent_of_the_required_is_critical(failed, required, critical):
    assert too_many_missing(failed, required) is critical


@given(st.integers(1, 400))
def test_thresholds_are_exact_at_every_size(tens):
    asked = 10 * tens
    assert not too_many_missing(3 * tens, asked)
    assert too_many_missing(3 * tens + 1, asked)
    assert (level_of(8 * tens, asked), level_of(8 * tens - 1, asked)) == (0, 1)
    assert (level_of(5 * tens, asked), level_of(5 * tens - 1, asked)) == (1, 2)


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
