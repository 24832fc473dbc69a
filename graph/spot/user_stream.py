"""What an exchange tells of an account's orders, for as long as it is wanted: lost connections are made anew.

After each connection, every order that may have moved meanwhile is asked for, so that nothing is missed. A user stream
may be silent for long. That it is alive is found out by asking for its subscription; that it tells what it should, by
what answers to other requests have told.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from agents.clock import Clock
from agents.errors import BrokerUnavailable, ConfigError, LinkLost
from checkpoints.ledger import BrokerReport
from graph.resilience import Retry
from graph.spot.answers import CLOCK_IS_OFF
from graph.spot.frames import Answered, Ended, Moved, read_frame
from graph.spot.rest import WINDOW_MS
from graph.spot.server_time import ServerTime
from graph.spot.signing import Signer
from graph.spot.watch import TOLD_S, Ask, Watch
from graph.stream.connections import Connections
from graph.stream.events import Connected, MessageRefused, StreamHealth, StreamNotice, StreamStale
from graph.stream.frames import Refused as BadFrame
from graph.stream.reader import Renewal, patience
from graph.transport import Link

__all__ = ["Update", "UserLimits", "UserStream"]

Update: TypeAlias = tuple[str, BrokerReport]
"""An order's id, and how it stands, with all of its fills so far."""

_STREAM = "user"
_SUBSCRIBE = 1
_BOOK = ""  # no order's name: all that rests is to be asked for
_SHORT_S = 60.0  # a connection that ends sooner is none that may be opened again at once


@dataclass(frozen=True, slots=True)
class UserLimits:
    """How long is waited for what, in seconds, and what is too much.

    `probe`: pause between two questions whether the subscription is there; `acknowledge`: until it is answered;
    `again`: until an order is asked for again that could not be. `lifetime` and `retry`: see `StreamLimits`.

    Raises:
        ConfigError: one of them is not above 0.
    """

    connect: float = 10.0
    acknowledge: float = 5.0
    probe: float = 15.0
    again: float = 5.0
    lifetime: float = 23.5 * 3_600
    frame_bytes_max: int = 65_536
    retry: Retry = field(default_factory=patience)

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not isinstance(value, Retry) and not 0 < value < float("inf"):
                raise ConfigError(f"a user stream's {name} is {value}; nothing was opened; give a number above 0")


class UserStream:
    """For one reader at a time.

    `ready` makes sure that time and rules are known; `find` asks for an order by REST, `resting` for those in the book.
    """

    def __init__(
        self,
        *,
        connections: Connections[Update],
        ready: Callable[[], Awaitable[None]],
        signer: Signer,
        time: ServerTime,
        watch: Watch,
        clock: Clock,
        health: StreamHealth,
        find: Callable[[str], Awaitable[BrokerReport | None]],
        resting: Callable[[], Awaitable[object]],
        limits: UserLimits,
        observer: Callable[[StreamNotice], None],
    ) -> None:
        self._connections = connections
        self._ready = ready
        self._signer = signer
        self._time = time
        self._watch = watch
        self._clock = clock
        self._health = health
        self._find = find
        self._resting = resting
        self._limits = limits
        self._observer = observer

    async def updates(self) -> AsyncGenerator[Update, None]:
        """Every report of an order of ours. Never ends by itself; close it (`contextlib.aclosing`).

        Raises:
            FeedDead: as many tries in a row have failed as the limits allow.
        """
        async with aclosing(self._connections.events(self._read)) as incoming:
            async for update in incoming:
                yield update

    async def _read(self, link: Link) -> AsyncGenerator[Update, None]:
        """The updates of one connection. Raises LinkLost or Renewal at its end."""
        session = _Session(link, self._limits)
        await self._subscribe(session)
        self._watch.listening(self._time.now_ms())
        session.owe(_BOOK)
        while True:
            for name in session.due():
                report = await self._asked(name, session)
                if report is not None:
                    yield name, report
            frame = await session.next()
            if frame is None:  # while something comes, or is being read, nobody is silent
                await self._look(session)
            elif (update := self._take(frame, session)) is not None:
                yield update

    async def _subscribe(self, session: "_Session") -> None:
        try:
            await self._ready()
        except BrokerUnavailable as error:
            raise LinkLost(f"the exchange does not answer by REST ({error}); try again") from None
        params = self._signer.message({"timestamp": self._time.now_ms(), "recvWindow": WINDOW_MS})
        await session.say(_SUBSCRIBE, "userDataStream.subscribe.signature", params)
        while session.number is None:
            frame = await session.next()
            if frame is not None:
                self._take(frame, session)
            session.check_answer()
        self._health.failures = 0
        self._observer(Connected(self._clock.now_ns(), (_STREAM,)))

    async def _asked(self, name: str, session: "_Session") -> BrokerReport | None:
        try:
            if name != _BOOK:
                return await self._find(name)
            await self._resting()  # what was sent before this process was there is known from then on
        except BrokerUnavailable:
            session.owe(name, self._limits.again)
            return None
        for each in self._watch.open():  # what may have moved while nobody listened
            session.owe(each)
        return None

    def _take(self, frame: bytes, session: "_Session") -> Update | None:
        self._health.received += 1
        try:
            said = read_frame(frame, self._limits.frame_bytes_max)
            if isinstance(said, Answered):
                self._heed(said, session)
            elif isinstance(said, Ended):
                session.end("the exchange has announced that it shuts down" if said.shutdown else "the stream ended")
            elif isinstance(said, Moved):
                return self._moved(said, session)
        except BadFrame as refused:
            self._health.refused[refused.reason] += 1
            self._observer(MessageRefused(self._clock.now_ns(), _STREAM, refused.reason))
            return None
        self._health.last_ns[_STREAM] = self._clock.now_ns()
        return None

    def _moved(self, moved: Moved, session: "_Session") -> Update | None:
        report = self._watch.heard(moved)
        self._health.last_ns[_STREAM] = self._clock.now_ns()
        if isinstance(report, Ask):
            self._health.missing += 1
            session.owe(moved.name)
            return None
        return moved.name, report

    def _heed(self, answer: Answered, session: "_Session") -> None:
        if answer.error or answer.code:
            self._time.doubtful |= answer.code == CLOCK_IS_OFF
            raise LinkLost(f"the exchange refused the user stream ({answer.code} {answer.error}); try again")
        session.answered(answer)

    async def _look(self, session: "_Session") -> None:
        """Raises LinkLost or Renewal where something that was due has not come."""
        session.check_answer()
        overdue = self._watch.overdue(session.now())
        if overdue is not None:
            self._observer(StreamStale(self._clock.now_ns(), _STREAM, TOLD_S))
            raise LinkLost(f"the user stream did not tell within {TOLD_S:g} s what became of order {overdue}")
        if session.now() - session.began >= self._limits.lifetime:
            session.end("the connection is nearly a day old")
        if session.now() >= session.probe_at:
            await session.probe()


