"""What can be asked for, by REST and by the WebSocket API alike: each method with its weight and its answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from graph.exchange import messages
from graph.exchange.accounts import Account
from graph.exchange.budget import RateLimits, limits_info
from graph.exchange.candles import INTERVALS
from graph.exchange.orders import Order
from graph.exchange.params import Params
from graph.exchange.placing import checked_id, read_ticket
from graph.exchange.refusal import Refusal, missing_parameter
from graph.exchange.venue import Venue

__all__ = ["METHODS", "ROUTES", "Call", "Method"]


@dataclass(frozen=True, slots=True)
class Call:
    """One request, at the moment of its being carried out. `account`: whose, where it is signed."""

    venue: Venue
    params: Params
    now_ms: int
    server_ms: int
    limits: RateLimits
    account: Account | None = None

    @property
    def owner(self) -> str:
        if self.account is None:
            raise Refusal(-2014, "API-key format invalid.", 401)
        return self.account.key

    def order_name(self) -> tuple[str, int | None, str | None]:
        """Symbol, number and client id of the order that is meant. Raises Refusal."""
        symbol = self.params.text("symbol")
        number, name = self.params.whole("orderId"), self.params.optional("origClientOrderId")
        if number is None and name is None:
            raise Refusal(-1102, "Param 'origClientOrderId' or 'orderId' must be sent, but both were empty/null!")
        return symbol, number, name


@dataclass(frozen=True, slots=True)
class Method:
    """`places`: it counts as an order. An answer of an `Order` type is a client's; it needs a signature."""

    answer: Callable[[Call], Any]
    weight: int = 1
    signed: bool = False
    places: bool = False


# The market


def _nothing(call: Call) -> Any:
    call.params.finish()
    return {}


def _time(call: Call) -> Any:
    call.params.finish()
    return {"serverTime": call.server_ms}


def _info(call: Call) -> Any:
    symbol = call.params.optional("symbol")
    for name in ("symbols", "permissions", "showPermissionSets", "symbolStatus"):
        call.params.optional(name)
    call.params.finish()
    engines = call.venue.engines.values() if symbol is None else [call.venue.engine(symbol)]
    return {
        "timezone": "UTC",
        "serverTime": call.server_ms,
        "rateLimits": limits_info(call.limits),
        "exchangeFilters": [],
        "symbols": [engine.rules.info() for engine in engines],
    }


def _depth(call: Call) -> Any:
    engine, limit = call.venue.engine(call.params.text("symbol")), call.params.limit(100, 5_000)
    call.params.finish()
    return messages.depth(engine, limit)


def _trades(call: Call) -> Any:
    engine, limit = call.venue.engine(call.params.text("symbol")), call.params.limit(500, 1_000)
    call.params.finish()
    return [messages.public_trade(trade) for trade in list(engine.recent)[-limit:]]


def _klines(call: Call) -> Any:
    engine, interval = call.venue.engine(call.params.text("symbol")), call.params.text("interval")
    if interval not in INTERVALS:
        raise Refusal(-1120, "Invalid interval.")
    start, end, limit = call.params.whole("startTime"), call.params.whole("endTime"), call.params.limit(500, 1_000)
    call.params.optional("timeZone")
    call.params.finish()
    engine.candles.roll(call.now_ms)
    return [messages.kline(interval, candle) for candle in engine.candles.span(interval, start, end, limit)]


def _of_symbols(shape: Callable[[Any, int], Any]) -> Callable[[Call], Any]:
    """One symbol's answer, or a list of all."""

    def answer(call: Call) -> Any:
        symbol = call.params.optional("symbol")
        for name in ("symbols", "type", "symbolStatus"):
            call.params.optional(name)
        call.params.finish()
        if symbol is not None:
            return shape(call.venue.engine(symbol), call.now_ms)
        return [shape(engine, call.now_ms) for engine in call.venue.engines.values()]

    return answer


# A client's orders


def _place(call: Call, *, dry: bool = False) -> Any:
    params = call.params
    kind = params.optional("newOrderRespType")
    ticket = read_ticket(params, f"x-{call.now_ms}-{call.venue.engine(params.text('symbol')).next_order()}")
    params.finish()
    usual = "FULL" if ticket.type in {"MARKET", "LIMIT"} else "ACK"
    if kind not in {None, "ACK", "RESULT", "FULL"}:
        raise Refusal(-1130, "Data sent for parameter 'newOrderRespType' is not valid.")
    order = call.venue.place(call.owner, ticket, call.now_ms, dry=dry)
    return {} if dry else messages.order_answer(order, kind or usual, order.executions)


def _test(call: Call) -> Any:
    call.params.optional("computeCommissionRates")
    return _place(call, dry=True)


def _cancel(call: Call) -> Any:
    symbol, number, name = call.order_name()
    new_id = checked_id(call.params.optional("newClientOrderId"), f"c-{call.now_ms}")
    call.params.finish()
    order = call.venue.resting(call.owner, symbol, number, name)
    _cancel_one(call, order, new_id)
    return messages.cancel_answer(order)


