"""What a guard tells its observers: one frozen record for everything that happens to a call.

Logs, counters, alerts and the run's timeline are all made from these, outside of the guard.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

__all__ = [
    "AttemptCancelled",
    "AttemptFailed",
    "AttemptStarted",
    "AttemptSucceeded",
    "BreakerClosed",
    "BreakerHalfOpened",
    "BreakerOpened",
    "CallRejected",
    "DeadlineExpired",
    "Degraded",
    "FallbackUsed",
    "FaultInjected",
    "GuardEvent",
    "HealthChanged",
    "LastResortUsed",
    "Observer",
    "Observers",
    "QuorumMissed",
    "QuorumReached",
    "RetryScheduled",
    "TimedOut",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GuardEvent:
    """`guard` is the guard's name, `link` who was called ("price_action/rules"), `at` seconds on the guard's clock."""

    guard: str
    link: str
    at: float


@dataclass(frozen=True, slots=True)
class AttemptStarted(GuardEvent):
    attempt: int


@dataclass(frozen=True, slots=True)
class AttemptSucceeded(GuardEvent):
    attempt: int
    seconds: float


@dataclass(frozen=True, slots=True)
class AttemptFailed(GuardEvent):
    """`error` is the error's text, `error_type` the name of its class; a time-out is an AgentTimeout."""

    attempt: int
    seconds: float
    error: str
    error_type: str


@dataclass(frozen=True, slots=True)
class AttemptCancelled(GuardEvent):
    """The caller, or a deadline further out, ended the attempt: nothing was learnt about the agent."""

    attempt: int
    seconds: float


@dataclass(frozen=True, slots=True)
class TimedOut(GuardEvent):
    """One attempt took too long; an AttemptFailed follows."""

    attempt: int
    limit_seconds: float


@dataclass(frozen=True, slots=True)
class DeadlineExpired(GuardEvent):
    """The total time of the call is used up. `limit_seconds` is what the call had when it began."""

    limit_seconds: float


@dataclass(frozen=True, slots=True)
class RetryScheduled(GuardEvent):
    """`attempt` is the one that failed; the next begins after `delay_seconds`."""

    attempt: int
    delay_seconds: float


@dataclass(frozen=True, slots=True)
class BreakerOpened(GuardEvent):
    """`open_seconds` is infinite for a breaker that was isolated by hand."""

    reason: str
    open_seconds: float


@dataclass(frozen=True, slots=True)
class BreakerHalfOpened(GuardEvent): ...


@dataclass(frozen=True, slots=True)
class BreakerClosed(GuardEvent): ...


@dataclass(frozen=True, slots=True)
class CallRejected(GuardEvent):
    """The call was not made: `reason` is "breaker", "bulkhead" or "deadline"."""

    reason: str


@dataclass(frozen=True, slots=True)
class FallbackUsed(GuardEvent):
    """The fallback `link`, number `index` (1 is the first), is asked now, because all before it failed."""

    index: int


@dataclass(frozen=True, slots=True)
class LastResortUsed(GuardEvent):
    """Every link failed, and the local value at the end of the chain answered; `error` is what it stands in for."""

    error: str
    error_type: str


@dataclass(frozen=True, slots=True)
class FaultInjected(GuardEvent):
    """A fault plan acted on this attempt."""

    action: str


@dataclass(frozen=True, slots=True)
class QuorumReached(GuardEvent):
    answers: int
    failures: int


@dataclass(frozen=True, slots=True)
class QuorumMissed(GuardEvent):
    answers: int
    failures: int


@dataclass(frozen=True, slots=True)
class Degraded(GuardEvent):
    """The level (0 full, 1 degraded, 2 minimal) and who is missing. Sent at every level below full, and on recovery."""

    level: int
    failed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HealthChanged(GuardEvent):
    healthy: bool
    reason: str


Observer = Callable[[GuardEvent], None]


class Observers:
    """Calls every observer with every event. One that raises is logged once, and never breaks the call it watches."""

    __slots__ = ("_broken", "_observers", "present")

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._observers = tuple(observers)
        self._broken: set[int] = set()
        self.present = bool(self._observers)

    def __call__(self, event: GuardEvent) -> None:
        for index, observer in enumerate(self._observers):
            try:
                observer(event)
            except (Exception, asyncio.CancelledError):  # noqa: BLE001 - an observer's trouble is not the call's
                if index not in self._broken:
                    self._broken.add(index)
                    _log.exception(
                        "observer %r failed on %s; the guarded call goes on, and its next failures are not logged",
                        observer,
                        type(event).__name__,
                    )
