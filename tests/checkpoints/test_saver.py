import asyncio
import operator
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, TypedDict

import langgraph.checkpoint.base.id as langgraph_ids
import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointMetadata, empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt
from sqlalchemy import func, select, update

from agents import domain
from agents.errors import CheckpointDamaged, ConfigError, InvalidValue
from checkpoints import contents, store
from checkpoints.database import Database
from checkpoints.saver import SqlSaver

_ROOT = Path(__file__).parents[2]
_THREAD: Any = {"configurable": {"thread_id": "run-1"}}
_SYNC: Any = {"durability": "sync"}


@pytest.fixture
def saver(address: str) -> Iterator[SqlSaver]:
    with SqlSaver.open(address) as opened:
        yield opened


def _count(saver: SqlSaver, table: Any) -> int:
    query = select(func.count()).select_from(table)
    return int(saver._database.read(lambda connection: connection.execute(query).scalar_one()))


# Graphs that anyone could have written.


class _Swarm(TypedDict):
    names: list[str]
    found: Annotated[list[str], operator.add]


def _swarm(calls: list[str], down: set[str]) -> Any:
    def member(state: dict[str, str]) -> dict[str, list[str]]:
        calls.append(state["name"])
        if state["name"] in down:
            raise ConnectionError(state["name"])
        return {"found": [state["name"]]}

    async def amember(state: dict[str, str]) -> dict[str, list[str]]:
        return member(state)

    graph = StateGraph(_Swarm)
    graph.add_node("plan", lambda state: {})
    graph.add_node("member", member if asyncio._get_running_loop() is None else amember)
    graph.add_edge(START, "plan")
    graph.add_conditional_edges("plan", lambda state: [Send("member", {"name": name}) for name in state["names"]])
    graph.add_edge("member", END)
    return graph


def test_a_resumed_fan_out_runs_only_what_was_not_finished(tmp_path: Path) -> None:
    calls: list[str] = []
    down = {"c"}
    names = list("abcdef")
    with SqlSaver.open(tmp_path / "runs.db") as saver:
        graph = _swarm(calls, down).compile(checkpointer=saver)
        with pytest.raises(ConnectionError):
            graph.invoke({"names": names, "found": []}, _THREAD, **_SYNC)
    down.clear()
    finished = set(calls) - {"c"}
    with SqlSaver.open(tmp_path / "runs.db") as saver:
        found = saver.get_tuple(_THREAD)
        result = _swarm(calls, down).compile(checkpointer=saver).invoke(None, _THREAD, **_SYNC)

    assert found is not None
    assert {"found", "__error__"} <= {channel for _, channel, _ in found.pending_writes or []}
    assert result["found"] == names  # in the order of the tasks, whoever was first
    assert calls.count("c") == 2
    assert all(calls.count(name) == 1 for name in finished)


async def test_the_event_loop_resumes_a_fan_out_just_so(tmp_path: Path) -> None:
    calls: list[str] = []
    down = {"b"}
    with SqlSaver.open(tmp_path / "runs.db") as saver:
        graph = _swarm(calls, down).compile(checkpointer=saver)
        with pytest.raises(ConnectionError):
            await graph.ainvoke({"names": ["a", "b", "c"], "found": []}, _THREAD, **_SYNC)
        down.clear()
        finished = set(calls) - {"b"}
        result = await graph.ainvoke(None, _THREAD, **_SYNC)

    assert result["found"] == ["a", "b", "c"]
    assert all(calls.count(name) == 1 for name in finished)


class _Counter(TypedDict):
    items: Annotated[list[str], operator.add]
    count: int


def _counting(steps: int, item: str = "x") -> Any:
    graph = StateGraph(_Counter)
    graph.add_node("step", lambda state: {"items": [f"{item}{state['count']}"], "count": state["count"] + 1})
    graph.add_edge(START, "step")
    graph.add_conditional_edges("step", lambda state: "step" if state["count"] < steps else END)
    return graph


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_history_rewind_and_fork_work_as_on_any_saver(saver: SqlSaver, durability: Any) -> None:
    graph = _counting(5).compile(checkpointer=saver)
    graph.invoke({"items": [], "count": 0}, _THREAD, durability=durability)

    history = list(graph.get_state_history(_THREAD))
    assert history[0].values == {"items": ["x0", "x1", "x2", "x3", "x4"], "count": 5}
    if durability == "exit":
        return
    assert [state.values["count"] for state in history[:-1]] == [5, 4, 3, 2, 1, 0]
    older = history[3]
    assert graph.get_state(older.config).values["items"] == ["x0", "x1"]
    forked = graph.update_state(older.config, {"items": ["y"], "count": 4})
    assert graph.invoke(None, forked, **_SYNC)["items"] == ["x0", "x1", "y", "x4"]
    assert graph.get_state(history[0].config).values == history[0].values


