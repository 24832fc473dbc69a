"""What a person sees while a session runs: a live table on a terminal, plain lines everywhere else."""

import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from decimal import Decimal
from typing import Any

from agents.domain import TradingState
from graph.result import one_line, state_line
from graph.session.session import Viewer
from graph.session.status import SessionStatus

__all__ = ["session_view", "words_of"]

_TOLD_MAX = 8
_LINE_EVERY_S = 10.0
_PLAN_WIDTH = 70


@contextmanager
def session_view(*, plain: bool, silent: bool) -> Iterator[Viewer | None]:
    """Show a session while the block lasts; gives the viewer to show it to, or None when silent."""
    if silent:
        yield None
    elif plain or sys.stdout is None or not sys.stdout.isatty():
        yield _Lines()
    else:
        with _live() as viewer:
            yield viewer


def words_of(kind: str, detail: Mapping[str, Any]) -> str:
    """Something that happened, on one line; "" for what is no news to a person."""
    if kind not in _WORDS:
        return ""
    known = {name: one_line(value) for name, value in detail.items()}
    try:
        return _WORDS[kind].format(**known)
    except (KeyError, IndexError):
        return one_line(f"{kind}: {', '.join(f'{name} {value}' for name, value in known.items())}")


_WORDS: Mapping[str, str] = {
    "PlanApproved": "plan     {plan}",
    "PlanOutdated": "plan     left: the position has changed since it was made",
    "Filled": "filled   {side} {quantity} at {price} ({leg})",
    "StopSprung": "exit     {leg} of decision {decision}: {quantity} goes",
    "StopWatched": "watched  the stop of decision {decision}: {quantity}",
    "OrderDropped": "DROPPED  {order}: the queue is full, {waiting} wait",
    "OrderFailed": "FAILED   {order}: {error}",
    "OrderWithdrawn": "left     {order}: its plan is withdrawn",
    "NothingOrdered": "nothing  {order}: {why}",
    "OrderDenied": "denied   {order}: {why}",
    "DecisionFailed": "FAILED   no decision: {error}",
    "TickFailed": "FAILED   a price could not be worked on: {error}",
    "NewsFailed": "FAILED   news of an order could not be written down: {error}",
    "ReconcileFailed": "FAILED   the broker's books could not be compared: {error}",
    "HeartbeatFailed": "FAILED   {error}",
    "LoopFailed": "FAILED   {where}: {error}",
    "TradingChanged": "trading  {state}: {why}",
    "Connected": "link     connected",
    "Disconnected": "link     lost ({reason}); {failures} failures in a row",
    "StreamStale": "link     nothing on {stream} for {quiet_seconds} s",
    "GapFound": "gap      {missing} messages of {stream} are missing, {filled} were fetched",
    "StreamEnded": "feed     at its end",
    "Draining": "ending   no new risk is taken; {waiting} orders wait",
}


class _Lines(Viewer):
    """One line now and then, one for each thing that happens, and one at once where something is not as it was."""

    def __init__(self) -> None:
        self._shown_at = -1e18
        self._plan = ""
        self._last: tuple[object, ...] = ()
        self._elapsed_s = 0.0

    def show(self, status: SessionStatus) -> None:
        self._elapsed_s = status.elapsed_s
        if status.plan != self._plan and status.plan.startswith("hold"):  # a plan that is traded was told
            self._say(status.elapsed_s, f"plan     {one_line(status.plan)}")
        self._plan = status.plan
        matters = (status.position.quantity, status.trading, status.draining, status.dropped, status.errors)
        if matters == self._last and status.elapsed_s - self._shown_at < _LINE_EVERY_S:
            return
        self._last, self._shown_at = matters, status.elapsed_s
        self._say(status.elapsed_s, _line(status))

    def tell(self, kind: str, detail: Mapping[str, Any]) -> None:
        if words := words_of(kind, detail):
            self._say(self._elapsed_s, words)

    def _say(self, elapsed_s: float, line: str) -> None:
        with suppress(OSError, ValueError, AttributeError):  # nobody reads (on), or the disk is full: trades go on
            sys.stdout.write(f"{_clock(elapsed_s)}  {line}\n")
            sys.stdout.flush()


