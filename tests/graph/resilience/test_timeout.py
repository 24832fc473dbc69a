import asyncio
import math

import pytest

from agents.clock import monotonic
from graph.resilience.timeout import EARLY_SECONDS, DeadlineQueue, TimeLimit, take_back, time_of


async def hang():
    await asyncio.Event().wait()


async def test_a_limit_strikes_in_time_and_says_so(now):
    limit, began = TimeLimit(now() + 5), now()
    with pytest.raises(TimeoutError), limit:
        await hang()
    assert limit.expired
    assert now() - began == pytest.approx(5)
    assert asyncio.current_task().cancelling() == 0


async def test_a_limit_that_is_not_reached_leaves_no_timer(now):
    limit = TimeLimit(now() + 5)
    with limit:
        await asyncio.sleep(4)
    await asyncio.sleep(10)
    assert not limit.expired


async def test_a_limit_in_the_past_strikes_at_the_first_await(now):
    reached = []
    with pytest.raises(TimeoutError), TimeLimit(now() - 1):  # noqa: PT012
        reached.append("no await yet")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        reached.append("never")
    assert reached == ["no await yet"]


async def test_a_timeout_of_the_block_itself_is_passed_on_and_not_claimed(now):
    limit = TimeLimit(now() + 5)
    with pytest.raises(TimeoutError, match="its own"), limit:
        raise TimeoutError("its own")
    assert not limit.expired


@pytest.mark.parametrize(("outer", "inner"), [(3, 5), (5, 3), (5, 5)])
async def test_nested_limits_strike_once_and_by_their_own_name(now, outer, inner):
    out, into = TimeLimit(now() + outer), TimeLimit(now() + inner)
    began, caught = now(), ""
    try:
        with out:
            try:
                with into:
                    await hang()
            except TimeoutError:
                caught = "inner"
                raise
    except TimeoutError:
        caught = caught or "outer"
    assert caught == ("inner" if inner < outer else "outer")
    assert now() - began == pytest.approx(min(inner, outer))
    assert asyncio.current_task().cancelling() == 0


async def test_a_limit_at_infinity_is_no_timer():
    limit, loop = TimeLimit(math.inf), asyncio.get_running_loop()
    before = len(loop._scheduled)
    with limit:
        assert len(loop._scheduled) == before
        await asyncio.sleep(1e9)
    assert not limit.expired


async def test_a_limit_needs_a_task():
    caught = []

    def step():
        with pytest.raises(RuntimeError, match="needs a task"):
            TimeLimit(0).__enter__()
        caught.append(1)

    asyncio.get_running_loop().call_soon(step)
    await asyncio.sleep(0.1)
    assert caught


async def test_a_queue_strikes_only_those_that_are_due_with_a_single_timer(now):
    loop = asyncio.get_running_loop()
    queue, struck = DeadlineQueue(loop, 1), []

    async def wait(start, length):
        await asyncio.sleep(start)
        task = asyncio.current_task()
        queue.entries[task] = scope = [None, None, now() + 5]
        if queue.handle is None:
            queue.arm(scope[2])
        try:
            await asyncio.sleep(length)
        except asyncio.CancelledError:
            assert take_back(task, scope) == 1
            struck.append((start, now() - start))
        assert len(loop._scheduled) <= 40
        queue.entries.pop(task, None)

    began = now()
    async with asyncio.TaskGroup() as group:
        for start in range(20):
            group.create_task(wait(start, 100 if start % 2 else 1))
    assert [start for start, _ in struck] == list(range(1, 20, 2))
    assert all(after - began == pytest.approx(5) for _, after in struck)
    await asyncio.sleep(10)
    assert queue.handle is None  # an empty queue keeps no timer


@pytest.mark.parametrize(
    ("own", "outer", "second"),
    [(8, None, 8), (None, 7, 7), (8, 20, 8), (None, None, None), (math.inf, None, None), (5, None, None)],
)
async def test_a_queue_strikes_again_at_the_deadline_and_only_once_more(now, own, outer, second):
    """Limit 5; a call that swallows its cancellation meets the next one at its own deadline, or at one around it."""
    loop, began, struck = asyncio.get_running_loop(), now(), []
    around = None if outer is None else [began + outer, None]
    queue, task = DeadlineQueue(loop, 1), asyncio.current_task()
    queue.entries[task] = scope = [None if own is None else began + own, around, began + 5]
    queue.arm(began + 5)
    while now() < began + 30:
        try:
            await asyncio.sleep(began + 30 - now())
        except asyncio.CancelledError:
            struck.append(round(now() - began, 6))
    assert struck == [5] if second is None else [5, second]
    assert task not in queue.entries
    assert scope[2] is None  # no timer, not even at infinity
    assert take_back(task, scope) == len(struck)
    assert task.cancelling() == 0


async def test_a_call_that_ends_after_its_first_strike_is_not_struck_again(now):
    loop = asyncio.get_running_loop()
    queue, task = DeadlineQueue(loop, 1), asyncio.current_task()
    queue.entries[task] = scope = [now() + 8, None, now() + 5]
    queue.arm(now() + 5)
    with pytest.raises(asyncio.CancelledError):
        await hang()
    assert take_back(task, scope) == 1
    await asyncio.sleep(20)


async def test_a_strike_that_a_loop_runs_a_moment_too_early_is_not_put_off(now):
    loop, began = asyncio.get_running_loop(), now()
    queue, task = DeadlineQueue(loop, 1), asyncio.current_task()
    queue.entries[task] = scope = [None, None, began + 5]
    loop.call_at(began + 5 - EARLY_SECONDS / 2, queue._strike)
    with pytest.raises(asyncio.CancelledError):
        await hang()
    assert now() < began + 5
    assert take_back(task, scope) == 1


async def test_a_second_strike_that_a_loop_runs_too_early_waits_for_its_time(now):
    """A loop that counts whole milliseconds may be half of one too soon; the call would not know what struck it."""
    loop, began, struck = asyncio.get_running_loop(), now(), []
    queue, task = DeadlineQueue(loop, 1), asyncio.current_task()
    queue.entries[task] = scope = [began + 8, None, began + 5]
    queue.arm(began + 5)
    for _ in range(2):
        try:
            await hang()
        except asyncio.CancelledError:
            struck.append(now() - began)
        if len(struck) == 1:
            scope[2].cancel()
            loop.call_at(began + 7.9995, queue._strike_again, task, scope, began + 8)
    assert struck == [pytest.approx(5), pytest.approx(8, abs=1e-6)]
    assert take_back(task, scope) == 2


async def test_the_clock_of_a_loop_with_its_own_time_is_used(now):
    assert time_of(asyncio.get_running_loop())() == now()
    patched = asyncio.SelectorEventLoop()
    try:
        assert time_of(patched) is monotonic
        patched.time = lambda: 42.0
        assert time_of(patched)() == 42.0
    finally:
        patched.close()
