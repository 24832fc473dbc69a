"""What a market does: a history, and where its price goes."""

import numpy as np

from agents.bars import Bars
from graph.exchange.fixed import SCALE
from graph.exchange.scripts import recorded, seeded
from graph.exchange.symbols import SYMBOLS

BTC = SYMBOLS[0]
NOW = 1_700_000_000_123
BEGIN = NOW - NOW % 60_000


def bars(count=10):
    base = np.arange(100.0, 100.0 + count)
    close_ns = np.arange(1, count + 1, dtype=np.int64) * 86_400_000_000_000
    return Bars(close_ns, base, base + 3, base - 2, base + 1, np.full(count, 7.0))


def test_a_seeded_history_ends_at_the_reference_price_before_now():
    script = seeded(BTC, 7, NOW, minutes=50)
    assert [each.open_ms for each in script.history] == [BEGIN - (50 - at) * 60_000 for at in range(50)]
    assert script.history[-1].close == BTC.reference
    for each in script.history:
        assert each.low <= min(each.open, each.close) <= max(each.open, each.close) <= each.high
        assert each.volume > 0 == each.volume % BTC.step
        assert (each.open % BTC.tick, each.high % BTC.tick, each.low % BTC.tick) == (0, 0, 0)
    assert seeded(BTC, 7, NOW, minutes=50, price=77 * SCALE).history[-1].close == 77 * SCALE


def test_the_same_seed_walks_alike_and_another_does_not():
    def walk(seed):
        path = seeded(BTC, seed, NOW).path
        return [path.price(NOW + step * 100) for step in range(100)]

    assert walk(7) == walk(7) != walk(8)
    assert len(set(walk(7))) > 90
    moves = np.diff(np.log([seeded(BTC, 9, NOW).path.price(NOW + 10**8), 1.0 * BTC.reference]))
    assert abs(moves[0]) < 1


def test_a_walk_stays_within_sane_prices():
    path = seeded(BTC, 3, NOW).path
    prices = [path.price(NOW + year * 86_400_000 * 3_650) for year in range(1, 400)]
    assert BTC.reference / 20 <= min(prices) <= max(prices) <= BTC.reference * 20


def test_time_that_stands_still_moves_no_price():
    path = seeded(BTC, 7, NOW).path
    assert path.price(NOW + 5) == path.price(NOW + 5)


def test_a_file_is_played_a_bar_a_minute_through_all_of_its_prices():
    script = recorded(bars(), BTC, 7, NOW, minutes=4)
    assert [each.close // SCALE for each in script.history] == [101, 102, 103, 104]
    first = [script.path.price(BEGIN + part * 15_000) / SCALE for part in range(4)]
    assert first == [104.0, 102.0, 107.0, 105.0]  # open, the nearer extreme, the farther one, close
    assert script.path.price(BEGIN + 60_000) == 105 * SCALE
    assert script.path.price(BEGIN - 1_000) == 104 * SCALE


def test_half_of_a_short_file_is_history_and_after_its_end_the_price_walks_on():
    script = recorded(bars(10), BTC, 7, NOW)
    assert len(script.history) == 5
    end = BEGIN + 5 * 60_000
    last = script.path.price(end - 15_000)
    assert abs(script.path.price(end + 60_000) / last - 1) < 0.01
    assert script.path.price(end + 60_000) != last
