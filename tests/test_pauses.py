"""Workers that are paused for longer than their lease: another has their run when they go on, and none orders twice.

Kills are not enough: a killed process writes nothing more. One that was stopped, by a signal, a debugger or a machine
that slept, comes back in the middle of what it did.
"""

import asyncio
import json
import os
import selectors
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from functools import partial, wraps
from pathlib import Path
from random import Random

import pytest

from agents.clock import SystemClock
from agents.domain import Fill, MarketView, OrderIntent, OrderStatus, Side
from agents.errors import LeaseLost, OrderConflict, OrderError, RunLeased
from agents.risk import RiskLimits
from checkpoints.database import Database
from checkpoints.leases import Leases
from checkpoints.ledger import BrokerReport, OrderLedger
from checkpoints.runs import CheckpointManager, RunStatus
from checkpoints.saver import SqlSaver
from graph.desk import OrderDesk
from graph.resilience import Guard
from tests.postgres import Server, missing

ROOT = Path(__file__).parents[1]
LEASE_S, RENEW_S = 0.2, 0.06
STUCK_S = 60.0
POLL_S = 0.01


def start(call, *given, **more):
    """Run a function of this module in a process of its own."""
    script = f"import json, sys; from tests.test_pauses import {call}; sys.exit({call}(*json.loads(sys.argv[1])))"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    command = [sys.executable, "-c", script, json.dumps([str(each) for each in given])]
    return subprocess.Popen(command, cwd=ROOT, env=environment, **more)


def pause():
    os.kill(os.getpid(), signal.SIGSTOP)


def paused_before(call):
    """The call, for a process that is stopped just before it."""

    @wraps(call)
    async def paused(*given, **more):
        pause()
        return await call(*given, **more)

    return paused


# One decision of the trade workflow.


PLACES = {
    "synthesis": ("graph.nodes", "TradeNodes"),
    "mark_sending": ("checkpoints.ledger", "OrderLedger"),
    "send": ("graph.paper", "PaperBroker"),
}


def trade(home, place):
    """The command line, with short leases, stopped once before `place`.

    Its databases are inline: who is stopped in the middle of a commit cannot be taken over, since he keeps the file.
    """
    from graph import app
    from graph.command import Command, execute

    module, owner = PLACES[place]
    owner = getattr(sys.modules[module], owner)
    setattr(owner, place, paused_before(getattr(owner, place)))
    app.Leases = partial(Leases, lease_s=LEASE_S, renew_s=RENEW_S)
    real = app.App.open
    app.App.open = lambda *given, **more: real(*given, **(more | {"inline": True}))
    return execute(Command("workflow", "trade", flags={"home": Path(home)}, json=True))


async def resumed(home, run_id):
    """What becomes of the run when another goes on with it, as soon as it may."""
    from graph.app import open_app
    from graph.config import load_settings
    from graph.runner import Runner

    async with open_app(load_settings(None, home=home)) as app:
        while True:
            try:
                return await Runner(app).resume(run_id)
            except RunLeased:
                await asyncio.sleep(POLL_S)


def rows(path, query):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


