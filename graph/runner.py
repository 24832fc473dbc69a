"""Start, resume, finish: one decision from its registration to its result, whatever happened to the last attempt."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from langgraph.errors import GraphDrained
from langgraph.runtime import RunControl

from agents.domain import Outage, Portfolio
from agents.errors import ConfigError, HoldfastError, InputError, LeaseLost, RunError, RunLeased
from agents.policy.named import NAMED
from checkpoints.runs import Hold, ResumePoint, Run, RunStatus, check_fingerprint
from graph.app import App, Compiled
from graph.config import Settings
from graph.feed import Feed, FileFeed, NoFeed, SimulatedFeed
from graph.nodes import SHARED_ACCOUNT
from graph.report import write_report
from graph.resilience import too_many_missing
from graph.result import RunResult
from graph.telemetry import CURRENT_RUN

__all__ = ["Market", "Runner"]


@dataclass(frozen=True, slots=True)
class Market:
    """Where a command's bars come from: files by symbol, or, without files, the simulated market of a seed."""

    symbols: tuple[str, ...]
    files: Mapping[str, Path]
    seed: int

    def feed(self, settings: Settings) -> Feed:
        """The feed of these symbols; raises BadBars for a file that is no history of bars."""
        if self.files:
            return FileFeed(self.files, window=settings.window, calendar=settings.calendar)
        return SimulatedFeed(self.seed, window=settings.window, symbols=self.symbols)

    def as_json(self) -> dict[str, Any]:
        """What a run keeps, to find its market again."""
        files = {symbol: str(path.absolute()) for symbol, path in self.files.items()}
        return {"symbols": list(self.symbols), "files": files, "seed": self.seed}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Market":
        """The reverse of `as_json`."""
        files = {symbol: Path(path) for symbol, path in data["files"].items()}
        return cls(tuple(data["symbols"]), files, data["seed"])


