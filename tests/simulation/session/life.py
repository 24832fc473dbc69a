"""One process of a session: the application on a home folder, from its start to its end, in order or killed.

A kill is a copy: what the files hold at that moment is what the next process finds. What the old one does after it
reaches nobody; it is cancelled, and its folder is thrown away.
"""

import asyncio
import shutil
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Connection, text

from agents.bracket import Bracket
from agents.domain import KillSwitchReason, Order, OrderIntent, Portfolio, Side, TradingState
from agents.errors import BrokerUnavailable, HoldfastError, LeaseLost, LinkLost, RunLeased, StorageError
from checkpoints.audit import Audit
from checkpoints.halt_file import Halt, HaltFile
from checkpoints.orders import fills_in, orders_of
from checkpoints.runs import RunStatus
from graph.app import App
from graph.config import Settings
from graph.nodes import SHARED_ACCOUNT
from graph.resilience import FaultPlan
from graph.session.host import Terms, run_session
from graph.session.session import Session
from graph.session.slow_lane import Decided
from graph.session.status import SessionResult
from graph.session.venue import ExchangeVenue, PaperVenue, Venue
from graph.spot.broker import ExchangeBroker, of_ledger
from graph.spot.terms import ExchangeTerms
from graph.stream.exchange import ExchangeStream
from graph.stream.history import BarHistory
from tests.simulation.session.courier import Courier, Escort
from tests.simulation.session.day import SECONDS
from tests.simulation.session.market import SYMBOL, LoopTime, WatchedStream, World, view_of
from tests.simulation.session.parts import Keeper, Moody, WatchedLedger
from tests.simulation.session.trouble import Trouble
from tests.simulation.session.witness import Witness

__all__ = ["Life"]

_AFTER_TROUBLE_S = 12.0  # a lease that could not be renewed is lost so long after it
_LOOK_S = 4.0
_FILLS = text(
    "SELECT f.client_order_id, o.side, f.quantity, f.price, f.fee"
    " FROM paper_fills f JOIN paper_orders o ON o.client_order_id = f.client_order_id"
)
_STATE = text("SELECT state FROM trading_state")


