"""The circuit breaker: stop calling what is broken, and find out by few and careful probes when it works again.

    CLOSED ── too many failures ──> OPEN ── time is up ──> HALF_OPEN ── enough successes ──> CLOSED
                                     ^                         │
                                     └──── one failure ────────┘         ISOLATED: open by hand, until released

The pattern is Michael Nygard's ("Release It!", 2007). What is done here beyond it, and why: probes are bounded (a
thousand calls that waited for the half-open moment must not all hit a service that has just come back); every
permit carries the epoch in which it was given, so that a late answer from before the trip neither closes nor opens
anything; and a probe that never reports back gives its place back when its time is up.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from agents.clock import monotonic
from agents.errors import ConfigError
from graph.resilience.outcome import brief

__all__ = ["Breaker", "BreakerSnapshot", "BreakerState", "CircuitBreaker"]

_BUCKETS = 10  # the windows' resolution: a tenth of their length


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    ISOLATED = "isolated"


_CLOSED, _OPEN, _HALF_OPEN, _ISOLATED = BreakerState


@dataclass(frozen=True, slots=True)
class Breaker:
    """When to open, how to probe. A policy: one value serves any number of guards, which make their own breakers.

    The breaker opens after `failure_threshold` failures in a row, and also, where these are set, when in the last
    `window_seconds` at least `calls_min` calls ended and the share that failed reached `failure_rate`, or the share
    that took longer than `slow_seconds` reached `slow_rate`. It stays open for `open_seconds`, longer by the factor
    `open_growth` for every trip without a recovery in between, up to `open_seconds_max`. Then at most `probes` calls
    at a time are let through; `success_threshold` successes close it, one failure opens it again.
    """

    failure_threshold: int = 5
    success_threshold: int = 2
    open_seconds: float = 60.0
    open_growth: float = 2.0
    open_seconds_max: float = 300.0
    probes: int = 1
    failure_rate: float | None = None
    slow_seconds: float | None = None
    slow_rate: float = 0.5
    calls_min: int = 20
    window_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in ("failure_threshold", "success_threshold", "probes", "calls_min"):
            _require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("open_seconds", "open_seconds_max", "window_seconds"):
            _require(name, getattr(self, name), 0 < getattr(self, name) < math.inf, "a positive number of seconds")
        _require("open_growth", self.open_growth, 1 <= self.open_growth < math.inf, "at least 1")
        for name in ("failure_rate", "slow_rate"):
            rate = getattr(self, name)
            _require(name, rate, rate is None or 0 < rate <= 1, "above 0 and at most 1")
        _require("slow_seconds", self.slow_seconds, self.slow_seconds is None or self.slow_seconds > 0, "above 0")

    @property
    def windowed(self) -> bool:
        """Whether rates are looked at, or only failures in a row."""
        return self.failure_rate is not None or self.slow_seconds is not None


def _require(name: str, value: Any, good: bool, wanted: str) -> None:
    if not good:
        raise ConfigError(f"a breaker's {name} is {value!r}, and no breaker was made; it must be {wanted}")


@dataclass(frozen=True, slots=True)
class BreakerSnapshot:
    """A breaker's state in plain values, fit for JSON. Seconds count from now, so they hold in another process too.

    `reopens_in_seconds` is 0 where nothing is waited for: closed, half-open, or isolated until somebody releases it.
    """

    state: str
    failures: int
    trips: int
    reopens_in_seconds: float
    reason: str


class CircuitBreaker:
    """One live breaker, for one event loop at a time.

    `state`, `failures` (in a row), `trips` (since the last recovery), `reason` and `answers` (successes ever) may be
    read at any time; OPEN becomes HALF_OPEN with the first call that comes after `open_seconds`, not by itself. On the
    next loop, whose clock may begin anew, it stays open for one more open time at most.
    """

    __slots__ = (
        "_clock",
        "_in_flight",
        "_on_change",
        "_reopen_at",
        "_since",
        "_successes",
        "answers",
        "epoch",
        "failures",
        "name",
        "policy",
        "reason",
        "state",
        "trips",
        "window",
    )

    def __init__(
        self,
        name: str,
        policy: Breaker | None = None,
        *,
        clock: Callable[[], float] = monotonic,
        on_change: Callable[["CircuitBreaker"], None] | None = None,
    ) -> None:
        self.name = name
        self.policy = policy or Breaker()
        self.state = _CLOSED
        self.epoch = 0
        self.failures = 0
        self.trips = 0
        self.answers = 0
        self.reason = ""
        self._clock = clock
        self._on_change = on_change
        self._reopen_at = math.inf
        self._since = 0.0  # when it opened; when half-open, when the newest probe was let through
        self._in_flight = 0
        self._successes = 0
        self.window = Window(self.policy) if self.policy.windowed else None

    # Every permit ends in exactly one of success, failure and give_back.

    def acquire(self) -> int | None:
        """Ask for a permit: the epoch to report back with, or None where the call must not be made."""
        if self.state is _CLOSED:
            return self.epoch
        if self.state is _ISOLATED:
            return None
        now = self._clock()
        if self.state is _OPEN:
            if self._seconds_left(now) > 0:
                return None
            self._enter(_HALF_OPEN)
            if self.state is not _HALF_OPEN:  # whoever was told of it has isolated or released it at once
                return self.acquire()
        elif self._in_flight >= self.policy.probes:
            if 0 <= now - self._since < self.policy.open_seconds:  # negative: by a clock that has begun anew
                return None
            self._enter(_HALF_OPEN)  # no probe has come back for as long as an outage lasts: their places are free
        self._since = now
        self._in_flight += 1
        return self.epoch

    def success(self, permit: int, seconds: float = 0.0) -> None:
        """The call answered after `seconds`. A slow answer is an answer, but it counts in the slow-call window."""
        if permit != self.epoch:
            return
        self.answers += 1
        if self.state is _CLOSED:
            self.failures = 0
            if self.window is not None:
                self._judge(0, seconds)
        elif self.state is _HALF_OPEN:
            self._in_flight -= 1
            if self._too_slow(seconds):
                self._open(f"a probe took {seconds:.3g} s (slow is {self.policy.slow_seconds:.3g} s)")
                return
            self._successes += 1
            if self._successes >= self.policy.success_threshold:
                self._close()

    def failure(self, permit: int, seconds: float = 0.0, error: BaseException | str = "") -> None:
        """The call failed: it counts, and opens the breaker where it was one too many."""
        if permit != self.epoch:
            return
        if self.state is _HALF_OPEN:
            self._open(f"a probe failed ({_short(error)})")
        elif self.state is _CLOSED:
            self.failures += 1
            if self.failures >= self.policy.failure_threshold:
                self._open(f"failures in a row: {self.failures}; the last was {_short(error)}")
            elif self.window is not None:
                self._judge(1, seconds)

    def give_back(self, permit: int) -> None:
        """The call ended without telling anything about the agent (cancelled, refused): nothing is counted."""
        if permit == self.epoch and self.state is _HALF_OPEN:
            self._in_flight -= 1

    def isolate(self, reason: str) -> None:
        """Open by hand; stays open until `release`."""
        self.reason = reason
        self._enter(_ISOLATED)

    def release(self) -> None:
        """Close by hand, and forget all failures."""
        self._close()

    def open_seconds_left(self) -> float:
        """How long until probes are admitted: 0 when they are, infinite while isolated."""
        if self.state is _CLOSED or self.state is _HALF_OPEN:
            return 0.0
        left = self._seconds_left(self._clock())
        return left if left > 0 else 0.0

    def snapshot(self) -> BreakerSnapshot:
        """What to keep, so that a restarted process does not hammer an agent that was known to be down."""
        left = self.open_seconds_left() if self.state is _OPEN else 0.0
        return BreakerSnapshot(str(self.state), self.failures, self.trips, left, self.reason)

    def restore(self, snapshot: BreakerSnapshot) -> None:
        """Take over a snapshot. Half-open comes back as open with its time up: the old probes are gone.

        It stays open no longer than one open time of this breaker's own policy, whatever the snapshot says.

        Raises:
            ConfigError: the snapshot is none that a breaker makes; this breaker stays as it was.
        """
        _check_snapshot(self.name, snapshot)
        state = BreakerState(snapshot.state)
        self.reason = snapshot.reason
        self.trips = snapshot.trips
        if state is _OPEN:
            self._enter(_OPEN, min(snapshot.reopens_in_seconds, self._open_seconds()))
        elif state is _HALF_OPEN:
            self._enter(_OPEN, 0.0)
        else:
            self._enter(state)
        self.failures = snapshot.failures

    def _judge(self, failed: int, seconds: float) -> None:
        assert self.window is not None  # noqa: S101
        slow = int(seconds > self.window.slow_seconds)
        self.window.add(self._clock(), failed, slow)
        if (failed or slow) and (reason := self.window.verdict()):  # a good call never opens
            self._open(reason)

    def _too_slow(self, seconds: float) -> bool:
        return self.policy.slow_seconds is not None and seconds > self.policy.slow_seconds

    def _open(self, reason: str) -> None:
        self.reason = reason
        self.trips += 1
        self._enter(_OPEN, self._open_seconds())

    def _open_seconds(self) -> float:
        policy = self.policy
        longest = max(policy.open_seconds, policy.open_seconds_max)
        try:
            return min(policy.open_seconds * float(policy.open_growth) ** max(self.trips - 1, 0), longest)
        except OverflowError:  # it has grown beyond all numbers, and so beyond the longest
            return longest

    def _seconds_left(self, now: float) -> float:
        if now < self._since:  # by another clock, that of a loop begun since: by it the open time begins anew
            self._reopen_at += now - self._since
            self._since = now
        return self._reopen_at - now

    def _close(self) -> None:
        self.trips = 0
        self.reason = ""
        self._enter(_CLOSED)

    def _enter(self, state: BreakerState, open_seconds: float = math.inf) -> None:
        before, self.state = self.state, state
        self.epoch += 1
        self.failures = 0
        self._since = self._clock()
        self._reopen_at = self._since + open_seconds
        self._in_flight = 0
        self._successes = 0
        if self.window is not None:
            self.window.clear()
        if state is not before and self._on_change is not None:
            self._on_change(self)


class Window:
    """Calls, failures and slow calls of the last `window_seconds`, in ten buckets."""

    __slots__ = ("_buckets", "_policy", "_width", "bucket", "failed", "slow", "slow_seconds", "until")

    def __init__(self, policy: Breaker) -> None:
        self._policy = policy
        self._width = policy.window_seconds / _BUCKETS
        self.slow_seconds = math.inf if policy.slow_seconds is None else policy.slow_seconds
        self.clear()

    def clear(self) -> None:
        self._buckets = [[-1, 0, 0, 0] for _ in range(_BUCKETS)]  # tick, calls, failed, slow
        self.bucket = self._buckets[0]
        self.until = -math.inf  # the present bucket's end
        self.failed = self.slow = 0

    @property
    def calls(self) -> int:
        """All calls of the window: added up when somebody asks, which a good call never does."""
        return sum(bucket[1] for bucket in self._buckets)

    def add(self, now: float, failed: int, slow: int) -> None:
        """Count one call that ended at `now`; `failed` and `slow` are 0 or 1.

        A guard counts a good, quick call that ended before `until` by itself: one more in `bucket[1]`.
        """
        if not self.until - self._width <= now < self.until:
            self._turn(now)
        bucket = self.bucket
        bucket[1] += 1
        if failed or slow:
            bucket[2] += failed
            bucket[3] += slow
            self.failed += failed
            self.slow += slow

    def verdict(self) -> str:
        """Why the breaker must open, or an empty text."""
        policy = self._policy
        calls = self.calls
        if calls < policy.calls_min:
            return ""
        span = f"{calls} calls in {policy.window_seconds:g} s"
        if policy.failure_rate is not None and self.failed / calls >= policy.failure_rate:
            return f"{self.failed} of {span} failed"
        if policy.slow_seconds is not None and self.slow / calls >= policy.slow_rate:
            return f"{self.slow} of {span} took over {policy.slow_seconds:g} s"
        return ""

    def _turn(self, now: float) -> None:
        """Begin the bucket of `now`, and forget those that are older than the window."""
        tick = int(now // self._width)
        if tick < self.bucket[0]:  # by another clock, that of a loop begun since: it cannot say how old the others are
            self.clear()
        self.until = (tick + 1) * self._width
        for bucket in self._buckets:
            if bucket[0] <= tick - _BUCKETS:
                self.failed -= bucket[2]
                self.slow -= bucket[3]
                bucket[:] = [-1, 0, 0, 0]
        self.bucket = self._buckets[tick % _BUCKETS]
        self.bucket[0] = tick


def _check_snapshot(name: str, snapshot: BreakerSnapshot) -> None:
    seconds = snapshot.reopens_in_seconds
    for field, good, wanted in (
        ("state", snapshot.state in tuple(BreakerState), f"one of {', '.join(BreakerState)}"),
        ("failures", _is_number(snapshot.failures, int) and snapshot.failures >= 0, "a whole number, 0 or more"),
        ("trips", _is_number(snapshot.trips, int) and snapshot.trips >= 0, "a whole number, 0 or more"),
        ("reopens_in_seconds", _is_number(seconds, int | float) and 0 <= seconds < math.inf, "finite, and 0 or more"),
        ("reason", isinstance(snapshot.reason, str), "a text"),
    ):
        if not good:
            raise ConfigError(
                f"a breaker snapshot has the {field} {getattr(snapshot, field)!r:.80}, and {name!r} keeps its own; "
                f"it must be {wanted}"
            )


def _is_number(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _short(error: BaseException | str) -> str:
    return brief(error) if isinstance(error, BaseException) else error
