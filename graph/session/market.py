"""Where a session's prices come from: `sim`, `replay:FILE` or `ws:URL`, opened at the beginning or where it stopped."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

from agents.clock import Clock, ReplayClock, SystemClock
from agents.domain import Bar, MarketView
from agents.errors import BadBars, ConfigError, LinkLost
from graph.config import Settings
from graph.session.history import FileHistory, WithBars
from graph.session.host import Terms
from graph.session.pace import LoopClock
from graph.stream import MarketStream, StreamNotice
from graph.stream.replay import ReplayStream
from graph.stream.simulated import SimulatedStream

__all__ = ["Opened", "Source", "opened"]

_BEFORE = 600
_BARS_MIN = 100
_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Source:
    """What `--feed` names. `kind`: sim, replay or ws; `where`: the file's path or the URL.

    Raises:
        ConfigError: it names nothing.
    """

    kind: str
    where: str = ""

    @classmethod
    def of(cls, text: str) -> "Source":
        """Read `sim`, `replay:FILE` or `ws:URL`; a path is made absolute: the session may go on from elsewhere."""
        kind, _, where = text.partition(":")
        if kind == "sim" and not where:
            return cls("sim")
        if kind == "replay" and where:
            return cls("replay", str(Path(where).expanduser().absolute()))
        if text.startswith(("ws://", "wss://")):
            return cls("ws", text.rstrip("/"))
        if kind == "ws" and where.startswith(("ws://", "wss://")):
            return cls("ws", where.rstrip("/"))
        raise ConfigError(
            f"--feed is {text!r:.80}; nothing was run; write sim, replay:FILE or ws:URL (wss://host:port)"
        )

    def __str__(self) -> str:
        return f"{self.kind}:{self.where}" if self.where else self.kind


@dataclass(frozen=True, slots=True)
class Opened:
    """A market that is open: its clock, its stream, the bars before the first event, and the settings that fit them.

    `bars_only`: it has no quotes.
    """

    clock: Clock
    stream: MarketStream
    view: MarketView
    settings: Settings
    bars_only: bool = False


@asynccontextmanager
async def opened(
    settings: Settings,
    terms: Terms,
    *,
    began_ns: int | None = None,
    reached_ns: int | None = None,
    observer: Callable[[StreamNotice], None] = lambda _: None,
) -> AsyncIterator[Opened]:
    """The market of a session that begins now, or that began then and has come as far as `reached_ns`.

    A simulated market and a file stand still while nobody looks; an exchange does not.

    Raises:
        BadBars: the file cannot be used.
        ConfigError: the exchange has no bars of this length, or what is needed is not installed.
        LinkLost: the exchange could not be reached.
    """
    source = Source.of(terms.feed)
    if source.kind == "sim":
        yield _simulated(settings, terms, began_ns, reached_ns)
    elif source.kind == "replay":
        yield _replayed(settings, terms, Path(source.where), reached_ns)
    else:
        async with _exchange(settings, terms, source.where, observer) as found:
            yield found


def _simulated(settings: Settings, terms: Terms, began_ns: int | None, reached_ns: int | None) -> Opened:
    clock = LoopClock(SystemClock().now_ns() if began_ns is None else began_ns)
    stream = SimulatedStream([terms.symbol], terms.seed, clock)
    bars = [*stream.history]
    if reached_ns is not None:
        bars += [event for event in stream.skip(reached_ns) if isinstance(event, Bar)]
        clock.advance_to(reached_ns)
    period_ns = 60 * _NS
    settings = _with_period(settings, period_ns)
    view = _view(
        bars,
        period_ns,
        symbol=terms.symbol,
        window=settings.window,
        calendar="24/7",
        source=f"simulated market, seed {terms.seed}",
    )
    return Opened(clock, stream, view, settings)


def _replayed(settings: Settings, terms: Terms, path: Path, reached_ns: int | None) -> Opened:
    history = FileHistory.read(path, terms.symbol, settings)
    clock = ReplayClock(0)
    replay = ReplayStream({terms.symbol: path}, clock, speed=1.0)
    begins_ns = max(history.begins_ns, reached_ns or 0)
    passed = replay.skip(begins_ns)
    clock.advance_to(begins_ns)
    stream = WithBars(replay, terms.symbol, history.period_ns, passed) if history.of_quotes else replay
    bars = [bar for bar in history.bars if bar.close_ns <= begins_ns]
    view = _view(
        bars,
        history.period_ns,
        symbol=terms.symbol,
        window=settings.window,
        calendar=history.calendar,
        source=str(path),
    )
    settings = _with_period(settings, history.period_ns)
    return Opened(clock, stream, view, settings, bars_only=not history.of_quotes)


@asynccontextmanager
async def _exchange(
    settings: Settings, terms: Terms, url: str, observer: Callable[[StreamNotice], None]
) -> AsyncIterator[Opened]:
    try:
        from graph.sockets import HttpClient, WebSocketConnector  # noqa: PLC0415 - of an extra, as the next two
        from graph.stream.exchange import ExchangeStream  # noqa: PLC0415
        from graph.stream.history import INTERVALS, BarHistory  # noqa: PLC0415
    except ImportError:
        raise ConfigError(
            "an exchange's streams need what is not installed; nothing was run; run: pip install 'holdfast[exchange]'"
        ) from None

    period_ns = round(settings.bar_period * _NS)
    interval = next((name for name, ms in INTERVALS.items() if ms * 1_000_000 == period_ns), None)
    if interval is None:
        raise ConfigError(
            f"the setting bar_period is {settings.bar_period:g} s, and an exchange has bars of {', '.join(INTERVALS)};"
            " nothing was run; choose one of them"
        )
    clock = SystemClock()
    async with HttpClient() as http:
        history = BarHistory(http, rest_of(url))
        try:
            bars = await history.newest(terms.symbol, interval, _BEFORE, clock.now_ns())
        except LinkLost as error:
            raise LinkLost(
                f"{url} gave no bars of {terms.symbol} ({error}); no session was begun; see the address and the symbol"
            ) from None
        view = _view(bars, period_ns, symbol=terms.symbol, window=settings.window, calendar="24/7", source=url)
        stream = ExchangeStream(
            WebSocketConnector(), url, [terms.symbol], clock, interval=interval, history=history, observer=observer
        )
        yield Opened(clock, stream, view, settings)


def rest_of(url: str) -> str:
    """Where an exchange answers requests whose streams are at `url`, if they are at the same host and port."""
    parts = urlsplit(url)
    return f"{'https' if parts.scheme == 'wss' else 'http'}://{parts.netloc}"


def _with_period(settings: Settings, period_ns: int) -> Settings:
    return settings.model_copy(update={"bar_period": period_ns / _NS})


def _view(bars: Sequence[Bar], period_ns: int, *, symbol: str, window: int, calendar: str, source: str) -> MarketView:
    if len(bars) < _BARS_MIN:
        raise BadBars(f"{source} has {len(bars)} bars of {symbol}; nothing was run; a decision needs {_BARS_MIN}")
    kept = bars[-window:]
    columns = {name: tuple(float(getattr(bar, name)) for bar in kept) for name in ("open", "high", "low", "close")}
    whole = all(bar.volume is not None for bar in kept)
    return MarketView(
        symbol,
        period_ns,
        tuple(bar.close_ns for bar in kept),
        volume=tuple(float(bar.volume or 0) for bar in kept) if whole else (),
        price_step=_step(kept),
        calendar=calendar,
        source=source,
        **columns,
    )


def _step(bars: Sequence[Bar]) -> Decimal:
    """The smallest increment that the prices were printed with."""
    finest = min(int(price.normalize().as_tuple().exponent) for bar in bars for price in (bar.open, bar.close))
    return Decimal(1).scaleb(min(0, max(finest, -8)))
