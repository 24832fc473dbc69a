"""What every policy answers, whatever it is made of."""

from typing import Protocol, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

from agents.domain import TradingAction

__all__ = ["Info", "Observation", "Policy"]

Observation: TypeAlias = NDArray[np.float64] | NDArray[np.float32]
"""Shape (n,): for the trade workflow the values of `agents.execution.OBSERVATION_NAMES`, in their order."""


class Info(TypedDict):
    """Who took an action, and why.

    `policy_type`: torchscript, mlp, rule, hold_cash or fallback_hold_cash; `latency_us`: microseconds of the call, as
    the one who answers measured it; `is_fallback`: it is not the policy that was wanted; `prediction_count`: calls so
    far, this one included.
    """

    policy_id: str
    policy_type: str
    action_reason: str
    latency_us: float
    is_fallback: bool
    prediction_count: int


class Policy(Protocol):
    """An action for an observation, in microseconds. It does not wait, and keeps nothing of what it was shown.

    `predict` may raise PolicyFault where no action follows from its input or from its own numbers.
    """

    @property
    def policy_id(self) -> str: ...

    def predict(self, observation: Observation, deterministic: bool = True) -> tuple[TradingAction, Info]: ...
