"""What every policy answers, whatever it is made of."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from agents.domain import TradingAction

__all__ = ["Decision", "Policy"]


@dataclass(frozen=True, slots=True)
class Decision:
    """An action, who took it, and why; `is_fallback` where it is not the policy that was wanted."""

    action: TradingAction
    policy_id: str
    policy_type: str
    action_reason: str
    is_fallback: bool = False


class Policy(Protocol):
    """`observation`: the vector of `agents.execution.OBSERVATION_NAMES`, float64, shape (n,)."""

    @property
    def policy_id(self) -> str: ...

    def predict(self, observation: NDArray[np.float64]) -> Decision: ...
