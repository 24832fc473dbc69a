"""What is played against the venue: three decisions, through desk and ledger, by lives that are killed.

A variant of `tests.crash.harness`; see there. However often and wherever its lives were killed, in the end each
decision was executed once, and the ledger has what the venue has.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import graph.inquiry
from agents.clock import ReplayClock
from agents.domain import MarketView, Order, OrderIntent, OrderStatus, Side
from agents.errors import BrokerUnavailable, OrderError
from agents.risk import RiskLimits
from checkpoints.database import Database
from checkpoints.ledger import OrderLedger
from checkpoints.trading_state import TradingSwitch
from graph.comparison import Books
from graph.desk import OrderDesk
from graph.inquiry import Inquiry
from graph.kill_switch import KillSwitch
from graph.reconciler import Reconciler
from graph.resilience import Guard
from tests.crash.harness import Home, Stage, Variant
from tests.crash.points import Points
from tests.venue.client import Remote, pass_points
from tests.venue.server import FAULTS, plan

__all__ = ["VARIANTS", "Orders", "VenueStage"]

S_NS = 10**9
BEGIN_NS = 1_700_000_000 * S_NS
_STEP_S = 50
"""Between two looks: shorter than the venue's window and the grace time, so that both are met on the way."""
_LOOKS_MAX = 12
_LIMITS = RiskLimits(concentration_share_max=10, gross_share_max=10)
_RUN = "run-1"

port = 0
"""Of the venue; set by whoever has started it, before it forks the lives."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One order that is wanted."""

    number: int
    side: Side
    quantity: str
    leg: str = "entry"
    limit_price: Decimal | None = None

    def order(self) -> dict[str, Any]:
        return {
            "run_id": _RUN,
            "account": "paper",
            "decision": self.number,
            "side": self.side,
            "leg": self.leg,
            "limit_price": self.limit_price,
        }

    def first_id(self) -> str:
        """The id of its first attempt."""
        return OrderIntent.derive(
            **self.order(),
            symbol="SIM",
            quantity=Decimal(self.quantity),
            reference_price=Decimal(100),
            reference_ns=0,
        ).intent_id


DECISIONS = (
    Decision(0, Side.BUY, "4"),
    Decision(1, Side.SELL, "1", "exit"),
    Decision(1, Side.BUY, "2", "add", Decimal(80)),
)


class _Desk:
    """What a life works with, from its start on."""

    def __init__(self, home: Home, variant: "Orders") -> None:
        graph.inquiry.SPACING_S = 0
        self.clock = ReplayClock(BEGIN_NS)
        self.venue = Remote(port, home.folder, self.clock, variant.idempotent)
        self.clock.advance_to(self.venue.time_ns())
        self.database = Database.open(home.folder / "holdfast.db", inline=home.inline)
        self.switch = TradingSwitch(self.database)
        self.ledger = OrderLedger(self.database, clock=self.clock)
        guard = Guard("broker", retry=None, breaker=None)
        kill = KillSwitch(self.switch, self.ledger, self.venue, guard, self.clock, lambda *_: None)
        self.desk = OrderDesk(self.ledger, self.venue, _LIMITS, guard, kill, clock=self.clock)
        books = Books(self.ledger, self.venue, self.switch, self.clock, Decimal(10_000))
        inquiry = Inquiry(self.ledger, self.venue, guard, self.clock)
        self.reconciler = Reconciler(books, kill, inquiry, lambda *_: None)

    async def decide(self) -> list[Order | None]:
        """Ask for each order, as its decision does whenever it is made again; None for what is not known yet."""
        return [await self._decided(each) for each in DECISIONS]

    async def _decided(self, decision: Decision) -> Order | None:
        prices = dict.fromkeys(("open", "high", "low", "close"), (100.0,) * 120)
        as_of_ns = BEGIN_NS + decision.number * 3600 * S_NS
        view = MarketView("SIM", S_NS, tuple(as_of_ns - (119 - n) * S_NS for n in range(120)), **prices)
        wanted = {**decision.order(), "quantity": Decimal(decision.quantity), "view": view}
        try:
            return (await self.desk.submit(**wanted)).order
        except (BrokerUnavailable, OrderError):
            return None


