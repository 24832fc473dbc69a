"""The plan, taken at its word while the market is still where the plan was made."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.domain import TradingAction
from agents.policy.protocol import Decision

__all__ = ["PLAN_FEATURES", "RulePolicy"]

PLAN_FEATURES = ("direction", "entry_drift", "stop_room", "target_room")
"""The last four entries of an observation. `direction` -1, 0, +1; `entry_drift` (price - entry) / ATR, signed;
`stop_room` and `target_room`: distance to stop and take-profit in ATRs, negative once the price is beyond them."""


@dataclass(frozen=True, slots=True)
class RulePolicy:
    """Trade in the plan's direction, unless the price has run away from the entry or is beyond stop or target.

    `drift_atr_max`: how far the price may have moved from the plan's entry, in average true ranges.
    """

    policy_id: str = "rule_plan"
    drift_atr_max: float = 1.0

    def predict(self, observation: NDArray[np.float64]) -> Decision:
        """Decide; a vector with a value that is not finite is held, since nothing can be read from it."""
        if not np.isfinite(observation).all():
            return self._decision(TradingAction.HOLD, "the observation has values that are not finite")
        direction, drift, stop_room, target_room = (float(value) for value in observation[-len(PLAN_FEATURES) :])
        if direction == 0:
            return self._decision(TradingAction.HOLD, "the plan holds")
        if stop_room <= 0 or target_room <= 0:
            return self._decision(TradingAction.HOLD, "the price is beyond the plan's stop or take-profit")
        if abs(drift) > self.drift_atr_max:
            return self._decision(TradingAction.HOLD, f"the price ran {drift:+.2f} ATR away from the plan's entry")
        action = TradingAction.BUY if direction > 0 else TradingAction.SELL
        return self._decision(action, "the price is where the plan was made")

    def _decision(self, action: TradingAction, reason: str) -> Decision:
        return Decision(action, self.policy_id, "rule", reason)
