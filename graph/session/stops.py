"""Stops and targets of a session, on every price: also on those that came while they could not be saved."""

from collections.abc import Callable, Iterable
from decimal import Decimal

from agents.clock import Clock
from agents.domain import Bar, Order, OrderIntent, Quote
from agents.errors import HoldfastError, StorageError
from checkpoints.ledger import OrderLedger
from checkpoints.trading_state import Tell, in_words
from graph.brackets import Brackets

__all__ = ["Stops"]


class Stops:
    """Shows brackets every price, and all news of their orders; `leave` is given what is to be sold or bought back.

    A database that fails loses nothing: of the prices that came meanwhile the lowest bid and the highest ask are kept,
    which touch whatever any of them has touched, and so is the news.
    """

    def __init__(
        self,
        brackets: Brackets,
        ledger: OrderLedger,
        clock: Clock,
        *,
        run_id: str,
        period_ns: int,
        leave: Callable[[OrderIntent], None],
        tell: Tell,
    ) -> None:
        self._brackets = brackets
        self._ledger = ledger
        self._clock = clock
        self._run_id = run_id
        self._period_ns = period_ns
        self._leave = leave
        self._tell = tell
        self._missed: dict[str, Quote] = {}
        self._unheard: dict[str, Order] = {}

    async def on_quote(self, quote: Quote) -> None:
        """Watch a quote, and before it those that were missed."""
        try:
            for missed in sorted(self._missed.values(), key=lambda each: each.time_ns):
                self._send(await self._brackets.on_quote(missed))
            self._missed.clear()
            self._send(await self._brackets.on_quote(quote))
        except StorageError as error:
            low, high = self._missed.get("low", quote), self._missed.get("high", quote)
            self._missed = {"low": min(low, quote, key=_bid), "high": max(high, quote, key=_ask)}
            self._tell("TickFailed", {"error": in_words(error)})

    async def on_bar(self, bar: Bar) -> None:
        """Watch a bar, where there are no quotes."""
        try:
            self._send(await self._brackets.on_bar(bar, bar.close_ns - self._period_ns))
        except StorageError as error:
            self._tell("TickFailed", {"error": in_words(error)})

    async def heard(self, order: Order) -> None:
        """News of an order; what cannot be written down now is at the next `catch_up`."""
        try:
            await self._brackets.heard(order, self._clock.now_ns())
        except StorageError as error:
            self._unheard[order.client_order_id] = order
            self._tell("NewsFailed", {"order": order.client_order_id, "error": in_words(error)})

    async def catch_up(self) -> None:
        """Hear what the ledger has of every order of an open bracket: somebody else may have written it down.

        Raises:
            StorageError: it cannot be read now; it is tried again.
        """
        for name in tuple(self._unheard):
            await self._brackets.heard(self._unheard[name], self._clock.now_ns())
            del self._unheard[name]
        for bracket in self._brackets.all():
            for order in await self._ledger.orders(self._run_id, bracket.decision):
                await self._brackets.heard(order, order.intent.reference_ns)

    async def save(self) -> None:
        """Save all that was not saved yet; a database that fails now has all but the last second."""
        try:
            await self.catch_up()
            await self._brackets.flush()
        except HoldfastError as error:
            self._tell("TickFailed", {"error": in_words(error)})

    def _send(self, exits: Iterable[OrderIntent]) -> None:
        for intent in exits:
            self._leave(intent)


def _bid(quote: Quote) -> Decimal:
    return quote.bid


def _ask(quote: Quote) -> Decimal:
    return quote.ask
