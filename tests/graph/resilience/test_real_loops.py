"""Time-outs and cancellation on loops whose clock is real: asyncio's own, and uvloop where it is installed.

Everything else here runs on virtual time; these few wait for some hundredths of a second, because a foreign loop's
timers (uvloop's count whole milliseconds, and may be early) cannot be simulated.
"""

import asyncio
import contextlib
import importlib.util
import math

import pytest

from agents.errors import AgentTimeout, DeadlineExceeded
from graph.resilience import Guard, Retry
from graph.resilience.timeout import TimeLimit

LOOPS = [pytest.param(asyncio.SelectorEventLoop, id="asyncio")]
if importlib.util.find_spec("uvloop"):
    import uvloop

    LOOPS.append(pytest.param(uvloop.new_event_loop, id="uvloop"))
else:
    LOOPS.append(pytest.param(None, id="uvloop", marks=pytest.mark.skip(reason="uvloop is not installed")))


@pytest.fixture(params=LOOPS)
def run(request):
    def run(coroutine):
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(coroutine)

    return run


async def hang():
    await asyncio.get_running_loop().create_future()


def guard(**options):
    return Guard("g", **({"retry": None, "breaker": None, "attempt_timeout": None} | options))


def test_an_attempt_is_timed_out(run):
    with pytest.raises(AgentTimeout):
        run(guard(attempt_timeout=0.02)(hang))


def test_the_deadline_ends_attempts_and_waits(run):
    late = guard(attempt_timeout=0.01, deadline=0.05, retry=Retry(max_attempts=50, base_seconds=0.01))
    with pytest.raises((DeadlineExceeded, AgentTimeout)):
        run(late(hang))


def test_the_deadline_ends_what_swallows_its_attempt_timeout(run):
    async def deaf():
        with contextlib.suppress(asyncio.CancelledError):
            await hang()
        await asyncio.sleep(5)

    async def at_once():
        limited = guard(attempt_timeout=0.01, deadline=0.1004)  # not a whole number of milliseconds
        return await asyncio.gather(*(limited(deaf) for _ in range(100)), return_exceptions=True)

    assert {type(answer) for answer in run(at_once())} == {DeadlineExceeded}


def test_a_limit_at_infinity_never_strikes(run):
    async def limited():
        with TimeLimit(math.inf):
            await asyncio.sleep(0.01)

    run(limited())


@pytest.mark.parametrize("options", [{}, {"attempt_timeout": 5.0}, {"deadline": 5.0}])
def test_a_cancellation_from_outside_is_obeyed_at_every_turn(run, options):
    async def at_turn(turns):
        task = asyncio.create_task(guard(**options)(hang))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return task.cancelled()

    assert all(run(at_turn(turns)) for turns in range(6))


def test_cancelled_and_timed_out_at_once_is_cancelled(run):
    async def both():
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(guard(attempt_timeout=0.02)(hang))
        await asyncio.sleep(0)
        loop.call_later(0.02, task.cancel)
        with pytest.raises((asyncio.CancelledError, AgentTimeout)) as caught:
            await task
        return caught.type, task.cancelling()

    kind, asked = run(both())
    assert kind is asyncio.CancelledError or asked == 0, "a cancellation was swallowed"


def test_nested_limits_the_nearer_one_ends_it(run):
    async def inner():
        return await guard(attempt_timeout=5.0)(hang)

    async def outer():
        return await guard(attempt_timeout=0.02)(inner)

    with pytest.raises(AgentTimeout):
        run(outer())


def test_a_group_around_guards_ends_them_all(run):
    async def fail():
        await asyncio.sleep(0.01)
        raise ValueError("one of us")

    async def group():
        async with asyncio.TaskGroup() as tasks:
            for _ in range(20):
                tasks.create_task(guard(attempt_timeout=5.0)(hang))
            tasks.create_task(fail())

    with pytest.raises(ExceptionGroup, match="unhandled errors"):
        run(group())


def test_a_thousand_calls_time_out_together(run):
    async def thousand():
        limited = guard(attempt_timeout=0.05)
        return await asyncio.gather(*(limited(hang) for _ in range(1000)), return_exceptions=True)

    assert {type(answer) for answer in run(thousand())} == {AgentTimeout}
