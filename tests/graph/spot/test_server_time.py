"""By how much a clock is off: asked half way between the question and its answer."""

from agents.clock import ReplayClock
from graph.spot.server_time import ServerTime

S_NS = 10**9


def test_the_offset_is_taken_at_half_of_the_way():
    clock = ReplayClock(100 * S_NS)
    time = ServerTime(clock)
    assert (time.doubtful, time.now_ms()) == (True, 100_000)
    clock.advance_to(104 * S_NS)
    time.measured(100 * S_NS, 112_000)
    assert (time.offset_ns, time.now_ms(), time.doubtful) == (10 * S_NS, 114_000, False)
    assert time.here_ns() == 104 * S_NS
