"""The broker over real sockets, at the exchange as a process of its own: short, and on loopback."""

import asyncio
from contextlib import AsyncExitStack
from decimal import Decimal

import pytest
from pydantic import SecretStr

from agents.clock import SystemClock
from agents.domain import OrderStatus
from agents.errors import BrokerUnavailable, ConfigError
from checkpoints.database import Database
from checkpoints.ledger import BrokerReport, OrderLedger
from graph.spot.broker import follow
from graph.spot.opening import open_broker
from graph.spot.terms import ExchangeTerms
from graph.stream.events import Connected
from tests.graph.exchange.test___main__ import process
from tests.graph.spot.world import intent_of

PLAN = """
[[fault]]
kind = "drop_ack"
on = "order.place"
nth = 2
"""


async def sent(ledger, order):
    await ledger.reserve(order, lambda _: ())
    await ledger.mark_sending(order.intent_id)


async def test_orders_are_sent_told_and_found(tmp_path):
    (tmp_path / "plan.toml").write_text(PLAN)
    database = Database.open(":memory:")
    ledger, clock = OrderLedger(database), SystemClock()
    await ledger.open_account("a", Decimal(1_000_000))
    told, connected = asyncio.Event(), asyncio.Event()

    def notice(what):
        if isinstance(what, Connected):
            connected.set()

    async with AsyncExitStack() as stack:
        _, at = await stack.enter_async_context(process("--seed", 7, "--faults", tmp_path / "plan.toml"))
        terms = ExchangeTerms(
            at["rest"], at["streams"].removesuffix("/ws"), at["api"], SecretStr(at["key"]), SecretStr(at["secret"])
        )
        broker = await stack.enter_async_context(open_broker(terms, ledger, clock, observer=notice))

        def tell(kind, detail):
            if detail["order"] == lost.intent_id and detail["to"] == "filled":
                told.set()

        following = asyncio.create_task(follow(broker, ledger, tell))
        first, lost = intent_of("0.01"), intent_of("0.02", run_id="r2")
        await sent(ledger, first)
        report = await broker.send(first)
        assert (await ledger.record(first.intent_id, report)).status is OrderStatus.FILLED
        await asyncio.wait_for(connected.wait(), 10)
        await sent(ledger, lost)
        try:
            await broker.send(lost)
        except Exception as error:  # noqa: BLE001 - which is looked at
            await ledger.record(lost.intent_id, BrokerReport(OrderStatus.UNKNOWN, reason=str(error)))
        async with asyncio.timeout(10):
            await told.wait()
        found = await broker.find(lost.intent_id)
        resting = intent_of("0.01", run_id="r3", limit_price=Decimal(30_000))
        assert (await broker.send(resting)).status is OrderStatus.OPEN
        assert (await broker.cancel(resting.intent_id)).status is OrderStatus.CANCELLED
        held = (await ledger.portfolio("a")).position("BTCUSDT").quantity
        assert (found.status, held, await broker.holdings()) == (
            OrderStatus.FILLED, Decimal("0.03"), {"BTCUSDT": Decimal("0.03")},
        )  # fmt: skip
        following.cancel()
    database.close()


@pytest.mark.parametrize("given", [{}, {"key": SecretStr("k")}, {"secret": SecretStr("s")}])
async def test_without_key_or_secret_nothing_is_opened(given):
    with pytest.raises(ConfigError, match="HOLDFAST_EXCHANGE__SECRET"):
        async with open_broker(ExchangeTerms(**given), None, SystemClock()):
            pass


async def test_where_nobody_is():
    here = {"rest": "http://127.0.0.1:9", "api": "ws://127.0.0.1:9/ws-api/v3"}
    terms = ExchangeTerms(**here, key=SecretStr("canary-1"), secret=SecretStr("canary-2"))
    with pytest.raises(BrokerUnavailable) as told:
        async with open_broker(terms, None, SystemClock()):
            pass
    assert "canary" not in str(told.value)
