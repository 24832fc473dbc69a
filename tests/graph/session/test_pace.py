"""Session time: every timer goes as fast as the others, and the clock with them."""

import asyncio
from time import monotonic

import pytest

from agents.errors import ConfigError
from graph.session.pace import LoopClock, PacedLoop, loop_factory


def run(coroutine, speed):
    with asyncio.Runner(loop_factory=lambda: PacedLoop(speed)) as runner:
        return runner.run(coroutine)


def test_an_hour_at_a_thousand_times_takes_seconds_and_is_an_hour_on_the_clock():
    async def wait():
        loop, clock, began = asyncio.get_running_loop(), LoopClock(10**18), monotonic()
        at = loop.time()
        await asyncio.sleep(60)
        return loop.time() - at, clock.now_ns() - 10**18, monotonic() - began

    loop_s, clock_ns, wall_s = run(wait(), 1_000)
    assert loop_s >= 60
    assert clock_ns >= 60 * 10**9
    assert wall_s < 30, "a minute in far less than one, however loaded the machine is"


def test_timers_fire_in_their_order():
    async def order():
        fired, loop = [], asyncio.get_running_loop()
        for delay in (3, 1, 2):
            loop.call_later(delay, fired.append, delay)
        await asyncio.sleep(4)
        return fired

    assert run(order(), 500) == [1, 2, 3]


def test_a_clock_can_be_put_forward_and_never_back():
    async def shift():
        clock = LoopClock(1_000)
        clock.advance_to(10**12)
        ahead = clock.now_ns()
        clock.advance_to(5)
        return ahead, clock.now_ns()

    ahead, after = run(shift(), 1)
    assert 10**12 <= ahead <= after


def test_the_usual_speed_takes_the_usual_loop():
    assert loop_factory(1) is None
    factory = loop_factory(2)
    loop = factory()
    assert isinstance(loop, PacedLoop)
    loop.close()


@pytest.mark.parametrize("speed", [0, -1, float("nan"), float("inf"), 1_001])
def test_a_speed_that_is_none_is_refused(speed):
    with pytest.raises(ConfigError, match=r"--speed is .*nothing was run"):
        loop_factory(speed)
