import math

import numpy as np
import pytest

from agents.domain import TradingAction
from agents.policy import Decision, HoldCashPolicy, Policy


@pytest.mark.parametrize("values", [[], [1.0, 1.0, 1.0, 1.0], [math.nan], [math.inf] * 30])
def test_holds_whatever_it_is_shown(values):
    policy: Policy = HoldCashPolicy()
    decision = policy.predict(np.array(values))
    assert decision == Decision(
        TradingAction.HOLD, "fallback_hold_cash", "hold_cash", "fallback_safe_hold", is_fallback=True
    )


def test_signs_with_the_name_it_was_given():
    assert HoldCashPolicy("stand_in").predict(np.array([0.0])).policy_id == "stand_in"
