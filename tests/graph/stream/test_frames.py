"""From frames to events: what is taken, and that whatever comes is an event, an answer or a counted refusal."""

import json
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.domain import Bar, Quote, Side, Trade
from graph.stream.events import Reason
from graph.stream.frames import BarTrack, Control, Frame, QuoteTrack, Refused, TradeTrack, read_frame
from tests.graph.stream.world import listen

NOW_MS = 1_700_000_000_000
NOW = NOW_MS * 1_000_000
MAX = 65_536

TRADE = {"e": "trade", "E": NOW_MS, "s": "A", "t": 7, "p": "1.50", "q": "2", "T": NOW_MS, "m": True, "M": True}
QUOTE = {"u": 7, "s": "A", "b": "1.5", "B": "2", "a": "1.6", "A": "3"}
KLINE = {
    "t": NOW_MS - NOW_MS % 60_000, "T": NOW_MS - NOW_MS % 60_000 + 59_999, "s": "A", "i": "1m", "f": 1, "L": 2,
    "o": "2", "c": "3", "h": "4", "l": "1", "v": "9", "n": 2, "x": True, "q": "1", "V": "1", "Q": "1", "B": "0",
}  # fmt: skip


def raw(content):
    return msgspec.Raw(json.dumps(content).encode())


def trades():
    return TradeTrack("A", "a@trade")


def quotes():
    return QuoteTrack("A", "a@bookTicker")


def bars():
    return BarTrack("A", "a@kline_1m", "1m", 60_000)


def kline(minute=0, **more):
    at = {"t": KLINE["t"] + minute * 60_000, "T": KLINE["T"] + minute * 60_000}
    return {"e": "kline", "E": NOW_MS, "s": "A", "k": KLINE | at | more}


def refused(track, content, now=NOW + 10**13):
    with pytest.raises(Refused) as error:
        track.read(raw(content), now)
    return error.value.reason


class TestFrames:
    def test_a_message_of_a_stream(self):
        found = read_frame(b'{"stream":"a@trade","data":{"e":"trade"}}', MAX)
        assert isinstance(found, Frame)
        assert (found.stream, bytes(found.data)) == ("a@trade", b'{"e":"trade"}')

    @pytest.mark.parametrize(
        ("frame", "control"),
        [
            (b'{"result":null,"id":1}', Control(1)),
            (b'{"code":2,"msg":"Invalid request","id":1}', Control(1, "2 Invalid request")),
            (b'{"code":3,"msg":"Invalid JSON"}', Control(None, "3 Invalid JSON")),
            (b'{"e":"serverShutdown","E":1}', Control(shutdown=True)),
        ],
    )
    def test_what_is_no_data(self, frame, control):
        assert read_frame(frame, MAX) == control

    @pytest.mark.parametrize(
        ("frame", "reason"),
        [
            (b"", Reason.NOT_JSON),
            (b"{", Reason.NOT_JSON),
            (b"\xff\xfe", Reason.NOT_JSON),
            (b'{"stream":"a","data":' + b"[" * 5_000, Reason.NOT_JSON),
            (b"[]", Reason.WRONG_SHAPE),
            (b"{}", Reason.WRONG_SHAPE),
            (b"null", Reason.WRONG_SHAPE),
            (b'{"stream":1}', Reason.WRONG_SHAPE),
            (b'{"id":"x"}', Reason.WRONG_SHAPE),
            (b'{"stream":"a"}' + b" " * MAX, Reason.TOO_LARGE),
        ],
    )
    def test_what_is_none_at_all(self, frame, reason):
        with pytest.raises(Refused) as error:
            read_frame(frame, MAX)
        assert error.value.reason is reason


