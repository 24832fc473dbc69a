"""The shapes of an exchange's answers, and what a refusal means. What does not fit is no answer."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, TypeVar

import msgspec

from agents.domain import OrderStatus
from agents.errors import BrokerUnavailable
from graph.stream.frames import Refused as NoNumber
from graph.stream.frames import number
from graph.transport import HttpReply

__all__ = [
    "CLOCK_IS_OFF",
    "STATUSES",
    "AccountAnswer",
    "InfoAnswer",
    "OrderAnswer",
    "PriceAnswer",
    "Refused",
    "Text",
    "TimeAnswer",
    "TradeAnswer",
    "Whole",
    "decimal",
    "one_line",
    "read",
    "read_body",
]

T = TypeVar("T")

Whole = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Text = Annotated[str, msgspec.Meta(max_length=64)]
_Time = Annotated[int, msgspec.Meta(ge=0, le=9 * 10**12)]  # milliseconds; the year 2255 in nanoseconds still fits

CLOCK_IS_OFF = -1021
_UNKNOWN = frozenset({-1000, -1001, -1006, -1007})
"""Codes that say nothing of what was done, whatever HTTP status they come with."""
_TOO_MUCH = frozenset({418, 429})

STATUSES: Mapping[str, OrderStatus] = {
    "NEW": OrderStatus.OPEN,
    "PENDING_NEW": OrderStatus.OPEN,
    "PARTIALLY_FILLED": OrderStatus.OPEN,
    "PENDING_CANCEL": OrderStatus.OPEN,
    "FILLED": OrderStatus.FILLED,
    "CANCELED": OrderStatus.CANCELLED,
    "EXPIRED": OrderStatus.CANCELLED,
    "EXPIRED_IN_MATCH": OrderStatus.CANCELLED,
    "REJECTED": OrderStatus.REJECTED,
}
"""How an order stands, in the exchange's words."""


class Refused(Exception):
    """The exchange said no: what was asked for was certainly not done.

    `too_much`: so much was asked for that nothing more may be for a while; `later`: this may be asked for again.
    """

    def __init__(self, status: int, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text
        self.too_much = status in _TOO_MUCH
        self.later = self.too_much or code == CLOCK_IS_OFF


class TimeAnswer(msgspec.Struct, rename="camel"):
    server_time: _Time


class _Fill(msgspec.Struct, rename="camel"):
    price: Text
    qty: Text
    commission: Text
    commission_asset: Text
    trade_id: Whole


class OrderAnswer(msgspec.Struct, rename="camel"):
    """An order as it was placed, cancelled or looked up; which of the times there is depends on that."""

    symbol: Text
    order_id: Whole
    client_order_id: Text
    side: Text
    status: Text
    executed_qty: Text
    orig_client_order_id: Text = ""
    transact_time: _Time = 0
    update_time: _Time = 0
    fills: list[_Fill] = []

    @property
    def name(self) -> str:
        """The client's id of the order itself: a cancellation has one of its own."""
        return self.orig_client_order_id or self.client_order_id

    @property
    def executed(self) -> Decimal:
        return decimal(self.executed_qty)

    @property
    def moved_ms(self) -> int:
        """When something last happened to it, on the exchange's clock."""
        return max(self.transact_time, self.update_time)

    @property
    def stands(self) -> OrderStatus:
        """Raises BrokerUnavailable for a word that nobody knows."""
        if self.status not in STATUSES:
            raise BrokerUnavailable(f"order {self.name} is {self.status!r:.40}, which is no status; ask again")
        return STATUSES[self.status]


class TradeAnswer(msgspec.Struct, rename="camel"):
    """One row of an account's trades."""

    symbol: Text
    id: Whole
    order_id: Whole
    price: Text
    qty: Text
    quote_qty: Text
    commission: Text
    commission_asset: Text
    time: _Time
    is_buyer: bool


class _Balance(msgspec.Struct):
    asset: Text
    free: Text
    locked: Text


class AccountAnswer(msgspec.Struct):
    balances: list[_Balance]


class PriceAnswer(msgspec.Struct):
    symbol: Text
    price: Text


class _RateLimit(msgspec.Struct, rename="camel"):
    rate_limit_type: Text
    interval: Text
    interval_num: Whole
    limit: Whole


class _Symbol(msgspec.Struct, rename="camel"):
    symbol: Text
    base_asset: Text
    quote_asset: Text
    filters: list[dict[str, Any]]


class InfoAnswer(msgspec.Struct, rename="camel"):
    rate_limits: list[_RateLimit]
    symbols: list[_Symbol]


class _Error(msgspec.Struct):
    code: int
    msg: str = ""


def read_body(what: str, reply: HttpReply) -> bytes:
    """The body of an answer that is a yes.

    Raises:
        Refused: it is a no, for certain.
        BrokerUnavailable: it says nothing of what was done.
    """
    if 200 <= reply.status < 300:
        return reply.body
    error = _error(reply.body)
    told = f"HTTP {reply.status}" if error is None else f"HTTP {reply.status}, {error.code} {one_line(error.msg)}"
    if reply.status in _TOO_MUCH:
        raise Refused(reply.status, -1003 if error is None else error.code, one_line(error.msg) if error else told)
    if error is not None and 400 <= reply.status < 500 and error.code not in _UNKNOWN:
        raise Refused(reply.status, error.code, one_line(error.msg))
    raise BrokerUnavailable(f"the exchange answered {what} with {told}; what became of it is unknown; ask it")


def read(what: str, body: bytes, kind: type[T]) -> T:
    """Raises BrokerUnavailable for what has another shape."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BrokerUnavailable(
            f"the exchange's answer to {what} cannot be read ({type(error).__name__}); what became of it is unknown;"
            " ask it"
        ) from None


def decimal(text: str) -> Decimal:
    """A number as an exchange writes it; raises BrokerUnavailable for what is none."""
    try:
        return number(text)
    except NoNumber:
        raise BrokerUnavailable(f"the exchange answered {text!r:.40}, which is no number; ask again") from None


def one_line(text: str) -> str:
    """Words of the exchange, short, and without what would begin a new line."""
    return "".join(each if each.isprintable() else " " for each in text[:200])


def _error(body: bytes) -> _Error | None:
    try:
        return msgspec.json.decode(body, type=_Error)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
