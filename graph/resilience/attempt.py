"""One attempt: who is asked, what its end means to the breaker and the observers, and the errors that are made of it.

The guard's inlined way and the full chain share this, so that both of them count, tell and say the same.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from agents.errors import AgentTimeout, AgentUnavailable, BreakerOpen
from graph.resilience.breaker import CircuitBreaker
from graph.resilience.events import AttemptCancelled, AttemptFailed, AttemptSucceeded, GuardEvent, Observers, TimedOut
from graph.resilience.faults import FaultPlan, shown
from graph.resilience.outcome import Outcome, brief, outcome_of, told
from graph.resilience.retry import Retry
from graph.resilience.timeout import without_cancellation

__all__ = ["Link", "Policies", "abandon", "agent_timeout", "breaker_open", "failure_of", "not_accepted", "score"]


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


def score(
    guard: Policies,
    link: Link,
    permit: int,
    attempt: int,
    *,
    seconds: float,
    error: Exception | None,
    limit_seconds: float | None = None,
) -> None:
    """Tell the observers and the breaker how an attempt ended: well, with `error`, or at its limit."""
    try:
        if guard.observers.present:
            if limit_seconds is not None:
                guard.observers(TimedOut(guard.name, link.name, guard.clock(), attempt, limit_seconds))
            guard.observers(_ending(guard, link, attempt, seconds, error))
    finally:  # the breaker hears of it after the observers, who learn why it opens before they learn that it does
        if link.breaker is not None:
            _count(link.breaker, permit, seconds, error)


def _ending(guard: Policies, link: Link, attempt: int, seconds: float, error: Exception | None) -> GuardEvent:
    where = (guard.name, link.name, guard.clock(), attempt, seconds)
    return AttemptSucceeded(*where) if error is None else AttemptFailed(*where, told(error), type(error).__name__)


def _count(breaker: CircuitBreaker, permit: int, seconds: float, error: Exception | None) -> None:
    if error is None:
        breaker.success(permit, seconds)
    elif outcome_of(error) is Outcome.FAILURE:
        breaker.failure(permit, seconds, error)
    else:
        breaker.give_back(permit)


def abandon(guard: Policies, link: Link, permit: int, attempt: int, seconds: float) -> None:
    """Leave an attempt that somebody further out has cancelled: nothing was learnt about the agent."""
    try:
        if guard.observers.present:
            guard.observers(AttemptCancelled(guard.name, link.name, guard.clock(), attempt, seconds))
    finally:
        if link.breaker is not None:
            link.breaker.give_back(permit)


def failure_of(link: str, error: BaseException, task: "asyncio.Task[Any] | None" = None) -> Exception | None:
    """The failure that an agent's error is, or None where it ends more than the agent: an interrupt, a cancellation.

    A cancellation that nobody asked for is a failure too: the agent awaits something that it shares with others, and
    one of them was cancelled. Of an agent that was given a task of its own in a group, every cancellation is: give no
    `task`, for the group raises that of the caller.
    """
    left = error if task is not None and task.cancelling() else without_cancellation(error)
    if left is not None:
        return left if isinstance(left, Exception) else None
    failure = AgentUnavailable(
        f"{link!r} ended in a cancellation that nobody had asked for ({brief(error)}); it counts as no answer; "
        "see which task or future it shares with others"
    )
    failure.__cause__ = error
    return failure


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
        f"{link!r} answered {shown(value)}, which the guard does not accept; it counts as no answer; see its `accept`"
    )
