"""What a guard does, on both of its ways: the inlined first attempt, and the full chain."""

import asyncio
import contextlib
import copy
import functools
import gc
import inspect
import logging
import types
import typing
from decimal import Decimal

import pydantic
import pytest

from agents.errors import (
    AgentTimeout,
    AgentUnavailable,
    BreakerOpen,
    BrokerUnavailable,
    BulkheadFull,
    ConfigError,
    DeadlineExceeded,
    FallbackExhausted,
    InvalidValue,
    OrderRefused,
)
from graph.resilience import (
    AttemptFailed,
    AttemptStarted,
    AttemptSucceeded,
    Breaker,
    BreakerClosed,
    BreakerHalfOpened,
    BreakerOpened,
    BreakerState,
    Budget,
    CallRejected,
    DeadlineExpired,
    FallbackUsed,
    Guard,
    LastResortUsed,
    Retry,
    RetryScheduled,
    TimedOut,
    time_left,
)

STEADY = Retry(jitter=(1.0, 1.0))


class Agent:
    """Answers what it is told to: a value, an error to raise, or a number of seconds to take first."""

    def __init__(self, *script, name="agent"):
        self.script = list(script)
        self.calls = 0
        self.__name__ = name

    def fn(self):
        async def agent(*args, **kwargs):
            self.calls += 1
            step = self.script[min(self.calls, len(self.script)) - 1]
            if isinstance(step, float):
                await asyncio.sleep(step)
                return "slow"
            if isinstance(step, BaseException):
                raise step
            return step

        agent.__name__ = self.__name__
        return agent


async def answer(*args, **kwargs):
    return args, kwargs


async def down():
    raise ConnectionError("down")


async def hang():
    await asyncio.Event().wait()


async def test_passes_arguments_and_returns_the_answer(path):
    guard = Guard("trend", **path)
    assert await guard(answer, 1, self=2, primary=3) == ((1,), {"self": 2, "primary": 3})


async def test_retries_what_is_worth_it_with_growing_waits(path, now):
    agent, began = Agent(ConnectionError("1"), ConnectionError("2"), "ok"), now()
    assert await Guard("trend", retry=STEADY, **path)(agent.fn()) == "ok"
    assert agent.calls == 3
    assert now() - began == pytest.approx(1 + 2)


async def test_the_original_error_comes_out_with_a_note_on_the_attempts(path):
    error = ConnectionError("down")
    with pytest.raises(ConnectionError) as caught:
        await Guard("trend", **path)(Agent(error).fn())
    assert caught.value is error
    assert error.__notes__ == ["guard 'trend': 3 attempts, no fallback"]


async def test_an_error_that_is_raised_again_and_again_does_not_collect_notes(path):
    guard, error = Guard("trend", retry=None, breaker=None, **path), ValueError("same")
    for _ in range(5):
        with pytest.raises(ValueError, match="same"):
            await guard(Agent(error).fn())
    assert len(error.__notes__) == 1


async def test_a_programming_error_is_not_retried_but_the_fallback_answers_and_the_breaker_counts(path):
    guard = Guard("trend", fallbacks=[answer], **path)
    agent = Agent(ValueError("bug"))
    for _ in range(5):
        assert await guard(agent.fn()) == ((), {})
    assert agent.calls == 5
    assert guard.breakers["trend"].state is BreakerState.OPEN


async def test_a_refusal_ends_the_call_at_once_and_scores_nothing(path):
    agent = Agent(OrderRefused("no"))
    guard = Guard("broker", fallbacks=[answer], last_resort=lambda: "never", **path)
    for _ in range(6):
        with pytest.raises(OrderRefused):
            await guard(agent.fn())
    assert guard.breakers["broker"].state is BreakerState.CLOSED
    assert guard.breakers["broker"].failures == 0
    assert agent.calls == 6


async def test_an_order_of_unknown_fate_is_asked_about_again_but_never_given_to_another(path):
    agent = Agent(BrokerUnavailable("no answer"))
    guard = Guard("broker", retry=STEADY, fallbacks=[answer], last_resort=lambda: "never", **path)
    with pytest.raises(BrokerUnavailable):
        await guard(agent.fn())
    assert agent.calls == 3
    assert guard.breakers["broker"].failures == 3


