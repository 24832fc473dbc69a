"""Whatever an exchange sends, the stream lives: an event that can be, or a refusal that is counted, and no exception.

Frames of the simulated exchange are recorded, damaged in every way, and played to a whole `ExchangeStream` on virtual
time, over several connections. `Fate` knows what may have become of them.
"""

import json
from collections import Counter
from contextlib import aclosing
from decimal import Decimal
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.domain import Bar, Quote, Trade
from agents.errors import FeedDead, LinkLost
from graph.exchange.memory import MemoryTransport
from graph.resilience import Retry
from graph.resilience.virtual import VirtualClock
from graph.stream.events import GapFound, MessageRefused, Reason
from graph.stream.exchange import ExchangeStream
from graph.stream.frames import Control, Refused, read_frame
from graph.stream.reader import StreamLimits
from tests.graph.stream.world import BEGIN_NS, listen

SYMBOL = "BTCUSDT"
STREAMS = ("btcusdt@trade", "btcusdt@bookTicker", "btcusdt@kline_1m")
ACK = b'{"result":null,"id":1}'
MINUTE_NS, DAY_NS = 60 * 10**9, 86_400 * 10**9
HOSTILE = [
    "NaN", "Infinity", "-1", "0", "0.00000000", "1e9", "1_0", " 1", "", "9" * 40, "\u0661", "0x10",
    None, True, False, -1, 0, 1.5, 1e308, 2**63, 2**70, [], {}, [[]], "x" * 5_000,
]  # fmt: skip


class Clock:
    """Stands at the time when the last frame was recorded: frames take no time of their own."""

    def __init__(self, now_ns):
        self._now_ns = now_ns

    def now_ns(self):
        return self._now_ns


class Tape:
    """A link that plays frames and then breaks."""

    def __init__(self, frames):
        self._frames = list(frames)[::-1]

    async def send(self, frame):
        assert json.loads(frame)["method"] == "SUBSCRIBE"

    async def recv(self):
        if not self._frames:
            raise LinkLost("the tape is over")
        return self._frames.pop()

    async def close(self):
        pass


class Tapes:
    """One tape for each connection; then nobody is there."""

    def __init__(self, tapes):
        self._tapes = [Tape(frames) for frames in tapes]

    async def connect(self, url):
        if not self._tapes:
            raise LinkLost("nobody is there")
        return self._tapes.pop(0)


class Fate:
    """What became of frames that were played, checked as it happened."""

    def __init__(self, tapes, now_ns):
        self.events, self.notices, self.now_ns = [], [], now_ns
        limits = StreamLimits(retry=Retry(max_attempts=len(tapes) + 2, base_seconds=1.0, max_seconds=1.0))
        with VirtualClock(1) as clock:
            dice = Random(1)  # noqa: S311 - no secret
            stream = ExchangeStream(
                Tapes(tapes), "ws://x", [SYMBOL], Clock(now_ns), limits=limits, dice=dice, observer=self.notices.append
            )
            self.health = stream.health
            with pytest.raises(FeedDead):
                clock.run(self._read(stream))
        self._check()

    async def _read(self, stream):
        async with aclosing(stream.events()) as events:
            async for event in events:
                self.events.append(event)

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    def _check(self):
        health = self.health
        refused = [notice.reason for notice in self.notices if isinstance(notice, MessageRefused)]
        assert sum(health.refused.values()) == len(refused)
        assert all(health.refused[reason] == refused.count(reason) for reason in Reason)
        assert health.delivered == len(self.events)
        assert health.received >= len(refused) + len(self.events)
        for kind in (Trade, Quote, Bar):
            times = [_time(event) for event in self.of(kind)]
            assert times == sorted(times)
        for event in self.events:
            assert event.symbol == SYMBOL
            assert self.now_ns - DAY_NS <= _time(event) <= self.now_ns + MINUTE_NS
            assert _possible(event)
        closes = [bar.close_ns for bar in self.of(Bar)]
        assert len(set(closes)) == len(closes)
        assert all(close % MINUTE_NS == 0 for close in closes)
        skipped = sum((b - a) // MINUTE_NS - 1 for a, b in pairwise(closes))
        told = sum(
            notice.missing for notice in self.notices if isinstance(notice, GapFound) and "kline" in notice.stream
        )
        assert skipped <= told


def _time(event):
    return event.close_ns if isinstance(event, Bar) else event.time_ns


def _possible(event):
    if isinstance(event, Trade):
        return _positive(event.price, event.quantity)
    if isinstance(event, Quote):
        sizes = event.bid_size >= 0 and event.ask_size >= 0
        return (
            _positive(event.bid, event.ask, event.bid_size + 1, event.ask_size + 1) and event.bid <= event.ask and sizes
        )
    low, high = min(event.open, event.close), max(event.open, event.close)
    return _positive(event.low, event.high, event.volume + 1) and event.low <= low <= high <= event.high


def _positive(*numbers):
    return all(isinstance(each, Decimal) and each.is_finite() and 0 < each < 10**16 for each in numbers)


@pytest.fixture(scope="module")
def recorded():
    """Frames that the simulated exchange has sent in two minutes, and when the last one came."""
    frames = []

    class Tap:
        def __init__(self, link):
            self._link = link

        async def recv(self):
            frames.append(await self._link.recv())
            return frames[-1]

        def __getattr__(self, name):
            return getattr(self._link, name)

    connect = MemoryTransport.connect

    async def tapped(self, url):
        return Tap(await connect(self, url))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryTransport, "connect", tapped)
        told = listen(130)
    assert told.trades
    assert told.quotes
    assert len(told.bars) >= 2
    return [frame for frame in frames if b'"stream"' in frame], BEGIN_NS + (1_000 + 130) * 10**9


