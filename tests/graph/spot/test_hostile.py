"""Answers and frames of an exchange that is mad: each is used, refused or doubted, and nothing else ever comes out."""

import asyncio
import json
from contextlib import aclosing, suppress
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from agents.errors import BrokerUnavailable, ConfigError, FeedDead, LinkLost, OrderRefused
from checkpoints.ledger import BrokerReport
from graph.exchange.symbols import SYMBOLS
from graph.resilience.virtual import VirtualClock
from graph.spot.broker import ExchangeBroker
from graph.spot.terms import ExchangeTerms
from tests.graph.spot.stub import BEGIN_MS, Script, reply
from tests.graph.spot.test_frames import REPORT
from tests.graph.spot.test_trades import row
from tests.graph.spot.world import intent_of
from tests.graph.stream.world import LoopTime

INTENT = intent_of()
NAME = INTENT.intent_id
FILL = {"price": "100", "qty": "0.1", "commission": "0.0001", "commissionAsset": "BTC", "tradeId": 9}
ORDER = {
    "symbol": "BTCUSDT", "orderId": 5, "clientOrderId": NAME, "side": "BUY", "status": "FILLED", "executedQty": "0.1",
    "transactTime": 7, "updateTime": 7, "fills": [FILL],
}  # fmt: skip
INFO = {"rateLimits": [], "symbols": [SYMBOLS[0].info()]}
GOOD = {
    "exchangeInfo": INFO, "order": ORDER, "openOrders": [ORDER], "allOrders": [ORDER], "myTrades": [row(9, "0.1")],
    "account": {"balances": [{"asset": "BTC", "free": "1", "locked": "0"}]}, "time": {"serverTime": BEGIN_MS},
    "ticker/price": {"symbol": "BNBUSDT", "price": "600"},
}  # fmt: skip

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
    st.sampled_from(("0", "-1", "NaN", "Infinity", "1e400", "9" * 15, "0." + "9" * 15)),
    st.sampled_from(("SELL", "REJECTED", "NEW", "CANCELED", "BNB")),
)  # fmt: skip
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner)
)


def changed(draw, value):
    """The value with something in it exchanged."""
    if draw(st.integers(0, 3)) == 0 or not isinstance(value, dict | list) or not value:
        return draw(anything)
    if isinstance(value, list):
        return [changed(draw, value[0]), *value[1:], *value[: draw(st.integers(0, 1))]]
    name = draw(st.sampled_from(sorted(value)))
    return value | {name: changed(draw, value[name])}


@st.composite
def answers(draw):
    """One path's answer, which is not what it should be."""
    path = draw(st.sampled_from(sorted(set(GOOD) - {"exchangeInfo", "time"})))
    status = draw(st.sampled_from((200, 200, 200, 400, 401, 403, 404, 418, 429, 500, 503, 302, 999)))
    content = changed(draw, GOOD[path]) if draw(st.booleans()) else {"code": draw(scalars), "msg": draw(scalars)}
    body = json.dumps(content).encode() if draw(st.integers(0, 4)) else draw(st.binary(max_size=30))
    headers = draw(st.dictionaries(st.sampled_from(("retry_after", "x_mbx_used_weight_1m")), st.text(max_size=5)))
    return path, reply(body, status, **headers)


class Line:
    """A connection that says what it was given, and then nothing."""

    def __init__(self, frames):
        self.frames = list(frames)

    async def connect(self, url):
        return self

    async def recv(self):
        if not self.frames:
            raise LinkLost("that was all")
        return self.frames.pop(0)

    async def send(self, frame):
        pass

    async def close(self):
        pass


def broker_of(clock, script, frames=()):
    terms = ExchangeTerms(key=SecretStr("k"), secret=SecretStr("s"))

    async def nobody_knows(name):
        return None

    return ExchangeBroker(
        script, Line(frames), terms, LoopTime(clock), symbol_of=nobody_knows, dice=Random(1)  # noqa: S311
    )  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(answers())
def test_any_answer_is_a_report_a_refusal_or_a_doubt(given_):
    path, answer = given_

    async def story(clock):
        broker = broker_of(clock, Script(**({name: reply(good) for name, good in GOOD.items()} | {path: answer})))
        await broker.begin()
        for ask in (
            lambda: broker.send(INTENT), lambda: broker.find(NAME), lambda: broker.cancel(NAME),
            broker.executed, broker.holdings, broker.resting,
        ):  # fmt: skip
            with suppress(BrokerUnavailable, OrderRefused):
                said = await ask()
                assert said is None or isinstance(said, BrokerReport | dict)

    with VirtualClock(1) as clock:
        clock.run(story(clock))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_rules_and_times_that_are_none(data):
    path = data.draw(st.sampled_from(("exchangeInfo", "time")))
    script = Script(**{name: reply(good) for name, good in GOOD.items()})
    script.answers[path] = reply(changed(data.draw, GOOD[path]))

    async def story(clock):
        broker = broker_of(clock, script)
        with suppress(BrokerUnavailable, OrderRefused):
            await broker.begin()
            await broker.send(INTENT)

    with VirtualClock(1) as clock, suppress(ConfigError):  # the symbol may not be among what is traded
        clock.run(story(clock))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_frames_are_read_or_counted(data):
    good = [
        {"subscriptionId": 0, "event": REPORT | {"c": NAME}},
        {"id": 2, "status": 200, "result": [{"subscriptionId": 0}]},
    ]
    frames = [b'{"id":1,"status":200,"result":{"subscriptionId":0}}']
    for _ in range(data.draw(st.integers(1, 5))):
        content = changed(data.draw, data.draw(st.sampled_from(good)))
        frames.append(json.dumps(content).encode() if data.draw(st.integers(0, 4)) else data.draw(st.binary()))

    async def story(clock):
        broker = broker_of(clock, Script(**{name: reply(value) for name, value in GOOD.items()}), frames)
        await broker.begin()
        with suppress(FeedDead, TimeoutError):
            async with asyncio.timeout(60), aclosing(broker.updates()) as updates:
                async for name, report in updates:
                    assert (isinstance(name, str), isinstance(report, BrokerReport)) == (True, True)
        health = broker.health
        assert health.received <= len(frames)
        assert sum(health.refused.values()) <= health.received

    with VirtualClock(1) as clock:
        clock.run(story(clock))


async def doubted(ask):
    try:
        await ask
    except BrokerUnavailable:
        return True
    return False


@pytest.mark.parametrize(
    ("changes", "doubts"),
    [
        ({}, [False, False, False]),
        ({"clientOrderId": "hf" + "b" * 26}, [True, True, True]),
        ({"symbol": "ETHUSDT"}, [True, True, True]),
        ({"side": "SELL"}, [True, False, False]),
        ({"status": "GONE"}, [True, True, True]),
        ({"fills": []}, [True, False, False]),
    ],
)
def test_an_answer_that_is_of_another_order_is_none(changes, doubts):
    async def story(clock):
        script = Script(**{name: reply(good) for name, good in GOOD.items()} | {"order": reply(ORDER | changes)})
        broker = broker_of(clock, script)
        await broker.begin()
        return [await doubted(ask) for ask in (broker.send(INTENT), broker.find(NAME), broker.cancel(NAME))]

    with VirtualClock(1) as clock:
        assert clock.run(story(clock)) == doubts
