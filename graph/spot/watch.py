"""Each order of ours, as far as the user stream and the answers to requests have told of it.

Two things follow from that. A frame that does not join what is known, because one before it was lost, is not passed on
half: the order is asked for. And a stream that has not told what an answer told long ago is dead, however well it
answers pings.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum, auto

from agents.domain import Fill, OrderStatus
from agents.errors import InvalidValue
from checkpoints.ledger import BrokerReport
from graph.spot.frames import Moved
from graph.spot.rules import Market
from graph.spot.trades import fill_of
from graph.stream.events import Reason
from graph.stream.frames import Refused

__all__ = ["TOLD_S", "Ask", "Watch", "is_ours"]

TOLD_S = 5.0
"""So long after an answer has told that an order moved, the stream must have told it, too."""
_MARGIN_MS = 1_000  # by so much the two clocks may differ
_KEPT_MAX = 10_000
_OURS = re.compile(r"hf[a-z2-7]{26}(?:-[0-9]{1,3})?")


def is_ours(name: str) -> bool:
    """Whether a client order id is of the form that the desk's orders have."""
    return _OURS.fullmatch(name) is not None


class Ask(Enum):
    """What to do with a frame that says less than there is."""

    IT = auto()


@dataclass(slots=True)
class _Followed:
    symbol: str
    fills: dict[str, Fill] = field(default_factory=dict)
    over: bool = False  # nothing more is expected of it
    told: tuple[OrderStatus, Decimal] | None = None  # by the stream
    due: float | None = None  # until then the stream has to tell, on the loop's clock

    @property
    def filled(self) -> Decimal:
        return sum((fill.quantity for fill in self.fills.values()), Decimal(0))


class Watch:
    """Orders by their ids. `markets`: what is traded. Orders that are over are forgotten in the end."""

    def __init__(self, markets: Mapping[str, Market]) -> None:
        self.markets = markets
        self._orders: dict[str, _Followed] = {}
        self._since_ms: int | None = None

    def symbol(self, name: str) -> str | None:
        known = self._orders.get(name)
        return None if known is None else known.symbol

    def fills(self, name: str) -> tuple[Fill, ...]:
        """What is known of an order's fills, which may not be all of them."""
        known = self._orders.get(name)
        return () if known is None else tuple(known.fills.values())

    def sent(self, name: str, symbol: str) -> None:
        """An order is about to be sent."""
        self._followed(name, symbol)

    def not_placed(self, name: str) -> None:
        self._orders.pop(name, None)

    def listening(self, since_ms: int) -> None:
        """From this time on, on the exchange's clock, a new stream tells of all that happens."""
        self._since_ms = since_ms
        for each in self._orders.values():
            each.due = None

    def open(self) -> Sequence[str]:
        """Orders of which something more may happen, as far as was told."""
        return [name for name, each in self._orders.items() if not each.over]

    def overdue(self, now: float) -> str | None:
        """An order of which the stream should have told by now."""
        return next((name for name, each in self._orders.items() if each.due is not None and now >= each.due), None)

    def answered(self, name: str, symbol: str, report: BrokerReport, moved_ms: int, now: float) -> None:
        """An answer has told how an order stands; it last moved at `moved_ms`, on the exchange's clock."""
        known = self._followed(name, symbol)
        known.fills.update({fill.trade_id: fill for fill in report.fills})
        known.over = known.over or report.status.final
        if not _is_behind(known.told, report):
            known.due = None
        elif self._since_ms is not None and moved_ms >= self._since_ms + _MARGIN_MS and known.due is None:
            known.due = now + TOLD_S

    def heard(self, moved: Moved) -> BrokerReport | Ask:
        """The stream has told of an order: what is to be passed on, with all its fills so far; or it must be asked for.

        Raises:
            Refused: it is nothing new, none of ours, or cannot be.
        """
        market = self.markets.get(moved.symbol)
        if market is None or not is_ours(moved.name):
            raise Refused(Reason.UNKNOWN)
        known = self._followed(moved.name, moved.symbol)
        self._add(known, moved, market)
        if known.filled > moved.executed:
            raise Refused(Reason.LATE)
        told, known.told = known.told, (moved.status, moved.executed)
        if known.filled < moved.executed:
            known.due = None
            return Ask.IT
        if told == known.told:
            raise Refused(Reason.DUPLICATE)
        if told is not None and told[0].final and not moved.status.final:
            known.told = told
            raise Refused(Reason.LATE)
        known.due, known.over = None, moved.status.final
        return BrokerReport(moved.status, str(moved.number), tuple(known.fills.values()), moved.reason)

    @staticmethod
    def _add(known: _Followed, moved: Moved, market: Market) -> None:
        """Take note of a fill; one that cannot be valued here is left out."""
        try:
            fill = None if moved.trade is None else fill_of(moved.trade, market)
        except InvalidValue:
            raise Refused(Reason.BAD_NUMBER) from None
        if fill is not None:
            known.fills[fill.trade_id] = fill

    def _followed(self, name: str, symbol: str) -> _Followed:
        known = self._orders.get(name)
        if known is None:
            self._forget()
            known = self._orders[name] = _Followed(symbol)
        return known

    def _forget(self) -> None:
        if len(self._orders) >= _KEPT_MAX:
            over = [name for name, each in self._orders.items() if each.over and each.due is None]
            for name in over[: _KEPT_MAX // 2]:
                del self._orders[name]


def _is_behind(told: tuple[OrderStatus, Decimal] | None, report: BrokerReport) -> bool:
    """Whether the stream has told less than an answer, which may be older than what it told."""
    if told is None:
        return True
    filled = sum((fill.quantity for fill in report.fills), Decimal(0))
    return filled > told[1] or (report.status.final and not told[0].final)
