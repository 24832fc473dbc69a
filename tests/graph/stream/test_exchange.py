"""Market data of an exchange on virtual time: connections that come and go, and what is told of them."""

import asyncio
from itertools import pairwise

import pytest

from agents.clock import ReplayClock
from agents.errors import ConfigError, InvalidValue
from graph.resilience import Retry
from graph.stream.events import Connected, Disconnected
from graph.stream.exchange import ExchangeStream
from graph.stream.reader import StreamLimits
from tests.graph.stream.world import BEGIN_NS, listen

MINUTE_NS = 60 * 10**9


def klines(told):
    """The exchange's own candles that are over, as (close time, prices and volume)."""
    candles = told.exchange.venue.engines["BTCUSDT"].candles.minutes.candles[:-1]
    return {
        (each.open_ms + 60_000) * 10**6: (each.open, each.high, each.low, each.close, each.volume) for each in candles
    }


def same_as_the_exchange(told):
    known = klines(told)
    for bar in told.bars:
        prices = (bar.open, bar.high, bar.low, bar.close, bar.volume)
        assert tuple(int(price * 10**8) for price in prices) == known[bar.close_ns]
    closes = [bar.close_ns for bar in told.bars]
    return all(later - bar == MINUTE_NS for bar, later in pairwise(closes))


class TestAQuietDay:
    def test_every_trade_every_quote_every_bar(self):
        told = listen(610)
        engine = told.exchange.venue.engines["BTCUSDT"]
        assert [trade.price for trade in told.trades][-500:] == [
            _exact(each.price) for each in list(engine.recent)[-500:]
        ]
        assert same_as_the_exchange(told)
        assert len(told.bars) == 10
        assert all(a.time_ns <= b.time_ns for a, b in pairwise(told.quotes))
        assert all(a.time_ns <= b.time_ns for a, b in pairwise(told.trades))
        assert told.health.delivered == len(told.events)
        assert (told.health.connections, told.health.missing, dict(told.health.refused)) == (1, 0, {})
        assert set(told.health.last_ns) == {"btcusdt@trade", "btcusdt@bookTicker", "btcusdt@kline_1m"}
        (connected,) = told.notices
        assert isinstance(connected, Connected)

    def test_the_same_seed_tells_the_same(self):
        assert listen(120).events == listen(120).events != listen(120, seed=4).events

    def test_only_what_is_wanted(self):
        told = listen(200, trades=False, interval=None)
        assert told.quotes
        assert not told.trades
        assert not told.bars


def _exact(price):
    from decimal import Decimal

    return Decimal(price) / 10**8


AT_60 = {"from_seconds": 60.0, "until_seconds": 61.0}
ENDINGS = ["reset", "close", "storm"]


class TestEveryFaultOfTheMenu:
    """Each is struck, and half a minute after it is over everything comes again."""

    @pytest.mark.parametrize(
        ("fault", "bound"),
        [
            *(({"kind": kind} | AT_60, 6.0) for kind in ENDINGS),
            ({"kind": "zombie"} | AT_60, 26.0),
            ({"kind": "half_open"} | AT_60, 26.0),
            ({"kind": "delay", "seconds": 8.0} | AT_60, 9.5),
            ({"kind": "delay", "seconds": 45.0, "on": "btcusdt@bookTicker"} | AT_60, 40.0),
            ({"kind": "shutdown", "seconds": 10.0} | AT_60, 5.0),
            ({"kind": "cut", "seconds": 90.0, "nth": 1}, 6.0),
            ({"kind": "gap", "rate": 0.3}, 6.0),
            ({"kind": "duplicate", "rate": 0.3}, 6.0),
            ({"kind": "reorder", "rate": 0.3}, 6.0),
            ({"kind": "corrupt", "rate": 0.3}, 6.0),
            ({"kind": "truncate", "rate": 0.3}, 6.0),
            ({"kind": "mute", "nth": 1}, 11.0),
            ({"kind": "mute", "rate": 0.7}, 60.0),
            ({"kind": "refuse", "nth": 1}, 6.0),
        ],
        ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
    )
    def test_it_is_survived(self, fault, bound):
        told = listen(400, fault)
        assert told.menu.struck, "the fault was never reached"
        assert told.dead is None
        times = [0.0, *(at for at, _ in told.events)]
        assert max(b - a for a, b in pairwise(times)) < bound
        assert told.heard_in(370, 400) > 20
        assert told.health.failures == 0
        if fault["kind"] not in {"gap", "corrupt", "truncate"}:
            assert same_as_the_exchange(told)

    def test_all_of_them_in_one_hour(self):
        kinds = ["reset", "close", "zombie", "half_open", "gap", "duplicate", "reorder", "corrupt", "truncate", "storm"]
        faults = [{"kind": kind, "rate": 0.001} for kind in kinds]
        faults += [
            {"kind": "delay", "seconds": 3.0, "rate": 0.001},
            {"kind": "shutdown", "seconds": 5.0, "rate": 0.001},
        ]
        faults += [{"kind": "mute", "rate": 0.1}, {"kind": "refuse", "rate": 0.1}, {"kind": "cut", "seconds": 300.0}]
        told = listen(3_600, *faults)
        assert {str(kind) for kind in told.menu.struck} == {each["kind"] for each in faults}
        assert told.dead is None
        assert same_as_the_exchange(told)
        assert len(told.bars) >= 59
        assert told.heard_in(0, 3_600) > 3_600
        keys = [(type(event), event) for _, event in told.events if not hasattr(event, "bid")]
        assert len(keys) - len(set(keys)) < len(keys) / 100  # two trades may be alike, and none is told twice


