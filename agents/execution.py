"""From an approved plan to the order that is wanted: the policy has the last word, and only a smaller one."""

import math
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from agents import conditions, features
from agents.domain import MarketView, Outcome, PolicyAnswer, Side, TradePlan, TradingAction, Verdict
from agents.policy import Info, Policy
from agents.policy.observation import OBSERVATION_NAMES

__all__ = ["OBSERVATION_NAMES", "Wanted", "bounded", "observe", "want"]

_ROOM_MAX = 10.0  # ATRs; a missing stop or target is as good as far away


@dataclass(frozen=True, slots=True)
class Wanted:
    """The order a decision wants, before risk has looked at it; `quantity` 0 and no side for none, with the reason.

    `answer`: who took the action, and why.
    """

    answer: PolicyAnswer
    side: Side | None
    quantity: Decimal
    reason: str


def observe(view: MarketView, plan: TradePlan) -> NDArray[np.float64]:
    """What the policy sees: `OBSERVATION_NAMES`, shape (n,), float64."""
    direction = {TradingAction.BUY: 1.0, TradingAction.SELL: -1.0}.get(plan.action, 0.0)
    price, entry = view.close[-1], float(plan.entry)
    scale = conditions.true_range(view) or price
    rooms = [room / scale for room in _rooms(view, plan)]
    bounds = np.clip([direction, (price - entry) / scale, *rooms], -_ROOM_MAX, _ROOM_MAX)
    return np.concatenate([features.feature_vector(view), bounds])


def _rooms(view: MarketView, plan: TradePlan) -> tuple[float, float]:
    """From the newest price to stop and to take-profit, negative beyond them, infinite where there is none."""
    price = view.close[-1]
    side = 1.0 if plan.target_weight > 0 else -1.0  # of the position to hold, which a trade that trims it is not
    stop = (price - float(plan.stop)) * side if plan.stop is not None else math.inf
    target = (float(plan.take_profit) - price) * side if plan.take_profit is not None else math.inf
    return stop, target


def want(plan: TradePlan, verdict: Verdict | None, view: MarketView, policy: Policy) -> Wanted:
    """Ask the policy about an approved plan. It may take the plan or hold; it cannot trade anything else."""
    return bounded(plan, verdict, view, *policy.predict(observe(view, plan)))


def bounded(plan: TradePlan, verdict: Verdict | None, view: MarketView, action: TradingAction, info: Info) -> Wanted:
    """What of a policy's action is within an approved plan: all that the plan has left to trade, or nothing."""
    answer = PolicyAnswer(
        policy_id=info["policy_id"],
        policy_type=info["policy_type"],
        action=action,
        action_reason=info["action_reason"],
        latency_us=info["latency_us"],
        is_fallback=info["is_fallback"],
    )
    refusal = _refusal(plan, verdict, view, answer)
    if refusal:
        return Wanted(answer, None, Decimal(0), refusal)
    return Wanted(answer, plan.side, plan.quantity, answer.action_reason)


def _refusal(plan: TradePlan, verdict: Verdict | None, view: MarketView, answer: PolicyAnswer) -> str:
    """Why nothing is traded, or "" where plan and policy want the same."""
    if verdict is None or verdict.outcome is not Outcome.APPROVE:
        return "the quality gate has not approved the plan"
    if plan.symbol != view.symbol:
        return f"the plan is for {plan.symbol}, and the market is {view.symbol}"
    if plan.action is TradingAction.HOLD:
        return "the plan holds, and nothing was ordered"
    who, action = f"the policy {answer.policy_id}", answer.action
    if action is TradingAction.HOLD:
        return f"{who} holds: {answer.action_reason}"
    if action is not plan.action:
        return f"{who} wants to {action.name} against an approved {plan.action.name}"
    outside = min(_rooms(view, plan)) <= 0
    return f"{who} wants to {action.name}, and the price is beyond the plan's stop or take-profit" if outside else ""
