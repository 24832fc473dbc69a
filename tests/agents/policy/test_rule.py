import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.domain import TradingAction
from agents.policy import Policy, RulePolicy
from agents.policy.observation import PLAN_FEATURES

POLICY: Policy = RulePolicy()
CALM = {"direction": 1.0, "entry_drift": 0.0, "stop_room": 2.0, "target_room": 4.0}


def _observation(**changes: float) -> np.ndarray:
    plan = {**CALM, **changes}
    return np.array([0.1, -0.2, 0.3, *(plan[name] for name in PLAN_FEATURES)])


@pytest.mark.parametrize(
    ("changes", "action", "why"),
    [
        ({}, TradingAction.BUY, "where the plan was made"),
        ({"direction": -1.0}, TradingAction.SELL, "where the plan was made"),
        ({"direction": 0.0}, TradingAction.HOLD, "the plan holds"),
        ({"stop_room": 0.0}, TradingAction.HOLD, "beyond"),
        ({"stop_room": -0.1}, TradingAction.HOLD, "beyond"),
        ({"target_room": 0.0}, TradingAction.HOLD, "beyond"),
        ({"entry_drift": 1.0}, TradingAction.BUY, "where the plan was made"),
        ({"entry_drift": 1.01}, TradingAction.HOLD, "ran +1.01 ATR"),
        ({"entry_drift": -1.01}, TradingAction.HOLD, "ran -1.01 ATR"),
    ],
)
def test_takes_the_plan_at_its_word_while_the_market_is_still_there(changes, action, why):
    taken, info = POLICY.predict(_observation(**changes))
    assert taken is action
    assert why in info["action_reason"]
    assert (info["policy_id"], info["policy_type"], info["is_fallback"]) == ("rule_plan", "rule", False)


@pytest.mark.parametrize("at", range(7))
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_holds_what_cannot_be_read(at, bad):
    observation = _observation()
    observation[at] = bad
    action, info = POLICY.predict(observation)
    assert action is TradingAction.HOLD
    assert "not finite" in info["action_reason"]


def test_the_drift_can_be_set():
    assert RulePolicy(drift_atr_max=0.5).predict(_observation(entry_drift=0.6))[0] is TradingAction.HOLD
    assert RulePolicy(drift_atr_max=2.0).predict(_observation(entry_drift=1.9))[0] is TradingAction.BUY


@given(st.lists(st.floats(), min_size=4, max_size=30))
def test_never_trades_against_the_direction(values):
    action, _ = POLICY.predict(np.array(values))
    direction = values[-4]
    allowed = {TradingAction.HOLD}
    if math.isfinite(direction) and direction:
        allowed.add(TradingAction.BUY if direction > 0 else TradingAction.SELL)
    assert action in allowed
