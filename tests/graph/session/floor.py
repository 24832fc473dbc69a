"""A whole session on virtual time: the simulated market, or a script of prices, and the paper broker on files."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from agents.clock import NANOSECONDS
from agents.domain import Bar, MarketView, Outcome, Quote, TradePlan, TradingAction, Verdict
from checkpoints.audit import Audit
from checkpoints.database import Database
from checkpoints.trading_state import Trading, read_trading
from graph.app import App, open_app
from graph.config import load_settings
from graph.resilience import FaultPlan
from graph.resilience.virtual import VirtualClock
from graph.session.host import Terms, run_session
from graph.session.session import Session, Viewer
from graph.session.slow_lane import Decided
from graph.session.status import SessionResult, SessionStatus
from graph.session.venue import venue_of
from graph.stream import MarketEvent, StreamHealth
from graph.stream.simulated import SimulatedStream

SYMBOL = "BTCUSDT"
PERIOD_NS = 60 * NANOSECONDS
START_NS = 1_790_000_040 * NANOSECONDS  # the end of a minute


class LoopTime:
    """The wall clock of a virtual loop, which shows `start_ns` when this is made."""

    def __init__(self, clock: VirtualClock, start_ns: int = START_NS) -> None:
        self._clock = clock
        self._offset_ns = start_ns - round(clock.now * 1e9)

    def now_ns(self) -> int:
        return self._offset_ns + round(self._clock.now * 1e9)


class Seen(Viewer):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        self.shown: list[SessionStatus] = []
        self.told: list[tuple[str, dict[str, Any]]] = []

    def show(self, status: SessionStatus) -> None:
        self.shown.append(status)

    def tell(self, kind: str, detail: Any) -> None:
        self.told.append((kind, dict(detail)))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [detail for name, detail in self.told if name == kind]


def history(count: int = 200, price: str = "100", begin_ns: int = START_NS) -> list[Bar]:
    """Bars of a quiet market, the last of which closes at `begin_ns`."""
    close = Decimal(price)
    return [
        Bar(SYMBOL, begin_ns - (count - 1 - number) * PERIOD_NS, close, close + 1, close - 1, close, Decimal(100))
        for number in range(count)
    ]


def view_of(bars: Sequence[Bar]) -> MarketView:
    columns = {name: tuple(float(getattr(bar, name)) for bar in bars) for name in ("open", "high", "low", "close")}
    times = tuple(bar.close_ns for bar in bars)
    return MarketView(SYMBOL, PERIOD_NS, times, volume=(100.0,) * len(bars), **columns)


class Script:
    """A stream that is written down: `(seconds after the start, event without its time)`; it ends with the last."""

    def __init__(self, clock: LoopTime, lines: Sequence[tuple[float, Any]], *, endless: bool = False) -> None:
        self.health = StreamHealth()
        self._clock = clock
        self._lines = lines
        self._endless = endless

    async def events(self) -> AsyncGenerator[MarketEvent, None]:
        for seconds, price in self._lines:
            at_ns = START_NS + round(seconds * 1e9)
            await asyncio.sleep(max(0.0, (at_ns - self._clock.now_ns()) / 1e9))
            self.health.received += 1
            self.health.delivered += 1
            self.health.last_ns["quotes"] = at_ns
            yield quote(seconds, price) if isinstance(price, str) else price
        if self._endless:
            await asyncio.Event().wait()


def quote(seconds: float, price: str) -> Quote:
    """A quote with a spread of 0.02 around a price."""
    middle = Decimal(price)
    return Quote(SYMBOL, START_NS + round(seconds * 1e9), middle - Decimal("0.01"), middle + Decimal("0.01"))


def bar(minutes: int, price: str = "100") -> Bar:
    """The bar that closes so many minutes after the start."""
    close = Decimal(price)
    return Bar(SYMBOL, START_NS + minutes * PERIOD_NS, close, close + 1, close - 1, close, Decimal(100))


def plan_of(view: MarketView, quantity: str = "2", stop: str | None = "95", target: str | None = "110") -> TradePlan:
    return TradePlan(
        SYMBOL,
        TradingAction.BUY,
        0.1,
        Decimal(quantity),
        view.last_price,
        None if stop is None else Decimal(stop),
        None if target is None else Decimal(target),
        horizon_bars=30,
        as_of_ns=view.as_of_ns,
    )


APPROVED = Verdict(Outcome.APPROVE, ())


@dataclass
class Home:
    """A home folder that the processes of a session, one after another, live in. `settings` are given to all."""

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    seen: Any = None  # whoever looks on at the newest process

    def sit(self, seed: int = 1, **options: Any) -> SessionResult:
        """One process of a session on a clock of its own.

        Options: `minutes` that it lasts in all; `run_id` to go on with; `lines` of a script in place of the simulated
        market; `during(app, session)` runs beside it; `start_ns` of the clock; `faults` of agents.
        """
        self.seen = Seen() if self.seen is None or isinstance(self.seen, Seen) else self.seen
        with VirtualClock(seed) as clock:
            return clock.run(self._sit(clock, seed, **options))

    async def _sit(
        self,
        clock: VirtualClock,
        seed: int,
        *,
        minutes: float = 10,
        run_id: str | None = None,
        lines: Sequence[tuple[float, Any]] | None = None,
        during: Callable[[App, Session], Coroutine[Any, Any, None]] | None = None,
        start_ns: int = START_NS,
        faults: FaultPlan | None = None,
    ) -> SessionResult:
        time = LoopTime(clock, start_ns)
        given: dict[str, Any] = {"home": self.folder, "window": 200, "policy": "rule"} | self.settings
        settings = load_settings(None, **given)
        simulated = SimulatedStream([SYMBOL], seed, time)
        stream: Any = simulated if lines is None else Script(time, lines)
        view = view_of([*simulated.history][-200:] if lines is None else history())
        terms = Terms(SYMBOL, "sim", seed, 1.0, round(minutes * PERIOD_NS))
        beside: list[asyncio.Task[None]] = []
        async with open_app(settings, clock=time, inline=True, faults=faults) as app:

            def started(session: Session) -> None:
                if during is not None:
                    beside.append(asyncio.create_task(during(app, session)))

            venue = venue_of(app.broker)
            bars_only = lines is not None and not any(isinstance(price, str) for _, price in lines)
            result = await run_session(
                app,
                terms,
                stream,
                view,
                venue,
                run_id=run_id,
                bars_only=bars_only,
                viewer=self.seen,
                started=started,
            )
            for task in beside:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            return result

    @property
    def trading(self) -> Trading:
        """The trading state that is on disk."""
        with Database.open(self.folder / "holdfast.db", inline=True) as database:
            return database.read(read_trading)

    async def audit(self) -> tuple[str, ...]:
        """The trading states of the audit log, in their order; it must be whole."""
        with Database.open(self.folder / "holdfast.db", inline=True) as database:
            log = Audit(database)
            assert (await log.verify()).wrong == ""
            return tuple(str(entry.detail["to"]) for entry in await log.entries())


async def minute(session: Session, seconds: float) -> None:
    """Wait until so many seconds after the start."""
    while session.scope.began_ns + seconds * 1e9 > session.clock.now_ns():  # noqa: ASYNC110 - only time is waited for
        await asyncio.sleep(0.25)


async def buy(app: App, session: Session, **bounds: Any) -> None:
    """Let the session have a plan that was approved, as its slow lane does."""
    view = view_of(history())
    held = (await app.ledger.portfolio(session.scope.account)).position(SYMBOL).quantity
    await session.take_plan(Decided(view, plan_of(view, **bounds), APPROVED, held, "plan-1"))
