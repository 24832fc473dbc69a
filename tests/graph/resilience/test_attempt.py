"""What one attempt comes to, on both ways of a guard: hostile errors, failing observers, cancellations in disguise."""

import asyncio

import pytest

from agents.errors import AgentTimeout, AgentUnavailable, DeadlineExceeded, FallbackExhausted, OrderRefused
from graph.resilience import AttemptCancelled, AttemptFailed, Breaker, BreakerState, Guard, LastResortUsed, Retry
from graph.resilience.attempt import abandon, score


class Mute(ConnectionError):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


async def mute():
    raise Mute


async def answer():
    return "ok"


async def hang():
    await asyncio.Event().wait()


async def outcome(coroutine):
    """Run it in a task of its own: what comes out, and how many cancellations of the task are left pending."""
    task = asyncio.create_task(coroutine)
    (result,) = await asyncio.gather(task, return_exceptions=True)
    return result, task.cancelling()


# -- errors that cannot be printed


@pytest.mark.parametrize("watched", [True, False])
async def test_an_error_that_cannot_say_what_it_is_counts_and_is_told_and_the_fallback_answers(path, heard, watched):
    observers = [heard] if watched else []
    policy = Breaker(failure_threshold=2)
    guard = Guard("trend", retry=None, breaker=policy, fallbacks=[answer], observers=observers, **path)
    for _ in range(2):
        assert await guard(mute) == "ok"
    assert guard.breakers["trend"].state is BreakerState.OPEN
    assert guard.breakers["trend"].reason == "failures in a row: 2; the last was Mute"
    assert [(event.error, event.error_type) for event in heard.of(AttemptFailed)] == [("Mute", "Mute")] * 2 * watched


async def test_a_probe_that_fails_without_a_text_opens_again(path):
    guard = Guard("trend", retry=None, breaker=Breaker(failure_threshold=1), fallbacks=[answer], **path)
    for _ in range(2):
        assert await guard(mute) == "ok"
        await asyncio.sleep(60)
    assert guard.breakers["trend"].reason == "a probe failed (Mute)"


async def test_a_chain_of_errors_without_text_is_exhausted_and_the_last_resort_told_of_them(path, heard):
    async def mute_too():
        raise Mute

    with pytest.raises(FallbackExhausted, match="trend: Mute; trend/mute_too: Mute"):
        await Guard("trend", retry=None, fallbacks=[mute_too], **path)(mute)

    def fail():
        raise Mute

    with pytest.raises(FallbackExhausted, match=r"its last resort too \(Mute\)"):
        await Guard("trend", retry=None, last_resort=fail, observers=[heard], **path)(mute)
    assert heard.of(LastResortUsed)[0].error == "Mute"


async def test_an_answer_that_cannot_be_shown_is_refused_like_any_other(path):
    class Opaque:
        def __repr__(self):
            raise RuntimeError("no repr")

    async def opaque():
        return Opaque()

    with pytest.raises(AgentUnavailable, match=r"'trend' answered something that cannot be shown \(Opaque\)"):
        await Guard("trend", accept=lambda value: False, **path)(opaque)


# -- observers that fail


def stop(event):
    raise SystemExit(1)


def test_an_observer_that_ends_the_program_keeps_no_failure_from_counting():
    guard = Guard("trend", observers=[stop])
    link = guard.links[0]
    permit = link.breaker.acquire()
    with pytest.raises(SystemExit):
        score(guard, link, permit, 1, seconds=1.0, error=ConnectionError())
    assert link.breaker.failures == 1


def test_an_observer_that_ends_the_program_keeps_no_permit():
    now = 0.0
    guard = Guard("trend", observers=[stop], breaker=Breaker(failure_threshold=1), clock=lambda: now)
    link = guard.links[0]
    with pytest.raises(SystemExit):
        link.breaker.failure(link.breaker.acquire())
    now = 60.0
    with pytest.raises(SystemExit):
        link.breaker.acquire()  # told of being half-open
    permit = link.breaker.acquire()
    with pytest.raises(SystemExit):
        abandon(guard, link, permit, 1, 1.0)
    assert link.breaker.acquire() is not None


# -- cancellations that come back in disguise, or that nobody asked for


def grouped(*errors):
    async def fail():
        raise BaseExceptionGroup("members", errors)

    return fail


