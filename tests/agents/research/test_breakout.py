import numpy as np
import pytest

from agents.errors import InvalidValue
from agents.research import Breakout
from tests.agents.research import make_view


def _ranging(last: float, count: int = 120) -> np.ndarray:
    """A market that swings between 98 and 102, and then closes at `last`."""
    return np.append(100.0 + 2.0 * np.sin(np.arange(count) * 0.8), last)


def test_a_close_above_the_channel_is_long_and_below_it_short():
    above, below = Breakout()(make_view(_ranging(106.0))), Breakout()(make_view(_ranging(94.0)))
    assert above.stance == 1.0
    assert below.stance == -1.0
    assert min(above.confidence, below.confidence) > 0.7


def test_the_middle_of_the_channel_says_little():
    finding = Breakout()(make_view(_ranging(100.2)))
    assert abs(finding.stance) < 0.05
    assert finding.confidence < 0.05


def test_the_channel_is_of_the_bars_before():
    # If the newest bar were part of its own channel, a close could not be outside.
    assert Breakout()(make_view(_ranging(110.0))).evidence["position_20"] > 1.5


def test_a_break_by_a_tick_is_trusted_less_than_a_break_by_ranges():
    faint, far = Breakout()(make_view(_ranging(102.3))), Breakout()(make_view(_ranging(108.0)))
    assert faint.stance == far.stance == 1.0
    assert 0.5 <= faint.confidence < far.confidence


def test_a_channel_longer_than_the_window_is_refused():
    with pytest.raises(InvalidValue, match="donchian_channel of period 200"):
        Breakout(periods=(200,))(make_view(_ranging(100.0)))


def test_no_channel_at_all_is_refused():
    with pytest.raises(InvalidValue, match="breakout got periods"):
        Breakout(periods=())
