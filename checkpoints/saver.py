"""LangGraph's checkpointer over any SQLAlchemy database: `graph.compile(checkpointer=SqlSaver.open("runs.db"))`.

Run graphs with `durability="sync"`: only then is a checkpoint on disk before the next node starts. What comes back
from disk is data: the serializer rebuilds the domain's own types and those that were allowed by name, and nothing
else. A value of another class comes back as the plain fields it was saved with; LangGraph logs which.
"""

import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass, replace
from enum import Enum
from functools import partial
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_serializable_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from sqlalchemy import Connection

from agents import domain
from agents.errors import ConfigError, InvalidValue
from checkpoints import store
from checkpoints.database import Database
from checkpoints.history import PAGE, History, config_of
from checkpoints.patch import make_patch
from checkpoints.store import CheckpointRow, Page, ValueRow, WriteRow

__all__ = ["SqlSaver"]

_INLINE_TYPES = frozenset({type(None), bool, int, float, str})
_INLINE_MAX = 64
"""Characters of a text that is kept in the checkpoint's own row, as numbers and None are."""
_PATCHED_MIN = 1_024
"""Bytes from which on a value may be stored as a difference."""
_REMEMBERED_BYTES_MAX = 64 * 1024 * 1024
"""Last values kept in memory to make differences to; what falls out is stored whole the next time."""