async def test_an_invalid_value_is_the_agents_failure(path):
    guard = Guard("trend", fallbacks=[answer], **path)
    assert await guard(Agent(InvalidValue("stance 7")).fn()) == ((), {})
    assert guard.breakers["trend"].failures == 1


async def test_attempts_time_out_and_are_retried(path, now):
    agent, began = Agent(100.0, "ok"), now()
    assert await Guard("trend", attempt_timeout=10, retry=STEADY, **path)(agent.fn()) == "ok"
    assert now() - began == pytest.approx(10 + 1)


async def test_timeouts_raise_agent_timeout_without_fallback(path):
    with pytest.raises(AgentTimeout, match="'trend' gave no answer within 10 s"):
        await Guard("trend", attempt_timeout=10, retry=None, **path)(hang)


async def test_an_answer_just_in_time_counts(path):
    assert await Guard("trend", attempt_timeout=10, retry=None, **path)(Agent(9.999).fn()) == "slow"


@pytest.mark.parametrize("attempt_timeout", [None, 4.0, 30.0])
async def test_the_deadline_bounds_everything(path, now, attempt_timeout):
    guard, began = Guard("trend", deadline=10, attempt_timeout=attempt_timeout, fallbacks=[hang], **path), now()
    with pytest.raises(DeadlineExceeded, match="'trend' did not answer within 10 s in total"):
        await guard(hang)
    assert now() - began == pytest.approx(10)


async def test_deadlines_trip_the_breaker_of_an_agent_that_used_them_up(path):
    guard = Guard("trend", deadline=10, attempt_timeout=None, **path)
    for _ in range(5):
        with pytest.raises(DeadlineExceeded):
            await guard(hang)
    with pytest.raises(BreakerOpen):
        await guard(hang)


async def test_a_retry_that_could_not_begin_before_the_deadline_is_not_waited_for(path, now):
    guard, began = Guard("trend", deadline=2.5, retry=STEADY, fallbacks=[answer], **path), now()
    assert await guard(down) == ((), {})
    assert now() - began == pytest.approx(1)  # the second wait would be 2 s, and 1.5 s are left


async def test_what_hangs_is_not_tried_again_at_the_cost_of_who_comes_next(path, now):
    began = now()
    guard = Guard("trend", deadline=45, attempt_timeout=30, retry=STEADY, fallbacks=[answer], **path)
    assert (await guard.ask(hang)).attempts == 1 + 1
    assert now() - began == pytest.approx(30)  # a second attempt would have ended with the deadline, unanswered
    began, quick = now(), Guard("trend", deadline=45, attempt_timeout=10, retry=STEADY, fallbacks=[answer], **path)
    assert (await quick.ask(hang)).attempts == 3 + 1
    assert now() - began == pytest.approx(10 + 1 + 10 + 2 + 10)


async def test_what_hangs_and_has_nobody_behind_it_is_tried_until_the_deadline(path, now):
    agent, began = Agent(100.0, "ok"), now()
    assert await Guard("trend", deadline=45, attempt_timeout=30, retry=STEADY, **path)(agent.fn()) == "ok"
    assert now() - began == pytest.approx(31)


async def test_the_last_resort_answers_after_the_deadline(path, now):
    guard = Guard("trend", deadline=10, attempt_timeout=None, last_resort=lambda view: f"rules for {view}", **path)

    async def hanging(view):
        await hang()

    assert await guard(hanging, "BTC") == "rules for BTC"


async def test_the_last_resort_may_be_async_and_its_failure_is_reported_with_all_others(path):
    async def local():
        return "local"

    assert await Guard("trend", retry=None, last_resort=local, **path)(down) == "local"

    def broken():
        raise KeyError("rules")

    with pytest.raises(FallbackExhausted, match="its last resort too") as caught:
        await Guard("trend", retry=None, last_resort=broken, **path)(down)
    assert [type(error) for error in caught.value.errors] == [ConnectionError, KeyError]


async def test_an_async_last_resort_that_hangs_is_cut_off(path, now):
    began = now()
    with pytest.raises(FallbackExhausted):
        await Guard("trend", attempt_timeout=7, retry=None, last_resort=hang, **path)(down)
    assert now() - began == pytest.approx(7)


