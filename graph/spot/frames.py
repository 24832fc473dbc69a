"""From frames of the WebSocket API to what they say of orders: nothing is believed, what does not fit is refused."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, TypeAlias

import msgspec

from agents.domain import OrderStatus, Side
from graph.spot.answers import STATUSES, Text, Whole, one_line
from graph.spot.trades import Execution
from graph.stream.events import Reason
from graph.stream.frames import Refused, number

__all__ = ["Answered", "Ended", "Moved", "Said", "read_frame"]

_Time = Annotated[int, msgspec.Meta(ge=0, le=9 * 10**12)]
_Signed = Annotated[int, msgspec.Meta(ge=-1, le=2**62)]
_SIDES = {"BUY": Side.BUY, "SELL": Side.SELL}
_OF_OTHERS = frozenset({"outboundAccountPosition", "balanceUpdate", "listStatus", "externalLockUpdate"})
"""Events that say nothing of an order."""


@dataclass(frozen=True, slots=True)
class Moved:
    """An order has moved. `executed`: all of it so far; `trade`: the execution that it is told for, None for none."""

    name: str
    symbol: str
    number: int
    status: OrderStatus
    executed: Decimal
    reason: str = ""
    trade: Execution | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer to the request `id`: the numbers of subscriptions in it, or an error."""

    id: int
    subscriptions: tuple[int, ...] = ()
    code: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing more will come on this connection; `shutdown`: soon, and for everybody."""

    shutdown: bool = False


Said: TypeAlias = Moved | Answered | Ended | None
"""What a frame says; None for one that is good, and of no order."""


class _Error(msgspec.Struct):
    code: int
    msg: str = ""


class _Envelope(msgspec.Struct):
    event: msgspec.Raw = msgspec.Raw()
    id: int | str | None = None
    status: int | None = None
    result: msgspec.Raw = msgspec.Raw()
    error: _Error | None = None
    e: str = ""


class _Kind(msgspec.Struct):
    e: str


class _Subscription(msgspec.Struct, rename="camel"):
    subscription_id: Whole


class _Report(msgspec.Struct, gc=False):
    s: Text
    c: Text
    C: Text
    S: Text
    x: Text
    X: Text
    r: Text
    i: Whole
    l: Text  # noqa: E741 - the exchange's name
    L: Text
    z: Text
    n: Text
    N: Text | None
    T: _Time
    t: _Signed


_envelope = msgspec.json.Decoder(_Envelope).decode
_kind = msgspec.json.Decoder(_Kind).decode
_report = msgspec.json.Decoder(_Report).decode
_one = msgspec.json.Decoder(_Subscription).decode
_many = msgspec.json.Decoder(list[_Subscription]).decode


def read_frame(frame: bytes, bytes_max: int) -> Said:
    """Tell what a frame says. Raises Refused."""
    if len(frame) > bytes_max:
        raise Refused(Reason.TOO_LARGE)
    found = _decoded(_envelope, frame)
    if found.e == "serverShutdown":
        return Ended(shutdown=True)
    if bytes(found.event):
        return _event(found.event)
    if isinstance(found.id, int) and found.status is not None:
        return _answer(found)
    if found.error is not None:
        return Answered(-1, code=found.error.code, error=one_line(found.error.msg))
    raise Refused(Reason.WRONG_SHAPE)


def _answer(found: _Envelope) -> Answered:
    if found.error is not None:
        return Answered(found.id, code=found.error.code, error=one_line(found.error.msg))  # type: ignore[arg-type]
    result = bytes(found.result)
    if result[:1] == b"[":
        numbers = tuple(each.subscription_id for each in _decoded(_many, result))
    else:
        numbers = (_decoded(_one, result).subscription_id,)
    return Answered(found.id, numbers)  # type: ignore[arg-type]


def _event(raw: msgspec.Raw) -> Said:
    kind = _decoded(_kind, raw).e
    if kind == "executionReport":
        return _moved(_decoded(_report, raw))
    if kind in {"serverShutdown", "eventStreamTerminated"}:
        return Ended(shutdown=kind == "serverShutdown")
    if kind in _OF_OTHERS:
        return None
    raise Refused(Reason.UNKNOWN)


def _moved(report: _Report) -> Moved:
    if report.X not in STATUSES or report.S not in _SIDES:
        raise Refused(Reason.WRONG_SHAPE)
    # A cancellation has an id of its own, and names the order's as the original.
    name = report.C if report.C not in {"", "null"} else report.c
    why = "" if report.r == "NONE" else one_line(report.r)
    return Moved(name, report.s, report.i, STATUSES[report.X], number(report.z), why, _trade(report, name))


def _trade(report: _Report, name: str) -> Execution | None:
    if report.x != "TRADE":
        return None
    if report.t < 0:
        raise Refused(Reason.BAD_NUMBER)
    side, quantity, price, fee = _SIDES[report.S], number(report.l), number(report.L), number(report.n)
    return Execution(name, report.t, side, quantity, price, fee, report.N or "", report.T)


def _decoded(decode: Any, data: bytes | msgspec.Raw) -> Any:
    try:
        return decode(data)
    except msgspec.ValidationError:
        raise Refused(Reason.WRONG_SHAPE) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refused(Reason.NOT_JSON) from None
