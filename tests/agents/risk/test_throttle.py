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


class TestTheWayOut:
    """What closes a position is sliced by volume and the cap, and shrunk by nothing."""

    @pytest.mark.parametrize("measure", [{"volatility": 4.0}, {"spread_bps": 1e4}, {"volatility": math.nan}], ids=str)
    def test_spread_and_volatility_leave_an_exit_alone(self, measure):
        assert throttle_size(Decimal(5), LIMITS, closing=Decimal(5), **measure) == (throttle_size(Decimal(5), LIMITS))
        assert throttle_size(Decimal(5), LIMITS, **measure).quantity < 5

    def test_of_an_order_that_turns_a_position_only_what_opens_one_is_shrunk(self):
        left = throttle_size(Decimal(9), LIMITS, closing=Decimal(5), volatility=0.08)
        assert left.quantity == 7
        assert "volatility" in left.reasons[0]
        assert throttle_size(Decimal(9), LIMITS, closing=Decimal(5), spread_bps=math.nan).quantity == 5

    def test_volume_and_the_cap_slice_it(self):
        exit_ = {"closing": Decimal(5), "volatility": 9.9}
        sliced = throttle_size(Decimal(5), LIMITS, **exit_, average_volume=20.0)
        assert (sliced.quantity, len(sliced.reasons)) == (2, 1)
        capped = throttle_size(Decimal(5), replace(LIMITS, quantity_max=1.5), **exit_)
        assert (capped.quantity, len(capped.reasons)) == (Decimal("1.5"), 1)

    @pytest.mark.parametrize("volume", [0.0, 0.05, math.nan, -1.0, math.inf])
    def test_volume_that_leaves_nothing_lets_it_go_whole(self, volume):
        assert throttle_size(Decimal(5), LIMITS, closing=Decimal(5), average_volume=volume).quantity == 5
        turned = throttle_size(Decimal(9), LIMITS, closing=Decimal(5), average_volume=volume)
        assert (turned.quantity, len(turned.reasons)) == (5, 1)
        assert throttle_size(Decimal(5), LIMITS, average_volume=volume).quantity == 0

    @pytest.mark.parametrize("closing", [Decimal("NaN"), Decimal(-3), Decimal("sNaN"), None, "5", Decimal("-Infinity")])
    def test_what_is_no_number_closes_nothing(self, closing):
        assert throttle_size(Decimal(5), LIMITS, closing=closing, volatility=0.08).quantity == Decimal("2.5")


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

    @pytest.mark.parametrize("quantity", [None, "5", 5.0, 10**5000], ids=lambda each: str(type(each)))
    def test_and_one_that_is_no_decimal(self, quantity):
        assert throttle_size(quantity, LIMITS).quantity == 0


STEP = LIMITS.quantity_step


@given(
    st.decimals("0", "1e30", allow_nan=False) | st.decimals(allow_nan=True, allow_infinity=True),
    st.decimals("0", "1e30", allow_nan=False) | st.decimals(allow_nan=True, allow_infinity=True),
    st.tuples(MEASURES, MEASURES, MEASURES),
    st.none() | st.floats(0.01, 1.79e308),
)
def test_never_more_never_negative_and_never_an_exception(quantity, closing, given_measures, cap):
    volume, volatility, spread = given_measures
    limits, measures = replace(LIMITS, quantity_max=cap), {"volatility": volatility, "spread_bps": spread}
    left = throttle_size(quantity, limits, closing=closing, average_volume=volume, **measures).quantity
    assert left.is_finite()
    assert left >= 0
    if cap is not None:
        assert float(left) <= cap
    if not (quantity.is_finite() and quantity > 0):
        return
    assert left <= quantity
    broken = any(each is not None and math.isnan(each) for each in given_measures)
    if closing.is_finite() and 0 < closing < quantity and broken:
        assert left <= closing + closing * Decimal("1e-9")
    if closing.is_finite() and closing == quantity:
        room = [float(quantity), *([cap] if cap is not None else [])]
        room += [0.1 * volume] if volume is not None and math.isfinite(volume) and 0.1 * volume >= STEP else []
        assert float(left) >= min(room) * (1 - 1e-9) - float(STEP)
    if closing.is_finite() and closing <= 0 and broken:
        assert left == 0
