import asyncio
import gc
import sys

import pytest

from agents.errors import ConfigError, OrderRefused, QuorumNotReached, UnusableAnswer
from graph.resilience import UNDECIDED, Quorum, QuorumMissed, QuorumReached, median, within


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


async def test_numbers_that_are_not_finite_move_no_median():
    quorum = Quorum("price", replicas=5, quorum_size=3, consensus=median)
    values = (10.0, float("nan"), float("inf"), 11.0, 12.0)
    assert (await quorum([replica(value, at) for at, value in enumerate(values)])).value == 11.0


def mean(answers, needed):
    return sum(answers) / len(answers) if len(answers) >= needed else UNDECIDED


@pytest.mark.parametrize("bad", ["no price", None, {"price": 1}])
@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("consensus", [median, within(1.0), mean], ids=["median", "within", "own function"])
async def test_an_answer_that_the_consensus_cannot_work_with_is_its_replicas_failure(consensus, place, bad):
    agents = [replica(10.0, 1), replica(11.0, 3)]
    agents.insert(place, replica(bad, 2 * place))  # first, between the others, or last
    agreed = await Quorum("price", consensus=consensus)([*agents, replica(10.5, 9)])
    if place == 2:  # the others had agreed by then
        assert (agreed.value, agreed.errors) == (10.5, ())
        return
    assert agreed.value == 10.5
    assert agreed.answers == (10.0, 11.0)
    (error,) = agreed.errors
    assert isinstance(error, UnusableAnswer)
    assert isinstance(error.__cause__, TypeError)
    assert f"a replica of 'price' answered with a {type(bad).__name__}" in str(error)


async def test_where_too_few_usable_answers_are_left_every_replicas_error_is_told():
    quorum = Quorum("price", replicas=4, consensus=within(1.0))
    with pytest.raises(QuorumNotReached, match="1 answered and 3 failed, and no 2 agree") as caught:
        await quorum([replica("a", 1), replica(10.0, 2), replica("b", 3), replica(ValueError("bug"), 4)])
    assert [type(error) for error in caught.value.errors] == [UnusableAnswer, UnusableAnswer, ValueError]


async def test_of_answers_that_only_do_not_go_together_the_newest_fails():
    quorum = Quorum("any", replicas=4, quorum_size=3, consensus=lambda answers, needed: sorted(answers) and UNDECIDED)
    with pytest.raises(QuorumNotReached) as caught:
        await quorum([replica(1, 1), replica("a", 2), replica(2, 3), replica(3, 4)])
    assert [str(error.__cause__) for error in caught.value.errors] == [
        "'<' not supported between instances of 'str' and 'int'"
    ]


async def test_a_consensus_that_refuses_is_not_outvoted():
    def refuse(answers, needed):
        raise OrderRefused("no")

    with pytest.raises(OrderRefused):
        await Quorum("any", consensus=refuse)([replica(1), replica(1, 50)])


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


@pytest.mark.parametrize("how", ["its own", "of its task"])
async def test_a_replica_that_ends_in_a_cancellation_which_nobody_wanted_has_failed(how):
    async def cancelled():
        if how == "of its task":
            asyncio.current_task().cancel("pool closed")
            await asyncio.sleep(1)
        raise asyncio.CancelledError("pool closed")

    agreed = await Quorum("any")([cancelled, replica(1, 2), replica(1, 3)])
    assert agreed.value == 1
    with pytest.raises(QuorumNotReached, match="1 answered and 2 failed") as caught:
        await Quorum("any")([cancelled, cancelled, replica(1)])
    for error in (*agreed.errors, *caught.value.errors):
        assert "CancelledError: pool closed" in str(error)
    assert len(agreed.errors) == 1
    assert len(caught.value.errors) == 2


async def test_those_that_were_cancelled_because_the_others_agreed_have_not_failed():
    async def failing():
        try:
            await asyncio.sleep(50)
        finally:
            raise ConnectionError("while closing")

    agreed = await Quorum("any")([replica("up", 1), replica("up", 2), replica("up", 50), failing])
    assert agreed.errors == ()


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


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
class TestEagerTasks:
    """Their first step is taken while they are made: an answer or a refusal may be there before the next replica."""

    @pytest.fixture(autouse=True)
    async def eager(self):
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)

    async def test_nobody_is_waited_for_once_the_others_agree(self, now):
        async def at_once():
            return "up"

        log, began = [], now()
        assert (await Quorum("any")([at_once, at_once, replica("x", 100, log)])).value == "up"
        assert now() - began <= 1  # to clean up

    @pytest.mark.parametrize("place", range(3))
    async def test_a_refusal_ends_the_others_and_leaves_nothing_behind(self, place, recwarn):
        async def refusing():
            raise OrderRefused("no")

        agents = [replica(1, 50), replica(1, 60)]
        agents.insert(place, refusing)
        with pytest.raises(OrderRefused):
            await Quorum("any")(agents)
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(0)  # where a cancellation that was left over would strike
        gc.collect()
        assert not recwarn.list
