from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import conditions
from agents.domain import MarketView
from agents.features import MIN_BARS
from agents.strategist import StrategySettings
from agents.walk_forward import WalkForward, walk_forward
from tests.agents.research import make_view, ramp, views, walk

SETTINGS = StrategySettings(horizon_bars=20, stop_atr=2.0, reward_risk=2.0)
SHORTING = replace(SETTINGS, allow_short=True)
VIEW = make_view(walk(300))


def _long(view: MarketView) -> float:
    return 1.0


def _short(view: MarketView) -> float:
    return -1.0


def _shown(view: MarketView, **options: int) -> list[MarketView]:
    """Every view that the rule was shown."""
    shown: list[MarketView] = []

    def record(seen: MarketView) -> float:
        shown.append(seen)
        return 1.0

    walk_forward(view, record, SETTINGS, **options)
    return shown


def _with_tail(high: float, low: float, close: float, *, count: int = 1) -> MarketView:
    """One moment to trade at: MIN_BARS + 1 bars of which only the first MIN_BARS are shown, then 20 bars to see.

    The bars shown stand at 100 with a range of 1, so that a stop of 2 ATR is 2 away and a target 4; `high`, `low` and
    `close` are the bars after the entry, `count` of them, and the rest stand still.
    """
    still = MIN_BARS + SETTINGS.horizon_bars + 1
    columns = {
        "high": [100.5] * still,
        "low": [99.5] * still,
        "close": [100.0] * still,
    }
    for at in range(MIN_BARS, MIN_BARS + count):
        columns["high"][at], columns["low"][at], columns["close"][at] = high, low, close
    return replace(make_view([100.0] * still), **columns)


class TestNoLookAhead:
    def test_the_rule_sees_only_what_came_before_the_trade(self):
        for seen in _shown(VIEW):
            at = VIEW.close_ns.index(seen.as_of_ns)
            assert seen.close == VIEW.close[at + 1 - len(seen) : at + 1]
            assert len(seen) >= MIN_BARS
            assert at + 1 + SETTINGS.horizon_bars <= len(VIEW)

    @settings(max_examples=30)
    @given(st.integers(MIN_BARS, 299), st.integers(0, 2**32 - 1), st.floats(0.1, 10.0))
    def test_changing_what_came_later_changes_nothing_that_was_shown_before(self, cut, seed, scale):
        later = walk(300, seed=seed, volatility=0.05)[cut:] * scale
        other = make_view(np.concatenate([walk(300)[:cut], later]), volume=np.arange(300.0), market=[1.0] * 300)
        first = make_view(walk(300), volume=np.arange(300.0), market=[1.0] * 300)
        moment_ns = first.close_ns[cut - 1]
        before = [seen for seen in _shown(first) if seen.as_of_ns <= moment_ns]
        assert before == [seen for seen in _shown(other) if seen.as_of_ns <= moment_ns]

    def test_the_outcome_looks_no_further_than_the_horizon(self):
        first = _with_tail(100.5, 99.5, 101.0, count=20)
        wild = replace(
            first,
            high=(*first.high[:-1], 500.0),
            low=(*first.low[:-1], 1.0),
            close=(*first.close[:-1], 400.0),
        )
        assert walk_forward(first, _long, SETTINGS) == walk_forward(wild, _long, SETTINGS)


