"""Bars of the past by REST."""

import json

import pytest

from agents.errors import LinkLost
from graph.resilience.virtual import VirtualClock
from graph.stream.history import BarHistory
from graph.transport import HttpReply
from tests.graph.exchange.test_memory import play

MINUTE_NS = 60 * 10**9


def test_the_newest_bars_are_closed_and_without_holes():
    async def story(transport):
        clock = transport._exchange._clock
        return await BarHistory(transport, "http://exchange/").newest("BTCUSDT", "1m", 100, clock.now_ns())

    bars = play(story)
    assert len(bars) == 100
    closes = [bar.close_ns for bar in bars]
    assert closes == list(range(closes[0], closes[-1] + 1, MINUTE_NS))


def test_between_two_times():
    async def story(transport):
        now_ms = transport._exchange._clock.now_ns() // 10**6
        start = now_ms - now_ms % 60_000 - 600_000
        bars = await BarHistory(transport, "http://exchange").between("BTCUSDT", "1m", start, start + 180_000)
        return start, bars

    start, bars = play(story)
    assert [bar.close_ns for bar in bars] == [(start + minute * 60_000) * 10**6 for minute in (1, 2, 3)]


class Answers:
    def __init__(self, status, body):
        self._reply = HttpReply(status, body)

    async def request(self, method, url, headers):
        return self._reply


ROW = [1_700_000_040_000, "1", "2", "0.5", "1.5", "7", 1_700_000_099_999, "1", 1, "1", "1", "0"]


@pytest.mark.parametrize(
    ("status", "rows"),
    [
        (503, [ROW]),
        (200, {"code": -1}),
        (200, [ROW[:6]]),
        (200, [[*ROW[:1], "NaN", *ROW[2:]]]),
        (200, [[*ROW[:1], 1.5, *ROW[2:]]]),
        (200, [[*ROW[:2], "0.1", *ROW[3:]]]),
        (200, [["x", *ROW[1:]]]),
        (200, [ROW, ROW]),
        (200, None),
    ],
)
def test_an_answer_that_cannot_be_used(status, rows):
    async def ask():
        return await BarHistory(Answers(status, json.dumps(rows).encode()), "http://x").newest("A", "1m", 5, 10**19)

    with VirtualClock(1) as clock, pytest.raises(LinkLost):
        clock.run(ask())


def test_bytes_that_are_no_json():
    async def ask():
        return await BarHistory(Answers(200, b"\xff["), "http://x").newest("A", "1m", 5, 10**19)

    with VirtualClock(1) as clock, pytest.raises(LinkLost):
        clock.run(ask())
