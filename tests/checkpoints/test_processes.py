"""Many processes and many runs on one database at once, of either kind: nothing is lost, and no limit is passed."""

import asyncio
import subprocess
import sys
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from sqlalchemy import select

from agents.clock import SystemClock
from agents.domain import Check, Fill, OrderIntent, OrderStatus, Side
from agents.errors import InvalidValue
from checkpoints import store
from checkpoints.database import Database
from checkpoints.events import Entry, Timeline
from checkpoints.leases import Leases, runs
from checkpoints.ledger import Account, BrokerReport, OrderLedger
from checkpoints.orders import fills, orders
from checkpoints.runs import CheckpointManager, RunStatus
from checkpoints.saver import SqlSaver
from graph.app import open_app
from graph.config import load_settings
from graph.runner import Market, Runner

_ROOT = Path(__file__).parents[2]
_PROCESSES = 8
_ROUNDS = 3
_LIMIT = 15
"""Units that the shared account may hold: fewer than all processes ask for."""

_WORKERS = """
import asyncio, os, sys
from tests.checkpoints.test_processes import work
children = []
for number in range(int(sys.argv[3])):
    child = os.fork()
    if not child:
        code = 1
        try:
            asyncio.run(work(sys.argv[1], sys.argv[2], str(number)))
            code = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(code)
    children.append(child)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


class Office:
    """All that a process needs to work on runs."""

    def __init__(self, address: str, folder: Path) -> None:
        clock = SystemClock()
        self.database = Database.open(address)
        self.leases = Leases(self.database, folder / "owners", clock)
        self.saver = SqlSaver(self.database, fence=self.leases.check)
        self.ledger = OrderLedger(self.database, self.leases.check)
        self.timeline = Timeline(self.database)
        self.manager = CheckpointManager(self.database, self.saver, self.leases, folder, clock)

    def close(self) -> None:
        self.database.close()
        self.leases.close()


def _within(account: Account) -> list[Check]:
    held = account.portfolio.position("SIM").quantity + account.live.get("SIM", Decimal(0))
    return [Check("limit", passed=held + 1 <= _LIMIT, value=float(held), limit=float(_LIMIT), reason="full")]


def _intent(run_id: str) -> OrderIntent:
    return OrderIntent.derive(
        run_id=run_id,
        account="shared",
        symbol="SIM",
        side=Side.BUY,
        quantity=Decimal(1),
        reference_price=Decimal(100),
        reference_ns=1,
    )


def _graph(saver: SqlSaver) -> Any:
    from tests.checkpoints.test_saver import _counting

    return _counting(3, "long" * 500).compile(checkpointer=saver)


async def work(address: str, folder: str, name: str) -> None:
    """What each process does: runs with checkpoints and a timeline, and orders on one account."""
    office = Office(address, Path(folder))
    graph = _graph(office.saver)
    await office.ledger.open_account("shared", Decimal(1_000_000))
    for number in range(_ROUNDS):
        begun = office.manager.begin(workflow="trade", symbol="SIM", as_of_ns=1, fingerprint={}, parameters={})
        async with begun as hold:
            run_id = hold.run.run_id
            await asyncio.gather(
                graph.ainvoke({"items": [], "count": 0}, {"configurable": {"thread_id": run_id}}, durability="sync"),
                office.timeline.append([Entry(run_id, number, "Begun"), Entry("all", number, "Begun", name)]),
            )
            intent = _intent(run_id)
            order = await office.ledger.reserve(intent, _within)
            if order.status is OrderStatus.PENDING and await office.ledger.mark_sending(intent.intent_id):
                fill = Fill(f"t-{run_id}", intent.intent_id, "SIM", Side.BUY, Decimal(1), Decimal(100), Decimal(0), 1)
                await office.ledger.record(intent.intent_id, BrokerReport(OrderStatus.FILLED, "b", (fill,)))
            await office.manager.mark(hold, RunStatus.FINISHED)
    office.close()


async def _column(database: Database, column: Any) -> list[Any]:
    return await database.aread(lambda connection: list(connection.execute(select(column)).scalars()))


async def test_eight_processes_lose_nothing_and_keep_the_limit_of_their_account(address: str, tmp_path: Path) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", _WORKERS, address, str(tmp_path), str(_PROCESSES)],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")

    office, count = Office(address, tmp_path), _PROCESSES * _ROUNDS
    try:
        found = await office.manager.runs()
        assert {run.status for run in found} == {RunStatus.FINISHED}
        assert {int(run.run_id.rpartition("-")[2]) for run in found} == {*range(1, count + 1)}
        for column, many in ((runs.c.number, count), (orders.c.number, count), (fills.c.number, _LIMIT)):
            assert sorted(await _column(office.database, column)) == [*range(1, many + 1)], column
        statuses = Counter(await _column(office.database, orders.c.status))
        assert statuses == {OrderStatus.FILLED: _LIMIT, OrderStatus.DENIED: count - _LIMIT}
        assert (await office.ledger.portfolio("shared")).position("SIM").quantity == _LIMIT
        shared = Counter(entry.subject for entry in await office.timeline.entries("all"))
        assert shared == {str(number): _ROUNDS for number in range(_PROCESSES)}
        numbers = await _column(office.database, store.checkpoints.c.number)
        assert len(numbers) == len(set(numbers)) == count * 5
        for run in found:
            state = _graph(office.saver).get_state({"configurable": {"thread_id": run.run_id}})
            assert (state.values["count"], len(state.values["items"]), state.next) == (3, 3, ())
            assert [entry.kind for entry in await office.timeline.entries(run.run_id)] == ["Begun"]
    finally:
        office.close()


async def test_fifty_runs_at_once_on_one_file(tmp_path: Path) -> None:
    symbols = tuple(f"S{number}" for number in range(50))
    settings = load_settings(None, home=tmp_path / "home", concurrency=50)
    async with open_app(settings) as app:
        results = await Runner(app).start_all(Market(symbols, {}, 7))
        assert [result.run.status for result in results] == [RunStatus.FINISHED] * 50
        assert [result.run.symbol for result in results] == list(symbols)
        numbers = await _column(app.database, store.checkpoints.c.number)
        assert len(numbers) == len(set(numbers))
        orders = [order for result in results for order in result.orders]
        assert len(await app.broker.orders()) == len(orders) == len({order.client_order_id for order in orders})
        for result in results:
            assert result.timeline == await app.timeline.entries(result.run.run_id)


@pytest.mark.parametrize("text", ["a\x00b", "\ud800", "a\x00\ud800\n"])
@pytest.mark.parametrize("part", ["thread_id", "checkpoint_ns", "checkpoint_id", "task"])
def test_an_id_that_cannot_be_kept_is_refused_whole(address: str, part: str, text: str) -> None:
    given = {"thread_id": "t", "checkpoint_ns": "n", "checkpoint_id": "c", "task": "k"} | {part: text}
    task = given.pop("task")
    config: Any = {"configurable": given}
    value = {"text": "v" * 100_000}
    point = {**empty_checkpoint(), "id": given["checkpoint_id"]}
    point |= {"channel_values": value, "channel_versions": {"text": "1"}}

    with SqlSaver.open(address) as saver:

        def count(table: Any) -> int:
            return len(saver._database.read(lambda connection: connection.execute(select(table)).all()))

        if "://" not in address and "\ud800" not in text:
            saver.put(config, point, {}, {"text": "1"})
            saver.put_writes(config, [("one", 1), ("two", 2)], task)
            found = saver.get_tuple(config)
            assert found is not None
            assert found.checkpoint["channel_values"] == value
            assert found.pending_writes == [(task, "one", 1), (task, "two", 2)]
            return
        if part == "task":
            saver.put(config, point, {}, {"text": "1"})
        else:
            with pytest.raises(InvalidValue, match=r"cannot keep a text that has .*; nothing was written; take it out"):
                saver.put(config, point, {}, {"text": "1"})
            assert count(store.checkpoints) == count(store.values) == 0
        with pytest.raises(InvalidValue, match=r"cannot keep a text that has .*; nothing was written; take it out"):
            saver.put_writes(config, [("one", 1), ("two", 2)], task)
        assert count(store.writes) == 0


@pytest.mark.parametrize("text", ["a\x00b", "\ud800", "a\x00\ud800\n"])
async def test_words_for_people_are_kept_whatever_is_in_them(address: str, tmp_path: Path, text: str) -> None:
    office = Office(address, tmp_path)
    await office.ledger.open_account("shared", Decimal(1_000))
    try:
        begun = office.manager.begin(workflow="trade", symbol="SIM", as_of_ns=1, fingerprint={}, parameters={"x": text})
        async with begun as hold:
            intent = _intent(hold.run.run_id)
            await office.ledger.reserve(intent, _within)
            assert await office.ledger.mark_sending(intent.intent_id)
            order = await office.ledger.record(
                intent.intent_id, BrokerReport(OrderStatus.REJECTED, reason=f"no {text}")
            )
            failed = await office.manager.mark(hold, RunStatus.FAILED, f"said {text}")
        await office.timeline.append([Entry("r", 1, "Failed", detail={"error": text})])
        told = (await office.timeline.entries("r"))[0].detail

        mended = text.replace("\0", "\N{REPLACEMENT CHARACTER}").replace("\ud800", "?")
        assert (order.status, order.reason) == (OrderStatus.REJECTED, f"no {mended}")
        assert (failed.status, failed.error, failed.parameters) == (RunStatus.FAILED, f"said {mended}", {"x": text})
        assert told == {"error": text}
    finally:
        office.close()