class TestTrades:
    def test_a_trade(self):
        trade = trades().read(raw(TRADE), NOW)
        assert trade == Trade("A", NOW, Decimal("1.50"), Decimal(2), Side.SELL)
        assert trades().read(raw(TRADE | {"m": False}), NOW).taker is Side.BUY

    @pytest.mark.parametrize(
        ("changed", "reason"),
        [
            ({"s": "B"}, Reason.UNKNOWN),
            ({"p": "NaN"}, Reason.BAD_NUMBER),
            ({"p": "-1"}, Reason.BAD_NUMBER),
            ({"p": "1e5"}, Reason.BAD_NUMBER),
            ({"p": "Infinity"}, Reason.BAD_NUMBER),
            ({"p": "1_0"}, Reason.BAD_NUMBER),
            ({"p": " 1"}, Reason.BAD_NUMBER),
            ({"p": "\u0661"}, Reason.BAD_NUMBER),
            ({"p": ""}, Reason.BAD_NUMBER),
            ({"p": "0"}, Reason.BAD_PRICES),
            ({"q": "0.0"}, Reason.BAD_PRICES),
            ({"p": 1.5}, Reason.WRONG_SHAPE),
            ({"p": None}, Reason.WRONG_SHAPE),
            ({"p": "1" * 33}, Reason.WRONG_SHAPE),
            ({"t": -1}, Reason.WRONG_SHAPE),
            ({"t": 1.5}, Reason.WRONG_SHAPE),
            ({"t": 2**63}, Reason.WRONG_SHAPE),
            ({"T": 10**15}, Reason.WRONG_SHAPE),
            ({"T": "1"}, Reason.WRONG_SHAPE),
            ({"m": 1}, Reason.WRONG_SHAPE),
            ({"T": NOW_MS + 61_000}, Reason.FUTURE),
            ({"T": NOW_MS - 86_401_000}, Reason.OLD),
            ({"T": 0}, Reason.OLD),
        ],
    )
    def test_what_is_none(self, changed, reason):
        assert refused(trades(), TRADE | changed, NOW) is reason

    def test_a_missing_field(self):
        for name in ("s", "t", "p", "q", "T", "m"):
            assert refused(trades(), {each: value for each, value in TRADE.items() if each != name}) == (
                Reason.WRONG_SHAPE
            )

    def test_they_come_in_order_and_what_is_missing_is_counted(self):
        track = trades()
        missing = []
        for number in (7, 8, 11):
            track.read(raw(TRADE | {"t": number}), NOW)
            missing.append(track.missing)
        assert missing == [0, 0, 2]
        assert refused(track, TRADE | {"t": 11}) is Reason.DUPLICATE
        assert refused(track, TRADE | {"t": 9}) is Reason.LATE
        assert refused(track, TRADE | {"t": 12, "T": NOW_MS - 1}) is Reason.TIME_BACK
        assert refused(track, TRADE | {"t": 10**12}) is Reason.JUMP
        assert track.read(raw(TRADE | {"t": 12}), NOW).price == Decimal("1.5")

    def test_what_is_refused_leaves_no_trace(self):
        track = trades()
        track.read(raw(TRADE), NOW)
        refused(track, TRADE | {"t": 8, "p": "0"})
        track.read(raw(TRADE | {"t": 8}), NOW)
        assert track.missing == 0

    def test_on_a_new_connection_numbers_may_begin_anew_but_time_may_not(self):
        track = trades()
        track.read(raw(TRADE | {"t": 1_000}), NOW)
        track.reconnected()
        assert refused(track, TRADE | {"t": 900}) is Reason.LATE
        track.read(raw(TRADE | {"t": 5, "T": NOW_MS + 1}), NOW)
        assert track.missing == -1
        track.read(raw(TRADE | {"t": 6, "T": NOW_MS + 1}), NOW)
        assert track.missing == 0

    def test_what_was_missed_between_two_connections_is_counted(self):
        track = trades()
        track.read(raw(TRADE), NOW)
        track.reconnected()
        track.read(raw(TRADE | {"t": 17}), NOW)
        assert track.missing == 9


class TestQuotes:
    def test_a_quote_has_the_time_of_its_arrival(self):
        quote = quotes().read(raw(QUOTE), NOW)
        assert quote == Quote("A", NOW, Decimal("1.5"), Decimal("1.6"), Decimal(2), Decimal(3))

    @pytest.mark.parametrize(
        ("changed", "reason"),
        [
            ({"a": "1.4"}, Reason.BAD_PRICES),
            ({"b": "0"}, Reason.BAD_PRICES),
            ({"b": "nan"}, Reason.BAD_NUMBER),
            ({"B": "-1"}, Reason.BAD_NUMBER),
            ({"s": "B"}, Reason.UNKNOWN),
            ({"u": None}, Reason.WRONG_SHAPE),
        ],
    )
    def test_what_is_none(self, changed, reason):
        assert refused(quotes(), QUOTE | changed) is reason

    def test_they_go_forwards(self):
        track = quotes()
        track.read(raw(QUOTE), NOW)
        assert refused(track, QUOTE) is Reason.DUPLICATE
        assert refused(track, QUOTE | {"u": 6}) is Reason.LATE
        assert track.read(raw(QUOTE | {"u": 100}), NOW - 5).time_ns == NOW
        assert track.missing == 0
        track.reconnected()
        assert track.read(raw(QUOTE | {"u": 3}), NOW + 1).time_ns == NOW + 1


