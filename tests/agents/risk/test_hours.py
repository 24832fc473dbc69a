import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.risk import day_start_ns, market_hours

MINUTE_NS = 60 * 10**9
DAY_NS = 86_400 * 10**9


def _ns(when: str) -> int:
    return int(datetime.fromisoformat(when).replace(tzinfo=UTC).timestamp()) * 10**9


def _open_at(calendar: str, when: str, period_ns: int = MINUTE_NS) -> bool:
    check = market_hours(calendar, _ns(when), period_ns)
    assert check.name == "market_hours"
    assert check.limit == calendar
    assert bool(check.reason) is not check.passed
    assert "cannot be told" not in check.reason
    return check.passed


@given(st.integers(0, 4_000_000_000), st.sampled_from([MINUTE_NS, DAY_NS]))
def test_round_the_clock_never_closes(second, period_ns):
    assert market_hours("24/7", second * 10**9, period_ns).passed


class TestCurrencyWeek:
    @pytest.mark.parametrize(
        ("when", "is_open"),
        [
            ("2024-01-07T21:59:59", False),  # Sunday
            ("2024-01-07T22:00:00", True),
            ("2024-01-08T00:00:00", True),
            ("2024-01-10T12:00:00", True),
            ("2024-01-11T23:59:59", True),
            ("2024-01-12T21:59:59", True),  # Friday
            ("2024-01-12T22:00:00", False),
            ("2024-01-13T12:00:00", False),
            ("2024-01-14T12:00:00", False),
        ],
    )
    def test_runs_from_sunday_to_friday_evening(self, when, is_open):
        assert _open_at("24/5", when) is is_open

    @pytest.mark.parametrize(
        ("when", "is_open"),
        [
            ("2024-03-08T21:59", True),  # the last Friday of winter
            ("2024-03-08T22:00", False),
            ("2024-03-10T20:59", False),  # New York put its clocks forward that morning
            ("2024-03-10T21:00", True),
            ("2024-03-15T20:59", True),
            ("2024-03-15T21:00", False),
            ("2024-07-05T20:59", True),
            ("2024-07-05T21:30", False),
            ("2024-07-07T20:59", False),
            ("2024-07-07T21:00", True),
            ("2024-11-01T20:59", True),  # the last Friday of summer
            ("2024-11-01T21:00", False),
            ("2024-11-03T21:59", False),
            ("2024-11-03T22:00", True),
        ],
    )
    def test_an_hour_earlier_in_new_yorks_summer(self, when, is_open):
        assert _open_at("24/5", when) is is_open

    @pytest.mark.parametrize(("day", "is_open"), [("08", True), ("12", True), ("13", False), ("14", False)])
    def test_daily_bars_are_asked_for_their_weekday(self, day, is_open):
        assert _open_at("24/5", f"2024-01-{day}T00:00:00", DAY_NS) is is_open
        assert _open_at("24/5", f"2024-01-{day}T23:00:00", DAY_NS) is is_open


class TestExchange:
    @pytest.mark.parametrize(
        ("when", "is_open"),
        [
            ("2013-07-02T13:29", False),  # New York opens at 09:30, in summer 13:30 UTC
            ("2013-07-02T13:30", True),
            ("2013-07-02T19:59", True),
            ("2013-07-02T20:00", False),
            ("2013-01-15T14:29", False),  # and in winter an hour later
            ("2013-01-15T14:30", True),
            ("2013-01-15T20:59", True),
            ("2013-01-15T21:00", False),
            ("2013-07-03T16:59", True),  # the day before the Fourth of July closes at 13:00
            ("2013-07-03T17:00", False),
            ("2013-07-03T19:00", False),
            ("2013-07-04T15:00", False),
            ("2013-11-28T16:00", False),  # Thanksgiving, and the half-day after it
            ("2013-11-29T17:59", True),
            ("2013-11-29T18:00", False),
            ("2013-11-29T19:00", False),
            ("2013-07-06T15:00", False),  # Saturday
            ("2013-07-07T15:00", False),
            ("2012-10-29T15:00", False),  # closed for hurricane Sandy
        ],
    )
    def test_new_york_by_the_minute(self, when, is_open):
        assert _open_at("XNYS", when) is is_open

    @pytest.mark.parametrize(
        ("calendar", "when", "is_open"),
        [
            ("XNYS", "2024-03-08T14:29", False),  # the Friday before New York puts its clocks forward
            ("XNYS", "2024-03-08T14:30", True),
            ("XNYS", "2024-03-08T20:59", True),
            ("XNYS", "2024-03-11T13:29", False),  # and the Monday after
            ("XNYS", "2024-03-11T13:30", True),
            ("XNYS", "2024-03-11T19:59", True),
            ("XNYS", "2024-03-11T20:00", False),
            ("XNYS", "2024-11-01T13:30", True),  # and back
            ("XNYS", "2024-11-01T20:00", False),
            ("XNYS", "2024-11-04T14:29", False),
            ("XNYS", "2024-11-04T14:30", True),
            ("XNYS", "2024-11-04T20:59", True),
            ("XLON", "2024-03-28T08:00", True),  # London changes three weeks later than New York
            ("XLON", "2024-03-28T16:29", True),
            ("XLON", "2024-04-02T07:00", True),
            ("XLON", "2024-04-02T15:30", False),
            ("XLON", "2024-12-24T12:29", True),  # half-days
            ("XLON", "2024-12-24T12:30", False),
            ("XNYS", "2024-12-24T17:59", True),
            ("XNYS", "2024-12-24T18:00", False),
            ("XNYS", "2024-07-03T16:59", True),
            ("XNYS", "2024-07-03T17:00", False),
            ("XHKG", "2024-12-24T03:59", True),
            ("XHKG", "2024-12-24T05:30", False),
            ("XNYS", "2025-01-09T15:00", False),  # a day of mourning, announced eleven days before
            ("XTKS", "2024-11-05T06:25", True),  # Tokyo has closed half an hour later since the day before
        ],
    )
    def test_clocks_that_change_and_days_that_are_cut_short(self, calendar, when, is_open):
        assert _open_at(calendar, when) is is_open

    @pytest.mark.parametrize(
        ("day", "is_open"),
        [
            ("2013-07-03", True),
            ("2013-07-04", False),
            ("2013-11-29", True),
            ("2013-12-25", False),
            ("2013-07-06", False),
            ("2013-01-01", False),  # the edges of a year are days like others
            ("2013-12-31", True),
            ("2011-01-01", False),
            ("2011-12-31", False),
        ],
    )
    def test_a_daily_bar_is_asked_for_its_date_and_not_for_its_hour(self, day, is_open):
        for hour in ("00:00", "15:00", "23:59"):
            assert _open_at("XNYS", f"{day}T{hour}", DAY_NS) is is_open

    @pytest.mark.parametrize(
        ("when", "is_open"),
        [
            ("2013-07-03T02:29", True),
            ("2013-07-03T02:30", False),
            ("2013-07-03T03:30", True),
            ("2013-07-03T06:00", False),
        ],
    )
    def test_tokyo_pauses_for_lunch(self, when, is_open):
        assert _open_at("XTKS", when) is is_open

    def test_sessions_that_began_the_evening_before_count(self):
        assert _open_at("CMES", "2013-07-03T00:30")