class SqlSaver(BaseCheckpointSaver[str]):
    """Checkpoints in a database. Every method has a twin for the event loop, which waits without blocking it.

    A method that writes returns when that is durable. Any text is a thread id; it is never part of a path or of SQL.
    """

    def __init__(
        self, database: Database, serde: SerializerProtocol | None = None, *, allowed: Iterable[type] = ()
    ) -> None:
        """`allowed`: classes of your own state that may be rebuilt from disk, beside the domain's.

        Raises:
            ConfigError: `serde` would unpickle, which runs whatever code the database holds.
        """
        super().__init__(serde=serde or JsonPlusSerializer(allowed_msgpack_modules=_domain_types()))
        if _unpickles(self.serde):
            raise ConfigError("this serializer falls back to pickle; nothing was opened; make it without the fallback")
        if extra := [(each.__module__, each.__name__) for each in allowed]:
            self.serde = self.with_allowlist(extra).serde
        self._database = database
        self._last = _LastValues()

    @classmethod
    def open(cls, target: str | Path, *, allowed: Iterable[type] = ()) -> Self:
        """Open a database (see `Database.open`) for this saver alone; `close` closes it."""
        return cls(Database.open(target), allowed=allowed)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def _history(self) -> History:
        return History(self.serde)

    # Writing.

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Save a checkpoint and the values of the channels in `new_versions`; its parent is the one in `config`."""
        self._database.write(self._put_work(config, checkpoint, metadata, new_versions))
        return config_of(*_place(config)[:2], checkpoint["id"])

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """See `put`."""
        await self._database.awrite(self._put_work(config, checkpoint, metadata, new_versions))
        return config_of(*_place(config)[:2], checkpoint["id"])

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Save what a task has put out since the checkpoint in `config`."""
        rows = _write_rows(self.serde, config, writes, task_id, task_path)
        self._database.write(lambda connection: store.save_writes(connection, rows))

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """See `put_writes`."""
        rows = _write_rows(self.serde, config, writes, task_id, task_path)
        await self._database.awrite(lambda connection: store.save_writes(connection, rows))

    def get_next_version(self, current: str | int | None, channel: None) -> str:  # noqa: ARG002 (LangGraph's)
        """A count and a random part: two branches of one thread count alike, and must not share a value's key."""
        count = 0 if current is None else int(str(current).split(".", 1)[0])
        return f"{count + 1:010}.{os.urandom(6).hex()}"

    # Reading.

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint in `config`, or the last saved of its thread and namespace; None where there is none.

        Raises:
            CheckpointDamaged: a row is not what was written; `undamaged` names the newest older one that is whole.
        """
        return self._database.read(partial(self._history.get, place=_place(config)))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """See `get_tuple`."""
        return await self._database.aread(partial(self._history.get, place=_place(config)))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 (LangGraph's name)
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Checkpoints, last saved first, whose metadata has all that `filter` says. Each page of 50 is one snapshot.

        `before`: those saved before this one; if it is not stored, those whose ids are smaller.
        """
        page: Page | None = _first_page(config, filter, before, limit)
        left, history = limit, self._history
        while page is not None and (left is None or left > 0):
            found, page = self._database.read(partial(history.page, page=page, wanted=filter or {}))
            yield from found[:left]
            left = None if left is None else left - len(found)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 (LangGraph's name)
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """See `list`."""
        page: Page | None = _first_page(config, filter, before, limit)
        left, history = limit, self._history
        while page is not None and (left is None or left > 0):
            found, page = await self._database.aread(partial(history.page, page=page, wanted=filter or {}))
            for each in found[:left]:
                yield each
            left = None if left is None else left - len(found)

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """For each channel the writes since its last stored value, oldest first, and that value as `seed`."""
        return self._database.read(partial(self._history.of_channels, place=_place(config), channels=channels))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """See `get_delta_channel_history`."""
        return await self._database.aread(partial(self._history.of_channels, place=_place(config), channels=channels))

    # Deleting and copying.

    def delete_thread(self, thread_id: str) -> None:
        """Delete all that is stored of the thread."""
        self._database.write(lambda connection: store.delete_thread(connection, str(thread_id)))

    async def adelete_thread(self, thread_id: str) -> None:
        """See `delete_thread`."""
        await self._database.awrite(lambda connection: store.delete_thread(connection, str(thread_id)))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread with its whole history."""
        self._database.write(partial(store.copy_thread, source=str(source_thread_id), target=str(target_thread_id)))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """See `copy_thread`."""
        work = partial(store.copy_thread, source=str(source_thread_id), target=str(target_thread_id))
        await self._database.awrite(work)

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete what these runs saved, except what a DeltaChannel of a checkpoint that stays is rebuilt from."""
        self._database.write(partial(self._history.delete_runs, run_ids=run_ids))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """See `delete_for_runs`."""
        await self._database.awrite(partial(self._history.delete_runs, run_ids=run_ids))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """`keep_latest` leaves the last saved checkpoint of each namespace, and those that its DeltaChannels are
        rebuilt from; `delete` leaves nothing.

        Raises:
            InvalidValue: there is no such strategy.
        """  # noqa: D205 (one sentence)
        self._database.write(partial(self._history.prune, thread_ids=thread_ids, strategy=strategy))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """See `prune`."""
        await self._database.awrite(partial(self._history.prune, thread_ids=thread_ids, strategy=strategy))

    # What a write is made of. This runs in the caller's thread, so that nobody changes the state meanwhile.

    def _put_work(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> Callable[[Connection], None]:
        thread_id, ns, parent_id = _place(config)
        versions = checkpoint["channel_versions"]
        known = {channel: value for channel, value in checkpoint["channel_values"].items() if channel in versions}
        inline = {channel: value for channel, value in known.items() if _is_small(value)}
        stored = [channel for channel in known if channel not in inline]
        described = get_serializable_checkpoint_metadata(config, metadata)
        bare = {name: part for name, part in checkpoint.items() if name != "channel_values"}
        kind, body = self.serde.dumps_typed((bare, inline, stored, described))
        run_id = described.get("run_id")
        row = CheckpointRow(
            thread_id, ns, checkpoint["id"], parent_id, run_id if isinstance(run_id, str) else None, kind, body
        )
        changed = [
            self._value_rows((thread_id, ns, channel), new_versions[channel], known[channel])
            for channel in stored
            if channel in new_versions
        ]

        def work(connection: Connection) -> None:
            store.save_values(connection, [_storable(connection, *each) for each in changed])
            store.save_checkpoint(connection, row)

        return work

    def _value_rows(self, key: tuple[str, str, str], version: str | float, value: Any) -> tuple[ValueRow, ValueRow]:
        """The value as a difference, if that is smaller, and as a whole, should its base be gone by then."""
        kind, body = self.serde.dumps_typed(value)
        whole = ValueRow(*key, str(version), None, 0, kind, body)
        if len(body) < _PATCHED_MIN or not isinstance(version, str):  # other versions than ours may come again
            return whole, whole
        last = self._last.get(key)
        patch = make_patch(last.body, body) if last is not None and last.depth < store.CHAIN_MAX else None
        row = whole
        if last is not None and patch is not None:
            row = replace(whole, base=last.version, depth=last.depth + 1, body=patch)
        self._last.keep(key, replace(whole, depth=row.depth))
        return row, whole


class _LastValues:
    """The newest saved value of each large channel, whole. Bounded in bytes; the longest unused falls out first."""

    def __init__(self) -> None:
        self._rows: OrderedDict[tuple[str, str, str], ValueRow] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def get(self, key: tuple[str, str, str]) -> ValueRow | None:
        with self._lock:
            return self._rows.get(key)

    def keep(self, key: tuple[str, str, str], row: ValueRow) -> None:
        with self._lock:
            old = self._rows.pop(key, None)
            self._rows[key] = row
            self._bytes += len(row.body) - (0 if old is None else len(old.body))
            while self._bytes > _REMEMBERED_BYTES_MAX:
                _, dropped = self._rows.popitem(last=False)
                self._bytes -= len(dropped.body)


def _write_rows(
    serde: SerializerProtocol,
    config: RunnableConfig,
    writes: Sequence[tuple[str, Any]],
    task_id: str,
    task_path: str,
) -> list[WriteRow]:
    thread_id, ns, checkpoint_id = _place(config)
    if checkpoint_id is None:
        raise InvalidValue("writes belong to a checkpoint; nothing was saved; give config a checkpoint_id")
    place = (thread_id, ns, checkpoint_id, task_id)
    return [
        WriteRow(*place, WRITES_IDX_MAP.get(channel, idx), task_path, channel, *serde.dumps_typed(value))
        for idx, (channel, value) in enumerate(writes)
    ]


def _storable(connection: Connection, row: ValueRow, whole: ValueRow) -> ValueRow:
    """The difference, if what it is a difference to is stored; it may have been pruned, or never committed."""
    if row.base is None or store.has_value(connection, row.thread_id, row.ns, row.channel, row.base):
        return row
    return whole


def _is_small(value: Any) -> bool:
    return type(value) in _INLINE_TYPES and (type(value) is not str or len(value) <= _INLINE_MAX)


def _place(config: RunnableConfig) -> tuple[str, str, str | None]:
    """Thread id, namespace and checkpoint id of a config."""
    given = config.get("configurable", {})
    if "thread_id" not in given:
        raise InvalidValue("the config has no thread_id; nothing was read or saved; give configurable a thread_id")
    return str(given["thread_id"]), given.get("checkpoint_ns") or "", given.get("checkpoint_id") or None


def _first_page(
    config: RunnableConfig | None,
    wanted: Mapping[str, Any] | None,
    before: RunnableConfig | None,
    limit: int | None,
) -> Page:
    size = PAGE if wanted or limit is None else max(1, min(limit, PAGE))
    bound = before["configurable"].get("checkpoint_id") if before else None
    if config is None:
        return Page(before=bound, size=size)
    thread_id, _, checkpoint_id = _place(config)
    return Page(thread_id, config["configurable"].get("checkpoint_ns"), checkpoint_id, bound, size=size)


def _domain_types() -> list[type]:
    """The values that state may hold: every dataclass and enum of the domain."""
    public = (getattr(domain, name) for name in domain.__all__)
    return [each for each in public if isinstance(each, type) and (is_dataclass(each) or issubclass(each, Enum))]


def _unpickles(serde: object) -> bool:
    return bool(
        getattr(serde, "pickle_fallback", False) or getattr(getattr(serde, "serde", None), "pickle_fallback", False)
    )
