"""What can be traded, by which rules: the filters of a symbol, and how `exchangeInfo` tells of them."""

from dataclasses import dataclass
from typing import Any

from graph.exchange.fixed import SCALE, notional, parse, show
from graph.exchange.refusal import Refusal

__all__ = ["SYMBOLS", "SymbolRules"]

_TYPES = ("LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS", "STOP_LOSS_LIMIT", "TAKE_PROFIT", "TAKE_PROFIT_LIMIT")
_MAX_PRICE = parse("1000000")


def _failure(name: str) -> Refusal:
    return Refusal(-1013, f"Filter failure: {name}")


@dataclass(frozen=True, slots=True)
class SymbolRules:
    """One symbol. Prices, quantities and amounts are whole hundred-millionths (`fixed.SCALE`).

    `reference`: the price that a seeded history ends at; `lot`: what usually stands
    at one price; `band_bps`: how far from the last price a limit may be.
    """

    base: str
    quote: str
    tick: int
    step: int
    quantity_max: int
    notional_min: int
    reference: int
    lot: int
    band_bps: int = 5_000
    orders_max: int = 200
    stops_max: int = 25

    def __post_init__(self) -> None:
        if self.tick * self.step % SCALE:
            raise ValueError(f"{self.name}: a tick times a step is less than 1e-8, and money would be rounded")

    @property
    def name(self) -> str:
        return self.base + self.quote

    def check_price(self, price: int, last: int) -> None:
        """Raises Refusal: off the grid of ticks, or too far from the last price."""
        if not 0 < price <= _MAX_PRICE or price % self.tick:
            raise _failure("PRICE_FILTER")
        if abs(price - last) * 10_000 > last * self.band_bps:
            raise _failure("PERCENT_PRICE_BY_SIDE")

    def check_quantity(self, quantity: int) -> None:
        """Raises Refusal: off the grid of steps, or too much."""
        if not self.step <= quantity <= self.quantity_max or quantity % self.step:
            raise _failure("LOT_SIZE")

    def check_notional(self, price: int, quantity: int) -> None:
        """Raises Refusal: worth too little."""
        if notional(price, quantity) < self.notional_min:
            raise _failure("NOTIONAL")

    def check_counts(self, resting: int, stops: int, *, stop: bool) -> None:
        """Raises Refusal: the account has too many open orders, or a further stop would be too many."""
        if resting >= self.orders_max:
            raise _failure("MAX_NUM_ORDERS")
        if stop and stops >= self.stops_max:
            raise _failure("MAX_NUM_ALGO_ORDERS")

    def info(self) -> dict[str, Any]:
        """The symbol's entry in `exchangeInfo`."""
        return {
            "symbol": self.name,
            "status": "TRADING",
            "baseAsset": self.base,
            "baseAssetPrecision": 8,
            "quoteAsset": self.quote,
            "quotePrecision": 8,
            "quoteAssetPrecision": 8,
            "baseCommissionPrecision": 8,
            "quoteCommissionPrecision": 8,
            "orderTypes": list(_TYPES),
            "icebergAllowed": False,
            "ocoAllowed": False,
            "otoAllowed": False,
            "quoteOrderQtyMarketAllowed": True,
            "allowTrailingStop": False,
            "cancelReplaceAllowed": False,
            "amendAllowed": False,
            "isSpotTradingAllowed": True,
            "isMarginTradingAllowed": False,
            "filters": self._filters(),
            "permissions": [],
            "permissionSets": [["SPOT"]],
            "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
            "allowedSelfTradePreventionModes": ["EXPIRE_MAKER"],
        }

    def _filters(self) -> list[dict[str, Any]]:
        up, down = f"{1 + self.band_bps / 10_000:.4f}", f"{1 - self.band_bps / 10_000:.4f}"
        lot = {"minQty": show(self.step), "maxQty": show(self.quantity_max), "stepSize": show(self.step)}
        return [
            {
                "filterType": "PRICE_FILTER",
                "minPrice": show(self.tick),
                "maxPrice": show(_MAX_PRICE),
                "tickSize": show(self.tick),
            },
            {"filterType": "LOT_SIZE", **lot},
            {"filterType": "MARKET_LOT_SIZE", **lot},
            {
                "filterType": "PERCENT_PRICE_BY_SIDE",
                "bidMultiplierUp": up,
                "bidMultiplierDown": down,
                "askMultiplierUp": up,
                "askMultiplierDown": down,
                "avgPriceMins": 0,
            },
            {
                "filterType": "NOTIONAL",
                "minNotional": show(self.notional_min),
                "applyMinToMarket": True,
                "maxNotional": show(_MAX_PRICE * 1_000),
                "applyMaxToMarket": False,
                "avgPriceMins": 0,
            },
            {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": self.orders_max},
            {"filterType": "MAX_NUM_ALGO_ORDERS", "maxNumAlgoOrders": self.stops_max},
        ]


SYMBOLS = (
    SymbolRules(
        base="BTC",
        quote="USDT",
        tick=parse("0.01"),
        step=parse("0.00001"),
        quantity_max=parse("9000"),
        notional_min=parse("5"),
        reference=parse("40000"),
        lot=parse("0.8"),
    ),
    SymbolRules(
        base="ETH",
        quote="USDT",
        tick=parse("0.01"),
        step=parse("0.0001"),
        quantity_max=parse("9000"),
        notional_min=parse("5"),
        reference=parse("2500"),
        lot=parse("9"),
    ),
)
"""What is traded here unless somebody says otherwise."""
