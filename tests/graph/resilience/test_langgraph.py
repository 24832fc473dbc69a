"""A plain LangGraph graph, not written here, becomes resilient by wrapping its nodes."""

import copy
import operator
from typing import Annotated, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt

from agents.errors import BreakerOpen
from graph.resilience import Breaker, BreakerState, FaultPlan, Guard, Retry


class State(TypedDict, total=False):
    text: str
    parts: Annotated[list[str], operator.add]
    approved: bool


def graph_of(**nodes):
    builder = StateGraph(State)
    before = START
    for name, fn in nodes.items():
        builder.add_node(name, fn)
        builder.add_edge(before, name)
        before = name
    builder.add_edge(before, END)
    return builder


@pytest.mark.asyncio(loop_factories=["real"])
async def test_nodes_are_retried_fall_back_and_get_their_config():
    calls = []

    async def flaky(state: State) -> State:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("once")
        return {"text": "model"}

    def synchronous(state: State, config: RunnableConfig) -> State:
        return {"parts": [state["text"], config["configurable"]["who"]]}

    async def broken(state: State) -> State:
        raise ValueError("bug")

    async def rules(state: State) -> State:
        return {"parts": ["rules"]}

    graph = graph_of(
        flaky=Guard("flaky", retry=Retry(base_seconds=0)).wrap(flaky),
        synchronous=Guard("synchronous").wrap(synchronous),
        broken=Guard("broken", fallbacks=[rules]).wrap(broken),
    ).compile()
    result = await graph.ainvoke({"parts": []}, {"configurable": {"who": "me"}})
    assert result == {"text": "model", "parts": ["model", "me", "rules"]}


@pytest.mark.asyncio(loop_factories=["real"])
@pytest.mark.parametrize("way", ["inline", "chain", "thread"])
async def test_an_interrupt_is_not_a_failure(way):
    def ask(state: State) -> State:
        return {"approved": interrupt("go?")}

    async def aask(state: State) -> State:
        return ask(state)

    faults = FaultPlan() if way == "chain" else None
    guard = Guard("ask", faults=faults, fallbacks=[lambda state: {"approved": False}], last_resort=lambda state: {})
    graph = graph_of(ask=guard.wrap(ask if way == "thread" else aask)).compile(InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    paused = await graph.ainvoke({"text": "x"}, config)
    assert paused["__interrupt__"][0].value == "go?"
    assert guard.breakers["ask"].failures == 0
    assert guard.breakers["ask"].state is BreakerState.CLOSED
    assert (await graph.ainvoke(Command(resume=True), config))["approved"] is True


@pytest.mark.asyncio(loop_factories=["real"])
async def test_a_deep_copy_of_a_graph_is_guarded_by_the_same_guard():
    async def broken(state: State) -> State:
        raise ValueError("bug")

    class Node:
        def __init__(self, guard):
            self.guard = guard

        async def __call__(self, state: State) -> State:
            return await self.guard(broken, state)

    guard = Guard("broken", retry=None, breaker=Breaker(failure_threshold=1))
    builder = graph_of(broken=Node(guard))
    copied = copy.deepcopy(builder)
    with pytest.raises(ValueError, match="bug"):
        await builder.compile().ainvoke({"text": "x"})
    with pytest.raises(BreakerOpen):
        await copied.compile().ainvoke({"text": "x"})


@pytest.mark.asyncio(loop_factories=["real"])
async def test_a_fan_out_of_guarded_members_shares_one_guard():
    guard = Guard("member", retry=Retry(base_seconds=0), faults=FaultPlan.parse(["member=error@2"]))

    async def member(name: str) -> State:
        return {"parts": [name]}

    builder = StateGraph(State)
    builder.add_node("member", guard.wrap(member))
    builder.add_conditional_edges(START, lambda state: [Send("member", name) for name in "abc"], ["member"])
    builder.add_edge("member", END)
    assert sorted((await builder.compile().ainvoke({"text": ""}))["parts"]) == ["a", "b", "c"]


@pytest.mark.asyncio(loop_factories=["real"])
async def test_a_graph_that_is_wired_already_is_guarded_node_by_node():
    calls = []

    async def flaky(state: State) -> State:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("once")
        return {"text": "model"}

    def synchronous(state: State, config: RunnableConfig) -> State:
        return {"parts": [state["text"], config["configurable"]["thread_id"]]}

    def ask(state: State) -> State:
        return {"approved": interrupt("go?")}

    def guarded(guard, node):
        async def call(state, config: RunnableConfig):
            return await guard(node.ainvoke, state, config)

        return RunnableLambda(call, name=guard.name)

    builder = graph_of(flaky=flaky, synchronous=synchronous, ask=ask)
    for name, spec in builder.nodes.items():
        spec.runnable = guarded(Guard(name, retry=Retry(base_seconds=0)), spec.runnable)
    graph, config = builder.compile(InMemorySaver()), {"configurable": {"thread_id": "1"}}
    paused = await graph.ainvoke({"parts": []}, config)
    assert paused["__interrupt__"][0].value == "go?"
    assert len(calls) == 2
    assert await graph.ainvoke(Command(resume=True), config) == {
        "text": "model",
        "parts": ["model", "1"],
        "approved": True,
    }
