"""What a person sees while runs are running: a live table on a terminal, plain lines everywhere else."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from agents.clock import monotonic
from checkpoints.events import Entry
from graph.result import one_line
from graph.telemetry import Watcher

__all__ = ["Board", "progress"]

_STARTED, _ENDED = "AttemptStarted", "AttemptSucceeded"


@dataclass(slots=True)
class _Row:
    state: str = "waiting"
    attempts: int = 0
    began: float = 0.0
    seconds: float | None = None
    link: str = ""


class Board:
    """Where each node and analyst of each run stands, kept up to date by the entries that are shown to it."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self.runs: dict[str, dict[str, _Row]] = {}
        self.ended: dict[str, str] = {}

    def take(self, entry: Entry) -> _Row | None:
        """Apply one entry; gives the row that changed, or None for an entry of the run as a whole."""
        rows = self.runs.setdefault(entry.run_id, {name: _Row() for name in self._names})
        if not entry.subject:
            if entry.kind not in {"RunStarted", "RunResumed", "RunForked", "EntriesLost"}:
                self.ended[entry.run_id] = entry.kind.removeprefix("Run").lower()
            return None
        row = rows.setdefault(entry.subject, _Row())
        detail = entry.detail
        row.link = str(detail.get("link", "")).rpartition("/")[2]
        if entry.kind == _STARTED:
            row.attempts = detail.get("attempt", 1)
            row.began = monotonic()
            row.seconds = None
            row.state = "running" if row.attempts == 1 else f"attempt {row.attempts}"
            if row.link:
                row.state = f"fallback {row.link}"
        elif entry.kind == _ENDED:
            row.seconds = detail.get("seconds")
            row.state = f"done by fallback {row.link}" if row.link else "done"
            if row.attempts > 1:
                row.state += f" at attempt {row.attempts}"
        elif entry.kind == "AttemptFailed":
            row.seconds = detail.get("seconds")
            row.state = f"failed: {detail.get('error_type', 'error')}"
        elif entry.kind == "RetryScheduled":
            row.state = f"retry in {detail.get('delay_seconds', 0):.1f} s"
        elif entry.kind == "CallRejected":
            row.state = f"refused by its {detail.get('reason', 'guard')}"
        return row


@contextmanager
def progress(names: Sequence[str], runs: int, *, plain: bool, silent: bool) -> Iterator[Watcher | None]:
    """Show runs while the block lasts; gives the watcher to show entries to, or None when silent."""
    if silent:
        yield None
    elif plain or not sys.stdout.isatty():
        yield _Lines(Board(names), with_run=runs > 1)
    else:
        with _live(Board(names), runs) as watcher:
            yield watcher


class _Lines:
    """One line for each change worth telling."""

    _TOLD = frozenset(
        {_ENDED, "AttemptFailed", "RetryScheduled", "BreakerOpened", "CallRejected", "FaultInjected", "Degraded"}
    )

    def __init__(self, board: Board, *, with_run: bool) -> None:
        self._board = board
        self._with_run = with_run
        self._began = monotonic()

    def __call__(self, entry: Entry) -> None:
        row = self._board.take(entry)
        if row is not None and entry.kind not in self._TOLD and not (entry.kind == _STARTED and row.attempts == 1):
            return
        run = f"{entry.run_id}  " if self._with_run or row is None else ""
        what = entry.kind.removeprefix("Run").lower() if row is None else f"{entry.subject:<16} {_state(row, entry)}"
        with suppress(OSError, ValueError):  # nobody reads on, or the disk is full: no reason to stop a trade
            sys.stdout.write(f"{monotonic() - self._began:8.3f} s  {run}{what}\n")
            sys.stdout.flush()


def _state(row: _Row, entry: Entry) -> str:
    if entry.kind == "FaultInjected":
        return f"fault injected: {entry.detail.get('action')}"
    if entry.kind == "BreakerOpened":
        return f"breaker opened: {one_line(entry.detail.get('reason', ''))}"
    if entry.kind == "Degraded":
        missing = one_line(", ".join(entry.detail.get("failed", ())))
        return f"degraded to level {entry.detail.get('level')}, missing: {missing}"
    over = entry.kind in {_ENDED, "AttemptFailed"}
    took = f"  ({row.seconds * 1e3:.1f} ms)" if over and row.seconds is not None else ""
    error = f"  {one_line(entry.detail['error'])}" if entry.kind == "AttemptFailed" else ""
    return row.state + took + error


@contextmanager
def _live(board: Board, runs: int) -> Iterator[Watcher]:
    from rich.live import Live  # noqa: PLC0415 - only a terminal needs it

    def render() -> Any:
        return _detail(board) if runs == 1 else _overview(board, runs)

    with Live(get_renderable=render, refresh_per_second=12) as live:

        def watch(entry: Entry) -> None:
            board.take(entry)

        yield watch
        live.refresh()


_COLOURS = {"wait": "dim", "runn": "yellow", "done": "green", "fail": "red", "refu": "red"}


def _coloured(state: str) -> Any:
    from rich.text import Text  # noqa: PLC0415

    return Text(one_line(state), _COLOURS.get(state[:4], "magenta"))


def _detail(board: Board) -> Any:
    """The one run: a row for each node and analyst."""
    from rich.table import Table  # noqa: PLC0415

    table = Table("step", "state", "time", title=next(iter(board.runs), "starting"), title_justify="left")
    for rows in list(board.runs.values())[:1]:
        for name, row in rows.items():
            running = row.began and row.seconds is None
            seconds = monotonic() - row.began if running else row.seconds
            took = "" if seconds is None else f"{seconds * 1e3:,.1f} ms"
            table.add_row(name, _coloured(row.state), took)
    return table


def _overview(board: Board, runs: int) -> Any:
    """Many runs: a row for each that is running, and a count of the rest."""
    from rich.table import Table  # noqa: PLC0415

    table = Table("run", "step", "state", title=f"{len(board.ended)} of {runs} runs ended", title_justify="left")
    for run_id, rows in board.runs.items():
        if run_id in board.ended:
            continue
        busy = [(name, row) for name, row in rows.items() if row.state != "waiting" and row.seconds is None]
        name, row = busy[-1] if busy else ("", _Row())
        table.add_row(run_id, name, _coloured(row.state))
    return table