async def test_fallbacks_have_their_own_retry_and_breaker(path):
    cheaper, rules = Agent(ConnectionError("cheaper"), name="cheaper"), Agent("rules", name="rules")
    guard = Guard("trend", fallbacks=[cheaper.fn(), rules.fn()], **path)
    assert list(guard.breakers) == ["trend", "trend/cheaper", "trend/rules"]
    asked = await guard.ask(down)
    assert (asked.value, asked.link, asked.attempts) == ("rules", "trend/rules", 3 + 3 + 1)
    assert [str(error) for error in asked.errors] == ["down", "cheaper"]
    assert cheaper.calls == 3
    assert guard.breakers["trend"].failures == 3
    assert guard.breakers["trend/cheaper"].failures == 3
    assert guard.breakers["trend/rules"].failures == 0


async def test_link_names_fall_back_to_numbers():
    guard = Guard("trend", fallbacks=[answer, answer, lambda: 1, functools.partial(answer)])
    assert list(guard.breakers) == ["trend", "trend/answer", "trend/fallback-2", "trend/fallback-3", "trend/fallback-4"]


async def test_exhausted_chains_keep_every_error_in_one_group(path):
    with pytest.raises(FallbackExhausted) as caught:
        await Guard("trend", retry=None, fallbacks=[Agent(ValueError("bug")).fn()], **path)(down)
    assert [repr(error) for error in caught.value.errors] == ["ConnectionError('down')", "ValueError('bug')"]
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert caught.value.__cause__.exceptions == caught.value.errors
    assert "trend/agent: ValueError: bug" in str(caught.value)


async def test_a_retry_that_meets_an_open_breaker_stops_at_once(path, now):
    agent, began = Agent(ConnectionError("down")), now()
    guard = Guard(
        "trend", retry=Retry(max_attempts=10), breaker=Breaker(failure_threshold=1), fallbacks=[answer], **path
    )
    assert await guard(agent.fn()) == ((), {})
    assert agent.calls == 1
    assert now() == began
    assert await guard(agent.fn()) == ((), {})
    assert agent.calls == 1


async def test_an_open_breaker_rejects_with_a_fresh_error_each_time(path):
    guard = Guard("trend", retry=None, breaker=Breaker(failure_threshold=1), **path)
    with pytest.raises(ConnectionError):
        await guard(down)
    caught = []
    for _ in range(2):
        with pytest.raises(BreakerOpen, match=r"is open \(failures in a row: 1;.*let through again in 60.0 s") as info:
            await guard(answer)
        caught.append(info.value)
    assert caught[0] is not caught[1]


async def test_a_breaker_recovers_through_the_guard(path):
    guard = Guard("trend", retry=None, **path)
    for _ in range(5):
        with pytest.raises(ConnectionError):
            await guard(down)
    await asyncio.sleep(60)
    await guard(answer)
    assert guard.breakers["trend"].state is BreakerState.HALF_OPEN
    await guard(answer)
    assert guard.breakers["trend"].state is BreakerState.CLOSED


async def test_a_late_answer_from_before_a_trip_counts_for_nothing(path):
    guard = Guard("trend", retry=None, **path)
    breaker = guard.breakers["trend"]
    late = asyncio.create_task(guard(Agent(10.0).fn()))
    await asyncio.sleep(1)
    for failures in (5, 4):
        breaker.release()
        for _ in range(failures):
            with pytest.raises(ConnectionError):
                await guard(down)
    assert await late == "slow"
    assert (breaker.failures, breaker.answers) == (4, 0)


async def test_a_thousand_waiting_calls_at_the_half_open_moment_send_one_probe(path):
    guard, agent = Guard("trend", retry=None, **path), Agent(1.0)
    for _ in range(5):
        with pytest.raises(ConnectionError):
            await guard(down)
    await asyncio.sleep(60)
    results = await asyncio.gather(*(guard(agent.fn()) for _ in range(1000)), return_exceptions=True)
    assert agent.calls == 1
    assert sum(isinstance(result, BreakerOpen) for result in results) == 999


async def test_slow_answers_open_a_breaker_that_looks_at_them(path):
    guard = Guard("trend", breaker=Breaker(slow_seconds=2, slow_rate=0.5, calls_min=4), **path)
    for _ in range(4):
        await guard(Agent(3.0).fn())
    assert guard.breakers["trend"].state is BreakerState.OPEN
    assert guard.breakers["trend"].reason == "4 of 4 calls in 60 s took over 2 s"


