"""The wiring of the workflows, and their registry."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph

from graph.nodes import TradeNodes, after_gate, run_of
from graph.resilience import Guard
from graph.state import AnalystTask, TradeState
from graph.telemetry import CURRENT_RUN, Recorder

__all__ = ["WORKFLOWS", "Workflow", "build_plan", "build_trade", "fingerprint"]

Node = Callable[[Any, RunnableConfig], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Workflow:
    """An entry of the registry: what the workflow is, and how it is wired."""

    name: str
    description: str
    build: Callable[..., "StateGraph[Any, Any, Any, Any]"]


def build_trade(
    nodes: TradeNodes, guards: Mapping[str, Guard], recorder: Recorder, input_schema: type[Any] = TradeState
) -> "StateGraph[Any, Any, Any, Any]":
    """Wire research swarm -> synthesis -> strategy -> quality gate -> execution.

    LangGraph's own retry and timeout stay unset: they would start a second attempt while the first still runs. Every
    node is called through `guards[name]` instead, and has flushed its timeline when it returns.
    """
    return _build(nodes, guards, recorder, input_schema, ends_with_verdict=False)


def build_plan(
    nodes: TradeNodes, guards: Mapping[str, Guard], recorder: Recorder, input_schema: type[Any] = TradeState
) -> "StateGraph[Any, Any, Any, Any]":
    """Wire the same up to the quality gate's verdict: who trades the plan is somebody else."""
    return _build(nodes, guards, recorder, input_schema, ends_with_verdict=True)


def _build(
    nodes: TradeNodes,
    guards: Mapping[str, Guard],
    recorder: Recorder,
    input_schema: type[Any],
    *,
    ends_with_verdict: bool,
) -> "StateGraph[Any, Any, Any, Any]":

    def guarded(name: str, node: Node) -> Node:
        return _recorded(recorder, lambda state, config: guards[name](node, state, config))

    builder: Any = StateGraph(TradeState, input_schema=input_schema)  # its overloads know no wrapped nodes
    builder.add_node("research", guarded("research", nodes.research), input_schema=TradeState)
    builder.add_node("analyst", _recorded(recorder, nodes.analyst), input_schema=AnalystTask)
    for name in ("synthesis", "strategy", "quality_gate", *(() if ends_with_verdict else ("execution",))):
        builder.add_node(name, guarded(name, getattr(nodes, name)), input_schema=TradeState)
    builder.add_edge(START, "research")
    builder.add_conditional_edges("research", nodes.ask_members, ["analyst"])
    builder.add_edge("analyst", "synthesis")
    builder.add_edge("synthesis", "strategy")
    builder.add_edge("strategy", "quality_gate")
    routes = {"execution": END if ends_with_verdict else "execution", "strategy": "strategy", "end": END}
    builder.add_conditional_edges("quality_gate", after_gate, routes)
    if not ends_with_verdict:
        builder.add_edge("execution", END)
    return cast("StateGraph[Any, Any, Any, Any]", builder)


def _recorded(recorder: Recorder, call: Callable[[Any, RunnableConfig], Awaitable[dict[str, Any]]]) -> Node:
    """Name the run to whoever observes, and write the timeline before the node's result is saved."""

    async def node(state: Any, config: RunnableConfig) -> dict[str, Any]:
        run_id = run_of(config)
        CURRENT_RUN.set(run_id)
        try:
            return await call(state, config)
        finally:
            await recorder.flush(run_id)

    return node


def fingerprint(builder: "StateGraph[Any, Any, Any, Any]", members: tuple[str, ...]) -> dict[str, Any]:
    """What must be the same for a run to go on: nodes, edges, branches and the members of the swarm."""
    return {
        "nodes": sorted(builder.nodes),
        "edges": sorted(f"{start} -> {end}" for start, end in builder.edges),
        "branches": sorted(f"{node}: {name}" for node, branches in builder.branches.items() for name in branches),
        "members": sorted(members),
    }


WORKFLOWS: Mapping[str, Workflow] = {
    "trade": Workflow(
        "trade", "research swarm -> synthesis -> strategy -> quality gate -> execution, one decision", build_trade
    ),
    "session": Workflow(
        "session", "a live session: a decision a bar up to the gate's verdict, and the fast lane in between", build_plan
    ),
}
