"""Cancellation, the part that everybody gets wrong: from outside, by expiry, by both at once, and swallowed."""

import asyncio
import contextlib
import itertools
import threading

import pytest

from agents.errors import AgentTimeout, DeadlineExceeded
from graph.resilience import AttemptCancelled, Breaker, BreakerState, FaultPlan, Guard, Retry
from graph.resilience.timeout import open_scope

STEADY = Retry(max_attempts=2, jitter=(1.0, 1.0))


async def hang():
    await asyncio.Event().wait()


async def answer():
    return "ok"


def untouched(guard):
    """Nothing of any call is left in the guard: no place taken, no timer entry, no probe permit, no deadline."""
    queue = guard._queue
    return (
        guard._running == 0
        and (queue is None or not queue.entries)
        and all(breaker._in_flight == 0 for breaker in guard.breakers.values())
        and open_scope() is None
    )


async def _cancel_at(coroutine, seconds, turns, before):
    """Run a task and cancel it after virtual `seconds` and some turns of the loop; return how it ended.

    `before` arms the cancelling timer before the task arms its own, so that both orders of one instant are met.
    """
    loop = asyncio.get_running_loop()
    cancelled = []

    def cancel(left):
        if left:
            loop.call_soon(cancel, left - 1)
        else:
            cancelled.append(task.cancel())

    if before:
        loop.call_later(seconds, cancel, turns)
    task = asyncio.create_task(coroutine)
    if not before:
        await asyncio.sleep(0)
        loop.call_at(1000 + seconds, cancel, turns)
    (result,) = await asyncio.gather(task, return_exceptions=True)
    return task, result, bool(cancelled and cancelled[0])


MOMENTS = [0, 0.5, 1, 1.5, 2, 3, 3.5, 4, 4.5, 5, 5.5, 6, 6.5, 7, 7.5, 8, 9]


@pytest.mark.parametrize("before", [True, False], ids=["cancel first", "expiry first"])
@pytest.mark.parametrize("turns", range(5))
@pytest.mark.parametrize("seconds", MOMENTS)
async def test_cancelled_from_outside_at_every_await_point(path, seconds, turns, before):
    # Attempt 1 times out at 2 s, the wait ends at 3, attempt 2 fails at 4; the fallback hangs until the deadline at 8.
    calls = []

    async def primary():
        calls.append(1)
        if len(calls) == 1:
            await hang()
        await asyncio.sleep(0)
        await asyncio.sleep(1)
        raise ConnectionError("down")

    guard = Guard(
        "trend", deadline=8, attempt_timeout=2, retry=STEADY, breaker=Breaker(), fallbacks=[hang], bulkhead=3, **path
    )
    task, result, hit = await _cancel_at(guard(primary), seconds, turns, before)
    if hit:
        assert isinstance(result, asyncio.CancelledError)
        assert task.cancelled()
    else:
        assert isinstance(result, DeadlineExceeded)
        assert task.cancelling() == 0
    assert untouched(guard)


@pytest.mark.parametrize("before", [True, False], ids=["cancel first", "expiry first"])
@pytest.mark.parametrize("limits", [{"attempt_timeout": 5}, {"deadline": 5}, {"deadline": 5, "attempt_timeout": 5}])
async def test_cancel_and_expiry_in_the_same_instant_is_a_cancellation(path, limits, before):
    guard = Guard("trend", retry=None, fallbacks=[answer], last_resort=lambda: "rules", **{**limits, **path})
    _, result, hit = await _cancel_at(guard(hang), 5, 0, before)
    assert hit
    assert isinstance(result, asyncio.CancelledError)
    assert untouched(guard)


async def test_cancel_in_the_instant_of_the_answer_is_delivered_once(path):
    guard = Guard("trend", attempt_timeout=5, retry=None, **path)

    async def slow():
        await asyncio.sleep(2)
        return "ok"

    _, result, hit = await _cancel_at(guard(slow), 2, 0, before=True)
    assert hit
    assert isinstance(result, asyncio.CancelledError)
    assert untouched(guard)


