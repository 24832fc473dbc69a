"""The user stream: whatever breaks, orders are told of, and a stream that does not is given up."""

import asyncio
from contextlib import suppress
from decimal import Decimal

import pytest

from agents.domain import OrderStatus
from agents.errors import ConfigError, FeedDead
from graph.spot.broker import follow
from graph.spot.user_stream import UserLimits
from graph.stream.events import Connected, Disconnected, StreamStale
from tests.graph.spot.world import intent_of, play

FILLED = OrderStatus.FILLED


def noticed(world, kind):
    return [each for each in world.notices if isinstance(each, kind)]


async def rest_and_fill(world, pause=1.0):
    """An order that rests, and that somebody else's order fills a while later; its id."""
    order = await world.tried("0.2", limit_price=world.price - 500)
    await asyncio.sleep(pause)
    (placed,) = [each for each in world.placed() if each.client_id == order.client_order_id]
    world.engine.fill_now(placed, world.exchange.agenda.now_ms)
    return order.client_order_id


async def status(world, name):
    return (await world.ledger.order(name)).status


def test_a_fill_comes_by_the_stream_alone():
    async def story(world):
        name = await rest_and_fill(world)
        await asyncio.sleep(0.5)
        return await status(world, name), [each for each in world.http.asked if "order" in each.lower()]

    assert play(story) == (FILLED, ["GET openOrders", "POST order"])


@pytest.mark.parametrize("kind", ["reset", "close", "gap"])
def test_what_happened_while_nobody_listened_is_asked_for(kind):
    async def story(world):
        name = await rest_and_fill(world)
        await asyncio.sleep(20)
        found = await status(world, name), len(noticed(world, Connected))
        await world.settle(10)
        await world.check()
        return found

    # The second frame tells of the balance; the third of the fill.
    found, connections = play(story, {"kind": kind, "on": "user", "nth": 3})
    if kind == "gap":  # nobody can know, until an answer tells
        assert (found, connections) == (OrderStatus.OPEN, 1)
    else:
        assert (found, connections) == (FILLED, 2)


