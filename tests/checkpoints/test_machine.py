"""Saver and registry beside a model in memory: whatever is asked of them, in whatever order, they say the same."""

import asyncio
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from langgraph.checkpoint.base import WRITES_IDX_MAP, CheckpointTuple, empty_checkpoint
from sqlalchemy import select, update

from agents.clock import ReplayClock
from agents.errors import CheckpointDamaged
from checkpoints import store
from checkpoints.database import Database
from checkpoints.history import config_of
from checkpoints.leases import Leases
from checkpoints.runs import CheckpointManager, RunStatus
from checkpoints.saver import SqlSaver

_THREADS = ["one", "two"]
_NAMESPACES = ["", "child"]
_PLACES = st.tuples(st.sampled_from(_THREADS), st.sampled_from(_NAMESPACES))
_CHANNELS = ["view", "items", "tasks", "note"]
_RUNS = ["run-1", "run-2"]


def _text(seed: int, length: int) -> str:
    return random.Random(seed).randbytes(length // 2).hex()  # noqa: S311 (test data)


_VIEWS = [_text(seed, 3_000) for seed in range(2)]
_VIEW = st.integers(0, 1).map(lambda number: _VIEWS[number])
_VALUES = st.one_of(
    st.none(),
    st.integers(0, 9),
    _VIEW,
    _VIEW,
    st.tuples(_VIEW, st.integers(0, 99)).map(lambda each: f"{each[0]}{each[1]}"),
    st.lists(_VIEW | st.just("short"), max_size=4),
    st.text(min_size=60, max_size=70),
)
_UPDATES = st.dictionaries(st.sampled_from(_CHANNELS), _VALUES, min_size=1, max_size=3)
_WRITES = st.lists(st.tuples(st.sampled_from([*_CHANNELS, "__error__"]), _VALUES), max_size=3)
_STEPS = st.lists(st.tuples(_UPDATES, _WRITES, st.sampled_from(["", "a"])), min_size=1, max_size=3)
_REMOVALS = ["prune", "run", "thread", "all of a thread"]


@dataclass(slots=True)
class _Saved:
    """What the model knows of a checkpoint."""

    checkpoint_id: str
    parent_id: str | None
    values: dict[str, Any]
    versions: dict[str, str]
    metadata: dict[str, Any]
    writes: dict[tuple[str, int], tuple[str, str, Any]] = field(default_factory=dict)

    @property
    def pending(self) -> list[tuple[str, str, Any]]:
        ordered = sorted((path, task_id, idx) for (task_id, idx), (path, _, _) in self.writes.items())
        return [(task_id, *self.writes[task_id, idx][1:]) for _, task_id, idx in ordered]


_Lines = dict[tuple[str, str], list[_Saved]]
"""By thread and namespace, in the order of saving."""


class Machine(RuleBasedStateMachine):
    """Every rule does something to both, or asks both."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._home = Path(self._folder.name)
        self._lines: _Lines = {}
        self._asked: list[tuple[tuple[str, str], dict[str, Any]]] = []
        self._runs: list[tuple[str, RunStatus]] = []
        self._numbers = random.Random(7)  # noqa: S311 (ids, which need not grow)
        self._open()

    def _open(self) -> None:
        self._database = Database.open(self._home / "holdfast.db", inline=True)
        self._saver = SqlSaver(self._database)
        clock = ReplayClock(0)
        leases = Leases(self._database, self._home, clock)
        self._manager = CheckpointManager(self._database, self._saver, leases, self._home, clock)

    def teardown(self) -> None:
        self._database.close()
        self._folder.cleanup()

    def _all(self) -> Iterator[tuple[str, str, _Saved]]:
        for (thread_id, ns), line in self._lines.items():
            for saved in line:
                yield thread_id, ns, saved

    # What is done.

    @rule(place=_PLACES, steps=_STEPS, run_id=st.sampled_from(_RUNS), back=st.integers(0, 2), again=st.booleans())
    def work(self, place: tuple[str, str], steps: list[Any], run_id: str, back: int, *, again: bool) -> None:
        """Some steps after the newest checkpoint or an older one; now and then one that is there is saved again."""
        for changed, writes, path in steps:
            self._put(place, changed, run_id, back, again=again)
            self._put_writes(place, writes, path)
            back = 0
        self._asked.append((place, steps))

    def _put(self, place: tuple[str, str], changed: dict[str, Any], run_id: str, back: int, *, again: bool) -> None:
        line = self._lines.setdefault(place, [])
        parent = line[-1 - min(back, len(line) - 1)] if line else None
        replaced = line[-1] if again and len(line) > 1 and parent is not line[-1] else None
        known = parent.versions if parent else {}
        new = {channel: self._saver.get_next_version(known.get(channel), None) for channel in changed}
        saved = _Saved(
            replaced.checkpoint_id if replaced else f"{self._numbers.randrange(10**9):09}",
            parent.checkpoint_id if parent else None,
            {**(parent.values if parent else {}), **changed},
            {**known, **new},
            {"source": "loop", "step": len(line), "run_id": run_id},
            replaced.writes if replaced else {},
        )
        checkpoint: Any = empty_checkpoint()
        checkpoint |= {"id": saved.checkpoint_id, "channel_values": saved.values, "channel_versions": saved.versions}
        config: Any = {"configurable": {"thread_id": place[0], "checkpoint_ns": place[1]}}
        if parent:
            config["configurable"]["checkpoint_id"] = parent.checkpoint_id
        metadata: Any = saved.metadata
        self._saver.put(config, checkpoint, metadata, new)
        if replaced:
            line[-1] = saved
        else:
            line.append(saved)

    def _put_writes(self, place: tuple[str, str], writes: list[tuple[str, Any]], path: str) -> None:
        """What a task puts out; what is there already stays, but for the special channels."""
        saved = self._lines[place][-1]
        if writes:
            self._saver.put_writes(config_of(*place, saved.checkpoint_id), writes, "task", path)
        for at, (channel, value) in enumerate(writes):
            idx = WRITES_IDX_MAP.get(channel, at)
            if idx < 0 or ("task", idx) not in saved.writes:
                saved.writes["task", idx] = (path, channel, value)

    @rule(source=st.sampled_from(_THREADS), copy=st.sampled_from(_THREADS))
    def copy_thread(self, source: str, copy: str) -> None:
        """Onto a thread that has nothing yet."""
        if source == copy or any(line for (thread_id, _), line in self._lines.items() if thread_id == copy):
            return
        self._saver.copy_thread(source, copy)
        for (thread_id, ns), line in list(self._lines.items()):
            if thread_id == source:
                self._lines[copy, ns] = [replace(each, writes={**each.writes}) for each in line]

    @rule(place=_PLACES, run_id=st.sampled_from(_RUNS), how=st.sampled_from(_REMOVALS), again=st.booleans())
    def remove(self, place: tuple[str, str], run_id: str, how: str, *, again: bool) -> None:
        """Then, now and then, what was done there last is done again: its values are remembered, and gone."""
        thread_id = place[0]
        if how == "prune":
            self._saver.prune([thread_id])
        elif how == "run":
            self._saver.delete_for_runs([run_id])
        elif how == "thread":
            self._saver.delete_thread(thread_id)
        else:
            self._saver.prune([thread_id], strategy="delete")
        for each, line in self._lines.items():
            if how == "run":
                line[:] = [saved for saved in line if saved.metadata["run_id"] != run_id]
            elif each[0] == thread_id:
                del line[: -1 if how == "prune" else None]
        steps = next((steps for at, steps in reversed(self._asked) if at == place), None)
        if again and steps is not None:
            self.work(place, steps, run_id, 0, again=False)

    @rule(status=st.sampled_from([RunStatus.FINISHED, RunStatus.FAILED, RunStatus.STOPPED]))
    def run(self, status: RunStatus) -> None:
        """A run that is begun and comes to an end."""

        async def work() -> str:
            begun = self._manager.begin(workflow="trade", symbol="SIM", as_of_ns=0, fingerprint={}, parameters={})
            async with begun as hold:
                return (await self._manager.mark(hold, status)).run_id

        self._runs.append((asyncio.run(work()), status))
        found = asyncio.run(self._manager.runs())
        assert [(run.run_id, run.status) for run in found] == self._runs

    @rule()
    def reopen(self) -> None:
        self._database.close()
        self._open()

    # What is asked.

    @rule()
    def list_all(self) -> None:
        """Every thread, page by page; the order across threads is that of saving, too, and is not modelled."""
        for thread_id in _THREADS:
            for ns in _NAMESPACES:
                config: Any = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ns}}
                line = self._lines.get((thread_id, ns), [])
                found = list(self._saver.list(config))
                assert [_told(each) for each in found] == [_expected(thread_id, ns, each) for each in reversed(line)]
        assert len(list(self._saver.list(None))) == sum(map(len, self._lines.values()))

    @invariant()
    def newest_are_right(self) -> None:
        for thread_id in _THREADS:
            for ns in _NAMESPACES:
                line = self._lines.get((thread_id, ns))
                found = self._saver.get_tuple({"configurable": {"thread_id": thread_id, "checkpoint_ns": ns}})
                assert (found and _told(found)) == (_expected(thread_id, ns, line[-1]) if line else None)

    # What must not go unnoticed.

    @precondition(lambda self: any(self._lines.values()))
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        """One bit of one body: then each checkpoint is right, or said to be damaged. The bit is put back."""
        table = data.draw(st.sampled_from([store.checkpoints, store.values, store.writes]))
        rows = self._database.read(lambda connection: connection.execute(select(table)).mappings().all())
        rows = [row for row in rows if row["body"]]
        if not rows:
            return
        row = data.draw(st.sampled_from(rows))
        at, bit = data.draw(st.integers(0, len(row["body"]) - 1)), data.draw(st.integers(0, 7))
        spoilt = row["body"][:at] + bytes([row["body"][at] ^ (1 << bit)]) + row["body"][at + 1 :]
        self._write_body(table, row, spoilt)
        met = sum(self._is_damaged(thread_id, ns, saved) for thread_id, ns, saved in self._all())
        self._write_body(table, row, row["body"])
        assert met or table is store.values  # of a value there may be an older copy that nobody uses

    def _is_damaged(self, thread_id: str, ns: str, saved: _Saved) -> bool:
        config = config_of(thread_id, ns, saved.checkpoint_id)
        try:
            found = self._saver.get_tuple(config)
        except CheckpointDamaged as error:
            if error.undamaged is not None:
                offered = self._saver.get_tuple(config_of(thread_id, ns, error.undamaged))
                older = [each for each in self._lines[thread_id, ns] if each.checkpoint_id == error.undamaged]
                assert offered
                assert _told(offered) == _expected(thread_id, ns, older[0])
            return True
        assert found
        assert _told(found) == _expected(thread_id, ns, saved)
        return False

    def _write_body(self, table: Any, row: Any, body: bytes) -> None:
        mine = [column == row[column.name] for column in table.primary_key]
        self._database.write(lambda connection: connection.execute(update(table).where(*mine).values(body=body)))


def _told(found: CheckpointTuple) -> Any:
    return (
        found.config,
        found.parent_config,
        found.checkpoint["channel_values"],
        found.checkpoint["channel_versions"],
        found.metadata,
        found.pending_writes,
    )


def _expected(thread_id: str, ns: str, saved: _Saved) -> Any:
    parent = None if saved.parent_id is None else config_of(thread_id, ns, saved.parent_id)
    own = config_of(thread_id, ns, saved.checkpoint_id)
    return (own, parent, saved.values, saved.versions, saved.metadata, saved.pending)


TestMachine = pytest.mark.filterwarnings("error")(Machine.TestCase)
TestMachine.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
