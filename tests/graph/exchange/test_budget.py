"""429 for who asks for too much, 418 for who goes on."""

import pytest

from graph.exchange.budget import Budget, RateLimits
from graph.exchange.refusal import Refusal

LIMITS = RateLimits(weight=100, orders_10s=3, orders_day=5)


def refused(act):
    with pytest.raises(Refusal) as error:
        act()
    return error.value


def test_the_weight_of_a_minute_and_how_long_to_wait():
    budget = Budget(LIMITS)
    for _ in range(5):
        budget.charge(20, 90_000)
    error = refused(lambda: budget.charge(1, 90_500))
    assert (error.status, error.code, error.retry_after, budget.used(90_500)["weight"]) == (429, -1003, 30, 100)
    budget.charge(1, 120_000)
    assert budget.used(120_000)["weight"] == 1


def test_who_does_not_stop_is_banned_beyond_the_minute():
    budget = Budget(LIMITS)
    budget.charge(100, 0)
    errors = [refused(lambda: budget.charge(1, 1_000)) for _ in range(21)]
    assert [error.status for error in errors] == [429] * 20 + [418]
    assert refused(lambda: budget.charge(1, 70_000)).status == 418
    assert errors[-1].retry_after == 120
    budget.charge(1, 122_000)


def test_orders_in_ten_seconds_and_in_a_day():
    budget = Budget(LIMITS)
    for _ in range(3):
        budget.charge_order(1_000)
    error = refused(lambda: budget.charge_order(2_000))
    assert (error.status, error.code, error.retry_after, budget.used(2_000)["orders"]) == (429, -1015, 8, 3)
    budget.charge_order(10_000)
    budget.charge_order(10_001)
    assert "1 DAY" in refused(lambda: budget.charge_order(20_000)).text


def test_what_is_used_is_that_of_the_present_spans():
    budget = Budget(LIMITS)
    budget.charge(7, 1_000)
    budget.charge_order(1_000)
    budget.charge_order(12_000)
    assert budget.used(12_000) == {"weight": 7, "orders": 1, "day": 2}
    assert budget.used(60_000) == {"weight": 0, "orders": 0, "day": 2}
    assert budget.used(86_400_000) == {"weight": 0, "orders": 0, "day": 0}
