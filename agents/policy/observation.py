"""What a policy of the trade workflow is shown: the market's features, and where the price stands in the plan."""

from agents.features import FEATURE_NAMES

__all__ = ["OBSERVATION_NAMES", "PLAN_FEATURES"]

PLAN_FEATURES = ("direction", "entry_drift", "stop_room", "target_room")
"""`direction` -1, 0, +1; `entry_drift` (price - entry) / ATR, signed; `stop_room` and `target_room`: distance to stop
and take-profit in ATRs, negative once the price is beyond them. All within [-10, 10]."""

OBSERVATION_NAMES: tuple[str, ...] = (*FEATURE_NAMES, *PLAN_FEATURES)
"""The entries of an observation, in their order."""
