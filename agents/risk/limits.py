"""The numbers that orders are held against."""

import math
from dataclasses import dataclass
from decimal import Decimal

from agents.errors import ConfigError

__all__ = ["RiskLimits"]


@dataclass(frozen=True, slots=True)
class RiskLimits:
    """Limits of one account. Money in the account's currency; shares are parts of equity, 0.03 is 3 %.

    `position_notional_max`: |position after the order| x price. `order_notional_max`: one order x price.
    `daily_loss_share_max`: loss since the day began. `concentration_share_max`: |position in one symbol| x price.
    `participation_max`: order quantity / average bar volume. `volatility_max`: one-bar volatility above which sizes
    shrink in proportion. `spread_bps_max`: the same for the spread. `quantity_max`: absolute cap in units, or None.
    `quantity_step`: sizes are rounded down to a multiple of it.

    Raises:
        ConfigError: a limit is not a finite number above 0.
    """

    position_notional_max: float = 250_000.0
    order_notional_max: float = 100_000.0
    daily_loss_share_max: float = 0.03
    concentration_share_max: float = 0.30
    participation_max: float = 0.10
    volatility_max: float = 0.04
    spread_bps_max: float = 20.0
    quantity_max: float | None = None
    quantity_step: Decimal = Decimal("0.0001")

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is None and name == "quantity_max":
                continue
            if not (isinstance(value, int | float | Decimal) and math.isfinite(value) and value > 0):
                raise ConfigError(
                    f"the risk limit {name} is {value}; no order can be checked against it; set a number above 0"
                )
