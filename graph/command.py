"""What the command line's verbs do, and how they end: 0 finished, 1 failed, 2 bad input, 3 stopped and resumable."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.domain import check_symbol
from agents.errors import CheckpointNotFound, ConfigError, HoldfastError, InputError
from agents.risk import check_calendar
from checkpoints.runs import Run, RunStatus
from graph.app import App, open_app, swarm
from graph.config import Settings, load_settings
from graph.feed import resolve_data
from graph.progress import progress
from graph.resilience import FaultPlan
from graph.result import RunResult, one_line
from graph.runner import Market, Runner
from graph.summary import brief, print_checkpoints, print_line, print_result, print_runs, print_workflows
from graph.telemetry import Watcher
from graph.workflow import WORKFLOWS

__all__ = ["Command", "execute"]

FINISHED, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 3

_DEFAULT_SYMBOL = "SIM"


@dataclass(frozen=True, slots=True)
class Command:
    """A parsed command line. `verb`: workflow, resume, runs, checkpoints or workflows; `subject` its argument."""

    verb: str
    subject: str = ""
    symbols: tuple[str, ...] = ()
    data: tuple[Path, ...] = ()
    seed: int = 7
    inject: tuple[str, ...] = ()
    config: Path | None = None
    flags: Mapping[str, Any] | None = None
    plain: bool = False
    json: bool = False


def execute(command: Command) -> int:
    """Carry out a command; returns the exit code. What the user has to know of an error is one line on stderr."""
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m` does: one's own analysts are found in the same place by either command
        sys.path.insert(0, here)
    try:
        return asyncio.run(_VERBS[command.verb](command))
    except (InputError, CheckpointNotFound) as error:
        return _complain(error, BAD_INPUT)
    except HoldfastError as error:
        return _complain(error, FAILED)
    except KeyboardInterrupt:
        return STOPPED
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINISHED


def _complain(error: BaseException, code: int) -> int:
    print(f"error: {one_line(error)}", file=sys.stderr)  # noqa: T201 - the one line of an error
    return code


async def _workflow(command: Command) -> int:
    if command.subject not in WORKFLOWS:
        raise ConfigError(
            f"there is no workflow {command.subject!r:.80}; nothing was run; there are: {', '.join(WORKFLOWS)}"
        )
    settings = _settings(command)
    symbols = tuple(check_symbol(symbol) for symbol in command.symbols)
    files = resolve_data(symbols, command.data)
    if (command.flags or {}).get("calendar") and not files:
        raise ConfigError("the simulated market never closes; nothing was run; --calendar goes with --data")
    if files and settings.calendar != "auto":
        check_calendar(settings.calendar)
    symbols = symbols or (_DEFAULT_SYMBOL,)
    if len(set(symbols)) < len(symbols):
        raise ConfigError("a --symbol is given twice; nothing was run; name each once")
    market = Market(symbols, files, command.seed)
    view = progress(_rows(settings, len(symbols)), len(symbols), plain=command.plain, silent=command.json)
    many = len(symbols) > 1
    with view as watcher:
        digests = await _driven(
            command,
            settings,
            watcher,
            lambda runner: runner.start_all(market, lambda result: _digest(command, result, many)),
        )
    return _conclude(digests, wanted=len(symbols))


async def _resume(command: Command) -> int:
    settings = _settings(command)
    view = progress(_rows(settings, 1), 1, plain=command.plain, silent=command.json)

    async def one(runner: Runner) -> list[_Digest]:
        return [_digest(command, await runner.resume(command.subject), many=False)]

    with view as watcher:
        digests = await _driven(command, settings, watcher, one)
    return _conclude(digests, wanted=1)


async def _driven(
    command: Command, settings: Settings, watcher: Watcher | None, work: Callable[[Runner], Any]
) -> list["_Digest"]:
    """Open the application, let a first signal stop the runs in order, and a second one at once."""
    faults = FaultPlan.parse(list(command.inject)) if command.inject else None
    async with open_app(settings, faults=faults, watcher=watcher) as app:
        runner = Runner(app)
        _stop_on_signal(runner)
        digests: list[_Digest] = await work(runner)
        return digests


def _stop_on_signal(runner: Runner) -> None:
    loop = asyncio.get_running_loop()
    asked = False

    def stop() -> None:
        nonlocal asked
        if asked:
            os._exit(STOPPED)  # asked twice: what is on disk is enough to resume
        asked = True
        runner.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)


async def _runs(command: Command) -> int:
    async with open_app(_settings(command)) as app:
        runs = await app.manager.runs()
    if command.json:
        _emit(_run_row(run) for run in runs)
    else:
        print_runs(runs)
    return FINISHED


async def _checkpoints(command: Command) -> int:
    async with open_app(_settings(command)) as app:
        run = await app.manager.run(command.subject)
        rows = await app.manager.checkpoints(run.run_id, _any_graph(app))
    if command.json:
        _emit({"id": row.checkpoint_id, "before": row.before, "saved_at": row.saved_at} for row in rows)
    else:
        print_checkpoints(run, rows)
    return FINISHED


async def _workflows(command: Command) -> int:
    if command.json:
        _emit({"name": each.name, "description": each.description} for each in WORKFLOWS.values())
    else:
        print_workflows(WORKFLOWS.values())
    return FINISHED


_VERBS: Mapping[str, Callable[[Command], Coroutine[Any, Any, int]]] = {
    "workflow": _workflow,
    "resume": _resume,
    "runs": _runs,
    "checkpoints": _checkpoints,
    "workflows": _workflows,
}


def _settings(command: Command) -> Settings:
    return load_settings(command.config, **(command.flags or {}))


def _any_graph(app: App) -> Any:
    """The workflow, for asking what comes next; it is not run, and needs no market."""
    return app.trade(app.settings, Market((), {}, 0).feed(app.settings)).graph


def _rows(settings: Settings, symbols: int) -> list[str]:
    """What the progress view shows for one run, in the order in which it happens."""
    members = [member.name for member in swarm(settings) if symbols > 1 or not member.needs_market]
    return ["research", *members, "synthesis", "strategy", "quality_gate", "execution"]


@dataclass(frozen=True, slots=True)
class _Digest:
    """What is kept of a run until the end: how it ended, and what is to be printed of it."""

    status: RunStatus
    show: Callable[[], None]


def _digest(command: Command, result: RunResult, many: bool) -> _Digest:
    """Of many runs a line each is kept, and of a single one everything."""
    if command.json:
        data = result.as_json()
        return _Digest(result.run.status, lambda: _emit([data]))
    if many:
        line = brief(result)
        return _Digest(result.run.status, lambda: print_line(line))
    return _Digest(result.run.status, lambda: print_result(result))


def _conclude(digests: Sequence[_Digest], wanted: int) -> int:
    for digest in digests:
        digest.show()
    statuses = {digest.status for digest in digests}
    if RunStatus.FAILED in statuses:
        return FAILED
    if len(digests) < wanted or statuses - {RunStatus.FINISHED}:
        return STOPPED
    return FINISHED


def _run_row(run: Run) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "workflow": run.workflow,
        "symbol": run.symbol,
        "status": str(run.status),
        "as_of_ns": run.as_of_ns,
        "created_ns": run.created_ns,
        "updated_ns": run.updated_ns,
        "error": run.error or None,
    }


def _emit(objects: Iterable[Mapping[str, Any]]) -> None:
    for each in objects:
        sys.stdout.write(json.dumps(each, allow_nan=False) + "\n")
    sys.stdout.flush()
