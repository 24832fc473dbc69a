"""The pre-trade checks, in the order in which a desk asks them: all are evaluated, not only the first that fails.

parameters | position size | order size | daily loss | concentration | market hours

An order that only brings a position closer to zero is never held up by an exposure limit: blocking the way out is
the worse risk. Whatever cannot be measured (NaN, no equity, an unknown calendar) is a refusal.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from agents.domain import Check, Side
from agents.risk.hours import market_hours
from agents.risk.limits import RiskLimits

__all__ = ["Proposal", "pre_trade_checks"]


@dataclass(frozen=True, slots=True)
class Proposal:
    """What is proposed and what it meets. Plain numbers, deliberately unchecked: the checks do that.

    `quantity` and `held` in units (`held` signed, open orders included), `price` and `equity` in the account's
    currency, `day_profit` since the day began (a loss is negative), `time_ns` and `period_ns` of the decision's bar.
    """

    symbol: str
    side: Side
    quantity: float
    price: float
    held: float
    equity: float
    day_profit: float
    calendar: str
    time_ns: int
    period_ns: int

    @property
    def after(self) -> float:
        """The signed position if the order fills wholly."""
        return self.held + self.quantity * self.side.sign

    @property
    def reducing(self) -> bool:
        """Whether the order only brings the position closer to zero, without crossing it."""
        return self.held * self.side.sign < 0 and 0 < self.quantity <= abs(self.held)


def pre_trade_checks(proposal: Proposal, limits: RiskLimits) -> tuple[Check, ...]:
    """Hold a proposal against the six limits; never raises. The order may go only if every check passed."""
    measured: dict[str, Any] = {name: _number(getattr(proposal, name)) for name in _MEASURES}
    proposal = replace(proposal, **measured)
    return (
        _parameters(proposal),
        _position_size(proposal, limits),
        _order_size(proposal, limits),
        _daily_loss(proposal, limits),
        _concentration(proposal, limits),
        market_hours(proposal.calendar, proposal.time_ns, proposal.period_ns),
    )


_MEASURES = ("quantity", "price", "held", "equity", "day_profit")


def _number(value: Any) -> float:
    """What is no number, or one beyond all floats, is NaN: it passes no check."""
    try:
        return float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return math.nan


def _parameters(proposal: Proposal) -> Check:
    wrong = [
        name
        for name in ("quantity", "price", "equity")
        if not (math.isfinite(getattr(proposal, name)) and getattr(proposal, name) > 0)
    ]
    wrong += [name for name in ("held", "day_profit") if not math.isfinite(getattr(proposal, name))]
    reason = f"{', '.join(wrong)} cannot be traded with; the order is refused" if wrong else ""
    return Check("parameters", not wrong, ", ".join(wrong) or "valid", "finite and above 0", reason)


def _bounded(name: str, value: float, limit: float, reason: str, *, exempt: bool = False) -> Check:
    passed = math.isfinite(value) and (exempt or value <= limit)
    return Check(name, passed, _finite_or_text(value), limit, "" if passed else reason)


def _finite_or_text(value: float) -> float | str:
    return round(value, 10) if math.isfinite(value) else str(value)


def _position_size(proposal: Proposal, limits: RiskLimits) -> Check:
    value, limit = abs(proposal.after) * proposal.price, limits.position_notional_max
    reason = f"the position would be worth {value:,.2f}, above {limit:,.2f}; order a smaller quantity"
    return _bounded("position_size", value, limit, reason, exempt=proposal.reducing)


def _order_size(proposal: Proposal, limits: RiskLimits) -> Check:
    value, limit = proposal.quantity * proposal.price, limits.order_notional_max
    reason = f"the order is worth {value:,.2f}, above {limit:,.2f}; order a smaller quantity"
    return _bounded("order_size", value, limit, reason, exempt=proposal.reducing)


def _share_of_equity(amount: float, equity: float) -> float:
    return amount / equity if equity > 0 else math.nan


def _daily_loss(proposal: Proposal, limits: RiskLimits) -> Check:
    value = _share_of_equity(max(0.0, -proposal.day_profit), proposal.equity)
    if math.isnan(proposal.day_profit):
        value = math.nan
    limit = limits.daily_loss_share_max
    reason = f"{value:.2%} of equity was lost today, above {limit:.2%}; only reducing orders go until tomorrow"
    return _bounded("daily_loss", value, limit, reason, exempt=proposal.reducing)


def _concentration(proposal: Proposal, limits: RiskLimits) -> Check:
    value = _share_of_equity(abs(proposal.after) * proposal.price, proposal.equity)
    limit = limits.concentration_share_max
    reason = f"{proposal.symbol} would be {value:.2%} of equity, above {limit:.2%}; order a smaller quantity"
    return _bounded("concentration", value, limit, reason, exempt=proposal.reducing)
