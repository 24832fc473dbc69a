"""One guarded call in full: total deadline > fallback chain > retry > breaker > attempt timeout > fault > call.

`Guard.__call__` does the first attempt of a healthy call by itself, for speed; everything that is observed, injected,
nested in an unusual way, or has failed once, is done here, by the same rules. What the layers are, and why they stand
in this order, is said in the docstring of the package.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, NoReturn, Protocol

from agents.errors import AgentTimeout, AgentUnavailable, BreakerOpen, DeadlineExceeded, FallbackExhausted
from graph.resilience.breaker import CircuitBreaker
from graph.resilience.events import (
    AttemptCancelled,
    AttemptFailed,
    AttemptStarted,
    AttemptSucceeded,
    CallRejected,
    DeadlineExpired,
    FallbackUsed,
    FaultInjected,
    LastResortUsed,
    Observers,
    RetryScheduled,
    TimedOut,
)
from graph.resilience.faults import FaultPlan
from graph.resilience.invoke import invoke
from graph.resilience.outcome import Outcome, falls_through, outcome_of, worth_retrying
from graph.resilience.retry import Retry
from graph.resilience.timeout import EARLY_SECONDS, SCOPE, TimeLimit, current_task, forget_leaks, open_scope, time_of

__all__ = ["Call", "Link", "Policies", "abandon", "agent_timeout", "breaker_open", "not_accepted", "score"]


@dataclass(frozen=True, slots=True)
class Link:
    """Who is asked, and behind which breaker. The primary's `fn` is None: it comes with every call."""

    name: str
    fn: Callable[..., Any] | None
    breaker: CircuitBreaker | None


