"""Counters and histograms of what guards do, for all runs of this process: an observer, as the timeline is one."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graph.resilience import AttemptFailed, AttemptSucceeded, GuardEvent

__all__ = ["BOUNDS_SECONDS", "Histogram", "Metrics"]

BOUNDS_SECONDS: tuple[float, ...] = tuple(1e-6 * 2**step for step in range(27))
"""Upper bounds of the buckets: 1 us, doubling up to 67 s; a last bucket takes what is longer."""


@dataclass(slots=True)
class Histogram:
    """Durations in buckets of fixed bounds: its size does not grow with what it has seen."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_SECONDS) + 1))
    total_seconds: float = 0.0

    def record(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        self.total_seconds += seconds

    @property
    def count(self) -> int:
        """How many durations were counted."""
        return sum(self.counts)

    def percentile(self, share: float) -> float:
        """The bound in seconds that `share` (0 to 1) of the durations do not exceed; 0.0 where there are none.

        It is a bucket's upper bound, and so up to twice the true value; infinite for what is beyond the last bound.
        """
        wanted, seen = share * self.count, 0
        for bound, count in zip((*BOUNDS_SECONDS, float("inf")), self.counts, strict=True):
            seen += count
            if seen and seen >= wanted:
                return bound
        return 0.0


class Metrics:
    """`counters[kind, guard]` counts every event; `histograms[guard, outcome]` the time of ended attempts."""

    def __init__(self) -> None:
        self.counters: Counter[tuple[str, str]] = Counter()
        self.histograms: dict[tuple[str, str], Histogram] = {}

    def __call__(self, event: GuardEvent) -> None:
        """Take one event of a guard."""
        self.counters[type(event).__name__, event.guard] += 1
        if isinstance(event, AttemptSucceeded | AttemptFailed):
            outcome = "succeeded" if isinstance(event, AttemptSucceeded) else "failed"
            self.histograms.setdefault((event.guard, outcome), Histogram()).record(event.seconds)

    def as_json(self) -> Mapping[str, Any]:
        """Everything, by guard: event counts, and for each outcome count, total and percentiles in seconds."""
        guards: dict[str, dict[str, Any]] = {}
        for (kind, guard), count in sorted(self.counters.items()):
            guards.setdefault(guard, {"events": {}, "attempts": {}})["events"][kind] = count
        for (guard, outcome), histogram in sorted(self.histograms.items()):
            guards[guard]["attempts"][outcome] = {
                "count": histogram.count,
                "total_seconds": histogram.total_seconds,
                **{f"p{share:g}_seconds": histogram.percentile(share / 100) for share in (50, 95, 99)},
            }
        return guards