class Life:
    """The `number`-th process of a session. `live` it once; it says how it ended."""

    def __init__(
        self,
        world: World,
        home: Path,
        number: int,
        *,
        settings: Settings,
        faults: FaultPlan,
        witness: Witness,
        trouble: Trouble,
    ) -> None:
        self.number = number
        self.home = home
        self.heir = home.with_name(f"{number + 1}")
        self.run_id = ""
        self.result: SessionResult | None = None
        self.session: Session | None = None
        self._world = world
        self._settings = settings.model_copy(update={"home": home})
        self._faults = faults
        self._witness = witness
        self._trouble = trouble
        self._time = LoopTime(world.clock, world.began, world.day.skew_s)
        self._killed = asyncio.Event()
        self._paused = asyncio.Event()
        self._resumed = asyncio.Event()
        self._renewing = asyncio.Event()
        self._body_task: asyncio.Task[None] | None = None
        self.policy = Moody(world.day.policy, lambda: world.now)
        self._counted: dict[str, int] = {}
        self._beside: list[asyncio.Task[None]] = []
        self._app: App | None = None
        self._courier: Courier | Escort | None = None
        self._venue: Venue
        self._stream: ExchangeStream | None = None

    @property
    def alive(self) -> bool:
        return not self._killed.is_set()

    @property
    def seen(self) -> bool:
        """Whether it is the one that the witness looks at."""
        return self.alive and not self._paused.is_set()

    async def live(self, run_id: str) -> str:
        """Begin, or go on with `run_id`; how it ended: over, stopped, failed, killed, lost, or not begun.

        Or it was paused: then it is to be woken, on the same files as whoever has taken over.
        """
        self.run_id = run_id
        self._body_task = body = asyncio.create_task(self._body(), name=f"life {self.number}")
        ends = [asyncio.create_task(event.wait()) for event in (self._killed, self._paused)]
        await asyncio.wait({body, *ends}, return_when=asyncio.FIRST_COMPLETED)
        await _cancelled(*ends, *self._beside)
        if self._paused.is_set() and self.alive:
            return "paused"
        if not self.alive:
            await _cancelled(body)
            self._abandon()
            return "killed"
        ended = self._how_it_ended(body)
        await self._close(ended)
        return ended

    async def wake(self) -> None:
        """Go on where it was paused: it must find out that it is not wanted any more, before it does any harm."""
        body = self._body_task
        assert body is not None
        if self._witness.owner == self.number:  # nobody could take over: it dies in its sleep
            await self.end()
            return
        self._resumed.set()
        self._world.clock._loop.call_later(0.5, self._renewing.set)  # who is woken does things in any order
        await asyncio.wait({body}, timeout=30.0)
        if not body.done():
            self._witness.wrong("a process that lost the session goes on with it")
        elif not body.cancelled() and not isinstance(body.exception(), LeaseLost):
            self._witness.wrong(f"a process that lost the session ended otherwise: {body.exception()!r}")
        self._witness.reached.add("woken, and told that it has lost the session")
        await self.end()

    async def end(self) -> None:
        """Nobody needs it any more."""
        if self._body_task is not None:
            await _cancelled(self._body_task)
        self._abandon()

    def _how_it_ended(self, body: "asyncio.Task[None]") -> str:
        error = body.exception()
        if error is None:
            run = self.result.run if self.result is not None else None
            if run is None:
                return "not begun"
            if run.status is RunStatus.FAILED and not run.error.startswith("FeedDead"):
                self._witness.wrong(f"the session failed: {run.error}")
            return {RunStatus.FINISHED: "over", RunStatus.STOPPED: "stopped"}.get(run.status, "failed")
        troubled = self._world.now - self._trouble.until < _AFTER_TROUBLE_S
        if isinstance(error, LinkLost | RunLeased | BrokerUnavailable) or (
            isinstance(error, StorageError) and troubled
        ):
            return "not begun" if self.session is None else "lost"
        if isinstance(error, LeaseLost) and troubled:
            return "lost"
        self._witness.wrong(f"nothing may be raised, and {type(error).__name__} was: {error}")
        return "failed"

    # The process.

    async def _body(self) -> None:
        self._app = app = App.open(
            self._settings, faults=self._faults, watcher=self._entry, clock=self._time, inline=True
        )
        self._equip(app)
        await app.ledger.open_account(SHARED_ACCOUNT, app.settings.cash)
        await app.recover()
        history = BarHistory(self._world.transport, "http://exchange")
        view = await view_of(history, app.settings.window, self._time.now_ns())
        self._stream = ExchangeStream(
            self._world.transport,
            "ws://exchange",
            [SYMBOL],
            self._time,
            history=history,
            dice=Random(f"{self._world.day.seed}/{self.number}/stream"),  # noqa: S311 - no secret
            observer=self._notice,
        )
        watched = WatchedStream(self._stream, self._delivered, self._done)
        terms = Terms(SYMBOL, "ws://exchange", self._world.day.seed, 1.0, round(SECONDS * 1e9))
        self.result = await run_session(
            app, terms, watched, view, self._venue, run_id=self.run_id or None, started=self._started
        )

    def _equip(self, app: App) -> None:
        """Put the witness, and what goes wrong, between the parts."""
        day = self._world.day
        ledger = WatchedLedger(app.database, app.leases.check, app.switch.now, app.clock)
        ledger.life = self
        app.ledger = ledger
        self._venue = self._at_exchange(app) if day.venue == "exchange" else self._on_paper(app)
        assert self._courier is not None
        app.broker = self._courier
        app.policies["rule", ""] = Keeper(self.policy, lambda what, why: app._heard("rule", what, why))
        app.risk_events.subscribe(self._risk_event)
        self._trouble.haunt(app.database)
        if day.pauses:
            self._make_pausable(app)
        if any(isinstance(kill, tuple) and kill[0] == "commit" for kill in day.kills):
            alone = app.database._alone

            def counted(work: Any) -> Any:
                result = alone(work)
                self._count("commit")
                return result

            app.database._alone = counted  # type: ignore[method-assign]

    def _on_paper(self, app: App) -> Venue:
        world = self._world
        self._courier = Courier(app.home.broker, world.day, lambda: world.now, self.passes, life=self.number)
        return PaperVenue(app.home.broker)

    def _at_exchange(self, app: App) -> Venue:
        world = self._world
        key, secret = SecretStr(world.client.key), SecretStr(world.client.secret)
        broker = ExchangeBroker(
            world.transport,
            world.transport,
            ExchangeTerms("http://localhost", "ws://localhost", "ws://localhost/ws-api/v3", key, secret, (SYMBOL,)),
            self._time,
            symbol_of=of_ledger(app.ledger),
            dice=Random(f"{world.day.seed}/{self.number}/user"),  # noqa: S311 - no secret
            observer=self._notice,
        )
        self._courier = Escort(broker, self.passes)
        return ExchangeVenue(broker)

    def _make_pausable(self, app: App) -> None:
        """A process that is paused writes nothing, and does not notice how the time goes by."""
        awrite, troubled = app.database.awrite, app.leases._troubled

        async def gated_awrite(work: Any) -> Any:
            if self._paused.is_set():
                await self._resumed.wait()
            return await awrite(work)

        async def gated_troubled(lease: Any) -> str:
            if self._paused.is_set():
                await self._renewing.wait()
            return await troubled(lease)

        app.database.awrite = gated_awrite  # type: ignore[method-assign]
        app.leases._troubled = gated_troubled  # type: ignore[method-assign]

    def _pause(self) -> None:
        assert self._app is not None
        self._app.leases._lease_s = 1e6
        self._witness.note("paused")
        self._paused.set()

    def _started(self, session: Session) -> None:
        self.session, self.run_id = session, session.scope.run_id
        assert self._app is not None
        app, witness = self._app, self._witness
        account = session.scope.account
        orders = {each.client_order_id: each for each in app.database.read(lambda c: orders_of(c, self.run_id))}
        fills = app.database.read(lambda c: fills_in(c, account))
        state = app.database.read(app.switch.now).state
        witness.born(self.number, orders, fills, state, self._portfolio(app, account) if orders else None)
        plans = session._plans
        opened, take = session._brackets.open, plans.take

        async def open_bracket(bracket: Bracket) -> None:
            await opened(bracket)
            if self.seen:
                witness.planned(bracket)
                self.passes("bracket", None)

        async def taken(decided: Decided) -> None:
            if decided.plan is not None and self.seen:
                witness.wanted(plans.number(decided.view.as_of_ns), decided.plan)
            await take(decided)

        session._brackets.open = open_bracket  # type: ignore[method-assign]
        plans.take = taken  # type: ignore[method-assign]
        for work in (self._die_by_the_clock, self._people, self._floods, self._look):
            self._beside.append(asyncio.create_task(work(app, session), name=work.__name__))

    # What goes wrong with it, and who meddles.

    async def _until(self, second: float) -> bool:
        """Wait for a second of the day; False where it is over already."""
        left = second - self._world.now
        if left < 0:
            return False
        await asyncio.sleep(left)
        return self.alive

    async def _die_by_the_clock(self, _app: App, session: Session) -> None:
        day = self._world.day
        ends = [(at, self.kill) for at in day.kills if isinstance(at, float)]
        ends += [(at, session.stop) for at in day.drains if isinstance(at, float)]
        for at, end in sorted(ends, key=lambda each: each[0]):
            if await self._until(at):
                end()

    async def _people(self, app: App, _session: Session) -> None:
        for at, what in self._world.day.orders:
            if not await self._until(at):
                continue
            self._witness.note(f"operator: {what}")
            try:
                await self._order(app, what)
            except HoldfastError as error:  # a database in trouble: people try again, and here they do not
                self._witness.note("operator failed", detail=type(error).__name__)

    async def _order(self, app: App, what: str) -> None:
        kill = app.kill_switch()
        if what == "file":
            HaltFile(self.home).write(Halt(KillSwitchReason.OPERATOR, "operator", "a drill", self._time.now_ns()))
        elif what == "resume":
            now = await app.switch.read()
            if now.state is not TradingState.ACTIVE:
                active = kill.because(TradingState.ACTIVE, KillSwitchReason.OPERATOR, "operator", "the drill is over")
                await app.switch.release(active, instead_of=now)
        else:
            state = TradingState.HALTED if what == "halt" else TradingState.REDUCING
            await kill.trip(kill.because(state, KillSwitchReason.OPERATOR, "operator", "a drill"))

    async def _floods(self, _app: App, session: Session) -> None:
        for at in self._world.day.floods:
            if not await self._until(at):
                continue
            self._witness.note("flood")
            for number in range(3 * session._terms.queue_size):
                await session._orders.submit(
                    run_id=self.run_id,
                    account=session.scope.account,
                    side=Side.BUY,
                    quantity=Decimal("0.0001"),
                    view=session._first_view,
                    decision=1_000_000 + number,
                    leg="entry",
                    quote=None,
                    now_ns=None,
                    marks=None,
                )
                self._done(None, 0.0)

    async def _look(self, app: App, _session: Session) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            if self._trouble.present is None:
                now = app.database.read(app.switch.now)
                self._witness.look(now.state, now.code)

    # What the witness is told, for as long as this lives.

    def passes(self, point: str, intent: OrderIntent | None) -> None:
        """An order is at a point of its way, at which a process may be killed."""
        if not self.alive:
            return
        if point == "sending" and intent is not None:
            assert self._courier is not None
            self._witness.sending(self.number, intent, idempotent=self._courier.idempotent)
            if self._is_due(self._world.day.drains, point):
                self._witness.note("drained with an order in flight")
                assert self.session is not None
                self.session.stop()
        self._count(point)

    def asked(self, intent: OrderIntent) -> None:
        """The desk wants an order."""
        if self.alive and intent.run_id == self.run_id:
            self._witness.asked(intent)

    def reserved(self, order: Order) -> None:
        """An order is in the ledger, new or not."""
        if self.alive:
            self._witness.reserved(self.number, order.intent)
        self.recorded(order)
        self.passes("reserved", order.intent)

    def marked(self, intent_id: str) -> None:
        if self.alive:
            self._count("marked")

    def recorded(self, order: Order) -> None:
        if self.seen and order.intent.run_id == self.run_id:
            self._witness.recorded(order)

    def judged(self, intent: OrderIntent, connection: Connection, *, passed: bool) -> None:
        if self.alive:
            row = connection.execute(_STATE).scalar_one()
            truth = TradingState.HALTED if (self.home / "HALT").exists() else TradingState(row)
            self._witness.judged(self.number, intent, truth, passed=passed)

    def kill(self) -> None:
        """Here and now: what is on disk stays, and nothing else."""
        if not self.alive:
            return
        self._killed.set()
        if self._app is not None and self.session is not None and self._trouble.present is None:
            self._witness.died(self._portfolio(self._app, self.session.scope.account))
        if self._courier is not None:
            self._courier.die()
        at_work = self._witness.at_work
        self._witness.note("killed", detail="with an order in flight" if at_work else "")
        if at_work:
            self._witness.reached.add("killed with an order in flight")
        shutil.copytree(self.home, self.heir, ignore=shutil.ignore_patterns("owners", "*-shm"))

    def _count(self, point: str) -> None:
        self._counted[point] = self._counted.get(point, 0) + 1
        if self._is_due(self._world.day.kills, point):
            self._witness.reached.add(f"killed at {point}")
            self.kill()
        elif self._is_due(self._world.day.pauses, point):
            self._pause()

    def _is_due(self, ends: list[Any], point: str) -> bool:
        """Whether this is the moment that somebody waited for; it comes once."""
        due = (point, self._counted.get(point, 0) + (ends is self._world.day.drains))
        if due not in ends or not self.seen:
            return False
        ends.remove(due)
        return True

    def _entry(self, entry: Any) -> None:
        if self.seen:
            self._witness.entry(entry)

    def _risk_event(self, event: Any) -> None:
        if self.seen:
            self._witness.risk_event(event)

    def _notice(self, notice: Any) -> None:
        if self.session is not None:
            self.session.notice(notice)

    def _delivered(self, event: Any) -> None:
        if self.seen:
            self._witness.delivered(event)

    def _done(self, event: Any, seconds: float) -> None:
        if not self.seen or self.session is None:
            return
        orders = self.session._orders
        self._witness.done(event, seconds, orders.depth, self.session._terms.queue_size)
        if self._witness.unchecked and not (self._witness.at_work or orders.busy):
            self._compare()

    def _compare(self) -> None:
        assert self._app is not None
        app, account = self._app, SHARED_ACCOUNT if self.session is None else self.session.scope.account
        if self._trouble.present is None:
            portfolio = self._portfolio(app, account)
            if self._world.day.venue == "exchange":
                self._witness.compare(self._world.executions(), portfolio)
                for name in self._world.executed_twice():
                    self._witness.wrong(f"the exchange has executed order {name} twice")
            else:
                self._witness.compare(app.home.broker.database.read(_executions), portfolio)

    @staticmethod
    def _portfolio(app: App, account: str) -> Portfolio:
        return app.database.read(lambda connection: app.ledger._books.read(connection, account).portfolio)

    # Its end.

    async def _close(self, ended: str) -> None:
        if self._app is None:
            return
        if ended in {"over", "stopped", "failed"} and self._trouble.present is None:
            found = await Audit(self._app.database).verify()
            if found.wrong:
                self._witness.wrong(f"the audit chain is not whole: {found.wrong}")
            if not self._witness.at_work:
                self._compare()
            if ended == "stopped" and self._witness.at_work:
                self._witness.reached.add("stopped with an order in flight")
        self._abandon()

    def _abandon(self) -> None:
        app, self._app = self._app, None
        if app is None:
            return
        if self._stream is not None:
            self._witness.refused += sum(self._stream.health.refused.values())
        self._witness.counts["messages to the broker"] += 0 if self._courier is None else self._courier.struck
        self._witness.counts["policy"] += self.policy.struck
        with suppress(StorageError):
            app.home.broker.database.close()
            app.database.close()
        app.leases.close()
        app.home.close()
        app.log.close()


def _executions(connection: Connection) -> list[tuple[str, Decimal, Decimal, Decimal]]:
    """The paper broker's own books; see `World.executions`."""
    return [
        (name, Decimal(quantity) * Side(side).sign, Decimal(price), Decimal(fee))
        for name, side, quantity, price, fee in connection.execute(_FILLS)
    ]


async def _cancelled(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel what is not over yet, and wait for it; what came of it is nobody's concern."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