async def test_expiry_in_the_instant_of_the_answer_leaves_no_pending_cancellation(path):
    guard = Guard("trend", attempt_timeout=2, retry=None, **path)

    async def exactly():
        await asyncio.sleep(2)
        return "ok"

    async def whole():
        try:
            result = await guard(exactly)
        except AgentTimeout as error:
            result = error
        await asyncio.sleep(1)  # a cancellation that was left behind would strike here
        return result, asyncio.current_task().cancelling()

    result, pending = await asyncio.create_task(whole())
    assert result == "ok" or isinstance(result, AgentTimeout)
    assert pending == 0


async def test_a_task_that_was_cancelled_already_still_gets_its_timeout(path, now):
    """In the cleanup of a cancelled task `cancelling()` is 1 from the start: the limit must count from there."""
    guard, ended = Guard("trend", attempt_timeout=5, retry=None, **path), []

    async def cleaning():
        try:
            await hang()
        finally:
            began = now()
            try:
                await guard(hang)
            except AgentTimeout:
                ended.append(now() - began)

    _, result, _ = await _cancel_at(cleaning(), 1, 0, before=True)
    assert ended == [pytest.approx(5)]
    assert isinstance(result, asyncio.CancelledError)


async def test_retries_work_in_the_cleanup_of_a_cancelled_task(path):
    guard, calls = Guard("trend", deadline=50, attempt_timeout=5, retry=STEADY, **path), []

    async def flaky():
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError
        return "saved"

    async def cleaning():
        try:
            await hang()
        finally:
            calls.append(await guard(flaky))

    await _cancel_at(cleaning(), 1, 0, before=True)
    assert calls == [1, 1, "saved"]


async def test_a_callee_that_swallows_its_timeout_and_answers_has_answered(path):
    async def stubborn():
        try:
            await hang()
        except asyncio.CancelledError:
            await asyncio.sleep(1)
            return "late"

    async def whole():
        return await guard(stubborn), asyncio.current_task().cancelling()

    guard = Guard("trend", deadline=20, attempt_timeout=5, retry=None, **path)
    assert await asyncio.create_task(whole()) == ("late", 0)
    assert untouched(guard)


def stubborn(swallows, then, calls=None):
    """A callee that ignores so many cancellations, waiting on, and then does what `then` says at the next one."""

    async def callee():
        if calls is not None:
            calls.append(1)
        for _ in range(swallows):
            with contextlib.suppress(asyncio.CancelledError):
                await hang()
        try:
            await hang()
        except asyncio.CancelledError:
            if then == "answer":
                return "late"
            if then == "fail":
                raise RuntimeError("cleanup failed") from None
            raise

    return callee


@pytest.mark.parametrize("then", ["cancelled", "answer", "fail"])
async def test_a_callee_that_swallows_its_attempt_timeout_meets_the_deadline(path, now, then, heard):
    guard = Guard("trend", deadline=8, attempt_timeout=5, retry=STEADY, observers=[heard], **path)
    began, calls = now(), []
    if then == "answer":
        assert await guard(stubborn(1, then, calls)) == "late"
    else:
        with pytest.raises(DeadlineExceeded, match="'trend' did not answer within 8 s in total"):
            await guard(stubborn(1, then, calls))
    assert now() - began == pytest.approx(8)
    assert len(calls) == 1
    assert asyncio.current_task().cancelling() == 0
    assert untouched(guard)
    ends = ["AttemptSucceeded"] if then == "answer" else ["AttemptFailed", "DeadlineExpired"]
    assert heard.kinds() == ["AttemptStarted", *ends]
    if then == "cancelled":
        assert heard[1].error.startswith("'trend' gave no answer within 8 s")
    await asyncio.sleep(20)  # no strike is left behind


