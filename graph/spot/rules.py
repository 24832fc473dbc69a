"""The quantities and prices that each symbol takes, and its two currencies, as `exchangeInfo` tells them."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from agents.errors import BrokerUnavailable
from graph.grid import Grid, Steps
from graph.spot.answers import InfoAnswer, decimal

__all__ = ["Market", "markets"]


@dataclass(frozen=True, slots=True)
class Market:
    """One symbol: `base` is bought and sold for `quote`."""

    symbol: str
    base: str
    quote: str
    grid: Grid


def markets(info: InfoAnswer) -> Mapping[str, Market]:
    """The rules by symbol. Raises BrokerUnavailable for one that cannot be read."""
    told = info.symbols
    return {each.symbol: Market(each.symbol, each.base_asset, each.quote_asset, _grid(each.filters)) for each in told}


def _grid(filters: list[dict[str, Any]]) -> Grid:
    known = {str(each.get("filterType")): each for each in filters}
    worth = known.get("NOTIONAL") or known.get("MIN_NOTIONAL") or {}
    return Grid(
        lots=_steps(known.get("LOT_SIZE", {}), "minQty", "maxQty", "stepSize"),
        market_lots=_steps(known.get("MARKET_LOT_SIZE", {}), "minQty", "maxQty", "stepSize"),
        ticks=_steps(known.get("PRICE_FILTER", {}), "minPrice", "maxPrice", "tickSize"),
        worth_least=_number(worth, "minNotional"),
        market_worth=bool(worth.get("applyMinToMarket", worth.get("applyToMarket", True))),
    )


def _steps(rule: Mapping[str, Any], least: str, most: str, step: str) -> Steps:
    return Steps(_number(rule, step), _number(rule, least), _number(rule, most))


def _number(rule: Mapping[str, Any], name: str) -> Decimal:
    text = rule.get(name, "0")
    if not isinstance(text, str):
        raise BrokerUnavailable(f"the exchange's rule {name} is {text!r:.40}, which is no number; ask again")
    return decimal(text)
