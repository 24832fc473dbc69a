"""The composition root: settings in, a wired application out. The only place that picks concrete classes."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from agents.clock import Clock, SystemClock
from agents.domain import MarketView
from agents.errors import ConfigError
from agents.policy import RulePolicy
from agents.research import Member
from checkpoints.database import Database
from checkpoints.events import Entry, Timeline
from checkpoints.ledger import OrderLedger
from checkpoints.runs import CheckpointManager
from checkpoints.saver import SqlSaver
from graph.broker import PaperBroker
from graph.config import Settings
from graph.desk import OrderDesk
from graph.feed import Feed
from graph.metrics import Metrics
from graph.nodes import NODE_FALLBACKS, SHARED_ACCOUNT, TradeNodes
from graph.resilience import Breaker, FaultPlan, Guard, Retry
from graph.state import BROKER, NODES
from graph.swarm import is_finding_of, stand_in, swarm
from graph.telemetry import FailureLog, Recorder, Watcher
from graph.workflow import build_trade, fingerprint

__all__ = ["App", "Compiled", "open_app"]


@dataclass(frozen=True, slots=True)
class Compiled:
    """A workflow ready to run, and what must be the same for its runs to go on."""

    graph: Any
    fingerprint: Mapping[str, Any]
    members: tuple[Member, ...]


@dataclass(slots=True)
class App:
    """Everything that runs share: databases, ledger, broker, guards."""

    settings: Settings
    clock: Clock
    database: Database
    saver: SqlSaver
    ledger: OrderLedger
    timeline: Timeline
    manager: CheckpointManager
    broker: PaperBroker
    recorder: Recorder
    log: FailureLog
    faults: FaultPlan | None
    metrics: Metrics = field(default_factory=Metrics)
    guards: dict[str, Guard] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        settings: Settings,
        *,
        faults: FaultPlan | None = None,
        watcher: Watcher | None = None,
        clock: Clock | None = None,
        inline: bool = False,
    ) -> "App":
        """Open the home folder's databases and wire the application; `open_app` does so and closes it again.

        `inline` keeps the databases off threads of their own: for simulations, whose clock cannot see those.

        Raises:
            StorageError: the home folder or a database in it cannot be used.
        """
        clock = clock or SystemClock()
        database = Database.open(settings.folder / "holdfast.db", inline=inline)
        try:
            broker = PaperBroker.open(settings.folder / "broker.db", inline=inline)
        except BaseException:
            database.close()
            raise
        saver, timeline = SqlSaver(database), Timeline(database)
        log = FailureLog(settings.folder / "failures.log")
        return cls(
            settings=settings,
            clock=clock,
            database=database,
            saver=saver,
            ledger=OrderLedger(database),
            timeline=timeline,
            manager=CheckpointManager(database, saver, settings.folder, clock),
            broker=broker,
            recorder=Recorder(timeline, clock, _each(log, watcher)),
            log=log,
            faults=faults,
        )

    def close(self) -> None:
        """Close both databases, after what waits is written."""
        self.broker.database.close()
        self.database.close()
        self.log.close()

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
        return Compiled(builder.compile(checkpointer=self.saver), shape, members)

    def trade_builder(self, settings: Settings, feed: Feed, members: tuple[Member, ...], **schema: Any) -> Any:
        """The trade workflow before it is compiled."""
        self._check_names(members, settings)
        nodes = TradeNodes(
            feed=feed,
            members=members,
            guards={member.name: self._member_guard(member.name, settings) for member in members},
            strategy_settings=settings.strategy,
            gate_settings=settings.bounded_gate,
            policy=RulePolicy(),
            desk=self.desk(settings),
            ledger=self.ledger,
            now_ns=_replayed,
            cash=settings.cash,
            observers=(self.recorder, self.metrics),
        )
        guards = {name: self.guard(name, fallbacks=NODE_FALLBACKS.get(name, ()), accept=_is_update) for name in NODES}
        return build_trade(nodes, guards, self.recorder, **schema)

    def _member_guard(self, name: str, settings: Settings) -> Guard:
        others = [stand_in(name, path) for path in settings.fallbacks.get(name, ())]
        return self.guard(name, accept=is_finding_of(name), fallbacks=others)

    def desk(self, settings: Settings) -> OrderDesk:
        """The desk with a run's own limits; the broker's guard never retries, since a retry could order twice."""
        return OrderDesk(self.ledger, self.broker, settings.risk, self.guard(BROKER, retry=None))

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
    inline: bool = False,
) -> AsyncIterator[App]:
    """The application of `App.open`, with the shared account in it, closed at the end."""
    app = await asyncio.to_thread(App.open, settings, faults=faults, watcher=watcher, clock=clock, inline=inline)
    try:
        await app.ledger.open_account(SHARED_ACCOUNT, settings.cash)
        yield app
    finally:
        app.close()


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


def _replayed(view: MarketView) -> int:
    """History is decided at its own time: the close of its newest bar."""
    return view.as_of_ns
