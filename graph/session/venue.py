"""The broker's other side, as a session needs it: prices go to a broker that is played here, news come from all."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Protocol, runtime_checkable

from agents.domain import Bar, OrderStatus, Quote
from checkpoints.ledger import BrokerReport
from graph.broker import Broker
from graph.paper import PaperBroker

__all__ = ["ExchangeVenue", "PaperVenue", "Venue", "venue_of"]


@runtime_checkable
class TellingBroker(Broker, Protocol):
    """A broker that tells of orders by itself: `graph.spot.broker.ExchangeBroker`."""

    def updates(self) -> AsyncGenerator[tuple[str, BrokerReport], None]: ...


def venue_of(broker: Broker) -> "Venue":
    """The venue of a broker."""
    if isinstance(broker, PaperBroker):
        return PaperVenue(broker)
    if isinstance(broker, TellingBroker):
        return ExchangeVenue(broker)
    raise TypeError(f"a {type(broker).__name__} tells nobody of its orders; give the session a venue for it")


class Venue(Protocol):
    """A broker whose orders live on."""

    @property
    def broker(self) -> Broker: ...

    async def on_event(self, event: Quote | Bar) -> Mapping[str, BrokerReport]:
        """Show it a price; gives the orders that have moved by it."""
        ...

    def updates(self) -> AsyncGenerator[tuple[str, BrokerReport], None]:
        """What it tells of orders by itself, for as long as it is asked.

        Raises:
            FeedDead: it cannot be reached any more.
        """
        ...


class PaperVenue:
    """The paper broker, which is told every price, and tells of its fills at once."""

    def __init__(self, broker: PaperBroker) -> None:
        self.broker = broker
        broker.at_once = False  # an order meets the prices that come after it

    async def on_event(self, event: Quote | Bar) -> Mapping[str, BrokerReport]:
        return await (self.broker.on_quote(event) if isinstance(event, Quote) else self.broker.on_bar(event))

    async def updates(self) -> AsyncGenerator[tuple[str, BrokerReport], None]:
        await asyncio.Event().wait()  # all is told with the prices
        yield "", BrokerReport(OrderStatus.UNKNOWN)  # never: it is what makes this a generator


class ExchangeVenue:
    """An exchange: it has prices of its own, and tells of orders by its user stream."""

    def __init__(self, broker: TellingBroker) -> None:
        self.broker = broker

    async def on_event(self, event: Quote | Bar) -> Mapping[str, BrokerReport]:
        del event
        return {}

    def updates(self) -> AsyncGenerator[tuple[str, BrokerReport], None]:
        return self.broker.updates()
