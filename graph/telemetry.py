"""What a run's guards tell is kept in its timeline and shown while it runs."""

import os
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from agents.clock import Clock
from agents.errors import StorageError
from checkpoints.events import Entry, Timeline
from graph.resilience import GuardEvent

__all__ = ["CURRENT_RUN", "FailureLog", "Recorder", "Watcher"]

CURRENT_RUN: ContextVar[str] = ContextVar("holdfast_run", default="")
"""The run that the present task works for: guards are shared by all runs, their events are not."""

Watcher = Callable[[Entry], None]
"""Is shown every entry as it happens; must not wait."""


class Recorder:
    """An observer of guards: turns their events into timeline entries, and writes those when `flush` is awaited.

    Entries wait in memory until then, at most `_WAITING_MAX` a run: the node that caused them flushes when it ends.
    What is beyond that is shown to the watcher like all others, but is missing in the timeline, which then has an
    entry `EntriesLost` with their `count`.
    """

    _WAITING_MAX = 10_000

    def __init__(self, timeline: Timeline, clock: Clock, watcher: Watcher | None = None) -> None:
        self._timeline = timeline
        self._clock = clock
        self._watcher = watcher
        self._waiting: dict[str, list[Entry]] = {}
        self._lost: dict[str, int] = {}

    def __call__(self, event: GuardEvent) -> None:
        """Take a guard's event for the current run.

        What happens outside of any run is in no timeline: the watcher is shown it, as an entry without a run.
        """
        run_id = CURRENT_RUN.get()
        detail = asdict(event)
        subject = detail.pop("guard")
        detail.pop("at")
        if detail.get("link") == subject:
            del detail["link"]
        self.note(run_id, type(event).__name__, subject, **detail)

    def note(self, run_id: str, kind: str, subject: str = "", **detail: Any) -> None:
        """Keep one entry."""
        entry = Entry(run_id, self._clock.now_ns(), kind, subject, detail)
        if run_id:
            self._keep(entry)
        if self._watcher is not None:
            self._watcher(entry)

    def _keep(self, entry: Entry) -> None:
        waiting = self._waiting.setdefault(entry.run_id, [])
        if len(waiting) < self._WAITING_MAX:
            waiting.append(entry)
        else:
            self._lost[entry.run_id] = self._lost.get(entry.run_id, 0) + 1

    async def flush(self, run_id: str) -> None:
        """Write what waits for a run. A timeline that cannot be written must not stop a trade: the entries stay."""
        entries, lost = self._waiting.pop(run_id, []), self._lost.pop(run_id, 0)
        loss = [Entry(run_id, self._clock.now_ns(), "EntriesLost", detail={"count": lost})] if lost else []
        written = False
        try:
            with suppress(StorageError):
                await self._timeline.append(entries + loss)
                written = True
        finally:
            if not written and entries:
                self._waiting[run_id] = entries + self._waiting.get(run_id, [])
                self._lost[run_id] = lost + self._lost.get(run_id, 0)
        if self._watcher is not None:
            for entry in loss if written else ():
                self._watcher(entry)


class FailureLog:
    """Appends every failure, retry, trip and fallback of all runs to one file, a JSON object a line, for log shippers.

    The file is opened, and structlog imported, with the first of them: a day without failures has no such file.
    """

    # Those that are left out are named, so that no new kind of failure can be forgotten.
    _FINE = frozenset(
        {
            "AttemptStarted",
            "AttemptSucceeded",
            "Connected",
            "Draining",
            "Filled",
            "PlanApproved",
            "PolicyLoaded",
            "QuorumReached",
            "RunFinished",
            "RunForked",
            "RunStarted",
            "StopWatched",
            "StreamEnded",
        }
    )

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None
        self._logger: Any = None

    def __call__(self, entry: Entry) -> None:
        """Log an entry, if it is of that kind."""
        if entry.kind not in self._FINE:
            told = {"run_id": entry.run_id, "subject": entry.subject}
            named = {name: value for name, value in told.items() if value}
            with suppress(OSError):  # the timeline has it too; a log that cannot be written must not stop a trade
                logger = self._logger or self._open()
                logger.warning(entry.kind, time_ns=entry.time_ns, **named, **entry.detail)

    def close(self) -> None:
        """Close the file, if it was ever opened."""
        file, self._file, self._logger = self._file, None, None
        if file is not None:
            with suppress(OSError):  # what is left in its buffer may not fit on the disk
                file.close()

    def _open(self) -> Any:
        import structlog  # noqa: PLC0415 - only failures need it

        self._file = open(  # noqa: SIM115 - with the mode from the start, and for as long as the application
            self._path, "a", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)
        )
        self._logger = structlog.wrap_logger(
            structlog.WriteLogger(self._file),
            processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
            wrapper_class=structlog.BoundLogger,
        )
        return self._logger
