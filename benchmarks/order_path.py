"""From a tick to an order that is reserved, and to the moment at which it is sent, beside the bare insert of its row.

The peer is the driver alone: one transaction that inserts the same row into the same table, with its indexes, prepared
and without reading anything: the least that a durable intent costs. Both sides in turn, on a file with
`synchronous=FULL` and in memory, each order measured from the call of the desk. The account has a history of 10,000
fills; that it costs nothing is the last row, against an account without any.
"""

import asyncio
import gc
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from agents.domain import Fill, MarketView, OrderIntent, OrderStatus, Quote, Side
from agents.risk import RiskLimits
from benchmarks.harness import Benchmark, Row, rounds_of
from checkpoints.database import Database
from checkpoints.ledger import BrokerReport, OrderLedger
from checkpoints.orders import orders
from checkpoints.trading_state import TradingSwitch
from graph.broker import Broker
from graph.desk import OrderDesk
from graph.resilience import Guard

HISTORY = 10_000
"""Fills that the account has before it is measured."""
ORDERS = 300
"""Orders of each side in a round."""
PERCENTILES = (50.0, 95.0, 99.0, 99.9)
GOAL_DURABLE, GOAL_FLAT = 3.5, 1.10
S_NS = 10**9
LIMITS = RiskLimits(concentration_share_max=10, position_notional_max=1e9, gross_share_max=10)


@dataclass
class Wire(Broker):
    """A venue that fills at once, and knows when it was called."""

    idempotent: bool = True
    sent_at: float = 0.0

    async def send(self, intent: OrderIntent) -> BrokerReport:
        self.sent_at = time.perf_counter()
        return BrokerReport(OrderStatus.FILLED, "w", (fill_of(intent, "w"),))

    async def find(self, client_order_id: str) -> None:  # noqa: ARG002 - a protocol's
        return None

    async def executed(self) -> None:
        return None

    async def intent(self, client_order_id: str) -> None:  # noqa: ARG002 - a protocol's
        return None


def fill_of(intent: OrderIntent, prefix: str) -> Fill:
    """All of it, at the price that was seen."""
    traded = (intent.symbol, intent.side, intent.quantity, intent.reference_price, Decimal("0.01"), intent.reference_ns)
    return Fill(f"{prefix}-{intent.intent_id}", intent.intent_id, *traded)


class Desk:
    """A desk on a database of its own, with a history."""

    def __init__(self, target: str | Path, history: int, *, inline: bool) -> None:
        self.database = Database.open(target, inline=inline)
        switch = TradingSwitch(self.database)
        self.ledger = OrderLedger(self.database, trading=switch.now)
        self.wire = Wire()
        self.desk = OrderDesk(self.ledger, self.wire, LIMITS, Guard("broker", retry=None))
        self.history = history
        self.number = 0
        self.reserved_at = 0.0
        reserve = self.ledger.reserve

        async def noting(*given: Any, **more: Any) -> Any:
            order = await reserve(*given, **more)
            self.reserved_at = time.perf_counter()
            return order

        self.ledger.reserve = noting  # type: ignore[method-assign]

    async def prepare(self) -> None:
        """Give the account its history, in few transactions."""
        await self.ledger.open_account("paper", Decimal(10_000_000))
        await self.order()
        self.database.write(self._fill_up)
        await self.order()

    def _fill_up(self, connection: Any) -> None:
        """Orders and fills as they are kept, without the way through the desk."""
        raw = connection.connection.driver_connection
        columns = [column.name for column in orders.c]
        (row,) = raw.execute(f"SELECT {', '.join(columns)} FROM orders LIMIT 1").fetchall()  # noqa: S608
        made = dict(zip(columns, row, strict=True))
        for number in range(self.history):
            name = f"old-{number}"
            values = {**made, "intent_id": name, "number": 1_000 + number, "run_id": name, "reference_ns": number}
            marks = ", ".join("?" * len(values))
            raw.execute(f"INSERT INTO orders ({', '.join(values)}) VALUES ({marks})", [*values.values()])  # noqa: S608
            side = "buy" if number % 2 else "sell"
            trade = (name, 1_000 + number, name, "paper", "SIM", side, "1", str(100 + number % 7), "0.01", number)
            raw.execute(f"INSERT INTO fills VALUES ({', '.join('?' * 10)})", trade)  # noqa: S608

    async def order(self) -> tuple[float, float]:
        """One order from its tick on: seconds until it is reserved, and until it is sent."""
        self.number += 1
        view, quote = self.tick()
        wanted = {"side": Side.BUY if self.number % 2 else Side.SELL, "quantity": Decimal(1), "held": Decimal(0)}
        began = time.perf_counter()
        await self.desk.submit(
            run_id="bench",
            account="paper",
            decision=self.number,
            view=view,
            quote=quote,
            now_ns=quote.time_ns,
            **wanted,
        )
        return self.reserved_at - began, self.wire.sent_at - began

    def tick(self) -> tuple[MarketView, Quote]:
        """A quote a minute, so that no window is ever full."""
        now_ns = 1_700_000_000 * S_NS + self.number * 60 * S_NS
        prices = dict.fromkeys(("open", "high", "low", "close"), (100.0,) * 120)
        view = MarketView("SIM", 60 * S_NS, tuple(now_ns - (119 - n) * 60 * S_NS for n in range(120)), **prices)
        return view, Quote("SIM", now_ns, Decimal("99.99"), Decimal("100.01"))