@pytest.mark.parametrize("then", ["cancelled", "answer", "fail"])
@pytest.mark.parametrize("swallows", range(3))
@pytest.mark.parametrize("deadline", [5, 8, 50])
async def test_both_limits_strike_like_an_asyncio_timeout_inside_another(path, now, deadline, swallows, then):
    """When it ends, and whether by an answer, is asyncio's; what error it ends with, the guard says in own words."""

    async def nested():
        async with asyncio.timeout(deadline), asyncio.timeout(5):
            return await stubborn(swallows, then)()

    async def guarded():
        return await Guard("trend", deadline=deadline, attempt_timeout=5, retry=None, **path)(stubborn(swallows, then))

    async def ended(call):
        began, task = now(), asyncio.create_task(call())
        for seconds in (100, 200, 300):  # for those who swallow both
            asyncio.get_running_loop().call_later(seconds, task.cancel)
        (result,) = await asyncio.gather(task, return_exceptions=True)
        kind = "error" if isinstance(result, TimeoutError | RuntimeError) else result
        return round(now() - began, 6), kind if isinstance(kind, str) else type(kind), task.cancelling()

    assert await ended(guarded) == await ended(nested)


@pytest.mark.parametrize("before", [True, False], ids=["cancel first", "expiry first"])
@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize(
    ("swallows", "seconds"), [*itertools.product((0, 1), (1, 5, 6, 8, 9)), *itertools.product((2,), (1, 6, 9))]
)
async def test_a_cancellation_between_both_strikes_is_not_lost(path, swallows, seconds, turns, before):
    guard = Guard("trend", deadline=8, attempt_timeout=5, retry=STEADY, fallbacks=[hang], last_resort=answer, **path)
    task, result, hit = await _cancel_at(guard(stubborn(swallows, "cancelled")), seconds, turns, before)
    if hit:
        assert isinstance(result, asyncio.CancelledError)
        assert task.cancelled()
    else:
        assert result == "ok"
        assert task.cancelling() == 0
    assert untouched(guard)


async def test_a_deadline_around_strikes_in_a_task_of_its_own_too(path, now):
    """A callee that hands its work to a task, and does not hand on its own cancellation, is still bound by its time."""
    outer = Guard("outer", deadline=8, attempt_timeout=None, retry=None, **path)
    inner = Guard("inner", attempt_timeout=5, retry=None, **path)
    began, ended = now(), []

    async def work():
        try:
            await inner(stubborn(1, "cancelled"))
        except DeadlineExceeded:
            ended.append(now() - began)

    async def deaf():
        task = asyncio.create_task(work())
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])

    await outer(deaf)
    assert ended == [pytest.approx(8)]
    assert untouched(inner)
    assert untouched(outer)


@pytest.mark.parametrize("limits", [{"attempt_timeout": 5}, {"deadline": 5, "attempt_timeout": None}])
async def test_a_callee_that_turns_its_timeout_into_an_error_has_failed_with_it(path, limits):
    async def converting():
        try:
            await hang()
        except asyncio.CancelledError:
            raise RuntimeError("cleanup failed") from None

    guard = Guard("trend", retry=STEADY, **{**limits, **path})
    with pytest.raises((RuntimeError, DeadlineExceeded)) as caught:
        await guard(converting)
    if "deadline" not in limits:
        assert isinstance(caught.value, RuntimeError)
    assert asyncio.current_task().cancelling() == 0
    assert untouched(guard)


async def test_a_cancellation_turned_into_an_error_is_neither_retried_nor_replaced(path):
    calls = []

    async def converting():
        calls.append(1)
        try:
            await hang()
        except asyncio.CancelledError:
            raise ConnectionError("while closing") from None

    guard = Guard("trend", attempt_timeout=50, retry=STEADY, fallbacks=[answer], last_resort=answer, **path)
    _, result, hit = await _cancel_at(guard(converting), 1, 0, before=True)
    assert hit
    assert isinstance(result, ConnectionError)
    assert len(calls) == 1
    assert untouched(guard)


async def test_a_cancellation_while_an_expired_call_cleans_up_is_not_hidden_by_the_expiry(path):
    async def slow_to_close():
        try:
            await hang()
        except asyncio.CancelledError:
            try:
                await asyncio.sleep(2)
            except asyncio.CancelledError:
                raise RuntimeError("cleanup was cancelled") from None

    guard = Guard("trend", deadline=5, attempt_timeout=None, last_resort=answer, **path)
    _, result, hit = await _cancel_at(guard(slow_to_close), 6, 0, before=True)
    assert hit
    assert isinstance(result, RuntimeError)
    assert untouched(guard)


