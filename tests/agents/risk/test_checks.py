import math
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.domain import Side
from agents.risk import Proposal, RiskLimits, pre_trade_checks

NAMES = ["parameters", "position_size", "order_size", "daily_loss", "concentration", "market_hours"]
EXPOSURE = NAMES[1:5]
LIMITS = RiskLimits(
    position_notional_max=20_000.0,
    order_notional_max=10_000.0,
    daily_loss_share_max=0.03,
    concentration_share_max=0.3,
)
GOOD = Proposal(
    symbol="AAA",
    side=Side.BUY,
    quantity=10.0,
    price=100.0,
    held=0.0,
    equity=100_000.0,
    day_profit=0.0,
    calendar="24/7",
    time_ns=1_700_000_000_000_000_000,
    period_ns=3_600_000_000_000,
)
ODD = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 5e-324, 1.79e308, -1.79e308, 1e-9])
NUMBERS = st.floats() | ODD
ANYTHING = NUMBERS | st.none() | st.text(max_size=3) | st.integers(-(10**400), 10**400) | st.booleans()
CALENDARS = st.sampled_from(["24/7", "24/5", "XNYS", "nowhere", ""])


def _failed(proposal: Proposal, limits: RiskLimits = LIMITS) -> list[str]:
    return [check.name for check in pre_trade_checks(proposal, limits) if not check.passed]


class TestLimits:
    def test_an_ordinary_order_passes_all_six(self):
        checks = pre_trade_checks(GOOD, LIMITS)
        assert [check.name for check in checks] == NAMES
        assert all(check.passed and check.reason == "" for check in checks)

    @pytest.mark.parametrize(
        ("change", "name"),
        [
            ({"held": 191.0}, "position_size"),
            ({"held": -191.0, "side": Side.SELL}, "position_size"),
            ({"held": -300.0, "quantity": 501.0}, "position_size"),
            ({"quantity": 100.1}, "order_size"),
            ({"day_profit": -3_000.1}, "daily_loss"),
            ({"equity": 3_000.0}, "concentration"),
            ({"calendar": "nowhere"}, "market_hours"),
        ],
        ids=str,
    )
    def test_each_refuses_what_is_beyond_it_and_says_so(self, change, name):
        checks = {check.name: check for check in pre_trade_checks(replace(GOOD, **change), LIMITS)}
        assert not checks[name].passed
        assert checks[name].reason
        assert "\n" not in checks[name].reason

    @pytest.mark.parametrize(
        "change",
        [
            {"held": 190.0},
            {"quantity": 100.0},
            {"day_profit": -3_000.0},
            {"equity": 1_000.0 / 0.3},
            {"day_profit": 1e9},
        ],
        ids=str,
    )
    def test_each_lets_through_what_just_fits(self, change):
        assert _failed(replace(GOOD, **change)) == []

    def test_what_was_measured_stands_beside_its_limit(self):
        checks = {check.name: check for check in pre_trade_checks(replace(GOOD, held=5.0, day_profit=-500.0), LIMITS)}
        assert (checks["position_size"].value, checks["position_size"].limit) == (1_500.0, 20_000.0)
        assert (checks["order_size"].value, checks["order_size"].limit) == (1_000.0, 10_000.0)
        assert (checks["daily_loss"].value, checks["daily_loss"].limit) == (0.005, 0.03)
        assert (checks["concentration"].value, checks["concentration"].limit) == (0.015, 0.3)

    def test_all_are_evaluated_and_not_only_the_first_that_fails(self):
        bad = replace(GOOD, quantity=5_000.0, day_profit=-50_000.0, calendar="nowhere")
        assert _failed(bad) == NAMES[1:]


class TestParameters:
    @pytest.mark.parametrize("name", ["quantity", "price", "equity"])
    @pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, None, "1", 10**400], ids=lambda bad: repr(bad)[:8])
    def test_must_be_finite_and_above_zero(self, name, bad):
        assert "parameters" in _failed(replace(GOOD, **{name: bad}))

    @pytest.mark.parametrize("name", ["held", "day_profit"])
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None, "1"], ids=repr)
    def test_must_be_finite(self, name, bad):
        assert "parameters" in _failed(replace(GOOD, **{name: bad}))

    def test_are_named_when_they_are_wrong(self):
        check = pre_trade_checks(replace(GOOD, price=math.nan, held=math.inf), LIMITS)[0]
        assert "price, held" in check.reason

    @pytest.mark.parametrize(
        ("change", "names"),
        [
            ({"quantity": math.nan}, ["parameters", "position_size", "order_size", "concentration"]),
            ({"price": math.nan}, ["parameters", "position_size", "order_size", "concentration"]),
            ({"held": math.nan}, ["parameters", "position_size", "concentration"]),
            ({"equity": math.nan}, ["parameters", "daily_loss", "concentration"]),
            ({"equity": -1.0}, ["parameters", "daily_loss", "concentration"]),
            ({"day_profit": math.nan}, ["parameters", "daily_loss"]),
            ({"quantity": 1e200, "price": 1e200}, ["position_size", "order_size", "concentration"]),
        ],
        ids=str,
    )
    def test_that_are_wrong_fail_every_check_that_needs_them(self, change, names):
        assert _failed(replace(GOOD, **change)) == names


