"""The fast lane: from a bar to an order, within the bounds of an approved plan.

    bar -> window -> features -> policy -> bounds -> desk (throttle, checks, trading state, ledger, one send)

No model is asked here, no graph is run, and nothing is awaited from a network before the decision is made. Without an
approved plan, or with one that is stale, it holds. What of a plan was ordered already is read from the ledger, so that
a loop that is started again after a crash, or beside the workflow, orders nothing twice; profit is the ledger's fold.

Hooks, synchronous or not, with what each is given:

    pre_decision(view, mandate)        post_decision(decision)
    pre_order(decision)                post_order(decision)
    on_fill(order, quantity)           on_error(where, error)

They are called while the loop's lock is held: one that awaits `on_bar` would wait for itself until it is given up.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from time import perf_counter_ns
from typing import Any, Protocol, TypeVar

from agents.clock import NANOSECONDS, Clock
from agents.domain import Bar, MarketView, Order, PolicyAnswer, Portfolio, Quote, Side
from agents.errors import InvalidValue, LeaseLost, OrderError
from agents.execution import bounded, observe
from agents.features import MIN_BARS
from agents.policy import ExecutionAgent
from agents.policy.latency import LatencyHistogram
from checkpoints.trading_state import Tell, in_words
from graph.bar_window import BarWindow
from graph.desk import Mark, Ticket
from graph.hooks import Hook, Hooks
from graph.mandate import Desk, GoesOn, Ledger, Mandate, Ordered, ordered
from graph.policy_lane import PolicyLane
from graph.review import Scene

__all__ = ["HOOKS", "Decision", "ExecutionLoop", "Incoming"]

HOOKS = ("pre_decision", "post_decision", "pre_order", "post_order", "on_fill", "on_error")

T = TypeVar("T")
R = TypeVar("R")

_WARM_LEAD_S = 0.002
_WARM_EVERY_S = 0.005
_WARM_FOR_S = 2.0
"""From just before a bar is due until it comes, and at most so long, the policy is called now and then: 20 ms after its
last call it is cold."""
_FILLS_KEPT = 1_000


class Incoming(Protocol):
    """What of an `asyncio.Queue` is needed to take bars and quotes out of it."""

    def empty(self) -> bool: ...

    async def get(self) -> Bar | Quote: ...

    def get_nowait(self) -> Bar | Quote: ...

    def task_done(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Decision:
    """What came of one bar: who was asked, and what is ordered and why, or why nothing is.

    `answer` None: the policy was not asked; `side` None: nothing is ordered; `ticket`: what the desk made of it.
    """

    symbol: str
    close_ns: int
    reason: str
    answer: PolicyAnswer | None = None
    side: Side | None = None
    quantity: Decimal = Decimal(0)
    ticket: Ticket | None = None


@dataclass(slots=True)
class _Market:
    """One symbol's trading state. `done`: all of the mandate was filled."""

    window: BarWindow
    mandate: Mandate | None = None
    done: bool = False


