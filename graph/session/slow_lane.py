"""The slow lane of a session: the workflow up to the gate's verdict, once a decision bar, in a task of its own.

It may take as long as it likes, or die: the fast lane goes on with the plan that it has, until that is stale.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from agents.domain import MarketView, TradePlan, Verdict
from agents.errors import HoldfastError, InvalidValue, LeaseLost, OrderError, StorageError
from checkpoints.runs import RunStatus
from checkpoints.trading_state import Tell, in_words
from graph.app import App, Compiled
from graph.resilience.timeout import give_way

__all__ = ["Decided", "SlowLane"]


@dataclass(frozen=True, slots=True)
class Decided:
    """What came of one bar: the plan, what the gate says of it, and the signed position that it was made for."""

    view: MarketView
    plan: TradePlan | None
    verdict: Verdict | None
    held: Decimal
    run_id: str


class SlowLane:
    """Decides on the newest bar that it was woken with; one that comes while it thinks waits, and only the newest.

    `account` is what the plan is made for; `seconds` bound a decision; `decided` takes what came of it. Each decision
    is a run of its own in the registry, saved before each node, under the settings of the session. `counts`: decisions,
    approved, skipped, failed.
    """

    def __init__(
        self,
        app: App,
        compiled: Compiled,
        *,
        account: str,
        parameters: dict[str, Any],
        seconds: float,
        decided: Callable[[Decided], Awaitable[None]],
        tell: Tell,
    ) -> None:
        self._app = app
        self._compiled = compiled
        self._account = account
        self._parameters = parameters
        self._seconds = seconds
        self._decided = decided
        self._tell = tell
        self._waiting: MarketView | None = None
        self._newest_ns = 0
        self._there = asyncio.Event()
        self.counts: Counter[str] = Counter()

    def wake(self, view: MarketView) -> None:
        """A bar to decide on; one that was given before is none."""
        if view.as_of_ns <= self._newest_ns:
            return
        self._newest_ns = view.as_of_ns
        self.counts["skipped"] += self._waiting is not None
        self._waiting = view
        self._there.set()

    async def run(self) -> None:
        """Decide until cancelled. A decision that fails, or takes too long, is told; the next bar is another chance."""
        while True:
            await self._there.wait()
            self._there.clear()
            view, self._waiting = self._waiting, None
            if view is not None:
                await self._one(view)

    async def _one(self, view: MarketView) -> None:
        self.counts["decisions"] += 1
        try:
            async with asyncio.timeout(self._seconds):
                decided = await self._decide(view)
        except Exception as error:  # noqa: BLE001 - whatever it was, the session goes on without
            give_way(error)
            late = f"it took longer than {self._seconds:g} s" if isinstance(error, TimeoutError) else in_words(error)
            self._failed(view, late)
            return
        try:
            await self._decided(decided)
        except (StorageError, OrderError, InvalidValue) as error:
            give_way(error)
            self._failed(view, in_words(error))

    def _failed(self, view: MarketView, why: str) -> None:
        self.counts["failed"] += 1
        self._tell("DecisionFailed", {"bar": view.as_of_ns, "error": why})

    async def _decide(self, view: MarketView) -> Decided:
        app = self._app
        portfolio = await app.ledger.portfolio(self._account)
        begun = app.manager.begin(
            workflow="plan",
            symbol=view.symbol,
            as_of_ns=view.as_of_ns,
            fingerprint=self._compiled.fingerprint,
            parameters=self._parameters,
            account=self._account,
        )
        async with begun as hold:
            run_id = hold.run.run_id
            config = {"configurable": {"thread_id": run_id, "account": self._account}}
            state = {"symbol": view.symbol, "view": view, "portfolio": portfolio}
            try:
                values = await self._compiled.graph.ainvoke(state, config, durability="sync")
            except LeaseLost:
                raise
            except BaseException as error:
                why = in_words(error) if isinstance(error, Exception) else "it was given up"
                await app.manager.mark(hold, RunStatus.FAILED, why)
                if isinstance(error, HoldfastError):
                    await app.recorder.flush(run_id)
                raise
            await app.manager.mark(hold, RunStatus.FINISHED)
        held = portfolio.position(view.symbol).quantity
        return Decided(view, values.get("plan"), values.get("verdict"), held, run_id)