@pytest.mark.parametrize("place", PLACES)
def test_a_worker_that_is_paused_for_longer_than_its_lease(tmp_path, place):
    run_id = "trade-SIM-20260101T000000Z-1"
    paused = start("trade", tmp_path, place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        os.waitid(os.P_PID, paused.pid, os.WSTOPPED)
        finished = asyncio.run(resumed(tmp_path, run_id))
        assert finished.run.status is RunStatus.FINISHED
        paused.send_signal(signal.SIGCONT)
        out, err = paused.communicate(timeout=STUCK_S)
    finally:
        paused.kill()
        paused.wait()
    assert (paused.returncode, out, err.count("\n")) == (3, "", 1)
    assert err.startswith(f"error: run {run_id} was taken over by another process, which is done with it; nothing more")

    (order,) = finished.orders
    assert order.status is OrderStatus.FILLED
    assert rows(tmp_path / "holdfast.db", "SELECT intent_id, status FROM orders") == [(order.client_order_id, "filled")]
    assert rows(tmp_path / "broker.db", "SELECT client_order_id FROM paper_orders") == [(order.client_order_id,)]
    assert rows(tmp_path / "holdfast.db", "SELECT status, error FROM runs") == [("finished", "")]


# Two hundred decisions, and two workers who are paused again and again.

RUN, SEED = "trade-SIM-19700101T000000Z-1", 11
PAUSE_RATE = 0.012
AT_ONCE = 2
"""Orders that may be on their way, of the workers together."""


@dataclass(frozen=True)
class Venue:
    """Executes whatever it is sent, a line each: an order that comes twice is executed twice."""

    path: Path
    idempotent: bool = False

    def grid(self, symbol: str) -> None:
        """Any quantity is taken."""

    async def send(self, intent: OrderIntent) -> BrokerReport:
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(file, f"{intent.decision} {intent.intent_id} {intent.quantity}\n".encode())
        os.close(file)
        return await self.find(intent.intent_id)

    async def find(self, client_order_id: str) -> BrokerReport | None:
        for decision, name, quantity in executions(self.path):
            if name == client_order_id:
                traded = ("SIM", Side.BUY, Decimal(quantity), Decimal(100), Decimal(0), 1)
                return BrokerReport(OrderStatus.FILLED, decision, (Fill(f"t-{name}", name, *traded),))
        return None


def executions(path):
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


class Worker:
    """Works on the run whenever it can have it, and is paused wherever its dice say so."""

    def __init__(self, name, folder, target, orders, told):
        self.name = name
        self.orders = orders
        self.told = told
        self.dice = Random(f"{SEED} {name}")  # noqa: S311 - no secret
        self.database = Database.open(target, inline=True)
        self.leases = Leases(self.database, folder / "owners", SystemClock(), lease_s=LEASE_S, renew_s=RENEW_S)
        self.ledger = OrderLedger(self.database, self.leases.check)
        saver = SqlSaver(self.database, fence=self.leases.check)
        self.manager = CheckpointManager(self.database, saver, self.leases, folder, SystemClock())
        self.venue = Venue(folder / "venue")
        limits = RiskLimits(concentration_share_max=10.0, position_notional_max=1e12, order_notional_max=1e12)
        self.desk = OrderDesk(self, self, limits, Guard("broker", retry=None, breaker=None))

    def tell(self, *words):
        os.write(self.told, " ".join((self.name, *map(str, words))).encode() + b"\n")

    def __getattr__(self, name):
        """What the desk calls, of ledger and venue: it may be paused before and after it."""
        call = getattr(self.venue if hasattr(Venue, name) else self.ledger, name)
        if not asyncio.iscoroutinefunction(call):
            return call

        async def passing(*given, **more):
            self.place(f"before {name}")
            try:
                answer = await call(*given, **more)
            except LeaseLost:
                self.tell("fenced", name)
                raise
            self.place(f"after {name}")
            return answer

        return passing

    def place(self, where):
        if self.dice.random() < PAUSE_RATE:
            self.tell("pauses", where)
            pause()

    async def work(self):
        while True:
            try:
                async with self.manager.claim(RUN) as hold:
                    self.tell("claimed", hold.lease.token)
                    if hold.run.status is RunStatus.FINISHED:
                        return
                    for decision in range(max(0, len(executions(self.venue.path)) - AT_ONCE), self.orders):
                        await self.decide(decision)
                    await self.manager.mark(hold, RunStatus.FINISHED)
            except RunLeased:
                await asyncio.sleep(POLL_S)
            except LeaseLost:
                self.tell("lost")

    async def decide(self, decision):
        began = decision * 3_600 * 10**9  # one after another, or they would be too many at once
        times = tuple(range(began + 1, began + 121))
        prices = dict.fromkeys(("open", "high", "low", "close"), (100.0,) * 120)
        view = MarketView("SIM", 1, times, price_step=Decimal(1), **prices)
        quantity = Decimal(1 if decision % 2 else ord(self.name))  # every other time it decides for itself
        order = {"run_id": RUN, "account": "paper", "side": Side.BUY, "quantity": quantity, "view": view}
        while True:
            try:
                return await self.desk.submit(**order, decision=decision)
            except OrderConflict:  # the other has decided, and its order was sent
                return None
            except OrderError:  # the other is about to send, or has put an order of his own in its place
                await asyncio.sleep(POLL_S)


def work(name, folder, target, orders, told):
    worker = Worker(name, Path(folder), target, int(orders), int(told))
    asyncio.run(worker.work())
    worker.tell("done")


def _file(folder, request):
    return str(folder / "holdfast.db")


def _server(folder, request):
    return request.getfixturevalue("server").fresh()


@pytest.fixture(scope="module")
def server():
    started = Server()
    yield started
    started.stop()


TARGETS = [
    pytest.param(_file, 200, id="sqlite"),
    pytest.param(_server, 80, id="postgres", marks=pytest.mark.skipif(bool(missing()), reason=str(missing()))),
]


async def _begin(folder, target):
    with Database.open(target) as database:
        leases = Leases(database, folder / "owners", SystemClock())
        manager = CheckpointManager(database, SqlSaver(database), leases, folder, SystemClock())
        rest = {"fingerprint": {}, "parameters": {}, "account": "paper"}
        async with manager.begin(workflow="trade", symbol="SIM", as_of_ns=0, **rest) as hold:
            assert hold.run.run_id == RUN
            await OrderLedger(database).open_account("paper", Decimal(10) ** 9)
        leases.close()


async def _ledger(target):
    with Database.open(target) as database:
        return await OrderLedger(database).orders(RUN)


@pytest.mark.parametrize(("where", "wanted"), TARGETS)
def test_as_many_orders_as_decisions(tmp_path, where, wanted, request):
    target = where(tmp_path, request)
    asyncio.run(_begin(tmp_path, target))
    heard, told = os.pipe()
    workers = {name: start("work", name, tmp_path, target, wanted, told, pass_fds=(told,)) for name in "AB"}
    os.close(told)
    try:
        stands: dict[str, str] = {}
        story = []
        for line in _told(heard):
            story.append(line)
            _mind(line, workers, stands)
        codes = [each.wait(STUCK_S) for each in workers.values()]
    finally:
        os.close(heard)
        for each in workers.values():
            each.kill()
            each.wait()
    assert codes == [0, 0]

    executed = executions(tmp_path / "venue")
    assert sorted(int(decision) for decision, _, _ in executed) == list(range(wanted)), "not one order a decision"
    orders = asyncio.run(_ledger(target))
    assert {order.status for order in orders} == {OrderStatus.FILLED}
    assert {order.client_order_id for order in orders} == {name for _, name, _ in executed}

    seen = Counter(what for _, what, *_ in story)
    assert seen["pauses"] >= wanted / 20
    assert seen["lost"] >= seen["pauses"] / 2
    assert seen["fenced"] > 0, "no write was ever refused"
    assert {quantity for _, _, quantity in executed} == {"1", *(str(ord(name)) for name in "AB")}


def _told(heard):
    """What the workers tell, word by word, until both are done."""
    with selectors.DefaultSelector() as selector:
        selector.register(heard, selectors.EVENT_READ)
        rest = b""
        while selector.select(STUCK_S):
            data = os.read(heard, 4096)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            yield from (line.decode().split() for line in lines)
    pytest.fail("nothing happens any more")


def _mind(line, workers, stands):
    """Who is paused goes on as soon as the other has the run, or will do nothing more by itself.

    For who was taken over may be paused once more before it notices. The other has the run already, and so need not
    take it: were both of them paused, each would wait for the other.
    """
    name, what, *_ = line
    if what not in {"pauses", "claimed", "done"}:
        return
    if what == "pauses":
        os.waitid(os.P_PID, workers[name].pid, os.WSTOPPED)
    (other,) = set(workers) - {name}
    before, stands[name] = stands.get(other), what
    if before == "pauses":
        stands[other] = "goes on"
        workers[other].send_signal(signal.SIGCONT)
    elif (before, what) == ("done", "pauses"):
        workers[name].send_signal(signal.SIGCONT)
