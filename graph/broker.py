"""The venue's side: what a broker must offer, and a paper broker that keeps its books in a file of its own.

The paper broker's file is apart from the ledger's on purpose: between the two there is a real gap, in which a real
crash can happen, as there is with a real venue.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, Text, func, insert, select

from agents.domain import Fill, OrderIntent, OrderStatus, Side
from checkpoints.database import Database
from checkpoints.ledger import BrokerReport
from checkpoints.migrations import HISTORY

__all__ = ["Broker", "PaperBroker"]


class Broker(Protocol):
    """A place where orders are executed.

    `idempotent`: sending a client order id again never executes it again, for ever. Where that is false (many venues
    only compare with orders that are open now), a lost order is never sent again under its old id.
    """

    @property
    def idempotent(self) -> bool: ...

    async def send(self, intent: OrderIntent) -> BrokerReport:
        """Place the order, once. Raises BrokerUnavailable when its fate is unknown."""
        ...

    async def find(self, client_order_id: str) -> BrokerReport | None:
        """What the broker knows of an order; None when it has never seen it."""
        ...

    async def cancel(self, client_order_id: str) -> BrokerReport | None:
        """Take an order out of the book, and give how it stands then; None when the broker has never seen it.

        May be asked again and again. As it stands here it is for brokers at which nothing rests.
        """
        return await self.find(client_order_id)

    async def executed(self) -> Mapping[str, tuple[str, Decimal]] | None:
        """Symbol and signed quantity of all that was ever executed, by client order id; None when it cannot tell."""
        ...

    async def intent(self, client_order_id: str) -> OrderIntent | None:
        """The order as it was sent, with whose it was; None when the broker has not kept all of that."""
        ...

    async def resting(self) -> Mapping[str, str] | None:
        """The symbol of each order that is in the book now, by client order id; None when it cannot tell."""
        return None

    async def holdings(self) -> Mapping[str, Decimal] | None:
        """Signed quantities by symbol, as the venue itself counts them; None when it cannot tell.

        As fills made them: what the venue has taken from them for fees is put back. A symbol that is left out is at 0.
        """
        return None


_books = MetaData(info={HISTORY: ()})
_paper_orders = Table(
    "paper_orders",
    _books,
    Column("client_order_id", String(32), primary_key=True),
    Column("number", Integer, nullable=False, unique=True),
    Column("symbol", String(32), nullable=False),
    Column("side", String(4), nullable=False),
    Column("quantity", String(64), nullable=False),
    Column("price", String(64), nullable=False),
    Column("fee", String(64), nullable=False),
    Column("time_ns", String(32), nullable=False),
    Column("detail", Text, nullable=False, default="{}"),
)


@dataclass(frozen=True, slots=True)
class PaperBroker(Broker):
    """Fills every order at once, at the price the decision saw, worse by `slippage_bps`, for a fee of `fee_bps`.

    Its answers are durable before they are given, and an id that it knows is answered from its books.
    """

    database: Database
    slippage_bps: Decimal = Decimal(2)
    fee_bps: Decimal = Decimal(1)
    idempotent: bool = True

    @classmethod
    def open(cls, path: Path, *, inline: bool = False) -> "PaperBroker":
        """Open or create the broker's books; raises StorageError where the file cannot be used."""
        return cls(Database.open(path, _books, inline=inline))

    async def send(self, intent: OrderIntent) -> BrokerReport:
        return await self.database.awrite(lambda connection: self._execute(connection, intent))

    async def find(self, client_order_id: str) -> BrokerReport | None:
        return await self.database.aread(lambda connection: _known(connection, client_order_id))

    async def executed(self) -> Mapping[str, tuple[str, Decimal]]:
        def work(connection: Connection) -> dict[str, tuple[str, Decimal]]:
            names = ("client_order_id", "symbol", "side", "quantity")
            rows = connection.execute(select(*(_paper_orders.c[name] for name in names)))
            return {
                name: (symbol, Decimal(quantity) if side == Side.BUY else -Decimal(quantity))
                for name, symbol, side, quantity in rows
            }

        return await self.database.aread(work)

    async def intent(self, client_order_id: str) -> OrderIntent | None:
        return await self.database.aread(lambda connection: _intent(connection, client_order_id))

    async def orders(self) -> list[Mapping[str, Any]]:
        """Every order ever executed here, oldest first."""

        def work(connection: Connection) -> list[Mapping[str, Any]]:
            rows = connection.execute(select(_paper_orders).order_by(_paper_orders.c.number))
            return [dict(row) for row in rows.mappings()]

        return await self.database.aread(work)

    def _execute(self, connection: Connection, intent: OrderIntent) -> BrokerReport:
        known = _known(connection, intent.intent_id)
        if known is not None:
            return known
        price = self._price(intent)
        fee = (intent.quantity * price * self.fee_bps / 10_000).quantize(Decimal("0.00000001"))
        newest = connection.execute(select(func.max(_paper_orders.c.number))).scalar()
        connection.execute(
            insert(_paper_orders).values(
                client_order_id=intent.intent_id,
                number=(newest or 0) + 1,
                symbol=intent.symbol,
                side=intent.side,
                quantity=str(intent.quantity),
                price=str(price),
                fee=str(fee),
                time_ns=str(intent.reference_ns),
                detail=json.dumps(_detail(intent)),
            )
        )
        report = _known(connection, intent.intent_id)
        assert report is not None  # noqa: S101 - it was inserted a line ago, in this transaction
        return report

    def _price(self, intent: OrderIntent) -> Decimal:
        slipped = intent.reference_price * (1 + intent.side.sign * self.slippage_bps / 10_000)
        if intent.limit_price is not None:
            best = min if intent.side.sign > 0 else max
            slipped = best(slipped, intent.limit_price)
        return slipped.quantize(Decimal("0.00000001")).normalize()


