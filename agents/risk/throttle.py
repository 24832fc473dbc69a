"""How much of a wanted size the market can take: each rule can only reduce, and says so.

Spread and volatility shrink what opens a position and leave what closes one alone: markets are at their widest and
wildest when one wants out. Volume and the absolute cap slice both, since a way out that moves the market is none; the
next decision asks for the rest. Where the volume leaves not even one step, what closes a position goes whole.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from agents.domain import towards_zero
from agents.risk.limits import RiskLimits
from agents.risk.number import number

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
    closing: Decimal = Decimal(0),
    average_volume: float | None = None,
    volatility: float | None = None,
    spread_bps: float | None = None,
) -> Throttled:
    """Reduce `quantity` (units) to what participation, spread, volatility and the absolute cap allow; never raises.

    `closing`: how much of it closes a position, all of it for an exit. `average_volume` units a bar, `volatility` of
    one bar, `spread_bps` in basis points of the price: None where the source does not tell, and then that rule does not
    bind. What opens a position is sized to zero by a measure that is no number: trading on a broken measurement is
    worse than not trading. Volume 0 leaves nothing to take part in.
    """
    if not (isinstance(quantity, Decimal) and quantity.is_finite() and quantity > 0):
        return Throttled(Decimal(0), (f"a quantity of {number(quantity)} is nothing to order",))
    wanted = float(quantity)
    closes = max(0.0, number(closing))  # in this order NaN becomes 0
    left, reasons = wanted, []
    for cap, why in _caps(wanted, closes, limits, average_volume, volatility, spread_bps):
        if cap < left:
            left = cap
            reasons.append(f"reduced to {left:.4f} by {why}")
    whole = Decimal(repr(left)) if reasons else quantity
    return Throttled(towards_zero(whole, limits.quantity_step), tuple(reasons))


def _caps(  # noqa: PLR0917 - the parameters of its one caller
    wanted: float,
    closes: float,
    limits: RiskLimits,
    average_volume: float | None,
    volatility: float | None,
    spread_bps: float | None,
) -> Iterator[tuple[float, str]]:
    if average_volume is not None:
        share, volume = limits.participation_max, number(average_volume)
        cap = share * volume if share * volume >= float(limits.quantity_step) else closes
        yield cap, f"{share:.0%} of the average bar volume of {volume:,.2f}"
    if spread_bps is not None:
        spread = number(spread_bps)
        yield closes + _shrunk(wanted - closes, spread, limits.spread_bps_max), f"a spread of {spread:.1f} bps"
    if volatility is not None:
        measured = number(volatility)
        cap = closes + _shrunk(wanted - closes, measured, limits.volatility_max)
        yield cap, f"a one-bar volatility of {measured:.2%}"
    if limits.quantity_max is not None:
        yield limits.quantity_max, "the absolute cap"


def _shrunk(wanted: float, measured: float, allowed: float) -> float:
    """Wanted size in proportion allowed / measured, once the measure is beyond what is allowed."""
    if not measured >= 0:
        return 0.0
    return wanted if measured <= allowed else wanted * allowed / measured