def _cancel_one(call: Call, order: Order, new_id: str) -> None:
    order.cancel_id = new_id
    call.venue.engine(order.symbol).cancel(order, call.now_ms)


def _cancel_all(call: Call) -> Any:
    symbol = call.params.text("symbol")
    call.params.finish()
    orders = call.venue.open_orders(call.owner, symbol)
    if not orders:
        raise Refusal(-2011, "Unknown order sent.")
    for order in orders:
        _cancel_one(call, order, f"c-{call.now_ms}-{order.number}")
    return [messages.cancel_answer(order) for order in orders]


def _status(call: Call) -> Any:
    symbol, number, name = call.order_name()
    call.params.finish()
    return messages.order_status(call.venue.find(call.owner, symbol, number, name))


def _open(call: Call) -> Any:
    symbol = call.params.optional("symbol")
    call.params.finish()
    return [messages.order_status(order) for order in call.venue.open_orders(call.owner, symbol)]


def _all(call: Call) -> Any:
    symbol, limit = call.params.text("symbol"), call.params.limit(500, 1_000)
    first = call.params.whole("orderId")
    start, end = call.params.whole("startTime"), call.params.whole("endTime")
    call.params.finish()
    call.venue.engine(symbol)
    orders = [each for each in call.venue.registry(call.owner, symbol) if _within(each.time_ms, start, end)]
    if first is not None:
        chosen = [each for each in orders if each.number >= first][:limit]
    else:
        chosen = orders[:limit] if start is not None else orders[-limit:]
    return [messages.order_status(order) for order in chosen]


def _my_trades(call: Call) -> Any:
    params = call.params
    symbol, limit = params.text("symbol"), params.limit(500, 1_000)
    number, first = params.whole("orderId"), params.whole("fromId")
    start, end = params.whole("startTime"), params.whole("endTime")
    params.finish()
    call.venue.engine(symbol)
    rows = [
        (order, each)
        for order in call.venue.registry(call.owner, symbol)
        if number in {None, order.number}
        for each in order.executions
        if _within(each.time_ms, start, end)
    ]
    rows.sort(key=lambda row: row[1].trade)
    if first is not None:
        rows = [row for row in rows if row[1].trade >= first][:limit]
    else:
        rows = rows[:limit] if start is not None else rows[-limit:]
    return [messages.execution_answer(order, each) for order, each in rows]


def _account(call: Call) -> Any:
    empty = call.params.optional("omitZeroBalances") != "true"
    call.params.finish()
    if call.account is None:
        raise missing_parameter("signature")
    return messages.account_answer(call.account, empty=empty)


def _within(time_ms: int, start_ms: int | None, end_ms: int | None) -> bool:
    return (start_ms is None or time_ms >= start_ms) and (end_ms is None or time_ms <= end_ms)


METHODS: Mapping[str, Method] = {
    "ping": Method(_nothing),
    "time": Method(_time),
    "exchangeInfo": Method(_info, 20),
    "depth": Method(_depth, 5),
    "trades.recent": Method(_trades, 25),
    "klines": Method(_klines, 2),
    "ticker.book": Method(_of_symbols(lambda engine, _: messages.best(engine)), 2),
    "ticker.price": Method(_of_symbols(lambda engine, _: messages.last(engine)), 2),
    "ticker.24hr": Method(_of_symbols(messages.day), 2),
    "order.place": Method(_place, signed=True, places=True),
    "order.test": Method(_test, signed=True),
    "order.cancel": Method(_cancel, signed=True),
    "order.status": Method(_status, 4, signed=True),
    "openOrders.status": Method(_open, 6, signed=True),
    "openOrders.cancelAll": Method(_cancel_all, signed=True),
    "allOrders": Method(_all, 20, signed=True),
    "myTrades": Method(_my_trades, 20, signed=True),
    "account.status": Method(_account, 20, signed=True),
}
"""Every method by the name that the WebSocket API gives it."""

ROUTES: Mapping[tuple[str, str], str] = {
    ("GET", "/api/v3/ping"): "ping",
    ("GET", "/api/v3/time"): "time",
    ("GET", "/api/v3/exchangeInfo"): "exchangeInfo",
    ("GET", "/api/v3/depth"): "depth",
    ("GET", "/api/v3/trades"): "trades.recent",
    ("GET", "/api/v3/klines"): "klines",
    ("GET", "/api/v3/ticker/bookTicker"): "ticker.book",
    ("GET", "/api/v3/ticker/price"): "ticker.price",
    ("GET", "/api/v3/ticker/24hr"): "ticker.24hr",
    ("POST", "/api/v3/order"): "order.place",
    ("POST", "/api/v3/order/test"): "order.test",
    ("DELETE", "/api/v3/order"): "order.cancel",
    ("GET", "/api/v3/order"): "order.status",
    ("GET", "/api/v3/openOrders"): "openOrders.status",
    ("DELETE", "/api/v3/openOrders"): "openOrders.cancelAll",
    ("GET", "/api/v3/allOrders"): "allOrders",
    ("GET", "/api/v3/myTrades"): "myTrades",
    ("GET", "/api/v3/account"): "account.status",
}
"""The same methods by REST."""