def _detail(intent: OrderIntent) -> dict[str, Any]:
    """What the columns lack of the order as it was sent."""
    limit = None if intent.limit_price is None else str(intent.limit_price)
    return {
        "run_id": intent.run_id,
        "leg": intent.leg,
        "account": intent.account,
        "decision": intent.decision,
        "reference_price": str(intent.reference_price),
        "limit_price": limit,
    }


def _intent(connection: Connection, client_order_id: str) -> OrderIntent | None:
    """From the row; None for one of before these details were kept, or whose id does not follow from them."""
    row = connection.execute(select(_paper_orders).where(_paper_orders.c.client_order_id == client_order_id)).first()
    if row is None:
        return None
    try:
        detail = json.loads(row.detail)
        limit = detail["limit_price"]
        intent = OrderIntent.derive(
            run_id=detail["run_id"],
            account=detail["account"],
            symbol=row.symbol,
            side=Side(row.side),
            quantity=Decimal(row.quantity),
            reference_price=Decimal(detail["reference_price"]),
            reference_ns=int(row.time_ns),
            decision=detail["decision"],
            leg=detail["leg"],
            limit_price=None if limit is None else Decimal(limit),
        )
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return None
    return intent if intent.intent_id == client_order_id else None


def _known(connection: Connection, client_order_id: str) -> BrokerReport | None:
    row = connection.execute(select(_paper_orders).where(_paper_orders.c.client_order_id == client_order_id)).first()
    if row is None:
        return None
    fill = Fill(
        trade_id=f"paper-{row.client_order_id}-1",
        client_order_id=row.client_order_id,
        symbol=row.symbol,
        side=row.side,
        quantity=Decimal(row.quantity),
        price=Decimal(row.price),
        fee=Decimal(row.fee),
        time_ns=int(row.time_ns),
    )
    return BrokerReport(OrderStatus.FILLED, broker_order_id=f"paper-{row.number}", fills=(fill,))