async def test_a_cancelled_call_scores_nothing_and_is_told(path, heard):
    guard = Guard("trend", retry=None, breaker=Breaker(failure_threshold=1), observers=[heard], **path)
    await _cancel_at(guard(hang), 1, 0, before=True)
    assert guard.breakers["trend"].state is BreakerState.CLOSED
    assert guard.breakers["trend"].answers == 0
    assert len(heard.of(AttemptCancelled)) == 1


async def test_a_cancelled_probe_lets_the_next_one_in(path):
    guard = Guard("trend", retry=None, breaker=Breaker(failure_threshold=1, success_threshold=1), **path)
    with pytest.raises(AgentTimeout):
        await guard(hang)
    await asyncio.sleep(60)
    await asyncio.gather(
        task := asyncio.create_task(guard(hang)), asyncio.create_task(_later(task)), return_exceptions=True
    )
    assert guard.breakers["trend"].state is BreakerState.HALF_OPEN
    assert await guard(answer) == "ok"
    assert guard.breakers["trend"].state is BreakerState.CLOSED


async def _later(task):
    await asyncio.sleep(1)
    task.cancel()


async def test_asyncio_timeout_around_and_inside(path, now):
    guard, began = Guard("trend", attempt_timeout=10, retry=None, **path), now()
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(3):
            await guard(hang)
    assert not isinstance(caught.value, AgentTimeout)
    assert now() - began == pytest.approx(3)

    async def inner():
        async with asyncio.timeout(2):
            await hang()

    with pytest.raises(TimeoutError) as caught:
        await guard(inner)
    assert not isinstance(caught.value, AgentTimeout)
    with pytest.raises(AgentTimeout):
        async with asyncio.timeout(30):
            await guard(hang)


async def test_equal_limits_nested_expire_as_the_outermost(path):
    inner = Guard("inner", attempt_timeout=5, retry=None, **path)
    outer = Guard("outer", deadline=5, attempt_timeout=None, retry=None, **path)
    with pytest.raises(DeadlineExceeded, match="'outer'"):
        await outer(inner.wrap(hang))
    assert asyncio.current_task().cancelling() == 0
    assert untouched(inner)
    assert untouched(outer)


async def test_task_groups_outside_and_inside(path, now):
    guard = Guard("trend", attempt_timeout=10, retry=None, **path)

    async def boom():
        await asyncio.sleep(1)
        raise ValueError("sibling")

    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
        async with asyncio.TaskGroup() as group:
            guarded = group.create_task(guard(hang))
            group.create_task(boom())
    assert [type(error) for error in caught.value.exceptions] == [ValueError]
    assert guarded.cancelled()
    assert untouched(guard)

    cleaned = []

    async def member():
        try:
            await hang()
        finally:
            cleaned.append(now())

    async def swarm():
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(member())

    began = now()
    with pytest.raises(AgentTimeout):
        await guard(swarm)
    assert cleaned == [pytest.approx(began + 10)] * 3


async def test_a_group_of_lost_connections_is_retried(path):
    calls = []

    async def lost():
        raise ConnectionError

    async def swarm():
        calls.append(1)
        async with asyncio.TaskGroup() as group:
            group.create_task(lost())

    with pytest.raises(ExceptionGroup):
        await Guard("trend", retry=STEADY, **path)(swarm)
    assert len(calls) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_not_an_exception_passes_and_leaves_nothing(error):
    for path in ({}, {"faults": FaultPlan()}):
        guard = Guard("trend", deadline=5, fallbacks=[answer], last_resort=answer, **path)

        async def stop():
            raise error

        async def drive(guard=guard, stop=stop):
            try:
                await guard(stop)
            except error:
                return guard._running, open_scope()
            return None

        assert asyncio.run(drive()) == (0, None)


def test_a_coroutine_that_is_closed_cleans_up_without_a_loop():
    for path in ({}, {"faults": FaultPlan()}):
        guard = Guard("trend", deadline=5, attempt_timeout=2, **path)
        kept = []

        async def begin(guard=guard, kept=kept):
            coroutine = guard(hang)
            coroutine.send(None)
            kept.append(coroutine)

        asyncio.run(begin())
        kept[0].close()
        assert untouched(guard)


