"""From the parameters of a new order to a ticket: which type needs which of them."""

import re
from collections.abc import Mapping

from graph.exchange.orders import CLIENT_ID
from graph.exchange.params import Params
from graph.exchange.refusal import Refusal, missing_parameter
from graph.exchange.venue import Ticket

__all__ = ["checked_id", "read_ticket"]

_SIDES = {"BUY": True, "SELL": False}
_TIFS = {name: name for name in ("GTC", "IOC", "FOK")}
_NEEDS: Mapping[str, tuple[str, ...]] = {
    "LIMIT": ("timeInForce", "quantity", "price"),
    "LIMIT_MAKER": ("quantity", "price"),
    "MARKET": (),
    "STOP_LOSS": ("quantity", "stopPrice"),
    "STOP_LOSS_LIMIT": ("timeInForce", "quantity", "price", "stopPrice"),
    "TAKE_PROFIT": ("quantity", "stopPrice"),
    "TAKE_PROFIT_LIMIT": ("timeInForce", "quantity", "price", "stopPrice"),
}
_OPTIONAL = ("timeInForce", "quantity", "price", "stopPrice", "quoteOrderQty")


def read_ticket(params: Params, default_id: str) -> Ticket:
    """Read a new order. Raises Refusal where its parameters do not fit together."""
    symbol = params.text("symbol")
    buy = params.one_of("side", _SIDES, lambda: Refusal(-1117, "Invalid side."))
    kind = params.text("type")
    if kind not in _NEEDS:
        raise Refusal(-1116, "Invalid orderType.")
    given = [name for name in _OPTIONAL if params.optional(name) is not None]
    _check_fit(kind, given)
    tif = params.one_of("timeInForce", _TIFS, _no_tif) if "timeInForce" in given else "GTC"
    params.optional("selfTradePreventionMode")
    return Ticket(
        symbol,
        buy,
        kind,
        tif,
        params.number("quantity"),
        params.number("price"),
        params.number("stopPrice"),
        params.number("quoteOrderQty"),
        checked_id(params.optional("newClientOrderId"), default_id),
    )


def checked_id(given: str | None, default: str) -> str:
    """The client's id for a request, or the exchange's own. Raises Refusal for one that cannot be."""
    if given is not None and not re.fullmatch(CLIENT_ID, given):
        raise Refusal(
            -1100, f"Illegal characters found in parameter 'newClientOrderId'; legal range is '^{CLIENT_ID}$'."
        )
    return given or default


def _check_fit(kind: str, given: list[str]) -> None:
    for name in _NEEDS[kind]:
        if name not in given:
            raise missing_parameter(name)
    if kind == "MARKET":
        amounts = [name for name in ("quantity", "quoteOrderQty") if name in given]
        if not amounts:
            raise Refusal(-1102, "Param 'quantity' or 'quoteOrderQty' must be sent, but both were empty/null!")
        allowed: tuple[str, ...] = (amounts[0],)
    else:
        allowed = _NEEDS[kind]
    for name in given:
        if name not in allowed:
            code = -1114 if name == "timeInForce" else -1106
            raise Refusal(code, f"Parameter '{name}' sent when not required.")


def _no_tif() -> Refusal:
    return Refusal(-1115, "Invalid timeInForce.")
