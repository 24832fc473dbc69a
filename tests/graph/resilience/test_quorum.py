import asyncio

import pytest

from agents.errors import ConfigError, OrderRefused, QuorumNotReached
from graph.resilience import Quorum, QuorumMissed, QuorumReached, median, within


def replica(answer, seconds=0.0, log=None):
    async def agent(*args):
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            if log is not None:
                await asyncio.sleep(1)
                log.append(answer)
            raise
        if isinstance(answer, Exception):
            raise answer
        return answer

    return agent


async def test_the_first_two_that_agree_decide_and_the_rest_is_cancelled_and_awaited(now, heard):
    log, began = [], now()
    quorum = Quorum("direction", observers=[heard])
    agreed = await quorum([replica("up", 1), replica("down", 2), replica("up", 3), replica("x", 100, log)], "view")
    assert agreed.value == "up"
    assert agreed.answers == ("up", "down", "up")
    assert now() - began == pytest.approx(3 + 1)  # the cancelled one needed a second to clean up
    assert log == ["x"]
    assert len(asyncio.all_tasks()) == 1
    assert heard == [QuorumReached("direction", "direction", now(), 3, 0)]


async def test_one_function_is_asked_as_often_as_there_are_replicas(now):
    calls, began = [], now()

    async def agent(view, *, depth):
        calls.append((view, depth))
        await asyncio.sleep(len(calls))
        return 7

    assert (await Quorum("any", replicas=5, quorum_size=3)(agent, "BTC", depth=2)).value == 7
    assert calls == [("BTC", 2)] * 5
    assert now() - began == pytest.approx(3)  # they ran at the same time, and three were enough


async def test_failures_are_outvoted(heard):
    agreed = await Quorum("any", observers=[heard])([replica(ConnectionError("x")), replica(1, 2), replica(1, 3)])
    assert agreed.value == 1
    assert [str(error) for error in agreed.errors] == ["x"]


async def test_too_few_that_agree_is_an_error_with_every_replicas_error(heard):
    quorum = Quorum("any", observers=[heard])
    with pytest.raises(
        QuorumNotReached, match="of 3 replicas of 'any' 2 answered and 1 failed, and no 2 agree"
    ) as caught:
        await quorum([replica("a"), replica("b"), replica(ValueError("bug"))])
    assert [repr(error) for error in caught.value.errors] == ["ValueError('bug')"]
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert type(heard[0]) is QuorumMissed
    with pytest.raises(QuorumNotReached):
        await quorum([replica("a"), replica("b"), replica("c")])


async def test_median_takes_the_first_needed_numbers():
    quorum = Quorum("price", replicas=5, quorum_size=3, consensus=median)
    agreed = await quorum([replica(10.0, 1), replica(1e9, 2), replica(11.0, 3), replica(12.0, 4), replica(0.0, 5)])
    assert agreed.value == 11.0


async def test_within_a_tolerance_the_outlier_does_not_count():
    quorum = Quorum("price", replicas=4, consensus=within(0.5))
    agreed = await quorum([replica(10.0, 1), replica(99.0, 2), replica(float("nan"), 3), replica(10.4, 4)])
    assert agreed.value == pytest.approx(10.2)
    with pytest.raises(QuorumNotReached):
        await quorum([replica(1.0), replica(2.0), replica(3.0), replica(float("inf"))])


async def test_any_function_may_decide():
    quorum = Quorum("any", consensus=lambda answers, needed: max(answers))
    assert (await quorum([replica(1, 5), replica(2, 6), replica(3, 2)])).value == 3


async def test_a_refusal_is_not_outvoted_and_ends_the_others(now):
    began = now()
    with pytest.raises(OrderRefused):
        await Quorum("any")([replica(OrderRefused("no"), 1), replica(1, 50), replica(1, 60)])
    assert now() - began == pytest.approx(1)
    assert asyncio.current_task().cancelling() == 0


async def test_cancelling_the_quorum_cancels_its_replicas():
    log = []
    task = asyncio.create_task(Quorum("any")([replica(n, 50, log) for n in range(3)]))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(log) == [0, 1, 2]


async def test_an_answer_that_comes_in_spite_of_the_cancellation_changes_nothing():
    async def stubborn():
        try:
            await asyncio.sleep(50)
        except asyncio.CancelledError:
            return "down"

    async def refusing():
        try:
            await asyncio.sleep(50)
        except asyncio.CancelledError:
            raise OrderRefused("late") from None

    agreed = await Quorum("any")([replica("up", 1), replica("up", 2), stubborn, refusing])
    assert (agreed.value, agreed.answers) == ("up", ("up", "up"))


async def test_a_quorum_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="needs 4 of 3 replicas"):
        Quorum("any", quorum_size=4)
    with pytest.raises(ConfigError, match="needs 0 of 3"):
        Quorum("any", quorum_size=0)
    with pytest.raises(ConfigError, match="needs 2 of 1"):
        await Quorum("any")([replica(1)])
