"""One live session: one stream of prices in, orders out, in one task group.

    market ──> stops and targets, broker's book ──> exits ──┐
       └─────> inbox ──> fast lane ──> entries ─────────────┴──> queue (50) ──> workers ──> desk ──> broker
                 └─────> slow lane ──> approved plan ──> fast lane
    venue ───> news of orders          reconcile ──> the ledger kept true          heartbeat ──> see `_look`

Market data waits for nobody: what a tick sets off is put on a queue that refuses what is beyond its bound. Start-up is
recovery, whether anything was before it or not. docs/session.md has each limit, and what happens on each fault.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import asdict
from decimal import Decimal
from time import perf_counter_ns
from typing import Any

from agents.clock import NANOSECONDS, Clock
from agents.domain import MarketView, Order, OrderIntent, OrderStatus, Quote, Trade
from agents.errors import HoldfastError, LeaseLost, OrderError, StorageError
from agents.policy.latency import LatencyHistogram
from checkpoints.brackets import BracketBook
from checkpoints.ledger import BrokerReport
from checkpoints.sessions import SessionBook
from checkpoints.trading_state import Trading, in_words
from graph.app import App
from graph.brackets import Brackets
from graph.execution_loop import Decision, ExecutionLoop
from graph.inquiry import Inquiry
from graph.reconciler import COMPARE_S, POLL_S
from graph.resilience.breaker import BreakerState
from graph.session.account import AccountWatch, Scope
from graph.session.inbox import Inbox
from graph.session.orders import OrderQueue, Scenery
from graph.session.plans import Plans
from graph.session.slow_lane import Decided, SlowLane
from graph.session.staleness import StaleWatch
from graph.session.status import SessionStatus
from graph.session.stops import Stops
from graph.session.venue import Venue
from graph.session_terms import SessionTerms
from graph.stream import MarketEvent, MarketStream, MessageRefused, StreamNotice
from graph.telemetry import CURRENT_RUN

__all__ = ["Session", "Viewer"]

_NONE = Decimal(0)
_BACK_UP_S = 60.0
_NEWS_MAX = 1_000
"""Orders of which news waits to be told to hooks, and of which it is known how much was filled."""
_ERRORS = frozenset(
    {"OrderFailed", "DecisionFailed", "LoopFailed", "ReconcileFailed", "TickFailed", "HeartbeatFailed", "NewsFailed"}
)


class Viewer:
    """Whoever looks on; this one does not."""

    def show(self, status: SessionStatus) -> None:
        """How the session stands, once a heartbeat."""

    def tell(self, kind: str, detail: Mapping[str, Any]) -> None:
        """Something happened that people may want to know."""


class Session:
    """Run it once, by `run`; `stop` lets it end in order.

    `view`: the bars before the first event of `stream`; `bars_only`: no quotes come, and a price is as old as a bar.
    """

    def __init__(
        self,
        app: App,
        scope: Scope,
        stream: MarketStream,
        view: MarketView,
        venue: Venue,
        *,
        bars_only: bool = False,
        viewer: Viewer | None = None,
    ) -> None:
        self._patience_s = app.settings.bar_period if bars_only else 0.0
        self.scope = scope
        self.counts: Counter[str] = Counter()
        self.reaction = LatencyHistogram()
        self.was_stopped = False
        self._app = app
        self._settings = settings = app.settings
        self._terms: SessionTerms = settings.session
        self.clock: Clock = app.clock
        self._stream = stream
        self._first_view = view
        self._venue = venue
        self._viewer = viewer or Viewer()
        self._kill = app.kill_switch()
        self._stale = StaleWatch(
            app.switch, self._kill, app.clock, self._terms, scope.symbol, f"session {scope.run_id}", self._tell
        )
        self._period_ns = round(settings.bar_period * NANOSECONDS)
        self._brackets = Brackets(BracketBook(app.database, app.leases.check), app.ledger)
        self._inbox = Inbox()
        self._orders = OrderQueue(
            app.desk(settings),
            self._terms.queue_size,
            app.clock,
            scenery=self._scenery,
            allowed=lambda decision: self._plans.may_open(decision),  # noqa: PLW0108 - it is made below
            settled=self._settled,
            tell=self._tell,
        )
        self._loop: ExecutionLoop | None = None
        self._slow: SlowLane | None = None
        self._over = asyncio.Event()
        self._draining = False
        self._quote: Quote | None = None
        self._price_ns = app.clock.now_ns()
        self._news: deque[Order] = deque(maxlen=_NEWS_MAX)
        self._news_there = asyncio.Event()
        self._plans = Plans(
            scope,
            app.ledger,
            self._brackets,
            period_ns=self._period_ns,
            trail_atr=self._terms.trail_atr,
            in_flight=self._in_flight,
            tell=self._tell,
        )
        self._stops = Stops(
            self._brackets,
            app.ledger,
            app.clock,
            run_id=scope.run_id,
            period_ns=self._period_ns,
            leave=self._leave,
            tell=self._tell,
        )
        self._filled: dict[str, Decimal] = {}
        self._trading: Trading | None = None
        self._account = AccountWatch(
            scope,
            app.ledger,
            SessionBook(app.database, app.leases.check),
            self._kill,
            app.clock,
            view=view,
            limits=settings.risk,
            losses_max=self._terms.losses_max,
        )
        self._backed_up_at = 0.0
        self._asked = (0, "")

    # From its beginning to its end.

    def stop(self) -> None:
        """Take no new risk, finish what is in flight, save, and end."""
        self.was_stopped = self.was_stopped or not self._over.is_set()
        self._over.set()

    async def run(self) -> None:
        """Trade until the duration is over, the stream has ended, or `stop`.

        Raises:
            FeedDead: the stream, or the venue, could not be reached any more; what is open stays as it is.
            LeaseLost: another process has taken the session over.
            DeadlineExceeded, PolicyFault: in the policy's strict mode.
        """
        CURRENT_RUN.set(self.scope.run_id)
        await self._recover()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(work, name=name) for name, work in self._tasks().items()]
                await self._over.wait()
                await self._drain()
                for task in tasks:
                    task.cancel()
        except BaseExceptionGroup as errors:
            raise _gravest(errors) from errors
        finally:
            await self._save()

    def _tasks(self) -> dict[str, Any]:
        assert self._loop is not None and self._slow is not None  # noqa: S101, PT018 - `_recover` made both
        return {
            "market": self._read_market(),
            "fast lane": self._loop.run(self._inbox),
            "orders": self._orders.run(),
            "slow lane": self._slow.run(),
            "venue": self._hear_venue(),
            "news": self._pass_news(),
            "reconcile": self._reconcile(),
            "heartbeat": self._beat(),
        }

    async def _recover(self) -> None:
        """The account, its open positions' stops, and what was lost and won before, from what is on disk."""
        app, scope = self._app, self.scope
        self._trading = await app.switch.read()
        await self._account.open(self._settings.cash, self._trading)
        for bracket in await self._brackets.load(scope.run_id):
            self._tell("StopWatched", {"decision": bracket.decision, "quantity": f"{bracket.held:f}"})
        self._loop = await app.execution_loop(self._settings, desk=self._orders)
        await self._loop.watch(self._first_view)
        self._plans.trade_by(self._loop)
        self._loop.add_hook("post_decision", self._decided_fast)
        self._loop.add_hook("on_fill", self._told_fill)
        self._slow = SlowLane(
            app,
            app.plan(self._settings, lambda _view: self.clock.now_ns()),
            account=scope.account,
            parameters={"session": scope.run_id, "settings": self._settings.shaping()},
            seconds=self._settings.bar_period * self._terms.decide_every,
            decided=self.take_plan,
            tell=self._tell,
        )

    async def _drain(self) -> None:
        self._draining = True
        self._orders.open = False
        self._plans.close()
        self._tell("Draining", {"waiting": self._orders.depth})
        with suppress(TimeoutError):
            async with asyncio.timeout(self._terms.drain):
                while await self._in_flight():  # noqa: ASYNC110 - it is asked for, nobody tells
                    await asyncio.sleep(min(self._terms.heartbeat, self._terms.drain) / 10)

    async def _in_flight(self) -> bool:
        """Whether an order of ours waits, or is at the broker, so that more is to be heard of it soon."""
        if self._orders.busy:
            return True
        try:
            return any(each.intent.run_id == self.scope.run_id for each in await self._app.ledger.at_broker())
        except HoldfastError:
            return True  # nobody knows: then nothing is to be opened, and an end waits

    async def _save(self) -> None:
        """What a later process needs. A database that fails now has all but the last seconds."""
        await self._stops.save()
        with suppress(HoldfastError):
            await self._account.mark()
        await self._app.recorder.flush(self.scope.run_id)

    # Market data.

    async def _read_market(self) -> None:
        async with aclosing(self._stream.events()) as events:
            async for event in events:
                began = perf_counter_ns()
                await self._take(event)
                self.reaction.record(perf_counter_ns() - began)
        self._tell("StreamEnded", {})
        self._over.set()

    async def _take(self, event: MarketEvent) -> None:
        if event.symbol != self.scope.symbol:  # a price of something else is none of what is held
            self.counts["other_symbols"] += 1
            return
        self.counts["events"] += 1
        now_ns = self.clock.now_ns()
        if isinstance(event, Trade):
            self._price_ns = now_ns if self._quote is None else self._price_ns
            return
        if isinstance(event, Quote):
            self._quote, self._account.price = event, (event.bid + event.ask) / 2
            self._price_ns = now_ns
            self._stale.quote_came()
        elif self._quote is None:
            self._account.price, self._price_ns = event.close, now_ns
            self._stale.quote_came()
        self._inbox.put(event)
        try:
            for name, report in (await self._venue.on_event(event)).items():
                await self._reported(name, report)
        except (StorageError, OrderError) as error:  # the reconciler asks again
            self._tell("NewsFailed", {"error": in_words(error)})
        if isinstance(event, Quote):
            await self._stops.on_quote(event)
        elif self._quote is None:
            await self._stops.on_bar(event)

    def _leave(self, intent: OrderIntent) -> None:
        self._plans.sprung(intent)
        asked = (intent.decision, intent.leg)
        if self._orders.leave(intent) and asked != self._asked:  # it is asked for until there is news of it
            self._asked = asked
            self.counts["exits"] += 1
            told = {"leg": intent.leg, "decision": intent.decision, "quantity": f"{intent.quantity:f}"}
            self._tell("StopSprung", told)

    def _scenery(self) -> Scenery:
        assert self._loop is not None  # noqa: S101 - workers begin after `_recover`
        return Scenery(self._loop.view(self.scope.symbol), self._quote)

    # News of orders.

    async def _hear_venue(self) -> None:
        async with aclosing(self._venue.updates()) as updates:
            async for name, report in updates:
                try:
                    await self._reported(name, report)
                except (StorageError, OrderError) as error:  # the reconciler asks again
                    self._tell("NewsFailed", {"order": name, "error": in_words(error)})

    async def _reported(self, name: str, report: BrokerReport) -> None:
        order = await self._app.ledger.record(name, report)
        if order.intent.run_id == self.scope.run_id:
            await self._settled(order)

    async def _settled(self, order: Order) -> None:
        """Something became of an order: brackets hear it at once, hooks when they can."""
        await self._stops.heard(order)
        if order.filled > self._filled.get(order.client_order_id, _NONE):
            self._filled[order.client_order_id] = order.filled
            with suppress(StorageError):  # a heartbeat reads it again
                await self._account.refresh()
        while len(self._filled) > _NEWS_MAX:
            del self._filled[next(iter(self._filled))]
        self._news.append(order)
        self._news_there.set()

    async def _pass_news(self) -> None:
        assert self._loop is not None  # noqa: S101 - see `_tasks`
        while True:
            await self._news_there.wait()
            self._news_there.clear()
            while self._news:
                await self._loop.on_order(self._news.popleft())

    def _told_fill(self, order: Order, quantity: Decimal) -> None:
        self.counts["fills"] += 1
        price = "" if order.price is None else f"{round(order.price, 8).normalize():f}"
        what = {"side": str(order.intent.side), "quantity": f"{quantity.normalize():f}"}
        self._tell("Filled", what | {"price": price, "leg": order.intent.leg})

    async def _reconcile(self) -> None:
        """As `Reconciler.run`; what moved is told to whoever waits for it."""
        reconciler, loop = self._app.reconciler(), asyncio.get_running_loop()
        compared_at = loop.time()
        while True:
            await asyncio.sleep(POLL_S)
            compare = loop.time() - compared_at >= COMPARE_S
            try:
                done = await reconciler.once(compare=compare)
                for order in done.moved:
                    if order.intent.run_id == self.scope.run_id:
                        await self._settled(order)
                await self._stops.catch_up()
                await self._give_up(reconciler.inquiry)
            except HoldfastError as error:
                self._tell("ReconcileFailed", {"error": in_words(error)})
            compared_at = loop.time() if compare else compared_at

    async def _give_up(self, inquiry: Inquiry) -> None:
        """Entries that a crash left on their way to a broker that knows every id for ever, and does not know these.

        Nobody sends them any more: their plan is over. An exit is asked for again by its bracket.
        """
        if not self._venue.broker.idempotent:
            return  # the reconciler does so
        for order in await self._app.ledger.unsettled():
            mine = order.intent.run_id == self.scope.run_id and order.intent.leg.startswith("entry")
            if not mine or self._plans.may_open(order.intent.decision):
                continue
            if await inquiry.is_overdue(order.client_order_id) and await inquiry.find(order.client_order_id) is None:
                why = "the broker does not know it, and its plan is over"
                report = BrokerReport(OrderStatus.NOT_PLACED, reason=why)
                await self._settled(await self._app.ledger.record(order.client_order_id, report))

    # Decisions.

    async def take_plan(self, decided: Decided) -> None:
        """Take what a slow lane has come to."""
        await self._plans.take(decided)

    def _decided_fast(self, decision: Decision) -> None:
        """After each bar the slow lane has something to think about."""
        if self._slow is None or self._loop is None or self._draining:
            return
        if self._plans.number(decision.close_ns) % self._terms.decide_every == 0:
            self._slow.wake(self._loop.view(self.scope.symbol))

    # The heartbeat: account, trading state, age of the data, time.

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            try:
                await self._look()
            except LeaseLost:
                raise
            except HoldfastError as error:
                self._tell("HeartbeatFailed", {"error": in_words(error)})
            due = max(due + self._terms.heartbeat, loop.time())
            await asyncio.sleep(due - loop.time())

    async def _look(self) -> None:
        app, loop = self._app, asyncio.get_running_loop()
        await self._kill.heed()
        now = await app.switch.read()
        if self._trading is not None and now != self._trading:
            changed = {"state": str(now.state), "why": now.why}
            self._show(lambda viewer: viewer.tell("TradingChanged", changed))
        self._trading = now
        await self._stale.look(self._age_s, now)
        await self._account.refresh()
        await self._account.fund(self._terms.funding_rate, round(self._terms.funding_every * NANOSECONDS))
        await self._account.judge(now)
        # Half a beat early is in time: beats come a little late, and a mark would be put off by one of them each time.
        if loop.time() - self._account.marked_at >= self._terms.mark_every - self._terms.heartbeat / 2:
            await self._account.mark()
            await app.recorder.flush(self.scope.run_id)
        if loop.time() - self._backed_up_at >= _BACK_UP_S:
            self._backed_up_at = loop.time()
            await asyncio.to_thread(app.back_up)
        status = self.status()
        self._show(lambda viewer: viewer.show(status))
        if self.scope.duration_ns is not None and self._account.elapsed_ns >= self.scope.duration_ns:
            self._over.set()

    # What there is.

    @property
    def _age_s(self) -> float:
        """Age of the newest price; where there are bars alone, beyond the time that one of them takes."""
        return (self.clock.now_ns() - self._price_ns) / NANOSECONDS - self._patience_s

    def status(self) -> SessionStatus:
        """How it stands now. Raises RuntimeError before `run`."""
        if self._trading is None:
            raise RuntimeError("the session has not begun")
        health, scope, account = self._stream.health, self.scope, self._account
        now_ns = self.clock.now_ns()
        return SessionStatus(
            run_id=scope.run_id,
            symbol=scope.symbol,
            time_ns=now_ns,
            elapsed_s=account.elapsed_ns / NANOSECONDS,
            duration_s=None if scope.duration_ns is None else scope.duration_ns / NANOSECONDS,
            price=account.price,
            position=account.portfolio.position(scope.symbol),
            equity=account.equity,
            pnl=account.equity - self._settings.cash,
            realised=account.portfolio.realised,
            fees=account.portfolio.fees,
            drawdown=account.drawdown,
            plan=self._plans.words,
            brackets=len(self._brackets.all()),
            streams={name: max(0.0, (now_ns - at_ns) / NANOSECONDS) for name, at_ns in health.last_ns.items()},
            reconnects=max(0, health.connections - 1),
            queued=self._orders.depth,
            queue_size=self._terms.queue_size,
            dropped=self._orders.counts["dropped"],
            decisions=0 if self._slow is None else self._slow.counts["decisions"],
            orders=self._orders.counts["sent"],
            fills=self.counts["fills"],
            errors=self.counts["errors"],
            breakers=self._open_breakers(),
            trading=self._trading,
            draining=self._draining,
        )

    def tally(self) -> dict[str, int]:
        """What happened how often, by name."""
        lane = {} if self._loop is None else {f"lane_{name}": count for name, count in self._loop.counts.items()}
        slow = {} if self._slow is None else {f"slow_{name}": count for name, count in self._slow.counts.items()}
        orders = {f"orders_{name}": count for name, count in self._orders.counts.items()}
        health = self._stream.health
        feed = {
            "stream_received": health.received,
            "stream_delivered": health.delivered,
            "stream_refused": sum(health.refused.values()),
            "stream_missing": health.missing,
            "stream_connections": health.connections,
            "quotes_conflated": self._inbox.conflated,
            "bars_dropped": self._inbox.dropped_bars,
        }
        return dict(sorted({**self.counts, **self._plans.counts, **lane, **slow, **orders, **feed}.items()))

    def _open_breakers(self) -> dict[str, str]:
        found = {}
        for guard in self._app.guards.values():
            for name, breaker in guard.breakers.items():
                if breaker.state is not BreakerState.CLOSED:
                    found[name] = str(breaker.state)
        return found

    def notice(self, notice: StreamNotice) -> None:
        """What the stream tells of itself: for the timeline, and for whoever looks on. What it refuses it counts."""
        if not isinstance(notice, MessageRefused):
            detail = asdict(notice)
            del detail["time_ns"]  # every entry has one
            self._tell(type(notice).__name__, detail)

    def _tell(self, kind: str, detail: Mapping[str, Any]) -> None:
        self.counts["errors"] += kind in _ERRORS
        self._app.tell(kind, detail, self.scope.run_id)
        self._show(lambda viewer: viewer.tell(kind, detail))

    def _show(self, what: Callable[[Viewer], None]) -> None:
        """Whoever looks on may fail: no stop goes unwatched for that."""
        try:
            what(self._viewer)
        except Exception:  # noqa: BLE001 - it is counted; there is nobody else to tell
            self.counts["viewer_failed"] += 1


def _gravest(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a person has to know first of several things that went wrong at once."""
    flat: list[BaseException] = []
    for each in errors.exceptions:
        flat += [_gravest(each)] if isinstance(each, BaseExceptionGroup) else [each]
    return next((each for each in flat if isinstance(each, LeaseLost)), flat[0])
