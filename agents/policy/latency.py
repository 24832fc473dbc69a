"""Latencies in buckets of fixed relative width: percentiles in constant memory, exact to about 3 %.

Each power of two is divided into 32 buckets, as in HdrHistogram (Tene, 2012), whose correction for coordinated
omission is used too: a caller who is kept waiting does not make the calls that would have been slow, and a histogram
of those that were made flatters (Tene, How NOT to Measure Latency, 2015).
"""

from collections.abc import Mapping

__all__ = ["LatencyHistogram"]

_SUB_BITS = 5  # 32 buckets an octave
_LINEAR = 2 << _SUB_BITS  # below this every nanosecond has its own
_BITS = 40  # up to 2 ** 40 ns, 18 minutes
_SIZE = (_BITS - _SUB_BITS + 1) << _SUB_BITS
_PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)


class LatencyHistogram:
    """Nanoseconds in, percentiles in microseconds out."""

    __slots__ = ("_counts", "count", "max_ns")

    def __init__(self) -> None:
        self._counts = [0] * _SIZE
        self.count = 0
        self.max_ns = 0

    def record(self, latency_ns: int, *, expected_interval_ns: int = 0) -> None:
        """Count one latency of a call.

        With `expected_interval_ns`, the calls that could not be made while this one was late are counted too, with
        the latencies that they would have had.
        """
        self._add(latency_ns)
        if expected_interval_ns > 0:
            missed = latency_ns - expected_interval_ns
            while missed >= expected_interval_ns:
                self._add(missed)
                missed -= expected_interval_ns

    def percentile_us(self, percent: float) -> float:
        """The latency that `percent` (0 to 100) of the calls did not exceed, in microseconds; 0.0 without calls."""
        wanted, seen = percent / 100 * self.count, 0
        for index, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted:
                return min(_upper_ns(index), self.max_ns) / 1000
        return 0.0

    @property
    def percentiles_us(self) -> Mapping[str, float]:
        """p50, p90, p95, p99, p99.9 and max, in microseconds."""
        found = {f"p{percent:g}": self.percentile_us(percent) for percent in _PERCENTILES}
        return {**found, "max": self.max_ns / 1000}

    def _add(self, latency_ns: int) -> None:
        latency_ns = max(0, latency_ns)
        self._counts[min(_index(latency_ns), _SIZE - 1)] += 1
        self.count += 1
        self.max_ns = max(self.max_ns, latency_ns)


def _index(value: int) -> int:
    shift = max(0, value.bit_length() - _SUB_BITS - 1)
    return (shift << _SUB_BITS) + (value >> shift)


def _upper_ns(index: int) -> int:
    """The greatest value of a bucket."""
    if index < _LINEAR:
        return index
    shift = (index >> _SUB_BITS) - 1
    return (((index & ((1 << _SUB_BITS) - 1)) + (1 << _SUB_BITS) + 1) << shift) - 1
