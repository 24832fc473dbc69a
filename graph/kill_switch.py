"""What a trip of the kill switch does: the state is set, and what rests at the broker is cancelled.

People trip it by the command line, a signal or the file `HALT`; the desk by what the checks of an order have measured.
No order is reserved or sent after that: `checkpoints.ledger` reads the state in the transaction of each such step.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType

from agents.clock import Clock
from agents.domain import Check, KillSwitchReason, Order, OrderStatus, TradingState
from agents.errors import HoldfastError, StorageError
from agents.risk import trips
from checkpoints.ledger import BrokerReport, OrderLedger
from checkpoints.trading_state import Tell, Trading, TradingSwitch, in_words
from graph.broker import Broker
from graph.resilience import Guard

__all__ = ["KillSwitch", "Swept"]

_STRICTNESS = tuple(TradingState)
_STATES: Mapping[KillSwitchReason, TradingState] = MappingProxyType(
    {
        KillSwitchReason.UNREADABLE_STATE: TradingState.HALTED,
        KillSwitchReason.DRAWDOWN: TradingState.HALTED,
        KillSwitchReason.LOSS_LIMIT: TradingState.REDUCING,
        KillSwitchReason.REJECT_STREAK: TradingState.REDUCING,
        KillSwitchReason.BREACH: TradingState.REDUCING,
    }
)
"""What the checks trip to: the strictest of what they ask for. docs/risk.md has the reasons."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What became of the orders that rested: those that are off the book, and why others may still be on it, by id."""

    done: tuple[Order, ...] = ()
    left: Mapping[str, str] = field(default_factory=dict)

    @property
    def cancelled(self) -> list[str]:
        """The ids of those that were cancelled; others were filled before, or had never been open."""
        return [order.client_order_id for order in self.done if order.status is OrderStatus.CANCELLED]


@dataclass(frozen=True, slots=True)
class KillSwitch:
    """The switch with the broker behind it. `guard` bounds each cancellation, and may retry: to cancel is idempotent.

    Nothing here raises because of a database or a broker: what failed is told, and what could be done is done.
    """

    switch: TradingSwitch
    ledger: OrderLedger
    broker: Broker
    guard: Guard
    clock: Clock
    tell: Tell

    async def heed(self) -> None:
        """Act on a halt by file or signal, if there is one that was not acted on yet."""
        try:
            halted = await self.switch.heed()
        except StorageError as error:  # the file halts without the database
            self.tell("TripFailed", {"error": str(error)})
            return
        if halted is not None:
            await self.sweep(halted.state)

    async def judge(self, order: Order, checks: Sequence[Check]) -> None:
        """Trip, if the checks of an order, and those made after it, show what trading must not go on with.

        To be asked once, when they were made.
        """
        found = [(_STATES[reason], reason, check) for check, reason in trips(checks) if reason in _STATES]
        if not found:
            return
        known = await self.ledger.orders(order.intent.run_id)
        if order.client_order_id not in {each.client_order_id for each in known}:
            return  # a dry run only wonders what would be
        state, code, check = max(found, key=lambda trip: _STRICTNESS.index(trip[0]))
        why = check.reason or f"{check.name} is {check.value}, above {check.limit}"  # what reduces was let past it
        await self.trip(self.because(state, code, "holdfast", why))

    def because(self, state: TradingState, code: KillSwitchReason, who: str, why: str) -> Trading:
        """A state that is set now."""
        return Trading(state, code, who, why, self.clock.now_ns())

    async def trip(self, stricter: Trading) -> Swept:
        """Make trading stricter; where it is not so already, cancel what rests."""
        try:
            changed = await self.switch.trip(stricter)
        except StorageError as error:
            self.tell("TripFailed", {"state": str(stricter.state), "error": str(error)})
            changed = True
        return await self.sweep(stricter.state) if changed else Swept()

    async def catch_up(self, order: Order, state: TradingState) -> None:
        """Sweep again, if trading was stopped while an order was on its way, and the broker may have it now."""
        if state is TradingState.ACTIVE:
            return
        try:
            there = order.client_order_id in await self.ledger.names_at_broker()
        except HoldfastError as error:
            self.tell("CancelFailed", {"order": order.client_order_id, "error": str(error)})
            return
        if there:
            await self.sweep(state)

    async def sweep(self, state: TradingState) -> Swept:
        """Cancel what rests: all of it under HALTED, under REDUCING what could open a position.

        Where a row is damaged it is not known what could, and all of it is cancelled.
        """
        try:
            orders = await self.ledger.at_broker()
            kept = await self._closing(orders) if state is TradingState.REDUCING else frozenset()
            asked = {each.client_order_id: each.status for each in orders if each.client_order_id not in kept}
        except HoldfastError as error:
            self.tell("CancelFailed", {"error": str(error)})
            try:
                asked = dict.fromkeys(await self.ledger.names_at_broker(), OrderStatus.OPEN)
            except HoldfastError:
                return Swept(left={"that the ledger cannot name": in_words(error)})
        found = await asyncio.gather(*(self._cancel(name, status) for name, status in asked.items()))
        done = tuple(each for each in found if isinstance(each, Order))
        left = {name: why for name, why in zip(asked, found, strict=True) if isinstance(why, str) and why}
        for name, why in left.items():
            self.tell("CancelFailed", {"order": name, "error": why})
        return Swept(done, left)

    async def _cancel(self, name: str, status: OrderStatus) -> Order | str:
        """The order as it ended, or why it may rest there still; "" where only the broker may come to know it."""
        try:
            report = await self.guard(self.broker.cancel, name)
            if not isinstance(report, BrokerReport):
                return "" if status is not OrderStatus.OPEN else "the broker does not know it any more"
            now = await self.ledger.record(name, report)
        except Exception as error:  # noqa: BLE001 - one that cannot be cancelled must not keep the others
            return in_words(error)
        return now if now.status.final else f"it is {now.status} still"

    async def _closing(self, orders: tuple[Order, ...]) -> frozenset[str]:
        """Orders that can only bring their position closer to zero, all of them together, the oldest first."""
        room: dict[tuple[str, str], Decimal] = {}
        kept = set()
        for order in orders:
            intent = order.intent
            key = (intent.account, intent.symbol)
            if key not in room:
                room[key] = (await self.ledger.portfolio(intent.account)).position(intent.symbol).quantity
            left = (intent.quantity - order.filled) * intent.side.sign
            if left * room[key] < 0 and abs(left) <= abs(room[key]):
                room[key] += left
                kept.add(order.client_order_id)
        return frozenset(kept)
