"""One seed of one scenario: played from an empty home to its end, judged by rules that hold always, and measured."""

import asyncio
import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.domain import OrderStatus, TradingAction
from checkpoints.events import Entry
from checkpoints.runs import RunStatus
from graph.app import App, open_app
from graph.config import load_settings
from graph.resilience import Fault, FaultPlan
from graph.resilience.virtual import VirtualClock
from graph.result import RunResult
from graph.runner import Market, Runner

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - homes in memory: a disk has no part here
BREAKER_SECONDS_MAX = 301.0

TROUBLES = {
    "InjectedFault", "AgentTimeout", "AgentUnavailable", "BreakerOpen", "DeadlineExceeded", "FallbackExhausted",
    "CriticalDegradation", "BrokerUnavailable", "UnusableAnswer",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scenario:
    """What goes wrong, on which desk. `runs` decisions are made one after another, `pause_seconds` apart."""

    faults: tuple[Fault, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    runs: int = 1
    pause_seconds: float = 0.0


@dataclass(slots=True)
class Story:
    """What became of one seed.

    `finished` counts the runs that finished without any help, of `runs`; `resumed` those that failed, and finished
    when the cause was gone. `reached` names the rare states that were seen; `recoveries` are virtual seconds from the
    beginning of a call that failed to an answer in its place, from whomever; `broken` the rules that were.
    """

    scenario: str
    seed: int
    runs: int = 0
    finished: int = 0
    resumed: int = 0
    traded: int = 0
    reached: set[str] = field(default_factory=set)
    recoveries: list[float] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    timeline: list[tuple[float, str, str, str]] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """The same for two tellings only if everything happened at the same time and in the same order."""
        return hashlib.sha256(repr(self.timeline).encode()).hexdigest()[:16]

    @property
    def replay(self) -> str:
        """The command that plays this seed again."""
        return f"python -m tests.simulation {self.scenario} --seed {self.seed}"


class _LoopTime:
    """The wall clock of a simulation is its loop's."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock

    def now_ns(self) -> int:
        return round(self._clock.now * 1e9)


def play(name: str, scenario: Scenario, seed: int) -> Story:
    """Play one seed."""
    story = Story(name, seed)
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder, VirtualClock(seed) as clock:
        try:
            clock.run(_play(scenario, story, Path(folder), clock))
        except Exception as error:  # noqa: BLE001 - whatever it is, the seed that found it has to be told
            story.broken.append(f"nothing may be raised, and {type(error).__name__} was: {error}")
    return story


async def _play(scenario: Scenario, story: Story, home: Path, clock: VirtualClock) -> None:
    plan = FaultPlan(scenario.faults, seed=story.seed)
    settings = load_settings(None, **({"home": home, "window": 160} | dict(scenario.settings)))
    entries: list[Entry] = []
    async with open_app(settings, faults=plan, watcher=entries.append, clock=_LoopTime(clock), inline=True) as app:
        results = []
        for number in range(scenario.runs):
            if number:
                await asyncio.sleep(scenario.pause_seconds)
            results += await Runner(app).start_all(Market(("SIM",), {}, story.seed + number))
        for result in results:
            _judge(result, story)
        _measure(results, story)
        plan.faults = ()  # the causes are gone
        if any(result.run.status is RunStatus.FAILED for result in results):
            await asyncio.sleep(BREAKER_SECONDS_MAX)
        for result in results:
            if result.run.status is RunStatus.FAILED:
                await _resume(app, result, story)
        await _compare_books(app, story)
    story.timeline = [(round(each.time_ns / 1e9, 6), each.run_id, each.kind, each.subject) for each in entries]


def _judge(result: RunResult, story: Story) -> None:
    story.runs += 1
    story.traded += bool(result.traded)
    story.reached |= {entry.kind for entry in result.timeline}
    synthesis = result.state.get("synthesis")
    if synthesis is not None:
        story.reached.add(f"level {synthesis.level}")
    if result.run.status is RunStatus.FINISHED:
        story.finished += 1
        _check_decision(result, story)
    elif result.run.status is not RunStatus.FAILED:
        story.broken.append(f"{result.run.run_id} is {result.run.status}")
    elif result.run.error.partition(":")[0] not in TROUBLES:
        story.broken.append(f"{result.run.run_id} failed for no injected reason: {result.run.error}")


def _check_decision(result: RunResult, story: Story) -> None:
    """A decision is valid when it is a plan that was judged, and what was ordered is what was planned and approved."""
    plan, verdict, orders = result.plan, result.verdict, result.orders
    rules = {
        "has a plan": plan is not None,
        "was judged by the gate": verdict is not None,
        "made at most one order": len(orders) <= 1,
        "was filled": all(order.status in {OrderStatus.FILLED, OrderStatus.DENIED} for order in orders),
        "says why": bool(result.reasons),
    }
    if plan is not None and verdict is not None and orders:
        rules |= {
            "ordered only what was approved": verdict.outcome == "approve" and plan.action is not TradingAction.HOLD,
            "ordered no more than planned": orders[0].intent.quantity <= plan.quantity,
        }
    story.broken += [f"{result.run.run_id}: it is not so that it {rule}" for rule, kept in rules.items() if not kept]


async def _resume(app: App, failed: RunResult, story: Story) -> None:
    result = await Runner(app).resume(failed.run.run_id)
    if result.run.status is RunStatus.FINISHED:
        story.resumed += 1
        _check_decision(result, story)
    else:
        story.broken.append(f"{failed.run.run_id} could not be resumed: {result.run.error}")


async def _compare_books(app: App, story: Story) -> None:
    """What the broker has executed is what the ledger has as filled: no order twice, none forgotten."""
    executed = sorted(row["client_order_id"] for row in await app.broker.orders())
    runs = await app.manager.runs()
    orders = [order for run in runs for order in await app.ledger.orders(run.run_id)]
    filled = sorted(order.client_order_id for order in orders if order.status is OrderStatus.FILLED)
    if executed != filled:
        story.broken.append(f"the broker executed {executed}, and the ledger has {filled}")


_ANSWERED = {"AttemptSucceeded", "LastResortUsed"}
_TRIED = {"AttemptFailed", "CallRejected"}


def _measure(results: Sequence[RunResult], story: Story) -> None:
    """From the beginning of a call's first failed attempt to an answer, or to where the run goes on without one."""
    for result in results:
        began: dict[str, int] = {}  # guard -> when its present attempt began
        broke: dict[str, int] = {}  # guard -> when the attempt began that was the first to fail
        last: dict[str, int] = {}  # guard -> its latest failure
        for entry in result.timeline:
            who = entry.subject
            if entry.kind == "AttemptStarted":
                began[who] = entry.time_ns
            elif entry.kind in _TRIED:
                broke.setdefault(who, began.get(who, entry.time_ns))
                last[who] = entry.time_ns
            elif entry.kind in _ANSWERED and who in broke:
                story.recoveries.append((entry.time_ns - broke.pop(who)) / 1e9)
        if result.run.status is RunStatus.FINISHED:
            story.recoveries += [(last[who] - since) / 1e9 for who, since in broke.items()]