class TestCannotBeTold:
    @pytest.mark.parametrize(
        "calendar",
        ["XXXX", "", "24/6", "auto", "../etc", None, 5, [], True, 10**5000],
        ids=lambda each: f"{each!s:.9}" if each != 10**5000 else "huge",
    )
    def test_an_unknown_calendar_is_closed(self, calendar):
        check = market_hours(calendar, _ns("2013-07-03T15:00"), MINUTE_NS)
        assert not check.passed
        assert "counts as closed" in check.reason
        assert "\n" not in check.reason

    @pytest.mark.parametrize("calendar", ["24/7", "24/5", "XNYS"])
    @pytest.mark.parametrize("time_ns", [None, math.nan, math.inf, 10**40, -(10**40), "now", 1.7e18, True], ids=repr)
    def test_a_time_that_is_none_is_closed(self, calendar, time_ns):
        assert not market_hours(calendar, time_ns, MINUTE_NS).passed

    @pytest.mark.parametrize("period_ns", [None, math.nan, "day", 1.5, True], ids=repr)
    def test_a_period_that_is_none_is_closed(self, period_ns):
        assert not market_hours("24/7", 0, period_ns).passed


class TestDay:
    @pytest.mark.parametrize(
        ("calendar", "when", "began"),
        [
            ("24/7", "2024-03-10T00:00", "2024-03-10T00:00"),
            ("24/7", "2024-03-10T23:59", "2024-03-10T00:00"),
            ("24/5", "2024-01-10T21:59", "2024-01-09T22:00"),
            ("24/5", "2024-01-10T22:00", "2024-01-10T22:00"),
            ("24/5", "2024-01-08T12:00", "2024-01-07T22:00"),  # Monday began on Sunday
            ("24/5", "2024-01-13T12:00", "2024-01-11T22:00"),  # nothing begins on Friday and Saturday evening
            ("24/5", "2024-01-14T21:00", "2024-01-11T22:00"),
            ("24/5", "2024-03-10T20:59", "2024-03-07T22:00"),
            ("24/5", "2024-03-10T21:00", "2024-03-10T21:00"),  # New York put its clocks forward that morning
            ("XNYS", "2013-07-03T13:30", "2013-07-03T13:30"),
            ("XNYS", "2013-07-03T20:59", "2013-07-03T13:30"),
            ("XNYS", "2013-07-05T13:29", "2013-07-03T13:30"),  # Thursday was a holiday
            ("XNYS", "2013-07-07T12:00", "2013-07-05T13:30"),
            ("XNYS", "2013-12-05T14:30", "2013-12-05T14:30"),
            ("XNYS", "2014-01-01T15:00", "2013-12-31T14:30"),  # the newest session is one of the year before
            ("XTKS", "2013-07-03T05:00", "2013-07-03T00:00"),  # a pause for lunch begins no day
            ("CMES", "2013-07-03T00:30", "2013-07-02T22:00"),
        ],
    )
    def test_begins_when_the_markets_own_does(self, calendar, when, began):
        assert day_start_ns(calendar, _ns(when) + 7, MINUTE_NS) == _ns(began)

    @pytest.mark.parametrize("calendar", ["24/7", "24/5", "XNYS"])
    def test_a_daily_bar_has_the_day_of_its_label(self, calendar):
        for hour in ("00:00", "15:00"):
            assert day_start_ns(calendar, _ns(f"2013-07-03T{hour}"), DAY_NS) == _ns("2013-07-03T00:00")

    @pytest.mark.parametrize("calendar", ["nowhere", "", None, 5])
    def test_where_it_cannot_be_told_it_is_that_of_utc(self, calendar):
        assert day_start_ns(calendar, _ns("2013-07-03T15:00"), MINUTE_NS) == _ns("2013-07-03T00:00")
        assert day_start_ns("XNYS", 10**40, MINUTE_NS) == 10**40 - 10**40 % DAY_NS
        assert day_start_ns("24/7", None, MINUTE_NS) == day_start_ns("24/7", math.nan, MINUTE_NS) == 0
        assert day_start_ns("XNYS", _ns("2013-07-03T15:00"), None) == _ns("2013-07-03T00:00")
