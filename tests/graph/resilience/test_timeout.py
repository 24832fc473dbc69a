import asyncio

import pytest

from agents.clock import monotonic
from graph.resilience.timeout import DeadlineQueue, TimeLimit, time_of


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
        queue.entries[task] = when = now() + 5
        if queue.handle is None:
            queue.arm(when)
        try:
            await asyncio.sleep(length)
        except asyncio.CancelledError:
            task.uncancel()
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


async def test_the_clock_of_a_loop_with_its_own_time_is_used(now):
    assert time_of(asyncio.get_running_loop())() == now()
    patched = asyncio.SelectorEventLoop()
    try:
        assert time_of(patched) is monotonic
        patched.time = lambda: 42.0
        assert time_of(patched)() == 42.0
    finally:
        patched.close()
