"""The exchange broker on real sockets, as the settings have it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from agents.clock import Clock
from agents.errors import ConfigError
from checkpoints.ledger import OrderLedger
from graph.sockets import HttpClient, WebSocketConnector
from graph.spot.broker import ExchangeBroker, of_ledger
from graph.spot.terms import ExchangeTerms
from graph.stream.events import StreamNotice

__all__ = ["open_broker"]


@asynccontextmanager
async def open_broker(
    terms: ExchangeTerms,
    ledger: OrderLedger,
    clock: Clock,
    *,
    observer: Callable[[StreamNotice], None] = lambda _: None,
) -> AsyncIterator[ExchangeBroker]:
    """A broker that has begun, with its connections, which are closed at the end.

    Raises:
        ConfigError: there is no key or secret, or a symbol that is not traded there.
        BrokerUnavailable: the exchange does not answer.
    """
    if not (terms.key.get_secret_value() and terms.secret.get_secret_value()):
        raise ConfigError(
            "the exchange's key or secret is not set; nothing was opened; set HOLDFAST_EXCHANGE__KEY and"
            " HOLDFAST_EXCHANGE__SECRET"
        )
    async with HttpClient() as http:
        made = ExchangeBroker(http, WebSocketConnector(), terms, clock, symbol_of=of_ledger(ledger), observer=observer)
        await made.begin()
        yield made
