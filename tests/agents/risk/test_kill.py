"""Which measures of an account stop it, and which only refuse an order."""

import math
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.domain import Check, Side, TradingState
from agents.risk import Holding, KillSwitchReason, RiskLimits, pre_trade_checks, trip_reason
from tests.agents.risk.test_checks import ANY, EXIT, GOOD, LIMITS, NOW_NS, REFERRED, S_NS, own


def reason(proposal, limits=LIMITS):
    return trip_reason(pre_trade_checks(proposal, limits))


@pytest.mark.parametrize("proposal", [GOOD, REFERRED, EXIT])
def test_an_ordinary_order_stops_nothing(proposal):
    assert reason(proposal) is None


@pytest.mark.parametrize("proposal", [GOOD, EXIT], ids=["opens", "reduces"])
@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"day_profit": -3_001.0}, "loss_limit"),
        ({"equity": 0.0}, "loss_limit"),
        ({"peak_equity": 112_000.0}, "drawdown"),
        ({"rejects_in_row": 4}, "reject_streak"),
        ({"trading": None}, "unreadable_state"),
        ({"trading": None, "day_profit": -3_001.0, "rejects_in_row": 4}, "unreadable_state"),
        ({"peak_equity": 112_000.0, "day_profit": -3_001.0}, "loss_limit"),
        ({"peak_equity": 112_000.0, "rejects_in_row": 4}, "drawdown"),
    ],
    ids=str,
)
def test_what_is_wrong_with_the_account_stops_it_whoever_asks(proposal, change, code):
    assert reason(replace(proposal, **change)) is KillSwitchReason(code)


def test_a_flood_of_orders_stops_it_and_a_way_out_in_the_flood_does_not():
    flood = {"orders": (own(),) * 10}
    assert reason(replace(GOOD, **flood)) is KillSwitchReason.BREACH
    assert reason(replace(GOOD, **flood, rejects_in_row=4)) is KillSwitchReason.REJECT_STREAK
    assert reason(replace(EXIT, **flood)) is None


@pytest.mark.parametrize("quantity", [1_000.0, 1e9, Decimal("1e400")])
def test_one_order_that_is_too_large_is_no_flood(quantity):
    checks = pre_trade_checks(replace(GOOD, quantity=quantity), LIMITS)
    assert {"order_size", "order_rate"} <= {check.name for check in checks if not check.passed}
    assert trip_reason(checks) is None
    assert reason(replace(GOOD, quantity=quantity, rejects_in_row=4)) is KillSwitchReason.REJECT_STREAK


@pytest.mark.parametrize(
    "change",
    [
        {"quantity": 1e6, "price": 1.0, "held": 1e6, "orders": ()},
        {"calendar": "nowhere"},
        {"symbol": "GME"},
        {"reference_price": 100.0, "reference_ns": NOW_NS - 999 * S_NS},
        {"reference_price": None},
        {"orders": (own(quantity=10.0),)},
        {"orders": (own(side=Side.SELL, left=1.0, limit_price=99.0),)},
        {"orders": None},
        {"others": (Holding("BBB", 1e6, 1.0),)},
        {"trading": TradingState.HALTED},
        {"trading": TradingState.REDUCING},
        {"day_profit": math.nan},
        {"equity": math.nan},
        {"peak_equity": None},
        {"rejects_in_row": "many"},
    ],
    ids=str,
)
def test_an_order_that_is_refused_stops_nothing_else(change):
    limits = replace(LIMITS, rate_notional_max=1e9)
    checks = pre_trade_checks(replace(GOOD, **change), limits)
    assert not all(check.passed for check in checks)
    assert trip_reason(checks) is None


def test_checks_of_others_and_none_at_all():
    assert trip_reason([]) is None
    assert trip_reason(iter([Check("daily_loss", passed=False, value="much", limit="some")])) is None
    assert trip_reason([Check("coverage", passed=False, value=9.0, limit=1.0)]) is None


@given(ANY, st.sampled_from([LIMITS, RiskLimits()]))
def test_is_total(proposal, limits):
    assert reason(proposal, limits) in {None, *KillSwitchReason}