async def test_rates_forget_what_is_old_on_both_ways(path):
    policy = Breaker(failure_threshold=100, failure_rate=0.75, calls_min=4, window_seconds=60)
    guard = Guard("trend", retry=None, breaker=policy, **path)
    for _ in range(3):
        await guard(answer)
    await asyncio.sleep(61)
    await guard(answer)
    for _ in range(3):
        assert guard.breakers["trend"].state is BreakerState.CLOSED
        with pytest.raises(ConnectionError):
            await guard(down)
    assert guard.breakers["trend"].reason == "3 of 4 calls in 60 s failed"


async def test_a_good_call_ends_the_failures_in_a_row_where_rates_are_looked_at_too(path):
    guard = Guard("trend", retry=None, breaker=Breaker(failure_threshold=5, failure_rate=0.9, calls_min=10), **path)
    for _ in range(3):
        for _ in range(4):
            with pytest.raises(ConnectionError):
                await guard(down)
        await guard(answer)
    assert guard.breakers["trend"].state is BreakerState.CLOSED
    assert guard.breakers["trend"].failures == 0


async def test_rates_go_by_the_guards_own_clock_where_it_has_one(path):
    now = 5000.0  # ahead of the loop's
    policy = Breaker(failure_threshold=100, failure_rate=0.75, calls_min=4, window_seconds=60)
    guard = Guard("trend", retry=None, breaker=policy, clock=lambda: now, **path)
    for _ in range(3):
        await guard(answer)
    now += 61
    await guard(answer)
    for _ in range(3):
        with pytest.raises(ConnectionError):
            await guard(down)
    assert guard.breakers["trend"].reason == "3 of 4 calls in 60 s failed"


async def test_a_clock_that_jumps_during_a_call_is_a_timeout_and_nothing_worse(path):
    guard = Guard("trend", attempt_timeout=5, retry=None, **path)

    async def suspended():
        asyncio.get_running_loop()._now += 3600  # the machine was asleep
        await asyncio.sleep(1)

    with pytest.raises(AgentTimeout):
        await guard(suspended)
    assert await guard(answer) == ((), {})


async def test_one_timer_serves_all_calls_of_a_guard():
    guard = Guard("trend", attempt_timeout=5, retry=None)
    calls = [asyncio.create_task(guard(hang)) for _ in range(100)]
    await asyncio.sleep(0)
    assert len(asyncio.get_running_loop()._scheduled) == 1
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, AgentTimeout | BreakerOpen) for result in results)


async def test_rejections_and_failures_leave_nothing_to_collect(path):
    guards = [
        Guard("alone", retry=None, breaker=None, **path),
        Guard("retried", retry=Retry(base_seconds=0), breaker=None, **path),
        Guard("chain", retry=None, breaker=None, fallbacks=[down], **path),
        Guard("local", retry=None, breaker=None, last_resort=lambda: 1, **path),
        Guard("open", retry=None, **path),
    ]
    guards[-1].breakers["open"].isolate("test")
    slow = [
        Guard("timeout", attempt_timeout=1, retry=None, breaker=None, **path),
        Guard("deadline", deadline=1, retry=None, breaker=None, **path),
    ]

    async def fail_all():
        for guard in guards + slow:
            with contextlib.suppress(Exception):
                await guard(hang if guard in slow else down)

    await fail_all()
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            await fail_all()
        assert gc.collect() < 20
    finally:
        gc.enable()


async def test_no_breaker_no_retry_no_limits_is_a_plain_call(path):
    guard = Guard("trend", breaker=None, retry=None, attempt_timeout=None, **path)
    assert guard.breakers == {}
    assert await guard(answer, 1) == ((1,), {})
    with pytest.raises(ConnectionError):
        await guard(down)