class _Session:
    """One connection: what it was asked, what it owes, and when it is looked after."""

    def __init__(self, link: Link, limits: UserLimits) -> None:
        self._link = link
        self._limits = limits
        self._ids = _SUBSCRIBE
        self._awaited: int | None = None
        self._answer_by = 0.0
        self._owed: dict[str, float] = {}
        self.number: int | None = None
        self.now = asyncio.get_running_loop().time
        self.began = self.now()
        self.probe_at = self.began + limits.probe

    async def say(self, number: int, method: str, params: dict[str, object]) -> None:
        self._awaited, self._answer_by = number, self.now() + self._limits.acknowledge
        await self._link.send(msgspec.json.encode({"id": number, "method": method, "params": params}))

    async def probe(self) -> None:
        """Ask whether the subscription is there still."""
        self._ids += 1
        self.probe_at = self.now() + self._limits.probe
        await self.say(self._ids, "session.subscriptions", {})

    def answered(self, answer: Answered) -> None:
        """Raises LinkLost where the subscription is gone."""
        if answer.id != self._awaited:
            return
        self._awaited = None
        if self.number is None:
            self.number = answer.subscriptions[0] if answer.subscriptions else None
        if self.number is None or self.number not in answer.subscriptions:
            raise LinkLost("the exchange has ended the subscription of the user stream; subscribe again")

    def check_answer(self) -> None:
        """Raises LinkLost where an answer is overdue."""
        if self._awaited is not None and self.now() >= self._answer_by:
            raise LinkLost(f"the exchange did not answer within {self._limits.acknowledge:g} s; the connection is dead")

    def owe(self, name: str, seconds: float = 0.0) -> None:
        """An order is to be asked for, in so many seconds."""
        self._owed[name] = self.now() + seconds

    def due(self) -> list[str]:
        """Orders that are to be asked for now; they are owed no more."""
        names = [name for name, at in self._owed.items() if at <= self.now()]
        for name in names:
            del self._owed[name]
        return names

    async def next(self) -> bytes | None:
        """The next frame; None when it is time to look after something else first."""
        by = self._answer_by if self._awaited is not None else self.probe_at
        until = min(by, self.now() + 1.0, *self._owed.values())
        try:
            async with asyncio.timeout_at(until):
                return await self._link.recv()
        except TimeoutError:
            return None

    def end(self, why: str) -> None:
        """Raises Renewal for a connection that was good for a while, LinkLost for another."""
        if self.number is not None and self.now() - self.began >= _SHORT_S:
            raise Renewal(f"{why}; the next connection is opened at once")
        raise LinkLost(f"{why}, and it is a new one; try again later")
