"""The seeded market as a stream."""

from contextlib import aclosing
from itertools import pairwise

import pytest

from agents.domain import Bar, Quote, Trade
from agents.errors import ConfigError, InvalidValue
from graph.resilience.virtual import VirtualClock
from graph.stream.simulated import SimulatedStream
from tests.graph.stream.world import LoopTime


def simulated(count, *symbols, seed=7, **more):
    with VirtualClock(1) as clock:
        stream = SimulatedStream(symbols or ["BTCUSDT"], seed, LoopTime(clock), **more)
        told = []

        async def read():
            async with aclosing(stream.events()) as events:
                async for event in events:
                    told.append(event)
                    if len(told) == count:
                        break
            return clock.now - 1_000

        return stream, told, clock.run(read())


def test_the_same_seed_tells_the_same_and_another_does_not():
    assert simulated(500)[1] == simulated(500)[1] != simulated(500, seed=8)[1]


def test_trades_quotes_and_a_bar_a_minute_that_fits_them():
    stream, told, seconds = simulated(5_000)
    bars = [event for event in told if isinstance(event, Bar)]
    assert len(bars) == int(seconds) // 60 > 3
    assert {type(event) for event in told} == {Trade, Quote, Bar}
    for before, bar in pairwise(bars):
        inside = [
            event.price for event in told
            if isinstance(event, Trade) and before.close_ns <= event.time_ns < bar.close_ns
        ]  # fmt: skip
        assert (bar.open, bar.close, bar.high, bar.low) == (inside[0], inside[-1], max(inside), min(inside))
    assert bars[0].close_ns - stream.history[-1].close_ns == 60 * 10**9
    assert len(stream.history) == 600


def test_several_symbols_even_such_as_no_exchange_has():
    _, told, _ = simulated(1_000, "BTCUSDT", "SIM")
    assert {event.symbol for event in told} == {"BTCUSDT", "SIM"}
    assert told != simulated(1_000, "BTCUSDT")[1]


def test_a_reader_who_was_away_gets_all():
    stream, told, _ = simulated(300)
    assert stream.health.delivered == 300
    trades = [event for event in told if isinstance(event, Trade)]
    assert all(a.time_ns <= b.time_ns for a, b in pairwise(trades))


def test_what_cannot_be_simulated():
    with VirtualClock(1) as clock:
        time = LoopTime(clock)
        for symbols, steps in (([], 1.0), (["A"], 0.0), (["A"], 2_000.0), (["A"], float("nan"))):
            with pytest.raises(ConfigError):
                SimulatedStream(symbols, 7, time, steps=steps)
        with pytest.raises(InvalidValue):
            SimulatedStream(["a b"], 7, time)