class ExecutionLoop:
    """Takes bars and quotes of the symbols that it watches, and trades the plans that it was given a mandate for.

    `counts` by what happened: bars, duplicate_bars, quotes, decisions, orders, fills, errors, warm_ups; `latency`: from
    a bar to its decision, hooks included. One loop for one account's policy; `agent` must be nobody else's.
    """

    def __init__(
        self,
        agent: ExecutionAgent,
        desk: Desk,
        ledger: Ledger,
        clock: Clock,
        *,
        bar_period: float,
        window: int = 512,
        hook_seconds: float = 1.0,
        tell: Tell = lambda _kind, _detail: None,
    ) -> None:
        """Nothing is traded before `watch` and `approve`.

        `bar_period` in seconds; `window` bars are kept of each symbol; an asynchronous hook may take `hook_seconds`;
        `tell` hears of each error (`LoopFailed`) and of each hook that failed (`HookFailed`).
        """
        self._lane = PolicyLane(agent, answer_seconds=bar_period)
        self._desk = desk
        self._ledger = ledger
        self._clock = clock
        self._period_ns = round(bar_period * NANOSECONDS)
        self._size = window
        self._tell = tell
        self._hooks = Hooks(HOOKS, hook_seconds)
        self._lock = asyncio.Lock()
        self._markets: dict[str, _Market] = {}
        self._filled: dict[str, Decimal] = {}
        self.counts: Counter[str] = Counter()
        self.latency = LatencyHistogram()

    # What may be traded.

    async def watch(self, view: MarketView) -> None:
        """Take bars and quotes of a symbol from now on, which go on where `view` ends.

        Raises:
            ConfigError: its bars have another period than the loop's.
        """
        window = BarWindow(view, self._period_ns, self._size)
        # An exchange's sessions take half a second to load.
        await asyncio.to_thread(lambda: Scene(view, now_ns=self._clock.now_ns()).day_ns)
        self._markets[view.symbol] = _Market(window)

    def approve(self, mandate: Mandate) -> None:
        """Let a plan be traded from now on, in the place of the one before. At once, also in the middle of a bar.

        Raises:
            InvalidValue: its symbol is not watched, or it is older than the plan that there is.
        """
        market = self._market(mandate.plan.symbol)
        if market.mandate is not None and mandate.plan.as_of_ns < market.mandate.plan.as_of_ns:
            raise InvalidValue(
                f"the plan for {mandate.plan.symbol} of {mandate.plan.as_of_ns} is older than the one that is traded,"
                f" of {market.mandate.plan.as_of_ns}; it was not taken; a run that is late has nothing to say"
            )
        market.mandate, market.done = mandate, False

    def withdraw(self, symbol: str) -> None:
        """Let nothing more be traded in a symbol, also in the middle of a bar. What was sent stays sent.

        Raises:
            InvalidValue: the symbol is not watched.
        """
        self._market(symbol).mandate = None

    def add_hook(self, name: str, hook: Hook) -> Callable[[], None]:
        """Hang up a hook, one of `HOOKS`; gives what takes it down. Raises ConfigError for another name."""
        return self._hooks.add(name, hook)

    @property
    def hook_failures(self) -> Mapping[str, int]:
        """How often hooks failed, by name."""
        return self._hooks.failures

    # What comes in.

    async def on_bar(self, bar: Bar) -> Decision | None:
        """Take a bar, and decide on it; None for one that was there already.

        Raises:
            InvalidValue: the symbol is not watched, or the bar's time cannot be right: see `BarWindow.take`.
            DeadlineExceeded, PolicyFault: in the agent's strict mode.
            OrderError, LeaseLost, StorageError: as `OrderDesk.submit`.
        """
        return await self._guarded("on_bar", self._on_bar, bar)

    async def on_quote(self, quote: Quote) -> None:
        """Take a quote: the next order is held against it, and sized by its spread.

        Raises:
            InvalidValue: the symbol is not watched, or the quote's time cannot be right.
        """
        await self._guarded("on_quote", self._on_quote, quote)

    async def on_order(self, order: Order) -> None:
        """Take what has become of an order since; what was filled meanwhile is told to `on_fill`."""
        async with self._lock:
            await self._tell_fill(order)

    async def decide(self, symbol: str) -> Decision:
        """Decide on the newest bar once more: a plan was approved since it came. Raises as `on_bar`."""
        return await self._guarded("decide", self._decide_again, symbol)

    async def run(self, feed: Incoming) -> None:
        """Take what comes in until cancelled; in between keep the policy warm, and reload a bundle when that is due.

        What cannot be taken, and an order that fails, is told and left; the next bar is another chance.

        Raises:
            DeadlineExceeded, PolicyFault: in the agent's strict mode, which fails fast.
            LeaseLost: another process may trade for this run.
        """
        try:
            while True:
                self._lane.reload_if_due()
                item = await self._next(feed)
                try:
                    await (self.on_quote(item) if isinstance(item, Quote) else self.on_bar(item))
                except LeaseLost:
                    raise
                except Exception as error:
                    if error is self._lane.raised:
                        raise
                finally:
                    feed.task_done()
        finally:
            await self._hooks.close()

    # What there is.

    async def portfolio(self, account: str) -> Portfolio:
        """The account as its fills made it."""
        return await self._ledger.portfolio(account)

    def view(self, symbol: str) -> MarketView:
        """The bars of a symbol, as far as they came in; raises InvalidValue where it is not watched."""
        return self._market(symbol).window.view

    def marks(self) -> dict[str, Decimal]:
        """What a unit of each watched symbol is worth now: the middle of its quote, else its newest close."""
        return {symbol: self._scene(market).price for symbol, market in self._markets.items()}

    # The way of a bar.

    async def _guarded(self, where: str, work: Callable[[T], Awaitable[R]], item: T) -> R:
        """One at a time, in the order of arrival; what goes wrong is told, and raised."""
        async with self._lock:
            try:
                return await work(item)
            except Exception as error:
                await self._failed(where, error)
                raise

    async def _on_bar(self, bar: Bar) -> Decision | None:
        market = self._market(bar.symbol)
        if not market.window.take(bar, self._clock.now_ns()):
            self.counts["duplicate_bars"] += 1
            return None
        self.counts["bars"] += 1
        return await self._decide(market)

    async def _decide_again(self, symbol: str) -> Decision:
        return await self._decide(self._market(symbol))

    async def _on_quote(self, quote: Quote) -> None:
        self._market(quote.symbol).window.take_quote(quote, self._clock.now_ns())
        self.counts["quotes"] += 1

    async def _decide(self, market: _Market) -> Decision:
        began = perf_counter_ns()
        mandate = market.mandate
        await self._fire("pre_decision", market.window.view, mandate)
        decision = await self._decided(market, mandate)
        self.counts["decisions"] += 1
        self.latency.record(perf_counter_ns() - began)
        await self._fire("post_decision", decision)
        if decision.side is None or mandate is None:
            return decision
        return await self._order(market, mandate, decision, decision.side)

    async def _decided(self, market: _Market, mandate: Mandate | None) -> Decision:
        view = market.window.view
        refusal = self._refusal(market, mandate)
        if refusal or mandate is None:
            return Decision(view.symbol, view.as_of_ns, refusal)
        action, info = await self._lane.ask(observe(view, mandate.plan))
        wanted = bounded(mandate.plan, mandate.verdict, view, action, info)
        return Decision(view.symbol, view.as_of_ns, wanted.reason, wanted.answer, wanted.side, wanted.quantity)

    def _refusal(self, market: _Market, mandate: Mandate | None) -> str:
        """Why the policy is not even asked."""
        window = market.window
        if mandate is None:
            return "there is no approved plan"
        if market.done:
            return "all of the plan was traded"
        if len(window.view) < MIN_BARS:
            return f"there are {len(window.view)} bars, and {MIN_BARS} are needed"
        if window.is_old(self._clock.now_ns()):
            return "the newest bar is history: the one after it should have come"
        passed, horizon = window.since(mandate.plan.as_of_ns), mandate.plan.horizon_bars
        return f"the plan is stale: it was made {passed} bars ago, for {horizon}" if passed > horizon else ""

    async def _order(self, market: _Market, mandate: Mandate, decision: Decision, side: Side) -> Decision:
        """What the plan has left, by one order; a plan that was withdrawn meanwhile is not traded."""
        so_far = await self._so_far(mandate)
        market.done = so_far.filled >= mandate.plan.quantity
        left = mandate.plan.quantity - so_far.quantity
        if left <= 0:
            return replace(decision, side=None, quantity=Decimal(0), reason="all of the plan was ordered")
        decision = replace(decision, quantity=left)
        await self._fire("pre_order", decision)
        if market.mandate is not mandate:
            return replace(decision, side=None, quantity=Decimal(0), reason="the plan was withdrawn meanwhile")
        self.counts["orders"] += 1
        ticket = await self._desk.submit(
            run_id=mandate.run_id,
            account=mandate.account,
            side=side,
            quantity=left,
            view=market.window.view,
            decision=mandate.decision,
            leg=so_far.next_leg,
            quote=market.window.quote,
            now_ns=self._clock.now_ns(),
            marks=self._other_marks(market),
        )
        decision = replace(decision, ticket=ticket)
        if ticket.order is not None:
            await self._tell_fill(ticket.order)
        await self._fire("post_order", decision)
        return decision

    async def _so_far(self, mandate: Mandate) -> Ordered:
        """What was ordered of a plan; what was left on its way, as by a crash, goes on first, where that is safe."""
        found = ordered(mandate, await self._ledger.orders(mandate.run_id, mandate.decision))
        if not found.lost or not isinstance(self._desk, GoesOn):
            return found
        for name in found.lost:
            with suppress(OrderError):  # it is as open as before, and counts as if it filled
                await self._tell_fill(await self._desk.go_on(name))
        return ordered(mandate, await self._ledger.orders(mandate.run_id, mandate.decision))

    async def _tell_fill(self, order: Order) -> None:
        """Once for what is new; after a restart once more, since nobody remembers what was told."""
        told = self._filled.pop(order.client_order_id, Decimal(0))
        new = order.filled - told
        self._filled[order.client_order_id] = max(told, order.filled)  # old news take nothing back
        if len(self._filled) > _FILLS_KEPT:
            del self._filled[next(iter(self._filled))]
        if new > 0:
            self.counts["fills"] += 1
            await self._fire("on_fill", order, new)

    def _market(self, symbol: str) -> _Market:
        if symbol not in self._markets:
            watched = ", ".join(self._markets) or "none"
            raise InvalidValue(f"{symbol} is not watched; nothing was done; watch it first (there are: {watched})")
        return self._markets[symbol]

    def _scene(self, market: _Market) -> Scene:
        return Scene(market.window.view, market.window.quote, self._clock.now_ns())

    def _other_marks(self, market: _Market) -> dict[str, Mark]:
        others = {symbol: self._scene(each) for symbol, each in self._markets.items() if each is not market}
        return {symbol: Mark(scene.price, scene.opening().get(symbol)) for symbol, scene in others.items()}

    # Around it.

    async def _next(self, feed: Incoming) -> Bar | Quote:
        while feed.empty():
            try:
                async with asyncio.timeout(self._warm_in()):
                    return await feed.get()
            except TimeoutError:
                await self._warm()
        return feed.get_nowait()

    def _warm_in(self) -> float | None:
        """Seconds until the policy is to be called for practice; None where no bar is expected."""
        now_ns = self._clock.now_ns()
        dues = [(each.window.next_ns - now_ns) / NANOSECONDS for each in self._markets.values()]
        soon = min((due for due in dues if due > -_WARM_FOR_S), default=None)
        return None if soon is None else soon - _WARM_LEAD_S if soon > _WARM_LEAD_S else _WARM_EVERY_S

    async def _warm(self) -> None:
        self.counts["warm_ups"] += 1
        self._lane.reload_if_due()
        if not self._lock.locked():  # else somebody is at it
            await self._lane.keep_warm()

    async def _fire(self, name: str, *args: Any) -> None:
        await self._hooks.fire(name, *args, failed=self._hook_failed)

    async def _hook_failed(self, name: str, error: Exception) -> None:
        self._tell("HookFailed", {"hook": name, "error": in_words(error)})
        if name != "on_error":
            await self._fire("on_error", name, error)

    async def _failed(self, where: str, error: Exception) -> None:
        self.counts["errors"] += 1
        self._tell("LoopFailed", {"where": where, "error": in_words(error)})
        await self._fire("on_error", where, error)