def test_what_was_recorded_is_read_without_a_refusal(recorded):
    frames, now_ns = recorded
    fate = Fate([[ACK, *frames]], now_ns)
    assert fate.health.refused == {}
    assert fate.health.missing == 0
    assert fate.health.received == len(frames) + 1
    assert {type(event) for event in fate.events} == {Trade, Quote, Bar}


def _fields(content, path=()):
    """Where in a message something stands."""
    for name, value in content.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from _fields(value, (*path, name))


def _with(frame, path, value):
    content = json.loads(frame)
    inner = content
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return json.dumps(content).encode()


def _at(frame, path):
    content = json.loads(frame)
    for name in path:
        content = content[name]
    return content


def _cut(dice, frames, at):
    return [frames[at][: dice.randrange(len(frames[at]))]]


def _spliced(dice, frames, at):
    """The head of one and the tail of another; from the same place it mostly is a message."""
    frame, other = frames[at], dice.choice(frames)
    cut = dice.randrange(len(frame))
    return [frame[:cut] + other[cut if dice.random() < 0.5 else dice.randrange(len(other)) :]]


def _scratched(dice, frames, at):
    return [bytes(dice.randrange(256) if dice.random() < 0.03 else byte for byte in frames[at])]


def _swollen(dice, frames, at):
    cut = dice.randrange(len(frames[at]))
    more = bytes(dice.choice(b'0123456789"{}[],:.\\-eE') for _ in range(dice.randrange(1, 4)))
    return [frames[at][:cut] + more + frames[at][cut:]]


def _hostile(dice, frames, at):
    return [_with(frames[at], _somewhere(dice, frames[at]), dice.choice(HOSTILE))]


def _of_a_neighbour(dice, frames, at):
    path = _somewhere(dice, frames[at])
    twin = next((each for each in frames[at + 1 :] if path in set(_fields(json.loads(each)))), frames[at])
    return [_with(frames[at], path, _at(twin, path))]


def _far_off(dice, frames, at):
    path = _somewhere(dice, frames[at])
    value = _at(frames[at], path)
    if isinstance(value, int) and not isinstance(value, bool):
        value += dice.choice([-1, 1]) * 10 ** dice.randrange(1, 18)
    return [_with(frames[at], path, value)]


WAYS = [
    _cut, _spliced, _scratched, _swollen, _hostile, _of_a_neighbour, _far_off,
    lambda _, frames, at: [frames[at], frames[at]],
    lambda dice, frames, at: [frames[at] + dice.choice(frames)],
    lambda dice, frames, at: [dice.choice(frames), frames[at]],
    lambda dice, *_: [b"[" * dice.randrange(1, 70_000)],
]  # fmt: skip


def damaged(dice, frames, at):
    """One frame, damaged in one of the ways there are; two where it comes more than once, or after another."""
    return dice.choice(WAYS)(dice, frames, at)


def _somewhere(dice, frame):
    return dice.choice(list(_fields(json.loads(frame))))


@settings(max_examples=150)
@given(st.lists(st.integers(0, 2**32), min_size=1, max_size=3), st.sampled_from([0.05, 0.3, 1.0]))
def test_recorded_frames_damaged_in_every_way_over_several_connections(recorded, seeds, share):
    frames, now_ns = recorded
    tapes = []
    for seed in seeds:
        dice = Random(seed)  # noqa: S311 - no secret
        begin = dice.randrange(len(frames) - 60)
        tape = [ACK]
        for at in range(begin, begin + 60):
            tape += damaged(dice, frames, at) if dice.random() < share else [frames[at]]
        tapes.append(tape)
    Fate(tapes, now_ns)


def test_ten_thousand_frames_half_of_them_damaged_and_a_good_connection_after_them(recorded):
    """Every reason to refuse one is met, and none of them does harm that lasts: on the next connection all is well."""
    frames, now_ns = recorded
    refused, received = Counter(), 0
    for seed in range(10_000 // len(frames) + 1):
        dice, tape = Random(seed), [ACK]  # noqa: S311 - no secret
        for at in range(len(frames)):
            tape += damaged(dice, frames, at) if dice.random() < 0.5 else [frames[at]]
        fate = Fate([tape, [ACK, *frames]], now_ns)
        refused += fate.health.refused
        received += fate.health.received
        good = [event for event in Fate([[ACK, *frames]], now_ns).events if isinstance(event, Quote)]
        assert fate.of(Quote)[-len(good) :] == good
    assert received > 20_000
    assert set(refused) == set(Reason)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(HOSTILE[:12]) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)
shaped = st.builds(
    lambda stream, data: json.dumps({"stream": stream, "data": data}).encode(), st.sampled_from(STREAMS), json_values
)
controls = st.builds(
    lambda content: json.dumps(content).encode(),
    st.fixed_dictionaries(
        {},
        optional={"id": json_values, "code": json_values, "msg": json_values, "e": json_values, "stream": json_values},
    ),
)


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=120) | shaped | controls | st.just(ACK), max_size=12), st.data())
def test_whatever_comes_among_good_frames(recorded, noise, data):
    frames, now_ns = recorded
    begin = data.draw(st.integers(0, len(frames) - 20))
    tape = [ACK, *frames[begin : begin + 20]]
    for frame in noise:
        tape.insert(data.draw(st.integers(0, len(tape))), frame)
    fate = Fate([tape], now_ns)
    ended = next((at for at, frame in enumerate(tape) if _ends(frame)), len(tape) - 1)
    assert fate.health.received == ended + 1  # each was looked at, until one of them ended the connection


def _ends(frame):
    """Whether a frame says that the connection is over, or refuses the subscription."""
    try:
        found = read_frame(frame, 65_536)
    except Refused:
        return False
    return isinstance(found, Control) and (found.shutdown or bool(found.error))
