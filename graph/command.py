"""What the command line's verbs do, and how they end: 0 finished, 1 failed, 2 bad input, 3 stopped and resumable."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from agents.domain import KillSwitchReason, TradingState, check_symbol
from agents.errors import CheckpointNotFound, ConfigError, HoldfastError, InputError, LeaseLost
from agents.research import DEFAULT_MEMBERS
from agents.risk import Limit, check_calendar, explain_limits
from checkpoints.halt_file import user_name
from checkpoints.runs import RunStatus
from graph import controls
from graph.app import App, open_app
from graph.config import Settings, limit_sources, load_settings, shaping_in
from graph.feed import resolve_data
from graph.housekeeping import Told, export_run, import_run, prune_runs, show_run
from graph.progress import progress
from graph.resilience import FaultPlan
from graph.result import RunResult, one_line, run_json
from graph.runner import Market, Runner
from graph.summary import brief, print_checkpoints, print_limits, print_line, print_result, print_runs, print_workflows
from graph.swarm import swarm
from graph.telemetry import Watcher
from graph.workflow import WORKFLOWS

__all__ = ["Command", "execute"]

FINISHED, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 3

_DEFAULT_SYMBOL = "SIM"
_SESSION_SYMBOL = "BTCUSDT"


@dataclass(frozen=True, slots=True)
class Command:
    """A parsed command line. `verb`: a key of `_VERBS`; `subject` its argument."""

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
    orders: bool = False
    keep: str = ""
    dry_run: bool = False
    to: Path | None = None
    flatten: bool = False
    reducing: bool = False
    feed: str = "sim"
    duration: str | None = None
    speed: float = 1.0


def execute(command: Command) -> int:
    """Carry out a command; returns the exit code. What the user has to know of an error is one line on stderr."""
    _find_own_modules()
    output = sys.stdout
    if command.json:
        sys.stdout = sys.stderr  # what analysts print is no part of what was asked for
    try:
        ending = _session(command) if _is_session(command) else asyncio.run(_VERBS[command.verb](command))
    except (InputError, CheckpointNotFound) as error:
        return _complain(error, BAD_INPUT)
    except LeaseLost as error:
        return _complain(error, STOPPED)
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


def _is_session(command: Command) -> bool:
    of_one = command.verb == "resume" and command.subject.startswith("session-")
    return of_one or (command.verb == "workflow" and command.subject == "session")


def _session(command: Command) -> _Ending:
    """A session has an event loop of its own, which may be faster than the clock on the wall."""
    from graph import live  # noqa: PLC0415 - a market and a view that no other command needs

    settings = _settings(command)
    if command.verb == "resume":
        sitting = live.go_on(settings, command.subject)
    elif len(command.symbols) > 1:
        raise ConfigError("a session trades one symbol; nothing was run; start one session for each --symbol")
    else:
        sitting = live.begin(
            settings,
            symbol=(command.symbols or (_SESSION_SYMBOL,))[0],
            feed=command.feed,
            seed=command.seed,
            speed=command.speed,
            duration=command.duration,
        )

    @asynccontextmanager
    async def around(app: App, stop: Callable[[], None], name: Callable[[], str]) -> AsyncIterator[None]:
        _stop_on_signal(stop, lambda: [name()] if name() else [], app.settings.home_flag, _DRAINING)
        async with _halted_by_signal(app):
            yield

    result = live.sit(sitting, faults=_faults(command), plain=command.plain, silent=command.json, around=around)
    shows = [lambda: _emit([result.as_json()])] if command.json else [lambda: live.print_session(result)]
    codes = {RunStatus.FINISHED: FINISHED, RunStatus.STOPPED: STOPPED}
    return _Ending(codes.get(result.run.status, FAILED), shows)


async def _resume(command: Command) -> _Ending:
    settings = _settings(command)
    return await _go_on(command, settings, lambda runner: runner.resume(command.subject))


async def _fork(command: Command) -> _Ending:
    settings = _settings(command)
    changes = {} if command.config is None else shaping_in(command.config)
    return await _go_on(
        command, settings, lambda runner: runner.fork(command.subject, orders=command.orders, changes=changes)
    )


async def _go_on(command: Command, settings: Settings, work: Callable[[Runner], Awaitable[RunResult]]) -> _Ending:
    view = progress((), 1, plain=command.plain, silent=command.json)

    async def one(runner: Runner) -> list[_Digest]:
        return [_digest(command, await work(runner), many=False)]

    with view as watcher:
        digests = await _driven(command, settings, watcher, one)
    return _conclude(digests, wanted=1)


async def _driven(
    command: Command, settings: Settings, watcher: Watcher | None, work: Callable[[Runner], Any]
) -> list["_Digest"]:
    """Open the application, let a first signal stop the runs in order, and a second one at once."""
    async with open_app(settings, faults=_faults(command), watcher=watcher) as app:
        runner = Runner(app)
        _stop_on_signal(runner.stop, lambda: runner.active, settings.home_flag, _STEPPING)
        async with _halted_by_signal(app):
            digests: list[_Digest] = await work(runner)
        for lost in runner.lost:
            _complain(lost, STOPPED)
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


_STEPPING = "stopping after the present step of each run; ask again to stop at once"
_DRAINING = "stopping: no new risk is taken, what is in flight is finished; ask again to stop at once"


def _stop_on_signal(stop: Callable[[], None], active: Callable[[], Sequence[str]], home: str, told: str) -> None:
    loop = asyncio.get_running_loop()
    asked = False

    def heard() -> None:
        nonlocal asked
        if asked:
            commands = "; ".join(f"python -m graph.run --resume {run_id}{home}" for run_id in active())
            _tell(f"stopped at once; go on by: {commands or 'nothing was running'}")
            if sys.stdout is not None and sys.stdout.isatty():
                sys.stdout.write("\x1b[?25h")  # the live view hid the cursor, and will not come to show it again
                sys.stdout.flush()
            os._exit(STOPPED)  # asked twice: what is on disk is enough to resume
        asked = True
        _tell(told)
        stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, heard)


@asynccontextmanager
async def _halted_by_signal(app: App) -> AsyncIterator[None]:
    """SIGUSR1 halts trading at once; the runs go on, and their orders are denied.

    It is blocked before and after: one that comes meanwhile waits, and does not end the process as it would by itself.
    """
    loop, kill = asyncio.get_running_loop(), app.kill_switch()
    acts: set[asyncio.Task[None]] = set()

    def halt() -> None:
        who, why = user_name(os.getuid()), f"SIGUSR1 was sent to process {os.getpid()}"
        app.switch.stop_here(kill.because(TradingState.HALTED, KillSwitchReason.SIGNAL, who, why))
        _tell("trading is HALTED by SIGUSR1; no order goes until it is let by: python -m graph.run resume-trading")
        acts.add(loop.create_task(kill.heed()))

    loop.add_signal_handler(signal.SIGUSR1, halt)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        await asyncio.gather(*acts)


async def _runs(command: Command) -> _Ending:
    async with open_app(_settings(command)) as app:
        runs, trading = await app.manager.runs(), await app.switch.read()
    if command.json:
        return _Ending(FINISHED, [lambda: _emit(run_json(run) for run in runs)])
    return _Ending(FINISHED, [lambda: print_runs(runs, trading)])


async def _checkpoints(command: Command) -> _Ending:
    async with open_app(_settings(command)) as app:
        run = await app.manager.run(command.subject)
        saved = await app.manager.checkpoints(run.run_id, _any_graph(app))
    rows = [row for row in saved if not row.copied]
    if command.json:
        found = [{"id": row.checkpoint_id, "before": row.before, "saved_at": row.saved_at} for row in rows]
        return _Ending(FINISHED, [lambda: _emit(found)])
    return _Ending(FINISHED, [lambda: print_checkpoints(run, rows)])


async def _activate(command: Command) -> _Ending:
    if not command.subject.strip():
        raise ConfigError("--activate needs a reason; nothing was changed; say why trading may go on")
    return await _control(command)


async def _control(command: Command) -> _Ending:
    answer = await _CONTROLS[command.verb](command)
    for line in answer.wrong:
        _tell(f"{'warning' if answer.done else 'error'}: {one_line(line)}")
    shows = [lambda: _emit(answer.data)] if command.json else [partial(print_line, line) for line in answer.lines]
    return _Ending(FINISHED if answer.done else FAILED, shows)


_CONTROLS: Mapping[str, Callable[[Command], Coroutine[Any, Any, controls.Answer]]] = {
    "halt": lambda command: controls.halt(command.config, command.flags or {}, command.subject, close=command.flatten),
    "reduce": lambda command: controls.reduce(_settings(command), command.subject),
    "resume-trading": lambda command: controls.resume_trading(
        _settings(command), command.subject, reducing=command.reducing
    ),
    "activate": lambda command: controls.resume_trading(_settings(command), command.subject),
    "audit": lambda command: controls.list_audit(_settings(command)),
    "audit-verify": lambda command: controls.verify_audit(_settings(command)),
}


async def _show(command: Command) -> _Ending:
    return await _tell_of(command, lambda app: show_run(app, command.subject))


async def _prune(command: Command) -> _Ending:
    return await _tell_of(command, lambda app: prune_runs(app, command.keep, dry_run=command.dry_run))


async def _export(command: Command) -> _Ending:
    return await _tell_of(command, lambda app: export_run(app, command.subject, command.to or Path(command.subject)))


async def _import(command: Command) -> _Ending:
    return await _tell_of(command, lambda app: import_run(app, Path(command.subject)))


async def _tell_of(command: Command, work: Callable[[App], Awaitable[Told]]) -> _Ending:
    async with open_app(_settings(command)) as app:
        told = await work(app)
    if command.json:
        return _Ending(FINISHED, [lambda: _emit([told.data])])
    return _Ending(FINISHED, [partial(print_line, line) for line in told.lines])


async def _limits(command: Command) -> _Ending:
    limits = explain_limits(_settings(command).risk)
    sources = limit_sources(command.config, **(command.flags or {}))
    if command.json:
        found = [_limit_row(each) | {"source": sources.get(each.name, "default")} for each in limits]
        return _Ending(FINISHED, [lambda: _emit(found)])
    return _Ending(FINISHED, [lambda: print_limits(limits, sources)])


def _limit_row(limit: Limit) -> dict[str, Any]:
    value = float(limit.value) if isinstance(limit.value, Decimal) else limit.value
    return {"name": limit.name, "value": value, "unit": limit.unit, "meaning": limit.meaning}


async def _workflows(command: Command) -> _Ending:
    if command.json:
        found = [{"name": each.name, "description": each.description} for each in WORKFLOWS.values()]
        return _Ending(FINISHED, [lambda: _emit(found)])
    return _Ending(FINISHED, [lambda: print_workflows(WORKFLOWS.values())])


_VERBS: Mapping[str, Callable[[Command], Coroutine[Any, Any, _Ending]]] = {
    "workflow": _workflow,
    "resume": _resume,
    "fork": _fork,
    "show": _show,
    "prune": _prune,
    "export": _export,
    "import": _import,
    "runs": _runs,
    "checkpoints": _checkpoints,
    "workflows": _workflows,
    "activate": _activate,
    "limits": _limits,
    **dict.fromkeys(("halt", "reduce", "resume-trading", "audit", "audit-verify"), _control),
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


def _emit(objects: Iterable[Mapping[str, Any]]) -> None:
    for each in objects:
        _write(_json_line(each))


def _json_line(data: Mapping[str, Any]) -> str:
    return json.dumps(data, allow_nan=False) + "\n"


def _write(text: str) -> None:
    if sys.stdout is not None:
        sys.stdout.write(text)
