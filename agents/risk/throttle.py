"""How much of a wanted size the market can take: each rule can only reduce, and says so."""

from dataclasses import dataclass
from decimal import Decimal

from agents.domain import towards_zero
from agents.risk.limits import RiskLimits

__all__ = ["Throttled", "throttle_size"]


@dataclass(frozen=True, slots=True)
class Throttled:
    """The size that remains, and one reason for each rule that bound it."""

    quantity: Decimal
    reasons: tuple[str, ...]


def throttle_size(
    quantity: Decimal,
    limits: RiskLimits,
    *,
    average_volume: float | None = None,
    volatility: float | None = None,
    spread_bps: float | None = None,
) -> Throttled:
    """Reduce `quantity` (units) to what participation, spread, volatility and the absolute cap allow.

    `average_volume` units a bar, `volatility` of one bar, `spread_bps` in basis points of the price: None where the
    source does not tell, and then that rule does not bind. A measure that is not a number sizes to zero: trading on
    a broken measurement is worse than not trading. Volume 0 leaves nothing to take part in.
    """
    if not quantity.is_finite() or quantity <= 0:
        return Throttled(Decimal(0), (f"a quantity of {quantity} is nothing to order",))
    wanted = float(quantity)
    caps: list[tuple[float, str]] = []
    if average_volume is not None:
        share = limits.participation_max
        caps.append((share * average_volume, f"{share:.0%} of the average bar volume of {average_volume:,.2f}"))
    if spread_bps is not None:
        caps.append((_shrunk(wanted, spread_bps, limits.spread_bps_max), f"a spread of {spread_bps:.1f} bps"))
    if volatility is not None:
        caps.append((_shrunk(wanted, volatility, limits.volatility_max), f"a one-bar volatility of {volatility:.2%}"))
    if limits.quantity_max is not None:
        caps.append((limits.quantity_max, "the absolute cap"))
    left, reasons = wanted, []
    for cap, why in caps:
        cap_or_nothing = cap if cap >= 0 else 0.0  # NaN compares false, and so becomes nothing as well
        if cap_or_nothing < left:
            left = float(cap_or_nothing)
            reasons.append(f"reduced to {left:.4f} by {why}")
    if not reasons:
        return Throttled(towards_zero(quantity, limits.quantity_step), ())
    return Throttled(towards_zero(Decimal(repr(left)), limits.quantity_step), tuple(reasons))


def _shrunk(wanted: float, measured: float, allowed: float) -> float:
    """Wanted size in proportion allowed / measured, once the measure is beyond what is allowed."""
    if 0 <= measured <= allowed:
        return wanted
    return wanted * allowed / measured
