"""From an exchange's frames to market events. Nothing in a frame is believed: what does not fit is refused.

A frame has the shape of Binance's combined streams, `{"stream": NAME, "data": {...}}`, or is an answer to a control
message. Every number is checked by the rules of the domain's values; every stream goes forwards only.
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

import msgspec

from agents.domain import Bar, Quote, Side, Trade
from agents.errors import InvalidValue
from graph.stream.events import MarketEvent, Reason

__all__ = ["BarTrack", "Control", "Frame", "QuoteTrack", "Refused", "Track", "TradeTrack", "read_frame"]

_MS = 1_000_000
_FUTURE_NS = 60 * 1_000_000_000  # further ahead than this no clock can be
_PAST_NS = 86_400 * 1_000_000_000  # longer than this no connection lasts, and what it brings happens meanwhile
_JUMP_MAX = 10_000_000  # messages that a gap can have
_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,15})?", re.ASCII)

_Whole = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
_Time = Annotated[int, msgspec.Meta(ge=0, le=9 * 10**12)]  # milliseconds; the year 2255 in nanoseconds still fits
_Text = Annotated[str, msgspec.Meta(max_length=32)]


class Refused(Exception):
    """A frame that is dropped, and why."""

    def __init__(self, reason: Reason, stream: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.stream = stream


@dataclass(frozen=True, slots=True)
class Control:
    """What is no market data: an answer to the message `id`, well or not, or the announcement of a shutdown."""

    id: int | None = None
    error: str = ""
    shutdown: bool = False


@dataclass(frozen=True, slots=True)
class Frame:
    """A message of a stream, not yet read any further."""

    stream: str
    data: msgspec.Raw


class _Any(msgspec.Struct):
    stream: str = ""
    data: msgspec.Raw = msgspec.Raw()
    id: int | str | None = None
    code: int | None = None
    msg: str = ""
    e: str = ""


class _TradeData(msgspec.Struct, gc=False):
    s: _Text
    t: _Whole
    p: _Text
    q: _Text
    T: _Time
    m: bool


class _QuoteData(msgspec.Struct, gc=False):
    s: _Text
    u: _Whole
    b: _Text
    B: _Text
    a: _Text
    A: _Text


class _Kline(msgspec.Struct, gc=False):
    t: _Time
    T: _Time
    i: _Text
    o: _Text
    h: _Text
    l: _Text  # noqa: E741 - the exchange's name
    c: _Text
    v: _Text
    x: bool


class _KlineData(msgspec.Struct, gc=False):
    s: _Text
    k: _Kline


_read_any = msgspec.json.Decoder(_Any).decode


def read_frame(frame: bytes, bytes_max: int) -> Frame | Control:
    """Tell what a frame is. Raises Refused."""
    if len(frame) > bytes_max:
        raise Refused(Reason.TOO_LARGE)
    found = _decoded(_read_any, frame)
    if found.stream:
        return Frame(found.stream, found.data)
    if found.e == "serverShutdown":
        return Control(shutdown=True)
    if found.code is not None:
        return Control(found.id if isinstance(found.id, int) else None, f"{found.code} {found.msg:.200}")
    if isinstance(found.id, int):
        return Control(found.id)
    raise Refused(Reason.WRONG_SHAPE)


def _decoded(decode: Any, data: bytes | msgspec.Raw) -> Any:
    try:
        return decode(data)
    except msgspec.ValidationError:
        raise Refused(Reason.WRONG_SHAPE) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refused(Reason.NOT_JSON) from None


def number(text: str) -> Decimal:
    """A number as an exchange writes it. Raises Refused."""
    if not _NUMBER.fullmatch(text):
        raise Refused(Reason.BAD_NUMBER)
    return Decimal(text)


class Track:
    """One stream: what kind of messages come on it, and how far it has come.

    `read` gives the message's event, None for a message that is good and no event, and takes note of it. `missing`
    is how many messages were left out just before the last one that was read: 0 mostly, -1 where nobody can say.
    `reconnected`: numbers may begin anew.
    """

    def __init__(self, symbol: str, stream: str) -> None:
        self.symbol = symbol
        self.stream = stream
        self.missing = 0

    def read(self, data: msgspec.Raw, now_ns: int) -> MarketEvent | None:
        """Raises Refused; the message then counts as never come."""
        raise NotImplementedError

    def reconnected(self) -> None:
        """A new connection follows the old one."""

    def _of_symbol(self, symbol: str) -> None:
        if symbol != self.symbol:
            raise Refused(Reason.UNKNOWN)

    @staticmethod
    def _of_these_days(done_ms: int, end_ms: int, now_ns: int) -> None:
        """What comes has happened by `done_ms` and was over at `end_ms`. Raises Refused where that cannot be now."""
        if done_ms * _MS > now_ns + _FUTURE_NS:
            raise Refused(Reason.FUTURE)
        if end_ms * _MS < now_ns - _PAST_NS:
            raise Refused(Reason.OLD)


class TradeTrack(Track):
    """Trades are numbered one by one."""

    def __init__(self, symbol: str, stream: str) -> None:
        super().__init__(symbol, stream)
        self._decode = msgspec.json.Decoder(_TradeData).decode
        self._number = -1
        self._time_ms = 0
        self._fresh = False

    def reconnected(self) -> None:
        self._fresh = True

    def read(self, data: msgspec.Raw, now_ns: int) -> Trade:
        found = _decoded(self._decode, data)
        self._of_symbol(found.s)
        missing = self._follows(found.t, found.T, now_ns)
        side = Side.SELL if found.m else Side.BUY
        try:
            trade = Trade(self.symbol, found.T * _MS, number(found.p), number(found.q), side)
        except InvalidValue:
            raise Refused(Reason.BAD_PRICES) from None
        self._number, self._time_ms, self._fresh, self.missing = found.t, found.T, False, missing
        return trade

    def _follows(self, at: int, time_ms: int, now_ns: int) -> int:
        """How many are missing between the last one and this. Raises Refused where it does not come after it."""
        self._of_these_days(time_ms, time_ms, now_ns)
        if self._number < 0:
            return 0
        if at <= self._number and not (self._fresh and time_ms > self._time_ms):
            raise Refused(Reason.DUPLICATE if at == self._number else Reason.LATE)
        if time_ms < self._time_ms:
            raise Refused(Reason.TIME_BACK)
        missing = at - self._number - 1
        if 0 <= missing <= _JUMP_MAX:
            return missing
        if not self._fresh:
            raise Refused(Reason.JUMP)
        return -1


class QuoteTrack(Track):
    """Best prices carry the number of the book's last change; that some numbers are left out is usual.

    They carry no time: it is when they came.
    """

    def __init__(self, symbol: str, stream: str) -> None:
        super().__init__(symbol, stream)
        self._decode = msgspec.json.Decoder(_QuoteData).decode
        self._update = -1
        self._time_ns = 0
        self._fresh = False

    def reconnected(self) -> None:
        self._fresh = True

    def read(self, data: msgspec.Raw, now_ns: int) -> Quote:
        found = _decoded(self._decode, data)
        self._of_symbol(found.s)
        if found.u <= self._update and not self._fresh:
            raise Refused(Reason.DUPLICATE if found.u == self._update else Reason.LATE)
        time_ns = max(now_ns, self._time_ns)
        try:
            sizes = number(found.B), number(found.A)
            quote = Quote(self.symbol, time_ns, number(found.b), number(found.a), *sizes)
        except InvalidValue:
            raise Refused(Reason.BAD_PRICES) from None
        self._update, self._time_ns, self._fresh = found.u, time_ns, False
        return quote


class BarTrack(Track):
    """Bars grow, and are given once they are closed. `period_ms` is their length; each begins where the last ended.

    `gap`: from when until when bars are missing, where some are.
    """

    def __init__(self, symbol: str, stream: str, interval: str, period_ms: int) -> None:
        super().__init__(symbol, stream)
        self._decode = msgspec.json.Decoder(_KlineData).decode
        self.interval = interval
        self.period_ms = period_ms
        self.gap = (0, 0)
        self._next_ms: int | None = None  # when the bar begins that is to be given next
        self._present_ms = 0  # when the bar begins that the last message was of

    def read(self, data: msgspec.Raw, now_ns: int) -> Bar | None:
        found = _decoded(self._decode, data)
        self._of_symbol(found.s)
        kline = found.k
        if kline.i != self.interval or kline.T - kline.t != self.period_ms - 1 or kline.t % self.period_ms:
            raise Refused(Reason.WRONG_SHAPE)
        self._of_these_days(kline.T + 1 if kline.x else kline.t, kline.T + 1, now_ns)
        if kline.t < max(self._present_ms, self._next_ms or 0):
            raise Refused(Reason.DUPLICATE if kline.x else Reason.LATE)
        bar = self._bar(kline)
        self.gap = (kline.t if self._next_ms is None else self._next_ms, kline.t)
        self.missing = (self.gap[1] - self.gap[0]) // self.period_ms
        self._present_ms = kline.t
        if kline.x:
            self._next_ms = kline.T + 1
            return bar
        self._next_ms = self.gap[0]
        return None

    def give_up(self) -> None:
        """The gap is filled, or cannot be: the next bar is the one that grows."""
        self._next_ms = max(self._present_ms, self._next_ms or 0)

    def _bar(self, kline: _Kline) -> Bar:
        prices = (number(text) for text in (kline.o, kline.h, kline.l, kline.c, kline.v))
        try:
            return Bar(self.symbol, (kline.T + 1) * _MS, *prices)
        except InvalidValue:
            raise Refused(Reason.BAD_PRICES) from None