def test_a_person_may_answer_after_a_restart(tmp_path: Path) -> None:
    graph = StateGraph(_Counter)
    graph.add_node("ask", lambda state: {"items": [interrupt("sure?")]})
    graph.add_edge(START, "ask")
    with SqlSaver.open(tmp_path / "runs.db") as saver:
        assert graph.compile(checkpointer=saver).invoke({"count": 0}, _THREAD, **_SYNC)["__interrupt__"]
    with SqlSaver.open(tmp_path / "runs.db") as saver:
        result = graph.compile(checkpointer=saver).invoke(Command(resume="yes"), _THREAD, **_SYNC)

    assert result["items"] == ["yes"]


def test_an_unchanged_channel_is_not_stored_again(saver: SqlSaver) -> None:
    class State(TypedDict):
        big: str
        count: int

    graph = StateGraph(State)
    graph.add_node("step", lambda state: {"count": state["count"] + 1})
    graph.add_edge(START, "step")
    graph.add_conditional_edges("step", lambda state: "step" if state["count"] < 50 else END)
    graph.compile(checkpointer=saver).invoke(
        {"big": "b" * 5_000, "count": 0}, {**_THREAD, "recursion_limit": 60}, **_SYNC
    )

    assert _count(saver, store.checkpoints) == 52
    assert _count(saver, store.values) == 2  # the input, and the one channel that is too large for the checkpoint's row


@pytest.mark.parametrize("thread_id", ["../../etc/passwd", "'; DROP TABLE saved_writes; --", "\N{SNOWMAN} \n", 7])
def test_any_thread_id_will_do(saver: SqlSaver, thread_id: Any) -> None:
    config: Any = {"configurable": {"thread_id": thread_id}}
    graph = _counting(2).compile(checkpointer=saver)
    graph.invoke({"items": [], "count": 0}, config, **_SYNC)

    assert graph.get_state(config).values["count"] == 2
    saver.delete_thread(thread_id)
    assert saver.get_tuple(config) is None
    assert _count(saver, store.values) == _count(saver, store.writes) == 0


def test_a_config_without_a_thread_or_a_checkpoint_is_refused(saver: SqlSaver) -> None:
    with pytest.raises(InvalidValue, match="no thread_id"):
        saver.get_tuple({"configurable": {}})
    with pytest.raises(InvalidValue, match="checkpoint_id"):
        saver.put_writes(_THREAD, [("a", 1)], "task")


def _put_values(saver: SqlSaver, config: Any, versions: dict[str, Any], new: dict[str, Any], **values: Any) -> Any:
    checkpoint: Any = {**empty_checkpoint(), "id": str(uuid6(clock_seq=1))}
    checkpoint |= {"channel_values": values, "channel_versions": versions}
    return saver.put(config, checkpoint, {}, new)


def _values(saver: SqlSaver, config: Any) -> Any:
    found = saver.get_tuple(config)
    assert found is not None
    return found.checkpoint["channel_values"]


def test_versions_that_are_not_ours_may_come_again_with_another_value(saver: SqlSaver) -> None:
    start: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    one = _put_values(saver, start, {"a": 1}, {"a": 1}, a=["one"] * 50)
    two = _put_values(saver, start, {"a": 1}, {}, a=["two"] * 50)  # another branch counts alike
    three = _put_values(saver, start, {"a": "1"}, {"a": "1"}, a=["three"] * 50)
    four = _put_values(saver, start, {"a": "1"}, {"a": "1"}, a=["four"] * 50)  # said to be new

    found = [_values(saver, config)["a"][0] for config in (one, two, three, four)]
    assert found == ["one", "two", "three", "four"]


@pytest.mark.parametrize("value", [bytearray(b"short"), b"", b"x" * 5_000, bytearray(5_000), [], ["x" * 58], (1,)])
def test_short_values_and_long_ones_come_back_alike(saver: SqlSaver, value: Any) -> None:
    found = _kept(saver, value)

    assert found == (list(value) if isinstance(value, tuple) else value)  # as from every saver
    assert type(found) is (list if isinstance(value, tuple) else type(value))


# Listing.


