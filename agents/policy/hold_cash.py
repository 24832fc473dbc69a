"""The policy of last resort: it holds, whatever it is shown."""

from time import perf_counter_ns

from agents.domain import TradingAction
from agents.policy.protocol import Info, Observation

__all__ = ["HoldCashPolicy"]

_HOLD = TradingAction.HOLD


class HoldCashPolicy:
    """Always HOLD, and says that it stands in for another policy. It looks at nothing, so nothing can break it."""

    __slots__ = ("_count", "policy_id")

    def __init__(self, policy_id: str = "fallback_hold_cash") -> None:
        self.policy_id = policy_id
        self._count = 0

    def predict(self, observation: Observation, deterministic: bool = True) -> tuple[TradingAction, Info]:  # noqa: ARG002 - the protocol's signature
        """HOLD."""
        start = perf_counter_ns()
        self._count += 1
        return _HOLD, {
            "policy_id": self.policy_id,
            "policy_type": "fallback_hold_cash",
            "action_reason": "fallback_safe_hold",
            "latency_us": (perf_counter_ns() - start) / 1000,
            "is_fallback": True,
            "prediction_count": self._count,
        }
