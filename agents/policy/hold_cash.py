"""The policy of last resort: it holds, whatever it is shown."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.domain import TradingAction
from agents.policy.protocol import Decision

__all__ = ["HoldCashPolicy"]


@dataclass(frozen=True, slots=True)
class HoldCashPolicy:
    """Always HOLD, and says that it stands in for another policy."""

    policy_id: str = "fallback_hold_cash"

    def predict(self, observation: NDArray[np.float64]) -> Decision:  # noqa: ARG002 - the protocol's signature
        return Decision(TradingAction.HOLD, self.policy_id, "hold_cash", "fallback_safe_hold", is_fallback=True)
