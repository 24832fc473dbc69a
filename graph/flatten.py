"""Close every position, by market orders that go the way of all orders: checks, ledger, one send, ledger."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal

from agents.domain import MarketView, Order, OrderStatus, Side
from agents.errors import HoldfastError, OrderError
from checkpoints.runs import Run
from checkpoints.trading_state import digits, in_words
from graph.app import App
from graph.runner import Market

__all__ = ["Flattened", "flatten"]

_LEGS_MAX = 1_000
"""Orders that one position is closed by, where limits keep each of them small."""
_MINUTE_NS = 60_000_000_000


@dataclass(slots=True)
class Flattened:
    """What became of the positions: the orders that closed them, and which are still open and why."""

    orders: list[Order] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)


async def flatten(app: App) -> Flattened:
    """Close what this home's broker has executed; never raises because of one position, or of a database.

    Nothing but closing orders should go meanwhile: it is for whoever calls this to make trading REDUCING.
    """
    done, name = Flattened(), f"flatten-{app.clock.now_ns()}"
    try:
        runs = {(run.account, run.symbol): run for run in await app.manager.runs()}
        held = sorted((await _positions(app)).items())
    except HoldfastError as error:
        done.left["the positions"] = in_words(error)
        return done
    for number, ((account, symbol), quantity) in enumerate(held):
        try:
            view = await _view(app, account, symbol, runs.get((account, symbol)))
            await _close(app, done.orders, f"{name}-{number}", account, quantity, view=view)
        except Exception as error:  # noqa: BLE001 - one position that cannot be closed must not keep the others open
            done.left[f"{digits(quantity)} {symbol} ({account})"] = in_words(error)
    return done


async def _positions(app: App) -> dict[tuple[str, str], Decimal]:
    """Signed quantities by account and symbol. A ledger on a server may be that of other homes and brokers, too."""
    at_broker = await app.broker.executed()
    held: dict[tuple[str, str], Decimal] = {}
    for name, known in (await app.ledger.executed()).items():
        if at_broker is None or name in at_broker:
            key = (known.account, known.symbol)
            held[key] = held.get(key, Decimal(0)) + known.quantity
    return {key: quantity for key, quantity in held.items() if quantity}


async def _view(app: App, account: str, symbol: str, run: Run | None) -> MarketView:
    """One bar: the newest of the market of the position's newest run, or, where that is gone, what it has cost.

    One bar alone has no volume and no volatility by which a throttle could leave a part of the position open.
    """
    if run is not None:
        with suppress(Exception):  # an old run's file may be gone: the position is closed all the same
            settings = app.settings.of_run(run.parameters["settings"])
            feed = await asyncio.to_thread(Market.from_json(run.parameters["market"]).feed, settings)
            return _last_bar(feed.view(symbol))
    cost = (float((await app.ledger.portfolio(account)).position(symbol).average_price),)
    return MarketView(
        symbol, _MINUTE_NS, (app.clock.now_ns(),), open=cost, high=cost, low=cost, close=cost, source="average cost"
    )


def _last_bar(view: MarketView) -> MarketView:
    columns = {name: getattr(view, name)[-1:] for name in ("close_ns", "open", "high", "low", "close")}
    return MarketView(view.symbol, view.period_ns, **columns, calendar=view.calendar, source=view.source)


async def _close(app: App, orders: list[Order], run_id: str, account: str, held: Decimal, *, view: MarketView) -> None:
    side, left = (Side.SELL if held > 0 else Side.BUY), abs(held)
    desk = app.desk(app.settings, judged=False)  # what it measures must not halt trading before all is closed
    for leg in range(_LEGS_MAX):
        ticket = await desk.submit(
            run_id=run_id, account=account, side=side, quantity=left, view=view, decision=leg, held=-left * side.sign
        )
        order = ticket.order
        if order is None or not order.filled:
            why = "; ".join(ticket.reasons) if order is None else order.reason or str(order.status)
            raise OrderError(f"{digits(left)} are left: {why}")
        orders.append(order)
        left -= order.filled
        if left <= 0 or order.status is not OrderStatus.FILLED:
            break
    if left > 0:
        raise OrderError(f"{digits(left)} are left")