async def test_the_bulkhead_refuses_the_call_too_many(path):
    guard = Guard("trend", bulkhead=2, **path)
    results = await asyncio.gather(*(guard(Agent(1.0).fn()) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [str, str, BulkheadFull]
    assert await guard(answer) == ((), {})


async def test_the_bulkhead_keeps_the_place_of_a_call_that_retries(path):
    guard = Guard("trend", bulkhead=1, **path)
    first = asyncio.create_task(guard(Agent(ConnectionError(), 5.0).fn()))
    await asyncio.sleep(0.1)
    with pytest.raises(BulkheadFull):
        await guard(answer)
    assert await first == "slow"
    assert await guard(answer) == ((), {})


async def test_a_full_bulkhead_leaves_the_last_resort(path):
    guard = Guard("trend", bulkhead=1, last_resort=lambda: "rules", **path)
    async with asyncio.TaskGroup() as group:
        group.create_task(guard(Agent(1.0).fn()))
        second = group.create_task(guard(answer))
    assert second.result() == "rules"


async def test_an_answer_that_is_not_accepted_is_a_failure(path):
    guard = Guard("trend", retry=STEADY, accept=lambda value: value != "nonsense", **path)
    assert await guard(Agent("nonsense", "sense").fn()) == "sense"
    with pytest.raises(AgentUnavailable, match="'trend' answered 'nonsense', which the guard does not accept"):
        await guard(Agent("nonsense").fn())


async def test_a_budget_shared_by_guards_ends_a_storm(path):
    budget = Budget(ratio=0.1, reserve=2)
    guards = [Guard(name, retry=Retry(budget=budget), breaker=None, **path) for name in ("one", "two")]
    agent = Agent(ConnectionError("down"))
    for _ in range(10):
        for guard in guards:
            with pytest.raises(ConnectionError):
                await guard(agent.fn())
    assert agent.calls == 20 + 2 + 1  # 20 calls; the reserve of 2, and a tenth of the calls made since


async def test_testing_switches_the_waits_off_and_on_again(path, now):
    guard, began = Guard("trend", breaker=None, **path), now()
    with Guard.testing():
        with pytest.raises(ConnectionError):
            await guard(down)
        assert now() == began
    with pytest.raises(ConnectionError):
        await guard(down)
    assert now() > began


@pytest.mark.parametrize("call", ["inner longer", "inner shorter"])
async def test_a_nested_guard_can_only_shorten_the_deadline(path, now, call):
    seen, began = [], now()
    inner = Guard("inner", deadline=100 if call == "inner longer" else 3, attempt_timeout=None, retry=None, **path)
    outer = Guard("outer", deadline=10, attempt_timeout=None, retry=None, **path)

    async def look():
        seen.append(time_left())
        await hang()

    async def nest():
        await asyncio.sleep(2)
        return await inner(look)

    with pytest.raises(DeadlineExceeded):
        await outer(nest)
    assert seen == [pytest.approx(8 if call == "inner longer" else 3)]
    assert now() - began == pytest.approx(10 if call == "inner longer" else 5)
    assert time_left() is None


@pytest.mark.parametrize(("deadline", "left"), [(None, 20), (60, 20), (15, 15)])
async def test_inside_a_nested_guard_the_time_left_is_that_of_the_nearer_deadline(path, deadline, left):
    outer = Guard("outer", deadline=20, **path)
    inner = Guard("inner", deadline=deadline, attempt_timeout=5, **path)

    async def agent():
        return time_left()

    assert await outer(inner.wrap(agent)) == left


async def test_the_inner_breaker_is_not_blamed_for_the_outer_deadline(path):
    inner = Guard("inner", attempt_timeout=100, retry=None, **path)
    outer = Guard("outer", deadline=1, attempt_timeout=None, breaker=None, **path)
    for _ in range(6):
        with pytest.raises(DeadlineExceeded):
            await outer(inner.wrap(hang))
    assert inner.breakers["inner"].state is BreakerState.CLOSED
    assert inner.breakers["inner"].failures == 0


async def test_a_guard_inside_a_used_up_deadline_does_not_call(path, heard):
    agent = Agent("ok")
    inner = Guard("inner", observers=[heard], **path)

    async def swallow():
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            return await inner(agent.fn())

    with pytest.raises(DeadlineExceeded):
        await Guard("outer", deadline=1, attempt_timeout=None, retry=None, **path)(swallow)
    assert agent.calls == 0
    assert heard.kinds() == ["CallRejected"]
    assert heard[0].reason == "deadline"


async def test_the_same_guard_may_be_entered_twice_by_one_task(path, now):
    guard, began = Guard("trend", attempt_timeout=5, retry=None, **path), now()

    async def nest():
        try:
            await guard(hang)
        except AgentTimeout:
            return "inner"

    async def later():
        await asyncio.sleep(1)
        return await guard(nest)

    with pytest.raises(AgentTimeout):
        await guard(later)
    assert now() - began == pytest.approx(5)
    assert await guard(answer) == ((), {})


async def test_children_of_a_guarded_call_inherit_its_deadline(path):
    async def child():
        return time_left()

    async def parent():
        async with asyncio.TaskGroup() as group:
            task = group.create_task(child())
        return task.result()

    assert await Guard("trend", deadline=10, **path)(parent) == pytest.approx(10)


async def test_a_task_that_outlives_its_call_is_not_bound_by_it(path):
    kept = []

    async def child():
        await asyncio.sleep(5)
        return time_left()

    async def parent(fail):
        kept.append(asyncio.create_task(child()))
        if fail:
            raise ValueError

    guard = Guard("trend", deadline=2, last_resort=lambda fail: None, **path)
    await guard(parent, fail=False)
    await guard(parent, fail=True)
    assert [await task for task in kept] == [None, None]


async def test_many_calls_with_many_lengths_each_time_out_in_their_own_time(path, now):
    guard, began = Guard("trend", attempt_timeout=5, retry=None, breaker=None, **path), now()
    ends = {}

    async def one(start, length):
        await asyncio.sleep(start)
        try:
            await guard(functools.partial(asyncio.sleep, length)) if length > 20 else await guard(Agent(length).fn())
        except AgentTimeout:
            ends[start, length] = now() - began

    async with asyncio.TaskGroup() as group:
        for start in range(20):
            for length in (1.0, 4.9, 5.1, 30.0):
                group.create_task(one(float(start), length))
    assert ends == {(start, length): pytest.approx(start + 5) for start in range(20) for length in (5.1, 30.0)}


# -- no way out of a call leaves anything behind


class Stop(BaseException):
    """What no observer should raise: not an Exception, so nobody contains it."""


class Stops:
    """An observer that stops at events of one kind, as long as it is told to."""

    def __init__(self, kind):
        self.kind, self.on = kind, True

    def __call__(self, event):
        if self.on and type(event).__name__ == self.kind:
            raise Stop


@pytest.mark.parametrize(
    "kind", ["AttemptStarted", "AttemptSucceeded", "AttemptFailed", "AttemptCancelled", "TimedOut"]
)
async def test_an_observer_that_stops_everything_keeps_no_place_and_cancels_nobody_later(path, kind):
    stops = Stops(kind)
    guard = Guard("trend", attempt_timeout=10, deadline=15, retry=None, bulkhead=1, observers=[stops], **path)
    ends = {"AttemptSucceeded": answer, "AttemptFailed": down, "TimedOut": hang, "AttemptCancelled": interrupted}
    for _ in range(3):
        with pytest.raises(Stop):
            await guard(ends.get(kind, answer))
    stops.on = False
    assert await guard(answer) == ((), {})
    assert time_left() is None
    assert asyncio.current_task().cancelling() == 0
    await asyncio.sleep(60)  # nobody's timer is still armed for this task


async def interrupted():
    raise Stop


@pytest.mark.parametrize(
    "kind", ["AttemptStarted", "AttemptSucceeded", "AttemptFailed", "AttemptCancelled", "TimedOut"]
)
async def test_an_observer_that_stops_everything_keeps_no_place_of_a_probe(path, kind):
    stops = Stops(kind)
    policy = Breaker(failure_threshold=1, success_threshold=9)
    guard = Guard("trend", attempt_timeout=10, retry=None, breaker=policy, observers=[stops], **path)
    breaker = guard.breakers["trend"]
    breaker.failure(breaker.epoch, 0.0, "down")
    await asyncio.sleep(60)
    stopped = {"AttemptSucceeded": answer, "AttemptCancelled": interrupted}.get(kind, answer)
    if kind in {"AttemptFailed", "TimedOut"}:
        stopped = down if kind == "AttemptFailed" else hang
    with pytest.raises(Stop):
        await guard(stopped)
    stops.on = False
    if breaker.state is BreakerState.OPEN:  # the probe has failed, and was counted
        assert stopped in {down, hang}
        await asyncio.sleep(300)
    assert await guard(answer) == ((), {})


async def test_a_clock_that_fails_keeps_no_place_and_cancels_nobody_later(path, heard):
    broken = False

    def clock():
        if broken:
            raise OSError("no clock")
        return asyncio.get_running_loop().time()

    guard = Guard("trend", attempt_timeout=10, deadline=15, bulkhead=1, clock=clock, observers=[heard], **path)
    for broken in (True, True, False):
        with pytest.raises(OSError, match="no clock") if broken else contextlib.nullcontext():
            await guard(answer)
    assert time_left() is None
    await asyncio.sleep(60)


# -- events


async def test_a_healthy_call_is_told_as_started_and_succeeded(path, heard, now):
    await Guard("trend", observers=[heard], **path)(Agent(2.0).fn())
    assert heard == [
        AttemptStarted("trend", "trend", 1000.0, 1),
        AttemptSucceeded("trend", "trend", 1002.0, 1, pytest.approx(2.0)),
    ]


async def test_everything_that_happens_is_told_in_order(path, heard):
    guard = Guard(
        "trend",
        attempt_timeout=5,
        deadline=60,
        retry=Retry(max_attempts=2, jitter=(1, 1)),
        breaker=Breaker(failure_threshold=2),
        fallbacks=[Agent(ValueError("bug"), name="cheaper").fn()],
        last_resort=lambda: "rules",
        observers=[heard],
        **path,
    )
    assert await guard(Agent(100.0, ConnectionError("down")).fn()) == "rules"
    assert heard.kinds() == [
        "AttemptStarted",
        "TimedOut",
        "AttemptFailed",
        "RetryScheduled",
        "AttemptStarted",
        "AttemptFailed",
        "BreakerOpened",
        "FallbackUsed",
        "AttemptStarted",
        "AttemptFailed",
        "LastResortUsed",
    ]
    assert heard.of(TimedOut)[0] == TimedOut("trend", "trend", 1005.0, 1, 5)
    assert [event.error_type for event in heard.of(AttemptFailed)] == ["AgentTimeout", "ConnectionError", "ValueError"]
    assert heard.of(RetryScheduled)[0].delay_seconds == 1
    assert heard.of(BreakerOpened)[0].open_seconds == 60
    assert heard.of(FallbackUsed)[0] == FallbackUsed("trend", "trend/cheaper", 1006.0, 1)
    assert heard.of(LastResortUsed)[0].error_type == "FallbackExhausted"


async def test_deadlines_rejections_and_recoveries_are_told(path, heard):
    guard = Guard(
        "trend",
        deadline=5,
        attempt_timeout=None,
        retry=None,
        breaker=Breaker(failure_threshold=1),
        observers=[heard],
        **path,
    )
    with pytest.raises(DeadlineExceeded):
        await guard(hang)
    with pytest.raises(BreakerOpen):
        await guard(answer)
    await asyncio.sleep(60)
    await guard(answer)
    await guard(answer)
    assert heard.kinds() == [
        "AttemptStarted",
        "AttemptFailed",
        "BreakerOpened",
        "DeadlineExpired",
        "CallRejected",
        "BreakerHalfOpened",
        "AttemptStarted",
        "AttemptSucceeded",
        "AttemptStarted",
        "AttemptSucceeded",
        "BreakerClosed",
    ]
    assert heard.of(AttemptFailed)[0].error_type == "AgentTimeout"
    assert heard.of(DeadlineExpired)[0].limit_seconds == pytest.approx(5)
    assert heard.of(CallRejected)[0].reason == "breaker"
    assert len(heard.of(BreakerHalfOpened)) == len(heard.of(BreakerClosed)) == 1


async def test_isolating_by_hand_is_told(heard):
    guard = Guard("trend", observers=[heard])
    guard.breakers["trend"].isolate("deploy")
    assert heard[0].reason == "deploy"
    with pytest.raises(BreakerOpen, match=r"is isolated \(deploy\); calls are let through again when it is released"):
        await guard(answer)


async def test_an_observer_that_raises_is_logged_once_and_breaks_nothing(path, heard, caplog):
    def broken(event):
        raise RuntimeError("disk full")

    guard = Guard("trend", observers=[broken, heard], **path)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert await guard(answer) == ((), {})
    assert len(caplog.records) == 1
    assert len(heard) == 6


async def test_thousands_of_failures_are_all_told(path, heard):
    guard = Guard("trend", retry=None, breaker=None, observers=[heard], **path)

    async def failing(number):
        raise ValueError(number)

    await asyncio.gather(*(guard(failing, number) for number in range(3000)), return_exceptions=True)
    assert {event.error for event in heard.of(AttemptFailed)} == {str(number) for number in range(3000)}


# -- wrap


async def test_wrap_keeps_name_signature_and_annotations():
    async def node(state: dict[str, int], *, config: str = "") -> dict[str, int]:
        """Add one."""
        return {"n": state["n"] + 1}

    wrapped = Guard("node").wrap(node)
    assert wrapped.__name__ == "node"
    assert wrapped.__doc__ == "Add one."
    assert inspect.signature(wrapped) == inspect.signature(node)
    assert typing.get_type_hints(wrapped) == typing.get_type_hints(node)
    assert inspect.iscoroutinefunction(wrapped)
    assert await wrapped({"n": 1}) == {"n": 2}


async def test_wrap_takes_methods_partials_and_callable_objects():
    class Node:
        async def __call__(self, state: int) -> int:
            return state + 1

        async def method(self, state: int) -> int:
            return state + 2

    async def add(amount: int, state: int) -> int:
        return state + amount

    guard = Guard("node")
    for fn, expected in ((Node(), 2), (Node().method, 3), (functools.partial(add, 3), 4)):
        wrapped = guard.wrap(fn)
        assert await wrapped(1) == expected
        assert list(inspect.signature(wrapped).parameters) == ["state"]
        assert typing.get_type_hints(wrapped)["state"] is int
        assert wrapped.__name__ in {"node", "method"}


async def test_wrap_takes_functions_of_python_itself_that_have_no_signature():
    for fn, given, expected in ((max, (1, 2), 2), (int, ("3",), 3), (functools.partial(max, 4), (1,), 4)):
        wrapped = Guard("node").wrap(fn)
        assert await wrapped(*given) == expected
        assert [each.kind.name for each in inspect.signature(wrapped).parameters.values()] == [
            "VAR_POSITIONAL",
            "VAR_KEYWORD",
        ]


class Streams:
    def __call__(self, state):
        yield state

    async def later(self, state):
        yield state


def stream(state):
    yield state


@pytest.mark.parametrize(
    "yields", [stream, Streams(), Streams().later, functools.partial(stream), functools.partial(Streams().later)]
)
async def test_what_would_only_work_when_the_call_is_over_is_refused(yields, path):
    calls = [
        lambda: Guard("node").wrap(yields),
        lambda: Guard("node", fallbacks=[answer, yields]),
        lambda: Guard("node", last_resort=yields),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match=r"is a generator function, and cannot be guarded: [^\n]*; guard a"):
            call()
    guard = Guard("node", fallbacks=[answer], **path)
    with pytest.raises(ConfigError, match="is a generator function"):
        await guard(yields, 1)
    assert guard.breakers["node"].failures == 0


async def test_a_coroutine_that_is_written_as_a_generator_is_guarded():
    @types.coroutine
    def old(state):
        yield
        return state

    assert await Guard("node").wrap(old)(7) == 7


@pytest.mark.parametrize("nothing", [3, None, "trend"])
def test_what_cannot_be_called_is_refused(nothing):
    with pytest.raises(ConfigError, match=r"cannot be called, nor guarded; give a function"):
        Guard("node").wrap(nothing)


async def test_a_copy_of_a_guard_is_the_guard(path):
    guard = Guard("trend", deadline=9, retry=None, bulkhead=1, fallbacks=[answer], **path)
    with contextlib.suppress(ConnectionError):
        await guard(down)
    for copied in (copy.copy(guard), copy.deepcopy(guard), copy.deepcopy({"desk": [guard]})["desk"][0]):
        assert copied is guard

    class Desk(pydantic.BaseModel, arbitrary_types_allowed=True):
        held: Guard = guard

    assert Desk().held is Desk().model_copy(deep=True).held is guard


@pytest.mark.parametrize("what", ["deadline", "attempt_timeout", "bulkhead"])
@pytest.mark.parametrize(
    "wrong", [0, -1.0, float("nan"), float("inf"), 10**400, -(10**5000), 10**5000, True, "5", Decimal(5)], ids=type
)
def test_limits_that_make_no_sense_are_refused(what, wrong):
    with pytest.raises(ConfigError, match=f"^guard 'trend' has {what} [^\n]*, and was not made; it must be a finite"):
        Guard("trend", **{what: wrong})
