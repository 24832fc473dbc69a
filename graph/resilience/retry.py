"""Retry: how often, how long between, and when not at all.

Exponential back-off with jitter is from Marc Brooker, "Exponential Backoff and Jitter" (AWS Architecture Blog, 2015);
the budget from "Site Reliability Engineering" (Beyer et al., 2016), chapter 21: three layers that try three times
each make 27 calls of one, unless all of them draw from one budget. tenacity's wait and stop objects carry the
strategy; tenacity is imported with the first failure, for its import is 50 ms of a cold start.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from agents.errors import ConfigError

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["JITTER", "Budget", "Retry", "retry_after_seconds", "without_backoff"]

JITTER = Random()  # noqa: S311 - jitter is no secret
"""Draws the jitter of all guards that were given no Random of their own: one for all, for it weighs more than a guard.
A simulation seeds it."""

_skips = 0  # how many `without_backoff` blocks we are in


@contextmanager
def without_backoff() -> Iterator[None]:
    """Inside this block no retry waits: for tests. It holds for the whole process."""
    global _skips  # noqa: PLW0603 - a switch for the whole process is what is asked for
    _skips += 1
    try:
        yield
    finally:
        _skips -= 1


class Budget:
    """Retries may be at most `ratio` of the calls, plus `reserve` to begin with: a token bucket. May be shared.

    Give one budget to all guards that lead to the same service, and a storm of retries cannot build up. `tokens` is
    how many retries are allowed now; it never exceeds `reserve`.
    """

    __slots__ = ("ratio", "reserve", "tokens")

    def __init__(self, ratio: float = 0.1, reserve: float = 10.0) -> None:
        if not (0 <= ratio <= 1 and reserve >= 1):
            raise ConfigError(
                f"a retry budget has ratio {ratio!r} and reserve {reserve!r}, and was not made; "
                "the ratio must be between 0 and 1 and the reserve at least 1"
            )
        self.ratio = ratio
        self.reserve = reserve
        self.tokens = reserve

    def deposit(self) -> None:
        """A call begins: it earns `ratio` of a retry."""
        self.tokens = min(self.reserve, self.tokens + self.ratio)

    def withdraw(self) -> bool:
        """A retry wants to begin: False where the budget is used up."""
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@dataclass(frozen=True, slots=True)
class Retry:
    """At most `max_attempts` calls in all, waiting `base_seconds * factor ** n`, at most `max_seconds`, between them.

    The wait is multiplied by a random number from `jitter` (low, high). `wait` and `stop` take tenacity's objects and
    replace the exponential wait (with its jitter) and the number of attempts. A Retry-After in the error lengthens
    the wait; one above `max_seconds` ends the retrying, as does a wait that the deadline does not allow.
    """

    max_attempts: int = 3
    base_seconds: float = 1.0
    factor: float = 2.0
    max_seconds: float = 60.0
    jitter: tuple[float, float] = (0.5, 1.5)
    budget: Budget | None = None
    wait: "Callable[[RetryCallState], float] | None" = None
    stop: "Callable[[RetryCallState], bool] | None" = None

    def __post_init__(self) -> None:
        low, high = self.jitter
        for name, value, good in (
            ("max_attempts", self.max_attempts, self.max_attempts >= 1),
            ("base_seconds", self.base_seconds, 0 <= self.base_seconds < math.inf),
            ("factor", self.factor, 1 <= self.factor < math.inf),
            ("max_seconds", self.max_seconds, 0 <= self.max_seconds < math.inf),
            ("jitter", self.jitter, 0 <= low <= high < math.inf),
        ):
            if not good:
                raise ConfigError(
                    f"a retry's {name} is {value!r}, and no retry was made; attempts must be at least 1, "
                    "seconds 0 or more, the factor at least 1, the jitter two numbers in order"
                )

    def delay_seconds(self, attempt: int, error: Exception, random: Random, elapsed_seconds: float) -> float | None:
        """How long to wait after the failed attempt number `attempt` (1 is the first), or None to stop.

        Neither the deadline nor the budget is looked at here; that is the guard's part.
        """
        state = _call_state(attempt, elapsed_seconds, error)
        stop, wait = self.stop, self.wait
        if stop is None:
            from tenacity import stop_after_attempt  # noqa: PLC0415

            stop = stop_after_attempt(self.max_attempts)
        if stop(state):
            return None
        if _skips:
            return 0.0
        if wait is None:
            from tenacity import wait_exponential  # noqa: PLC0415

            backoff = wait_exponential(multiplier=self.base_seconds, exp_base=self.factor, max=self.max_seconds)
            delay = backoff(state) * random.uniform(*self.jitter)
        else:
            delay = wait(state)
        asked = retry_after_seconds(error)
        if asked is None:
            return delay
        return max(delay, asked) if asked <= self.max_seconds else None


def _call_state(attempt: int, elapsed_seconds: float, error: Exception) -> "RetryCallState":
    from tenacity import Future, RetryCallState  # noqa: PLC0415

    state = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
    state.attempt_number = attempt
    # tenacity reads its own clock; what its strategies use is the difference, which is ours.
    state.outcome_timestamp = state.start_time + elapsed_seconds
    state.outcome = Future(attempt)
    state.outcome.set_exception(error)
    return state


def retry_after_seconds(error: BaseException) -> float | None:
    """What the other side asked for: `error.retry_after` (seconds), or the Retry-After header of `error.response`.

    A header that is a date counts from the response's own Date header, so that no clock of ours is asked.
    """
    try:
        asked = getattr(error, "retry_after", None)
        if asked is None:
            headers = getattr(getattr(error, "response", None), "headers", None)
            asked = _header_seconds(headers) if headers is not None else None
        seconds = float(asked) if asked is not None else math.nan
    except (AttributeError, OverflowError, TypeError, ValueError):  # a wish that cannot be read is none
        return None
    return seconds if 0 <= seconds < math.inf else None


def _header_seconds(headers: Any) -> float | None:
    value = headers.get("retry-after") or headers.get("Retry-After")
    if value is None:
        return None
    try:
        return float(value)
    except ValueError:
        pass
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - rare, and 5 ms of a cold start

    try:
        sent = parsedate_to_datetime(headers.get("date") or headers.get("Date"))
        return max(0.0, (parsedate_to_datetime(value) - sent).total_seconds())
    except (TypeError, ValueError):
        return None
