"""What is played: the trade workflow as the command line runs it, in variants that go through different code."""

import json
import sqlite3
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psycopg
from pydantic import SecretStr
from sqlalchemy import Connection, text

from agents.domain import Finding, MarketView
from agents.errors import CheckpointNotFound
from agents.market import simulate
from agents.quality import GateSettings
from checkpoints.events import Entry
from checkpoints.ledger import BrokerReport
from graph.app import App, open_app
from graph.config import Settings, load_settings
from graph.paper import PaperBroker
from graph.paper.matching import Resting
from graph.resilience import FaultPlan
from graph.result import RunResult, plain
from graph.runner import Market, Runner
from tests.crash.harness import Home

__all__ = ["VARIANTS", "Trade"]


@cache
def _settings() -> Settings:
    """Made once: their class is built anew each time."""
    return load_settings(None, home=Path("nowhere"), window=100)


@dataclass(frozen=True, slots=True)
class Trade:
    """A user of the trade workflow.

    `files`: bars are read from price files. `faults` are injected into the beginning, and if `lasting` into every life.
    `stop_after`: whose success lets the user press Ctrl-C. `by_head`: runs are resumed by the id of their newest
    checkpoint. `rewind_to`: the run is finished, and what is begun is a rewind to the state before this node;
    `fork_at`: a fork from there, which may place orders. `strict_venue`: the broker executes whatever it is sent, again
    if it is sent again.
    """

    name: str
    symbols: tuple[str, ...] = ("SIM",)
    seed: int = 7
    files: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    lasting: bool = False
    stop_after: str = ""
    by_head: bool = False
    rewind_to: str = ""
    fork_at: str = ""
    strict_venue: bool = False

    async def before(self, home: Home) -> None:
        if self.files:
            for symbol in self.symbols:
                _write_bars(home.folder / f"{symbol}.csv", symbol, self.seed)
        if self.rewind_to or self.fork_at:
            async with self._app(home) as app:
                await Runner(app).start_all(self._market(home))

    async def begin(self, home: Home) -> None:
        runners: list[Runner] = []

        def watch(entry: Entry) -> None:
            if (entry.kind, entry.subject) == ("AttemptSucceeded", self.stop_after):
                runners[0].stop()

        async with self._app(home, self.faults, watcher=watch) as app:
            runners.append(runner := Runner(app))
            if self.rewind_to:
                await runner.resume(await self._state_before(app, self.rewind_to))
            elif self.fork_at:
                await runner.fork(await self._state_before(app, self.fork_at), orders=True)
            else:
                await runner.start_all(self._market(home))

    async def recover(self, home: Home) -> Mapping[str, Any]:
        """One command after another, as a user gives them."""
        seen = {symbol: _seen(await self._resumed(home, symbol)) for symbol in self.symbols}
        return {f"{symbol}'s {part}": value for symbol, parts in seen.items() for part, value in parts.items()}

    async def _resumed(self, home: Home, symbol: str) -> RunResult:
        faults = self.faults if self.lasting else ()
        run_id = _run_id(symbol, 2 if self.fork_at else 1)
        async with self._app(home, faults) as app:
            try:
                return await Runner(app).resume(await self._head(app, run_id) if self.by_head else run_id)
            except CheckpointNotFound:
                pass  # it was killed before it was registered: the user asks for it again
        async with self._app(home, faults) as app:
            if self.fork_at:
                return await Runner(app).fork(await self._state_before(app, self.fork_at), orders=True)
            result: RunResult = (await Runner(app).start_all(self._market(home, symbol)))[0]
            return result

    @asynccontextmanager
    async def _app(self, home: Home, faults: Sequence[str] = (), **options: Any) -> AsyncIterator[App]:
        where = {"home": home.folder, "database": SecretStr(home.database)}
        settings = _settings().model_copy(update=where | dict(self.settings))
        plan = FaultPlan.parse(faults) if faults else None
        broker = patch("graph.recovery.PaperBroker", _StrictVenue) if self.strict_venue else nullcontext()
        with broker:
            async with open_app(settings, faults=plan, inline=home.inline, **options) as app:
                yield app

    def _market(self, home: Home, *symbols: str) -> Market:
        files = {symbol: home.folder / f"{symbol}.csv" for symbol in self.symbols} if self.files else {}
        return Market(symbols or self.symbols, files, self.seed)

    async def _head(self, app: App, run_id: str) -> str:
        head = await app.saver.aget_tuple({"configurable": {"thread_id": run_id}})
        return head.checkpoint["id"] if head else run_id

    async def _state_before(self, app: App, node: str) -> str:
        """The checkpoint of the first run that stands before this node."""
        graph = app.trade(app.settings, Market((), {}, 0).feed(app.settings)).graph
        rows = await app.manager.checkpoints(_run_id(self.symbols[0]), graph)
        return next(row.checkpoint_id for row in rows if row.before == node)

    def books(self, home: Home) -> Mapping[str, Any]:
        with closing(sqlite3.connect(home.folder / "broker.db")) as broker, closing(_main(home)) as main:
            files = [broker] if home.database else [broker, main]
            return {
                **{name: _rows(main, query) for name, query in _LEDGER.items()},
                "executed": _rows(broker, _EXECUTED),
                "damage": [row for file in files for row in _rows(file, "PRAGMA integrity_check") if row != ["ok"]],
            }

    def wrong(self, found: Mapping[str, Any], undisturbed: Mapping[str, Any]) -> list[str]:
        filled = sorted(order[0] for order in found["orders"] if order[2] == "filled")
        executed = sorted(order[0] for order in found["executed"])
        statuses = [run[4] for run in found["runs"]]
        rules = {
            "no order was executed twice": len(set(executed)) == len(executed) <= len(statuses),
            "what the broker executed is what the ledger has as filled": executed == filled,
            "no file is damaged": found["damage"] == [],
        }
        if self.strict_venue and [order[2] for order in found["orders"]] == ["unknown"]:
            return _unkept(rules)  # it may have been on its way: it is not sent again, and the user has to look
        rules |= {"every run is finished": set(statuses) == {"finished"}, "something was traded": len(executed) > 0}
        return _unkept(rules) + [
            f"{part} is {_short(found.get(part))}, and undisturbed it is {_short(should)}"
            for part, should in undisturbed.items()
            if found.get(part) != should
        ]


