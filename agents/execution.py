"""From an approved plan to the order that is wanted: the policy has the last word, and only a smaller one."""

from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from agents import conditions, features
from agents.domain import MarketView, Outcome, Side, TradePlan, TradingAction, Verdict
from agents.policy import Info, Policy
from agents.policy.observation import OBSERVATION_NAMES

__all__ = ["OBSERVATION_NAMES", "Wanted", "observe", "want"]

_ROOM_MAX = 10.0  # a missing stop or target is as good as far away


@dataclass(frozen=True, slots=True)
class Wanted:
    """The order a decision wants, before risk has looked at it; `quantity` 0 and no side for none, with the reason.

    `info`: who took the action, and why.
    """

    info: Info
    side: Side | None
    quantity: Decimal
    reason: str


def observe(view: MarketView, plan: TradePlan) -> NDArray[np.float64]:
    """What the policy sees: `OBSERVATION_NAMES`, shape (n,), float64."""
    direction = {TradingAction.BUY: 1.0, TradingAction.SELL: -1.0}.get(plan.action, 0.0)
    price, entry = view.close[-1], float(plan.entry)
    scale = conditions.true_range(view) or price
    side = 1.0 if plan.target_weight > 0 else -1.0  # of the position to hold, which a trade that trims it is not
    stop_room = (price - float(plan.stop)) * side / scale if plan.stop is not None else _ROOM_MAX
    target_room = (float(plan.take_profit) - price) * side / scale if plan.take_profit is not None else _ROOM_MAX
    bounds = np.clip([direction, (price - entry) / scale, stop_room, target_room], -_ROOM_MAX, _ROOM_MAX)
    return np.concatenate([features.feature_vector(view), bounds])


def want(plan: TradePlan, verdict: Verdict | None, view: MarketView, policy: Policy) -> Wanted:
    """Ask the policy about an approved plan. It may take the plan or hold; it cannot trade anything else."""
    action, info = policy.predict(observe(view, plan))
    who = info["policy_id"]
    if verdict is None or verdict.outcome is not Outcome.APPROVE:
        return Wanted(info, None, Decimal(0), "the quality gate has not approved the plan")
    if plan.action is TradingAction.HOLD:
        return Wanted(info, None, Decimal(0), "the plan holds, and nothing was ordered")
    if action is TradingAction.HOLD:
        return Wanted(info, None, Decimal(0), f"the policy {who} holds: {info['action_reason']}")
    if action is not plan.action:
        reason = f"the policy {who} wants to {action.name} against an approved {plan.action.name}"
        return Wanted(info, None, Decimal(0), reason)
    return Wanted(info, plan.side, plan.quantity, info["action_reason"])
