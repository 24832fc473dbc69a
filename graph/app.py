"""The composition root: settings in, a wired application out. The only place that picks concrete classes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from agents.clock import Clock, SystemClock
from agents.domain import MarketView, TradingState
from agents.errors import ConfigError
from agents.policy import DeadlineMode
from agents.research import Member
from checkpoints.database import Database
from checkpoints.events import Entry, Timeline
from checkpoints.halt_file import HaltFile
from checkpoints.leases import Leases
from checkpoints.ledger import OrderLedger
from checkpoints.runs import CheckpointManager
from checkpoints.saver import SqlSaver
from checkpoints.trading_state import TradingSwitch
from graph.broker import Broker
from graph.comparison import Books, Comparison
from graph.config import Settings
from graph.desk import OrderDesk
from graph.execution_loop import ExecutionLoop
from graph.feed import Feed, NoFeed
from graph.inquiry import Inquiry, grace_of
from graph.kill_switch import KillSwitch, Swept
from graph.mandate import Desk
from graph.metrics import Metrics
from graph.nodes import EXCHANGE_ACCOUNT, NODE_FALLBACKS, SHARED_ACCOUNT, TradeNodes
from graph.policy_keeper import PolicyKeeper
from graph.reconciler import Reconciler
from graph.recovery import LEDGER, Home, data_of, lost_runs, open_home, story, warn
from graph.resilience import Breaker, FaultPlan, Guard, Retry
from graph.risk_events import RiskEvents
from graph.state import BROKER, NODES
from graph.swarm import is_finding_of, stand_in, swarm
from graph.telemetry import FailureLog, Recorder, Watcher
from graph.workflow import build_plan, build_trade, fingerprint

__all__ = ["App", "Compiled", "open_app"]


def _replayed(view: MarketView) -> int:
    """History is decided at its own time: the close of its newest bar."""
    return view.as_of_ns


@dataclass(frozen=True, slots=True)
class Compiled:
    """A workflow ready to run, and what must be the same for its runs to go on."""

    graph: Any
    fingerprint: Mapping[str, Any]
    members: tuple[Member, ...]
    policy: PolicyKeeper


@dataclass(slots=True)
class App:
    """Everything that runs share: databases, ledger, broker, guards. `swept`: what was cancelled at the start."""

    settings: Settings
    clock: Clock
    database: Database
    saver: SqlSaver
    ledger: OrderLedger
    timeline: Timeline
    manager: CheckpointManager
    leases: Leases
    broker: Broker
    home: Home
    switch: TradingSwitch
    recorder: Recorder
    log: FailureLog
    faults: FaultPlan | None
    risk_events: RiskEvents = field(default_factory=RiskEvents)
    metrics: Metrics = field(default_factory=Metrics)
    guards: dict[str, Guard] = field(default_factory=dict)
    policies: dict[tuple[str, str], PolicyKeeper] = field(default_factory=dict)
    warned: bool = False
    swept: Swept = field(default_factory=Swept)
    inline: bool = False

    @classmethod
    def open(
        cls,
        settings: Settings,
        *,
        faults: FaultPlan | None = None,
        watcher: Watcher | None = None,
        clock: Clock | None = None,
        wall: Clock | None = None,
        pace: float = 1.0,
        inline: bool = False,
    ) -> "App":
        """Open the home folder's databases and wire the application; `open_app` does so and closes it again.

        Whoever does not use `open_app` awaits `recover` before the first order.

        `clock` is that of the market; `wall` the one that leases are measured by, where it is another, and `pace` how
        many times as fast as that one the event loop's time goes. `inline` keeps the databases off threads of their
        own: for simulations, whose clock cannot see those.

        Raises:
            StorageError: the home folder or a database in it cannot be used.
        """
        clock = clock or SystemClock()
        home = open_home(settings.folder, clock, address=settings.address, terms=settings.paper, inline=inline)
        database = home.database
        leases = Leases(database, settings.folder / "owners", wall or clock, pace=pace)
        saver, timeline = SqlSaver(database, fence=leases.check), Timeline(database)
        log = FailureLog(settings.folder / "failures.log")
        recorder = Recorder(timeline, clock, _each(log, watcher))
        risk_events = RiskEvents()
        switch = TradingSwitch(database, HaltFile(settings.folder), partial(_alert, recorder, risk_events))
        return cls(
            settings=settings,
            clock=clock,
            database=database,
            saver=saver,
            ledger=OrderLedger(database, leases.check, switch.now, clock),
            timeline=timeline,
            manager=CheckpointManager(database, saver, leases, settings.folder, clock),
            leases=leases,
            broker=home.broker,
            home=home,
            switch=switch,
            recorder=recorder,
            log=log,
            faults=faults,
            risk_events=risk_events,
            inline=inline,
        )

    def close(self) -> None:
        """Close both databases, after what waits is written, and back them up where that is due."""
        self.home.broker.database.close()
        self.database.close()
        self.leases.close()
        self.back_up(ending=True)
        self.home.close()
        self.log.close()

    async def recover(self) -> None:
        """Bring the ledger up to the broker's books; what had to be mended is told in one line, and in the log."""
        kill = self.kill_switch()
        await kill.heed()
        done = await self.reconciler().once()
        found, now, self.swept = done.found or Comparison(listed=False), done.trading, done.swept
        if now.state is not TradingState.ACTIVE and self.swept == Swept():
            self.swept = await kill.sweep(now.state)  # whoever stopped trading may have been killed before this
        losses, gone = self.home.losses, tuple[str, ...]()
        if any(loss.name == LEDGER for loss in losses):
            gone = lost_runs(self.settings.folder, {run.run_id for run in await self.manager.runs()})
        for kind, detail in data_of(losses, gone, found, now):
            self.recorder.note("", kind, **detail)
        if line := story(losses, gone, found, now):
            warn(line)

    def back_up(self, *, ending: bool = False) -> None:
        """Back up each file of which a backup is due; a long process calls this now and then, in a thread.

        One that cannot be made is told once and logged: trading goes on, and the older ones stay.
        """
        for error in self.home.back_up(ending=ending):
            self.recorder.note("", "BackupFailed", error=str(error))
            if not self.warned:
                warn(f"{error}; trading goes on without")
            self.warned = True

    def books(self) -> Books:
        """The ledger and the broker's books, for comparing them."""
        books = Books(self.ledger, self.broker, self.switch, self.clock, self.settings.cash)
        if isinstance(self.settings.address, Path):
            return books
        return replace(books, ours=lambda run_id: (self.settings.folder / "runs" / run_id).is_dir())

    def guard(self, name: str, **parts: Any) -> Guard:
        """The one guard of this name: its breaker is shared by all runs of this process."""
        if name not in self.guards:
            self.guards[name] = self._new_guard(name, **parts)
        return self.guards[name]

    def _new_guard(self, name: str, **parts: Any) -> Guard:
        policy = self.settings.guard(name)
        options: dict[str, Any] = {
            "deadline": policy.deadline,
            "attempt_timeout": policy.attempt_timeout,
            "retry": Retry(
                max_attempts=policy.max_attempts, base_seconds=policy.base_seconds, max_seconds=policy.max_seconds
            ),
            "breaker": Breaker(
                failure_threshold=policy.failure_threshold,
                success_threshold=policy.success_threshold,
                open_seconds=policy.open_seconds,
            ),
            "observers": [self.recorder, self.metrics],
            "faults": self.faults,
        }
        return Guard(name, **(options | parts))

    def trade(self, settings: Settings, feed: Feed, members: tuple[Member, ...] | None = None) -> Compiled:
        """Wire and compile the trade workflow for a run's own settings; `members` in place of those they name."""
        members = swarm(settings) if members is None else members
        builder = self.trade_builder(settings, feed, members)
        shape = fingerprint(builder, tuple(member.name for member in members))
        return Compiled(builder.compile(checkpointer=self.saver), shape, members, self.policy(settings))

    def plan(self, settings: Settings, now_ns: Callable[[MarketView], int]) -> Compiled:
        """The trade workflow up to the gate's verdict, for decisions whose view and portfolio are given to them."""
        members = swarm(settings)
        builder = self.trade_builder(settings, NoFeed(), members, build=build_plan, now_ns=now_ns)
        shape = fingerprint(builder, tuple(member.name for member in members))
        return Compiled(builder.compile(checkpointer=self.saver), shape, members, self.policy(settings))

    def trade_builder(
        self,
        settings: Settings,
        feed: Feed,
        members: tuple[Member, ...],
        *,
        build: Callable[..., Any] = build_trade,
        now_ns: Callable[[MarketView], int] = _replayed,
        **schema: Any,
    ) -> Any:
        """The trade workflow before it is compiled."""
        self._check_names(members, settings)
        nodes = TradeNodes(
            feed=feed,
            members=members,
            guards={member.name: self._member_guard(member.name, settings) for member in members},
            strategy_settings=settings.strategy,
            gate_settings=settings.bounded_gate,
            policy=self.policy(settings),
            desk=self.desk(settings),
            ledger=self.ledger,
            now_ns=now_ns,
            cash=settings.cash,
            observers=(self.recorder, self.metrics),
        )
        guards = {name: self.guard(name, fallbacks=NODE_FALLBACKS.get(name, ()), accept=_is_update) for name in NODES}
        return build(nodes, guards, self.recorder, **schema)

    def policy(self, settings: Settings) -> PolicyKeeper:
        """The keeper of the policy that these settings name: one for all runs that name the same."""
        name = (settings.policy, settings.policy_sha256)
        if name not in self.policies:
            self.policies[name] = PolicyKeeper(*name, partial(self._heard, settings.policy))
        return self.policies[name]

    def _heard(self, policy: str, what: str, why: str) -> None:
        """What a policy's agent tells: to the counters, to the log, and to people where it is no good news."""
        kind = "".join(word.capitalize() for word in what.split("_"))
        self.metrics.counters[kind, policy] += 1
        self.recorder.note("", kind, policy=policy, why=why)
        self.risk_events(kind, {"policy": policy, "why": why})
        if kind in _POLICY_ALERTS:
            warn(_POLICY_ALERTS[kind].format(policy=policy, why=why))

    def _member_guard(self, name: str, settings: Settings) -> Guard:
        others = [stand_in(name, path) for path in settings.fallbacks.get(name, ())]
        return self.guard(name, accept=is_finding_of(name), fallbacks=others)

    def desk(self, settings: Settings, *, judged: bool = True) -> OrderDesk:
        """The desk with a run's own limits; the broker's guard never retries, since a retry could order twice.

        What is not `judged` trips no kill switch.
        """
        kill = self.kill_switch() if judged else None
        guard = self.guard(BROKER, retry=None)
        return OrderDesk(self.ledger, self.broker, settings.risk, guard, kill, clock=self.clock, grace_s=self._grace_s)

    def reconciler(self) -> Reconciler:
        """What keeps the ledger true to the broker; a long process awaits its `run` beside its work."""
        guard = self.guard(BROKER, retry=None)
        inquiry = Inquiry(self.ledger, self.broker, guard, self.clock, self._grace_s)
        return Reconciler(self.books(), self.kill_switch(), inquiry, self._tell)

    async def execution_loop(self, settings: Settings, desk: Desk | None = None) -> ExecutionLoop:
        """The fast lane, with the policy, the limits and the bar period of these settings; `desk`: what stands before
        the one that sends.
        """  # noqa: D205 (one sentence)
        # On a clock that jumps the microseconds of a call mean nothing, and would make no two runs the same.
        options = {"mode": DeadlineMode.OFF} if self.inline else {}
        agent = await asyncio.to_thread(partial(self.policy(settings).fast, **options))
        return ExecutionLoop(
            agent,
            desk or self.desk(settings),
            self.ledger,
            self.clock,
            bar_period=settings.bar_period,
            window=settings.window,
            tell=self._tell,
        )

    def tell(self, kind: str, detail: Mapping[str, Any], run_id: str = "") -> None:
        """To the log, the run's timeline where it is of one, subscribers, and to people where it is no good news."""
        _alert(self.recorder, self.risk_events, kind, detail, run_id)

    def _tell(self, kind: str, detail: Mapping[str, Any]) -> None:
        self.tell(kind, detail)

    @property
    def _grace_s(self) -> float:
        return grace_of(self.settings.guard(BROKER).attempt_timeout)

    def kill_switch(self) -> KillSwitch:
        """The kill switch. A broker whose breaker is open may still cancel."""
        guard = self.guard("cancel", breaker=None)
        return KillSwitch(self.switch, self.ledger, self.broker, guard, self.clock, self._tell)

    def _check_names(self, members: Sequence[Member], settings: Settings) -> None:
        known = {*NODES, BROKER, *(member.name for member in members)}
        if self.faults is not None:
            self.faults.check_targets(sorted(known))
        strangers = sorted(set(settings.fallbacks) - {member.name for member in members})
        if strangers:
            raise ConfigError(
                f"settings name fallbacks of {strangers[0]!r}, which is no analyst of this swarm; nothing was run;"
                f" it has {', '.join(member.name for member in members)}"
            )
        unknown = sorted(set(self.settings.guards) - known)
        if unknown:
            raise ConfigError(
                f"settings guard {unknown[0]!r}, which is no node or analyst; nothing was run;"
                f" what can be guarded is {', '.join(sorted(known))}"
            )