def test_listing_filters_by_metadata_that_is_never_sql(saver: SqlSaver) -> None:
    hostile = "x' OR 1=1 --"
    graph = _counting(60).compile(checkpointer=saver)
    config: Any = {**_THREAD, "recursion_limit": 70, "metadata": {hostile: "marked"}}
    graph.invoke({"items": [], "count": 0}, config, **_SYNC)

    assert len(list(saver.list(_THREAD))) == 62
    assert [tup.metadata["step"] for tup in saver.list(_THREAD, limit=55)] == list(range(60, 5, -1))
    assert [tup.metadata["step"] for tup in saver.list(_THREAD, filter={"step": 3})] == [3]
    assert len(list(saver.list(_THREAD, filter={hostile: "marked", "source": "loop"}))) == 61
    assert list(saver.list(_THREAD, filter={"' OR 1=1 --": "x"})) == []
    assert list(saver.list(None, filter={"source": "loop"}, limit=0)) == []
    middle = next(iter(saver.list(None, filter={"step": 30}))).config
    assert [tup.metadata["step"] for tup in saver.list(_THREAD, before=middle, limit=2)] == [29, 28]
    assert [tup.metadata["step"] for tup in saver.list(middle)] == [30]


# What may come back from disk.


@dataclass
class _Mine:
    x: int
    made = 0

    def __post_init__(self) -> None:
        type(self).made += 1


def _kept(saver: SqlSaver, value: Any) -> Any:
    checkpoint = empty_checkpoint()
    version = saver.get_next_version(None, None)
    checkpoint.update(channel_values={"it": value}, channel_versions={"it": version})
    config = saver.put({"configurable": {"thread_id": "kept", "checkpoint_ns": ""}}, checkpoint, {}, {"it": version})
    found = saver.get_tuple(config)
    assert found is not None
    return found.checkpoint["channel_values"]["it"]


def _domain_values() -> list[Any]:
    bar = domain.Bar("BTC-USD", 1, Decimal("1.50"), Decimal(2), Decimal(1), Decimal("1.5"), Decimal(0))
    fill = domain.Fill("1", "2", "BTC-USD", domain.Side.BUY, Decimal(1), Decimal("0.10"), Decimal(0), 5)
    check = domain.Check("size", passed=False, value=1.5, limit="none", reason="why")
    hold = domain.TradePlan("X", domain.TradingAction.HOLD, 0.0, Decimal(0), Decimal(1), reasons=("calm",))
    return [
        bar,
        fill,
        domain.MarketView("X", 60, (1, 2), (1.0, 2.0), (1.0, 2.0), (1.0, 2.0), (1.0, 2.0)),
        domain.Finding("trend", 0.5, 1.0, "up", {"slope": 0.1}),
        domain.Verdict(domain.Outcome.REVISE, (check,), (domain.Revision("quantity", 1.0, "large"),)),
        hold,
        domain.Portfolio("main", Decimal("100.00")).apply(fill),
        domain.TradingState.REDUCING,
        domain.OrderStatus.UNKNOWN,
        [domain.Outage("news", required=True, error="down")],
    ]


@pytest.mark.parametrize("value", _domain_values(), ids=lambda value: type(value).__name__)
def test_domain_values_survive_unchanged(saver: SqlSaver, value: Any) -> None:
    found = _kept(saver, value)

    assert found == value
    assert type(found) is type(value)


def test_a_class_that_nobody_allowed_is_not_made(tmp_path: Path) -> None:
    with SqlSaver.open(tmp_path / "runs.db") as saver:
        mine = _Mine(3)
        made = _Mine.made
        assert _kept(saver, mine) == {"x": 3}
        assert _Mine.made == made
    with SqlSaver.open(tmp_path / "runs.db", allowed=[_Mine]) as saver:
        assert _kept(saver, mine) == mine
        assert _kept(saver, domain.Side.SELL) is domain.Side.SELL


def test_an_allow_list_that_langgraph_adds_shares_the_database(saver: SqlSaver) -> None:
    clone = saver.with_allowlist([(_Mine.__module__, _Mine.__name__)])

    assert isinstance(clone, SqlSaver)
    assert _kept(clone, _Mine(4)) == _Mine(4)
    assert clone._database is saver._database
    assert _kept(saver, _Mine(4)) == {"x": 4}


def test_pickle_is_refused_wherever_it_hides(tmp_path: Path) -> None:
    unsafe = JsonPlusSerializer(pickle_fallback=True)
    with Database.open(tmp_path / "runs.db") as database:
        for serde in (unsafe, EncryptedSerializer(object(), unsafe)):  # type: ignore[arg-type]
            with pytest.raises(ConfigError, match="pickle"):
                SqlSaver(database, serde)


