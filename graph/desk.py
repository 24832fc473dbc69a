"""The single door to a broker: throttle, checks, trading state, ledger, one send, ledger.

Asking again is always safe: a decision's order has one id, and the ledger answers for every id it knows. An order that
is known never to have reached the broker is tried again when it is asked for again, under the id of its next attempt.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal

from agents.clock import NANOSECONDS, Clock, SystemClock
from agents.domain import Check, MarketView, Order, OrderIntent, OrderStatus, Quote, Side
from agents.errors import BrokerUnavailable, OrderError, OrderRefused
from agents.risk import RiskLimits, market_hours, trading_check
from checkpoints.ledger import Account, BrokerReport, OrderLedger
from checkpoints.orders import UNSETTLED
from graph.broker import Broker
from graph.grid import Fitted
from graph.inquiry import GRACE_S, HELD_UP_S, Inquiry, readable
from graph.kill_switch import KillSwitch
from graph.resilience import Guard
from graph.review import Mark, Scene, review, throttled

__all__ = ["Mark", "OrderDesk", "Ticket"]


@dataclass(frozen=True, slots=True)
class Ticket:
    """What came of an order that was asked for: the order (None where nothing was left to send), and every reason."""

    order: Order | None
    reasons: tuple[str, ...] = ()


class OrderDesk:
    """Orders of all runs go through here. `guard` bounds each call to the broker; it must not retry.

    `kill` is asked before each order whether trading was halted, and after it whether to stop. `grace_s`: see
    `graph.inquiry`.
    """

    def __init__(
        self,
        ledger: OrderLedger,
        broker: Broker,
        limits: RiskLimits,
        guard: Guard,
        kill: KillSwitch | None = None,
        *,
        clock: Clock | None = None,
        grace_s: float = GRACE_S,
    ) -> None:
        self._ledger = ledger
        self._broker = broker
        self._limits = limits
        self._guard = guard
        self._kill = kill
        self._clock = clock or SystemClock()
        self._inquiry = Inquiry(ledger, broker, guard, self._clock, grace_s)
        self._calendars: set[tuple[str, int]] = set()

    async def submit(
        self,
        *,
        run_id: str,
        account: str,
        side: Side,
        quantity: Decimal,
        view: MarketView,
        decision: int = 0,
        leg: str = "entry",
        limit_price: Decimal | None = None,
        stop_price: Decimal | None = None,
        held: Decimal | None = None,
        quote: Quote | None = None,
        now_ns: int | None = None,
        marks: Mapping[str, Mark] | None = None,
    ) -> Ticket:
        """Send the order of a run's decision, or say why not; called again, it answers from the ledger.

        A decision may have several orders, each with a `leg` of its own (entry, exit, stop, target ...). With neither
        of the two prices it is a market order, with `stop_price` one that waits until the market is there. `held`: the
        signed position that the decision was made on, by which the throttle knows what closes it; None to look it up.
        `quote`, `now_ns` and `marks`: see `graph.review.Scene`.

        The checks are made on the size that was asked for, inside the ledger's transaction; what is sent is what the
        throttle leaves of it, on the broker's grid: a quantity is only ever made smaller, a limit never worse.

        Raises:
            OrderConflict: the run has already sent a different order.
            OrderError: the broker does not trade the symbol, or does not know its rules yet.
            BrokerUnavailable: the order's fate is unknown, and stays UNKNOWN in the ledger until the broker answers.
            InvalidValue: what was given is no order, or the quote is that of another symbol.
        """
        scene = Scene(view, quote, now_ns, marks or {})
        if held is None:
            held = (await self._ledger.portfolio(account)).position(view.symbol).quantity
        left = throttled(quantity, held, side.sign, scene, self._limits)
        fitted = self._fitted(scene, side, left.quantity, limit_price, stop_price)
        why = (*left.reasons, *fitted.reasons)
        if fitted.quantity <= 0:
            return Ticket(None, (*why, f"nothing is left of {quantity} to order"))
        intent = OrderIntent.derive(
            run_id=run_id,
            account=account,
            symbol=view.symbol,
            side=side,
            quantity=fitted.quantity,
            reference_price=view.last_price,
            reference_ns=scene.time_ns,
            decision=decision,
            leg=leg,
            limit_price=fitted.limit_price,
            stop_price=fitted.stop_price,
        )
        await self._load_hours(scene)
        order = await self._place(intent, quantity, scene)
        sent = order.intent.quantity
        return Ticket(
            order, why if sent == fitted.quantity else (f"of {quantity} that were asked for, {sent} were ordered",)
        )

    async def go_on(self, client_order_id: str) -> Order:
        """Take an order from where it was left, as asking for it once more would; for who does not know what was asked.

        One whose fate is open is left to the reconciler, unless the broker knows every id for ever: then nobody else
        ever sends it again.

        Raises:
            OrderError: the ledger does not have it, or trading was stopped meanwhile.
            BrokerUnavailable, LeaseLost: as `submit`.
        """
        if self._kill is not None:
            await self._kill.heed()
        known = await self._ledger.order(client_order_id)
        order = await self._ledger.reserve(known.intent, lambda _: ())  # it is there: what is asked is whose the run is
        if order.status in UNSETTLED and not self._broker.idempotent:
            return order
        try:
            return await self._settle(order)
        finally:
            if self._kill is not None:
                await self._kill.catch_up(order, (await self._kill.switch.read()).state)

    async def cancel(self, client_order_id: str) -> Order:
        """Take an order out of the broker's book; gives how it stands then: it may have been filled meanwhile.

        May be asked again and again, in any trading state. An order that never left is DENIED.

        Raises:
            OrderError: the ledger does not have it.
            BrokerUnavailable: the broker did not say that it is out of the book.
        """
        order = await self._ledger.withdraw(client_order_id, "it was cancelled before it was sent")
        if order.status.final:
            return order
        try:
            report = await self._guard(self._broker.cancel, client_order_id)
            report = None if report is None else readable(report)
        except Exception as error:
            raise BrokerUnavailable(
                f"the broker did not say that order {client_order_id} was cancelled ({type(error).__name__}: {error});"
                " it may be filled yet; cancel it again"
            ) from error
        if report is None:
            return await self._inquiry.settle(order)
        return await self._ledger.record(client_order_id, report)

    async def recover(self, ours: Callable[[str], bool] = lambda _: True) -> tuple[Order, ...]:
        """Ask the broker about every order whose fate is open, before any new one is sent; gives those now settled.

        Nothing is sent. `ours` says of a run id whether its orders may be touched: another process may be in the middle
        of sending. An order that stays unknown counts in every check as if it were open, and is asked about again the
        next time.
        """
        asked = [each for each in await self._ledger.unsettled() if ours(each.intent.run_id)]
        return tuple([order for each in asked for order in await self._settled(each)])

    async def _settled(self, order: Order) -> tuple[Order, ...]:
        with suppress(OrderError):
            return (await self._inquiry.settle(order),)
        return ()

    def _fitted(
        self, scene: Scene, side: Side, quantity: Decimal, limit_price: Decimal | None, stop_price: Decimal | None
    ) -> Fitted:
        """What is left of an order, as the broker takes it."""
        grid = self._broker.grid(scene.view.symbol) if quantity > 0 else None
        if grid is None:
            return Fitted(quantity, limit_price, stop_price)
        return grid.fit(side, quantity, price=scene.price, limit_price=limit_price, stop_price=stop_price)

    async def _load_hours(self, scene: Scene) -> None:
        """An exchange's sessions take half a second to load; not while the ledger is locked for everybody."""
        calendar = (scene.view.calendar, scene.time_ns // _YEAR_NS)
        if calendar not in self._calendars:
            await asyncio.to_thread(market_hours, scene.view.calendar, scene.time_ns, scene.period_ns)
            await asyncio.to_thread(lambda: scene.day_ns)
            self._calendars.add(calendar)

    async def _place(self, intent: OrderIntent, asked: Decimal, scene: Scene) -> Order:
        """Reserve the order, and take it as far as the broker lets it."""
        if self._kill is not None:
            await self._kill.heed()
        reviewed = []

        def judge(books: Account) -> tuple[Check, ...]:
            reviewed.append(intent)
            return self._review(intent, asked, scene, books)

        look = scene.look(self._limits)
        order = await self._ledger.reserve(intent, judge, asked=asked, look=look)
        if order.status is OrderStatus.NOT_PLACED:
            again = replace(
                order.intent.next_attempt(), reference_price=intent.reference_price, reference_ns=intent.reference_ns
            )
            order = await self._ledger.reserve(again, judge, asked=asked, look=look)
        try:
            return await self._settle(order)
        finally:
            if reviewed and self._kill is not None:  # an answer from the ledger was judged when it was new
                books = await self._ledger.account(intent, look)  # with what the broker has made of it
                after = [each for each in self._review(intent, asked, scene, books) if each.name in _OF_ACCOUNT]
                await self._kill.judge(order, (*order.checks, *after))
                await self._kill.catch_up(order, books.trading.state)

    def _review(self, intent: OrderIntent, asked: Decimal, scene: Scene, books: Account) -> tuple[Check, ...]:
        return review(intent, asked, scene, books, self._limits)

    async def _settle(self, order: Order) -> Order:
        """Take an order from where it stands to where it ends, or as far as the broker lets it."""
        name = order.client_order_id
        if order.status is OrderStatus.PENDING:
            before_ns = self._clock.now_ns()
            if await self._ledger.mark_sending(name, _trading_again):
                return await self._send_in_time(order.intent, before_ns)
            order = await self._ledger.order(name)
        if order.status not in {OrderStatus.PENDING, *UNSETTLED}:
            return order
        if not self._broker.idempotent:
            return await self._inquiry.settle(order)
        report = await self._inquiry.find(name)
        return await self._send_again(order.intent) if report is None else await self._ledger.record(name, report)

    async def _send_in_time(self, intent: OrderIntent, before_ns: int) -> Order:
        """Whoever was held up on the way may come when the order is taken for one that never left, and tried again."""
        held_up_s = (self._clock.now_ns() - before_ns) / NANOSECONDS
        if self._broker.idempotent or held_up_s < HELD_UP_S:
            return await self._send(intent)
        why = f"it was held up for {held_up_s:.0f} s on its way out, and was not sent"
        return await self._ledger.record(intent.intent_id, BrokerReport(OrderStatus.NOT_PLACED, reason=why))

    async def _send_again(self, intent: OrderIntent) -> Order:
        """Only where the broker promises that an id never executes twice."""
        refusal = await self._ledger.refusal(intent.intent_id, _trading_again)
        if refusal is not None:
            raise OrderError(
                f"order {intent.intent_id} did not reach the broker, and {refusal.reason}; it was not sent again;"
                " resume its run when trading is active"
            )
        return await self._send(intent)

    async def _send(self, intent: OrderIntent) -> Order:
        try:
            report = readable(await self._guard(self._broker.send, intent))
        except OrderRefused as refusal:
            report = BrokerReport(OrderStatus.REJECTED, reason=str(refusal))
        except Exception as error:
            # Whatever went wrong on the way, the broker may have the order: unknown is not failed.
            reason = f"{type(error).__name__}: {error}"
            await self._ledger.record(intent.intent_id, BrokerReport(OrderStatus.UNKNOWN, reason=reason))
            raise BrokerUnavailable(
                f"the broker gave no answer for order {intent.intent_id} ({reason}); its fate is unknown;"
                " the ledger asks the broker before anything is sent again"
            ) from error
        return await self._ledger.record(intent.intent_id, report)


_YEAR_NS = 366 * 86_400 * NANOSECONDS
_OF_ACCOUNT = frozenset({"daily_loss", "drawdown", "reject_streak"})
"""Checks that say nothing of the order that they were made for."""


def _trading_again(intent: OrderIntent, books: Account) -> Check:
    """Whether an order that was reserved may still be sent, when trading is not what it was."""
    return trading_check(books.trading.state, books.trading.why, intent.quantity, books.closable)
