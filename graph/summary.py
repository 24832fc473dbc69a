"""What is printed at the end: the decision, the gate's table, orders, checkpoints, and how to go on."""

import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from agents.domain import Check, Outage, TradingState
from agents.risk import Limit
from checkpoints.runs import CheckpointRow, Run, RunStatus
from checkpoints.trading_state import Trading
from graph.result import RunResult, one_line, policy_line, state_line
from graph.workflow import Workflow

__all__ = [
    "brief",
    "console_of",
    "print_checkpoints",
    "print_limits",
    "print_line",
    "print_result",
    "print_runs",
    "print_workflows",
    "say",
    "show",
    "table_of",
]

_WHOLE = frozenset({"id", "run", "client order id", "check", "status", "side"})
_WIDE = 100
"""Columns from which ids stay in one piece; a narrower terminal folds them, and never cuts them."""


def brief(result: RunResult) -> str:
    """A run in one line, for commands with many of them."""
    end = f"{result.run.run_id}  {result.run.status}  {_headline(result)}"
    return end if not result.run.error else f"{end}  {one_line(result.run.error)}"


def print_line(line: str) -> None:
    """Print a line as it is."""
    say(console_of(), line)


def _headline(result: RunResult) -> str:
    if not result.traded:
        return f"{result.action} {result.run.symbol}"
    price = f" at {result.traded[0].price:f}" if result.traded[0].price else ""
    return f"{result.action} {result.quantity:f} {result.run.symbol}{price}"


def print_result(result: RunResult) -> None:
    """Print a run's summary."""
    console = console_of()
    console.print(f"\nRun       {result.run.run_id} ({result.run.status})", highlight=False)
    _print_origin(console, result.run)
    if result.run.status is not RunStatus.FINISHED:
        _print_stop(console, result)
    else:
        console.print(f"Decision  {_headline(result)}", highlight=False)
        for reason in result.reasons:
            say(console, f"          {one_line(reason)}")
    if result.policy is not None:
        say(console, f"Policy    {policy_line(result.policy)}")
    if result.trading is not None and result.trading.state is not TradingState.ACTIVE:
        say(console, f"Trading   {state_line(result.trading)}")
    for each in result.state.get("findings", ()):
        if isinstance(each, Outage):
            kind = "required" if each.required else "optional"
            say(console, f"Missing   {each.analyst} ({kind}): {one_line(each.error)}")
    console.print()
    if result.verdict is not None:
        _print_checks(console, f"Quality gate: {result.verdict.outcome}", result.verdict.checks)
    _print_orders(console, result)
    _print_guards(console, result)
    _print_rows(console, result.checkpoints)
    say(console, f"Report    {result.folder / 'report.md'}")


def _print_origin(console: Any, run: Run) -> None:
    if run.forked_from is not None:
        say(console, f"Forked    from {run.forked_from} at {run.forked_at}")
    if run.dry and run.status is not RunStatus.IMPORTED:
        say(console, "Dry       it can place no order")


def _print_stop(console: Any, result: RunResult) -> None:
    if result.run.error:
        say(console, f"Failed    {one_line(result.run.error)}")
    else:
        console.print("Stopped   before the next step, as asked; everything done so far is kept", highlight=False)
    console.print(f"Resume    {result.resume_command}", highlight=False)


def _print_checks(console: Any, title: str, checks: Sequence[Check]) -> None:
    table = table_of(title, "check", "", "value", "limit", "reason")
    for check in checks:
        _add(table, check.name, "ok" if check.passed else "FAILED", check.value, check.limit, check.reason)
    show(console, table)


def _print_orders(console: Any, result: RunResult) -> None:
    if not result.orders:
        return
    table = table_of("Orders", "client order id", "side", "quantity", "price", "status", "reason")
    for order in result.orders:
        price = order.price if order.price is not None else order.intent.reference_price
        quantity = f"{order.intent.quantity:f}"
        _add(table, order.client_order_id, order.intent.side, quantity, f"{price:f}", order.status, order.reason)
    show(console, table)
    _print_checks(console, "Risk checks", result.orders[-1].checks)


def _print_guards(console: Any, result: RunResult) -> None:
    if not result.troubles:
        return
    columns = ("guard", "attempts", "failed", "refused", "retries", "trips", "fallbacks")
    table = table_of("Guards (who had trouble)", *columns, "last error")
    for each in result.troubles:
        _add(table, *(getattr(each, name) for name in columns), each.error)
    show(console, table)


def print_checkpoints(run: Run, rows: Sequence[CheckpointRow]) -> None:
    """Print a run's checkpoints."""
    console = console_of()
    console.print(f"Run       {run.run_id} ({run.status})", highlight=False)
    _print_rows(console, rows)