class _Scrambler:
    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        return "xor", bytes(byte ^ 0x5A for byte in plaintext)

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        return self.encrypt(ciphertext)[1]


def test_an_encrypting_serializer_leaves_nothing_readable(tmp_path: Path) -> None:
    with Database.open(tmp_path / "runs.db") as database:
        saver = SqlSaver(database, EncryptedSerializer(_Scrambler()))
        graph = _counting(30, "canary-secret").compile(checkpointer=saver)
        graph.invoke({"items": [], "count": 0}, {**_THREAD, "recursion_limit": 40}, **_SYNC)
        assert len(graph.get_state(_THREAD).values["items"]) == 30
        assert not [each for each in tmp_path.iterdir() if b"canary-secret" in each.read_bytes()]


# Values that grow.


def _grow(saver: SqlSaver, steps: int, config: Any, start: int = 0, version: str | None = None) -> tuple[Any, str]:
    """What LangGraph saves for a plain list that grows by 1 KB a step."""
    items = [f"{number * 7919:064x}" * 16 for number in range(start)]
    for number in range(start, start + steps):
        items.append(f"{number * 7919:064x}" * 16)
        version = saver.get_next_version(version, None)
        checkpoint = {**empty_checkpoint(), "id": str(uuid6(clock_seq=number))}
        checkpoint |= {"channel_values": {"items": items}, "channel_versions": {"items": version}}
        metadata: CheckpointMetadata = {"source": "loop", "step": number}
        config = saver.put(config, checkpoint, metadata, {"items": version})  # type: ignore[arg-type]
        saver.put_writes(config, [("items", items[-1:])], f"task-{number}")
    assert version is not None
    return config, version


def test_a_thousand_steps_of_a_growing_list_stay_small(tmp_path: Path) -> None:
    place: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    with SqlSaver.open(tmp_path / "runs.db") as saver:
        newest, _ = _grow(saver, 1_000, place)
        found = saver.get_tuple(newest)
        assert found is not None
        assert len(found.checkpoint["channel_values"]["items"]) == 1_000
        sizes = [len(tup.checkpoint["channel_values"]["items"]) for tup in saver.list(place, limit=120)]
        assert sizes == list(range(1_000, 880, -1))
        depths = saver._database.read(
            lambda connection: connection.execute(select(store.values.c.depth)).scalars().all()
        )

    kept_bytes = sum(each.stat().st_size for each in tmp_path.iterdir())  # the log beside it is folded in by now
    assert kept_bytes < 7_000_000
    assert max(depths) == store.CHAIN_MAX
    assert depths.count(0) <= 1_000 + 2 + 1_000 // store.CHAIN_MAX  # the writes, and whole copies of the list


def test_a_new_process_starts_a_new_chain_and_a_lost_base_is_never_relied_on(tmp_path: Path) -> None:
    place: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    with SqlSaver.open(tmp_path / "runs.db") as first, SqlSaver.open(tmp_path / "runs.db") as second:
        config, version = _grow(first, 10, place)
        second.delete_thread("t")  # the first knows nothing of it, and remembers its last value
        config, version = _grow(first, 5, config, 10, version)
        found = [second.get_tuple(config)]
        config, _ = _grow(second, 5, config, 15, version)
        found.append(first.get_tuple(config))

    assert [len(each.checkpoint["channel_values"]["items"]) for each in found if each] == [15, 20]