class TestReconnecting:
    def test_waits_grow_from_5_seconds_to_60_with_jitter(self):
        told = listen(3_600, {"kind": "refuse"})
        assert [failure.failures for failure in told.noticed(Disconnected)] == list(range(1, 11))
        for number, wait in enumerate(told.waits[:-1]):
            full = min(5.0 * 2**number, 60.0)
            assert full / 2 <= wait <= full
        assert len(set(told.waits)) == len(told.waits)

    def test_ten_failures_in_a_row_are_the_end(self):
        told = listen(3_600, {"kind": "refuse"})
        assert "failed 10 times in a row" in str(told.dead)
        assert told.seconds == pytest.approx(sum(told.waits), abs=1)

    def test_the_first_good_message_makes_nine_failures_forgotten(self):
        outages = [
            {"kind": "refuse", "on": "/stream", "from_seconds": begin, "until_seconds": begin + 150.0}
            for begin in (0.0, 300.0, 600.0)
        ]
        resets = [{"kind": "reset", "from_seconds": at, "until_seconds": at + 1.0} for at in (300.0, 600.0)]
        told = listen(1_000, *outages, *resets)
        assert told.dead is None
        highest = [failure.failures for failure in told.noticed(Disconnected)]
        assert sum(highest[i] == 1 for i in range(len(highest))) == 3
        assert len(highest) > 10
        assert told.health.failures == 0

    def test_a_connection_on_which_nothing_good_comes_is_a_failure(self):
        told = listen(3_600, {"kind": "truncate", "on": "btcusdt@*"})
        assert told.dead is not None
        assert len(told.noticed(Connected)) == 10
        assert told.events == []

    def test_a_link_that_is_cut_for_five_seconds(self):
        span = {"from_seconds": 100.0, "until_seconds": 105.0}
        told = listen(300, {"kind": "reset"} | span, {"kind": "refuse"} | span)
        times = [at for at, _ in told.events]
        assert max(b - a for a, b in pairwise(times)) < 5 + 5 + 10
        assert same_as_the_exchange(told)
        assert sum(gap.missing for gap in told.gaps if gap.stream == "btcusdt@trade") == told.health.missing > 0

    def test_cancelling_is_no_failure_and_closes_the_connection(self):
        told = listen(30)
        assert told.health.failures == 0
        assert told.noticed(Disconnected) == []
        assert told.exchange._connections == {}

    def test_before_a_day_is_over_the_connection_is_renewed_at_once(self):
        told = listen(1_000, limits=StreamLimits(lifetime=300.0))
        assert told.waits == [0.0, 0.0, 0.0]
        assert told.health.connections == 4
        times = [at for at, _ in told.events]
        assert max(b - a for a, b in pairwise(times)) < 3

    def test_an_exchange_that_shuts_down_again_and_again_is_not_stormed(self):
        told = listen(600, {"kind": "shutdown", "seconds": 10.0, "nth": 1}, {"kind": "shutdown", "seconds": 1.0})
        assert told.health.connections < 600 / 2.5
        assert min(told.waits[:-1]) > 2


