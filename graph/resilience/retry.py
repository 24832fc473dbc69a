"""Retry: how often, how long between, and when not at all.

Exponential back-off with jitter is from Marc Brooker, "Exponential Backoff and Jitter" (AWS Architecture Blog, 2015);
the budget from "Site Reliability Engineering" (Beyer et al., 2016), chapter 21: three layers that try three times
each make 27 calls of one, unless all of them draw from one budget. tenacity's wait and stop objects carry the
strategy; tenacity is imported with the first failure, for its import is 50 ms of a cold start.
"""

import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from agents.errors import ConfigError

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["JITTER", "Budget", "Retry", "retry_after_seconds", "without_backoff"]

_log = logging.getLogger(__name__)

JITTER = Random()  # noqa: S311 - jitter is no secret
"""Draws the jitter of all guards that were given no Random of their own: one for all, for it weighs more than a guard.
A simulation seeds it."""

os.register_at_fork(after_in_child=JITTER.seed)  # or all children of one process would retry in step

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
    replace the exponential wait (with its jitter) and the number of attempts; where one of them fails, it is logged,
    and the retrying ends. A Retry-After in the error lengthens the wait; one above `max_seconds` ends the retrying, as
    does a wait that the deadline does not allow.
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
        asked = 0.0 if _skips else retry_after_seconds(error) or 0.0
        if asked > self.max_seconds:
            return None
        try:
            if self.stop is None and _is_last(state, self.max_attempts):
                return None
            delay = 0.0 if _skips else max(asked, self._backoff_seconds(state, random))
            state.upcoming_sleep = delay  # some ways to stop add it to what has passed
            return None if self.stop is not None and self.stop(state) else delay
        except Exception:  # noqa: BLE001 - its trouble must hide neither the agent's error nor the fallback
            _log.exception("the strategy of a retry failed after a %s; it is not tried again", type(error).__name__)
            return None

    def _backoff_seconds(self, state: "RetryCallState", random: Random) -> float:
        if self.wait is None:
            from tenacity import wait_exponential  # noqa: PLC0415

            backoff = wait_exponential(multiplier=self.base_seconds, exp_base=self.factor, max=self.max_seconds)
            return backoff(state) * random.uniform(*self.jitter)
        seconds = float(self.wait(state))
        if not seconds < math.inf:
            raise ValueError(f"a retry was told to wait {seconds} s, which never ends; give a finite number of seconds")
        return seconds


def _is_last(state: "RetryCallState", attempts: int) -> bool:
    from tenacity import stop_after_attempt  # noqa: PLC0415

    return stop_after_attempt(attempts)(state)


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

    A header that is a date counts from the response's own Date header, so that no clock of ours is asked. Of a group
    it is the longest that anything in it asks for.
    """
    if isinstance(error, ExceptionGroup):
        wishes = [asked for each in error.exceptions if (asked := retry_after_seconds(each)) is not None]
        return max(wishes, default=None)
    try:
        asked = getattr(error, "retry_after", None)
        if asked is None:
            headers = getattr(getattr(error, "response", None), "headers", None)
            asked = _header_seconds(headers) if headers is not None else None
        seconds = float(asked) if asked is not None else math.nan
    except Exception:  # noqa: BLE001 - a wish that cannot be read is none
        return None
    return seconds if seconds >= 0 else None


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
