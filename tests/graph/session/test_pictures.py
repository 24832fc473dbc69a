"""What a picture may not lose when a long session is drawn with few points."""

from dataclasses import replace
from decimal import Decimal

from checkpoints.sessions import SessionMark
from graph.session.pictures import _drawdown, thinned
from tests.graph.session.test_summary import START_NS, ended


def marks_of(equities):
    return tuple(
        SessionMark(START_NS + at * 10**9, at * 10**9, Decimal(100), Decimal(equity), Decimal(0))
        for at, equity in enumerate(equities)
    )


EQUITIES = [100] * 5_000 + [90, 200, 101, 201] + [205] * 4_996
"""The largest fall, from 200 to 101, is neither from the highest nor to the lowest of its stretch."""


def test_a_fall_inside_a_stretch_is_drawn():
    result = replace(ended(), marks=marks_of(EQUITIES))
    lost = _drawdown(result).axes[0].lines[0].get_ydata()
    assert min(lost) == -100 * result.drawdown == -49.5
    assert len(lost) <= 2_000


def test_extremes_stay_in_a_curve_that_is_thinned():
    _, values = thinned(marks_of(EQUITIES), "equity")
    assert (min(values), max(values)) == (90, 205)
    assert len(values) <= 2_000
