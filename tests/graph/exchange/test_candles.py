"""Candles without holes, and longer ones made of shorter ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graph.exchange.candles import INTERVALS, Candle, Candles, Series
from graph.exchange.orders import Trade

MINUTE = 60_000
START = 1_700_000_040_000  # a full minute


def trade(number, price, at_ms, quantity=1, *, down=False):
    return Trade(number, price, quantity, 0, 0, down, at_ms)


@pytest.fixture
def candles():
    return Candles([Candle(START - MINUTE, 90, 110, 80, 100, 5, 500, 3, 2, 200, 1, 3)])


def test_trades_make_a_candle(candles):
    for number, (price, down) in enumerate([(101, False), (105, True), (99, False)], 10):
        candles.add(trade(number, price, START + number, 2, down=down), 2 * price)
    made = candles.minutes.candles[-1]
    assert (made.open, made.high, made.low, made.close) == (101, 105, 99, 99)
    assert (made.volume, made.quote, made.trades, made.taken, made.taken_quote) == (6, 610, 3, 4, 400)
    assert (made.first, made.last, made.open_ms) == (10, 12, START)


def test_where_nothing_is_traded_the_last_price_stands(candles):
    candles.add(trade(1, 120, START + 3 * MINUTE + 1), 120)
    closes = [(each.open, each.close, each.volume) for each in candles.minutes.candles]
    assert closes[1:] == [(100, 100, 0), (100, 100, 0), (100, 100, 0), (120, 120, 1)]
    assert candles.at("1s", START + 3 * MINUTE + 1).close == 120


def test_longer_ones_are_the_sum_of_shorter_ones(candles):
    for minute, price in enumerate([101, 120, 90, 95]):
        candles.add(trade(minute, price, START + minute * MINUTE), price)
    three = candles.at("3m", START + 2 * MINUTE)
    begin = three.open_ms
    parts = [each for each in candles.minutes.candles if begin <= each.open_ms <= START + 2 * MINUTE]
    assert begin % (3 * MINUTE) == 0
    assert (three.open, three.close) == (parts[0].open, parts[-1].close)
    assert three.high == max(each.high for each in parts)
    assert three.volume == sum(each.volume for each in parts)


def test_a_span_is_the_newest_or_from_a_time_on(candles):
    candles.roll(START + 9 * MINUTE)
    opens = [each.open_ms for each in candles.minutes.candles]
    assert [each.open_ms for each in candles.span("1m", None, None, 3)] == opens[-3:]
    assert [each.open_ms for each in candles.span("1m", None, START + 5 * MINUTE + 7, 2)] == opens[5:7]
    assert [each.open_ms for each in candles.span("1m", START + 1, None, 2)] == opens[2:4]
    assert [each.open_ms for each in candles.span("1m", START, START + MINUTE, 100)] == opens[1:3]
    assert candles.span("1m", START + 99 * MINUTE, None, 5) == []
    assert len(candles.span("1m", 0, None, 1_000)) == len(opens)


@given(st.sampled_from(list(INTERVALS)), st.integers(0, 300), st.integers(1, 40))
def test_spans_are_whole_increasing_and_never_empty_inside(interval, minutes, limit):
    candles = Candles([Candle(START - MINUTE, 90, 110, 80, 100)])
    candles.add(trade(1, 100, START), 100)
    candles.roll(START + minutes * MINUTE)
    span = candles.span(interval, None, None, limit)
    opens = [each.open_ms for each in span]
    assert opens == sorted(set(opens))
    assert len(span) <= limit
    assert all(open_ms % INTERVALS[interval] == 0 for open_ms in opens)


def test_only_so_many_are_kept():
    series = Series(1_000, [Candle(0, 1, 1, 1, 1)])
    series.roll(100_000_000)
    series.roll(100_001_000)
    assert len(series.candles) <= 40_001
    assert series.candles[-1].open_ms == 100_001_000
