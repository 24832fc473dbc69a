"""What one call asks the database: so many statements, however long the thread is."""

import operator
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import END, START, StateGraph
from sqlalchemy import event

from checkpoints.saver import SqlSaver

_SHORT, _LONG = 5, 50
"""Steps of a thread; both fit into one page of each kind."""


class _State(TypedDict):
    items: Annotated[list[str], DeltaChannel(lambda old, new: [*old, *(each for some in new for each in some)])]
    plain: Annotated[list[str], operator.add]
    count: int


def _relay(steps: int) -> Any:
    def step(state: _State) -> dict[str, Any]:
        text = f"{state['count'] * 7919:064x}" * 20
        return {"items": [text], "plain": [text], "count": state["count"] + 1}

    graph = StateGraph(_State)
    graph.add_node("step", step)
    graph.add_edge(START, "step")
    graph.add_conditional_edges("step", lambda state: "step" if state["count"] < steps else END)
    return graph


def _config(thread_id: str, **more: Any) -> Any:
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}, "recursion_limit": 2_000, **more}


@pytest.fixture
def saver(tmp_path: Path) -> Iterator[SqlSaver]:
    """A short thread and a long one, each also the work of a run of the same name."""
    with SqlSaver.open(tmp_path / "runs.db") as opened:
        for name, steps in (("short", _SHORT), ("long", _LONG)):
            config = _config(name, metadata={"run_id": name})
            graph = _relay(steps).compile(checkpointer=opened)
            graph.invoke({"items": [], "plain": [], "count": 0}, config, durability="sync")
        yield opened


@pytest.fixture
def count(saver: SqlSaver) -> Callable[[Callable[[], Any]], int]:
    """Counts the statements that a call makes on any connection; one that is run for several rows at once is one."""
    said: list[str] = []
    database = saver._database
    assert database._connection is not None
    database._connection.connection.driver_connection.set_trace_callback(said.append)
    event.listen(database._reading, "before_cursor_execute", lambda *args: said.append(args[2]))

    def counted(call: Callable[[], Any]) -> int:
        said.clear()
        call()
        kinds = [each.split(" VALUES ")[0] for each in said if not each.startswith(("BEGIN", "COMMIT", "PRAGMA", "--"))]
        return sum(1 for _ in groupby(kinds))

    return counted


def test_one_checkpoint_takes_three(saver: SqlSaver, count: Any) -> None:
    """The checkpoint, its values and its writes."""
    assert [count(lambda name=name: saver.get_tuple(_config(name))) for name in ("short", "long")] == [3, 3]


def test_a_page_takes_no_more_with_more_on_it(saver: SqlSaver, count: Any) -> None:
    taken = [count(lambda limit=limit: list(saver.list(_config("long"), limit=limit))) for limit in (2, 50)]

    assert taken[0] == taken[1] <= 4


def test_the_history_of_channels_takes_no_more_with_more_of_it(saver: SqlSaver, count: Any) -> None:
    def ask(name: str) -> None:
        found = saver.get_delta_channel_history(config=_config(name), channels=["items"])
        assert len(found["items"]["writes"]) == 1 + {"short": _SHORT, "long": _LONG}[name]

    assert count(lambda: ask("short")) == count(lambda: ask("long")) <= 5


def test_a_step_takes_no_more_after_more_of_them(saver: SqlSaver, count: Any) -> None:
    taken = []
    for name in ("short", "long"):
        graph = _relay(1).compile(checkpointer=saver)
        taken.append(count(lambda graph=graph, name=name: graph.update_state(_config(name), {"plain": ["x" * 2_000]})))

    assert taken[0] == taken[1]


@pytest.mark.parametrize(
    "call",
    [
        lambda saver, name: saver.prune([name]),
        lambda saver, name: saver.prune([name], strategy="delete"),
        lambda saver, name: saver.delete_for_runs([name]),
        lambda saver, name: saver.delete_thread(name),
        lambda saver, name: saver.copy_thread(name, f"copy of {name}"),
    ],
    ids=["prune", "prune all", "delete_for_runs", "delete_thread", "copy_thread"],
)
def test_upkeep_takes_no_more_for_a_longer_thread(saver: SqlSaver, count: Any, call: Any) -> None:
    assert count(lambda: call(saver, "short")) == count(lambda: call(saver, "long")) <= 12
