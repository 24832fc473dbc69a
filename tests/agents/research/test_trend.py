import numpy as np
import pytest

from agents.errors import InvalidValue
from agents.research import Trend
from tests.agents.research import make_view, ramp, walk


def test_a_steady_march_is_a_full_stance_with_its_sign():
    up, down = Trend()(make_view(ramp())), Trend()(make_view(ramp(step=-0.002)))
    assert up.stance > 0.9
    assert up.confidence > 0.75
    assert down.stance == pytest.approx(-up.stance)
    assert down.confidence == pytest.approx(up.confidence)


def test_the_rationale_carries_the_numbers_of_the_evidence():
    finding = Trend()(make_view(walk(300)))
    assert f"{finding.evidence['momentum_21']:+.2f} over 21 bars" in finding.rationale
    assert f"{finding.evidence['cross']:+.2f}" in finding.rationale


def test_horizons_that_contradict_each_other_weaken_confidence():
    turned = make_view(np.concatenate((ramp(278, 0.002), ramp(278, 0.002)[-1] * ramp(22, -0.004)[1:] / 100.0)))
    finding = Trend()(turned)
    assert finding.evidence["momentum_21"] < 0 < finding.evidence["momentum_252"]
    assert finding.confidence < 0.5 < Trend()(make_view(ramp())).confidence


def test_a_move_is_measured_against_volatility():
    quiet = Trend()(make_view(walk(300, drift=0.0002, volatility=0.002)))
    rough = Trend()(make_view(walk(300, drift=0.005, volatility=0.05)))
    assert rough.evidence["volatility"] == pytest.approx(25 * quiet.evidence["volatility"])
    assert rough.stance == pytest.approx(quiet.stance)
    assert abs(quiet.stance) < 0.99


def test_a_lookback_longer_than_the_window_is_cut_to_it():
    view = make_view(walk(100))
    assert Trend(lookbacks=(252,))(view).evidence["momentum_252"] == pytest.approx(
        Trend(lookbacks=(99,))(view).evidence["momentum_99"]
    )


def test_random_walks_are_no_trend_on_average():
    stances = [Trend()(make_view(walk(300, seed=seed))).stance for seed in range(100)]
    assert abs(np.mean(stances)) < 0.15


def test_no_lookbacks_are_refused():
    with pytest.raises(InvalidValue, match="periods"):
        Trend(lookbacks=(0,))
