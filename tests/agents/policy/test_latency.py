import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.policy.latency import LatencyHistogram


@given(st.lists(st.integers(0, 2**39), min_size=1, max_size=200), st.sampled_from([0, 10, 50, 90, 99, 99.9, 100]))
def test_percentiles_are_those_of_the_values(values, percent):
    histogram = LatencyHistogram()
    for value in values:
        histogram.record(value)
    at = max(0, -(-len(values) * percent // 100) - 1)
    exact = sorted(values)[int(at)] / 1000
    assert exact <= histogram.percentile_us(percent) <= exact * 1.04 + 0.001


def test_nothing_was_measured():
    assert LatencyHistogram().percentile_us(99) == 0.0


def test_beyond_all_buckets_and_below():
    histogram = LatencyHistogram()
    histogram.record(2**50)
    histogram.record(-5)
    assert histogram.count == 2
    assert histogram.percentiles_us["max"] == 2**50 / 1000
    assert histogram.percentile_us(50) == 0.0


def test_memory_does_not_grow():
    histogram = LatencyHistogram()
    size = len(histogram._counts)
    for step in range(10_000):
        histogram.record(step**3)
    assert len(histogram._counts) == size


def test_calls_that_could_not_be_made_are_counted():
    """One call of 10 ms among calls due every millisecond kept nine others waiting."""
    naive, corrected = LatencyHistogram(), LatencyHistogram()
    for latency in [1_000] * 90 + [10_000_000]:
        naive.record(latency)
        corrected.record(latency, expected_interval_ns=1_000_000)
    assert naive.percentile_us(95) == pytest.approx(1.0, rel=0.04)
    assert corrected.percentile_us(95) > 4_000
    assert corrected.count == 91 + 9