def test_what_is_remembered_is_bounded(saver: SqlSaver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("checkpoints.contents._REMEMBERED_BYTES_MAX", 20_000)
    for number in range(8):
        place: Any = {"configurable": {"thread_id": f"t{number}", "checkpoint_ns": ""}}
        config, _ = _grow(saver, 5, place)
        found = saver.get_tuple(config)
        assert found is not None
        assert len(found.checkpoint["channel_values"]["items"]) == 5

    kept = saver._contents._known
    assert saver._contents._bytes == sum(map(contents._size, kept.values())) <= 20_000
    assert [thread_id for thread_id, _ in kept] == ["t5", "t6", "t7"]


# DeltaChannel.


def _append(state: list[str], writes: list[list[str]]) -> list[str]:
    return [*state, *(each for write in writes for each in write)]


def _delta_graph(steps: int, frequency: int = 1_000) -> Any:
    class State(TypedDict):
        items: Annotated[list[str], DeltaChannel(_append, snapshot_frequency=frequency)]
        count: int

    graph = StateGraph(State)
    graph.add_node("step", lambda state: {"items": [f"i{state['count']}"], "count": state["count"] + 1})
    graph.add_edge(START, "step")
    graph.add_conditional_edges("step", lambda state: "step" if state["count"] < steps else END)
    return graph


@pytest.mark.parametrize("frequency", [7, 1_000])
def test_a_pruned_delta_channel_keeps_its_value(saver: SqlSaver, frequency: int) -> None:
    graph = _delta_graph(30, frequency).compile(checkpointer=saver)
    graph.invoke({"items": ["first"], "count": 0}, {**_THREAD, "recursion_limit": 40}, **_SYNC)
    before = graph.get_state(_THREAD)
    assert len(before.values["items"]) == 31

    saver.prune(["run-1"])

    assert graph.get_state(_THREAD).values == before.values
    kept = len(list(saver.list(_THREAD)))
    assert kept <= frequency + 1
    saver.prune(["run-1"])
    assert len(list(saver.list(_THREAD))) == kept
    graph.update_state(_THREAD, {"count": 0}, as_node="step")
    assert graph.invoke(None, {**_THREAD, "recursion_limit": 40}, **_SYNC)["items"][31:] == [f"i{n}" for n in range(30)]


def test_a_pruned_thread_without_delta_channels_keeps_one_checkpoint(saver: SqlSaver) -> None:
    graph = _counting(30).compile(checkpointer=saver)
    graph.invoke({"items": [], "count": 0}, {**_THREAD, "recursion_limit": 40}, **_SYNC)
    before = graph.get_state(_THREAD)

    saver.prune(["run-1"])

    assert _count(saver, store.checkpoints) == 1
    assert graph.get_state(_THREAD).values == before.values
    saver.prune(["run-1"], strategy="delete")
    assert _count(saver, store.checkpoints) == _count(saver, store.values) == _count(saver, store.writes) == 0
    with pytest.raises(InvalidValue, match="no strategy 'everything'"):
        saver.prune(["run-1"], strategy="everything")


def test_deleting_a_run_leaves_what_a_later_one_is_rebuilt_from(saver: SqlSaver) -> None:
    graph = _delta_graph(5).compile(checkpointer=saver)
    first: Any = {"configurable": {"thread_id": "run-1"}, "metadata": {"run_id": "first"}}
    second: Any = {"configurable": {"thread_id": "run-1"}, "metadata": {"run_id": "second"}}
    graph.invoke({"items": ["a"], "count": 0}, first, **_SYNC)
    graph.invoke({"items": ["b"], "count": 3}, second, **_SYNC)
    before = graph.get_state(_THREAD).values
    assert len(before["items"]) == 9

    saver.delete_for_runs(["first"])
    assert graph.get_state(_THREAD).values == before
    saver.delete_for_runs(["second", "first"])
    assert saver.get_tuple(_THREAD) is None
    assert _count(saver, store.values) == 0


async def test_the_history_of_channels_is_that_of_the_reference_walk(saver: SqlSaver) -> None:
    graph = _delta_graph(90, 40).compile(checkpointer=saver)
    await graph.ainvoke({"items": ["first"], "count": 0}, {**_THREAD, "recursion_limit": 99}, **_SYNC)
    for tup in [*saver.list(_THREAD)][::9]:
        wanted: Any = {"config": tup.config, "channels": ["items", "count", "none"]}
        reference = BaseCheckpointSaver.get_delta_channel_history(saver, **wanted)
        assert saver.get_delta_channel_history(**wanted) == reference
        assert await saver.aget_delta_channel_history(**wanted) == reference
    nowhere: Any = {"configurable": {"thread_id": "none"}}
    assert saver.get_delta_channel_history(config=nowhere, channels=["items"]) == {"items": {"writes": []}}


def test_a_copied_thread_goes_its_own_way(saver: SqlSaver) -> None:
    graph = _delta_graph(4).compile(checkpointer=saver)
    graph.invoke({"items": ["a"], "count": 0}, _THREAD, **_SYNC)
    saver.copy_thread("run-1", "copy")
    saver.delete_thread("run-1")
    copy: Any = {"configurable": {"thread_id": "copy"}}

    assert graph.get_state(copy).values["items"] == ["a", "i0", "i1", "i2", "i3"]


# Damage.


@pytest.mark.parametrize("table", [store.checkpoints, store.values, store.writes], ids=lambda table: table.name)
def test_damage_is_named_and_the_newest_whole_checkpoint_offered(saver: SqlSaver, table: Any) -> None:
    graph = _counting(6, "long" * 100).compile(checkpointer=saver)
    graph.invoke({"items": [], "count": 0}, _THREAD, **_SYNC)
    line = [tup.config["configurable"]["checkpoint_id"] for tup in saver.list(_THREAD)]
    third = saver.get_tuple({"configurable": {"thread_id": "run-1", "checkpoint_id": line[2]}})
    assert third is not None
    place = (
        table.c.version == store.digest_of(*saver.serde.dumps_typed(third.checkpoint["channel_values"]["items"]))
        if table is store.values
        else table.c.checkpoint_id == line[2]
    )
    statement = update(table).where(place).values(body=b"\x00")
    saver._database.write(lambda connection: connection.execute(statement))

    with pytest.raises(
        CheckpointDamaged, match=f"is damaged.*the newest older one that is whole is '{line[3]}'"
    ) as caught:
        saver.get_tuple(third.config)
    assert caught.value.undamaged == line[3]
    assert "run-1" in str(caught.value)
    assert saver.get_tuple({"configurable": {"thread_id": "run-1", "checkpoint_id": line[3]}})
    with pytest.raises(CheckpointDamaged):
        list(saver.list(_THREAD))


def test_a_value_that_is_gone_is_damage_and_not_an_empty_channel(saver: SqlSaver) -> None:
    _counting(3, "long" * 100).compile(checkpointer=saver).invoke({"items": [], "count": 0}, _THREAD, **_SYNC)
    saver._database.write(lambda connection: connection.execute(store.values.delete()))

    with pytest.raises(CheckpointDamaged, match=r"channel 'items', stored as .* is missing") as caught:
        saver.get_tuple(_THREAD)
    assert caught.value.undamaged is None or caught.value.undamaged


# A wall clock that is set back. LangGraph makes ids from it, so that what is saved later has smaller ids.


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Start a process, as far as ids can tell, whose wall clock is so many hours slow."""

    def set_back(hours: int) -> None:
        ticks = count((2_000_000_000 - 3_600 * hours) * 1_000_000_000, 1_000)
        monkeypatch.setattr(langgraph_ids, "time", SimpleNamespace(time_ns=lambda: next(ticks)))
        monkeypatch.setattr(langgraph_ids, "_last_v6_timestamp", None)

    set_back(0)
    return set_back


def _relay(calls: list[str], down: str = "") -> Any:
    def run(name: str, state: _Counter) -> dict[str, Any]:
        calls.append(name)
        if name == down:
            raise ConnectionError(name)
        return {"items": [name], "count": state["count"] + 1}

    graph = StateGraph(_Counter)
    graph.add_sequence([(name, partial(run, name)) for name in "abcdef"])
    graph.add_edge(START, "a")
    return graph


@pytest.mark.parametrize("durability", ["sync", "async"])
def test_a_run_whose_clock_is_set_back_goes_on_at_the_last_saved(
    tmp_path: Path, set_clock: Callable[[int], None], durability: Any
) -> None:
    calls: list[str] = []
    for hours, down in enumerate("bdf"):
        set_clock(hours)
        with SqlSaver.open(tmp_path / "runs.db") as saver:
            graph = _relay(calls, down).compile(checkpointer=saver)
            with pytest.raises(ConnectionError):
                graph.invoke(None if hours else {"items": [], "count": 0}, _THREAD, durability=durability)
    set_clock(3)
    with SqlSaver.open(tmp_path / "runs.db") as saver:
        graph = _relay(calls).compile(checkpointer=saver)
        halfway = graph.get_state(_THREAD)
        result = graph.invoke(None, _THREAD, durability=durability)
        history = list(graph.get_state_history(_THREAD))

    assert (halfway.values["items"], halfway.next) == (list("abcde"), ("f",))
    assert calls == list("abbcddeff")  # only what had failed was run twice
    assert result == {"items": list("abcdef"), "count": 6}
    assert [len(state.values["items"]) for state in history] == [6, 5, 4, 3, 2, 1, 0, 0]
    ids = [state.config["configurable"]["checkpoint_id"] for state in history]
    assert ids != sorted(ids, reverse=True)


async def test_finished_siblings_are_kept_when_the_clock_is_set_back(
    saver: SqlSaver, set_clock: Callable[[int], None]
) -> None:
    calls: list[str] = []
    down = {"c"}
    graph = _swarm(calls, down).compile(checkpointer=saver)
    await graph.ainvoke({"names": ["a"], "found": []}, _THREAD, **_SYNC)
    set_clock(1)
    with pytest.raises(ConnectionError):
        await graph.ainvoke({"names": ["b", "c", "d"], "found": []}, _THREAD, **_SYNC)
    finished = set(calls) - {"c"}
    down.clear()
    set_clock(2)
    result = await graph.ainvoke(None, _THREAD, **_SYNC)

    assert result["found"] == ["a", "b", "c", "d"]
    assert all(calls.count(name) == 1 for name in finished)


def _put_line(saver: SqlSaver, ids: list[str], thread_id: str = "run-1") -> None:
    config: Any = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
    for step, each in enumerate(ids):
        metadata: CheckpointMetadata = {"source": "loop", "step": step}
        config = saver.put(config, {**empty_checkpoint(), "id": each}, metadata, {})


_FALLING = [f"{number:04}" for number in range(120, 0, -1)]


async def test_decreasing_ids_are_found_and_listed_in_the_order_of_saving(saver: SqlSaver) -> None:
    _put_line(saver, _FALLING)

    def steps(**asked: Any) -> list[int]:
        return [tup.metadata["step"] for tup in saver.list(_THREAD, **asked)]

    newest = saver.get_tuple(_THREAD)
    assert newest is not None
    assert newest.checkpoint["id"] == "0001"
    assert newest == await saver.aget_tuple(_THREAD)
    assert steps() == list(range(119, -1, -1))
    assert steps(limit=55) == list(range(119, 64, -1))
    before: Any = {"configurable": {"thread_id": "run-1", "checkpoint_id": _FALLING[70]}}
    assert steps(before=before) == list(range(69, -1, -1))
    assert steps(before=before, limit=2) == [69, 68]
    assert steps(before=before, filter={"step": 60}) == [60]
    assert [tup.metadata["step"] async for tup in saver.alist(_THREAD, before=before)] == list(range(69, -1, -1))
    unknown: Any = {"configurable": {"thread_id": "run-1", "checkpoint_id": "0002x"}}
    assert steps(before=unknown) == [119, 118]


def test_pruning_keeps_the_last_saved_when_the_clock_was_set_back(saver: SqlSaver) -> None:
    _put_line(saver, _FALLING)

    saver.prune(["run-1"])

    assert [tup.checkpoint["id"] for tup in saver.list(_THREAD)] == ["0001"]


@pytest.mark.parametrize("frequency", [3, 1_000])
def test_a_delta_channel_keeps_its_last_value_when_the_clock_was_set_back(
    saver: SqlSaver, set_clock: Callable[[int], None], frequency: int
) -> None:
    graph = _delta_graph(5, frequency).compile(checkpointer=saver)
    for hours in range(3):
        set_clock(hours)
        graph.invoke({"items": [f"run {hours}"], "count": hours}, _THREAD, **_SYNC)
    before = graph.get_state(_THREAD)
    expected = [each for first in range(3) for each in (f"run {first}", *(f"i{n}" for n in range(first, 5)))]
    assert before.values == {"items": expected, "count": 5}

    saver.copy_thread("run-1", "copy")
    saver.prune(["run-1"])

    assert graph.get_state(_THREAD) == before
    copied = graph.get_state({"configurable": {"thread_id": "copy"}})
    assert copied.values == before.values
    assert copied.config["configurable"]["checkpoint_id"] == before.config["configurable"]["checkpoint_id"]


def test_a_copied_thread_has_the_order_of_its_source(saver: SqlSaver) -> None:
    _put_line(saver, ["0003", "0004", "0001", "0002"])
    saver.copy_thread("run-1", "copy")
    copy: Any = {"configurable": {"thread_id": "copy"}}

    assert [tup.checkpoint["id"] for tup in saver.list(copy)] == ["0002", "0001", "0004", "0003"]


def test_instead_of_a_damaged_checkpoint_the_last_saved_before_it_is_offered(saver: SqlSaver) -> None:
    _put_line(saver, ["0003", "0004", "0001", "0002"])
    damage = update(store.checkpoints).where(store.checkpoints.c.checkpoint_id == "0001").values(body=b"\x00")
    saver._database.write(lambda connection: connection.execute(damage))

    with pytest.raises(CheckpointDamaged) as caught:
        saver.get_tuple({"configurable": {"thread_id": "run-1", "checkpoint_id": "0001"}})
    assert caught.value.undamaged == "0004"


# Many at once.


def test_fifty_threads_on_one_file(saver: SqlSaver) -> None:
    graph = _counting(4, "y" * 300).compile(checkpointer=saver)

    def run(number: int) -> Any:
        return graph.invoke({"items": [str(number)], "count": 0}, {"configurable": {"thread_id": str(number)}}, **_SYNC)

    with ThreadPoolExecutor(50) as threads:
        results = list(threads.map(run, range(50)))

    for number, result in enumerate(results):
        config: Any = {"configurable": {"thread_id": str(number)}}
        assert graph.get_state(config).values == result
        assert result["items"][0] == str(number)
    assert _count(saver, store.checkpoints) == 50 * 6


async def test_fifty_runs_on_one_event_loop_share_commits(saver: SqlSaver) -> None:
    graph = _counting(4).compile(checkpointer=saver)
    runs = (
        graph.ainvoke({"items": [], "count": 0}, {"configurable": {"thread_id": str(number)}}, **_SYNC)
        for number in range(50)
    )
    results = await asyncio.gather(*runs)

    assert [result["count"] for result in results] == 50 * [4]
    assert len([tup async for tup in saver.alist(None)]) == 50 * 6


_RUNS = """
import sys
from checkpoints.saver import SqlSaver
from tests.checkpoints.test_saver import _counting

with SqlSaver.open(sys.argv[1]) as saver:
    graph = _counting(int(sys.argv[3]), "z" * 200).compile(checkpointer=saver)
    for number in range(int(sys.argv[4])):
        config = {"configurable": {"thread_id": f"{sys.argv[2]}-{number}"}, "recursion_limit": 10_000}
        for state in graph.stream({"items": [], "count": 0}, config, durability="sync", stream_mode="values"):
            print(state["count"], flush=True)
"""


def test_four_processes_on_one_file(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _RUNS, str(path), name, "3", "8"],
            cwd=_ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in "abcd"
    ]
    ends = [(child.communicate(timeout=120)[1], child.returncode) for child in children]

    assert ends == 4 * [("", 0)]
    with SqlSaver.open(path) as saver:
        graph = _counting(3).compile(checkpointer=saver)
        states = [graph.get_state({"configurable": {"thread_id": f"{name}-{n}"}}) for name in "abcd" for n in range(8)]
        assert [state.values["count"] for state in states] == 32 * [3]
        assert _count(saver, store.checkpoints) == 32 * 5


@pytest.mark.parametrize("steps", [1, 40])
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, steps: int) -> None:
    path = tmp_path / "runs.db"
    command = [sys.executable, "-c", _RUNS, str(path), "run", "5000", "1"]
    child = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    seen = [int(child.stdout.readline()) for _ in range(steps)]
    child.send_signal(signal.SIGKILL)
    seen += [int(line) for line in child.stdout if line.endswith("\n")]
    child.stdout.close()
    child.wait()

    config: Any = {"configurable": {"thread_id": "run-0"}}
    with SqlSaver.open(path) as saver:
        graph = _counting(seen[-1] + 3, "z" * 200).compile(checkpointer=saver)
        found = saver.get_tuple(config)
        assert found is not None
        assert found.checkpoint["channel_values"].get("count", 0) >= seen[-1] - 1  # all but the step on its way
        result = graph.invoke(None, {**config, "recursion_limit": 10_000}, **_SYNC)

    assert result["items"] == [f"{'z' * 200}{number}" for number in range(result["count"])]


# The asynchronous twins.


async def test_each_method_has_a_twin_that_does_the_same(saver: SqlSaver) -> None:
    graph = _delta_graph(3).compile(checkpointer=saver)
    for thread_id in ("a", "b", "c"):
        config: Any = {"configurable": {"thread_id": thread_id}, "metadata": {"run_id": f"run-{thread_id}"}}
        await graph.ainvoke({"items": [], "count": 0}, config, **_SYNC)
    await saver.acopy_thread("a", "d")
    await saver.aprune(["a"], strategy="delete")
    await saver.adelete_for_runs(["run-b"])
    await saver.adelete_thread("c")

    left = [tup async for tup in saver.alist(None)]
    assert {tup.config["configurable"]["thread_id"] for tup in left} == {"d"}
    assert left == list(saver.list(None))
    assert await saver.aget_tuple(left[2].config) == saver.get_tuple(left[2].config) == left[2]
    assert await asyncio.to_thread(partial(saver.get_tuple, {"configurable": {"thread_id": "c"}})) is None
