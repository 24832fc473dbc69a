"""A session in the registry: begun or gone on with, run to its end, and what came of it."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from agents.domain import MarketView
from agents.errors import LeaseLost
from checkpoints.runs import Hold, Run, RunStatus
from checkpoints.sessions import SessionBook
from graph.app import App
from graph.nodes import EXCHANGE_ACCOUNT
from graph.session.account import Scope
from graph.session.session import Session, Viewer
from graph.session.status import SessionResult
from graph.session.venue import Venue
from graph.stream import MarketStream

__all__ = ["SHAPE", "Terms", "run_session", "session_result"]

SHAPE: Mapping[str, Any] = {"session": 1}
"""The fingerprint of a session: raised when one that was begun can not be gone on with by newer code."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What was asked for, kept with the run, so that it goes on as it began. `duration_ns` None: to its feed's end."""

    symbol: str
    feed: str
    seed: int
    speed: float
    duration_ns: int | None

    def as_json(self) -> dict[str, Any]:
        """What the run keeps."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Terms":
        """The reverse of `as_json`."""
        return cls(**{name: data[name] for name in cls.__slots__})


async def run_session(
    app: App,
    terms: Terms,
    stream: MarketStream,
    view: MarketView,
    venue: Venue,
    *,
    run_id: str | None = None,
    bars_only: bool = False,
    viewer: Viewer | None = None,
    started: Callable[[Session], None] = lambda _: None,
) -> SessionResult:
    """Begin a session, or go on with that of `run_id`, and run it to its end; `started` is given it before that.

    A session that is over is only reported.

    Raises:
        RunLeased, CheckpointNotFound: it cannot be gone on with; nothing was changed.
        LeaseLost: another process has taken it over.
    """
    holding = app.manager.claim(run_id) if run_id else _begun(app, terms, view)
    async with holding as hold:
        run = hold.run
        if run.status is RunStatus.FINISHED:
            return await session_result(app, run, None)
        last = await SessionBook(app.database).last(run.run_id)
        scope = Scope(
            run.run_id,
            run.account,
            terms.symbol,
            run.as_of_ns,
            terms.duration_ns,
            0 if last is None else last.elapsed_ns,
        )
        session = Session(app, scope, stream, view, venue, bars_only=bars_only, viewer=viewer)
        await app.manager.mark(hold, RunStatus.RUNNING)
        started(session)
        status, error = RunStatus.FINISHED, ""
        try:
            app.tell("RunResumed" if run_id else "RunStarted", {}, run.run_id)
            await session.run()
            if session.was_stopped:
                status = RunStatus.STOPPED
        except LeaseLost:  # whose it is now says how it ends
            raise
        except Exception as failure:  # noqa: BLE001 - whatever it was: the session failed, and is told so
            status, error = RunStatus.FAILED, f"{type(failure).__name__}: {failure}"
        run = await app.manager.mark(hold, status, error)
        app.tell(f"Run{status.capitalize()}", {"error": error}, run.run_id)
        await app.recorder.flush(run.run_id)
        return await session_result(app, run, session)


def _begun(app: App, terms: Terms, view: MarketView) -> AbstractAsyncContextManager[Hold]:
    return app.manager.begin(
        workflow="session",
        symbol=terms.symbol,
        as_of_ns=max(app.clock.now_ns(), view.as_of_ns),
        fingerprint=SHAPE,
        account=None if app.settings.broker == "paper" else EXCHANGE_ACCOUNT,
        parameters={"session": terms.as_json(), "settings": app.settings.shaping()},
    )


async def session_result(app: App, run: Run, session: Session | None) -> SessionResult:
    """What came of a session, from what is on disk; `session`: the one that ran just now, for its counts."""
    portfolio = await app.ledger.portfolio(run.account)
    return SessionResult(
        run=run,
        folder=app.settings.folder / "runs" / run.run_id,
        portfolio=portfolio,
        opening_cash=app.settings.cash,
        marks=await SessionBook(app.database).marks(run.run_id),
        orders=await app.ledger.orders(run.run_id),
        fills=await app.ledger.fills(run.account),
        trading=await app.switch.read(),
        counts={} if session is None else session.tally(),
        reaction_us={} if session is None else session.reaction.percentiles_us,
        home=app.settings.home_flag,
    )
