"""One WebSocket connection as the exchange sees it: what goes out, what keeps it alive, and what goes wrong with it."""

from collections.abc import Callable
from random import Random
from typing import Protocol

from graph.exchange.agenda import Agenda
from graph.exchange.menu import ExchangeFault, FaultKind, FaultMenu

__all__ = ["LIFETIME_SECONDS", "Connection", "Wire"]

PING_SECONDS = 20.0
PONG_SECONDS = 60.0
LIFETIME_SECONDS = 86_400.0

_GARBAGE = b'{}[]":,x\\\x00\x7f'


class Wire(Protocol):
    """What carries the frames of one connection: a socket, or a queue in memory. Nothing in it waits."""

    def send(self, frame: bytes) -> None:
        """One text frame."""
        ...

    def ping(self) -> None: ...

    def pong(self, payload: bytes) -> None: ...

    def close(self, code: int) -> None:
        """End it properly."""
        ...

    def reset(self) -> None:
        """End it without a word."""
        ...


class Connection:
    """`heard` is given every text frame that comes in. `on_end` is called once, when it is over for whatever reason.

    Faults are drawn with each frame that goes out, by the stream it belongs to.
    """

    def __init__(self, wire: Wire, agenda: Agenda, menu: FaultMenu, dice: Random, lifetime: float) -> None:
        self.heard: Callable[[bytes], None] = lambda _: None
        self.on_end: Callable[[], None] = lambda: None
        self.on_storm: Callable[[], None] = lambda: None
        self.open = True
        self._wire = wire
        self._agenda = agenda
        self._menu = menu
        self._dice = dice
        self._dumb = False  # a zombie: no data goes out
        self._deaf = False  # half-open: nothing at all does
        self._held: bytes | None = None
        self._free_ns = 0  # a delayed frame holds up those behind it until then
        self._heard_ns = agenda.now_ns
        agenda.after(PING_SECONDS, self._ping)
        agenda.after(lifetime, lambda: self.close(1001))

    def receive(self, frame: bytes) -> None:
        """A text frame has come in."""
        if self.open and not self._deaf:
            self.heard(frame)

    def ping(self, payload: bytes) -> None:
        """A ping has come in."""
        if self.open and not self._deaf:
            self._wire.pong(payload)

    def pong(self) -> None:
        """A pong has come in."""
        self._heard_ns = self._agenda.now_ns

    def lost(self) -> None:
        """The other side is gone."""
        self._end(lambda: None)

    def close(self, code: int) -> None:
        self._end(lambda: self._wire.close(code))

    def reset(self) -> None:
        self._end(self._wire.reset)

    def send(self, point: str, frame: bytes) -> None:
        """Send a text frame of the stream or kind `point`, or do with it what the plan of faults wants."""
        if not self._menu.frame_kinds:
            if self.open:
                self._wire.send(frame)
            return
        frames = [frame]
        for kind in self._menu.frame_kinds:
            if not self.open or self._dumb or self._deaf:
                return
            fault = self._menu.strikes(kind, point, self._agenda.now_ns / 1e9)
            if fault is not None:
                frames = self._suffer(fault, frames)
        for each in frames:
            self._pass_on(each)

    def reply(self, point: str, frame: bytes) -> None:
        """Answer a request, which a zombie still does."""
        dumb, self._dumb = self._dumb, False
        self.send(point, frame)
        self._dumb = dumb or self._dumb

    # What goes wrong

    def _suffer(self, fault: ExchangeFault, frames: list[bytes]) -> list[bytes]:
        """The frames that are left to be sent."""
        ending = self._endings().get(fault.kind)
        if ending is not None:
            ending()
            return []
        if fault.kind is FaultKind.SHUTDOWN:
            self._announce(fault.seconds)
        elif fault.kind is FaultKind.DELAY:
            self._free_ns = max(self._free_ns, self._agenda.now_ns) + round(fault.seconds * 1e9)
        elif fault.kind is FaultKind.REORDER and self._held is None and frames:
            self._held = frames.pop()
        elif fault.kind is FaultKind.GAP:
            return []
        elif fault.kind is FaultKind.DUPLICATE:
            return frames * 2
        elif fault.kind is FaultKind.CORRUPT:
            return [self._corrupted(frame) for frame in frames]
        elif fault.kind is FaultKind.TRUNCATE:
            return [frame[: self._dice.randrange(len(frame))] for frame in frames]
        return frames

    def _endings(self) -> dict[FaultKind, Callable[[], None]]:
        return {
            FaultKind.RESET: self.reset,
            FaultKind.CLOSE: lambda: self.close(1001),
            FaultKind.ZOMBIE: self._fall_dumb,
            FaultKind.HALF_OPEN: self._fall_deaf,
            FaultKind.STORM: self.on_storm,
        }

    def _fall_dumb(self) -> None:
        self._dumb = True

    def _fall_deaf(self) -> None:
        self._deaf = True

    def _announce(self, seconds: float) -> None:
        self._wire.send(b'{"e":"serverShutdown","E":%d}' % self._agenda.now_ms)
        self._agenda.after(seconds, lambda: self.close(1001))

    def _corrupted(self, frame: bytes) -> bytes:
        """Some bytes are others; never a digit for a digit, which only a checksum could find."""
        damaged = bytearray(frame)
        for _ in range(1 + self._dice.randrange(4)):
            damaged[self._dice.randrange(len(damaged))] = self._dice.choice(_GARBAGE)
        return bytes(damaged)

    def _pass_on(self, frame: bytes) -> None:
        frames = [frame] if self._held is None else [frame, self._held]
        self._held = None
        if self._free_ns < self._agenda.now_ns:  # what is due at this very moment may be still to come
            for each in frames:
                self._wire.send(each)
            return
        self._agenda.at(self._free_ns, lambda: self._send_late(frames))

    def _send_late(self, frames: list[bytes]) -> None:
        if self.open and not self._deaf:
            for each in frames:
                self._wire.send(each)

    # Life and death

    def _ping(self) -> None:
        if not self.open:
            return
        if self._agenda.now_ns - self._heard_ns > PONG_SECONDS * 1e9:
            self.reset()
            return
        if not self._deaf:
            self._wire.ping()
        self._agenda.after(PING_SECONDS, self._ping)

    def _end(self, how: Callable[[], None]) -> None:
        if self.open:
            self.open = False
            how()
            self.on_end()