class TestBars:
    def test_a_bar_is_given_when_it_is_closed(self):
        track = bars()
        assert track.read(raw(kline(x=False)), NOW) is None
        bar = track.read(raw(kline()), NOW)
        assert bar == Bar("A", (KLINE["T"] + 1) * 10**6, Decimal(2), Decimal(4), Decimal(1), Decimal(3), Decimal(9))

    @pytest.mark.parametrize(
        ("changed", "reason"),
        [
            ({"h": "0.5"}, Reason.BAD_PRICES),
            ({"l": "3.5"}, Reason.BAD_PRICES),
            ({"o": "0"}, Reason.BAD_PRICES),
            ({"o": "NaN"}, Reason.BAD_NUMBER),
            ({"i": "5m"}, Reason.WRONG_SHAPE),
            ({"T": KLINE["T"] + 60_000}, Reason.WRONG_SHAPE),
            ({"t": KLINE["t"] + 1, "T": KLINE["T"] + 1}, Reason.WRONG_SHAPE),
            ({"x": "true"}, Reason.WRONG_SHAPE),
        ],
    )
    def test_what_is_none(self, changed, reason):
        assert refused(bars(), kline(**changed)) is reason

    def test_one_from_the_future(self):
        assert refused(bars(), kline(minute=3), NOW) is Reason.FUTURE

    @pytest.mark.parametrize("interval", ["1m", "1d"])
    def test_none_is_closed_that_cannot_be_over(self, interval):
        period = {"1m": 60_000, "1d": 86_400_000}[interval]
        begin = NOW_MS - NOW_MS % period
        track = BarTrack("A", "a@kline", interval, period)
        present = {"t": begin, "T": begin + period - 1, "i": interval}
        early = (begin + period - 60_001) * 10**6
        assert refused(track, kline(**present), early) is Reason.FUTURE
        assert track.read(raw(kline(**present, x=False)), early) is None
        assert track.read(raw(kline(**present)), early + 10**6).close_ns == (begin + period) * 10**6

    def test_one_of_another_day_is_none_of_now(self):
        late = (KLINE["T"] + 1) * 10**6 + 86_400 * 10**9
        for closed in (True, False):
            assert refused(bars(), kline(x=closed), late + 1) is Reason.OLD
            assert bars().read(raw(kline(x=closed)), late) is None or closed
        assert refused(bars(), kline(t=0, T=59_999), NOW) is Reason.OLD

    def test_each_is_given_once_and_time_goes_forwards(self):
        track = bars()
        track.read(raw(kline()), NOW)
        assert refused(track, kline()) is Reason.DUPLICATE
        assert refused(track, kline(x=False)) is Reason.LATE
        assert refused(track, kline(minute=-1)) is Reason.DUPLICATE
        assert track.read(raw(kline(minute=1, x=False)), NOW) is None
        assert track.missing == 0

    def test_a_gap_is_found_by_the_next_message_whether_closed_or_not(self):
        for closed in (True, False):
            track = bars()
            track.read(raw(kline()), NOW)
            track.read(raw(kline(minute=4, x=closed)), NOW + 10**12)
            assert track.missing == 3
            assert track.gap == (KLINE["t"] + 60_000, KLINE["t"] + 240_000)
            track.give_up()
            track.read(raw(kline(minute=4 + closed)), NOW + 10**12)
            assert track.missing == 0

    def test_in_the_middle_of_a_bar_nothing_is_missing(self):
        track = bars()
        track.read(raw(kline(minute=5, x=False)), NOW + 10**12)
        assert track.missing == 0


# Whatever comes