@dataclass(frozen=True, slots=True)
class Orders(Variant):
    """`faults`: of the first messages with orders, in this order."""

    name: str
    faults: tuple[str, ...] = ()
    idempotent: bool = False

    async def before(self, home: Home) -> None:
        plan(home.folder, self.faults, BEGIN_NS, idempotent=self.idempotent)
        with Database.open(home.folder / "holdfast.db", inline=home.inline) as database:
            await OrderLedger(database).open_account("paper", Decimal(10_000))

    async def begin(self, home: Home) -> None:
        here = _Desk(home, self)
        with here.database:
            await here.decide()

    async def recover(self, home: Home) -> Mapping[str, Any]:
        """A start: first what became of orders, and then the decisions once more, until nothing is left open."""
        here = _Desk(home, self)
        with here.database:
            for _ in range(_LOOKS_MAX):
                await here.reconciler.once()
                orders = await here.decide()
                if all(order is not None and _is_there(order) for order in orders):
                    break
                here.clock.advance_to(here.clock.now_ns() + _STEP_S * S_NS)
            for order in await here.ledger.at_broker():
                await here.desk.cancel(order.client_order_id)
            here.clock.advance_to(here.clock.now_ns() + 200 * S_NS)
            last = await here.reconciler.once()
            held = (await here.ledger.portfolio("paper")).position("SIM").quantity
            return {"held": str(held), "trading": str(last.trading.state), "why": last.trading.why}

    def books(self, home: Home) -> Mapping[str, Any]:
        venue, ledger = home.folder / "venue.db", home.folder / "holdfast.db"
        return {
            "venue": _rows(venue, "SELECT number, id, message, state, filled FROM executed ORDER BY number"),
            "orders": _rows(ledger, "SELECT intent_id, status, attempt FROM orders ORDER BY intent_id"),
            "fills": _rows(ledger, "SELECT trade_id, intent_id, side, quantity FROM fills ORDER BY trade_id"),
            "damage": [row for row in _rows(ledger, "PRAGMA integrity_check") if row != ["ok"]],
        }

    def wrong(self, found: Mapping[str, Any], undisturbed: Mapping[str, Any]) -> list[str]:
        executed = Counter(name.partition("-")[0] for _, name, *_ in found["venue"])
        lots = sorted(_lots(found["venue"]))
        held = sum((quantity for _, _, quantity in lots), Decimal(0))
        rules = {
            "each decision was executed once": executed == Counter(each.first_id() for each in DECISIONS),
            "no id was executed twice": len({name for _, name, *_ in found["venue"]}) == len(found["venue"]),
            "every order has an end": all(OrderStatus(status).final for _, status, _ in found["orders"]),
            "the ledger's fills are the venue's": lots == sorted(_booked(found["fills"])),
            "the position is what the venue executed": Decimal(found["held"]) == held,
            "trading goes on": found["trading"] == "active",
            "no file is damaged": found["damage"] == [],
        }
        return [f"it is not so that {rule}: {json.dumps(found)}" for rule, kept in rules.items() if not kept]


def _is_there(order: Order) -> bool:
    return order.status in {OrderStatus.FILLED, OrderStatus.OPEN, OrderStatus.CANCELLED}


def _lots(rows: Iterable[Any]) -> Iterable[tuple[str, str, Decimal]]:
    """Of what the venue executed: trade, order, and signed quantity."""
    for number, name, message, _, filled in rows:
        sign = Side(json.loads(message)["side"]).sign
        for lot in range(2):
            yield f"{number}/{lot}", name, sign * Decimal(filled) / 2


def _booked(rows: Iterable[Any]) -> Iterable[tuple[str, str, Decimal]]:
    for trade_id, name, side, quantity in rows:
        yield trade_id, name, Side(side).sign * Decimal(quantity)


def _rows(path: Path, query: str) -> list[list[Any]]:
    with closing(sqlite3.connect(path)) as connection:
        return [list(row) for row in connection.execute(query)]


class VenueStage(Stage):
    """A stage whose lives can also be killed around each step of a message."""

    def _be_child(self, homes: Any, work: Any, trace: Path, points: Points) -> None:
        if points.die_at or points.keep:
            pass_points(points.at)
        super()._be_child(homes, work, trace, points)


VARIANTS = {
    variant.name: variant
    for variant in (
        Orders("well"),
        *(Orders(fault, (fault,) * len(DECISIONS)) for fault in FAULTS),
        Orders("mixed", ("lose", "never", "late")),
        Orders("again", ("late", "lose", "never", "unavailable", "too_late")),
        *(Orders(f"idempotent_{fault}", (fault,) * len(DECISIONS), idempotent=True) for fault in ("lose", "never")),
    )
}