class Runner:
    """Runs workflows in this process, at most `settings.concurrency` at once.

    Whoever hosts runs calls `start_all`, `resume` or `fork` and nothing else: each run is claimed, held, worked on and
    ended inside of them. `lost`: what became of runs that were begun here and taken over by another process.
    """

    def __init__(self, app: App) -> None:
        self.lost: list[RunError] = []
        self._app = app
        self._controls: dict[str, RunControl] = {}
        self._stopping = False

    def stop(self) -> None:
        """Let every run finish the step that it is in, and start no other."""
        self._stopping = True
        for control in self._controls.values():
            control.request_drain()

    @property
    def active(self) -> tuple[str, ...]:
        """The ids of the runs that are running now."""
        return tuple(self._controls)

    async def start_all(self, market: Market, keep: Callable[[RunResult], Any] = lambda result: result) -> list[Any]:
        """One run for each symbol. A run that fails is a result with its error; the others go on.

        A run that another process takes over, since this one was paused for too long or cut off from the database, has
        no result here: its error is added to `lost`.

        Of each result is kept what `keep` makes of it when its run ends, in the order of the symbols: a thousand
        results with their states are more than many machines have memory for.

        Raises:
            InputError: the market's data cannot be used; nothing was started.
            StorageError: the database failed; all runs were stopped where they were.
        """
        app = self._app
        _refuse_exchange(app)
        feed = await asyncio.to_thread(market.feed, app.settings)
        compiled = app.trade(app.settings, feed)
        pinned = await _pinned(app.settings, compiled)
        held = await app.manager.held_runs()
        await app.desk(app.settings).recover(lambda run_id: run_id not in held)
        opening = await app.ledger.portfolio(SHARED_ACCOUNT) if market.files else None
        slots = asyncio.Semaphore(app.settings.concurrency)

        async def one(symbol: str) -> Any:
            async with slots:
                if self._stopping:
                    return None
                try:
                    return keep(await self._start(compiled, market, feed.view(symbol), opening, pinned))
                except (LeaseLost, RunLeased) as lost:
                    self.lost.append(lost)
                    return None

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(symbol)) for symbol in market.symbols]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures
        return [result for task in tasks if (result := task.result()) is not None]

    async def _start(
        self, compiled: Compiled, market: Market, view: Any, opening: Portfolio | None, settings: Mapping[str, Any]
    ) -> RunResult:
        app = self._app
        begun = app.manager.begin(
            workflow="trade",
            symbol=view.symbol,
            as_of_ns=view.as_of_ns,
            fingerprint=compiled.fingerprint,
            parameters={"market": market.as_json(), "settings": settings},
            account=SHARED_ACCOUNT if market.files else None,
        )
        async with self._holding(begun) as hold:
            run = hold.run
            await app.ledger.open_account(run.account, app.settings.cash)
            portfolio = opening or await app.ledger.portfolio(run.account)
            state = {"symbol": view.symbol, "view": view, "portfolio": portfolio}
            app.recorder.note(run.run_id, "RunStarted")
            return await self._drive(hold, compiled, state)

    async def resume(self, identifier: str) -> RunResult:
        """Go on with a run, by its id or by one of its checkpoints'. A finished run is only reported.

        Raises:
            CheckpointNotFound, RunLeased, FingerprintMismatch: it cannot be gone on with; nothing was changed.
            LeaseLost: another process has taken the run over; nothing was changed since.
        """
        app = self._app
        _refuse_exchange(app)
        point = await app.manager.locate(identifier)
        _refuse_other(point.run)
        async with self._holding(app.manager.claim(point.run.run_id)) as hold:
            run = hold.run
            market = Market.from_json(run.parameters["market"])
            settings = app.settings = app.settings.of_run(run.parameters["settings"])
            fresh = not await app.manager.has_checkpoint(run.run_id)
            feed = await asyncio.to_thread(market.feed, settings) if fresh else NoFeed()
            compiled = app.trade(settings, feed)
            check_fingerprint(run, compiled.fingerprint)
            if run.status is RunStatus.FINISHED and point.checkpoint_id is None:
                return await self._result(run, compiled, identifier)
            await app.ledger.open_account(run.account, settings.cash)
            state = await self._first_state(run, feed) if fresh else None
            await app.manager.mark(hold, RunStatus.RUNNING)
            CURRENT_RUN.set(run.run_id)
            app.recorder.note(run.run_id, "RunResumed", checkpoint=point.checkpoint_id or "head", was=str(run.status))
            await self._settle_others(run, settings)
            rewind_to = point.checkpoint_id or await self._before_swarm(run, compiled)
            return await self._drive(hold, compiled, state, rewind_to=rewind_to, resumed_from=identifier)

    async def fork(
        self, identifier: str, *, orders: bool = False, changes: Mapping[str, Any] = MappingProxyType({})
    ) -> RunResult:
        """Go on from a saved state in a new run, and leave the run that it is of as it is, which may be running.

        Without `orders` the new run is dry: it comes to its decision, and no order of it is sent. It has the settings
        of the run it comes from, but for `changes` (see `Settings.of_run`).

        Raises:
            CheckpointNotFound, FingerprintMismatch, ConfigError: there can be no such run; nothing was forked.
            InputError: nothing is left to do after that state.
            LeaseLost: another process has taken the new run over; nothing was changed since.
        """
        app = self._app
        _refuse_exchange(app)
        point = await app.manager.locate(identifier)
        origin = point.run
        _refuse_other(origin)
        settings = app.settings = app.settings.of_run(origin.parameters["settings"], changes)
        compiled = app.trade(settings, NoFeed())
        check_fingerprint(origin, compiled.fingerprint)
        await _refuse_if_done(point, compiled)
        forked = app.manager.fork(
            point,
            fingerprint=compiled.fingerprint,
            parameters={**origin.parameters, "settings": await _pinned(settings, compiled)},
            dry=not orders,
        )
        async with self._holding(forked) as hold:
            run = hold.run
            await app.ledger.open_account(run.account, settings.cash)
            told = {"origin": origin.run_id, "checkpoint": run.forked_at, "dry": run.dry, "changes": dict(changes)}
            app.recorder.note(run.run_id, "RunForked", "", **told)
            if orders:  # what a dry run asks to be settled might be sent
                await self._settle_others(run, settings)
            return await self._drive(hold, compiled, None, rewind_to=await self._before_swarm(run, compiled))

    async def _settle_others(self, run: Run, settings: Settings) -> None:
        """Ask the broker about every order whose fate is open, but for those of runs that are worked on elsewhere."""
        others = await self._app.manager.held_runs() - {run.run_id}
        await self._app.desk(settings).recover(lambda run_id: run_id not in others)

    @asynccontextmanager
    async def _holding(self, holding: AbstractAsyncContextManager[Hold]) -> AsyncIterator[Hold]:
        """Hold the run while the body works on it; that it was lost meanwhile is told to whoever watches it."""
        hold = None
        try:
            async with holding as hold:
                yield hold
        except LeaseLost as lost:
            if hold is not None:
                self._app.recorder.note(hold.run.run_id, "RunLost", error=str(lost))
                await self._app.recorder.flush(hold.run.run_id)
            raise

    async def _before_swarm(self, run: Run, compiled: Compiled) -> str | None:
        """For a run that stands before its synthesis with too many analysts missing: the state before they were asked.

        Their outages are saved as answers, and would only fail the run (again). Whatever stopped it is no matter: it
        may have been killed before it could find that out.
        """
        snapshot = await compiled.graph.aget_state({"configurable": {"thread_id": run.run_id}})
        if snapshot.next != ("synthesis",):
            return None
        findings = snapshot.values.get("findings", ())
        required = {member.name for member in compiled.members if member.required}
        asked = [each for each in findings if each.analyst in required]
        if not too_many_missing(sum(isinstance(each, Outage) for each in asked), len(asked)):
            return None
        rows = await self._app.manager.checkpoints(run.run_id, compiled.graph)
        return next((row.checkpoint_id for row in reversed(rows) if row.before == "analyst"), None)

    async def _first_state(self, run: Run, feed: Feed) -> dict[str, Any]:
        """The input of a run that was killed before anything of it was saved."""
        view = feed.view(run.symbol)
        if view.as_of_ns != run.as_of_ns:
            raise HoldfastError(
                f"the bars of {run.symbol} have changed since run {run.run_id} was started, and nothing of it was"
                " saved; nothing was resumed; start a new run"
            )
        portfolio = await self._app.ledger.portfolio(run.account)
        return {"symbol": run.symbol, "view": view, "portfolio": portfolio}

    async def _drive(
        self,
        hold: Hold,
        compiled: Compiled,
        state: Mapping[str, Any] | None,
        *,
        rewind_to: str | None = None,
        resumed_from: str | None = None,
    ) -> RunResult:
        """Let the graph run to its end, to a stop, or to an error; write down which, and the report."""
        app, run, control = self._app, hold.run, RunControl()
        config: dict[str, Any] = {"configurable": {"thread_id": run.run_id, "account": run.account}}
        if rewind_to is not None:
            config["configurable"]["checkpoint_id"] = rewind_to
        self._controls[run.run_id] = control
        if self._stopping:  # asked while the run was being set up
            control.request_drain()
        status, error = RunStatus.FINISHED, ""
        try:
            await compiled.graph.ainvoke(state, config, durability="sync", control=control)
        except GraphDrained:
            status = RunStatus.STOPPED
        except LeaseLost:  # whose run it is now says how it ends
            raise
        except Exception as failure:  # noqa: BLE001 - whatever a node raised: the run failed, and is told so
            status, error = RunStatus.FAILED, f"{type(failure).__name__}: {failure}"
        finally:
            del self._controls[run.run_id]
        run = await app.manager.mark(hold, status, error)
        app.recorder.note(run.run_id, f"Run{status.capitalize()}", error=error)
        await app.recorder.flush(run.run_id)
        result = await self._result(run, compiled, resumed_from)
        with suppress(Exception):  # what the report would say is in the database: a report must not undo the run
            await asyncio.to_thread(write_report, hold.folder, result)
        return result

    async def _result(self, run: Run, compiled: Compiled, resumed_from: str | None) -> RunResult:
        app = self._app
        snapshot = await compiled.graph.aget_state({"configurable": {"thread_id": run.run_id}})
        checkpoints = await app.manager.checkpoints(run.run_id, compiled.graph)
        unsent = snapshot.values.get("orders", ()) if run.dry else ()  # they are not in the ledger
        return RunResult(
            run=run,
            state=snapshot.values,
            orders=(
                *(order for order in unsent if order.intent.run_id == run.run_id),
                *await app.ledger.orders(run.run_id),
            ),
            portfolio=await app.ledger.portfolio(run.account),
            checkpoints=tuple(row for row in checkpoints if not row.copied),
            timeline=await app.timeline.entries(run.run_id),
            home=app.settings.home_flag,
            folder=app.settings.folder / "runs" / run.run_id,
            trading=await app.switch.read(),
            resumed_from=resumed_from,
        )


