"""How much may be asked for: reads wait, orders are refused, and whoever was told to wait waits."""

import asyncio
from types import SimpleNamespace

import pytest

from agents.errors import BrokerUnavailable
from graph.spot.budget import ORDERS_10S, PATIENCE_S, READ_SHARE, WEIGHT
from tests.graph.spot.stub import play, refusal, reply


def limit(kind, interval, number, most):
    return SimpleNamespace(rate_limit_type=kind, interval=interval, interval_num=number, limit=most)


def test_reads_wait_for_the_next_minute_and_leave_something_for_orders():
    async def story(desk):
        budget = desk.budget
        await budget.weigh("x", int(WEIGHT * READ_SHARE) - 10)
        before = desk.clock.now
        await budget.weigh("x", 10)
        assert desk.clock.now == before
        await budget.weigh("cancel", 100, urgent=True)
        assert desk.clock.now == before
        assert budget.order() == ""
        begin = desk.time.now_ms() % 60_000
        await budget.weigh("x", 1)
        return desk.clock.now - before, 60 - begin / 1e3, budget.used_weight

    waited, left, used = play(story)
    assert waited == pytest.approx(left)
    assert used == 1


def test_what_the_exchange_counts_is_believed_where_it_is_more():
    async def story(desk):
        desk.budget.heard(reply({}, x_mbx_used_weight_1m=4_000), desk.time.now_ms())
        first = desk.budget.used_weight
        desk.budget.heard(reply({}, x_mbx_used_weight_1m=12), desk.time.now_ms())
        for nonsense in ("", "-5", "x", "9" * 30, "٣"):
            desk.budget.heard(reply({}, x_mbx_used_weight_1m=nonsense), desk.time.now_ms())
        return first, desk.budget.used_weight

    assert play(story) == (4_000, 4_000)


def test_orders_are_refused_when_they_are_used_up_and_go_again_later():
    async def story(desk):
        for _ in range(ORDERS_10S):
            assert desk.budget.order() == ""
        first = desk.budget.order()
        await desk.rest.measure()
        await asyncio.sleep(10)
        return first, desk.budget.order()

    first, later = play(story)
    assert first.startswith("100 orders in 10s are used up, for another ")
    assert later == ""


def test_the_headers_count_orders_too():
    async def story(desk):
        desk.budget.heard(reply({}, x_mbx_order_count_10s=100), desk.time.now_ms())
        return desk.budget.order()

    assert play(story).startswith("100 orders in 10s are used up")


def test_limits_are_taken_over():
    async def story(desk):
        desk.budget.limits(
            [
                limit("REQUEST_WEIGHT", "MINUTE", 1, 50),
                limit("ORDERS", "SECOND", 10, 1),
                limit("ORDERS", "DAY", 1, 2),
                limit("RAW_REQUESTS", "MINUTE", 5, 1),
                limit("ORDERS", "FORTNIGHT", 1, 0),
            ]
        )
        return [desk.budget.order() for _ in range(2)]

    first, second = play(story)
    assert first == ""
    assert second.startswith("1 orders in 10s are used up")


@pytest.mark.parametrize("status", [429, 418])
def test_everybody_waits_for_as_long_as_is_asked(status):
    async def story(desk):
        before = desk.clock.now
        desk.budget.close(refusal(-1003, status=status, retry_after=30), -1003)
        why = desk.budget.order()
        await desk.budget.weigh("x", 1, urgent=True)
        return why, desk.clock.now - before

    assert play(story) == ("the exchange takes no requests for another 30 s", 30)


def test_nobody_waits_for_a_long_ban():
    async def story(desk):
        desk.budget.close(refusal(-1003, status=418, retry_after=int(PATIENCE_S) + 1), -1003)
        before = desk.clock.now
        with pytest.raises(BrokerUnavailable, match="wants no requests for another 61 s; x was not asked for"):
            await desk.budget.weigh("x", 1)
        return desk.clock.now - before

    assert play(story) == 0


def test_too_many_orders_stop_orders_alone():
    async def story(desk):
        before = desk.clock.now
        desk.budget.close(refusal(-1015, status=429, retry_after=40_000), -1015)
        await desk.budget.weigh("x", 1)
        return desk.budget.order(), desk.clock.now - before

    why, waited = play(story)
    assert why.startswith("200000 orders in 1d are used up")
    assert waited == 0


def test_a_429_that_does_not_say_how_long():
    async def story(desk):
        before = desk.clock.now
        desk.budget.close(refusal(-1003, status=429), -1003)
        await desk.budget.weigh("x", 1)
        return desk.clock.now - before

    assert play(story) == 10


def test_an_answer_from_the_minute_before_says_nothing_of_this_one():
    async def story(desk):
        sent_ms = desk.time.now_ms()
        await asyncio.sleep(60)
        desk.budget.heard(reply({}, x_mbx_used_weight_1m=4_000), sent_ms)
        return desk.budget.used_weight

    assert play(story) == 0
