"""One connection to an exchange's streams, from the subscription to its end."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from agents.clock import Clock
from agents.domain import Bar
from agents.errors import ConfigError, LinkLost
from graph.resilience import Retry
from graph.stream.events import (
    Connected,
    GapFound,
    MarketEvent,
    MessageRefused,
    Reason,
    StreamHealth,
    StreamNotice,
    StreamStale,
)
from graph.stream.frames import BarTrack, Control, Refused, Track, read_frame
from graph.stream.history import BarHistory
from graph.transport import Link

__all__ = ["Reader", "Renewal", "StreamLimits", "Watched", "patience"]

_SUBSCRIPTION = 1
_SHORT_SECONDS = 60.0  # a connection that ends sooner is none that may be opened again at once
_AWAY_SECONDS = 0.1


def patience() -> Retry:
    """How an exchange is connected to again: after 5 s first, 60 s at most; the tenth failure in a row is the last."""
    return Retry(max_attempts=10, base_seconds=5.0, max_seconds=60.0, jitter=(0.5, 1.0))


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """How long is waited for what, in seconds, and what is too much.

    `trades_quiet`, `quotes_quiet` and `bars_quiet`: with nothing good from a stream of this kind for so long, its
    connection is given up. `lifetime`: a connection is renewed before the exchange ends it after 24 hours. `retry`: how
    long between two tries, and after how many failures in a row it is over.

    Raises:
        ConfigError: one of them is not above 0.
    """

    connect: float = 10.0
    acknowledge: float = 5.0
    trades_quiet: float = 60.0
    quotes_quiet: float = 20.0
    bars_quiet: float = 20.0
    lifetime: float = 23.5 * 3_600
    history: float = 10.0
    frame_bytes_max: int = 65_536
    retry: Retry = field(default_factory=patience)

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not isinstance(value, Retry) and not 0 < value < float("inf"):
                raise ConfigError(f"a stream's {name} is {value}; no stream was made; give a number above 0")


class Renewal(Exception):
    """A connection that was good is over as planned: the next one is opened at once."""


class Watched:
    """One stream, and until when something good must have come on it, on the loop's clock."""

    __slots__ = ("deadline", "quiet", "track")

    def __init__(self, track: Track, quiet: float) -> None:
        self.track = track
        self.quiet = quiet
        self.deadline = 0.0


