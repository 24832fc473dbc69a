"""The policy of last resort: it holds, whatever it is shown."""

from time import perf_counter_ns

from agents.domain import TradingAction
from agents.policy.protocol import Info, Observation

__all__ = ["FALLBACK_ID", "HoldCashPolicy", "held"]

FALLBACK_ID = "fallback_hold_cash"
_HOLD = TradingAction.HOLD


class HoldCashPolicy:
    """Always HOLD. It looks at nothing, so nothing can break it.

    `fallback`: it says that it stands in for the policy that was wanted; otherwise it is the one that was wanted.
    """

    __slots__ = ("_count", "_fallback", "policy_id", "policy_type")

    def __init__(self, policy_id: str = FALLBACK_ID, *, fallback: bool = True) -> None:
        self.policy_id = policy_id
        self.policy_type = FALLBACK_ID if fallback else "hold_cash"
        self._fallback = fallback
        self._count = 0

    def predict(self, observation: Observation, deterministic: bool = True) -> tuple[TradingAction, Info]:  # noqa: ARG002 - the protocol's signature
        """HOLD."""
        start = perf_counter_ns()
        self._count += 1
        action, info = held(start, self._count)
        if not self._fallback:
            info["policy_type"], info["action_reason"], info["is_fallback"] = self.policy_type, "hold_cash", False
        info["policy_id"] = self.policy_id
        return action, info


def held(start_ns: int, count: int) -> tuple[TradingAction, Info]:
    """The answer of hold-cash as a fallback: its prediction number `count`, begun at `start_ns` of perf_counter_ns."""
    return _HOLD, {
        "policy_id": FALLBACK_ID,
        "policy_type": FALLBACK_ID,
        "action_reason": "fallback_safe_hold",
        "latency_us": (perf_counter_ns() - start_ns) / 1000,
        "is_fallback": True,
        "prediction_count": count,
    }
