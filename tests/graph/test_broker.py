"""The paper broker: every order once, at a price that is worse than the one that was seen."""

import asyncio
from decimal import Decimal

import pytest

from agents.domain import OrderIntent, OrderStatus, Side
from agents.errors import StorageError
from graph.broker import PaperBroker


def intent(run_id="run-1", side=Side.BUY, quantity="2", **more):
    wanted = {"reference_price": Decimal(100), "reference_ns": 1_000} | more
    return OrderIntent.derive(
        run_id=run_id, account="paper", symbol="SIM", side=side, quantity=Decimal(quantity), **wanted
    )


@pytest.fixture
def broker(tmp_path):
    opened = PaperBroker.open(tmp_path / "broker.db")
    yield opened
    opened.database.close()


async def test_an_order_is_filled_worse_than_seen_and_costs_a_fee(broker):
    for side, price in ((Side.BUY, "100.02"), (Side.SELL, "99.98")):
        report = await broker.send(intent(side, side))
        (fill,) = report.fills
        assert report.status is OrderStatus.FILLED
        assert (fill.price, fill.quantity, fill.side) == (Decimal(price), 2, side)
        assert fill.fee == (2 * Decimal(price) / 10_000).quantize(Decimal("1e-8"))
        assert fill.time_ns == 1_000


@pytest.mark.parametrize(("side", "limit", "paid"), [(Side.BUY, "100.01", "100.01"), (Side.SELL, "99.99", "99.99")])
async def test_a_limit_is_kept(broker, side, limit, paid):
    report = await broker.send(intent(side=side, limit_price=Decimal(limit)))
    assert report.fills[0].price == Decimal(paid)


async def test_the_same_id_is_executed_once_and_answered_alike(broker):
    reports = await asyncio.gather(*(broker.send(intent()) for _ in range(20)))
    assert all(report == reports[0] for report in reports)
    assert len(await broker.orders()) == 1
    assert await broker.find(intent().intent_id) == reports[0]


async def test_what_it_has_never_seen(broker):
    assert await broker.find("hf-none") is None


async def test_its_books_outlive_it(broker, tmp_path):
    first = await broker.send(intent())
    broker.database.close()
    again = PaperBroker.open(tmp_path / "broker.db")
    try:
        assert await again.find(intent().intent_id) == first
        second = await again.send(intent("run-2"))
        assert [row["number"] for row in await again.orders()] == [1, 2]
        assert second.broker_order_id == "paper-2"
    finally:
        again.database.close()


def test_books_that_cannot_be_opened(tmp_path):
    with pytest.raises(StorageError):
        PaperBroker.open(tmp_path)
