"""What one decision carries from node to node. Each key is a channel: saved when it changed, and only then."""

from collections.abc import Sequence
from typing import Annotated

from typing_extensions import TypedDict  # the schemas of input forms need this one on Python 3.11

from agents.domain import Finding, MarketView, Order, Outage, PolicyAnswer, Portfolio, Synthesis, TradePlan, Verdict

__all__ = ["BROKER", "NODES", "AnalystTask", "SymbolInput", "TradeState", "by_analyst"]

NODES = ("research", "synthesis", "strategy", "quality_gate", "execution")
"""The guarded nodes of the trade workflow; the node `analyst` is guarded member by member."""

BROKER = "broker"
"""The name of the guard around every call to the broker."""


def by_analyst(known: Sequence[Finding | Outage], new: Sequence[Finding | Outage]) -> list[Finding | Outage]:
    """Reducer: the newest word of each analyst, sorted by name, so that it matters not who answered first."""
    merged = {each.analyst: each for each in (*known, *new)}
    return [merged[name] for name in sorted(merged)]


class SymbolInput(TypedDict):
    """All that a caller who knows nothing else has to give."""

    symbol: str


class TradeState(SymbolInput, total=False):
    """One decision. `view` and `portfolio` are what it was made on, frozen with it; `notes` say how it ended.

    `policy` is what the policy said, once it was asked.

    `decision` counts the decisions of the thread: a thread that is asked again decides anew, with orders of its own.
    """

    decision: int
    view: MarketView
    portfolio: Portfolio
    findings: Annotated[list[Finding | Outage], by_analyst]
    synthesis: Synthesis
    plan: TradePlan
    verdict: Verdict | None
    policy: PolicyAnswer | None
    orders: list[Order]
    notes: list[str]


class AnalystTask(TypedDict):
    """What one member of the swarm is sent."""

    analyst: str
    view: MarketView
