"""An order in the exchange's books, and what was executed of it."""

from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["CLIENT_ID", "Execution", "Order", "Trade"]

CLIENT_ID = r"[.A-Z:/a-z0-9_-]{1,36}"
"""What a client order id may look like."""

_CLOSED = frozenset({"FILLED", "CANCELED", "EXPIRED", "EXPIRED_IN_MATCH"})
_STOPS = frozenset({"STOP_LOSS", "STOP_LOSS_LIMIT", "TAKE_PROFIT", "TAKE_PROFIT_LIMIT"})


class Trade(NamedTuple):
    """One meeting of two orders. `buyer` and `seller`: their order numbers; `down`: the buyer had been waiting."""

    number: int
    price: int
    quantity: int
    buyer: int
    seller: int
    down: bool
    time_ms: int


class Execution(NamedTuple):
    """One client's side of a trade."""

    trade: int
    price: int
    quantity: int
    quote: int
    fee: int
    fee_asset: str
    maker: bool
    time_ms: int


@dataclass(slots=True, eq=False)
class Order:
    """An order. `owner` is empty for the crowd's own; `price` 0 for one that takes what it gets; `stop` 0 for none.

    `budget`: what a market order may spend, where it names that in place of a quantity. `locked`: what is set aside
    for what is left of it. `cancel_id`: the client's id of the request that cancelled it. `working_ms` is -1 until it
    is in the market.
    """

    number: int
    owner: str
    symbol: str
    buy: bool
    price: int
    quantity: int
    client_id: str = ""
    type: str = "LIMIT"
    tif: str = "GTC"
    stop: int = 0
    budget: int = 0
    time_ms: int = 0
    update_ms: int = 0
    working_ms: int = -1
    status: str = "NEW"
    executed: int = 0
    spent: int = 0
    locked: int = 0
    cancel_id: str = ""
    executions: list[Execution] = field(default_factory=list)

    @property
    def left(self) -> int:
        return self.quantity - self.executed

    @property
    def side(self) -> str:
        return "BUY" if self.buy else "SELL"

    @property
    def open(self) -> bool:
        """Whether something can still happen to it."""
        return self.status not in _CLOSED

    @property
    def waits(self) -> bool:
        """Whether it is a stop that the market has not reached."""
        return self.type in _STOPS and self.working_ms < 0

    @property
    def rests(self) -> bool:
        """Whether what is not filled at once stays in the book."""
        return self.price > 0 and self.tif == "GTC"
