"""The fifteen pre-trade checks, in the order in which they are asked: all are evaluated, not only the first that fails.

parameters | position size | order size | daily loss | concentration | market hours
price collar | duplicate intent | order rate | trading state | open exposure | drawdown | reject streak | self-trade
restricted list

An order that only brings a position closer to zero is never held up by an exposure limit: blocking the way out is
the worse risk. Whatever cannot be measured (NaN, None, an order that cannot be read, an unknown calendar) is a refusal.
docs/risk.md has every check with its default, its reason, and whether it lets a reducing order pass.
"""

import math
from decimal import Decimal
from typing import Any

from agents.domain import Check, TradingState
from agents.risk.hours import market_hours
from agents.risk.limits import RiskLimits
from agents.risk.measure import Measures, measure
from agents.risk.proposal import NO_REFERENCE, Proposal

__all__ = ["UNREADABLE", "pre_trade_checks", "trading_check"]

UNREADABLE = "unreadable"
"""The value of the check `trading_state` where the state is none that there is."""

_REASONS = {
    "position_size": "the position could be worth {value:,.2f}, above {limit:,.2f}; order a smaller quantity",
    "order_size": "the order is worth {value:,.2f}, above {limit:,.2f}; order a smaller quantity",
    "daily_loss": "{value:.2%} of equity was lost today, above {limit:.2%}; only reducing orders go until tomorrow",
    "concentration": "the position could be {value:.2%} of equity, above {limit:.2%}; order a smaller quantity",
    "price_collar": "the price is {value:.2%} off the reference, above {limit:.2%}; decide again at today's price",
    "duplicate_intent": "{value:.0f} like it went just now; it may be the same order asked for twice; wait, or skip it",
    "open_exposure": "all positions could be {value:.2%} of equity, above {limit:.2%}; close some, or cancel orders",
    "drawdown": "equity is {value:.2%} below its peak, above {limit:.2%}; only reducing orders go until it recovers",
    "reject_streak": "the broker rejected {value:.0f} in a row, above {limit:.0f}; find out why, then activate trading",
    "self_trade": "it would execute against {value:.0f} of the account's own resting orders; cancel them first",
}


def pre_trade_checks(proposal: Proposal, limits: RiskLimits) -> tuple[Check, ...]:
    """Hold a proposal against all fifteen; never raises. The order may go only if every check passed."""
    measures = measure(proposal, limits)
    return (
        _parameters(measures),
        _position_size(measures, limits),
        _order_size(measures, limits),
        _daily_loss(measures, limits),
        _concentration(measures, limits),
        market_hours(proposal.calendar, proposal.time_ns, proposal.period_ns),
        _price_collar(measures, limits),
        _bounded("duplicate_intent", measures.twins, 0.0, exempt=measures.reducing),
        _order_rate(measures, limits),
        trading_check(proposal.trading, proposal.trading_why, measures.exact_quantity, measures.closable),
        _open_exposure(measures, limits),
        _drawdown(measures, limits),
        _bounded("reject_streak", measures.rejects_in_row, float(limits.reject_streak_max), exempt=measures.reducing),
        _bounded("self_trade", measures.crossed, 0.0),
        _restricted(measures, limits),
    )


def _bounded(name: str, value: float, limit: float, *, exempt: bool = False) -> Check:
    """A measure that must not be above its limit; NaN never passes."""
    if value <= limit or (exempt and not math.isnan(value)):
        return Check(name, passed=True, value=_finite_or_text(value), limit=limit)
    reason = _unmeasured(name) if math.isnan(value) else _REASONS[name].format(value=value, limit=limit)
    return Check(name, passed=False, value=_finite_or_text(value), limit=limit, reason=reason)


def _unmeasured(name: str) -> str:
    return f"{name} rests on what is missing or no number; the order is refused; mend what was measured"


def _finite_or_text(value: float) -> float | str:
    return round(value, 10) + 0.0 if math.isfinite(value) else str(value)  # 0.0 makes a zero of a negative one


def _parameters(measures: Measures) -> Check:
    wrong = ", ".join(measures.wrong)
    reason = f"{wrong} cannot be traded with; the order is refused; mend what was given" if wrong else ""
    return Check("parameters", not wrong, wrong or "valid", "finite and above 0", reason)


def _position_size(measures: Measures, limits: RiskLimits) -> Check:
    value = abs(measures.after) * measures.worth
    return _bounded("position_size", value, limits.position_notional_max, exempt=measures.reducing)


def _order_size(measures: Measures, limits: RiskLimits) -> Check:
    value = measures.quantity * measures.worth
    return _bounded("order_size", value, limits.order_notional_max, exempt=measures.reducing)


def _share(amount: float, whole: float) -> float:
    """Of an account that has nothing left, everything is more than any share."""
    if whole > 0 or math.isnan(whole):
        return amount / whole
    return math.nan if math.isnan(amount) else math.inf