async def test_outside_of_a_task_it_says_what_is_missing(path):
    caught = []

    def step():
        try:
            Guard("trend", **path)(answer).send(None)
        except RuntimeError as error:
            caught.append(str(error))

    asyncio.get_running_loop().call_soon(step)
    await asyncio.sleep(0.1)
    assert "'trend' was called outside of a task" in caught[0]


def test_one_guard_serves_one_loop_after_another(path):
    guard = Guard("trend", attempt_timeout=0.001, retry=None, **path)

    async def both():
        assert await guard(answer) == "ok"
        with pytest.raises(AgentTimeout):
            await guard(hang)

    for _ in range(3):
        asyncio.run(both())
    assert untouched(guard)


async def test_a_failed_task_group_does_not_make_the_deadline_look_like_a_cancellation(path, now):
    """Up to Python 3.12 such a group leaves `cancelling()` one too high."""
    calls, began = [], now()

    async def lost():
        raise ConnectionError

    async def swarm():
        calls.append(1)
        if len(calls) > 1:
            await hang()
        async with asyncio.TaskGroup() as group:
            group.create_task(lost())

    guard = Guard("trend", deadline=10, attempt_timeout=None, retry=STEADY, **path)
    with pytest.raises(DeadlineExceeded):
        await guard(swarm)
    assert now() - began == pytest.approx(10)
    assert len(calls) == 2
    assert asyncio.current_task().cancelling() == 0


async def test_a_real_cancellation_of_a_failing_task_group_is_still_seen(path):
    calls = []

    async def dirty():
        calls.append(1)
        try:
            await hang()
        finally:
            raise ConnectionError("while closing")

    async def swarm():
        async with asyncio.TaskGroup() as group:
            group.create_task(dirty())

    _, result, hit = await _cancel_at(Guard("trend", retry=STEADY, **path)(swarm), 1, 0, before=True)
    assert hit
    assert isinstance(result, ExceptionGroup)
    assert len(calls) == 1


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("before", [True, False], ids=["cancel first", "failure first"])
async def test_a_cancellation_in_the_instant_in_which_a_group_ends_its_own_body_is_still_seen(path, turns, before):
    """Such a group takes its own cancellation back; the one that is left is somebody else's."""
    calls = []

    async def lost():
        await asyncio.sleep(1)
        raise ConnectionError

    async def swarm():
        calls.append(1)
        async with asyncio.TaskGroup() as group:
            group.create_task(lost())
            await hang()

    guard = Guard("trend", retry=Retry(max_attempts=2, base_seconds=50), **path)
    _, result, hit = await _cancel_at(guard(swarm), 1, turns, before)
    assert hit
    assert isinstance(result, asyncio.CancelledError | ExceptionGroup)
    assert len(calls) == 1


async def test_an_error_that_is_raised_again_does_not_hide_a_cancellation(path):
    """What a group forgot was made up for when its error came out first; the same error later forgets nothing more."""
    kept = []

    async def lost():
        raise ConnectionError

    async def swarm():
        if kept:
            try:
                await hang()
            except asyncio.CancelledError:
                raise kept[0] from None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(lost())
        except ExceptionGroup as error:
            kept.append(error)
            raise

    guard = Guard("trend", retry=None, last_resort=answer, **path)

    async def twice():
        assert await guard(swarm) == "ok"
        return await guard(swarm)

    _, result, hit = await _cancel_at(twice(), 1, 0, before=True)
    assert hit
    assert isinstance(result, ExceptionGroup)
    assert untouched(guard)


async def test_a_second_loop_on_another_thread_gets_its_own_task_cancelled(path):
    guard = Guard("trend", attempt_timeout=0.01, retry=None, **path)
    await guard(answer)
    caught = []

    def other():
        async def main():
            with pytest.raises(AgentTimeout):
                await guard(hang)
            caught.append("timeout")

        asyncio.run(main())

    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    thread.join(timeout=10)  # this task is the running one of its loop all the while
    assert caught == ["timeout"]
    assert asyncio.current_task().cancelling() == 0
