"""The single door to a broker: throttle, checks, trading state, ledger, one send, ledger.

Asking again is always safe: a decision's order has one id, and the ledger answers for every id it knows.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from agents.conditions import average_volume, bar_volatility
from agents.domain import Check, MarketView, Order, OrderIntent, OrderStatus, Side
from agents.errors import BrokerUnavailable, OrderError, OrderRefused
from agents.risk import Proposal, RiskLimits, market_hours, pre_trade_checks, throttle_size, trading_check
from checkpoints.ledger import Account, BrokerReport, OrderLedger
from graph.broker import Broker
from graph.kill_switch import KillSwitch
from graph.resilience import Guard

__all__ = ["OrderDesk", "Ticket"]


@dataclass(frozen=True, slots=True)
class Ticket:
    """What came of an order that was asked for: the order (None where nothing was left to send), and every reason."""

    order: Order | None
    reasons: tuple[str, ...] = ()


class OrderDesk:
    """Orders of all runs go through here. `guard` bounds each call to the broker; it must not retry.

    `kill` is asked before each order whether trading was halted, and after it whether to stop.
    """

    def __init__(
        self,
        ledger: OrderLedger,
        broker: Broker,
        limits: RiskLimits,
        guard: Guard,
        kill: KillSwitch | None = None,
    ) -> None:
        self._ledger = ledger
        self._broker = broker
        self._limits = limits
        self._guard = guard
        self._kill = kill

    async def submit(
        self, *, run_id: str, account: str, side: Side, quantity: Decimal, view: MarketView, decision: int = 0
    ) -> Ticket:
        """Send the order of a run's decision, or say why not; called again, it answers from the ledger.

        The checks are made on the size that was asked for, inside the ledger's transaction; what is sent is what the
        throttle leaves of it.

        Raises:
            OrderConflict: the run has already sent a different order.
            BrokerUnavailable: the order's fate is unknown, and stays UNKNOWN in the ledger until the broker answers.
        """
        left = throttle_size(
            quantity, self._limits, average_volume=average_volume(view), volatility=bar_volatility(view)
        )
        if left.quantity <= 0:
            return Ticket(None, (*left.reasons, f"nothing is left of {quantity} to order"))
        intent = OrderIntent.derive(
            run_id=run_id,
            account=account,
            symbol=view.symbol,
            side=side,
            quantity=left.quantity,
            reference_price=view.last_price,
            reference_ns=view.as_of_ns,
            decision=decision,
        )
        # An exchange's sessions take half a second to load; not while the ledger is locked for everybody.
        await asyncio.to_thread(market_hours, view.calendar, view.as_of_ns, view.period_ns)
        if self._kill is not None:
            await self._kill.heed()
        reviewed = []

        def review(books: Account) -> tuple[Check, ...]:
            reviewed.append(intent)
            return self._review(intent, quantity, view, books)

        order = await self._ledger.reserve(intent, review)
        try:
            return Ticket(await self._settle(order), left.reasons)
        finally:
            if reviewed and self._kill is not None:  # an answer from the ledger was judged when it was new
                books = await self._ledger.account(intent)  # with what the broker has made of it
                after = [each for each in self._review(intent, quantity, view, books) if each.name in _OF_ACCOUNT]
                await self._kill.judge(order, (*order.checks, *after))

    async def recover(self, ours: Callable[[str], bool] = lambda _: True) -> tuple[Order, ...]:
        """Ask the broker about every order whose fate is open, before any new one is sent; gives those now settled.

        `ours` says of a run id whether its orders may be touched: another process may be in the middle of sending. An
        order that stays unknown counts in every check as if it were open, and is asked about again the next time.
        """
        settled = []
        for order in [each for each in await self._ledger.unsettled() if ours(each.intent.run_id)]:
            with suppress(OrderError):
                settled.append(await self._settle(order))
        return tuple(settled)

    def _review(self, intent: OrderIntent, asked: Decimal, view: MarketView, books: Account) -> tuple[Check, ...]:
        marks = {view.symbol: view.last_price}
        equity = books.portfolio.equity(marks)
        held = books.portfolio.position(view.symbol).quantity + books.live.get(view.symbol, Decimal(0))
        proposal = Proposal(
            symbol=view.symbol,
            side=intent.side,
            quantity=float(asked),
            price=float(intent.reference_price),
            held=float(held),
            equity=float(equity),
            day_profit=float(equity - books.opening.equity(_closes_before_day(view))),
            calendar=view.calendar,
            time_ns=view.as_of_ns,
            period_ns=view.period_ns,
            peak_equity=float(books.peak),
            rejects_in_row=books.rejects_in_row,
        )
        state = trading_check(books.trading.state, books.trading.why, asked, books.closable)
        checks = pre_trade_checks(proposal, self._limits)
        return tuple(state if check.name == state.name else check for check in checks)

    async def _settle(self, order: Order) -> Order:
        """Take an order from where it stands to where it ends, or as far as the broker lets it."""
        if order.status is OrderStatus.PENDING:
            if await self._ledger.mark_sending(order.client_order_id, _trading_again):
                return await self._send(order.intent)
            order = await self._ledger.order(order.client_order_id)
        if order.status in {OrderStatus.PENDING, OrderStatus.SENDING, OrderStatus.UNKNOWN}:
            return await self._find_or_send(order.intent)
        return order

    async def _find_or_send(self, intent: OrderIntent) -> Order:
        """A crash or a lost answer lies between us and the order: the broker knows what became of it."""
        report = await self._find(intent.intent_id)
        if report is not None:
            return await self._ledger.record(intent.intent_id, report)
        if self._broker.idempotent:
            return await self._send_again(intent)
        lost = BrokerReport(OrderStatus.UNKNOWN, reason="the broker does not know the order, and may learn of it yet")
        order = await self._ledger.record(intent.intent_id, lost)
        if order.status is not OrderStatus.UNKNOWN:  # somebody else's send was answered meanwhile
            return order
        raise BrokerUnavailable(f"order {intent.intent_id} is unknown to the broker; it was not sent again; ask later")

    async def _send_again(self, intent: OrderIntent) -> Order:
        refusal = await self._ledger.refusal(intent.intent_id, _trading_again)
        if refusal is not None:
            raise OrderError(
                f"order {intent.intent_id} did not reach the broker, and {refusal.reason}; it was not sent again;"
                " resume its run when trading is active"
            )
        return await self._send(intent)

    async def _find(self, client_order_id: str) -> BrokerReport | None:
        try:
            report = await self._guard(self._broker.find, client_order_id)
            return None if report is None else _readable(report)
        except Exception as error:
            raise BrokerUnavailable(
                f"the broker did not say what became of order {client_order_id} ({type(error).__name__}: {error});"
                " nothing was sent; ask later"
            ) from error

    async def _send(self, intent: OrderIntent) -> Order:
        try:
            report = _readable(await self._guard(self._broker.send, intent))
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


_OF_ACCOUNT = frozenset({"daily_loss", "drawdown", "reject_streak"})
"""Checks that say nothing of the order that they were made for."""


def _trading_again(intent: OrderIntent, books: Account) -> Check:
    """Whether an order that was reserved may still be sent, when trading is not what it was."""
    return trading_check(books.trading.state, books.trading.why, intent.quantity, books.closable)


def _readable(answer: Any) -> BrokerReport:
    if not isinstance(answer, BrokerReport):
        raise BrokerUnavailable(f"the broker answered {answer!r:.80}, which is no report; ask it again")
    return answer


_DAY_NS = 86_400_000_000_000


def _closes_before_day(view: MarketView) -> Mapping[str, Decimal]:
    """What the symbol was worth as the decision's UTC day began; empty where the view does not reach back so far."""
    before = bisect_left(view.close_ns, view.as_of_ns - view.as_of_ns % _DAY_NS)
    return {view.symbol: Decimal(str(view.close[before - 1]))} if before else {}
