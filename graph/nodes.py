"""The node functions: each takes the state, asks an agent, and returns an update. Thin on purpose."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.types import Send

from agents.domain import Finding, MarketView, Order, OrderStatus, Outage, Outcome, TradePlan
from agents.errors import CriticalDegradation
from agents.execution import want
from agents.quality import GateSettings, review, unreviewed
from agents.research import DEFAULT_MEMBERS, Member
from agents.research.synthesis import synthesise
from agents.strategist import StrategySettings, hold_plan, make_plan
from agents.walk_forward import walk_forward
from checkpoints.ledger import OrderLedger
from graph.desk import OrderDesk
from graph.feed import Feed
from graph.policy_keeper import PolicyKeeper
from graph.resilience import Degraded, Guard, Observer
from graph.state import AnalystTask, TradeState
from graph.swarm import ask

__all__ = ["EXCHANGE_ACCOUNT", "NODE_FALLBACKS", "SHARED_ACCOUNT", "TradeNodes", "account_of", "after_gate", "run_of"]

SHARED_ACCOUNT = "paper"
"""The account that all runs on price files trade in."""
EXCHANGE_ACCOUNT = "exchange"
"""The account of all sessions that trade at an exchange, which has one; on paper each has its own."""

_NEVER_SENT = frozenset({OrderStatus.PENDING, OrderStatus.DENIED, OrderStatus.NOT_PLACED})


@dataclass(frozen=True, slots=True)
class TradeNodes:
    """The nodes of the trade workflow and what they work with.

    `guards` holds one guard for each member by name; `observers` hear what the guards cannot know: how much is missing.
    """

    feed: Feed
    members: Sequence[Member]
    guards: Mapping[str, Guard]
    strategy_settings: StrategySettings
    gate_settings: GateSettings
    policy: PolicyKeeper
    desk: OrderDesk
    ledger: OrderLedger
    now_ns: Callable[[MarketView], int]
    cash: Decimal
    observers: Sequence[Observer] = ()

    async def research(self, state: TradeState, config: RunnableConfig) -> dict[str, Any]:
        """Begin a decision: see to it that it has a market view and a portfolio. The first may have been given them."""
        decision = state.get("decision", -1) + 1
        update: dict[str, Any] = {"decision": decision, "verdict": None, "policy": None, "orders": [], "notes": []}
        if decision > 0 or state.get("view") is None:
            update["view"] = self.feed.view(state["symbol"])
        if decision > 0 or state.get("portfolio") is None:
            await self.ledger.open_account(account_of(config), self.cash)
            update["portfolio"] = await self.ledger.portfolio(account_of(config))
        return update

    def ask_members(self, state: TradeState) -> list[Send]:
        """One task a member, all at the same time; who needs other symbols is asked only where there are some."""
        view = state["view"]
        return [Send("analyst", AnalystTask(analyst=member.name, view=view)) for member in self._asked(view)]

    async def analyst(self, task: AnalystTask, config: RunnableConfig) -> dict[str, Any]:  # noqa: ARG002
        """Ask one member through its guard; what it cannot answer becomes an Outage, and the others go on."""
        member = next(each for each in self.members if each.analyst.name == task["analyst"])
        name = member.name
        try:
            finding = await self.guards[name](ask(member), task["view"])
        except Exception as error:  # noqa: BLE001 - the guard has done what can be done; the swarm decides on the rest
            return {"findings": [Outage(name, member.required, _told(error))]}
        return {"findings": [finding]}

    async def synthesis(self, state: TradeState, config: RunnableConfig) -> dict[str, Any]:  # noqa: ARG002
        """Make one of the findings; raises CriticalDegradation when too many required members are missing."""
        asked = {member.name: member for member in self._asked(state["view"])}
        findings = [each for each in state["findings"] if each.analyst in asked]
        required = [name for name, member in asked.items() if member.required]
        try:
            synthesis = synthesise(findings, required)
        except CriticalDegradation:
            self._degraded(2, [each.analyst for each in findings if isinstance(each, Outage)])
            raise
        self._degraded(synthesis.level, synthesis.missing)
        return {"synthesis": synthesis}

    async def strategy(self, state: TradeState, config: RunnableConfig) -> dict[str, Any]:  # noqa: ARG002
        """Plan, or plan again as the gate wished."""
        verdict = state.get("verdict")
        revision = state["plan"].revision + 1 if verdict is not None else 0
        plan = make_plan(
            state["view"],
            state["portfolio"],
            state["synthesis"],
            self.strategy_settings,
            verdict=verdict,
            revision=revision,
        )
        return {"plan": plan}

    async def quality_gate(self, state: TradeState, config: RunnableConfig) -> dict[str, Any]:  # noqa: ARG002
        """Hold the plan against every check."""
        view = state["view"]
        verdict = review(
            state["plan"],
            state["synthesis"],
            view,
            self.gate_settings,
            now_ns=self.now_ns(view),
            history=walk_forward(view, _rule_stance, self.strategy_settings),
        )
        notes = list(verdict.reasons) if verdict.outcome is Outcome.REJECT else []
        return {"verdict": verdict, "notes": notes}

    async def execution(self, state: TradeState, config: RunnableConfig) -> dict[str, Any]:
        """Ask the policy, and send what it wants through the desk; after a crash this reads what was sent."""
        plan, view = state["plan"], state["view"]
        agent = await self.policy.ready()
        decide = partial(want, plan, state.get("verdict"), view, self.policy)
        wanted = decide() if agent.inline else await asyncio.to_thread(decide)
        asked = {"policy": wanted.answer}
        if wanted.side is None:
            notes = [wanted.reason, *([agent.why] if wanted.answer.is_fallback else [])]
            sent = await self._sent(plan, state["decision"], config)
            stays = ["this decision has sent its order before, which stays"] if sent else []
            return asked | {"orders": sent, "notes": [*notes, *stays]}
        ticket = await self.desk.submit(
            run_id=run_of(config),
            decision=state["decision"],
            account=account_of(config),
            side=wanted.side,
            quantity=wanted.quantity,
            view=view,
            held=state["portfolio"].position(view.symbol).quantity,
        )
        orders = [ticket.order] if ticket.order else []
        notes = [*ticket.reasons, *(order.reason for order in orders if order.reason)]
        return asked | {"orders": orders, "notes": notes}

    async def _sent(self, plan: TradePlan, decision: int, config: RunnableConfig) -> list[Order]:
        """What was sent before a crash is no matter of what another policy would say today."""
        if plan.side is None:
            return []
        known = await self.ledger.orders(run_of(config))
        return [each for each in known if each.intent.decision == decision and each.status not in _NEVER_SENT]

    def _degraded(self, level: int, missing: Sequence[str]) -> None:
        if level > 0:
            event = Degraded("synthesis", "synthesis", asyncio.get_running_loop().time(), level, tuple(missing))
            for observer in self.observers:
                observer(event)

    def _asked(self, view: MarketView) -> list[Member]:
        return [member for member in self.members if view.market or not member.needs_market]


async def hold_fallback(state: TradeState, config: RunnableConfig) -> dict[str, Any]:  # noqa: ARG001
    """No strategist, no trade."""
    return {"plan": hold_plan(state["view"], "the strategist could not be reached: nothing is traded")}


async def reject_fallback(state: TradeState, config: RunnableConfig) -> dict[str, Any]:  # noqa: ARG001
    """A gate that cannot look lets nothing through."""
    verdict = unreviewed("the quality gate could not be reached: nothing is approved")
    return {"verdict": verdict, "notes": list(verdict.reasons)}


NODE_FALLBACKS: Mapping[str, Sequence[Callable[..., Any]]] = {
    "strategy": (hold_fallback,),
    "quality_gate": (reject_fallback,),
}
"""Who answers for a node that cannot: always with the decision that risks nothing. Execution has nobody: an order
that could not be sent, or whose fate is unknown, stops the run until it is resumed."""


def after_gate(state: TradeState) -> str:
    """Where a verdict leads: `execution`, back to `strategy`, or to the end."""
    verdict = state.get("verdict")
    return {Outcome.APPROVE: "execution", Outcome.REVISE: "strategy"}.get(verdict.outcome, "end") if verdict else "end"


def run_of(config: RunnableConfig) -> str:
    """The run's id: the thread that LangGraph saves it under."""
    return str(config["configurable"]["thread_id"])


def account_of(config: RunnableConfig) -> str:
    """The account that the run trades in; one of its own where none is named."""
    return str(config["configurable"].get("account") or run_of(config))


def _told(error: Exception) -> str:
    """An error in words that can be saved, whoever wrote them."""
    return f"{type(error).__name__}: {error}"[:500].encode(errors="replace").decode()


def _rule_stance(view: MarketView) -> float:
    """The stance of the rule-based members alone: what the walk-forward replays without asking any model."""
    answers = [member.analyst(view) for member in DEFAULT_MEMBERS if not member.needs_market]
    findings = [answer for answer in answers if isinstance(answer, Finding)]
    return synthesise(findings, ()).stance