class TestReducing:
    @pytest.mark.parametrize(
        ("held", "side", "quantity", "reducing"),
        [
            (10.0, Side.SELL, 5.0, True),
            (10.0, Side.SELL, 10.0, True),
            (10.0, Side.SELL, 10.1, False),
            (10.0, Side.BUY, 5.0, False),
            (-10.0, Side.BUY, 10.0, True),
            (-10.0, Side.SELL, 5.0, False),
            (0.0, Side.SELL, 5.0, False),
            (10.0, Side.SELL, -5.0, False),
            (10.0, Side.SELL, 0.0, False),
            (math.nan, Side.SELL, 5.0, False),
        ],
    )
    def test_only_brings_the_position_closer_to_zero(self, held, side, quantity, reducing):
        assert replace(GOOD, held=held, side=side, quantity=quantity).reducing is reducing

    def test_the_way_out_of_a_position_beyond_every_limit_is_free(self):
        trapped = replace(GOOD, held=1_000.0, side=Side.SELL, quantity=400.0, equity=1_000.0, day_profit=-50_000.0)
        assert _failed(trapped) == []
        assert set(_failed(replace(trapped, side=Side.BUY))) == set(EXPOSURE)

    @given(
        st.floats(1e-6, 1e9), st.floats(0.0, 1.0), st.floats(1e-6, 1e9), st.floats(1e-6, 1e12), st.floats(-1e12, 1e12)
    )
    def test_is_never_blocked_by_an_exposure_limit(self, size, share, price, equity, profit):
        quantity = max(size * share, 1e-9)
        for side in Side:
            held = -size * side.sign
            proposal = replace(
                GOOD, side=side, held=held, quantity=quantity, price=price, equity=equity, day_profit=profit
            )
            assert _failed(proposal, RiskLimits(1e-9, 1e-9, 1e-9, 1e-9)) == []

    @pytest.mark.parametrize("change", [{"calendar": "nowhere"}, {"price": math.nan}], ids=str)
    def test_is_still_held_by_what_is_no_exposure_limit(self, change):
        assert _failed(replace(GOOD, held=10.0, side=Side.SELL, **change))


@given(
    st.builds(
        Proposal,
        symbol=st.just("AAA"),
        side=st.sampled_from(list(Side)),
        calendar=CALENDARS,
        **dict.fromkeys(
            ("quantity", "price", "held", "equity", "day_profit", "time_ns", "period_ns"),
            ANYTHING,
        ),
    )
)
def test_is_total(proposal):
    checks = pre_trade_checks(proposal, LIMITS)
    assert [check.name for check in checks] == NAMES
    for check in checks:
        assert check.passed is (check.reason == "")
        assert isinstance(check.value, str) or math.isfinite(check.value)


@given(
    st.builds(
        replace,
        st.just(GOOD),
        side=st.sampled_from(list(Side)),
        quantity=st.floats(0, 200) | ODD,
        price=st.floats(0, 200) | ODD,
        held=st.floats(-400, 400) | ODD,
        equity=st.floats(0, 100_000) | ODD,
        day_profit=st.floats(-4_000, 4_000) | ODD,
    )
)
def test_never_approves_a_breach(proposal):
    """The rules again, in exact fractions: whatever all six let through breaks none of them."""
    if _failed(proposal):
        return
    numbers = (proposal.quantity, proposal.price, proposal.held, proposal.equity, proposal.day_profit)
    assert all(math.isfinite(number) for number in numbers)
    amount, each, before, worth, gain = map(Fraction, numbers)
    assert min(amount, each, worth) > 0
    after = before + amount * proposal.side.sign
    if abs(after) <= abs(before) and after * before >= 0:
        return
    slack = 1 + Fraction(1, 10**9)
    assert abs(after) * each <= Fraction(LIMITS.position_notional_max) * slack
    assert amount * each <= Fraction(LIMITS.order_notional_max) * slack
    assert -gain <= Fraction(LIMITS.daily_loss_share_max) * worth * slack
    assert abs(after) * each <= Fraction(LIMITS.concentration_share_max) * worth * slack