def _line(status: SessionStatus) -> str:
    parts = [
        f"{status.symbol} {_number(status.price)}",
        f"position {_number(status.position.quantity)}",
        f"equity {status.equity:,.2f}",
        f"p&l {status.pnl:+,.2f}",
        f"{status.decisions} decisions, {status.fills} fills",
        f"queue {status.queued}/{status.queue_size}",
    ]
    parts += [f"{name} quiet for {age_s:.1f} s" for name, age_s in sorted(status.streams.items()) if age_s > 1]
    parts += [f"{status.reconnects} reconnects"] if status.reconnects else []
    parts += [f"{status.dropped} dropped"] if status.dropped else []
    parts += [f"{status.errors} errors"] if status.errors else []
    parts += [f"{name} is {state}" for name, state in status.breakers.items()]
    parts += [state_line(status.trading)] if status.trading.state is not TradingState.ACTIVE else []
    parts += ["ending"] if status.draining else []
    return one_line(" | ".join(parts))


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"


def _number(price: Decimal | None) -> str:
    return "-" if price is None else f"{price.normalize():f}"


# The live view.


@contextmanager
def _live() -> Iterator[Viewer]:
    from rich.live import Live  # noqa: PLC0415 - only a terminal needs it

    board = _Board()
    with Live(get_renderable=board.render, refresh_per_second=8, transient=False) as live:
        yield board
        live.refresh()


class _Board(Viewer):
    """The newest status, and what was told last."""

    def __init__(self) -> None:
        self._status: SessionStatus | None = None
        self._told: deque[str] = deque(maxlen=_TOLD_MAX)

    def show(self, status: SessionStatus) -> None:
        self._status = status

    def tell(self, kind: str, detail: Mapping[str, Any]) -> None:
        if words := words_of(kind, detail):
            elapsed_s = 0.0 if self._status is None else self._status.elapsed_s
            self._told.append(f"{_clock(elapsed_s)}  {words}")

    def render(self) -> Any:
        from rich.console import Group  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        if self._status is None:
            return Text("starting: what was before is looked at")
        news = [Text(line, _colour(line[10:]), overflow="ellipsis", no_wrap=True) for line in self._told]
        return Group(_table(self._status), *news)


def _colour(words: str) -> str:
    first = words.partition(" ")[0]
    return "red" if first.isupper() else {"filled": "green", "exit": "yellow", "trading": "magenta"}.get(first, "dim")


def _table(status: SessionStatus) -> Any:
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    ends = "" if status.duration_s is None else f" of {_clock(status.duration_s)}"
    title = f"{status.run_id}   {_clock(status.elapsed_s)}{ends}{'   ending' if status.draining else ''}"
    table = Table(title=Text(one_line(title)), title_justify="left", box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="ellipsis", no_wrap=True)
    for name, value, colour in _rows(status):
        table.add_row(name, Text(one_line(value), colour))
    return table


def _rows(status: SessionStatus) -> Iterator[tuple[str, str, str]]:
    held = status.position
    average = f" at {held.average_price:,.2f}" if held.quantity else ""
    active = status.trading.state is TradingState.ACTIVE
    yield "trading", state_line(status.trading), "green" if active else "red"  # first: a short terminal cuts from below
    yield "price", f"{status.symbol} {_number(status.price)}", "bold"
    yield "position", f"{_number(held.quantity)}{average}, {status.brackets} watched", ""
    yield "equity", f"{status.equity:,.2f}, drawdown {status.drawdown:.2%}", ""
    profit = f"{status.pnl:+,.2f} (realised {status.realised:+,.2f}, fees {status.fees:,.2f})"
    yield "p&l", profit, "green" if status.pnl > 0 else "red" if status.pnl < 0 else ""
    yield "plan", status.plan[:_PLAN_WIDTH], ""
    for name, age_s in sorted(status.streams.items()):
        yield "stream", f"{name}, {age_s:.1f} s ago", "red" if age_s > 10 else ""
    yield "orders", f"{status.orders} sent, {status.fills} fills, queue {status.queued} of {status.queue_size}", ""
    trouble = f"{status.reconnects} reconnects, {status.dropped} dropped, {status.errors} errors"
    yield "trouble", trouble, "red" if status.dropped or status.errors else ""
    broken = ", ".join(f"{name} {state}" for name, state in status.breakers.items())
    yield "breakers", broken or "all closed", "red" if broken else ""