class Reader:
    """Subscribes to `streams` on `link`, and reads. Health and observer are the stream's."""

    def __init__(
        self,
        link: Link,
        streams: Mapping[str, Watched],
        *,
        limits: StreamLimits,
        clock: Clock,
        health: StreamHealth,
        observer: Callable[[StreamNotice], None],
        history: BarHistory | None,
    ) -> None:
        self._link = link
        self._streams = streams
        self._limits = limits
        self._clock = clock
        self._health = health
        self._observer = observer
        self._history = history
        self._now = asyncio.get_running_loop().time
        self._began = self._now()
        self._ends = self._began + limits.lifetime
        self._look_at = self._now() + limits.acknowledge
        self._acknowledged = False
        self._good = False

    async def events(self) -> AsyncGenerator[MarketEvent, None]:
        """The connection's events.

        Raises:
            LinkLost: the connection broke, was never acknowledged, or one of its streams was silent for too long.
            Renewal: it was good, and is over as planned.
        """
        for each in self._streams.values():
            each.track.reconnected()
        request = {"method": "SUBSCRIBE", "params": list(self._streams), "id": _SUBSCRIPTION}
        await self._link.send(msgspec.json.encode(request))
        while True:
            watched, event = self._take(await self._next())
            if event is None and (watched is None or not watched.track.missing):
                continue
            began = self._now()
            if watched is not None and watched.track.missing:
                for missed in await self._fill(watched.track, event):
                    yield missed
            elif event is not None:
                yield event
            self._excuse(self._now() - began)

    async def _next(self) -> bytes:
        """The next frame; looks after the streams whenever it is time to."""
        while True:
            if self._now() >= self._look_at:
                self._look()
            try:
                async with asyncio.timeout_at(self._look_at):
                    return await self._link.recv()
            except TimeoutError:
                continue

    def _take(self, frame: bytes) -> tuple[Watched | None, MarketEvent | None]:
        """Read a frame: the stream that it belongs to, where it is a good one of a stream, and its event."""
        self._health.received += 1
        stream = ""
        try:
            message = read_frame(frame, self._limits.frame_bytes_max)
            if isinstance(message, Control):
                self._heed(message)
                return None, None
            stream = message.stream
            watched, now_ns = self._watched(stream), self._clock.now_ns()
            event = watched.track.read(message.data, now_ns)
        except Refused as refused:
            self._refuse(stream if stream in self._streams else "", refused)
            return None, None
        self._good = True
        self._health.failures = 0
        self._health.last_ns[stream] = now_ns
        watched.deadline = self._now() + watched.quiet
        return watched, event

    def _watched(self, stream: str) -> Watched:
        watched = self._streams.get(stream)
        if watched is None:
            raise Refused(Reason.UNKNOWN)
        return watched

    def _refuse(self, stream: str, refused: Refused) -> None:
        self._health.refused[refused.reason] += 1
        self._observer(MessageRefused(self._clock.now_ns(), stream, refused.reason))

    # What is no data

    def _heed(self, control: Control) -> None:
        if control.shutdown:
            self._end("the exchange has announced that it shuts down")
        if control.error:
            raise LinkLost(f"the exchange refused the subscription ({control.error}); nothing comes; try again")
        if control.id == _SUBSCRIPTION and not self._acknowledged:
            self._acknowledged = True
            now = self._now()
            for watched in self._streams.values():
                watched.deadline = now + watched.quiet
            self._look_at = self._next_look()
            self._observer(Connected(self._clock.now_ns(), tuple(self._streams)))

    def _end(self, why: str) -> None:
        if self._good and self._now() - self._began >= _SHORT_SECONDS:
            raise Renewal(f"{why}; the next connection is opened at once")
        raise LinkLost(f"{why}, and it is a new one; try again later")

    # What is not there

    def _look(self) -> None:
        """Raises LinkLost or Renewal where something that was due has not come."""
        now = self._now()
        if not self._acknowledged:
            seconds = self._limits.acknowledge
            raise LinkLost(f"the subscription was not acknowledged within {seconds:g} s; try again")
        if now >= self._ends:
            self._end("the connection is nearly a day old")
        for stream, watched in self._streams.items():
            if now >= watched.deadline:
                self._observer(StreamStale(self._clock.now_ns(), stream, watched.quiet))
                raise LinkLost(f"nothing came on {stream} for {watched.quiet:g} s; the connection was given up")
        self._look_at = self._next_look()

    def _next_look(self) -> float:
        return min(self._ends, *(watched.deadline for watched in self._streams.values()))

    def _excuse(self, seconds: float) -> None:
        """While nobody read, nobody was silent: what has come meanwhile is still to be read."""
        if seconds > _AWAY_SECONDS:
            self._look_at += seconds
            for watched in self._streams.values():
                watched.deadline += seconds

    async def _fill(self, track: Track, event: MarketEvent | None) -> Sequence[MarketEvent]:
        """What is missing before an event, as far as it can be had elsewhere, and the event."""
        missing, track.missing = track.missing, 0
        filled = await self._bars(track) if isinstance(track, BarTrack) else []
        self._health.missing += max(0, missing - len(filled))
        self._observer(GapFound(self._clock.now_ns(), track.stream, missing, len(filled)))
        return [*filled, event] if event is not None else filled

    async def _bars(self, track: BarTrack) -> Sequence[Bar]:
        """The bars of a gap, in order; none where they cannot be had."""
        start_ms, end_ms = track.gap
        track.give_up()
        if self._history is None:
            return []
        try:
            async with asyncio.timeout(self._limits.history):
                bars = await self._history.between(track.symbol, track.interval, start_ms, end_ms)
        except (LinkLost, TimeoutError):
            return []
        period_ns = track.period_ms * 1_000_000
        return [bar for bar in bars if start_ms * 1_000_000 + period_ns <= bar.close_ns <= end_ms * 1_000_000]
