"""A database that is full, locked or broken for a while: it fails as SQLite does, where SQLite would."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from agents.errors import StorageError
from checkpoints.database import Database
from tests.simulation.session.day import Span

__all__ = ["Trouble"]

_CODES = {"full": sqlite3.SQLITE_FULL, "broken": sqlite3.SQLITE_IOERR}
_LOCKED_S = 5.0
"""How long the real one waits for a lock, in a thread of its own; on a virtual clock it is the task that waits."""


class Trouble:
    """`spans` of seconds by `now`. `full`: nothing can be written; `broken`: nor read; `locked`: by somebody else."""

    def __init__(self, spans: Sequence[Span], now: Callable[[], float]) -> None:
        self._spans = spans
        self._now = now
        self.struck = 0

    @property
    def until(self) -> float:
        """When the last trouble is over that has begun."""
        return max([span.end for span in self._spans if span.begin <= self._now()], default=-1e9)

    @property
    def present(self) -> Span | None:
        return next((span for span in self._spans if span.holds(self._now())), None)

    def haunt(self, database: Database) -> None:
        """Have it happen to a database."""
        if not self._spans:
            return
        begin, read, awrite = database._begin, database.read, database.awrite

        def failing_begin() -> Any:
            span = self.present
            if span is not None and span.kind in _CODES:
                raise self._error(span)
            return begin()

        def failing_read(work: Callable[[Any], Any]) -> Any:
            span = self.present
            if span is not None and span.kind == "broken":
                self.struck += 1
                raise StorageError(f"{database!r} cannot be read or written by the disk; nothing was read; check it")
            return read(work)

        async def failing_awrite(work: Callable[[Any], Any]) -> Any:
            while (span := self.present) is not None and span.kind == "locked":
                left = span.end - self._now()
                await asyncio.sleep(min(left, _LOCKED_S) + 0.001)
                if left > _LOCKED_S:
                    self.struck += 1
                    raise StorageError(f"{database!r} was locked by another process; nothing was written; end that one")
            return await awrite(work)

        database._begin = failing_begin  # type: ignore[method-assign]
        database.read = failing_read  # type: ignore[method-assign]
        database.awrite = failing_awrite  # type: ignore[method-assign]

    def _error(self, span: Span) -> sqlite3.OperationalError:
        self.struck += 1
        error = sqlite3.OperationalError(f"{span.kind}, on purpose")
        error.sqlite_errorcode = _CODES[span.kind]
        return error
