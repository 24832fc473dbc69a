"""The swarm's findings as one, and how much of the swarm is left."""

import math
from collections import Counter
from collections.abc import Collection, Sequence

from agents.degradation import CRITICAL_PERCENT, level_of, too_many_missing
from agents.domain import Finding, Outage, Synthesis
from agents.errors import CriticalDegradation, InvalidValue

__all__ = ["synthesise"]


def synthesise(findings: Sequence[Finding | Outage], required: Collection[str]) -> Synthesis:
    """Weigh all findings by their confidence; the order in which they came in changes nothing, to the last bit.

    `findings` holds one finding or outage for each member that was asked; `required` names the members that a decision
    cannot do without, and one of them that reported nothing at all counts as failed. Stance is the
    confidence-weighted mean; confidence the plain mean over all members asked, where those that are missing count 0;
    agreement the share of confidence on the stance's side, 0 where nobody is confident.

    Raises:
        CriticalDegradation: more than 30 % of the required members failed.
        InvalidValue: nobody was asked, or one member reported twice.
    """
    _check_once(findings)
    answers = sorted((each for each in findings if isinstance(each, Finding)), key=lambda each: each.analyst)
    needed = set(required) | {each.analyst for each in findings if isinstance(each, Outage) and each.required}
    asked = needed | {each.analyst for each in findings}
    if not asked:
        raise InvalidValue("no analyst was asked; there is nothing to decide on; name at least one member")
    missing = tuple(sorted(asked - {each.analyst for each in answers}))
    _check_required(needed, missing, findings)
    # fsum is correctly rounded: it neither depends on the order, nor lets a part outgrow its whole.
    weight = math.fsum(each.confidence for each in answers)
    stance = _weighted(answers)
    return Synthesis(
        stance=stance,
        confidence=weight / len(asked),
        agreement=_agreement(answers, weight, stance),
        coverage=len(answers) / len(asked),
        level=level_of(len(answers), len(asked)),
        missing=missing,
    )


def _check_once(findings: Sequence[Finding | Outage]) -> None:
    twice = sorted(name for name, count in Counter(each.analyst for each in findings).items() if count > 1)
    if twice:
        raise InvalidValue(
            f"{', '.join(twice)} reported more than once; the findings were not weighed, as it would count double; "
            "give every member a name of its own, and pass one report of each"
        )


def _check_required(needed: set[str], missing: tuple[str, ...], findings: Sequence[Finding | Outage]) -> None:
    """Refuse where too many of the members needed are missing."""
    failed = [name for name in missing if name in needed]
    if not too_many_missing(len(failed), len(needed)):
        return
    errors = {each.analyst: each.error for each in findings if isinstance(each, Outage)}
    causes = "; ".join(f"{name}: {' '.join(errors.get(name, 'no report').split())}" for name in failed)
    raise CriticalDegradation(
        f"{len(failed)} of {len(needed)} required analysts failed (limit {CRITICAL_PERCENT} %): {causes}; no plan was "
        "made, and no order was sent; remove the causes and resume the run"
    )


def _weighted(answers: Sequence[Finding]) -> float:
    """The confidence-weighted mean stance; 0 where nobody is confident."""
    surest = max((each.confidence for each in answers), default=0.0)
    if surest <= 0.0:
        return 0.0
    # Weights relative to the surest keep the smallest confidences from being lost in the products.
    weights = [each.confidence / surest for each in answers]
    total = math.fsum(weight * each.stance for weight, each in zip(weights, answers, strict=True))
    return total / math.fsum(weights)


def _agreement(answers: Sequence[Finding], weight: float, stance: float) -> float:
    """A stance of 0 has the members that say 0 on its side."""
    if weight <= 0.0:
        return 0.0
    side = math.fsum(each.confidence for each in answers if _sign(each.stance) == _sign(stance))
    return side / weight


def _sign(value: float) -> int:
    return (value > 0.0) - (value < 0.0)
