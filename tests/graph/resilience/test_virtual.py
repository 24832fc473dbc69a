"""The loop with virtual time: it jumps, it is fair to nobody in particular, and it never waits for ever."""

import asyncio
import itertools
import math
import threading

import pytest

from graph.resilience import Guard, Retry
from graph.resilience.retry import JITTER
from graph.resilience.virtual import VirtualClock, VirtualLoop


def order_of(seed, tasks=8):
    """In which order tasks that are ready at once take their turns."""
    turns = []

    async def take(number):
        turns.append(number)
        await asyncio.sleep(0)
        turns.append(number)

    async def main():
        async with asyncio.TaskGroup() as group:
            for number in range(tasks):
                group.create_task(take(number))

    with VirtualClock(seed) as clock:
        clock.run(main())
    return turns


def test_a_seed_fixes_the_order_of_tasks_and_another_seed_another():
    assert order_of(1) == order_of(1)
    assert len({tuple(order_of(seed)) for seed in range(10)}) == 10
    assert sorted(order_of(1)) == sorted([*range(8), *range(8)])


def test_without_a_seed_the_order_is_that_of_asyncio():
    turns = []

    async def take(number):
        turns.append(number)

    async def main():
        await asyncio.gather(*(take(number) for number in range(8)))

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
    assert turns == list(range(8))


@pytest.mark.parametrize("seed", range(5))
def test_plain_callbacks_keep_the_order_that_asyncio_promises(seed):
    heard = []

    async def main():
        loop = asyncio.get_running_loop()
        tasks = [asyncio.ensure_future(asyncio.sleep(0)) for _ in range(5)]
        for number in range(10):
            loop.call_soon(heard.append, number)
        await asyncio.gather(*tasks)

    with VirtualClock(seed) as clock:
        clock.run(main())
    assert heard == list(range(10))


def test_timers_come_in_the_order_of_their_times():
    heard = []

    async def wait(seconds):
        await asyncio.sleep(seconds)
        heard.append((seconds, asyncio.get_running_loop().time()))

    async def main():
        await asyncio.gather(*(wait(seconds) for seconds in (86_400.0, 0.001, 60.0)))

    with VirtualClock() as clock:
        clock.run(main())
        assert clock.now == pytest.approx(1000 + 86_400)
    assert heard == [(0.001, pytest.approx(1000.001)), (60.0, pytest.approx(1060)), (86_400.0, pytest.approx(87_400))]


def test_timers_that_only_rounding_keeps_apart_are_due_in_the_same_turn():
    heard = []

    async def main():
        loop = asyncio.get_running_loop()
        loop.call_at(1005, lambda: loop.call_soon(heard.append, "next turn"))
        loop.call_at(1005 + 1e-10, heard.append, "this turn")
        await asyncio.sleep(10)

    with VirtualClock() as clock:
        clock.run(main())
    assert heard == ["this turn", "next turn"]


def test_a_deadlock_names_who_waits_and_when():
    async def wait():
        await asyncio.Event().wait()

    async def main():
        await asyncio.sleep(5)
        async with asyncio.TaskGroup() as group:
            for number in range(12):
                group.create_task(wait(), name=f"waiter-{number:02}")

    with VirtualClock() as clock, pytest.raises(RuntimeError) as caught:
        clock.run(main())
    text = str(caught.value)
    assert text.startswith("simulation deadlock at 1005.000 s: nothing is ready and no timer is set, so 13 tasks")
    assert "waiter-00" in text
    assert "..." in text
    assert "\n" not in text


def test_a_timer_at_infinity_is_no_timer():
    async def main():
        await asyncio.sleep(5)
        async with asyncio.timeout_at(math.inf):
            await asyncio.gather(asyncio.sleep(math.inf), asyncio.sleep(7), asyncio.Event().wait())

    with VirtualClock() as clock, pytest.raises(RuntimeError, match=r"simulation deadlock at 1012.000 s: .* 3 tasks"):
        clock.run(main())


@pytest.mark.parametrize("seconds", [1e7, 1e9, 1e15])
def test_time_goes_on_where_a_float_cannot_tell_nanoseconds_apart(seconds):
    with VirtualClock() as clock:
        clock.run(asyncio.sleep(seconds))
        clock.run(asyncio.sleep(1))
        assert clock.now == 1001 + seconds


class TestCallsThatWouldGetAThread:
    def test_they_run_inline_and_outside_of_the_loop(self):
        def call():
            with pytest.raises(RuntimeError):
                asyncio.get_running_loop()
            return threading.get_ident()

        async def main():
            return await asyncio.to_thread(call), asyncio.get_running_loop()

        with VirtualClock() as clock:
            thread, loop = clock.run(main())
        assert thread == threading.get_ident()
        assert isinstance(loop, VirtualLoop)

    def test_their_errors_are_the_callers(self):
        def fail():
            raise ValueError("no")

        with VirtualClock() as clock, pytest.raises(ValueError, match="no"):
            clock.run(asyncio.to_thread(fail))

    def test_a_caller_that_was_cancelled_meanwhile_stays_cancelled(self):
        problems = []

        async def main():
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: problems.append(context))
            task = asyncio.ensure_future(asyncio.to_thread(lambda: 1))
            loop.call_soon(task.cancel)  # after the call, and before its answer
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0)

        for seed in range(4):
            with VirtualClock(seed) as clock:
                clock.run(main())
        assert problems == []


def waits(seed):
    """The back-offs of a guard that was given no randomness of its own."""
    taken = []

    async def sleep(seconds):
        taken.append(seconds)

    async def fail():
        raise ConnectionError

    with VirtualClock(seed) as clock, pytest.raises(ConnectionError):
        clock.run(Guard("x", retry=Retry(max_attempts=4), sleep=sleep)(fail))
    return taken


def test_the_jitter_of_retries_follows_the_seed_and_is_as_before_afterwards():
    before = JITTER.getstate()
    assert waits(1) == waits(1) != waits(2)
    assert JITTER.getstate() == before


def test_inside_of_a_running_loop_it_says_what_to_do():
    async def inner():
        pytest.fail("it was run")

    async def main():
        with VirtualClock() as clock, pytest.raises(RuntimeError, match="the coroutine was not run"):
            clock.run(inner())

    with VirtualClock() as outer:
        outer.run(main())


def test_what_is_left_on_the_loop_is_cancelled_at_the_end():
    ended = []

    async def linger():
        try:
            await asyncio.sleep(10)
        finally:
            ended.append(1)

    async def main():
        tasks.append(asyncio.ensure_future(linger()))
        await asyncio.sleep(0)

    tasks = []
    with VirtualClock() as clock:
        clock.run(main())
        assert not ended
    assert ended == [1]


def test_different_seeds_find_different_interleavings_of_a_race():
    """A lost update that asyncio's own order never shows is found by some seed: what the shuffling is for."""

    def final(seed):
        value = 0

        async def add(amount):
            nonlocal value
            for _ in range(2):
                read = value
                await asyncio.sleep(0)
                value = read + amount

        async def main():
            await asyncio.gather(add(1), add(10))

        with VirtualClock(seed) as clock:
            clock.run(main())
        return value

    assert len({final(seed) for seed in itertools.islice(itertools.count(), 20)}) > 1
