"""The equity breaker: a loss is seen when it is there, counted from where it must be, and never from anywhere else."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.risk import RiskLimits
from agents.risk.equity import EquityBreaker

LIMITS = RiskLimits(daily_loss_share_max=0.03, drawdown_share_max=0.10)
DAY = 86_400 * 10**9


def wrong(breaker, equity):
    return [check.name for check in breaker.checks(Decimal(equity), LIMITS, 3) if not check.passed]


class TestDailyLoss:
    def test_the_limit_itself_passes_and_a_cent_more_does_not(self):
        breaker = EquityBreaker.of(0, Decimal(100_000))
        assert wrong(breaker.after(0, Decimal(97_000)), 97_000) == []
        assert wrong(breaker, "96999.99") == ["daily_loss"]

    def test_a_new_day_begins_with_what_there_is(self):
        breaker = EquityBreaker.of(0, Decimal(100_000)).after(DAY, Decimal(96_000))
        assert wrong(breaker, 96_000) == []
        assert wrong(breaker, 93_000) == ["daily_loss"]

    def test_a_day_that_is_over_does_not_come_again(self):
        breaker = EquityBreaker.of(DAY, Decimal(100_000)).after(0, Decimal(50_000))
        assert (breaker.day_ns, breaker.day_equity) == (DAY, 100_000)


class TestDrawdown:
    def test_it_is_measured_from_the_highest_equity_of_all_days(self):
        breaker = EquityBreaker.of(0, Decimal(100_000)).after(0, Decimal(120_000)).after(DAY, Decimal(109_000))
        assert wrong(breaker, 108_000) == []
        assert wrong(breaker, 107_999) == ["drawdown"]

    def test_what_was_before_a_restart_counts(self):
        earlier = [(DAY - 1, Decimal(150_000)), (DAY + 1, Decimal(110_000)), (DAY + 2, Decimal(105_000))]
        breaker = EquityBreaker.of(DAY, Decimal(104_000), earlier)
        assert (breaker.peak, breaker.day_equity) == (150_000, 110_000)
        assert wrong(breaker, 104_000) == ["daily_loss", "drawdown"]


class TestLossesInRow:
    def test_round_trips_that_lost_are_counted_in_a_row(self):
        breaker = EquityBreaker.of(0, Decimal(100_000))
        earned = 0
        for number in range(1, 4):
            breaker = breaker.traded(Decimal(1), Decimal(earned)).traded(Decimal(0), Decimal(earned - 1))
            earned -= 1
            assert breaker.losses == number
        assert wrong(breaker, 100_000) == ["losses_in_row"]
        assert "3 round trips" in breaker.checks(Decimal(100_000), LIMITS, 3)[2].reason

    def test_one_that_earned_something_makes_all_forgotten(self):
        breaker = EquityBreaker.of(0, Decimal(1)).traded(Decimal(1), Decimal(0)).traded(Decimal(0), Decimal(-1))
        assert breaker.traded(Decimal(1), Decimal(-1)).traded(Decimal(0), Decimal(-1)).losses == 0, "fees are in it"

    def test_parts_of_one_exit_are_one_round_trip(self):
        breaker = EquityBreaker.of(0, Decimal(1)).traded(Decimal(4), Decimal(0))
        for left, earned in ((3, -1), (2, -2), (1, -3), (0, -4)):
            breaker = breaker.traded(Decimal(left), Decimal(earned))
        assert breaker.losses == 1

    def test_turning_to_the_other_side_ends_one(self):
        breaker = EquityBreaker.of(0, Decimal(1)).traded(Decimal(1), Decimal(0)).traded(Decimal(-1), Decimal(-5))
        assert (breaker.losses, breaker.side) == (1, -1)


@given(equities=st.lists(st.decimals(min_value=-(10**9), max_value=10**9, allow_nan=False), min_size=1, max_size=20))
def test_no_loss_beyond_a_limit_passes(equities):
    """Also where there is nothing left, and less than nothing."""
    breaker = EquityBreaker.of(0, equities[0])
    for equity in equities:
        breaker = breaker.after(0, equity)
        checks = {check.name: check for check in breaker.checks(equity, LIMITS, 3)}
        peak = max(breaker.peak, equity)
        if peak <= 0 or (peak - equity) / peak > Decimal("0.1"):
            assert not checks["drawdown"].passed
        if breaker.day_equity <= 0:
            assert not checks["daily_loss"].passed


@pytest.mark.parametrize("equity", ["0", "-5"])
def test_an_account_without_anything_left_trips(equity):
    assert wrong(EquityBreaker.of(0, Decimal(equity)), equity) == ["daily_loss", "drawdown"]
