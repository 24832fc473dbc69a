"""LangGraph's checkpointer over any SQLAlchemy database: `graph.compile(checkpointer=SqlSaver.open("runs.db"))`.

Run graphs with `durability="sync"`: only then is a checkpoint on disk before the next node starts. What comes back
from disk is data: the serializer rebuilds the domain's own types and those that were allowed by name, and nothing
else. A value of another class comes back as the plain fields it was saved with; LangGraph logs which.
"""

import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from enum import Enum
from functools import partial
from itertools import count
from pathlib import Path
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
from checkpoints import store, upkeep
from checkpoints.contents import Content, Contents
from checkpoints.database import Database
from checkpoints.history import PAGE, History, config_of
from checkpoints.loading import Page
from checkpoints.memo import Memo
from checkpoints.store import CheckpointRow, WriteRow

__all__ = ["SqlSaver"]

_INLINE_TYPES = frozenset({type(None), bool, int, float, str})
_INLINE_MAX = 64
"""Characters of a text, or bytes of another value, that stay in the checkpoint's own row, as numbers and None are."""
_REFERRED_MIN = 1_024
"""Bytes from which on a write's content is a value: the checkpoint that follows will mostly have the same one."""


class SqlSaver(BaseCheckpointSaver[str]):
    """Checkpoints in a database. Every method has a twin for the event loop, which waits without blocking it.

    A method that writes returns when that is durable. Any text is a thread id; it is never part of a path or of SQL.
    """

    def __init__(
        self,
        database: Database,
        serde: SerializerProtocol | None = None,
        *,
        allowed: Iterable[type] = (),
        fence: Callable[[Connection, str], None] | None = None,
    ) -> None:
        """`allowed`: classes of your own state that may be rebuilt from disk, beside the domain's.

        `fence` is called with the thread's id in the transaction of each `put` and `put_writes`, and raises where that
        must not be made (see `Leases.check`). A saver without one writes whatever it is told, also to a thread that is
        somebody's run.

        Raises:
            ConfigError: `serde` would unpickle, which runs whatever code the database holds.
        """
        super().__init__(serde=serde or JsonPlusSerializer(allowed_msgpack_modules=_domain_types()))
        if _unpickles(self.serde):
            raise ConfigError("this serializer falls back to pickle; nothing was opened; make it without the fallback")
        if extra := [(each.__module__, each.__name__) for each in allowed]:
            self.serde = self.with_allowlist(extra).serde
        self._database = database
        self._fence = fence or (lambda _connection, _thread_id: None)
        self._contents = Contents()
        self._memo = Memo(self.serde.dumps_typed)
        self._salt, self._serial = os.urandom(3).hex(), count()

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
        self._database.write(self._writes_work(config, writes, task_id, task_path))

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """See `put_writes`."""
        await self._database.awrite(self._writes_work(config, writes, task_id, task_path))

    def get_next_version(self, current: str | int | None, channel: None) -> str:  # noqa: ARG002 (LangGraph's)
        """A count, and a part that no other version has: two branches of one thread count alike."""
        steps = 0 if current is None else int(str(current).split(".", 1)[0])
        return f"{steps + 1:010}.{self._salt}{next(self._serial):06x}"

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
        self._database.write(lambda connection: upkeep.delete_thread(connection, str(thread_id)))

    async def adelete_thread(self, thread_id: str) -> None:
        """See `delete_thread`."""
        await self._database.awrite(lambda connection: upkeep.delete_thread(connection, str(thread_id)))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread with its whole history."""
        self._database.write(partial(upkeep.copy_thread, source=str(source_thread_id), target=str(target_thread_id)))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """See `copy_thread`."""
        work = partial(upkeep.copy_thread, source=str(source_thread_id), target=str(target_thread_id))
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
        inline, contents = self._parted((thread_id, ns), checkpoint, new_versions)
        stored = {content.channel: content.digest for content in contents}
        described = get_serializable_checkpoint_metadata(config, metadata)
        bare = {name: part for name, part in checkpoint.items() if name != "channel_values"}
        kind, body = self.serde.dumps_typed((bare, inline, stored, described))
        run_id = described.get("run_id")
        row = CheckpointRow(
            thread_id, ns, checkpoint["id"], parent_id, run_id if isinstance(run_id, str) else None, kind, body
        )

        def work(connection: Connection) -> None:
            self._fence(connection, thread_id)
            self._contents.save(connection, (thread_id, ns), contents)
            store.save_checkpoint(connection, row)

        return work

    def _parted(
        self, place: tuple[str, str], checkpoint: Checkpoint, new_versions: ChannelVersions
    ) -> tuple[dict[str, Any], Sequence[Content]]:
        """The values that stay in the checkpoint's own row, and those that are rows of their own."""
        inline: dict[str, Any] = {}
        contents: dict[str, Content] = {}
        versions = checkpoint["channel_versions"]
        for channel, value in checkpoint["channel_values"].items():
            content = None
            if channel in versions and not _is_small(value):
                content = self._content(place, channel, versions[channel], value, is_new=channel in new_versions)
            if content is not None:
                contents[channel] = content
            elif channel in versions:
                inline[channel] = value
        return inline, list(contents.values())

    def _content(
        self, place: tuple[str, str], channel: str, version: str | float, value: Any, *, is_new: bool
    ) -> Content | None:
        """The value serialized, if it was not before; None where that is short."""
        named = version if isinstance(version, str) else ""  # other versions than ours may come again
        content = None if is_new or not named else self._contents.last(place, channel, named)
        if content is not None:
            return content
        kind, body, digest = self._memo.named(value)
        if kind == "msgpack" and len(body) <= _INLINE_MAX:
            return None
        return Content(channel, named, kind, body, digest)

    def _writes_work(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> Callable[[Connection], None]:
        thread_id, ns, checkpoint_id = _place(config)
        if checkpoint_id is None:
            raise InvalidValue("writes belong to a checkpoint; nothing was saved; give config a checkpoint_id")
        rows: list[WriteRow] = []
        contents: list[Content] = []
        for idx, (channel, value) in enumerate(writes):
            kind, body, digest = self._memo.named(value)
            place = (thread_id, ns, checkpoint_id, task_id, WRITES_IDX_MAP.get(channel, idx), task_path, channel)
            if len(body) < _REFERRED_MIN:
                rows.append(WriteRow(*place, kind, body))
                continue
            content = Content(channel, None, kind, body, digest)
            contents.append(content)
            rows.append(WriteRow(*place, store.REFERENCE + kind, content.digest.encode()))

        def work(connection: Connection) -> None:
            self._fence(connection, thread_id)
            self._contents.save(connection, (thread_id, ns), contents)
            store.save_writes(connection, rows)

        return work


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
