import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.conditions import annual_volatility, average_volume, bar_volatility, true_range
from agents.features import average_true_range, bars_per_year
from tests.agents.research import DAY_NS, make_view, rescaled, walk

VIEW = make_view(walk(300))


class TestTrueRange:
    def test_is_wilders_average_of_fourteen(self):
        high, low, close = (np.array(column[-100:]) for column in (VIEW.high, VIEW.low, VIEW.close))
        assert true_range(VIEW) == average_true_range(high, low, close, 14)[-1]

    def test_is_the_plain_range_of_a_single_bar(self):
        view = make_view([100.0], spread=0.01)
        assert true_range(view) == pytest.approx(2.0)

    def test_is_nothing_where_nothing_moves(self):
        assert true_range(make_view([5.0] * 120, spread=0.0)) == 0.0

    @pytest.mark.parametrize("factor", [2.0**-1000, 2.0**-20, 2.0**1000])
    def test_scales_with_the_price_even_to_the_ends_of_floats(self, factor):
        assert true_range(rescaled(VIEW, factor)) == true_range(VIEW) * factor

    def test_reads_only_the_newest_hundred_bars(self):
        wild = [value * (1 + 0.5 * (at % 2)) for at, value in enumerate(VIEW.close[:200])]
        other = make_view([*wild, *VIEW.close[200:]])
        same = replace(other, open=(*other.open[:200], *VIEW.open[200:]), high=(*other.high[:200], *VIEW.high[200:]))
        same = replace(same, low=(*other.low[:200], *VIEW.low[200:]))
        assert true_range(same) == true_range(VIEW)
        assert bar_volatility(same) == bar_volatility(VIEW)


class TestVolatility:
    def test_is_about_what_the_market_was_made_with(self):
        assert bar_volatility(make_view(walk(400, volatility=0.02))) == pytest.approx(0.02, rel=0.5)

    def test_is_nothing_for_a_single_bar(self):
        assert bar_volatility(make_view([100.0])) == 0.0

    def test_a_year_is_the_root_of_its_bars(self):
        view = replace(VIEW, calendar="XNYS")
        assert annual_volatility(view) == pytest.approx(
            bar_volatility(view) * math.sqrt(bars_per_year(3_600 * 10**9, "XNYS"))
        )
        daily = make_view(walk(120), period_ns=DAY_NS)
        assert annual_volatility(daily) == pytest.approx(bar_volatility(daily) * math.sqrt(365))


class TestAverageVolume:
    def test_is_unknown_where_the_source_has_none(self):
        assert average_volume(VIEW) is None

    def test_is_the_mean_of_the_newest_twenty(self):
        assert average_volume(make_view(walk(30), volume=[1e9] * 10 + [1.0] * 10 + [3.0] * 10)) == 2.0
        assert average_volume(make_view([1.0, 1.0], volume=[2.0, 4.0])) == 3.0

    def test_a_market_that_did_not_trade_has_none(self):
        assert average_volume(make_view(walk(30), volume=[0.0] * 30)) == 0.0


@given(
    st.lists(st.floats(5e-324, 1.79e308), min_size=1, max_size=40),
    st.floats(0.0, 1.79e308),
)
def test_every_view_has_finite_conditions(closes, volume):
    """Whatever the domain accepts: one bar or many, the smallest and the largest prices and volumes."""
    view = make_view(closes, spread=0.0, volume=[volume] * len(closes))
    values = (true_range(view), bar_volatility(view), annual_volatility(view), average_volume(view))
    assert all(math.isfinite(value) and value >= 0 for value in values)
    assert all(type(value) is float for value in values)
