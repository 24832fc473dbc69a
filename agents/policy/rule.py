"""The plan, taken at its word while the market is still where the plan was made."""

from time import perf_counter_ns

import numpy as np

from agents.domain import TradingAction
from agents.policy.observation import PLAN_FEATURES
from agents.policy.protocol import Info, Observation

__all__ = ["RulePolicy"]


class RulePolicy:
    """Trade in the plan's direction, unless the price has run away from the entry or is beyond stop or target.

    `drift_atr_max`: how far the price may have moved from the plan's entry, in average true ranges.
    """

    __slots__ = ("_count", "drift_atr_max", "policy_id")

    policy_type = "rule"

    def __init__(self, policy_id: str = "rule_plan", drift_atr_max: float = 1.0) -> None:
        self.policy_id = policy_id
        self.drift_atr_max = drift_atr_max
        self._count = 0

    def predict(self, observation: Observation, deterministic: bool = True) -> tuple[TradingAction, Info]:  # noqa: ARG002 - the protocol's signature
        """Decide; a vector with a value that is not finite is held, since nothing can be read from it."""
        start = perf_counter_ns()
        action, reason = self._decide(observation)
        self._count += 1
        return action, {
            "policy_id": self.policy_id,
            "policy_type": self.policy_type,
            "action_reason": reason,
            "latency_us": (perf_counter_ns() - start) / 1000,
            "is_fallback": False,
            "prediction_count": self._count,
        }

    def _decide(self, observation: Observation) -> tuple[TradingAction, str]:
        if not np.isfinite(observation).all():
            return TradingAction.HOLD, "the observation has values that are not finite"
        direction, drift, stop_room, target_room = (float(value) for value in observation[-len(PLAN_FEATURES) :])
        if direction == 0:
            return TradingAction.HOLD, "the plan holds"
        if stop_room <= 0 or target_room <= 0:
            return TradingAction.HOLD, "the price is beyond the plan's stop or take-profit"
        if abs(drift) > self.drift_atr_max:
            return TradingAction.HOLD, f"the price ran {drift:+.2f} ATR away from the plan's entry"
        action = TradingAction.BUY if direction > 0 else TradingAction.SELL
        return action, "the price is where the plan was made"
