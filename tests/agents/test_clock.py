import time

import pytest

from agents.clock import ReplayClock, SystemClock, format_ns, monotonic


class TestSystemClock:
    def test_reads_the_wall_clock_in_nanoseconds(self, monkeypatch):
        monkeypatch.setattr(time, "time_ns", lambda: 1_234_567_890_123_456_789)
        assert SystemClock().now_ns() == 1_234_567_890_123_456_789


class TestReplayClock:
    def test_stands_where_it_was_put(self):
        clock = ReplayClock(5)
        assert (clock.now_ns(), clock.now_ns()) == (5, 5)

    def test_moves_forward_and_may_stand_still(self):
        clock = ReplayClock(5)
        clock.advance_to(7)
        clock.advance_to(7)
        assert clock.now_ns() == 7

    def test_never_goes_back(self):
        clock = ReplayClock(5)
        with pytest.raises(ValueError, match="cannot go back from 5 to 4"):
            clock.advance_to(4)
        assert clock.now_ns() == 5


class TestFormat:
    @pytest.mark.parametrize(
        ("time_ns", "text"),
        [
            (0, "19700101T000000Z"),
            (1_362_096_000_000_000_000, "20130301T000000Z"),
            (1_362_096_000_999_999_999, "20130301T000000Z"),
            (1_362_095_999_999_999_999, "20130228T235959Z"),
            (-1, "19691231T235959Z"),
        ],
    )
    def test_is_compact_utc_in_whole_seconds(self, time_ns, text):
        assert format_ns(time_ns) == text


def test_the_monotonic_clock_is_for_durations():
    first = monotonic()
    assert monotonic() >= first
