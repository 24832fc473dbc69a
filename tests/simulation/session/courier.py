"""The way to the broker and back: what is sent may be late, lost, refused or never answered, by the day's plan."""

import asyncio
from collections.abc import Callable, Mapping
from decimal import Decimal
from random import Random
from typing import Any

from agents.domain import OrderIntent
from agents.errors import BrokerUnavailable, OrderRefused
from checkpoints.database import Database
from checkpoints.ledger import BrokerReport
from graph.broker import Broker
from graph.paper import PaperBroker
from tests.simulation.session.day import Day, Loss

__all__ = ["Courier", "Escort"]


class Escort(Broker):
    """Goes with orders to a broker that has losses of its own. See `Courier`."""

    idempotent: bool = False
    struck = 0

    def __init__(self, broker: Broker, passes: Callable[[str, OrderIntent], None]) -> None:
        self._broker = broker
        self._passes = passes
        self.alive = True

    async def send(self, intent: OrderIntent) -> BrokerReport:
        self._passes("sending", intent)
        await _while_alive(self)
        report = await self._broker.send(intent)
        self._passes("sent", intent)
        await _while_alive(self)
        self._passes("answered", intent)
        return report

    async def find(self, client_order_id: str) -> BrokerReport | None:
        await _while_alive(self)
        return await self._broker.find(client_order_id)

    async def cancel(self, client_order_id: str) -> BrokerReport | None:
        await _while_alive(self)
        return await self._broker.cancel(client_order_id)

    async def executed(self) -> Mapping[str, tuple[str, Decimal]] | None:
        return await self._broker.executed()

    async def intent(self, client_order_id: str) -> OrderIntent | None:
        return await self._broker.intent(client_order_id)

    async def resting(self) -> Mapping[str, str] | None:
        return await self._broker.resting()

    async def holdings(self) -> Mapping[str, Decimal] | None:
        return await self._broker.holdings()

    def grid(self, symbol: str) -> Any:
        return self._broker.grid(symbol)

    def die(self) -> None:
        """The process is gone: nothing of it comes through any more."""
        self.alive = False


async def _while_alive(who: "Escort | Courier") -> None:
    if not who.alive:
        await asyncio.Event().wait()


class Courier(Broker):
    """Between a desk and the paper broker. `now`: seconds of the day; `passes` is told where an order is on its way.

    Which messages get lost depends on the day, the kind of message, and how many there were of that kind.
    """

    def __init__(
        self,
        paper: PaperBroker,
        day: Day,
        now: Callable[[], float],
        passes: Callable[[str, OrderIntent], None],
        *,
        life: int,
    ) -> None:
        self._paper = paper
        self._now = now
        self._passes = passes
        self._losses = [(loss, Random(f"{day.seed}/{life}/{at}/courier")) for at, loss in enumerate(day.losses)]  # noqa: S311
        self._idempotent = day.idempotent
        self._behind: set[asyncio.Task[Any]] = set()
        self.alive = True
        self.struck = 0

    @property
    def idempotent(self) -> bool:
        return self._idempotent

    @property
    def database(self) -> Database:
        return self._paper.database

    async def send(self, intent: OrderIntent) -> BrokerReport:
        drawn = self._drawn("send")
        self._passes("sending", intent)
        await self._there(drawn)
        if "refused" in drawn:
            raise OrderRefused("the venue does not like it; nothing was taken; ask the venue")
        if (late := drawn.get("arrives_late")) is not None:
            self._behind.add(asyncio.create_task(self._arrive(intent, late.seconds)))
            raise BrokerUnavailable("the connection was lost; the order may arrive; ask later")
        report = await self._paper.send(intent)
        self._passes("sent", intent)
        await self._back(drawn)
        self._passes("answered", intent)
        return report

    async def find(self, client_order_id: str) -> BrokerReport | None:
        drawn = self._drawn("find")
        await self._there(drawn)
        report = await self._paper.find(client_order_id)
        await self._back(drawn)
        return report

    async def cancel(self, client_order_id: str) -> BrokerReport | None:
        drawn = self._drawn("cancel")
        await self._there(drawn)
        report = await self._paper.cancel(client_order_id)
        await self._back(drawn)
        return report

    async def executed(self) -> Mapping[str, tuple[str, Decimal]] | None:
        return await self._paper.executed()

    async def intent(self, client_order_id: str) -> OrderIntent | None:
        return await self._paper.intent(client_order_id)

    async def resting(self) -> Mapping[str, str] | None:
        return await self._paper.resting()

    def die(self) -> None:
        """The process is gone: nothing of it comes through any more."""
        self.alive = False
        for task in self._behind:
            task.cancel()

    # On the way.

    def _drawn(self, what: str) -> dict[str, Loss]:
        """What happens to this message, by kind."""
        now = self._now()
        found = {}
        for loss, dice in self._losses:
            if loss.on in {what, "*"} and dice.random() < loss.rate and loss.begin <= now < loss.end:
                found[loss.kind] = loss
        self.struck += bool(set(found) - {"late", "refused"})
        return found

    async def _there(self, drawn: dict[str, Loss]) -> None:
        await _while_alive(self)
        if (late := drawn.get("late")) is not None:
            await asyncio.sleep(late.seconds)
        if "hang" in drawn:
            await asyncio.Event().wait()
        if "lost" in drawn:
            raise BrokerUnavailable("the connection was refused; nothing arrived, as it seems; ask later")
        await _while_alive(self)

    async def _back(self, drawn: dict[str, Loss]) -> None:
        await _while_alive(self)
        if "answer_lost" in drawn:
            raise BrokerUnavailable("the answer was lost; it may have been carried out; ask later")

    async def _arrive(self, intent: OrderIntent, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._paper.send(intent)
