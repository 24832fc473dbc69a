"""One guarded call in full: total deadline > fallback chain > retry > breaker > attempt timeout > fault > call.

`Guard.__call__` does the first attempt of a healthy call by itself, for speed; everything that is observed, injected,
nested in an unusual way, or has failed once, is done here, by the same rules. What the layers are, and why they stand
in this order, is said in the docstring of the package.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

from agents.errors import AgentTimeout, BreakerOpen, DeadlineExceeded, FallbackExhausted
from graph.resilience.attempt import (
    Link,
    Policies,
    abandon,
    agent_timeout,
    breaker_open,
    failure_of,
    not_accepted,
    score,
)
from graph.resilience.events import (
    AttemptStarted,
    CallRejected,
    DeadlineExpired,
    FallbackUsed,
    FaultInjected,
    LastResortUsed,
    RetryScheduled,
)
from graph.resilience.invoke import invoke
from graph.resilience.outcome import brief, falls_through, told, worth_retrying
from graph.resilience.timeout import EARLY_SECONDS, SCOPE, TimeLimit, current_task, forget_leaks, open_scope, time_of

__all__ = ["Call"]


class Call:
    """The way of one call along the chain, and its record: `link` that answered, `attempts` in all, `errors` a link."""

    __slots__ = (
        "_args",
        "_baseline",
        "_first",
        "_fn",
        "_guard",
        "_kwargs",
        "_limit",
        "_limit_is_own",
        "_now",
        "_started",
        "_task",
        "attempts",
        "errors",
        "link",
        "value",
    )

    def __init__(self, guard: Policies, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        task = current_task(loop)
        if task is None:
            raise RuntimeError(f"guard {guard.name!r} was called outside of a task; await it in one that a loop runs")
        self._guard, self._fn, self._args, self._kwargs = guard, fn, args, kwargs
        self._task = task
        self._baseline = task.cancelling()
        self._now = time_of(loop)
        self._started = self._now()
        self._limit: TimeLimit | None = None  # the total deadline that bounds us
        self._limit_is_own = False  # or that of a call around us
        self._first: Exception | None = None  # how an attempt that was made before this call came here has failed
        self.attempts = 0
        self.errors: list[Exception] = []
        self.link = guard.name
        self.value: Any = None

    @property
    def seconds(self) -> float:
        """Since the call began."""
        return self._now() - self._started

    def resume(self, started: float, baseline: int, failure: Exception) -> None:
        """Begin after a first attempt, begun at `started` (loop time), that has failed and was scored already.

        `baseline` is how many cancellations of the task were pending when it began.
        """
        self._started, self._baseline = started, baseline
        self.attempts = 1
        self._first = failure

    async def run(self) -> Any:
        """Deadline and chain; and then, outside of both, the last resort."""
        try:
            return await self._within_deadline()
        except Exception as error:
            if self._guard.last_resort is None or not falls_through(error) or self._given_up():
                raise
            unanswered = error
        try:
            return await self.answer_locally(unanswered)
        finally:
            del unanswered  # it holds this frame

    async def answer_locally(self, unanswered: Exception) -> Any:
        """Ask the last resort; an answer that must be awaited has one attempt's time.

        Raises:
            FallbackExhausted: it failed as well.
        """
        guard = self._guard
        assert guard.last_resort is not None  # noqa: S101
        self.link = f"{guard.name}/last-resort"
        if guard.observers.present:
            what = (told(unanswered), type(unanswered).__name__)
            guard.observers(LastResortUsed(guard.name, self.link, guard.clock(), *what))
        try:
            answer = guard.last_resort(*self._args, **self._kwargs)
            if isinstance(answer, Awaitable):
                with TimeLimit(self._now() + (guard.attempt_timeout or math.inf)):
                    answer = await answer
        except Exception as error:  # noqa: BLE001 - it is raised with all the others
            every = (*(self.errors or [unanswered]), error)
            raise FallbackExhausted(
                f"every link of {guard.name!r} failed, and its last resort too ({brief(error)}); there is no answer; "
                "a last resort must be local and must not fail",
                every,
            ) from ExceptionGroup(f"all that {guard.name!r} tried", every)
        return answer

    # -- total deadline

    async def _within_deadline(self) -> Any:
        around = open_scope()
        inherited = None if around is None else around[0]
        own = None if self._guard.deadline is None else self._started + self._guard.deadline
        until = _earlier(own, inherited)
        if until is None:
            return await self._chain()
        if until <= self._now() + EARLY_SECONDS:
            self._refuse_late(until)
        limit, scope = TimeLimit(until), [until, around]
        self._limit, self._limit_is_own = limit, until == own
        SCOPE.set(scope)
        try:
            with limit:
                return await self._chain()
        except Exception as error:
            if not limit.expired or self._given_up():
                raise
            last = error
        finally:
            scope[0] = None
        try:
            raise self._expired(until) from self._collected(last)
        finally:
            del last  # it holds this frame

    def _refuse_late(self, until: float) -> NoReturn:
        if self._first is None:
            raise self._no_time_left()
        try:
            if self._given_up():
                raise self._first
            raise self._expired(until) from self._first
        finally:
            self._first = None

    def _no_time_left(self) -> DeadlineExceeded:
        guard = self._guard
        if guard.observers.present:
            guard.observers(CallRejected(guard.name, guard.name, guard.clock(), "deadline"))
        return DeadlineExceeded(
            f"{guard.name!r} was not called: the time of the call around it is used up; "
            "give the outer guard a longer deadline"
        )

    def _expired(self, until: float) -> DeadlineExceeded:
        guard, limit = self._guard, until - self._started
        if guard.observers.present:
            guard.observers(DeadlineExpired(guard.name, self.link, guard.clock(), limit))
        return DeadlineExceeded(
            f"{guard.name!r} did not answer within {limit:.3g} s in total ({_count(self.attempts, 'attempt')}, "
            f"the last of {self.link!r}); it was cancelled; raise its deadline or shorten attempt_timeout"
        )

    def _collected(self, last: Exception) -> Exception:
        return ExceptionGroup(f"all that {self._guard.name!r} tried", self.errors) if self.errors else last

    def _given_up(self) -> bool:
        """Whether somebody wants this task cancelled and the callee turned that into something else: then stop too."""
        return self._task.cancelling() > self._baseline

    def _out_of_time(self) -> bool:
        return self._limit is not None and self._limit.expired

    # -- fallback chain

    async def _chain(self) -> Any:
        guard = self._guard
        for index, link in enumerate(guard.links):
            self.link = link.name
            if index and guard.observers.present:
                guard.observers(FallbackUsed(guard.name, link.name, guard.clock(), index))
            if await self._try_link(link, self._fn if link.fn is None else link.fn):
                return self.value
        raise self._exhausted()

    def _exhausted(self) -> Exception:
        guard = self._guard
        if len(guard.links) == 1:
            error = self.errors[0]
            note = f"guard {guard.name!r}: {_count(self.attempts, 'attempt')}, no fallback"
            with suppress(Exception):  # a frozen error takes no note, and comes out without
                if note not in getattr(error, "__notes__", ()):
                    error.add_note(note)
            return error
        each = "; ".join(f"{link.name}: {brief(error)}" for link, error in zip(guard.links, self.errors, strict=True))
        exhausted = FallbackExhausted(
            f"all {len(guard.links)} links of {guard.name!r} failed, and there is no answer: {each}", tuple(self.errors)
        )
        exhausted.__cause__ = ExceptionGroup(f"all that {guard.name!r} tried", self.errors)
        return exhausted

    # -- retry

    async def _try_link(self, link: Link, fn: Callable[..., Any]) -> bool:
        """Ask one link as often as its retry allows: True with `value` set, or False with its error in `errors`."""
        failure, self._first = self._first, None
        attempt = 1
        while True:  # ends at the latest when the retry says stop
            if failure is None:
                failure = await self._attempt(link, fn, attempt)
            if failure is None:
                return True
            if self._given_up() or not (falls_through(failure) or worth_retrying(failure)):
                raise failure
            delay = self._delay_seconds(link, attempt, failure)
            if delay is None:
                break
            if self._guard.observers.present:
                guard = self._guard
                guard.observers(RetryScheduled(guard.name, link.name, guard.clock(), attempt, delay))
            await self._guard.sleep(delay)
            attempt, failure = attempt + 1, None
        if not falls_through(failure):
            raise failure
        self.errors.append(failure)
        del failure  # from Python 3.12 on an error holds this frame too, and must not be held by it
        return False

    def _delay_seconds(self, link: Link, attempt: int, failure: Exception) -> float | None:
        retry = self._guard.retry
        if retry is None or not worth_retrying(failure):
            return None
        delay = retry.delay_seconds(attempt, failure, self._guard.random, self.seconds)
        if delay is None or (link.breaker is not None and link.breaker.open_seconds_left() > delay):
            return None
        if self._limit is not None and self._limit.when - self._now() - delay <= self._needed_seconds(link, failure):
            return None
        if retry.budget is not None and not retry.budget.withdraw():
            return None
        return delay

    def _needed_seconds(self, link: Link, failure: Exception) -> float:
        """A retry must leave more than this until the deadline, or the next link makes more of the time.

        An attempt that could not even begin helps nobody. And what has just used up all its time may do so again: then
        there must be time for that, and for a whole attempt of the next link.
        """
        if isinstance(failure, AgentTimeout) and link is not self._guard.links[-1]:
            return 2 * (self._guard.attempt_timeout or 0.0)
        return 0.0

    # -- breaker, attempt timeout, fault, call

    async def _attempt(self, link: Link, fn: Callable[..., Any], attempt: int) -> Exception | None:
        """Make one call: None with `value` set, or the error. Cancellation, and what is not an Exception, is raised."""
        guard, permit = self._guard, self._begin(link, attempt)
        if isinstance(permit, BreakerOpen):
            return permit
        began, pending = self._now(), self._task.cancelling()
        limit = None if guard.attempt_timeout is None else TimeLimit(began + guard.attempt_timeout)
        try:
            if guard.observers.present:
                guard.observers(AttemptStarted(guard.name, link.name, guard.clock(), attempt))
            if limit is None:
                self.value = await self._invoke(link, fn)
            else:
                with limit:
                    self.value = await self._invoke(link, fn)
            self._check(link)
        except Exception as error:  # noqa: BLE001 - it is returned, and the caller decides
            forget_leaks(self._task, pending + self._out_of_time(), error)
            seconds, late = self._now() - began, None
            if limit is not None and limit.expired and isinstance(error, TimeoutError):
                late = guard.attempt_timeout
                error = agent_timeout(link.name, limit.when - began, error)
            score(guard, link, permit, attempt, seconds=seconds, error=error, limit_seconds=late)
            return error
        except BaseException as error:
            failure = self._broken_off(link, permit, attempt, self._now() - began, error)
            if failure is None:
                raise
            return failure
        score(guard, link, permit, attempt, seconds=self._now() - began, error=None)
        return None

    def _begin(self, link: Link, attempt: int) -> int | BreakerOpen:
        """Ask the breaker to let an attempt through: its permit, or the error of a call that was not made."""
        guard, breaker, permit = self._guard, link.breaker, 0
        if breaker is not None:
            granted = breaker.acquire()
            if granted is None:
                if guard.observers.present:
                    guard.observers(CallRejected(guard.name, link.name, guard.clock(), "breaker"))
                return breaker_open(breaker, breaker.open_seconds_left())
            permit = granted
        self.attempts += 1
        if attempt == 1 and guard.retry is not None and guard.retry.budget is not None:
            guard.retry.budget.deposit()  # only a call that is made may pay for retries
        return permit

    def _broken_off(
        self, link: Link, permit: int, attempt: int, seconds: float, error: BaseException
    ) -> Exception | None:
        """Score an attempt that was cancelled or interrupted; None where that is to be raised as it is."""
        guard, failure = self._guard, failure_of(link.name, error, self._task)
        if failure is not None:
            score(guard, link, permit, attempt, seconds=seconds, error=failure)
        elif self._limit_is_own and self._out_of_time():  # the agent has used up this guard's own deadline
            score(guard, link, permit, attempt, seconds=seconds, error=agent_timeout(link.name, seconds, error))
        else:
            abandon(guard, link, permit, attempt, seconds)
        return failure

    def _invoke(self, link: Link, fn: Callable[..., Any]) -> Awaitable[Any]:
        guard = self._guard
        if guard.faults is None:
            return invoke(fn, self._args, self._kwargs)
        call = partial(invoke, fn, self._args, self._kwargs)
        return guard.faults.around(link.name, call, now=self._now(), tell=partial(self._tell_fault, link.name))

    def _tell_fault(self, link: str, action: str) -> None:
        guard = self._guard
        if guard.observers.present:
            guard.observers(FaultInjected(guard.name, link, guard.clock(), action))

    def _check(self, link: Link) -> None:
        accept = self._guard.accept
        if accept is not None and not accept(self.value):
            raise not_accepted(link.name, self.value)


def _earlier(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
