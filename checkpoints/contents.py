"""What values are saved as: by content, each once, and where it may be as the difference to another of its thread.

The last values and writes of each thread are remembered, whole. A value that is the output of the task before it (as
that of a plain channel is), or that did not change, is stored already, and is only named. One that resembles the
channel's last one, or has one of the others in it (a `Send` that carries a part of the state), is a difference.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from threading import Lock
from typing import NamedTuple, TypeAlias

from sqlalchemy import Connection

from checkpoints import store
from checkpoints.patch import make_patch
from checkpoints.store import BY_CONTENT, ValueRow

__all__ = ["Content", "Contents"]

_PATCHED_MIN = 1_024
"""Bytes from which on a content may be stored as a difference."""
_REMEMBERED_BYTES_MAX = 64 * 1024 * 1024
"""Contents kept in memory to make differences to; of the threads unused for longest they are stored whole again."""
_OTHERS_MAX = 4
"""Contents, beside the last ones of the channel, that are looked for in a new one."""
_LONGER_MAX = 4
"""How many times as long as a content one may be that is searched for parts of it."""
_ANCHOR = 32
"""Bytes that are looked for."""

_Place: TypeAlias = tuple[str, str]
"""Thread id and namespace."""
_Key: TypeAlias = tuple[str, bool]
"""Channel, and whether it is what a task wrote."""


class Content(NamedTuple):
    """What the serializer made of a channel's value, or of what a task wrote to it, and what it is called.

    `version`: the value's, empty where nobody will ask for it; None of what a task wrote.
    """

    channel: str
    version: str | None
    kind: str
    body: bytes
    digest: str

    @property
    def key(self) -> "_Key":
        """Values of a channel are like each other, and so are writes; a write may be little of a value."""
        return (self.channel, self.version is None)


class _Kept(NamedTuple):
    """A content that was stored, `depth` differences away from a whole copy."""

    content: Content
    depth: int


_Known: TypeAlias = dict[_Key, _Kept]


class Contents:
    """What was saved last in each thread and namespace. It may be gone from the database: that is looked up."""

    def __init__(self) -> None:
        self._known: OrderedDict[_Place, _Known] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def last(self, place: _Place, channel: str, version: str) -> Content | None:
        """The channel's value, if the last one saved is of this version."""
        with self._lock:
            kept = self._known.get(place, {}).get((channel, False))
        return kept.content if kept is not None and kept.content.version == version else None

    def save(self, connection: Connection, place: _Place, contents: Sequence[Content]) -> None:
        """See to it that all of these are stored, under their digests."""
        if not contents:
            return
        with self._lock:
            known = dict(self._known.get(place, {}))
        named = {kept.content.digest: kept for kept in known.values()}
        new: dict[str, ValueRow] = {}
        for content in contents:
            kept = named.get(content.digest)
            if kept is None:
                row = new[content.digest] = _row(place, content, known)
                kept = named[content.digest] = _Kept(content, row.depth)
            same = content._replace(body=kept.content.body)  # equal bytes are kept once
            known[content.key] = _Kept(same, kept.depth)
        store.save_values(connection, _missing(connection, place, contents, new))
        with self._lock:
            old = self._known.pop(place, {})
            self._known[place] = known
            self._bytes += _size(known) - _size(old)
            while self._bytes > _REMEMBERED_BYTES_MAX:
                _, dropped = self._known.popitem(last=False)
                self._bytes -= _size(dropped)


def _size(known: _Known) -> int:
    return sum({kept.content.digest: len(kept.content.body) for kept in known.values()}.values())


def _missing(
    connection: Connection, place: _Place, contents: Sequence[Content], new: Mapping[str, ValueRow]
) -> Iterator[ValueRow]:
    """The rows to save. What should be there may have been deleted, or never committed; what is new may be there.

    In either case it is saved whole: what is there may be damaged, and a difference would leave it so.
    """
    bases = {row.version: row.base for row in new.values() if row.base is not None}
    asked = {content.digest for content in contents} - new.keys() | bases.keys() | set(bases.values()) - new.keys()
    stored = store.stored_digests(connection, *place, asked) if asked else set()
    for digest, content in {content.digest: content for content in contents}.items():
        row = new.get(digest)
        if row is None:
            if digest not in stored:
                yield _whole(place, content)
        elif row.base is not None and (digest in stored or not (row.base in stored or row.base in new)):
            yield _whole(place, content)
        else:
            yield row


def _row(place: _Place, content: Content, known: _Known) -> ValueRow:
    """The content as a difference, if one of those that are known is like it, or as a whole."""
    whole = _whole(place, content)
    if len(content.body) < _PATCHED_MIN:
        return whole
    for base in _bases(content, known):
        patch = make_patch(base.content.body, content.body)
        if patch is not None:
            return replace(whole, base=base.content.digest, depth=base.depth + 1, body=patch)
    return whole


def _whole(place: _Place, content: Content) -> ValueRow:
    return ValueRow(*place, BY_CONTENT, content.digest, None, 0, content.kind, content.body)


def _bases(content: Content, known: _Known) -> Iterator[_Kept]:
    """What the content may be a difference to: the last ones of its channel first, then the largest of others."""
    own = [content.key, (content.channel, content.version is not None)]
    others = [kept for key, kept in known.items() if key not in own]
    others.sort(key=lambda kept: len(kept.content.body), reverse=True)
    seen: set[str] = set()
    for kept in (*(known[key] for key in own if key in known), *others[:_OTHERS_MAX]):
        if kept.depth < store.CHAIN_MAX and kept.content.digest not in seen:
            seen.add(kept.content.digest)
            if _is_alike(kept.content.body, content.body):
                yield kept


def _is_alike(old: bytes, new: bytes) -> bool:
    """Whether a closer look is worth it: some bytes of the new one, of its first half or its second, are in the old."""
    if not _PATCHED_MIN <= len(old) <= _LONGER_MAX * len(new):
        return False
    return any(new[at : at + _ANCHOR] in old for at in (len(new) // 4, 3 * len(new) // 4))
