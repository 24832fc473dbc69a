"""The command line's session: begun or gone on with, stopped in order by a signal, and shown while it runs."""

import asyncio
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, TypeAlias

from agents.clock import SystemClock
from agents.domain import check_symbol
from agents.errors import ConfigError
from checkpoints.database import Database
from checkpoints.registry import row_of, run_of
from checkpoints.sessions import SessionMark, last_mark
from graph.app import App, open_app
from graph.config import Settings
from graph.resilience import FaultPlan
from graph.session.host import Terms, run_session
from graph.session.market import Opened, Source, opened
from graph.session.pace import loop_factory
from graph.session.report import write_session_report
from graph.session.session import Session, Viewer
from graph.session.status import SessionResult
from graph.session.summary import print_session
from graph.session.venue import venue_of
from graph.session.view import session_view
from graph.stream import StreamNotice

__all__ = ["Around", "Sitting", "begin", "go_on", "print_session", "seconds_of", "sit"]

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_NS = 1_000_000_000


class Sitting:
    """What one process does of a session. `run_id`: the one to go on with, None to begin; `last`: its newest mark."""

    def __init__(
        self,
        settings: Settings,
        terms: Terms,
        run_id: str | None = None,
        began_ns: int | None = None,
        last: SessionMark | None = None,
    ) -> None:
        self.settings = settings
        self.terms = terms
        self.run_id = run_id
        self.began_ns = began_ns
        self.last = last


def seconds_of(text: str) -> float:
    """Seconds of `90s`, `10m`, `1.5h` or `1d`; raises ConfigError."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([smhd])", text.strip(), re.ASCII)
    if found is None or not float(found[1]):
        raise ConfigError(f"--duration is {text!r:.40}; nothing was run; write 90s, 10m, 8h or 1d")
    return float(found[1]) * _UNITS[found[2]]


def begin(settings: Settings, *, symbol: str, feed: str, seed: int, speed: float, duration: str | None) -> Sitting:
    """A new session. Raises ConfigError where there can be none such."""
    source = Source.of(feed)
    if duration is None and source.kind != "replay":
        raise ConfigError(
            f"--feed {source} never ends; nothing was run; say by --duration how long the session lasts, such as 10m"
        )
    if source.kind == "ws" and speed != 1:
        raise ConfigError(
            f"--speed {speed:g} goes with --feed sim and replay:FILE; nothing was run; an exchange has its own pace"
        )
    _check_prices(settings, source, check_symbol(symbol))
    loop_factory(speed)
    duration_ns = None if duration is None else round(seconds_of(duration) * _NS)
    return Sitting(settings, Terms(check_symbol(symbol), str(source), seed, speed, duration_ns))


def _check_prices(settings: Settings, source: Source, symbol: str) -> None:
    """What is ordered at an exchange is decided by an exchange's prices, and is traded there."""
    if settings.broker != "exchange":
        return
    if source.kind != "ws":
        raise ConfigError(
            f"--feed {source} has no prices of an exchange, and the setting broker is exchange: orders would go there;"
            " nothing was run; give --feed ws:URL, or trade on paper in another home"
        )
    if symbol not in settings.exchange.symbols:
        raise ConfigError(
            f"{symbol} is not traded in the account, which trades {', '.join(settings.exchange.symbols)}; nothing was"
            " run; name it in the setting exchange.symbols"
        )


def go_on(settings: Settings, run_id: str) -> Sitting:
    """A session that is in the registry, as it was begun.

    Raises:
        CheckpointNotFound: there is no such run.
        ConfigError: its prices are none to trade by where orders go.
        StorageError: the database cannot be read.
    """
    with Database.open(settings.address) as database:
        run = database.read(lambda connection: run_of(row_of(connection, run_id), held=False))
        last = database.read(lambda connection: last_mark(connection, run_id))
    kept, terms = settings.of_run(run.parameters["settings"]), Terms.from_json(run.parameters["session"])
    _check_prices(kept, Source.of(terms.feed), terms.symbol)
    return Sitting(kept, terms, run_id, run.as_of_ns, last)


def _app(found: Opened, terms: Terms, faults: FaultPlan | None) -> AbstractAsyncContextManager[App]:
    return open_app(found.settings, faults=faults, clock=found.clock, wall=SystemClock(), pace=terms.speed)


Around: TypeAlias = Callable[[App, Callable[[], None], Callable[[], str]], AbstractAsyncContextManager[Any]]
"""Given the application, what stops the session, and what tells its id; entered for as long as it runs."""


def sit(
    sitting: Sitting, *, faults: FaultPlan | None = None, plain: bool = False, silent: bool = False, around: Around
) -> SessionResult:
    """Run it to its end, or until it is stopped, on a loop of its own, and show it; then write its report."""
    view = session_view(plain=plain, silent=silent)
    with view as viewer, asyncio.Runner(loop_factory=loop_factory(sitting.terms.speed)) as runner:
        result = runner.run(_run(sitting, faults, viewer, around))
    with suppress(Exception):  # what the report would say is in the database
        write_session_report(result.folder, result)
    return result


async def _run(sitting: Sitting, faults: FaultPlan | None, viewer: Viewer | None, around: Around) -> SessionResult:
    terms, last = sitting.terms, sitting.last
    running: list[Session] = []

    def heard(notice: StreamNotice) -> None:
        for session in running:
            session.notice(notice)

    asked = False

    def stop() -> None:
        nonlocal asked
        asked = True  # also for one that is still being begun
        for session in running:
            session.stop()

    def started(session: Session) -> None:
        running.append(session)
        if asked:
            session.stop()

    reached_ns = None if last is None else last.time_ns
    market = opened(sitting.settings, terms, began_ns=sitting.began_ns, reached_ns=reached_ns, observer=heard)
    async with (
        market as found,
        open_app(found.settings, faults=faults, clock=found.clock, wall=SystemClock(), pace=terms.speed) as app,
    ):
        venue = venue_of(app.broker)
        async with around(app, stop, lambda: running[0].scope.run_id if running else ""):
            return await run_session(
                app,
                terms,
                found.stream,
                found.view,
                venue,
                run_id=sitting.run_id,
                bars_only=found.bars_only,
                viewer=viewer,
                started=started,
            )
