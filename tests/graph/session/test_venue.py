"""The venues of a session: which one goes with which broker, and what it is told."""

import asyncio
from contextlib import aclosing

import pytest

from agents.domain import OrderStatus
from checkpoints.ledger import BrokerReport
from graph.broker import Broker
from graph.paper import PaperBroker
from graph.session.venue import ExchangeVenue, PaperVenue, venue_of
from tests.graph.session.floor import quote


class Telling(Broker):
    """Stands for an exchange's broker."""

    idempotent = False

    async def send(self, intent):
        raise NotImplementedError

    async def find(self, client_order_id):
        return None

    async def executed(self):
        return None

    async def intent(self, client_order_id):
        return None

    async def updates(self):
        yield "hf1", BrokerReport(OrderStatus.OPEN)


class Silent(Broker):
    """A broker of which nobody hears anything."""

    idempotent = True
    send = find = executed = intent = Telling.find


async def test_the_paper_broker_is_told_prices_and_fills_by_those_that_come_later(tmp_path):
    broker = PaperBroker.open(tmp_path / "broker.db")
    venue = venue_of(broker)
    assert isinstance(venue, PaperVenue)
    assert not broker.at_once
    assert await venue.on_event(quote(1, "100")) == {}
    async with aclosing(venue.updates()) as updates:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(updates)
    broker.database.close()


async def test_an_exchange_has_prices_of_its_own_and_tells_of_orders():
    venue = venue_of(Telling())
    assert isinstance(venue, ExchangeVenue)
    assert await venue.on_event(quote(1, "100")) == {}
    async with aclosing(venue.updates()) as updates:
        assert await anext(updates) == ("hf1", BrokerReport(OrderStatus.OPEN))


def test_a_broker_that_tells_nobody_is_refused():
    with pytest.raises(TypeError, match="a Silent tells nobody of its orders"):
        venue_of(Silent())
