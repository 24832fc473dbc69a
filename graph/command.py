"""What the command line's verbs do, and how they end: 0 finished, 1 failed, 2 bad input, 3 stopped and resumable."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.domain import check_symbol
from agents.errors import CheckpointNotFound, ConfigError, HoldfastError, InputError
from agents.research import DEFAULT_MEMBERS
from agents.risk import check_calendar
from checkpoints.runs import Run, RunStatus
from graph.app import App, open_app
from graph.config import Settings, load_settings
from graph.feed import resolve_data
from graph.progress import progress
from graph.resilience import FaultPlan
from graph.result import RunResult, one_line
from graph.runner import Market, Runner
from graph.summary import brief, print_checkpoints, print_line, print_result, print_runs, print_workflows
from graph.swarm import swarm
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
    faults: Path | None = None
    fault_seed: int | None = None
    config: Path | None = None
    flags: Mapping[str, Any] | None = None
    plain: bool = False
    json: bool = False


def execute(command: Command) -> int:
    """Carry out a command; returns the exit code. What the user has to know of an error is one line on stderr."""
    _find_own_modules()
    output = sys.stdout
    if command.json:
        sys.stdout = sys.stderr  # what analysts print is no part of what was asked for
    try:
        ending = asyncio.run(_VERBS[command.verb](command))
    except (InputError, CheckpointNotFound) as error:
        return _complain(error, BAD_INPUT)
    except HoldfastError as error:
        return _complain(error, FAILED)
    except KeyboardInterrupt:
        _tell("stopped; what was saved is kept: list it with --runs")
        return STOPPED
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the last net: a person is told, and the code says failed
        return _complain(f"{type(error).__name__}: {error}; what was saved is kept: list it with --runs", FAILED)
    finally:
        sys.stdout = output
    return _shown(ending)


def _find_own_modules() -> None:
    """One's own analysts are found from the current folder, as `python -m` has it, also by the installed command."""
    with suppress(OSError):  # a folder that was deleted has none
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.insert(0, here)


def _shown(ending: "_Ending") -> int:
    """Write the output. A reader that has gone, as `| head` does, has had enough; any other failure is one of ours."""
    try:
        for show in ending.shows:
            show()
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter fails once more at its end
        if not isinstance(error, BrokenPipeError):
            return _complain(f"the output could not be written ({error}); what was done is kept", ending.code or FAILED)
    return ending.code


@dataclass(frozen=True, slots=True)
class _Ending:
    """A command's exit code, and what is printed when all else is closed."""

    code: int
    shows: Sequence[Callable[[], None]] = ()


def _complain(error: object, code: int) -> int:
    _tell(f"error: {one_line(error)}")
    return code


async def _workflow(command: Command) -> _Ending:
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


async def _resume(command: Command) -> _Ending:
    settings = _settings(command)
    view = progress((), 1, plain=command.plain, silent=command.json)

    async def one(runner: Runner) -> list[_Digest]:
        return [_digest(command, await runner.resume(command.subject), many=False)]

    with view as watcher:
        digests = await _driven(command, settings, watcher, one)
    return _conclude(digests, wanted=1)


async def _driven(
    command: Command, settings: Settings, watcher: Watcher | None, work: Callable[[Runner], Any]
) -> list["_Digest"]:
    """Open the application, let a first signal stop the runs in order, and a second one at once."""
    async with open_app(settings, faults=_faults(command), watcher=watcher) as app:
        runner = Runner(app)
        _stop_on_signal(runner, settings.home_flag)
        digests: list[_Digest] = await work(runner)
        return digests


def _faults(command: Command) -> FaultPlan | None:
    """The faults of the file, and then those of the command line."""
    if command.faults is None and not command.inject:
        return None
    plan = FaultPlan() if command.faults is None else FaultPlan.from_toml(command.faults)
    seed = plan.seed if command.fault_seed is None else command.fault_seed
    return FaultPlan([*plan.faults, *FaultPlan.parse(command.inject).faults], seed=seed)


def _tell(line: str) -> None:
    with suppress(OSError, AttributeError):  # nobody may be listening any more
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def _stop_on_signal(runner: Runner, home: str) -> None:
    loop = asyncio.get_running_loop()
    asked = False

    def stop() -> None:
        nonlocal asked
        if asked:
            commands = "; ".join(f"python -m graph.run --resume {run_id}{home}" for run_id in runner.active)
            _tell(f"stopped at once; go on by: {commands or 'nothing was running'}")
            if sys.stdout is not None and sys.stdout.isatty():
                sys.stdout.write("\x1b[?25h")  # the live view hid the cursor, and will not come to show it again
                sys.stdout.flush()
            os._exit(STOPPED)  # asked twice: what is on disk is enough to resume
        asked = True
        _tell("stopping after the present step of each run; ask again to stop at once")
        runner.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)


async def _runs(command: Command) -> _Ending:
    async with open_app(_settings(command)) as app:
        runs = await app.manager.runs()
    if command.json:
        return _Ending(FINISHED, [lambda: _emit(_run_row(run) for run in runs)])
    return _Ending(FINISHED, [lambda: print_runs(runs)])


async def _checkpoints(command: Command) -> _Ending:
    async with open_app(_settings(command)) as app:
        run = await app.manager.run(command.subject)
        rows = await app.manager.checkpoints(run.run_id, _any_graph(app))
    if command.json:
        found = [{"id": row.checkpoint_id, "before": row.before, "saved_at": row.saved_at} for row in rows]
        return _Ending(FINISHED, [lambda: _emit(found)])
    return _Ending(FINISHED, [lambda: print_checkpoints(run, rows)])


async def _workflows(command: Command) -> _Ending:
    if command.json:
        found = [{"name": each.name, "description": each.description} for each in WORKFLOWS.values()]
        return _Ending(FINISHED, [lambda: _emit(found)])
    return _Ending(FINISHED, [lambda: print_workflows(WORKFLOWS.values())])


_VERBS: Mapping[str, Callable[[Command], Coroutine[Any, Any, _Ending]]] = {
    "workflow": _workflow,
    "resume": _resume,
    "runs": _runs,
    "checkpoints": _checkpoints,
    "workflows": _workflows,
}


def _settings(command: Command) -> Settings:
    return load_settings(command.config, **(command.flags or {}))


def _any_graph(app: App) -> Any:
    """The workflow, for asking what comes next; it is not run, and needs neither market nor anybody's analysts."""
    return app.trade(app.settings, Market((), {}, 0).feed(app.settings), DEFAULT_MEMBERS).graph


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
        line = _json_line(result.as_json())
        return _Digest(result.run.status, lambda: _write(line))
    if many:
        line = brief(result)
        return _Digest(result.run.status, lambda: print_line(line))
    return _Digest(result.run.status, lambda: print_result(result))


def _conclude(digests: Sequence[_Digest], wanted: int) -> _Ending:
    statuses = {digest.status for digest in digests}
    code = FINISHED
    if RunStatus.FAILED in statuses:
        code = FAILED
    elif len(digests) < wanted or statuses - {RunStatus.FINISHED}:
        code = STOPPED
    return _Ending(code, [digest.show for digest in digests])


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
        _write(_json_line(each))


def _json_line(data: Mapping[str, Any]) -> str:
    return json.dumps(data, allow_nan=False) + "\n"


def _write(text: str) -> None:
    if sys.stdout is not None:
        sys.stdout.write(text)