class TestOutcomes:
    def test_the_stop_costs_what_was_risked(self):
        assert walk_forward(_with_tail(100.5, 97.9, 99.0), _long, SETTINGS) == WalkForward(1, -1.0, 0.0)
        assert walk_forward(_with_tail(102.1, 99.5, 99.0), _short, SHORTING) == WalkForward(1, -1.0, 0.0)

    def test_the_target_earns_its_multiple(self):
        assert walk_forward(_with_tail(104.1, 99.5, 104.0), _long, SETTINGS) == WalkForward(1, 2.0, 1.0)
        assert walk_forward(_with_tail(100.5, 95.9, 96.0), _short, SHORTING) == WalkForward(1, 2.0, 1.0)

    def test_a_bar_that_touches_both_counts_as_stopped(self):
        both = _with_tail(104.1, 95.9, 100.0)
        assert walk_forward(both, _long, SETTINGS).mean_r == -1.0
        assert walk_forward(both, _short, SHORTING).mean_r == -1.0

    def test_touching_exactly_is_enough(self):
        assert conditions.true_range(make_view([100.0] * MIN_BARS, spread=0.005)) == pytest.approx(1.0)
        assert walk_forward(_with_tail(100.5, 98.0, 99.0), _long, SETTINGS).mean_r == -1.0
        assert walk_forward(_with_tail(104.0, 99.5, 99.0), _long, SETTINGS).mean_r == 2.0

    def test_the_end_of_the_horizon_takes_what_there_is(self):
        assert walk_forward(_with_tail(101.5, 99.5, 101.0, count=20), _long, SETTINGS) == WalkForward(1, 0.5, 1.0)
        assert walk_forward(_with_tail(101.5, 99.5, 101.0, count=20), _short, SHORTING) == WalkForward(1, -0.5, 0.0)

    @pytest.mark.parametrize(("low", "close", "result"), [(97.9, 100.0, -1.0), (99.5, 101.0, 0.5)])
    def test_the_last_bar_of_the_horizon_counts_and_the_next_one_does_not(self, low, close, result):
        still = _with_tail(100.5, 99.5, 100.0)
        at = MIN_BARS + SETTINGS.horizon_bars - 1
        for place, expected in ((at, result), (at + 1, 0.0)):
            columns = {"high": 101.5, "low": low, "close": close}
            changed = {
                name: (*getattr(still, name)[:place], value, *getattr(still, name)[place + 1 :])
                for name, value in columns.items()
            }
            assert walk_forward(replace(still, **changed), _long, SETTINGS).mean_r == expected

    def test_a_rule_that_follows_a_trend_wins_in_one(self):
        result = walk_forward(make_view(ramp(300)), _long, SETTINGS)
        assert (result.mean_r, result.hit_rate) == (2.0, 1.0)


class TestNoTrades:
    @pytest.mark.parametrize("stance", [0.0, 0.0799, -0.0799, -1.0, float("nan")])
    def test_without_a_view_or_the_right_to_it(self, stance):
        assert walk_forward(VIEW, lambda view: stance, SETTINGS) == WalkForward()

    def test_a_stance_that_is_no_number_trades_neither_way(self):
        assert walk_forward(VIEW, lambda view: float("nan"), SHORTING) == WalkForward()

    def test_the_smallest_view_counts(self):
        assert walk_forward(VIEW, lambda view: 0.08, SETTINGS).trades > 0

    @pytest.mark.parametrize("count", [1, 99, 100, 120])
    def test_a_short_history_has_none(self, count):
        assert walk_forward(make_view(walk(count)), _long, SETTINGS) == WalkForward()

    def test_a_market_without_range_has_no_risk_to_measure_by(self):
        assert walk_forward(make_view([100.0] * 200, spread=0.0), _long, SETTINGS) == WalkForward()


class TestMoments:
    @pytest.mark.parametrize(("count", "asked"), [(121, 1), (123, 3), (300, 16), (1000, 16)])
    def test_are_at_most_so_many_and_never_twice_the_same(self, count, asked):
        moments = [seen.as_of_ns for seen in _shown(make_view(walk(count)))]
        assert len(moments) == len(set(moments)) == asked
        assert moments == sorted(moments)

    def test_can_be_fewer(self):
        assert len(_shown(VIEW, points_max=3)) == 3


@settings(max_examples=40)
@given(views(), st.floats(-1.0, 1.0), st.booleans())
def test_every_history_gives_finite_results(view, stance, allow_short):
    result = walk_forward(view, lambda seen: stance, replace(SETTINGS, allow_short=allow_short), points_max=4)
    assert 0 <= result.trades <= 4
    assert -1.0 <= result.mean_r <= SETTINGS.reward_risk
    assert 0.0 <= result.hit_rate <= 1.0