class Bare:
    """The driver alone."""

    def __init__(self, target: str) -> None:
        self.connection = sqlite3.connect(target, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute("PRAGMA synchronous=FULL")
        self.number = 0

    def prepare(self, like: Desk) -> None:
        """The same table with the same indexes, and as many rows."""

        def schema(connection: Any) -> tuple[list[str], list[Any]]:
            raw = connection.connection.driver_connection
            wanted = "SELECT sql FROM sqlite_master WHERE tbl_name = 'orders' AND sql IS NOT NULL"
            return [row[0] for row in raw.execute(wanted)], raw.execute("SELECT * FROM orders").fetchall()

        statements, rows = like.database.read(schema)
        self.connection.execute("BEGIN")
        for statement in statements:
            self.connection.execute(statement)
        self.statement = f"INSERT INTO orders VALUES ({', '.join('?' * len(rows[0]))})"  # noqa: S608
        self.connection.executemany(self.statement, rows)
        self.connection.execute("COMMIT")
        names = [row[1] for row in self.connection.execute("PRAGMA table_info(orders)")]
        self.row = dict(zip(names, rows[-1], strict=True))
        self.number = max(row[names.index("number")] for row in rows)

    def order(self) -> float:
        """One row, durable."""
        self.number += 1
        name = f"bare-{self.number}"
        values = {**self.row, "intent_id": name, "number": self.number, "run_id": name, "reference_ns": self.number}
        row = [*values.values()]
        began = time.perf_counter()
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.execute(self.statement, row)
        self.connection.execute("COMMIT")
        return time.perf_counter() - began


@dataclass
class Taken:
    """Seconds of each order, by round."""

    reserved: list[list[float]] = field(default_factory=list)
    sent: list[list[float]] = field(default_factory=list)
    bare: list[list[float]] = field(default_factory=list)
    fresh: list[list[float]] = field(default_factory=list)


async def play(folder: Path | None, rounds: int, *, inline: bool) -> Taken:
    """Rounds of orders, both sides in turn; the first of them warms up and is not counted."""
    place = lambda name: ":memory:" if folder is None else str(folder / name)  # noqa: E731
    old, fresh = Desk(place("old.db"), HISTORY, inline=inline), Desk(place("fresh.db"), 0, inline=inline)
    bare = Bare(place("bare.db"))
    taken = Taken()
    with old.database, fresh.database, closing(bare.connection):
        await old.prepare()
        await fresh.prepare()
        bare.prepare(old)
        gc.collect()
        gc.freeze()
        for number in range(rounds + 1):
            ours, peers, others = [], [], []
            for _ in range(ORDERS):
                ours.append(await old.order())
                peers.append(bare.order())
                others.append(await fresh.order())
            if number:
                taken.reserved.append([each[0] for each in ours])
                taken.sent.append([each[1] for each in ours])
                taken.bare.append(peers)
                taken.fresh.append([each[0] for each in others])
        gc.unfreeze()
    return taken


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many are not above."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, max(0, -(-len(ranked) * percent // 100).__int__() - 1))]


def by_round(rounds: Sequence[Sequence[float]], percent: float) -> tuple[float, ...]:
    """The percentile of each round; beyond the 99th, which a round has too few orders for, of all of them."""
    if percent > 99:
        return (percentile([each for one in rounds for each in one], percent),)
    return tuple(percentile(one, percent) for one in rounds)


def measure(quick: bool) -> Iterator[Row]:
    rounds = rounds_of(quick)
    with tempfile.TemporaryDirectory() as folder:
        durable = asyncio.run(play(Path(folder), rounds, inline=False))
    memory = asyncio.run(play(None, rounds, inline=True))
    for name, taken, peer in (("in memory", memory, "the row alone"), ("on disk", durable, "the row alone, durable")):
        for what, seconds in (("reserved", taken.reserved), ("sent", taken.sent)):
            for percent in PERCENTILES:
                goal = GOAL_DURABLE if (name, what, percent) == ("on disk", "reserved", 50.0) else None
                label = f"tick to {what}, {name}, P{percent:g}"
                yield Row(label, by_round(seconds, percent), by_round(taken.bare, percent), peer, goal)
    fresh = by_round(memory.fresh, 50.0)
    yield Row(
        f"in memory, after {HISTORY:,} fills, P50", by_round(memory.reserved, 50.0), fresh, "after none", GOAL_FLAT
    )


if __name__ == "__main__":
    # 4 percentiles in memory of each kind come first, and then the median of a durable reservation
    Benchmark("order_path", __doc__.splitlines()[0], lambda quick: list(measure(quick)), headline=8).main()
