import math

import numpy as np
import pytest
from hypothesis import given, settings

from agents.domain import MarketView
from agents.errors import InvalidValue
from agents.features import (
    FEATURE_NAMES,
    MIN_BARS,
    amihud_illiquidity,
    average_true_range,
    bars_per_year,
    bollinger_z,
    columns,
    donchian_channel,
    donchian_position,
    efficiency_ratio,
    ema,
    ewma_volatility,
    feature_vector,
    log_ratio,
    log_returns,
    on_balance_volume,
    parkinson_volatility,
    relative_traded_value,
    rsi,
    signed_flow,
    simple_returns,
    sma,
    standardised,
    trend_t,
    true_range,
)
from tests.agents.research import DAY_NS, HOUR_NS, REAL_FILES, make_view, ramp, real_view, rescaled, views, walk


def _array(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def _features(view: MarketView) -> dict[str, float]:
    return dict(zip(FEATURE_NAMES, feature_vector(view).tolist(), strict=True))


class TestColumns:
    def test_are_float_arrays_of_the_view_oldest_first(self):
        view = make_view(walk(120), volume=[float(i) for i in range(120)])
        data = columns(view)
        assert data.close.dtype == np.float64
        assert tuple(data.close) == view.close
        assert tuple(data.volume) == view.volume
        assert data.market.shape == (0,)

    def test_last_takes_the_newest_bars_and_leaves_absent_columns_absent(self):
        data = columns(make_view(walk(120)), last=100)
        assert data.high.shape == (100,)
        assert data.close[-1] == walk(120)[-1]
        assert data.volume.shape == (0,)

    def test_a_short_view_is_refused_with_fact_consequence_and_remedy(self):
        with pytest.raises(InvalidValue, match=r"TEST has 99 bars .* need 100; nothing was judged; load a longer"):
            columns(make_view(walk(MIN_BARS - 1)))


class TestReturns:
    def test_by_hand(self):
        assert simple_returns(_array(100, 110, 99)) == pytest.approx([0.1, -0.1])
        assert log_returns(_array(1, math.e, 1)) == pytest.approx([1.0, -1.0])

    def test_log_returns_survive_the_smallest_and_the_greatest_floats(self):
        assert np.isfinite(log_returns(_array(5e-324, 1.7e308, 5e-324))).all()


class TestAverages:
    def test_sma_by_hand(self):
        assert sma(_array(1, 2, 3, 6), 3).tolist() == pytest.approx([2.0, 11 / 3])

    def test_ema_by_hand(self):
        # Period 3 weighs the newest value by a half.
        assert ema(_array(2, 4, 8), 3).tolist() == [2.0, 3.0, 5.5]

    def test_bollinger_by_hand(self):
        # Of 1, 2, 3 the mean is 2 and the population deviation the root of 2/3.
        assert bollinger_z(_array(1, 2, 3), 3).tolist() == pytest.approx([1 / math.sqrt(2 / 3)])

    def test_bollinger_of_a_constant_is_exactly_zero(self):
        assert bollinger_z(np.full(50, 0.1), 20).tolist() == [0.0] * 31

    @pytest.mark.parametrize("indicator", [sma, rsi, bollinger_z])
    @pytest.mark.parametrize("period", [0, 4])
    def test_a_period_that_does_not_fit_is_refused(self, indicator, period):
        with pytest.raises(InvalidValue, match=rf"{indicator.__name__} of period {period} .* has 3; nothing was"):
            indicator(_array(1, 2, 3), period)


class TestDonchian:
    def test_channel_by_hand(self):
        upper, lower = donchian_channel(_array(3, 5, 4), _array(1, 2, 0), 2)
        assert upper.tolist() == [5.0, 5.0]
        assert lower.tolist() == [1.0, 0.0]

    def test_position(self):
        assert donchian_position(5, 5, 1) == 1.0
        assert donchian_position(1, 5, 1) == -1.0
        assert donchian_position(7, 5, 1) == 2.0
        assert donchian_position(5, 5, 5) == 0.0


class TestRange:
    def test_true_range_reaches_to_the_close_before(self):
        # Second bar gaps up from 10 to 12..13, third gaps down from 12 to 8..9.
        ranges = true_range(_array(11, 13, 9), _array(9, 12, 8), _array(10, 12, 8.5))
        assert ranges.tolist() == [2.0, 3.0, 4.0]

    def test_average_true_range_is_seeded_with_a_mean_and_smoothed_by_wilder(self):
        high, low = _array(2, 4, 6, 8), _array(0, 0, 0, 0)
        close = _array(1, 1, 1, 1)
        # Ranges 2, 4, 6, 8: the seed is 3, then (3 + 6) / 2 = 4.5 and (4.5 + 8) / 2 = 6.25.
        assert average_true_range(high, low, close, 2).tolist() == [3.0, 4.5, 6.25]

    def test_rsi_by_hand(self):
        # Changes +2, -1, +3 of period 2: gains 1, 2 and losses .5, .25, so 100 * 1 / 1.5 and 100 * 2 / 2.25.
        assert rsi(_array(10, 12, 11, 14), 2).tolist() == pytest.approx([200 / 3, 800 / 9])

    def test_rsi_at_its_ends_and_in_a_flat_market(self):
        assert rsi(np.arange(1.0, 20.0))[-1] == 100.0
        assert rsi(np.arange(20.0, 1.0, -1.0))[-1] == 0.0
        assert rsi(np.full(20, 0.3))[-1] == 50.0

    def test_ewma_volatility_by_hand(self):
        # Weights .5 and 1 for returns 2 and 1: sqrt((.5 * 4 + 1) / 1.5).
        assert ewma_volatility(_array(2, 1), 0.5) == pytest.approx(math.sqrt(2.0))

    def test_ewma_volatility_weighs_the_newest_most(self):
        calm_then_rough = np.concatenate((np.full(50, 0.001), np.full(10, 0.02)))
        assert ewma_volatility(calm_then_rough) > 2 * ewma_volatility(calm_then_rough[::-1])

    def test_parkinson_by_hand(self):
        assert parkinson_volatility(_array(math.e), _array(1)) == pytest.approx(1 / math.sqrt(4 * math.log(2)))

    def test_parkinson_finds_the_volatility_of_a_finely_watched_random_walk(self):
        paths = np.cumsum(np.random.default_rng(3).normal(0, 0.01 / math.sqrt(2000), (400, 2000)), axis=1)
        found = parkinson_volatility(np.exp(paths.max(axis=1)), np.exp(paths.min(axis=1)))
        assert found == pytest.approx(0.01, rel=0.07)


class TestTrendMeasures:
    def test_efficiency_by_hand(self):
        assert efficiency_ratio(_array(0, 3, 2)) == 0.5
        assert efficiency_ratio(_array(1, 2, 3)) == 1.0
        assert efficiency_ratio(np.full(9, 0.7)) == 0.0

    def test_trend_t_is_the_t_of_least_squares(self):
        # Line through (0,0) (1,2) (2,1) (3,3): slope .8, squares 5, residual squares 1.8 of 2 degrees.
        assert trend_t(_array(0, 2, 1, 3)) == pytest.approx(0.8 / math.sqrt(1.8 / 2 / 5))

    def test_trend_t_of_a_flat_market_is_zero(self):
        assert trend_t(np.full(60, math.log(0.1))) == 0.0


class TestVolumeMeasures:
    def test_on_balance_volume_by_hand(self):
        assert on_balance_volume(_array(1, 2, 2, 1), _array(9, 5, 4, 3)).tolist() == [0.0, 5.0, 5.0, 2.0]

    def test_signed_flow_by_hand(self):
        # +5, +0, -3 over the root of 25 + 16 + 9.
        assert signed_flow(_array(1, 2, 2, 1), _array(9, 5, 4, 3)) == pytest.approx(2 / math.sqrt(50))

    def test_signed_flow_of_nothing_traded_is_zero(self):
        assert signed_flow(_array(1, 2, 3), np.zeros(3)) == 0.0

    def test_relative_traded_value(self):
        shares = relative_traded_value(_array(10, 20, 10, 10), _array(4, 4, 0, 1e-300))
        assert shares[:3].tolist() == pytest.approx([0.5, 1.0, 0.0])
        # Dust counts as a million-millionth, or one such trade would make the whole window illiquid.
        assert shares[3] == pytest.approx(1e-12, rel=1e-9, abs=0.0)

    def test_amihud_leaves_out_bars_without_trade(self):
        assert amihud_illiquidity(_array(0.1, -0.2, 0.5), _array(1, 4, 0)) == pytest.approx((0.1 + 0.05) / 2)
        assert amihud_illiquidity(_array(0.1), _array(0)) == 0.0


class TestUnits:
    def test_standardised_never_divides_by_nothing(self):
        assert standardised(3.0, 2.0) == 1.5
        assert standardised(0.0, 0.0) == 0.0
        assert abs(standardised(1e-16, 0.0)) < 1e-9

    def test_log_ratio(self):
        assert log_ratio(math.e, 1.0) == pytest.approx(1.0, abs=1e-5)
        assert log_ratio(0.0, 0.0) == 0.0
        assert math.isfinite(log_ratio(1e3, 0.0))

    @pytest.mark.parametrize(
        ("period_ns", "calendar", "bars"),
        [
            (DAY_NS, "24/7", 365),
            (DAY_NS, "XNYS", 252),
            (DAY_NS, "24/5", 252),
            (7 * DAY_NS, "24/7", 365 / 7),
            (7 * DAY_NS, "XNYS", 252 / 5),
            (HOUR_NS, "24/7", 365 * 24),
            (HOUR_NS, "24/5", 252 * 24),
            (HOUR_NS, "XNYS", 252 * 6.5),
            (HOUR_NS // 60, "XNYS", 252 * 390),
            (12 * HOUR_NS, "XNYS", 252),
        ],
    )
    def test_bars_per_year(self, period_ns, calendar, bars):
        assert bars_per_year(period_ns, calendar) == pytest.approx(bars)


class TestFeatureVector:
    def test_has_a_name_for_each_entry(self):
        vector = feature_vector(make_view(walk()))
        assert vector.shape == (len(FEATURE_NAMES),) == (19,)
        assert vector.dtype == np.float64
        assert len(set(FEATURE_NAMES)) == len(FEATURE_NAMES)

    @settings(max_examples=60, deadline=None)
    @given(views())
    def test_is_finite_and_bounded_whatever_the_market(self, view):
        vector = feature_vector(view)
        assert np.isfinite(vector).all()
        assert (np.abs(vector) <= 5.0).all()

    @settings(max_examples=30, deadline=None)
    @given(views())
    def test_does_not_know_the_unit_of_money(self, view):
        assert feature_vector(rescaled(view, 3.7)) == pytest.approx(feature_vector(view), abs=1e-6)

    def test_does_not_depend_on_how_long_a_window_the_caller_keeps(self):
        closes, volume = walk(400), np.random.default_rng(1).exponential(9.0, 400)
        long = make_view(closes, volume=volume)
        short = make_view(closes[-101:], volume=volume[-101:], times=long.close_ns[-101:])
        assert feature_vector(short).tolist() == feature_vector(long).tolist()

    def test_a_flat_market_is_zero_but_for_its_spread(self):
        features = _features(make_view(np.full(100, 0.1), spread=0.0, volume=np.zeros(100)))
        assert {name for name, value in features.items() if value} == set()

    def test_a_steady_rise_and_a_steady_fall_have_opposite_signs(self):
        up, down = _features(make_view(ramp())), _features(make_view(ramp(step=-0.002)))
        directed = ("return_20", "return_60", "rsi", "bollinger_z", "donchian_20", "average_gap", "trend_t", "body")
        assert all(up[name] > 0.3 and down[name] < -0.3 for name in directed)
        assert up["efficiency"] == pytest.approx(1.0)

    def test_the_newest_volume_against_its_mean(self):
        volume = np.full(100, 10.0)
        volume[-1] = 40.0
        assert _features(make_view(walk(100), volume=volume))["volume_ratio"] == pytest.approx(
            math.log(40 / 11.5), abs=1e-4
        )

    def test_the_annual_volatility_follows_the_calendar(self):
        closes = walk(100, volatility=0.001)
        ratio = (
            _features(make_view(closes, period_ns=DAY_NS))["volatility_annual"]
            / _features(make_view(closes, period_ns=DAY_NS, calendar="XNYS"))["volatility_annual"]
        )
        assert ratio == pytest.approx(math.sqrt(365 / 252))

    @pytest.mark.parametrize(("name", "period_ns", "calendar"), REAL_FILES)
    def test_real_prices_seldom_reach_the_limits(self, name, period_ns, calendar):
        vectors = np.array(
            [
                feature_vector(real_view(name, period_ns, calendar, first=first, count=100))
                for first in range(0, 2000, 200)
            ]
        )
        assert (np.abs(vectors) >= 5.0).mean() < 0.02
        assert (vectors.std(axis=0) > 0.0).all()