def test_a_lost_frame_is_made_up_for_by_the_next():
    async def story(world):
        order = await world.tried("0.2", limit_price=world.price - 500)
        await asyncio.sleep(1)
        (placed,) = world.placed()
        for _ in range(2):
            world.engine.fill_late(placed, placed.quantity // 4, world.exchange.agenda.now_ms)
            await asyncio.sleep(0.5)
        await world.check()
        return world.broker.health.missing, (await world.ledger.order(order.client_order_id)).filled

    # NEW, balance, the first TRADE, which is lost, balance, the second, which does not join.
    assert play(story, {"kind": "gap", "on": "user", "nth": 3}) == (1, Decimal("0.1"))


def test_a_connection_that_ends_soon_is_a_failure():
    async def story(world):
        await asyncio.sleep(45)
        return [(each.failures, each.wait_seconds > 0) for each in noticed(world, Disconnected)]

    assert play(story, limits=UserLimits(lifetime=30.0), steps=0.05) == [(1, True)]


def test_a_zombie_is_found_by_what_an_answer_tells():
    async def story(world):
        await asyncio.sleep(2)
        await world.tried("0.1")
        await asyncio.sleep(4.9)
        before = len(noticed(world, StreamStale))
        await asyncio.sleep(15)
        name = await rest_and_fill(world)
        await asyncio.sleep(1)
        return before, len(noticed(world, StreamStale)), len(noticed(world, Connected)), await status(world, name)

    assert play(story, {"kind": "zombie", "on": "user", "nth": 1}) == (0, 1, 2, FILLED)


def test_half_open_is_found_by_asking():
    async def story(world):
        await asyncio.sleep(40)
        return [each.reason for each in noticed(world, Disconnected)], len(noticed(world, Connected))

    reasons, connections = play(story, {"kind": "half_open", "on": "session.subscriptions", "nth": 1})
    assert reasons == ["the exchange did not answer within 5 s; the connection is dead"]
    assert connections == 2


def test_a_quiet_stream_is_left_alone():
    async def story(world):
        await asyncio.sleep(3_600)
        return len(noticed(world, Connected)), noticed(world, Disconnected), len(world.http.asked)

    assert play(story, steps=0.01) == (1, [], 3)


def test_a_subscription_that_is_gone_is_made_anew():
    async def story(world):
        (owners,) = world.exchange._audience.values()
        for session in list(owners):
            session._unsubscribe({})
        await asyncio.sleep(30)
        return [each.reason for each in noticed(world, Disconnected)], len(noticed(world, Connected))

    reasons, connections = play(story, steps=0.01)
    assert reasons == ["the exchange has ended the subscription of the user stream; subscribe again"]
    assert connections == 2


def test_ten_failures_in_a_row_are_the_end():
    async def story(world):
        with pytest.raises(FeedDead, match="the user stream failed 10 times in a row"):
            await follow(world.broker, world.ledger, world.tell)
        return [each.wait_seconds for each in noticed(world, Disconnected)]

    waits = play(story, {"kind": "refuse"}, follows=False)
    assert len(waits) == 10
    for wait, whole in zip(waits, (5, 10, 20, 40, 60, 60, 60, 60, 60), strict=False):
        assert whole / 2 <= wait <= whole
    assert waits[-1] == 0


def test_a_good_subscription_forgets_failures_and_a_cancellation_is_none():
    async def story(world):
        following = asyncio.create_task(follow(world.broker, world.ledger, world.tell))
        await asyncio.sleep(300)
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
        return world.broker.health.failures, world.broker.health.connections

    assert play(story, {"kind": "refuse", "until_seconds": 60.0}, follows=False) == (0, 1)


def test_a_wrong_secret_is_a_failure_and_not_told():
    async def story(world):
        world.exchange.venue.accounts[world.client.key].secret = "another"  # noqa: S105
        await asyncio.sleep(1)
        with suppress(FeedDead):
            await follow(world.broker, world.ledger, world.tell)
        return {each.reason for each in noticed(world, Disconnected)}

    (reason,) = play(story, follows=False)
    assert reason.startswith("the exchange refused the user stream (-1022 Signature for this request is not valid.)")


def test_the_clock_is_asked_again_where_the_subscription_says_that_it_was_off():
    async def story(world):
        await asyncio.sleep(1)
        world.broker._time.offset_ns += 3_600 * 10**9
        following = asyncio.create_task(follow(world.broker, world.ledger, world.tell))
        await asyncio.sleep(20)
        following.cancel()
        return len(noticed(world, Connected)), abs(world.broker.offset_ns) < 10**9

    assert play(story, follows=False) == (1, True)


def test_a_day_is_a_renewal_and_no_failure():
    async def story(world):
        await asyncio.sleep(400)
        return [(each.failures, each.wait_seconds) for each in noticed(world, Disconnected)]

    assert play(story, limits=UserLimits(lifetime=180.0), steps=0.05) == [(0, 0.0), (0, 0.0)]


def test_an_order_that_could_not_be_asked_for_is_asked_for_again():
    async def story(world):
        name = await rest_and_fill(world)
        await asyncio.sleep(25)
        return await status(world, name)

    faults = ({"kind": "reset", "on": "user", "nth": 3}, {"kind": "unavailable", "on": "order.status", "nth": 1})
    assert play(story, *faults) is FILLED


def test_an_order_of_which_neither_answer_nor_stream_has_told_is_asked_for():
    async def story(world):
        assert await world.tried("0.1") is None
        await asyncio.sleep(20)
        (order,) = await world.ledger.orders("run-1")
        return order.status, order.filled

    faults = ({"kind": "drop_ack", "on": "order.place"}, {"kind": "reset", "on": "user", "nth": 1})
    assert play(story, *faults) == (FILLED, Decimal("0.1"))


def test_orders_from_before_this_process_are_asked_for():
    async def story(world):
        order = await world.tried("0.2", limit_price=world.price - 500)
        again = world.open()
        await again.begin()
        updates = again.updates()
        name, report = await anext(updates)
        await updates.aclose()
        return name == order.client_order_id, report.status

    assert play(story) == (True, OrderStatus.OPEN)


def test_reports_that_the_ledger_has_no_use_for_are_told():
    async def story(world):
        stranger = world.open()
        await stranger.begin()
        await stranger.send(intent_of())
        await asyncio.sleep(1)
        return {kind for kind, _ in world.told}

    assert play(story) == {"ReportUnused"}


@pytest.mark.parametrize("name", ["connect", "acknowledge", "probe", "again", "lifetime", "frame_bytes_max"])
@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan")])
def test_limits_that_are_none(name, value):
    with pytest.raises(ConfigError):
        UserLimits(**{name: value})
