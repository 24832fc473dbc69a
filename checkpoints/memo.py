"""A text is serialized and named once, though it comes twice: as what a task puts out, and as its channel's value."""

from collections.abc import Callable
from threading import Lock
from typing import Any, TypeAlias

from checkpoints.store import digest_of

__all__ = ["Memo"]

_REMEMBERED_MIN = 4_096
"""Bytes from which on to look an object up takes less than to serialize it again."""
_REMEMBERED_MAX = 64
_REMEMBERED_BYTES_MAX = 16 * 1024 * 1024

_Named: TypeAlias = tuple[str, bytes, str]
"""The serializer's kind and bytes of a value, and the name of that content."""


class Memo:
    """The contents of the newest long texts and bytes, by the object itself.

    Only these two: another object may have been changed since, and would be saved as it was before.
    """

    def __init__(self, dumps: Callable[[Any], tuple[str, bytes]]) -> None:
        self._dumps = dumps
        self._known: dict[int, tuple[Any, _Named]] = {}  # it holds the objects, so that no id is given again
        self._bytes = 0
        self._lock = Lock()

    def named(self, value: Any) -> _Named:
        """Serialize a value, and name its content."""
        if type(value) not in {str, bytes} or len(value) < _REMEMBERED_MIN:
            return self._serialized(value)
        with self._lock:
            known = self._known.get(id(value))
        if known is not None:
            return known[1]
        named = self._serialized(value)
        with self._lock:
            self._remember(value, named)
        return named

    def _serialized(self, value: Any) -> _Named:
        kind, body = self._dumps(value)
        return kind, body, digest_of(kind, body)

    def _remember(self, value: Any, named: _Named) -> None:
        if id(value) not in self._known:
            self._bytes += len(named[1])
        self._known[id(value)] = (value, named)
        while len(self._known) > _REMEMBERED_MAX or self._bytes > _REMEMBERED_BYTES_MAX:
            _, (_, body, _) = self._known.pop(next(iter(self._known)))
            self._bytes -= len(body)
