"""The shapes of Binance's messages: what REST answers, and what streams send. Numbers are text, times milliseconds."""

from collections.abc import Sequence
from typing import Any

from graph.exchange.accounts import Account
from graph.exchange.book import Changes
from graph.exchange.candles import INTERVALS, Candle
from graph.exchange.engine import Engine
from graph.exchange.fixed import SCALE, notional, show
from graph.exchange.orders import Execution, Order, Trade

__all__ = [
    "account_answer",
    "account_event",
    "agg_trade_event",
    "best",
    "best_event",
    "cancel_answer",
    "day",
    "day_event",
    "depth",
    "depth_event",
    "execution_answer",
    "execution_report",
    "kline",
    "kline_event",
    "last",
    "mini_event",
    "order_answer",
    "order_status",
    "public_trade",
    "trade_event",
]

_DAY_MS = 86_400_000
_Json = dict[str, Any]


# Market streams


def trade_event(symbol: str, trade: Trade) -> _Json:
    return {
        "e": "trade",
        "E": trade.time_ms,
        "s": symbol,
        "t": trade.number,
        "p": show(trade.price),
        "q": show(trade.quantity),
        "T": trade.time_ms,
        "m": trade.down,
        "M": True,
    }


def agg_trade_event(symbol: str, number: int, trades: Sequence[Trade]) -> _Json:
    first = trades[0]
    return {
        "e": "aggTrade",
        "E": first.time_ms,
        "s": symbol,
        "a": number,
        "p": show(first.price),
        "q": show(sum(trade.quantity for trade in trades)),
        "f": first.number,
        "l": trades[-1].number,
        "T": first.time_ms,
        "m": first.down,
        "M": True,
    }


def best_event(engine: Engine) -> _Json:
    bid, bid_quantity, ask, ask_quantity = engine.book.top
    return {
        "u": engine.book.update,
        "s": engine.rules.name,
        "b": show(bid),
        "B": show(bid_quantity),
        "a": show(ask),
        "A": show(ask_quantity),
    }


def depth_event(engine: Engine, changes: Changes, now_ms: int) -> _Json:
    book = engine.book
    return {
        "e": "depthUpdate",
        "E": now_ms,
        "s": engine.rules.name,
        "U": changes.first,
        "u": book.update,
        "b": [[show(price), show(book.bids.quantity(price))] for price in changes.bids],
        "a": [[show(price), show(book.asks.quantity(price))] for price in changes.asks],
    }


def depth(engine: Engine, count: int) -> _Json:
    """The REST snapshot, and what the partial depth streams send."""
    return {
        "lastUpdateId": engine.book.update,
        "bids": [[show(price), show(quantity)] for price, quantity in engine.book.bids.depth(count)],
        "asks": [[show(price), show(quantity)] for price, quantity in engine.book.asks.depth(count)],
    }


def public_trade(trade: Trade) -> _Json:
    """One row of the REST answer."""
    return {
        "id": trade.number,
        "price": show(trade.price),
        "qty": show(trade.quantity),
        "quoteQty": show(notional(trade.price, trade.quantity)),
        "time": trade.time_ms,
        "isBuyerMaker": trade.down,
        "isBestMatch": True,
    }


def kline_event(symbol: str, interval: str, candle: Candle, now_ms: int) -> _Json:
    end = candle.open_ms + INTERVALS[interval] - 1
    return {
        "e": "kline",
        "E": now_ms,
        "s": symbol,
        "k": {
            "t": candle.open_ms,
            "T": end,
            "s": symbol,
            "i": interval,
            "f": candle.first,
            "L": candle.last,
            "o": show(candle.open),
            "c": show(candle.close),
            "h": show(candle.high),
            "l": show(candle.low),
            "v": show(candle.volume),
            "n": candle.trades,
            "x": now_ms > end,
            "q": show(candle.quote),
            "V": show(candle.taken),
            "Q": show(candle.taken_quote),
            "B": "0",
        },
    }