def _daily_loss(measures: Measures, limits: RiskLimits) -> Check:
    lost = -measures.day_profit if not measures.day_profit > 0 else 0.0
    value = _share(lost, measures.equity)
    return _bounded("daily_loss", value, limits.daily_loss_share_max, exempt=measures.reducing)


def _concentration(measures: Measures, limits: RiskLimits) -> Check:
    value = _share(abs(measures.after) * measures.worth, measures.equity)
    return _bounded("concentration", value, limits.concentration_share_max, exempt=measures.reducing)


def _price_collar(measures: Measures, limits: RiskLimits) -> Check:
    """A way out is held up by a limit price that costs too much, and not by a market that fell or is not heard of."""
    limit, stale = limits.price_collar_share_max, measures.reference_age_s > limits.reference_age_max_s
    if measures.off is None:
        return Check("price_collar", passed=True, value=NO_REFERENCE, limit=limit)
    if stale and not (measures.reducing or math.isnan(measures.off)):
        return _stale(measures.reference_age_s, limits.reference_age_max_s)
    off = math.nan if math.isnan(measures.reference_age_s) else measures.off
    return _bounded("price_collar", off, limit, exempt=measures.reducing and (stale or measures.limit_price is None))


def _stale(age_s: float, limit_s: float) -> Check:
    told = f"{age_s:.6g} s old"
    reason = f"the reference price is {told}, above {limit_s:g} s; no price can be held against it; take a fresh one"
    return Check("price_collar", passed=False, value=told, limit=f"{limit_s:g} s", reason=reason)


def _order_rate(measures: Measures, limits: RiskLimits) -> Check:
    """What was sent lately, this order included."""
    count, worth = measures.sent + 1, measures.sent_worth + measures.quantity * measures.worth
    told = f"{count:.0f} worth {worth:.6g}"
    allowed = f"{limits.rate_count_max} worth {limits.rate_notional_max:.6g} in {limits.rate_window_s:g} s"
    within = count <= limits.rate_count_max and worth <= limits.rate_notional_max
    if within or (measures.reducing and not math.isnan(worth)):
        return Check("order_rate", passed=True, value=told, limit=allowed)
    reason = f"orders would be {told}, above {allowed}; wait, and find out who sends so many"
    reason = _unmeasured("order_rate") if math.isnan(worth) else reason
    return Check("order_rate", passed=False, value=told, limit=allowed, reason=reason)


def trading_check(state: TradingState, why: str, quantity: Decimal, closable: Decimal) -> Check:
    """The check `trading_state`: ACTIVE lets an order go, REDUCING one that only closes, HALTED none; never raises.

    `why`: the reason of the state; `quantity` of the order, and how much of it can at most close a position that is
    there, whatever becomes of other open orders: more would open, or turn, a position.
    """
    if state is TradingState.ACTIVE:
        return Check("trading_state", passed=True, value=str(state), limit=str(state))
    told = " ".join(why.split()) if isinstance(why, str) else "and why is not known"
    if state is not TradingState.REDUCING:
        value = str(state) if isinstance(state, TradingState) else UNREADABLE
        reason = f"trading is HALTED ({told}); no order goes until an operator lets it"
        return Check("trading_state", passed=False, value=value, limit=str(TradingState.ACTIVE), reason=reason)
    left, asked = (each if _is_finite(each) else "no number" for each in (closable, quantity))
    passed = _is_finite(quantity) and _is_finite(closable) and 0 < quantity <= closable
    reason = f"trading is REDUCING ({told}); only what closes a position goes, at most {left}, not {asked}"
    limit = f"closes at most {left}"
    return Check("trading_state", passed, value=str(state), limit=limit, reason="" if passed else reason)


def _is_finite(number: Any) -> bool:
    return isinstance(number, Decimal) and number.is_finite()


def _open_exposure(measures: Measures, limits: RiskLimits) -> Check:
    value = _share(abs(measures.after) * measures.worth + measures.elsewhere, measures.equity)
    return _bounded("open_exposure", value, limits.gross_share_max, exempt=measures.reducing)


def _drawdown(measures: Measures, limits: RiskLimits) -> Check:
    """Without a peak, or above it, nothing has fallen."""
    value = 0.0 if measures.equity >= measures.peak_equity else math.nan
    if measures.equity < measures.peak_equity:
        value = _share(measures.peak_equity - measures.equity, measures.peak_equity)
    return _bounded("drawdown", value, limits.drawdown_share_max, exempt=measures.reducing)


def _restricted(measures: Measures, limits: RiskLimits) -> Check:
    """For every order: whoever must not trade a symbol must not sell it either."""
    symbol, allowed = measures.symbol, f"none of {len(limits.restricted)}"
    passed = bool(symbol) and symbol.upper() not in limits.restricted
    reason = f"{symbol} is on the restricted list; nothing is traded in it; take it off the list, if that is allowed"
    reason = reason if symbol else _unmeasured("restricted")
    return Check("restricted", passed, symbol or "no symbol", allowed, "" if passed else reason)
