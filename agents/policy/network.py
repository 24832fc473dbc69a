"""A network's outputs as an action: the part that is the same for every format."""

import math
from collections.abc import Callable
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from agents.domain import TradingAction
from agents.errors import PolicyFault
from agents.policy.metadata import Metadata
from agents.policy.protocol import Info, Observation

__all__ = ["Forward", "NetworkPolicy"]

Forward = tuple[NDArray[np.float32], Callable[[], list[float]]]
"""A network as its format gives it: the buffer (inputs,) that it reads, and the call that gives its outputs."""


class NetworkPolicy:
    """Takes the action whose output is greatest; the first of equals.

    Not for two threads at once: its buffer is its own, and is used again by every call.
    """

    __slots__ = ("_actions", "_buffer", "_count", "_run", "_shape", "_small", "metadata", "policy_id", "policy_type")

    def __init__(self, metadata: Metadata, forward: Forward) -> None:
        """Try it on zeros.

        Raises:
            PolicyFault: its output is not of the shape that the metadata states, or not finite.
        """
        self.metadata = metadata
        self.policy_id = metadata.policy_id
        self.policy_type = metadata.format
        self._actions = metadata.actions
        self._buffer, self._run = forward
        self._shape = self._buffer.shape
        self._small = np.full_like(self._buffer, 2.0**-64)
        self._count = 0
        found = self._run()
        if len(found) != len(self._actions):
            raise PolicyFault(
                f"the policy {self.policy_id} puts out {len(found)} values, and its metadata states"
                f" {len(self._actions)}; it was not loaded"
            )
        self.outputs(self._buffer)

    def predict(self, observation: Observation, deterministic: bool = True) -> tuple[TradingAction, Info]:  # noqa: ARG002 - the protocol's signature
        """The action, and how long the network took.

        Raises:
            PolicyFault: the observation has another shape than the policy's input, or it or the outputs are not finite.
        """
        start = perf_counter_ns()
        outputs = self.outputs(observation)
        action = self._actions[outputs.index(max(outputs))]
        self._count += 1
        return action, {
            "policy_id": self.policy_id,
            "policy_type": self.policy_type,
            "action_reason": "greatest_output",
            "latency_us": (perf_counter_ns() - start) / 1000,
            "is_fallback": False,
            "prediction_count": self._count,
        }

    def outputs(self, observation: Observation) -> list[float]:
        """The raw outputs.

        Raises:
            PolicyFault: see `predict`.
        """
        buffer = self._buffer
        if observation.shape != self._shape:
            raise PolicyFault(
                f"the policy {self.policy_id} wants {self._shape[0]} values and was given {observation.shape};"
                " no action was taken; give it what its metadata names"
            )
        np.copyto(buffer, observation, "same_kind")
        # One pass in C: NaN and infinity come through every sum, and what is only large does not overflow in this one.
        if not math.isfinite(buffer.dot(self._small)):
            raise PolicyFault(
                f"the observation for {self.policy_id} has values that are not finite; nothing was decided"
            )
        found = self._run()
        if not math.isfinite(sum(found)):  # the greatest of NaNs would be an action like any other
            raise PolicyFault(f"the policy {self.policy_id} put out {found}, which is not finite; nothing was decided")
        return found