TRACKS = {"a@trade": trades, "a@bookTicker": quotes, "a@kline_1m": bars}
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
contents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4)
)


def told(tracks, frame):
    """What a reader would make of a frame: an event, an answer, None, or a reason."""
    try:
        found = read_frame(frame, MAX)
        if isinstance(found, Control):
            return found
        track = tracks.get(found.stream)
        return track.read(found.data, NOW + 10**13) if track else Reason.UNKNOWN
    except Refused as error:
        return error.reason


def check(answer):
    if isinstance(answer, Trade):
        assert 0 < answer.price < 10**16
        assert 0 < answer.quantity < 10**16
    elif isinstance(answer, Quote):
        assert 0 < answer.bid <= answer.ask
    elif isinstance(answer, Bar):
        assert 0 < answer.low <= min(answer.open, answer.close) <= max(answer.open, answer.close) <= answer.high
    else:
        assert answer is None or isinstance(answer, Control | Reason)


@settings(max_examples=500)
@given(st.binary(max_size=200))
def test_any_bytes(frame):
    check(told({name: make() for name, make in TRACKS.items()}, frame))


@settings(max_examples=500)
@given(contents)
def test_any_json(content):
    check(told({name: make() for name, make in TRACKS.items()}, json.dumps(content).encode()))


@settings(max_examples=500)
@given(st.lists(st.tuples(st.sampled_from(sorted(TRACKS)), st.sampled_from("spqTtmubBaAkix"), contents), max_size=8))
def test_any_field_exchanged(changes):
    tracks = {name: make() for name, make in TRACKS.items()}
    good = {"a@trade": TRADE, "a@bookTicker": QUOTE, "a@kline_1m": kline()}
    last = dict.fromkeys(tracks, 0)
    for stream, name, value in changes:
        content = {**good[stream], name: value}
        if stream == "a@kline_1m" and name in KLINE:
            content = {**good[stream], "k": {**KLINE, name: value}}
        answer = told(tracks, json.dumps({"stream": stream, "data": content}).encode())
        check(answer)
        if isinstance(answer, Trade | Quote | Bar):
            time_ns = answer.close_ns if isinstance(answer, Bar) else answer.time_ns
            assert time_ns >= last[stream]
            last[stream] = time_ns


@pytest.fixture(scope="module")
def recorded():
    """Frames that the exchange has sent."""
    frames = []

    class Tap:
        def __init__(self, link):
            self._link = link

        async def recv(self):
            frames.append(await self._link.recv())
            return frames[-1]

        def __getattr__(self, name):
            return getattr(self._link, name)

    from graph.exchange.memory import MemoryTransport

    connect = MemoryTransport.connect

    async def tapped(self, url):
        return Tap(await connect(self, url))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryTransport, "connect", tapped)
        listen(130)
    return frames


@settings(max_examples=500)
@given(st.data())
def test_recorded_frames_mutated(recorded, data):
    """Each is damaged in one way or another, and read by tracks that have seen the good ones before."""
    tracks = {
        "btcusdt@trade": TradeTrack("BTCUSDT", "t"),
        "btcusdt@bookTicker": QuoteTrack("BTCUSDT", "q"),
        "btcusdt@kline_1m": BarTrack("BTCUSDT", "k", "1m", 60_000),
    }
    at = data.draw(st.integers(0, len(recorded) - 1))
    for frame in recorded[max(0, at - 10) : at]:
        told(tracks, frame)
    frame = bytearray(recorded[at])
    how = data.draw(st.sampled_from(["cut", "exchange", "insert", "twice", "join"]))
    place = data.draw(st.integers(0, len(frame) - 1))
    if how == "cut":
        frame = frame[:place]
    elif how == "exchange":
        for spot in data.draw(st.lists(st.integers(0, len(frame) - 1), min_size=1, max_size=6)):
            frame[spot] = data.draw(st.integers(0, 255))
    elif how == "insert":
        frame[place:place] = data.draw(st.binary(min_size=1, max_size=8))
    elif how == "join":
        frame += recorded[(at + 1) % len(recorded)]
    answer = told(tracks, bytes(frame))
    check(answer)
    if how == "twice":
        again = told(tracks, bytes(frame))
        assert again is None or isinstance(again, Control | Reason)
