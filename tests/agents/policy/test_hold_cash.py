import math

import numpy as np
import pytest

from agents.domain import TradingAction
from agents.policy import HoldCashPolicy, Policy


@pytest.mark.parametrize("values", [[], [1.0, 1.0, 1.0, 1.0], [math.nan], [math.inf] * 30])
def test_holds_whatever_it_is_shown(values):
    policy: Policy = HoldCashPolicy()
    for count in (1, 2):
        action, info = policy.predict(np.array(values))
        assert action is TradingAction.HOLD
        assert info.pop("latency_us") >= 0
        assert info == {
            "policy_id": "fallback_hold_cash",
            "policy_type": "fallback_hold_cash",
            "action_reason": "fallback_safe_hold",
            "is_fallback": True,
            "prediction_count": count,
        }


def test_signs_with_the_name_it_was_given():
    assert HoldCashPolicy("stand_in").predict(np.array([0.0]))[1]["policy_id"] == "stand_in"


def test_as_the_policy_that_was_wanted_it_stands_in_for_nobody():
    action, info = HoldCashPolicy("hold_cash", fallback=False).predict(np.array([0.0]))
    assert action is TradingAction.HOLD
    assert info.pop("latency_us") >= 0
    assert info == {
        "policy_id": "hold_cash",
        "policy_type": "hold_cash",
        "action_reason": "hold_cash",
        "is_fallback": False,
        "prediction_count": 1,
    }