class Policies(Protocol):
    """What a call reads from its guard."""

    name: str
    deadline: float | None
    attempt_timeout: float | None
    retry: Retry | None
    last_resort: Callable[..., Any] | None
    accept: Callable[[Any], bool] | None
    faults: FaultPlan | None
    observers: Observers
    links: tuple[Link, ...]
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[Any]]
    random: Random


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
            what = (str(unanswered), type(unanswered).__name__)
            guard.observers(LastResortUsed(guard.name, self.link, guard.clock(), *what))
        try:
            answer = guard.last_resort(*self._args, **self._kwargs)
            if isinstance(answer, Awaitable):
                with TimeLimit(self._now() + (guard.attempt_timeout or math.inf)):
                    answer = await answer
        except Exception as error:  # noqa: BLE001 - it is raised with all the others
            every = (*(self.errors or [unanswered]), error)
            raise FallbackExhausted(
                f"every link of {guard.name!r} failed, and its last resort too ({_brief(error)}); there is no answer; "
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
            if await self._try_link(link, link.fn or self._fn):
                return self.value
        raise self._exhausted()

    def _exhausted(self) -> Exception:
        guard = self._guard
        if len(guard.links) == 1:
            error = self.errors[0]
            note = f"guard {guard.name!r}: {_count(self.attempts, 'attempt')}, no fallback"
            if note not in getattr(error, "__notes__", ()):
                error.add_note(note)
            return error
        told = "; ".join(f"{link.name}: {_brief(error)}" for link, error in zip(guard.links, self.errors, strict=True))
        exhausted = FallbackExhausted(
            f"all {len(guard.links)} links of {guard.name!r} failed, and there is no answer: {told}", tuple(self.errors)
        )
        exhausted.__cause__ = ExceptionGroup(f"all that {guard.name!r} tried", self.errors)
        return exhausted

    # -- retry

    async def _try_link(self, link: Link, fn: Callable[..., Any]) -> bool:
        """Ask one link as often as its retry allows: True with `value` set, or False with its error in `errors`."""
        retry = self._guard.retry
        failure, self._first = self._first, None
        if failure is None and retry is not None and retry.budget is not None:
            retry.budget.deposit()
        attempt = 1
        while True:  # ends at the latest when the retry says stop
            failure = failure or await self._attempt(link, fn, attempt)
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
        return False

    def _delay_seconds(self, link: Link, attempt: int, failure: Exception) -> float | None:
        retry = self._guard.retry
        if retry is None or not worth_retrying(failure):
            return None
        delay = retry.delay_seconds(attempt, failure, self._guard.random, self.seconds)
        if delay is None or (link.breaker is not None and link.breaker.open_seconds_left() > delay):
            return None
        if self._limit is not None and self._now() + delay >= self._limit.when:
            return None  # it could not even begin: the time is better spent on the next link
        if retry.budget is not None and not retry.budget.withdraw():
            return None
        return delay

    # -- breaker, attempt timeout, fault, call

    async def _attempt(self, link: Link, fn: Callable[..., Any], attempt: int) -> Exception | None:
        """Make one call: None with `value` set, or the error. Cancellation, and what is not an Exception, is raised."""
        guard, permit = self._guard, 0
        if link.breaker is not None:
            granted = link.breaker.acquire()
            if granted is None:
                if guard.observers.present:
                    guard.observers(CallRejected(guard.name, link.name, guard.clock(), "breaker"))
                return breaker_open(link.breaker, link.breaker.open_seconds_left())
            permit = granted
        self.attempts += 1
        if guard.observers.present:
            guard.observers(AttemptStarted(guard.name, link.name, guard.clock(), attempt))
        began, pending = self._now(), self._task.cancelling()
        limit = None if guard.attempt_timeout is None else TimeLimit(began + guard.attempt_timeout)
        try:
            if limit is None:
                self.value = await self._invoke(link, fn)
            else:
                with limit:
                    self.value = await self._invoke(link, fn)
            self._check(link)
        except Exception as error:  # noqa: BLE001 - it is returned, and the caller decides
            forget_leaks(self._task, pending + self._out_of_time(), error)
            if limit is not None and limit.expired and isinstance(error, TimeoutError):
                error = self._timed_out(link, attempt, error)
            score(guard, link, permit, attempt, seconds=self._now() - began, error=error)
            return error
        except BaseException as error:
            seconds = self._now() - began
            if self._limit_is_own and self._out_of_time():  # the agent has used up this guard's own deadline
                score(guard, link, permit, attempt, seconds=seconds, error=agent_timeout(link.name, seconds, error))
            else:
                abandon(guard, link, permit, attempt, seconds)
            raise
        score(guard, link, permit, attempt, seconds=self._now() - began, error=None)
        return None

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

    def _timed_out(self, link: Link, attempt: int, error: Exception) -> AgentTimeout:
        guard = self._guard
        assert guard.attempt_timeout is not None  # noqa: S101
        if guard.observers.present:
            guard.observers(TimedOut(guard.name, link.name, guard.clock(), attempt, guard.attempt_timeout))
        return agent_timeout(link.name, guard.attempt_timeout, error)


def score(guard: Policies, link: Link, permit: int, attempt: int, *, seconds: float, error: Exception | None) -> None:
    """Tell the observers and the breaker how an attempt ended: with `error`, or well."""
    breaker = link.breaker
    if guard.observers.present:
        if error is None:
            event: Any = AttemptSucceeded(guard.name, link.name, guard.clock(), attempt, seconds)
        else:
            what = (str(error), type(error).__name__)
            event = AttemptFailed(guard.name, link.name, guard.clock(), attempt, seconds, *what)
        guard.observers(event)
    if breaker is None:
        return
    if error is None:
        breaker.success(permit, seconds)
    elif outcome_of(error) is Outcome.FAILURE:
        breaker.failure(permit, seconds, error)
    else:
        breaker.give_back(permit)


def abandon(guard: Policies, link: Link, permit: int, attempt: int, seconds: float) -> None:
    """Leave an attempt that somebody further out has cancelled: nothing was learnt about the agent."""
    if guard.observers.present:
        guard.observers(AttemptCancelled(guard.name, link.name, guard.clock(), attempt, seconds))
    if link.breaker is not None:
        link.breaker.give_back(permit)


def breaker_open(breaker: CircuitBreaker, seconds_left: float) -> BreakerOpen:
    """Make a fresh error for a call that the breaker refuses for so long."""
    until = "when it is released" if seconds_left == math.inf else f"in {seconds_left:.1f} s"
    return BreakerOpen(
        f"{breaker.name!r} was not called: its breaker is {breaker.state} ({breaker.reason}); "
        f"calls are let through again {until}"
    )


def agent_timeout(link: str, limit_seconds: float, cause: BaseException | None) -> AgentTimeout:
    """Make the error of an attempt that took too long."""
    error = AgentTimeout(
        f"{link!r} gave no answer within {limit_seconds:.3g} s; the attempt was cancelled; "
        "raise attempt_timeout if it honestly needs longer"
    )
    error.__cause__ = cause
    return error


def not_accepted(link: str, value: Any) -> AgentUnavailable:
    """Make the error of an answer that the guard's `accept` refused."""
    return AgentUnavailable(
        f"{link!r} answered {value!r:.80}, which the guard does not accept; it counts as no answer; see its `accept`"
    )


def _earlier(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:160]
