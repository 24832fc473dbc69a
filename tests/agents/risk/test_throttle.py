import math
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.risk import RiskLimits, throttle_size

LIMITS = RiskLimits(participation_max=0.1, volatility_max=0.04, spread_bps_max=20.0, quantity_step=Decimal("0.01"))
MEASURES = st.none() | st.floats() | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 5e-324, 1.79e308])


class TestRules:
    def test_without_measures_nothing_is_taken_away(self):
        left = throttle_size(Decimal("5.5"), LIMITS)
        assert (left.quantity, left.reasons) == (Decimal("5.5"), ())

    def test_within_the_limits_nothing_is_taken_away(self):
        left = throttle_size(Decimal(5), LIMITS, average_volume=50.0, volatility=0.04, spread_bps=20.0)
        assert (left.quantity, left.reasons) == (Decimal(5), ())

    @pytest.mark.parametrize(
        ("measure", "quantity", "why"),
        [
            ({"average_volume": 20.0}, "2.00", "average bar volume"),
            ({"average_volume": 0.0}, "0", "average bar volume"),
            ({"volatility": 0.08}, "2.50", "volatility"),
            ({"spread_bps": 100.0}, "1.00", "spread"),
        ],
    )
    def test_each_rule_reduces_and_says_so(self, measure, quantity, why):
        left = throttle_size(Decimal(5), LIMITS, **measure)
        assert left.quantity == Decimal(quantity)
        assert len(left.reasons) == 1
        assert why in left.reasons[0]

    def test_the_absolute_cap_binds(self):
        left = throttle_size(Decimal(5), replace(LIMITS, quantity_max=1.5))
        assert (left.quantity, len(left.reasons)) == (Decimal("1.5"), 1)

    def test_the_tightest_rule_counts(self):
        left = throttle_size(Decimal(5), LIMITS, average_volume=20.0, volatility=0.4, spread_bps=40.0)
        assert left.quantity == Decimal("0.5")

    def test_sizes_are_whole_steps_rounded_down(self):
        assert throttle_size(Decimal("5.019"), LIMITS).quantity == Decimal("5.01")
        assert throttle_size(Decimal("0.009"), LIMITS).quantity == 0
        assert throttle_size(Decimal(5), LIMITS, average_volume=19.99).quantity == Decimal("1.99")


class TestBrokenMeasures:
    @pytest.mark.parametrize("name", ["average_volume", "volatility", "spread_bps"])
    @pytest.mark.parametrize("broken", [math.nan, -1.0, -math.inf])
    def test_leave_nothing(self, name, broken):
        left = throttle_size(Decimal(5), LIMITS, **{name: broken})
        assert left.quantity == 0
        assert left.reasons

    @pytest.mark.parametrize("quantity", ["NaN", "sNaN", "Infinity", "-Infinity", "-1", "0"])
    def test_so_does_a_quantity_that_cannot_be_ordered(self, quantity):
        left = throttle_size(Decimal(quantity), LIMITS, average_volume=10.0, volatility=0.1)
        assert left.quantity == 0
        assert left.reasons


@given(
    st.decimals("0", "1e30", allow_nan=False) | st.decimals(allow_nan=True, allow_infinity=True),
    MEASURES,
    MEASURES,
    MEASURES,
    st.none() | st.floats(5e-324, 1.79e308),
)
def test_never_more_never_negative_and_never_an_exception(quantity, volume, volatility, spread, cap):
    limits = replace(LIMITS, quantity_max=cap)
    left = throttle_size(quantity, limits, average_volume=volume, volatility=volatility, spread_bps=spread)
    assert left.quantity.is_finite()
    assert left.quantity >= 0
    if quantity.is_finite() and quantity > 0:
        assert left.quantity <= quantity
    if any(each is not None and math.isnan(each) for each in (volume, volatility, spread)):
        assert left.quantity == 0
    if cap is not None:
        assert float(left.quantity) <= cap
