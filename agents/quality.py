"""The gate between thinking and acting: named checks, each with its value and limit; approve, revise or reject."""

import math
from dataclasses import dataclass

from agents.domain import Check, MarketView, Outcome, Revision, Synthesis, TradePlan, TradingAction, Verdict
from agents.errors import ConfigError
from agents.walk_forward import WalkForward

__all__ = ["GateSettings", "review", "unreviewed"]


@dataclass(frozen=True, slots=True)
class GateSettings:
    """What a plan must show.

    `coverage_min` and `agreement_min` in [0, 1]; `age_periods_max` in bars; `weight_max` share of equity, halved when
    agreement is below `agreement_full` or the swarm is degraded; `mean_r_min`: the walk-forward's mean profit in units
    of the risk taken, asked only of at least `trades_min` trades; `revisions_max` times a plan may come back.
    """

    coverage_min: float = 0.6
    agreement_min: float = 0.52
    agreement_full: float = 0.65
    age_periods_max: float = 3.0
    reward_risk_min: float = 1.5
    weight_max: float = 0.25
    level_max: int = 1
    mean_r_min: float = -0.35
    trades_min: int = 5
    revisions_max: int = 2

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            low = -math.inf if name == "mean_r_min" else 0.0
            if not (isinstance(value, int | float) and math.isfinite(value) and value >= low):
                raise ConfigError(f"gate.{name} is {value}; no plan can be held against it; set a number >= {low}")


def review(
    plan: TradePlan,
    synthesis: Synthesis,
    view: MarketView,
    settings: GateSettings,
    *,
    now_ns: int,
    history: WalkForward,
) -> Verdict:
    """Hold a plan against every check.

    A HOLD risks nothing, and a plan that only closes a position ends a risk: both are asked only whether they may be
    trusted, since a gate that blocks the way out is the worse danger.

    What a smaller or wider plan would mend becomes a revision, at most `revisions_max` times; all else is rejected.
    """
    checks = [_coverage(synthesis, settings), _freshness(view, settings, now_ns)]
    revisions: list[Revision] = []
    if plan.action is not TradingAction.HOLD and plan.target_weight:
        checks += [_agreement(synthesis, settings), _degradation(plan, settings), _walk_forward(history, settings)]
        size, smaller = _size(plan, synthesis, settings)
        reward, wider = _reward_risk(plan, settings)
        checks += [size, _stop(plan), reward]
        revisions += [wish for wish in (smaller, wider) if wish]
    failed = sum(not check.passed for check in checks)
    if not failed:
        return Verdict(Outcome.APPROVE, tuple(checks))
    if failed == len(revisions) and plan.revision < settings.revisions_max:
        return Verdict(Outcome.REVISE, tuple(checks), tuple(revisions))
    return Verdict(Outcome.REJECT, tuple(checks))


def unreviewed(why: str) -> Verdict:
    """The verdict when the gate itself could not work: nothing passes a gate that cannot look."""
    return Verdict(Outcome.REJECT, (Check("gate", passed=False, value="unavailable", limit="working", reason=why),))


def _coverage(synthesis: Synthesis, settings: GateSettings) -> Check:
    passed = synthesis.coverage >= settings.coverage_min
    missing = ", ".join(synthesis.missing) or "nobody"
    reason = "" if passed else f"only {synthesis.coverage:.0%} of the analysts answered (missing: {missing})"
    return Check("coverage", passed, round(synthesis.coverage, 4), settings.coverage_min, reason)


def _freshness(view: MarketView, settings: GateSettings, now_ns: int) -> Check:
    age = (now_ns - view.as_of_ns) / view.period_ns
    passed = 0 <= age <= settings.age_periods_max
    reason = "" if passed else f"the newest bar is {age:.1f} bar periods old (allowed 0 to {settings.age_periods_max})"
    return Check("freshness", passed, round(age, 4), settings.age_periods_max, reason)


def _agreement(synthesis: Synthesis, settings: GateSettings) -> Check:
    passed = synthesis.agreement >= settings.agreement_min
    reason = "" if passed else f"the analysts contradict each other (agreement {synthesis.agreement:.2f})"
    return Check("agreement", passed, round(synthesis.agreement, 4), settings.agreement_min, reason)


def _degradation(plan: TradePlan, settings: GateSettings) -> Check:
    passed = plan.level <= settings.level_max
    reason = "" if passed else f"the swarm works at degradation level {plan.level}: too little was seen to take risk"
    return Check("degradation", passed, plan.level, settings.level_max, reason)


def _walk_forward(history: WalkForward, settings: GateSettings) -> Check:
    passed = history.trades < settings.trades_min or history.mean_r >= settings.mean_r_min
    reason = (
        ""
        if passed
        else (
            f"the same rule lost {-history.mean_r:.2f} of its risk a trade over {history.trades} trades of this history"
        )
    )
    return Check("walk_forward", passed, round(history.mean_r, 4), settings.mean_r_min, reason)


def _size(plan: TradePlan, synthesis: Synthesis, settings: GateSettings) -> tuple[Check, Revision | None]:
    full = synthesis.agreement >= settings.agreement_full and plan.level == 0
    limit = settings.weight_max if full else settings.weight_max / 2
    value = abs(plan.target_weight)
    passed = value <= limit * (1 + 1e-9)
    reason = "" if passed else f"a weight of {value:.4f} is above {limit:.4f}"
    if not full and not passed:
        reason += ", halved because the swarm is divided or degraded"
    check = Check("size", passed, round(value, 6), round(limit, 6), reason)
    return check, None if passed or limit <= 0 else Revision("target_weight", limit, reason)


def _stop(plan: TradePlan) -> Check:
    direction = 1 if plan.target_weight > 0 else -1
    passed = plan.stop is not None and (plan.entry - plan.stop) * direction > 0
    value = "none" if plan.stop is None else str(plan.stop)
    reason = "" if passed else "there is no stop on the losing side of the entry"
    return Check("stop", passed, value, f"{'below' if direction > 0 else 'above'} {plan.entry}", reason)


def _reward_risk(plan: TradePlan, settings: GateSettings) -> tuple[Check, Revision | None]:
    if plan.stop is None or plan.take_profit is None or plan.stop == plan.entry:
        reason = "without stop and take-profit there is no reward to weigh against the risk"
        check = Check("reward_risk", passed=False, value="none", limit=settings.reward_risk_min, reason=reason)
        return check, None
    direction = 1 if plan.target_weight > 0 else -1
    value = float((plan.take_profit - plan.entry) * direction / abs(plan.entry - plan.stop))
    passed = value >= settings.reward_risk_min
    reason = "" if passed else f"the plan risks 1 to earn {value:.2f}"
    check = Check("reward_risk", passed, round(value, 4), settings.reward_risk_min, reason)
    return check, None if passed else Revision("reward_risk", settings.reward_risk_min * 1.1, reason)
