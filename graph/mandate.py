"""A plan that may be traded, and what of it was ordered already, which the ledger knows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol, runtime_checkable

from agents import rules
from agents.domain import MarketView, Order, OrderStatus, Outcome, Portfolio, Quote, Side, TradePlan, Verdict
from checkpoints.orders import LIVE, UNSETTLED
from graph.desk import Mark, Ticket

__all__ = ["Desk", "GoesOn", "Ledger", "Mandate", "Ordered", "ordered"]


class Desk(Protocol):
    """What of an `OrderDesk` is needed; see there."""

    async def submit(
        self,
        *,
        run_id: str,
        account: str,
        side: Side,
        quantity: Decimal,
        view: MarketView,
        decision: int,
        leg: str,
        quote: Quote | None,
        now_ns: int | None,
        marks: Mapping[str, Mark] | None,
    ) -> Ticket: ...


@runtime_checkable
class GoesOn(Protocol):
    """A desk that takes up an order which was left in the middle, as an `OrderDesk` does; see there."""

    async def go_on(self, client_order_id: str) -> Order: ...


class Ledger(Protocol):
    """What of an `OrderLedger` is needed; see there."""

    async def orders(self, run_id: str, decision: int | None = None) -> tuple[Order, ...]: ...

    async def portfolio(self, account: str) -> Portfolio: ...


@dataclass(frozen=True, slots=True)
class Mandate:
    """A plan that the quality gate approved: by which run and decision, and for whose account.

    The orders are those of that decision: where its workflow has sent one, that is the first of them.

    Raises:
        InvalidValue: the plan was not approved.
    """

    plan: TradePlan
    verdict: Verdict
    run_id: str
    account: str
    decision: int = 0

    def __post_init__(self) -> None:
        approved = isinstance(self.verdict, Verdict) and self.verdict.outcome is Outcome.APPROVE
        rules.require(approved, f"the plan for {self.plan.symbol} was not approved; it is not traded; ask the gate")
        for name in ("run_id", "account"):
            rules.one_line(name, getattr(self, name))
        rules.whole("decision", self.decision, 0)


@dataclass(frozen=True, slots=True)
class Ordered:
    """How much of a plan was filled, how much may be at most, and the leg that the next order has.

    `lost`: the ids of orders of which only the broker knows whether they ever came.
    """

    filled: Decimal
    quantity: Decimal
    next_leg: str
    lost: tuple[str, ...] = ()


_LEG = "entry"


def ordered(mandate: Mandate, orders: Sequence[Order]) -> Ordered:
    """What a run's orders come to for the mandate.

    One that is PENDING was written down and never sent: asked for again under its leg, it goes on from there. What was
    refused, or never reached the broker, leaves its quantity to the next leg.
    """
    mine = [each for each in orders if _is_of(mandate, each) and each.status is not OrderStatus.PENDING]
    filled = sum((each.filled for each in mine), Decimal(0))
    most = sum((each.intent.quantity if each.status in LIVE else each.filled for each in mine), Decimal(0))
    legs = len({each.intent.leg for each in mine})
    lost = tuple(each.client_order_id for each in mine if each.status in UNSETTLED)
    return Ordered(filled, most, _LEG if not legs else f"{_LEG}-{legs + 1}", lost)


def _is_of(mandate: Mandate, order: Order) -> bool:
    intent: Any = order.intent
    leg = intent.leg == _LEG or intent.leg.startswith(f"{_LEG}-")
    return leg and (intent.decision, intent.symbol) == (mandate.decision, mandate.plan.symbol)