def _unkept(rules: Mapping[str, bool]) -> list[str]:
    return [f"it is not so that {rule}" for rule, kept in rules.items() if not kept]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 600 else f"{text[:600]} ..."


class _StrictVenue(PaperBroker):
    """A broker that promises nothing: what it has executed it does not list, and an order that comes again under its
    old id it executes again.
    """  # noqa: D205 (one sentence)

    idempotent: bool = False

    async def executed(self) -> None:
        return None

    def _take(self, connection: Connection, order: Resting) -> BrokerReport:
        connection.execute(_EXECUTED_AGAIN, {"client_order_id": order.intent.intent_id})
        return super()._take(connection, order)


_EXECUTED_AGAIN = text(
    "INSERT INTO paper_fills SELECT trade_id || '-' || number, number + 1000, client_order_id, quantity, price, fee,"
    " time_ns FROM paper_fills WHERE client_order_id = :client_order_id"
)


_LEDGER = {
    "runs": "SELECT run_id, symbol, as_of_ns, account, status, error FROM runs ORDER BY run_id",
    "accounts": "SELECT account, opening_cash FROM accounts ORDER BY account",
    "orders": "SELECT intent_id, run_id, status, quantity, side, checks FROM orders ORDER BY intent_id",
    "fills": "SELECT trade_id, intent_id, account, quantity, price, fee FROM fills ORDER BY trade_id",
    "trading": "SELECT state, code FROM trading_state",
}
_EXECUTED = (
    "SELECT client_order_id, symbol, side, paper_fills.quantity, price, fee"
    " FROM paper_fills JOIN paper_orders USING (client_order_id) ORDER BY client_order_id"
)


def _main(home: Home) -> Any:
    return psycopg.connect(home.database) if home.database else sqlite3.connect(home.folder / "holdfast.db")


def _rows(connection: Any, query: str) -> list[list[Any]]:
    return [list(row) for row in connection.execute(query)]


def _run_id(symbol: str, number: int = 1) -> str:
    return f"trade-{symbol}-20260101T000000Z-{number}"


def _seen(result: RunResult) -> dict[str, Any]:
    """What a user is shown of a run, and must not depend on how often it was killed."""
    shown = result.as_json()
    state = {name: plain(result.state.get(name)) for name in ("findings", "synthesis", "plan", "verdict", "notes")}
    view = replace(result.state["view"], source="", market=())  # of another home's file, and who else was asked for
    return {
        **{name: shown[name] for name in ("run_id", "status", "error", "decision", "gate", "orders")},
        **state,
        "view": zlib.crc32(repr(view).encode()),
        "portfolio": plain(result.portfolio),
    }


def _write_bars(path: Path, symbol: str, seed: int) -> None:
    bars = simulate(symbol, seed, 120)
    rows = zip(bars.close_ns, bars.open, bars.high, bars.low, bars.close, bars.volume, strict=True)
    lines = ["time,open,high,low,close,volume", *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def threaded(view: MarketView) -> Finding:
    """An analyst of somebody's own, who is asked in a thread."""
    return Finding("threaded", 0.6, 0.5, f"{view.symbol} from a thread")


async def model(view: MarketView) -> Finding:
    """An analyst who cannot be reached."""
    raise ConnectionError(f"no model for {view.symbol}")


VARIANTS = {
    variant.name: variant
    for variant in (
        Trade("trade"),
        Trade("files", files=True),
        # Without the index of the others, which is another one for a symbol that is started again alone.
        Trade("several", ("AAA", "BBB"), seed=10, settings={"optional": ("volume", "seasonality")}),
        Trade("revise", settings={"gate": GateSettings(weight_max=0.02)}),
        Trade(
            "own",
            settings={
                "optional": ("tests.crash.variants:threaded", "tests.crash.variants:model"),
                "fallbacks": {"model": ("tests.crash.variants:threaded",)},
            },
        ),
        Trade("outage", faults=("volume=error",), lasting=True),
        Trade("lost_answer", faults=("broker=corrupt@1",)),
        Trade("no_broker", faults=("broker=error",)),
        Trade("stopped", stop_after="strategy"),
        Trade("head", by_head=True),
        Trade("rewind", rewind_to="strategy"),
        Trade("rewind_far", rewind_to="analyst"),
        Trade("fork", fork_at="strategy"),
        Trade("strict_venue", strict_venue=True),
    )
}