class TestSilence:
    def test_one_silent_stream_among_others_is_found(self):
        told = listen(300, {"kind": "gap", "on": "btcusdt@trade", "from_seconds": 60.0, "until_seconds": 130.0})
        assert told.stale == ["btcusdt@trade"]
        (lost,) = [notice for notice in told.noticed(Disconnected) if "btcusdt@trade" in notice.reason]
        assert 118 < (lost.time_ns - BEGIN_NS) / 1e9 - 1_000 < 131
        assert [trade for at, trade in told.events if at > 140 and trade in told.trades]

    def test_a_zombie_is_found_by_the_stream_that_is_silent_first(self):
        told = listen(120, {"kind": "zombie"} | AT_60, limits=StreamLimits(quotes_quiet=7.0))
        assert told.stale == ["btcusdt@bookTicker"]

    def test_a_subscription_that_is_not_acknowledged_is_given_up_after_five_seconds(self):
        told = listen(60, {"kind": "mute", "nth": 1})
        (lost,) = told.noticed(Disconnected)
        assert "not acknowledged within 5 s" in lost.reason
        assert len(told.noticed(Connected)) == 1

    def test_a_handshake_that_hangs_is_given_up(self):
        class Nobody:
            async def connect(self, url):
                await asyncio.get_running_loop().create_future()

        from graph.resilience.virtual import VirtualClock

        notices = []
        stream = ExchangeStream(Nobody(), "ws://x", ["A"], ReplayClock(0), observer=notices.append)

        async def read():
            async with asyncio.timeout(12):
                async for _ in stream.events():
                    pass

        with VirtualClock(1) as clock, pytest.raises(TimeoutError):
            clock.run(read())
        assert "did not answer within 10 s" in notices[0].reason

    def test_while_the_reader_is_away_nobody_was_silent(self):
        async def dawdle(told):
            if len(told.events) == 50:
                await asyncio.sleep(90)

        told = listen(300, reader=dawdle)
        assert told.stale == []
        assert (told.health.connections, told.health.missing) == (1, 0)
        assert same_as_the_exchange(told)


class TestMissedBars:
    def test_what_closed_while_the_link_was_cut_is_fetched(self):
        span = {"from_seconds": 30.0, "until_seconds": 170.0}
        told = listen(400, {"kind": "reset"} | span, {"kind": "refuse"} | span)
        assert same_as_the_exchange(told)
        (gap,) = [gap for gap in told.gaps if "kline" in gap.stream]
        assert gap.missing == gap.filled > 1

    def test_a_closed_bar_whose_message_was_lost_is_fetched(self):
        told = listen(400, {"kind": "gap", "on": "*kline*", "rate": 0.5})
        assert same_as_the_exchange(told)
        assert len(told.bars) >= 6
        assert any(gap.filled for gap in told.gaps)

    @pytest.mark.parametrize("kind", ["drop_ack", "garble", "unavailable"])
    def test_where_they_cannot_be_had_the_gap_is_told_and_the_stream_goes_on(self, kind):
        span = {"from_seconds": 30.0, "until_seconds": 170.0}
        told = listen(400, {"kind": "reset"} | span, {"kind": "refuse"} | span, {"kind": kind, "on": "klines"})
        (gap,) = [gap for gap in told.gaps if "kline" in gap.stream]
        assert gap.missing > gap.filled == 0
        assert told.health.missing >= gap.missing
        assert told.heard_in(380, 400) > 10

    def test_an_answer_that_does_not_come_holds_nothing_up_for_long(self):
        span = {"from_seconds": 30.0, "until_seconds": 170.0}
        slow = {"kind": "slow", "on": "klines", "seconds": 100.0}
        told = listen(400, {"kind": "reset"} | span, {"kind": "refuse"} | span, slow)
        assert [gap.filled for gap in told.gaps if "kline" in gap.stream] == [0]
        assert told.stale == []
        times = [at for at, _ in told.events if at > 180]
        assert max(b - a for a, b in pairwise(times)) < 12

    def test_without_a_history_they_are_missing(self):
        span = {"from_seconds": 100.0, "until_seconds": 240.0}
        told = listen(500, {"kind": "reset"} | span, {"kind": "refuse"} | span, history=False)
        assert not same_as_the_exchange(told)


def test_what_cannot_be_subscribed_to():
    clock = ReplayClock(0)
    with pytest.raises(ConfigError, match="nothing to subscribe to"):
        ExchangeStream(None, "ws://x", [], clock)
    with pytest.raises(ConfigError, match="nothing to subscribe to"):
        ExchangeStream(None, "ws://x", ["A"], clock, trades=False, quotes=False, interval=None)
    with pytest.raises(ConfigError, match="no bars of '7m'"):
        ExchangeStream(None, "ws://x", ["A"], clock, interval="7m")
    with pytest.raises(InvalidValue):
        ExchangeStream(None, "ws://x", ["a b"], clock)
    with pytest.raises(ConfigError, match="quotes_quiet is 0"):
        StreamLimits(quotes_quiet=0)
    assert StreamLimits(retry=Retry(max_attempts=2)).retry.max_attempts == 2