@asynccontextmanager
async def open_app(
    settings: Settings,
    *,
    faults: FaultPlan | None = None,
    watcher: Watcher | None = None,
    clock: Clock | None = None,
    wall: Clock | None = None,
    pace: float = 1.0,
    inline: bool = False,
    broker: Callable[[App], Broker] | None = None,
) -> AsyncIterator[App]:
    """The application of `App.open`, with the shared account in it, closed at the end.

    `broker` makes the one that orders go to; without, it is the one of the settings.

    Raises:
        ConfigError: the settings do not fit; orders of this home go to another broker than theirs.
    """
    work = partial(App.open, settings, faults=faults, watcher=watcher, clock=clock, wall=wall, pace=pace, inline=inline)
    app = await asyncio.to_thread(work)
    try:
        async with AsyncExitStack() as stack:
            if broker is not None:
                app.broker = broker(app)
            else:
                await _refuse_another_broker(app)
            if broker is None and settings.broker == "exchange":
                app.broker = await stack.enter_async_context(_exchange(app))
            await app.ledger.open_account(SHARED_ACCOUNT, settings.cash)
            await app.recover()
            yield app
    finally:
        await app.risk_events.settle()
        await asyncio.to_thread(app.close)


async def _refuse_another_broker(app: App) -> None:
    """A home has one broker for all of its life: another would know none of the orders, and execute exits for nothing.

    A ledger on a server may be that of several homes, and does not tell.
    """
    if not isinstance(app.settings.address, Path):
        return
    known = await app.ledger.accounts()
    if app.settings.broker == "paper" and EXCHANGE_ACCOUNT in known:
        was, remedy = (
            "an exchange",
            f"name its settings by --config, or keep them in {app.settings.folder}/holdfast.toml",
        )
    elif app.settings.broker == "exchange" and known - {SHARED_ACCOUNT, EXCHANGE_ACCOUNT}:
        was, remedy = "the paper broker", "take another home for the exchange, by --home"
    else:
        return
    raise ConfigError(
        f"orders of this home go to {was}, and the setting broker is {app.settings.broker}; nothing was done; {remedy}"
    )


