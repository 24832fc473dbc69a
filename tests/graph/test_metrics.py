"""Counters and histograms: what is counted is what happened."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graph.metrics import BOUNDS_SECONDS, Histogram, Metrics
from graph.resilience import FaultPlan, Guard, Retry


async def nothing():
    return 1


async def test_every_event_of_a_guard_is_counted():
    metrics = Metrics()
    faults = FaultPlan.parse(["g=error"])
    guard = Guard(
        "g", retry=Retry(max_attempts=3), breaker=None, fallbacks=[nothing], observers=[metrics], faults=faults
    )
    with Guard.testing():
        for _ in range(40):
            assert await guard(nothing) == 1
    assert metrics.counters["AttemptFailed", "g"] == 120
    assert metrics.counters["RetryScheduled", "g"] == 80
    assert metrics.counters["FallbackUsed", "g"] == metrics.counters["AttemptSucceeded", "g"] == 40
    told = metrics.as_json()["g"]
    assert told["attempts"]["failed"]["count"] == 120
    assert told["attempts"]["succeeded"]["count"] == 40
    assert told["events"]["AttemptStarted"] == 160


@given(st.lists(st.floats(0, 1e4), min_size=1), st.floats(0.01, 1.0))
def test_a_percentile_is_the_next_bound_above_the_true_one(durations, share):
    histogram = Histogram()
    for seconds in durations:
        histogram.record(seconds)
    true = sorted(durations)[math.ceil(share * len(durations)) - 1]
    bound = histogram.percentile(share)
    assert true <= bound
    assert bound <= max(2 * true, BOUNDS_SECONDS[0]) or bound == math.inf
    assert histogram.total_seconds == pytest.approx(sum(durations))


def test_nothing_seen_is_nothing():
    assert (Histogram().count, Histogram().percentile(0.99)) == (0, 0.0)
    assert Metrics().as_json() == {}
