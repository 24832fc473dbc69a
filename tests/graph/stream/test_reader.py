"""One connection, played frame by frame: what a whole exchange cannot be brought to do."""

import asyncio
import json
from contextlib import aclosing

import pytest

from agents.clock import ReplayClock
from agents.errors import LinkLost
from graph.resilience.virtual import VirtualClock
from graph.stream.events import Connected, MessageRefused, Reason, StreamHealth
from graph.stream.frames import TradeTrack
from graph.stream.reader import Reader, Renewal, StreamLimits, Watched
from tests.graph.stream.test_frames import NOW, TRADE

ACK = {"result": None, "id": 1}


class Played:
    """A link that plays frames: each after so many seconds."""

    def __init__(self, *frames):
        self.frames = list(frames)
        self.sent = []
        self.due = None

    async def send(self, frame):
        self.sent.append(json.loads(frame))

    async def recv(self):
        if not self.frames:
            await asyncio.get_running_loop().create_future()
        seconds, content = self.frames[0]
        now = asyncio.get_running_loop().time
        self.due = self.due or now() + seconds
        await asyncio.sleep(max(0.0, self.due - now()))  # waiting may be broken off, and begun again
        self.frames.pop(0)
        self.due = None
        if isinstance(content, Exception):
            raise content
        return content if isinstance(content, bytes) else json.dumps(content).encode()

    async def close(self):
        pass


def trade(number):
    return {"stream": "a@trade", "data": TRADE | {"t": number}}


def read(*frames, **limits):
    """Read such frames; gives the events, how it ended, the health and the notices."""
    health, notices, events = StreamHealth(), [], []
    streams = {"a@trade": Watched(TradeTrack("A", "a@trade"), 60.0)}

    async def whole():
        reader = Reader(
            Played(*frames), streams, limits=StreamLimits(**limits), clock=ReplayClock(NOW), health=health,
            observer=notices.append, history=None,
        )  # fmt: skip
        async with aclosing(reader.events()) as incoming:
            async for event in incoming:
                events.append(event)  # noqa: PERF401 - those before the end are wanted as well

    with VirtualClock(1) as clock, pytest.raises((LinkLost, Renewal)) as ended:
        clock.run(whole())
    return events, ended.value, health, notices


def test_data_before_the_acknowledgement_is_welcome():
    events, ended, _, notices = read((1, trade(1)), (1, ACK), (1, trade(2)))
    assert len(events) == 2
    assert isinstance(notices[0], Connected)
    assert "nothing came on a@trade for 60 s" in str(ended)


def test_data_without_an_acknowledgement_is_not_enough():
    frames = [(1, trade(number)) for number in range(20)]
    events, ended, _, _ = read(*frames)
    assert "not acknowledged within 5 s" in str(ended)
    assert len(events) in {4, 5}


@pytest.mark.parametrize("answer", [{"result": None, "id": 2}, {"result": None, "id": "1"}])
def test_an_answer_to_something_else_is_none_to_this(answer):
    _, ended, _, _ = read((1, answer), (1, trade(1)))
    assert "not acknowledged" in str(ended)


def test_a_refused_subscription():
    _, ended, _, notices = read((1, {"code": 2, "msg": "too many streams", "id": 1}))
    assert isinstance(ended, LinkLost)
    assert "2 too many streams" in str(ended)
    assert notices == []


def test_what_is_refused_is_counted_with_its_reason_and_told():
    frames = [(0, ACK), (0, b"{"), (0, {"stream": "b@trade", "data": {}}), (0, {"stream": "a@trade", "data": {}})]
    _, _, health, notices = read(*frames, (0, trade(1)), (0, trade(1)))
    assert health.refused == {
        Reason.NOT_JSON: 1, Reason.UNKNOWN: 1, Reason.WRONG_SHAPE: 1, Reason.DUPLICATE: 1
    }  # fmt: skip
    told = [(notice.stream, notice.reason) for notice in notices if isinstance(notice, MessageRefused)]
    assert told == [
        ("", Reason.NOT_JSON), ("", Reason.UNKNOWN), ("a@trade", Reason.WRONG_SHAPE), ("a@trade", Reason.DUPLICATE)
    ]  # fmt: skip
    assert (health.received, health.failures) == (6, 0)


def test_only_what_is_good_keeps_a_stream_alive():
    bad = [(5, {"stream": "a@trade", "data": TRADE | {"t": 2, "p": "0"}})] * 30
    _, ended, health, _ = read((0, ACK), (0, trade(1)), *bad)
    assert "nothing came on a@trade" in str(ended)
    assert health.refused[Reason.BAD_PRICES] in {11, 12}


def test_a_shutdown_that_was_announced_renews_a_good_connection_and_ends_a_new_one():
    shutdown = {"e": "serverShutdown", "E": 1}
    _, ended, _, _ = read((0, ACK), *[(30, trade(number)) for number in (1, 2, 3)], (0, shutdown))
    assert isinstance(ended, Renewal)
    _, ended, _, _ = read((0, ACK), (30, trade(1)), (0, shutdown))
    assert isinstance(ended, LinkLost)
    _, ended, _, _ = read((0, ACK), (59, b"{"), (2, shutdown))
    assert isinstance(ended, LinkLost)


def test_a_frame_that_is_too_large_is_dropped_by_whoever_carries_it():
    _, _, health, _ = read((0, ACK), (0, b" " * 2_000), frame_bytes_max=1_000)
    assert health.refused == {Reason.TOO_LARGE: 1}
