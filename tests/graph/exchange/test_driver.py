"""The exchange moves with its loop's time, and is woken when something comes sooner."""

import asyncio

import pytest

from graph.exchange.driver import drive
from graph.exchange.gateway import Exchange
from graph.exchange.openings import opening_of
from graph.resilience.virtual import VirtualClock


class LoopTime:
    def __init__(self, clock):
        self._clock = clock

    def now_ns(self):
        return 1_700_000_000 * 10**9 + round(self._clock.now * 1e9)


def test_an_hour_goes_by_in_no_time_and_everything_in_it_happens():
    with VirtualClock(3) as clock:
        time = LoopTime(clock)
        exchange = Exchange(opening_of(3, time.now_ns(), steps=1.0), time)

        async def hour():
            driving = asyncio.create_task(drive(exchange, time))
            await asyncio.sleep(3_600)
            driving.cancel()

        clock.run(hour())
        engine = exchange.venue.engines["BTCUSDT"]
        assert engine.candles.minutes.candles[-1].open_ms // 60_000 == time.now_ns() // 60_000_000_000
        assert 1_000 < len(list(engine.recent)) + 1_000 < 6_000


def test_what_was_set_meanwhile_is_not_slept_through():
    with VirtualClock(3) as clock:
        time = LoopTime(clock)
        exchange = Exchange(opening_of(3, time.now_ns(), steps=0.001), time)
        heard = []

        async def wait():
            driving = asyncio.create_task(drive(exchange, time))
            await asyncio.sleep(0.01)
            exchange.agenda.after(0.005, lambda: heard.append(exchange.agenda.now_ns))
            exchange.on_sooner()
            await asyncio.sleep(0.01)
            driving.cancel()

        clock.run(wait())
        assert len(heard) == 1


def test_an_error_of_the_exchange_is_its_driver_s():
    with VirtualClock(3) as clock:
        time = LoopTime(clock)
        exchange = Exchange(opening_of(3, time.now_ns()), time)

        def broken():
            raise OSError("disk full")

        exchange.agenda.after(1.0, broken)
        with pytest.raises(OSError, match="disk full"):
            clock.run(drive(exchange, time))
