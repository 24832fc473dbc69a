"""Any agent, any policy, any moment of cancellation: the inlined way and the chain do the same, and keep the bounds."""

import asyncio
import dataclasses
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.errors import AgentError, BrokerUnavailable, OrderRefused
from graph.resilience import Breaker, Budget, FaultPlan, Guard, Retry, time_left
from tests.graph.resilience.conftest import Recorder, VirtualLoop

STEPS = st.one_of(
    st.sampled_from(["answer", "lost", "bug", "refused", "unknown", "hang", "stubborn", "convert", "group", "reject"]),
    st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0, 7.0]),
)


def scripted(script, log):
    """An agent that does one step of its script a call, and the last one for ever."""
    calls = []

    async def agent():
        step = script[min(len(calls), len(script) - 1)]
        calls.append(step)
        log.append((step, time_left()))
        if isinstance(step, float):
            await asyncio.sleep(step)
            return "slow"
        return await STEP[step]()

    return agent


async def _answer():
    return "ok"


async def _hang():
    await asyncio.Event().wait()


async def _stubborn():
    try:
        await _hang()
    except asyncio.CancelledError:
        await asyncio.sleep(0.25)
        return "late"


async def _convert():
    try:
        await _hang()
    except asyncio.CancelledError:
        raise ConnectionError("while closing") from None


async def _group():
    async def lost():
        await asyncio.sleep(0.5)
        raise ConnectionError("member")

    async with asyncio.TaskGroup() as group:
        group.create_task(lost())
        group.create_task(_hang())


def _raiser(error):
    async def fail():
        raise error

    return fail


STEP = {
    "answer": _answer,
    "hang": _hang,
    "stubborn": _stubborn,
    "convert": _convert,
    "group": _group,
    "lost": _raiser(ConnectionError("lost")),
    "bug": _raiser(ValueError("bug")),
    "refused": _raiser(OrderRefused("no")),
    "unknown": _raiser(BrokerUnavailable("fate unknown")),
    "reject": _raiser(AgentError("no")),
}

# Odd numbers, so that no two things fall on one instant: which of them is then first is nobody's promise.
POLICIES = st.fixed_dictionaries(
    {
        "deadline": st.sampled_from([None, 1.71, 3.89, 10.37]),
        "attempt_timeout": st.sampled_from([1.13, 2.29, 3.41, 30.0]),
        "retry": st.sampled_from([None, "steady", "budget"]),
        "breaker": st.sampled_from([None, "one", "rate"]),
        "bulkhead": st.sampled_from([None, 1]),
    }
)


def build(policy, fallbacks, last_resort, heard, **path):
    retries = {
        None: None,
        "steady": Retry(max_attempts=3, jitter=(1, 1)),
        "budget": Retry(jitter=(1, 1), budget=Budget(reserve=1)),
    }
    breakers = {
        None: None,
        "one": Breaker(failure_threshold=2, success_threshold=1, open_seconds=5),
        "rate": Breaker(failure_threshold=100, failure_rate=0.5, slow_seconds=1.47, calls_min=2, open_seconds=5),
    }
    chosen = {**policy, "retry": retries[policy["retry"]], "breaker": breakers[policy["breaker"]]}
    resort = (lambda: "rules") if last_resort else None
    dice = Random(1)  # noqa: S311
    common = {"last_resort": resort, "observers": [heard], "random": dice}
    return Guard("trend", **chosen, fallbacks=fallbacks, **common, **path)


def play(policy, scripts, last_resort, cancel_at, path):
    """Call one guard five times, three of them at once; return all that can be seen of it."""
    heard, log, ends = Recorder(), [], []

    async def one(guard, agent, at, cancelled):
        loop = asyncio.get_running_loop()
        await asyncio.sleep(at)
        began = loop.time()
        task = asyncio.create_task(guard(agent))
        if cancelled:
            loop.call_later(cancel_at, task.cancel)
        (result,) = await asyncio.gather(task, return_exceptions=True)
        ends.append((at, repr(result)[:60], loop.time() - began, task.cancelling()))

    async def main():
        agents = [scripted(script, log) for script in scripts]
        guard = build(policy, agents[1:], last_resort, heard, **path)
        async with asyncio.TaskGroup() as group:
            for number, at in enumerate((0.0, 0.013, 0.029, 20.0, 40.0)):
                group.create_task(one(guard, agents[0], at, cancel_at is not None and number % 2 == 0))
        assert guard._running == 0
        assert not guard._queue.entries
        assert all(breaker._in_flight == 0 for breaker in guard.breakers.values())
        return {name: (breaker.state, breaker.failures, breaker.answers) for name, breaker in guard.breakers.items()}

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main()), ends, log, list(heard)


@settings(max_examples=60, deadline=None)
@given(
    policy=POLICIES,
    scripts=st.lists(st.lists(STEPS, min_size=1, max_size=4), min_size=1, max_size=3),
    last_resort=st.booleans(),
    cancel_at=st.sampled_from([None, 0.07, 0.56, 1.03, 2.19, 3.57]),
)
def test_both_ways_do_the_same_and_keep_the_bounds(policy, scripts, last_resort, cancel_at):
    inline = play(policy, scripts, last_resort, cancel_at, {})
    chain = play(policy, scripts, last_resort, cancel_at, {"faults": FaultPlan()})
    assert inline == chain
    for _, result, seconds, pending in inline[1]:
        if policy["deadline"] is not None:
            assert seconds <= policy["deadline"] + 0.25 + 1e-6  # the stubborn agent takes a quarter of a second more
        if "Cancelled" not in result:
            assert pending <= (cancel_at is not None)


class Falsy(ConnectionError):
    def __bool__(self):
        return False

    def __len__(self):
        return 0


async def test_an_error_that_counts_as_false_is_an_error(path):
    calls = []

    async def down():
        calls.append(1)
        raise Falsy

    with pytest.raises(Falsy):
        await Guard("trend", retry=Retry(max_attempts=3), breaker=None, **path)(down)
    assert len(calls) == 3
    assert (await Guard("trend", retry=None, last_resort=lambda: "rules", **path).ask(down)).value == "rules"


async def test_a_fallback_that_counts_as_false_is_asked(path):
    class Rules(list[str]):  # an empty one
        async def __call__(self):
            return "rules"

    asked = await Guard("trend", retry=None, fallbacks=[Rules()], **path).ask(STEP["lost"])
    assert (asked.value, asked.link) == ("rules", "trend/fallback-1")


async def test_an_error_that_takes_no_note_comes_out_without(path):
    @dataclasses.dataclass(frozen=True)
    class Frozen(Exception):
        code: int

    error = Frozen(7)
    with pytest.raises(Frozen) as caught:
        await Guard("trend", **path)(_raiser(error))
    assert caught.value is error


async def test_calls_that_are_refused_pay_for_nobodys_retries(path):
    budget = Budget(ratio=0.5, reserve=1)
    refusing = Guard("one", retry=Retry(budget=budget), last_resort=lambda: "rules", **path)
    refusing.breakers["one"].isolate("an outage")
    budget.withdraw()
    for _ in range(100):
        assert await refusing(STEP["answer"]) == "rules"
    assert budget.tokens == 0
    refusing.breakers["one"].release()
    for paid in (0.5, 1.0):
        assert await refusing(STEP["answer"]) == "ok"
        assert budget.tokens == paid