def _refuse_other(run: Run) -> None:
    """Only decisions that stand alone are gone on with by themselves."""
    if run.workflow == "plan":
        session = run.parameters.get("session", "its session")
        raise InputError(
            f"run {run.run_id} is a decision of {session}, which decides anew on each bar; nothing was done; go on with"
            " the session, by --resume"
        )
    if run.workflow != "trade":
        raise InputError(
            f"run {run.run_id} is a {run.workflow}, of which there is no fork; nothing was done; --resume it"
        )


def _refuse_exchange(app: App) -> None:
    """Prices of yesterday are no reason to order anything today."""
    if app.settings.broker != "paper":
        raise ConfigError(
            f"the trade workflow decides on history, and the setting broker is {app.settings.broker}; nothing was run;"
            " trade there by --workflow session, or on paper in another home"
        )


async def _refuse_if_done(point: ResumePoint, compiled: Compiled) -> None:
    where = {"thread_id": point.run.run_id}
    if point.checkpoint_id is not None:
        where["checkpoint_id"] = point.checkpoint_id
    state = await compiled.graph.aget_state({"configurable": where})
    if state.config["configurable"].get("checkpoint_id") and not state.tasks:
        what = f"checkpoint {point.checkpoint_id}" if point.checkpoint_id else "its newest state"
        raise InputError(
            f"run {point.run.run_id} came to an end at {what}, and nothing is left to do after that;"
            f" nothing was forked; take an earlier one of --checkpoints {point.run.run_id}"
        )


async def _pinned(settings: Settings, compiled: Compiled) -> dict[str, Any]:
    """What is kept of the settings with a run: a bundle is pinned as it was found, so that a resumed run has no other.

    One that could not be used stays open: the run may be resumed with it when it is mended.
    """
    agent = await compiled.policy.ready()
    own = {"policy_sha256": agent.pin} if agent.pin and settings.policy not in NAMED else {}
    return settings.shaping() | own