def _exchange(app: App) -> AbstractAsyncContextManager[Broker]:
    """The broker at the exchange of the settings."""
    try:
        from graph.spot.opening import open_broker  # noqa: PLC0415 - of an extra, and only for this broker
    except ImportError:
        raise ConfigError(
            "trading at an exchange needs what is not installed; nothing was done; run:"
            " pip install 'holdfast[exchange]'"
        ) from None
    return open_broker(app.settings.exchange, app.ledger, app.clock)


_ALERTS = {
    "AuditFailed": "trading is {state}, and the audit log could not be written ({error})",
    "HaltFileFailed": "{error}",
    "TripFailed": "the kill switch was tripped, and the database could not be written ({error})",
    "CancelFailed": "an order may still rest at the broker ({error})",
    "InDoubt": "what became of an order is not known ({error})",
    "OrderTurnedUp": "order {order} had been taken for not placed, and is {to}",
    "StrangerOrder": "order {order} in {symbol} rests at the broker, and is not in the ledger",
    "ReconcileFailed": "the ledger could not be compared with the broker ({error}); it is tried again",
}


_POLICY_ALERTS = {
    "PolicyUnusable": "policy {policy} cannot be used: {why}; until it can, hold-cash answers and nothing is traded",
    "PolicyTripped": "policy {policy} was tripped: {why}",
    "PolicyFault": "policy {policy} gave no answer that can be used: {why}; it counts as HOLD",
}


def _alert(recorder: Recorder, risk_events: RiskEvents, kind: str, detail: Mapping[str, Any], run_id: str = "") -> None:
    """To the log and to subscribers; and to whoever is watching, where something did not go as it should."""
    recorder.note(run_id, kind, **detail)
    risk_events(kind, detail)
    if kind in _ALERTS:
        warn(_ALERTS[kind].format(**detail))


def _is_update(answer: Any) -> bool:
    """What counts as an answer of a node."""
    return isinstance(answer, dict)


def _each(log: FailureLog, watcher: Watcher | None) -> Watcher:
    """Both the log and whoever watches runs; what happens outside of any is for the log alone."""
    if watcher is None:
        return log

    def tell(entry: Entry) -> None:
        log(entry)
        if entry.run_id:
            watcher(entry)

    return tell
