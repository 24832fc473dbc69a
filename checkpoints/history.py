"""A saver's rows as LangGraph sees them: checkpoints with their values, and the ancestors that a value is rebuilt from.

Everything here runs inside one transaction, which the saver opens.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import Checkpoint, CheckpointMetadata, CheckpointTuple, DeltaChannelHistory
from langgraph.checkpoint.serde.base import SerializerProtocol
from sqlalchemy import Connection

from agents.errors import CheckpointDamaged, InvalidValue
from checkpoints import loading, upkeep
from checkpoints.loading import Page
from checkpoints.store import BY_CONTENT, CheckpointRow, WriteRow

__all__ = ["PAGE", "History", "config_of"]

Name: TypeAlias = tuple[str, str]
"""Channel and version that a value is stored under."""

PAGE = 50
"""Checkpoints that are read at once when they are listed."""
_WALK = 64
_WALK_MAX = 1_000
"""Ancestors that are read at once: the first time, and at most."""
_OFFERS_MAX = 100
"""Older checkpoints that are tried when one is damaged."""


@dataclass(frozen=True, slots=True)
class _Saved:
    """A checkpoint row, opened. `stored`: the names (channel, version) of the values that are rows of their own."""

    row: CheckpointRow
    checkpoint: dict[str, Any]
    inline: dict[str, Any]
    stored: Mapping[str, tuple[str, str]]
    metadata: dict[str, Any]

    @property
    def rebuilt(self) -> set[str]:
        """Channels that have a version and no value: consumed, or a DeltaChannel, rebuilt from earlier writes."""
        return set(self.checkpoint["channel_versions"]) - self.inline.keys() - self.stored.keys()


@dataclass(frozen=True, slots=True)
class History:
    """What is stored, opened with one serializer."""

    serde: SerializerProtocol

    def get(self, connection: Connection, place: tuple[str, str, str | None]) -> CheckpointTuple | None:
        """The checkpoint at (thread id, namespace, checkpoint id or None for the newest).

        Raises:
            CheckpointDamaged: it is not what was written; the error names the newest older one that is whole.
        """
        try:
            return self._find(connection, *place)
        except CheckpointDamaged as error:
            offer = self._newest_undamaged(connection, *place)
            remedy = "no older one is whole" if offer is None else f"the newest older one that is whole is {offer!r}"
            raise CheckpointDamaged(f"{error}; {remedy}", undamaged=offer) from error

    def page(
        self, connection: Connection, page: Page, wanted: Mapping[str, Any]
    ) -> tuple[list[CheckpointTuple], Page | None]:
        """Those of a page whose metadata has all that is wanted, and the page that follows, if any."""
        rows, following = loading.find_page(connection, page)
        fitting = [
            saved
            for saved in map(self._opened, rows)
            if all(saved.metadata.get(name) == value for name, value in wanted.items())
        ]
        return self._tuples(connection, fitting), following

    def of_channels(
        self, connection: Connection, place: tuple[str, str, str | None], channels: Sequence[str]
    ) -> dict[str, DeltaChannelHistory]:
        """For each channel the writes since its last stored value, oldest first, and that value as `seed`."""
        row = loading.find_checkpoint(connection, *place) if channels else None
        if row is None:
            return {channel: {"writes": []} for channel in channels}
        path, seeds = self._walk(connection, row, channels)
        ids = [each.row.checkpoint_id for each in path]
        writes = loading.load_writes(connection, row.thread_id, row.ns, ids, channels)
        history: dict[str, DeltaChannelHistory] = {}
        for channel in channels:
            seed = seeds.get(channel)
            steps = ids if seed is None else ids[: seed + 1]
            rows = [write for step in reversed(steps) for write in writes[step] if write.channel == channel]
            history[channel] = {"writes": [self._pending(write) for write in rows]}
            if seed is not None:
                history[channel]["seed"] = self._seed(connection, path[seed], channel)
        return history

    def contents(self, connection: Connection, thread_id: str) -> Iterator[tuple[CheckpointRow, Mapping[str, Name]]]:
        """The thread's checkpoints, first saved first, each with the names of its stored values by channel."""
        for row in loading.find_until(connection, thread_id):
            yield row, self._opened(row).stored

    def copy_until(self, connection: Connection, source: str, target: str, checkpoint_id: str) -> None:
        """Copy a thread up to this checkpoint, without what was put out after it."""
        rows = loading.find_until(connection, source, checkpoint_id)
        used: dict[str, set[Name]] = {}
        for saved in map(self._opened, rows):
            used.setdefault(saved.row.ns, set()).update(saved.stored.values())
        upkeep.copy_part(connection, source, target, rows, used, but_writes_of=checkpoint_id)

    def verify(self, connection: Connection, thread_id: str) -> None:
        """Read the whole thread; raises whatever is wrong with it, CheckpointDamaged or an error of the serializer."""
        page: Page | None = Page(thread_id)
        while page is not None:
            tuples, page = self.page(connection, page, {})
            for each in tuples:
                name, saved = each.config["configurable"]["checkpoint_id"], each.checkpoint
                parts = (saved["channel_versions"], saved["versions_seen"], each.metadata)
                if saved["id"] != name or not all(isinstance(part, dict) for part in parts):
                    raise CheckpointDamaged(f"what is stored as checkpoint {name!r} is not one; it was not used")

    def delete_runs(self, connection: Connection, run_ids: Sequence[str]) -> None:
        """Delete what these runs saved, except what a checkpoint that stays is rebuilt from."""
        for (thread_id, ns), doomed in loading.find_runs(connection, run_ids).items():
            self._delete(connection, thread_id, ns, doomed)

    def prune(self, connection: Connection, thread_ids: Sequence[str], strategy: str) -> None:
        """See `SqlSaver.prune`."""
        if strategy not in {"keep_latest", "delete"}:
            raise InvalidValue(f"no strategy {strategy!r}; nothing was pruned; use 'keep_latest' or 'delete'")
        for thread_id in map(str, thread_ids):
            if strategy == "delete":
                upkeep.delete_thread(connection, thread_id)
                continue
            for ns in loading.find_namespaces(connection, thread_id):
                self._delete(connection, thread_id, ns, set(loading.find_ids(connection, thread_id, ns)[1:]))

    # Rows to tuples.

    def _find(
        self, connection: Connection, thread_id: str, ns: str, checkpoint_id: str | None
    ) -> CheckpointTuple | None:
        row = loading.find_checkpoint(connection, thread_id, ns, checkpoint_id)
        return None if row is None else self._tuples(connection, [self._opened(row)])[0]

    def _newest_undamaged(
        self, connection: Connection, thread_id: str, ns: str, checkpoint_id: str | None
    ) -> str | None:
        for older in loading.find_ids(connection, thread_id, ns, before=checkpoint_id)[:_OFFERS_MAX]:
            try:
                self._find(connection, thread_id, ns, older)
            except CheckpointDamaged:
                continue
            return older
        return None

    def _opened(self, row: CheckpointRow) -> _Saved:
        checkpoint, inline, stored, metadata = self.serde.loads_typed((row.kind, row.body))
        if isinstance(stored, Mapping):
            names = {channel: (BY_CONTENT, digest) for channel, digest in stored.items()}
        else:  # saved by the first version
            names = {channel: (channel, str(checkpoint["channel_versions"][channel])) for channel in stored}
        return _Saved(row, checkpoint, inline, names, metadata)

    def _tuples(self, connection: Connection, saved: Sequence[_Saved]) -> list[CheckpointTuple]:
        """The checkpoints with their values and writes: two queries a namespace, not two a checkpoint."""
        made: dict[tuple[str, str, str], CheckpointTuple] = {}
        for (thread_id, ns), group in groupby(sorted(saved, key=_namespace), key=_namespace):
            some = list(group)
            values = loading.load_values(
                connection, thread_id, ns, {each for one in some for each in one.stored.values()}
            )
            writes = loading.load_writes(connection, thread_id, ns, [one.row.checkpoint_id for one in some])
            for one in some:
                made[thread_id, ns, one.row.checkpoint_id] = self._tuple(one, values, writes[one.row.checkpoint_id])
        return [made[one.row.thread_id, one.row.ns, one.row.checkpoint_id] for one in saved]

    def _tuple(
        self, saved: _Saved, values: Mapping[tuple[str, str], tuple[str, bytes]], writes: Sequence[WriteRow]
    ) -> CheckpointTuple:
        row = saved.row
        own = {channel: self._value(row, values, channel, name) for channel, name in saved.stored.items()}
        return CheckpointTuple(
            config=config_of(row.thread_id, row.ns, row.checkpoint_id),
            checkpoint=cast("Checkpoint", {**saved.checkpoint, "channel_values": {**saved.inline, **own}}),
            metadata=cast("CheckpointMetadata", saved.metadata),
            parent_config=None if row.parent_id is None else config_of(row.thread_id, row.ns, row.parent_id),
            pending_writes=[self._pending(write) for write in writes],
        )

    def _value(
        self,
        row: CheckpointRow,
        values: Mapping[tuple[str, str], tuple[str, bytes]],
        channel: str,
        name: tuple[str, str],
    ) -> Any:
        if name not in values:
            raise CheckpointDamaged(
                f"checkpoint {row.checkpoint_id!r} of thread {row.thread_id!r} is damaged: the value of channel "
                f"{channel!r}, stored as {name[1]!r}, is missing; it was not used"
            )
        return self.serde.loads_typed(values[name])

    def _pending(self, write: WriteRow) -> tuple[str, str, Any]:
        return (write.task_id, write.channel, self.serde.loads_typed((write.kind, write.body)))

    # Channels that are rebuilt from the writes of earlier checkpoints (LangGraph's DeltaChannel).

    def _walk(
        self, connection: Connection, row: CheckpointRow, channels: Collection[str]
    ) -> tuple[list[_Saved], dict[str, int]]:
        """The ancestors, nearest first, until each of the channels has met a stored value, and where that is.

        They are read in pages that grow: the value is mostly near, but a thread may be long.
        """
        path: list[_Saved] = []
        seeds: dict[str, int] = {}
        open_channels = set(channels)
        count = _WALK
        while open_channels:
            rows = loading.find_ancestors(connection, row, count)
            for saved in map(self._opened, rows):
                met = open_channels & {*saved.inline, *saved.stored}
                seeds.update(dict.fromkeys(met, len(path)))
                open_channels -= met
                path.append(saved)
            if len(rows) < count:
                break
            row, count = rows[-1], min(2 * count, _WALK_MAX)
        return path, seeds

    def _seed(self, connection: Connection, saved: _Saved, channel: str) -> Any:
        if channel in saved.inline:
            return saved.inline[channel]
        name = saved.stored[channel]
        values = loading.load_values(connection, saved.row.thread_id, saved.row.ns, [name])
        return self._value(saved.row, values, channel, name)

    def _rebuilt_from(self, connection: Connection, saved: _Saved) -> set[str]:
        """The ancestors that a channel of this checkpoint is rebuilt from.

        Only a channel that was written since its last stored value is rebuilt; one that was merely consumed has
        no later writes.
        """
        path, seeds = self._walk(connection, saved.row, saved.rebuilt)
        ids = [each.row.checkpoint_id for each in path]
        writes = loading.load_writes(connection, saved.row.thread_id, saved.row.ns, ids, saved.rebuilt) if ids else {}
        needed = 0
        for channel in saved.rebuilt:
            reach = seeds.get(channel, len(ids) - 1) + 1
            written = [at for at, each in enumerate(ids[:reach]) if any(w.channel == channel for w in writes[each])]
            if written:
                needed = max(needed, reach if channel in seeds else written[-1] + 1)
        return set(ids[:needed])

    def _delete(self, connection: Connection, thread_id: str, ns: str, doomed: set[str]) -> None:
        """Delete these checkpoints but those that one which stays is rebuilt from, and the values nobody uses then."""
        staying = set(loading.find_ids(connection, thread_id, ns)) - doomed
        opened = [self._opened(row) for row in loading.find_rows(connection, thread_id, ns, staying)]
        spared: set[str] = set()
        for saved in opened:  # one whose parent stays needs nothing beyond it that the parent does not need itself
            if saved.row.parent_id in doomed:
                spared |= self._rebuilt_from(connection, saved) & doomed
        opened += [self._opened(row) for row in loading.find_rows(connection, thread_id, ns, spared)]
        upkeep.delete_checkpoints(connection, thread_id, ns, doomed - spared)
        upkeep.sweep_values(connection, thread_id, ns, {each for saved in opened for each in saved.stored.values()})


def _namespace(saved: _Saved) -> tuple[str, str]:
    return (saved.row.thread_id, saved.row.ns)


def config_of(thread_id: str, ns: str, checkpoint_id: str) -> RunnableConfig:
    """LangGraph's name of a checkpoint."""
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}}
