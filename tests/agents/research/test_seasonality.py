import numpy as np
import pytest

from agents.research import Seasonality
from tests.agents.research import DAY_NS, HOUR_NS, MONDAY_NS, make_view, ramp

MINUTE_NS = HOUR_NS // 60


def _closes(steps: np.ndarray, seed: int = 4) -> np.ndarray:
    return 100.0 * np.exp(np.cumsum(steps + np.random.default_rng(seed).normal(0, 0.001, len(steps))))


def _days(until_weekday: int, effect_weekday: int, effect: float, count: int = 140) -> tuple[np.ndarray, list[int]]:
    """Daily closes that end on one weekday (Monday 0), with an effect on another."""
    days = np.arange(count) + until_weekday - count + 1
    closes = _closes(np.where(days % 7 == effect_weekday, effect, 0.0))
    return closes, [MONDAY_NS + int(day) * DAY_NS for day in days]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_weekday_that_was_good_is_expected_to_be_good_again(sign):
    closes, times = _days(until_weekday=1, effect_weekday=2, effect=sign * 0.004)
    finding = Seasonality()(make_view(closes, times=times, period_ns=DAY_NS))
    assert "Wednesday" in finding.rationale
    assert finding.stance * sign > 0.9
    assert finding.confidence == 1.0


def test_only_the_season_of_the_next_bar_counts():
    closes, times = _days(until_weekday=2, effect_weekday=2, effect=0.004)
    finding = Seasonality()(make_view(closes, times=times, period_ns=DAY_NS))
    assert "Thursday" in finding.rationale
    assert finding.stance < 0.0


@pytest.mark.parametrize(("calendar", "season"), [("24/7", "Saturday"), ("XNYS", "Monday"), ("24/5", "Monday")])
def test_after_friday_comes_monday_where_weekends_rest(calendar, season):
    closes, times = _days(until_weekday=4, effect_weekday=0, effect=0.004)
    assert season in Seasonality()(make_view(closes, times=times, period_ns=DAY_NS, calendar=calendar)).rationale


def test_an_hour_that_was_good_is_expected_to_be_good_again():
    hours = np.arange(480) % 24
    finding = Seasonality()(make_view(_closes(np.where(hours == 0, 0.005, 0.0)), period_ns=HOUR_NS))
    assert "00 h UTC" in finding.rationale
    assert finding.stance > 0.9
    assert finding.evidence["samples"] == 19.0  # the first bar has no return


def test_many_bars_of_one_hour_are_one_sample():
    finding = Seasonality()(make_view(_closes(np.zeros(512)), period_ns=MINUTE_NS))
    assert finding.confidence == 0.0
    assert "at least 8 are needed" in finding.rationale


def test_a_sample_is_the_sum_of_the_bars_of_its_season():
    # Half-hour bars: midnight's first half does nothing, its second half gains half a per cent.
    halves = np.arange(24 * 48) % 48
    finding = Seasonality()(make_view(_closes(np.where(halves == 1, 0.005, 0.0)), period_ns=HOUR_NS // 2))
    assert "00 h UTC" in finding.rationale
    assert finding.evidence["excess_bp"] == pytest.approx(50.0, abs=8.0)


def test_a_trend_is_no_season():
    finding = Seasonality()(make_view(ramp(480), period_ns=HOUR_NS))
    assert abs(finding.stance) < 1e-6
    assert finding.confidence == 0.0


def test_noise_seldom_convinces():
    sure = [
        Seasonality()(make_view(_closes(np.zeros(480), seed), period_ns=HOUR_NS)).confidence > 0.5 for seed in range(60)
    ]
    assert np.mean(sure) < 0.12


def test_bars_of_a_week_have_no_season():
    finding = Seasonality()(make_view(_closes(np.zeros(150)), period_ns=7 * DAY_NS))
    assert finding.confidence == 0.0
    assert "no season" in finding.rationale