def on_cancel(*others):
    """An agent that gives its own cancellation back in a group, beside other errors."""

    async def agent():
        try:
            await hang()
        except asyncio.CancelledError as error:
            raise BaseExceptionGroup("closing", [error, *others]) from None

    return agent


async def test_a_cancelled_task_that_the_agent_shares_with_others_is_the_agents_failure(path, heard):
    async def shares():
        shared = asyncio.create_task(hang())
        asyncio.get_running_loop().call_later(1, shared.cancel)
        await shared

    guard = Guard("trend", retry=None, fallbacks=[answer], observers=[heard], **path)
    assert await outcome(guard(shares)) == ("ok", 0)
    assert guard.breakers["trend"].failures == 1
    assert heard.of(AttemptFailed)[0].error_type == "AgentUnavailable"
    with pytest.raises(AgentUnavailable, match=r"'trend' ended in a cancellation that nobody had asked for") as caught:
        await Guard("trend", retry=None, **path)(shares)
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)


async def test_a_group_with_a_cancellation_that_nobody_asked_for_is_the_failure_that_is_left_of_it(path):
    guard = Guard("trend", retry=None, fallbacks=[answer], **path)
    assert await guard(grouped(asyncio.CancelledError(), ConnectionError())) == "ok"
    assert await guard(grouped(asyncio.CancelledError(), asyncio.CancelledError())) == "ok"
    assert guard.breakers["trend"].failures == 2


async def test_a_refusal_beside_a_cancellation_stays_a_refusal(path):
    guard = Guard("broker", fallbacks=[answer], last_resort=answer, **path)
    with pytest.raises(ExceptionGroup) as caught:
        await guard(grouped(asyncio.CancelledError(), OrderRefused("no")))
    assert [type(error) for error in caught.value.exceptions] == [OrderRefused]
    assert guard.breakers["broker"].failures == 0


async def test_an_interrupt_beside_a_cancellation_stays_an_interrupt(path):
    guard = Guard("trend", fallbacks=[answer], last_resort=answer, **path)
    with pytest.raises(BaseExceptionGroup) as caught:
        await guard(grouped(asyncio.CancelledError(), KeyboardInterrupt(), ConnectionError()))
    assert caught.value.subgroup(KeyboardInterrupt)
    assert guard.breakers["trend"].failures == 0


async def test_a_timeout_that_comes_back_in_a_group_is_a_timeout(path):
    guard = Guard("trend", attempt_timeout=5, retry=None, **path)
    result, pending = await outcome(guard(on_cancel()))
    assert isinstance(result, AgentTimeout)
    assert pending == 0
    guard = Guard("trend", attempt_timeout=5, retry=None, fallbacks=[answer], **path)
    assert await outcome(guard(on_cancel(ConnectionError()))) == ("ok", 0)
    assert guard.breakers["trend"].failures == 1
    result, _ = await outcome(guard(on_cancel(OrderRefused("no"))))
    assert isinstance(result, ExceptionGroup)  # the broker had answered before the time was up


@pytest.mark.parametrize("others", [(), (ConnectionError(),), (OrderRefused("no"),)], ids=["alone", "lost", "refused"])
async def test_a_deadline_that_comes_back_in_a_group_is_a_deadline(path, others):
    limits = {"deadline": 5, "attempt_timeout": None, "retry": None}
    result, pending = await outcome(Guard("trend", **limits, **path)(on_cancel(*others)))
    assert isinstance(result, DeadlineExceeded)
    assert pending == 0
    assert await outcome(Guard("trend", last_resort=answer, **limits, **path)(on_cancel(*others))) == ("ok", 0)


async def test_a_real_cancellation_in_a_group_is_obeyed(path, heard):
    guard = Guard("trend", retry=None, fallbacks=[answer], last_resort=answer, observers=[heard], **path)
    task = asyncio.create_task(guard(on_cancel(ConnectionError())))
    await asyncio.sleep(1)
    task.cancel()
    (result,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(result, BaseExceptionGroup)
    assert result.subgroup(asyncio.CancelledError)
    assert guard.breakers["trend"].failures == 0
    assert len(heard.of(AttemptCancelled)) == 1


async def test_who_cancels_itself_and_then_calls_is_cancelled(path):
    async def caller():
        asyncio.current_task().cancel()
        return await Guard("trend", retry=Retry(), fallbacks=[answer], last_resort=answer, **path)(hang)

    result, pending = await outcome(caller())
    assert isinstance(result, asyncio.CancelledError)
    assert pending == 1
