"""What the paper broker charges, and how slow it is."""

import hashlib
from dataclasses import dataclass
from decimal import Decimal

from agents.errors import ConfigError

__all__ = ["PaperTerms"]

_MS_NS = 1_000_000
_HOUR_NS = 3_600_000_000_000


@dataclass(frozen=True, slots=True)
class PaperTerms:
    """The terms of the paper broker; see docs/execution.md for the rules that they are part of.

    `slippage_bps`: by how much whoever takes a price gets a worse one; `spread_bps`: the whole distance of bid and ask
    around the prices of a bar, which has none (a quote has its own); `taker_fee_bps` and `maker_fee_bps` of what was
    traded, for an order that takes a price and for one that waited for it; `participation`: the share of a bar's volume
    that all orders together get; `latency_ms_min` and `latency_ms_max`: how long an order or its cancellation is on
    its way, drawn by `seed` and the order's id; `expiry_hours`: how long an order rests at most.

    Raises:
        ConfigError: a number is not finite, is negative, or is of a kind that nothing can be filled by.
    """

    slippage_bps: Decimal = Decimal(2)
    spread_bps: Decimal = Decimal(2)
    taker_fee_bps: Decimal = Decimal(1)
    maker_fee_bps: Decimal = Decimal("0.5")
    participation: Decimal = Decimal("0.1")
    latency_ms_min: int = 50
    latency_ms_max: int = 500
    expiry_hours: Decimal = Decimal(24)
    seed: int = 7

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            value = getattr(self, name)
            if not (value.is_finite() and abs(value) <= most):
                raise ConfigError(f"the paper broker's {name} is {value}; nothing was opened; set at most {most}")
        for name in ("slippage_bps", "spread_bps", "taker_fee_bps"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"the paper broker's {name} is negative; nothing was opened; only makers get a rebate"
                )
        for name in ("participation", "expiry_hours"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"the paper broker's {name} is {getattr(self, name)}; nothing was opened; set more")
        if not 0 <= self.latency_ms_min <= self.latency_ms_max <= _LATENCY_MS_MAX:
            raise ConfigError(
                f"the paper broker's latency is {self.latency_ms_min} to {self.latency_ms_max} ms; nothing was opened;"
                f" set two numbers from 0 to {_LATENCY_MS_MAX}, the smaller one first"
            )

    def latency_ns(self, what: str, client_order_id: str) -> int:
        """How long a message about an order is on its way: the same for the same seed, whenever it is asked for."""
        digest = hashlib.sha256(f"{self.seed}\x1f{what}\x1f{client_order_id}".encode()).digest()
        span = (self.latency_ms_max - self.latency_ms_min) * _MS_NS
        return self.latency_ms_min * _MS_NS + int.from_bytes(digest[:8]) % (span + 1)

    @property
    def expiry_ns(self) -> int:
        return int(self.expiry_hours * _HOUR_NS)


_MOST = {
    "slippage_bps": 1_000,
    "spread_bps": 1_000,
    "taker_fee_bps": 1_000,
    "maker_fee_bps": 1_000,
    "participation": 1,
    "expiry_hours": 24 * 366,
}
_LATENCY_MS_MAX = 60_000
