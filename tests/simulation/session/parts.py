"""Parts of the application that let the witness look on, or have bad days of their own."""

from typing import Any, Protocol

from sqlalchemy import Connection

from agents.domain import Order, OrderIntent, TradingAction
from agents.policy import DeadlineMode, ExecutionAgent
from agents.policy.rule import RulePolicy
from checkpoints.ledger import BrokerReport, OrderLedger
from checkpoints.orders import OrderRow, intent_of
from graph.policy_keeper import PolicyKeeper
from tests.simulation.session.day import Span

__all__ = ["Keeper", "Listener", "Moody", "WatchedLedger"]


class Listener(Protocol):
    """Whoever is told what the ledger does."""

    def asked(self, intent: OrderIntent) -> None: ...

    def reserved(self, order: Order) -> None: ...

    def judged(self, intent: OrderIntent, connection: Connection, *, passed: bool) -> None: ...

    def marked(self, intent_id: str) -> None: ...

    def recorded(self, order: Order) -> None: ...

    def passes(self, point: str, intent: OrderIntent | None) -> None: ...


class Moody(RulePolicy):
    """The rule policy, with days on which it is not itself."""

    __slots__ = ("_now", "_spans", "struck")

    def __init__(self, spans: list[Span], now: Any) -> None:
        super().__init__()
        self._spans = spans
        self._now = now
        self.struck = 0

    def predict(self, observation: Any, deterministic: bool = True) -> Any:
        action, info = super().predict(observation, deterministic)
        mood = next((span.kind for span in self._spans if span.holds(self._now())), "")
        self.struck += bool(mood and observation.any())  # it is kept warm with zeros
        if mood == "raises":
            raise RuntimeError("the policy is not itself")
        return (1 if mood == "no_action" else TradingAction(action)), info


class Keeper(PolicyKeeper):
    """Its agents have no deadline: how long a call takes here says nothing, and no seed could be played again."""

    def __init__(self, policy: Moody, alert: Any) -> None:
        super().__init__("rule", "", alert)
        self._policy = policy

    def fast(self, **options: Any) -> ExecutionAgent:
        return ExecutionAgent(self._policy, alert=self._alert, **options | {"mode": DeadlineMode.OFF})


class WatchedLedger(OrderLedger):
    """The ledger, which lets the witness see what it writes down."""

    life: "Listener"

    def _refusal(self, connection: Connection, row: OrderRow, review: Any) -> Any:
        refusal = super()._refusal(connection, row, review)
        self.life.judged(intent_of(row), connection, passed=refusal is None)
        return refusal

    async def reserve(self, intent: OrderIntent, review: Any, **more: Any) -> Order:
        self.life.asked(intent)
        order = await super().reserve(intent, review, **more)
        self.life.reserved(order)
        return order

    async def mark_sending(self, intent_id: str, review: Any = None) -> bool:
        marked = await super().mark_sending(intent_id, review)
        self.life.marked(intent_id)
        return marked

    async def record(self, intent_id: str, report: BrokerReport) -> Order:
        order = await super().record(intent_id, report)
        self.life.recorded(order)
        self.life.passes("recorded", order.intent)
        return order