def _print_rows(console: Any, rows: Sequence[CheckpointRow]) -> None:
    table = table_of("Checkpoints", "id", "saved at", "stands before")
    for row in rows:
        _add(table, row.checkpoint_id, _to_the_millisecond(row.saved_at), row.before)
    show(console, table)


def _to_the_millisecond(saved_at: str) -> str:
    return datetime.fromisoformat(saved_at).isoformat(timespec="milliseconds") if saved_at else ""


def print_runs(runs: Sequence[Run], trading: Trading) -> None:
    """Print the registry, and whether orders may go."""
    console = console_of()
    say(console, f"Trading   {state_line(trading)}")
    if not runs:
        console.print("no runs yet in this home; start one with: python -m graph.run --workflow trade", highlight=False)
        return
    table = table_of("Runs", "run", "status", "symbol", "started", "error")
    for depth, run in _tree(runs):
        started = _to_the_second(run.created_ns) if run.status is not RunStatus.DAMAGED else ""
        indent = "  " * (depth - 1) + "\N{BOX DRAWINGS LIGHT UP AND RIGHT} " * (depth > 0)
        status = f"{run.status}, dry" if run.dry and run.status is not RunStatus.IMPORTED else run.status
        _add(table, run.run_id, status, run.symbol, started, run.error, indent=indent)
    show(console, table)
    if any(run.status in {RunStatus.INTERRUPTED, RunStatus.STOPPED, RunStatus.FAILED} for run in runs):
        console.print("Go on with one by: python -m graph.run --resume RUN_ID", highlight=False)


def _to_the_second(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, tz=UTC).isoformat(timespec="seconds")


def print_limits(limits: Sequence[Limit], sources: Mapping[str, str]) -> None:
    """Print the risk limits; `sources` names where a value comes from that is not the default."""
    console = console_of()
    table = table_of("Risk limits", "limit", "value", "unit", "source", "bounds")
    for each in limits:
        value = ", ".join(each.value) if isinstance(each.value, tuple) else each.value
        shown = "none" if value in {None, ""} else value
        _add(table, each.name, shown, each.unit, sources.get(each.name, "default"), each.meaning)
    show(console, table)


def _tree(runs: Sequence[Run]) -> list[tuple[int, Run]]:
    """Each run with its depth, forks after the run that they came from; where that is not here, they stand alone."""
    here = {run.run_id for run in runs}
    forks: dict[str | None, list[Run]] = {}
    for run in runs:
        forks.setdefault(run.forked_from if run.forked_from in here else None, []).append(run)
    drawn: dict[str, tuple[int, Run]] = {}
    for alone in (*forks.get(None, ()), *runs):  # what came from a file may have come from itself
        waiting = [(0, alone)]
        while waiting:
            depth, run = waiting.pop()
            if run.run_id not in drawn:
                drawn[run.run_id] = (depth, run)
                waiting += [(depth + 1, fork) for fork in reversed(forks.get(run.run_id, ()))]
    return list(drawn.values())


def print_workflows(workflows: Iterable[Workflow]) -> None:
    """Print the registry of workflows."""
    console = console_of()
    for workflow in workflows:
        console.print(f"{workflow.name}  {workflow.description}", highlight=False, markup=False)


def say(console: Any, line: str) -> None:
    """One line as it is: neither wrapped nor read as markup."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def show(console: Any, table: Any) -> None:
    """A table; off a terminal without the blanks that only fill it up to its width."""
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    say(console, "\n".join(lines).rstrip() + "\n")


def _add(table: Any, *cells: object, indent: str = "") -> None:
    """A row of plain text: what an agent or a venue wrote is not read as markup."""
    from rich.text import Text  # noqa: PLC0415

    first, *others = map(one_line, cells)
    table.add_row(Text(indent + first), *map(Text, others))


def console_of() -> Any:
    """Where it is printed: wide enough to leave ids in one piece where it is no terminal."""
    from rich.console import Console  # noqa: PLC0415 - not needed for --json

    console: Any = Console()
    if not console.is_terminal:  # rich then assumes 80 columns and cuts ids in two; ids are there to be copied
        console = Console(width=160)
    console.on_broken_pipe = _gone
    return console


def _gone() -> None:
    """The reader of our output has gone: rich would end the process with the code of a failed run."""
    raise BrokenPipeError


def table_of(title: str, *columns: str) -> Any:
    """An empty table."""
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    wide = sys.stdout is None or not sys.stdout.isatty() or shutil.get_terminal_size().columns >= _WIDE
    for name in columns:
        table.add_column(name, no_wrap=wide and name in _WHOLE, overflow="fold")
    return table
