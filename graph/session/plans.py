"""What a session may trade: the plan that was approved last; each has a bracket, which outlives it."""

from collections import Counter
from collections.abc import Awaitable, Callable
from decimal import Decimal

from agents import conditions
from agents.bracket import Bracket
from agents.domain import MarketView, OrderIntent, Outcome, TradePlan, Verdict
from checkpoints.ledger import OrderLedger
from checkpoints.trading_state import Tell
from graph.brackets import Brackets
from graph.execution_loop import ExecutionLoop
from graph.mandate import Mandate
from graph.session.account import Scope
from graph.session.slow_lane import Decided

__all__ = ["Plans"]


class Plans:
    """Takes what the slow lane has come to, and lets the fast lane trade it. `words`: what is traded now, for people.

    `period_ns` of the bars that decisions are counted by; `trail_atr`: see `SessionTerms`; `in_flight` tells whether an
    order waits or is at the broker. `counts`: plans, held, outdated. After `close` nothing is taken any more.
    """

    def __init__(
        self,
        scope: Scope,
        ledger: OrderLedger,
        brackets: Brackets,
        *,
        period_ns: int,
        trail_atr: float,
        in_flight: Callable[[], Awaitable[bool]],
        tell: Tell,
    ) -> None:
        self.words = "nothing is planned yet"
        self.counts: Counter[str] = Counter()
        self._scope = scope
        self._ledger = ledger
        self._brackets = brackets
        self._period_ns = period_ns
        self._trail_atr = trail_atr
        self._in_flight = in_flight
        self._tell = tell
        self._lane: ExecutionLoop | None = None
        self._mandate: Mandate | None = None
        self._closed = False

    def trade_by(self, lane: ExecutionLoop) -> None:
        """The lane that trades what is approved from now on."""
        self._lane = lane

    def close(self) -> None:
        """Take no new risk: nothing is traded any more, and no plan is taken."""
        self._closed = True
        self._withdraw()

    def number(self, close_ns: int) -> int:
        """A decision's number: bars since the session began, so that after a restart it is the same."""
        return max(0, (close_ns - self._scope.began_ns) // self._period_ns + 1)

    def may_open(self, decision: int) -> bool:
        """Whether an order of this decision may open anything still."""
        mine = self._mandate is not None and self._mandate.decision == decision
        return mine and not self._closed and not self._brackets.has_sprung(self._scope.run_id, decision)

    def sprung(self, intent: OrderIntent) -> None:
        """A stop or target was touched: nothing more is opened by its decision."""
        if self._mandate is not None and self._mandate.decision == intent.decision:
            self._withdraw()

    async def take(self, decided: Decided) -> None:
        """Trade a plan that was approved, if the account is still what it was made for; otherwise trade nothing."""
        if self._closed:
            return
        await self._void()
        plan, verdict = decided.plan, decided.verdict
        if plan is None or plan.side is None or verdict is None or verdict.outcome is not Outcome.APPROVE:
            why = "; ".join((*(verdict.reasons if verdict else ()), *(plan.reasons if plan else ())))
            self.words = f"hold: {why}" if why else "hold"
            self.counts["held"] += 1
            return
        portfolio = await self._ledger.portfolio(self._scope.account)
        if portfolio.position(self._scope.symbol).quantity != decided.held or await self._in_flight():
            self.counts["outdated"] += 1
            self._tell("PlanOutdated", {"run": decided.run_id})
            return
        await self._approve(decided, plan, verdict)

    async def _approve(self, decided: Decided, plan: TradePlan, verdict: Verdict) -> None:
        assert self._lane is not None  # noqa: S101 - a session makes one before it decides
        scope, number = self._scope, self.number(decided.view.as_of_ns)
        mandate = Mandate(plan, verdict, scope.run_id, scope.account, number)
        trail = self._trail(decided.view)
        bracket = Bracket.of(plan, run_id=scope.run_id, account=scope.account, decision=number, trail=trail)
        if bracket is not None:  # it is on disk before there is a position
            await self._brackets.open(bracket)
        if self._closed:
            return
        self._mandate = mandate
        bounds = f"stop {_shown(plan.stop)}, target {_shown(plan.take_profit)}"
        self.words = f"{plan.side} {plan.quantity:f} at {plan.entry:f}, {bounds}"
        self.counts["plans"] += 1
        self._tell("PlanApproved", {"plan": self.words, "run": decided.run_id})
        self._lane.approve(mandate)
        await self._lane.decide(scope.symbol)

    def _trail(self, view: MarketView) -> Decimal | None:
        distance = self._trail_atr * conditions.true_range(view)
        return round(Decimal(str(distance)), 8) if distance > 0 else None

    async def _void(self) -> None:
        """The plan before is traded no more; what of its bracket, and of others, covers nothing is watched no more."""
        before = self._mandate
        self._withdraw()
        if await self._in_flight():
            return
        await self._brackets.trim(self._scope.account, self._scope.symbol)
        if before is None:
            return
        if not await self._ledger.orders(self._scope.run_id, before.decision):
            await self._brackets.forget(self._scope.run_id, before.decision)

    def _withdraw(self) -> None:
        self._mandate = None
        if self._lane is not None:
            self._lane.withdraw(self._scope.symbol)


def _shown(price: Decimal | None) -> str:
    return "none" if price is None else f"{price:f}"
