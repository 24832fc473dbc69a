"""One application of several on one home and one database, and a small graph for its runs."""

import operator
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from sqlalchemy import select

from agents.clock import ReplayClock
from checkpoints.database import Database, metadata
from checkpoints.leases import Leases
from checkpoints.ledger import OrderLedger
from checkpoints.runs import CheckpointManager, Run, RunStatus
from checkpoints.saver import SqlSaver

AS_OF_NS = 1_362_096_000_000_000_000  # 2013-03-01
SHAPE = {"nodes": ["a", "b"], "members": ["trend"]}
PARAMETERS = {"market": {"seed": 7}, "settings": {"cash": "1000"}}


class Home:
    """A database, a saver, leases, a ledger and a manager."""

    def __init__(self, address: str, folder: Path, clock: ReplayClock) -> None:
        self.folder = folder
        self.clock = clock
        self.database = Database.open(address)
        self.leases = Leases(self.database, folder / "owners", clock)
        self.saver = SqlSaver(self.database, fence=self.leases.check)
        self.ledger = OrderLedger(self.database, self.leases.check)
        self.manager = CheckpointManager(self.database, self.saver, self.leases, folder, clock)

    def beginning(self, symbol: str = "SIM", **more: Any) -> Any:
        given = {"workflow": "trade", "fingerprint": SHAPE, "parameters": PARAMETERS, "as_of_ns": AS_OF_NS} | more
        return self.manager.begin(symbol=symbol, **given)

    async def played(self, symbol: str = "SIM", status: RunStatus = RunStatus.FINISHED, **more: Any) -> Run:
        """A run whose graph came to its end."""
        async with self.beginning(symbol, **more) as hold:
            await self.play(hold.run.run_id, {"notes": ["begun"], "text": ""})
            return await self.manager.mark(hold, status)

    async def play(self, run_id: str, given: Any = None) -> dict[str, Any]:
        config = {"configurable": {"thread_id": run_id}}
        return await letters(self.saver).ainvoke(given, config, durability="sync")

    async def forked(self, identifier: str, *, dry: bool = True, status: RunStatus = RunStatus.FINISHED) -> Run:
        """A fork that came to its end."""
        point = await self.manager.locate(identifier)
        async with self.manager.fork(point, fingerprint=SHAPE, parameters=PARAMETERS, dry=dry) as hold:
            await self.play(hold.run.run_id)
            return await self.manager.mark(hold, status)

    async def rows(self, run_id: str) -> list[Any]:
        return list(await self.manager.checkpoints(run_id, letters(self.saver)))

    async def state(self, run_id: str, checkpoint_id: str | None = None) -> Any:
        where = {"thread_id": run_id} | ({"checkpoint_id": checkpoint_id} if checkpoint_id else {})
        return await letters(self.saver).aget_state({"configurable": where})

    def tables(self) -> dict[str, list[Any]]:
        """All there is in the database."""

        def work(connection):
            return {
                table.name: sorted(map(repr, connection.execute(select(table)))) for table in metadata.sorted_tables
            }

        return self.database.read(work)

    def close(self) -> None:
        self.database.close()
        self.leases.close()


class Letters(TypedDict, total=False):
    text: str
    notes: Annotated[list[str], operator.add]
    fixed: str


LONG = "what never changes " * 200
"""Long enough to be a value of its own, and a difference."""


def letters(saver: SqlSaver) -> Any:
    """Three steps that each add to a text and to a list."""

    def step(state: Letters) -> Letters:
        return {"text": state["text"] + "x", "notes": [f"{len(state['notes'])} {LONG}"], "fixed": LONG}

    builder: Any = StateGraph(Letters)
    names = ("first", "second", "third")
    for name in names:
        builder.add_node(name, step)
    for start, end in zip((START, *names), (*names, END), strict=True):
        builder.add_edge(start, end)
    return builder.compile(checkpointer=saver)
