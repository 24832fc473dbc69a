"""Files as a stream."""

import math
import os
from contextlib import aclosing
from decimal import Decimal
from pathlib import Path

import pytest

from agents.clock import ReplayClock
from agents.domain import Bar, Quote
from agents.errors import BadBars, ConfigError, InvalidValue
from graph.resilience.virtual import VirtualClock
from graph.stream.replay import ReplayStream, time_of

DATA = Path(os.environ.get("HOLDFAST_DATA") or Path(__file__).parents[3].parent / "shared" / "data")
BARS = """date,open,high,low,close,volume
2024-01-01T00:01:00Z,1.10,1.5,1,1.2,7
2024-01-01T00:02:00Z,1.2,1.6,1.1,1.3,8
2024-01-01T00:04:00Z,1.3,1.7,1.2,1.4,9
"""
QUOTES = """timestamp,bid,ask
2024-01-01T00:01:30Z,2.10,2.11
2024-01-01T00:02:00Z,2.20,2.21
"""


@pytest.fixture
def files(tmp_path):
    (tmp_path / "A.csv").write_text(BARS)
    (tmp_path / "B.csv").write_text(QUOTES)
    return {"A": tmp_path / "A.csv", "B": tmp_path / "B.csv"}


def replay(files, **more):
    """All events, the virtual seconds at which they came, and what the clock said then."""
    told, wall = [], ReplayClock(0)

    async def read(clock):
        stream = ReplayStream(files, wall, **more)
        began = clock.now
        async with aclosing(stream.events()) as events:
            async for event in events:
                told.append((clock.now - began, wall.now_ns(), event))  # noqa: PERF401 - for its twin's sake
        return stream.health

    with VirtualClock(1) as clock:
        health = clock.run(read(clock))
    return told, health


def test_bars_and_quotes_are_merged_by_time_and_the_clock_goes_with_them(files):
    told, health = replay(files)
    events = [event for _, _, event in told]
    assert [(type(event), event.symbol) for event in events] == [
        (Bar, "A"), (Quote, "B"), (Bar, "A"), (Quote, "B"), (Bar, "A")
    ]  # fmt: skip
    assert events[0].open == Decimal("1.1")
    assert events[1].ask == Decimal("2.11")
    assert [now for _, now, _ in told] == [time_of(event) for event in events]
    assert (health.received, health.delivered) == (5, 5)
    assert {at for at, _, _ in told} == {0.0}


@pytest.mark.parametrize(("speed", "seconds"), [(1.0, 180.0), (60.0, 3.0), (math.inf, 0.0)])
def test_any_speed(files, speed, seconds):
    told, _ = replay(files, speed=speed)
    assert told[-1][0] == pytest.approx(seconds, abs=1e-6)
    assert told[1][0] == pytest.approx(seconds / 6, abs=1e-6)


@pytest.mark.parametrize("speed", [0.0, -1.0, math.nan])
def test_a_speed_that_is_none(files, speed):
    with pytest.raises(ConfigError, match="speed above 0"):
        ReplayStream(files, ReplayClock(0), speed=speed)


def test_no_file_a_bad_file_and_a_bad_symbol(files, tmp_path):
    with pytest.raises(ConfigError):
        ReplayStream({}, ReplayClock(0))
    with pytest.raises(BadBars):
        ReplayStream({"A": tmp_path / "none.csv"}, ReplayClock(0))
    with pytest.raises(InvalidValue):
        ReplayStream({"a b": files["A"]}, ReplayClock(0))


@pytest.mark.parametrize(
    ("name", "kind", "count"), [("usdjpy_quotes_2013.csv", Quote, 1_000), ("btc_perp_1m_2022_01.csv", Bar, 45_031)]
)
def test_real_files(name, kind, count):
    if not (DATA / name).exists():
        pytest.skip(f"{name} is not in the folder of real price data (HOLDFAST_DATA)")
    told, _ = replay({"A": DATA / name})
    assert len(told) == count
    assert {type(event) for _, _, event in told} == {kind}
