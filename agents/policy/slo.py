"""What an agent's answers take, one call after the other, or one every so often."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

from agents.policy.latency import LatencyHistogram

__all__ = ["SloReport", "measure_slo"]


@dataclass(frozen=True, slots=True)
class SloReport:
    """What was measured. `late`: calls beyond the deadline; `paced_ms` 0 is hot."""

    calls: int
    late: int
    deadline_us: float
    paced_ms: float
    percentiles_us: dict[str, float]

    @property
    def met(self) -> bool:
        """Whether 95 of 100 calls keep the deadline."""
        return self.percentiles_us["p95"] <= self.deadline_us


def measure_slo(
    call: Callable[[], Any], *, trials: int, deadline_us: float, pacing_seconds: float, wait: Callable[[float], None]
) -> SloReport:
    """Time `trials` calls; with `pacing_seconds`, one is due every so often.

    A paced call counts from the moment at which it was due, so that a slow one is charged with the delay of those that
    it kept waiting (Tene, How NOT to Measure Latency, 2015). How long that is follows from the times that the calls
    before it took (Lindley, 1952): that a timer wakes us late is no fault of theirs, and is charged to nobody.
    """
    histogram, late, latency = LatencyHistogram(), 0, 0
    step_ns = int(pacing_seconds * 1e9)
    due = perf_counter_ns() + step_ns
    for _ in range(trials):
        if step_ns:
            wait(max(0.0, (due - perf_counter_ns()) / 1e9))
        start = perf_counter_ns()
        call()
        taken = perf_counter_ns() - start
        latency = taken + (max(0, latency - step_ns) if step_ns else 0)
        histogram.record(latency)
        late += latency > deadline_us * 1000
        due += step_ns
    return SloReport(trials, late, deadline_us, pacing_seconds * 1e3, dict(histogram.percentiles_us))