def kline(interval: str, candle: Candle) -> list[Any]:
    """One row of the REST answer."""
    return [
        candle.open_ms,
        show(candle.open),
        show(candle.high),
        show(candle.low),
        show(candle.close),
        show(candle.volume),
        candle.open_ms + INTERVALS[interval] - 1,
        show(candle.quote),
        candle.trades,
        show(candle.taken),
        show(candle.taken_quote),
        "0",
    ]


# The last 24 hours


def best(engine: Engine) -> _Json:
    event = best_event(engine)
    names = {"s": "symbol", "b": "bidPrice", "B": "bidQty", "a": "askPrice", "A": "askQty"}
    return {name: event[short] for short, name in names.items()}


def last(engine: Engine) -> _Json:
    return {"symbol": engine.rules.name, "price": show(engine.last_price)}


def day(engine: Engine, now_ms: int) -> _Json:
    whole = engine.candles.day(now_ms)
    bid, bid_quantity, ask, ask_quantity = engine.book.top
    return {
        "symbol": engine.rules.name,
        "priceChange": show(whole.close - whole.open),
        "priceChangePercent": f"{(whole.close / whole.open - 1) * 100:.3f}",
        "weightedAvgPrice": show(whole.quote * SCALE // whole.volume if whole.volume else whole.close),
        "prevClosePrice": show(whole.open),
        "lastPrice": show(engine.last_price),
        "lastQty": show(engine.recent[-1].quantity if engine.recent else 0),
        "bidPrice": show(bid),
        "bidQty": show(bid_quantity),
        "askPrice": show(ask),
        "askQty": show(ask_quantity),
        "openPrice": show(whole.open),
        "highPrice": show(whole.high),
        "lowPrice": show(whole.low),
        "volume": show(whole.volume),
        "quoteVolume": show(whole.quote),
        "openTime": now_ms - _DAY_MS,
        "closeTime": now_ms,
        "firstId": whole.first,
        "lastId": whole.last,
        "count": whole.trades,
    }


_DAY_NAMES = {
    "s": "symbol",
    "p": "priceChange",
    "P": "priceChangePercent",
    "w": "weightedAvgPrice",
    "x": "prevClosePrice",
    "c": "lastPrice",
    "Q": "lastQty",
    "b": "bidPrice",
    "B": "bidQty",
    "a": "askPrice",
    "A": "askQty",
    "o": "openPrice",
    "h": "highPrice",
    "l": "lowPrice",
    "v": "volume",
    "q": "quoteVolume",
    "O": "openTime",
    "C": "closeTime",
    "F": "firstId",
    "L": "lastId",
    "n": "count",
}


def day_event(engine: Engine, now_ms: int) -> _Json:
    whole = day(engine, now_ms)
    return {"e": "24hrTicker", "E": now_ms} | {short: whole[name] for short, name in _DAY_NAMES.items()}


def mini_event(engine: Engine, now_ms: int) -> _Json:
    whole = day_event(engine, now_ms)
    return {"e": "24hrMiniTicker"} | {short: whole[short] for short in ("E", "s", "c", "o", "h", "l", "v", "q")}


# A client's own


def execution_report(order: Order, what: str, execution: Execution | None, now_ms: int) -> _Json:
    """`what`: NEW, TRADE, CANCELED or EXPIRED."""
    cancel_id = order.cancel_id if what == "CANCELED" else ""
    report = {
        "e": "executionReport",
        "E": now_ms,
        "s": order.symbol,
        "c": cancel_id or order.client_id,
        "S": order.side,
        "o": order.type,
        "f": order.tif,
        "q": show(order.quantity),
        "p": show(order.price),
        "P": show(order.stop),
        "F": show(0),
        "g": -1,
        "C": order.client_id if cancel_id else "",
        "x": what,
        "X": order.status,
        "r": "NONE",
        "i": order.number,
        "l": show(execution.quantity if execution else 0),
        "z": show(order.executed),
        "L": show(execution.price if execution else 0),
        "n": show(execution.fee) if execution else "0",
        "N": execution.fee_asset if execution else None,
        "T": order.update_ms,
        "t": execution.trade if execution else -1,
        "I": 0,
        "w": order.open and not order.waits,
        "m": execution.maker if execution else False,
        "M": False,
        "O": order.time_ms,
        "Z": show(order.spent),
        "Y": show(execution.quote if execution else 0),
        "Q": show(order.budget),
        "V": "EXPIRE_MAKER",
    }
    return report if order.working_ms < 0 else report | {"W": order.working_ms}


def account_event(account: Account, assets: Sequence[str], now_ms: int) -> _Json:
    return {
        "e": "outboundAccountPosition",
        "E": now_ms,
        "u": account.update_ms,
        "B": [
            {"a": asset, "f": show(account.balance(asset).free), "l": show(account.balance(asset).locked)}
            for asset in assets
        ],
    }


def account_answer(account: Account, *, empty: bool) -> _Json:
    """`empty`: assets of which the client has none as well."""
    maker, taker = show(account.maker_bps * 10_000), show(account.taker_bps * 10_000)
    held = {asset: each for asset, each in account.balances.items() if empty or each.free or each.locked}
    return {
        "makerCommission": account.maker_bps,
        "takerCommission": account.taker_bps,
        "buyerCommission": 0,
        "sellerCommission": 0,
        "commissionRates": {"maker": maker, "taker": taker, "buyer": show(0), "seller": show(0)},
        "canTrade": True,
        "canWithdraw": False,
        "canDeposit": False,
        "brokered": False,
        "requireSelfTradePrevention": False,
        "preventSor": False,
        "updateTime": account.update_ms,
        "accountType": "SPOT",
        "balances": [
            {"asset": asset, "free": show(each.free), "locked": show(each.locked)} for asset, each in held.items()
        ],
        "permissions": ["SPOT"],
        "uid": 1,
    }


def _order(order: Order) -> _Json:
    shape = {
        "symbol": order.symbol,
        "orderId": order.number,
        "orderListId": -1,
        "clientOrderId": order.client_id,
        "price": show(order.price),
        "origQty": show(order.quantity),
        "executedQty": show(order.executed),
        "origQuoteOrderQty": show(order.budget),
        "cummulativeQuoteQty": show(order.spent),
        "status": order.status,
        "timeInForce": order.tif,
        "type": order.type,
        "side": order.side,
        "selfTradePreventionMode": "EXPIRE_MAKER",
    }
    return shape | {"stopPrice": show(order.stop)} if order.stop else shape


def order_answer(order: Order, full: str, fills: Sequence[Execution]) -> _Json:
    """What placing an order is answered with; `full` is ACK, RESULT or FULL."""
    if full == "ACK":
        names = ("symbol", "orderId", "orderListId", "clientOrderId")
        return {name: _order(order)[name] for name in names} | {"transactTime": order.update_ms}
    result = _order(order) | {"transactTime": order.update_ms, "workingTime": order.working_ms}
    if full == "RESULT":
        return result
    return result | {
        "fills": [
            {
                "price": show(fill.price),
                "qty": show(fill.quantity),
                "commission": show(fill.fee),
                "commissionAsset": fill.fee_asset,
                "tradeId": fill.trade,
            }
            for fill in fills
        ]
    }


def cancel_answer(order: Order) -> _Json:
    names = {"origClientOrderId": order.client_id, "clientOrderId": order.cancel_id}
    return _order(order) | names | {"transactTime": order.update_ms}


def order_status(order: Order) -> _Json:
    """What asking for an order is answered with."""
    return _order(order) | {
        "stopPrice": show(order.stop),
        "icebergQty": show(0),
        "time": order.time_ms,
        "updateTime": order.update_ms,
        "isWorking": order.working_ms >= 0,
        "workingTime": order.working_ms,
    }


def execution_answer(order: Order, execution: Execution) -> _Json:
    """One row of `myTrades`."""
    return {
        "symbol": order.symbol,
        "id": execution.trade,
        "orderId": order.number,
        "orderListId": -1,
        "price": show(execution.price),
        "qty": show(execution.quantity),
        "quoteQty": show(execution.quote),
        "commission": show(execution.fee),
        "commissionAsset": execution.fee_asset,
        "time": execution.time_ms,
        "isBuyer": order.buy,
        "isMaker": execution.maker,
        "isBestMatch": True,
    }
