import numpy as np

from agents.research import MeanReversion
from tests.agents.research import make_view, ramp


def _swinging(phase_of_last: float) -> np.ndarray:
    """A market without direction that stands at a given phase of its swing."""
    count = 160
    return 100.0 * np.exp(0.03 * np.sin(phase_of_last + 0.35 * (np.arange(count) - count + 1)))


def test_leans_against_the_extremes_of_a_market_without_direction():
    low, high = (
        MeanReversion()(make_view(_swinging(-np.pi / 2))),
        MeanReversion()(make_view(_swinging(np.pi / 2))),
    )
    assert low.stance > 0.4
    assert low.confidence > 0.3
    assert high.stance < -0.4
    assert high.confidence > 0.3


def test_stands_back_in_a_straight_march():
    finding = MeanReversion()(make_view(ramp()))
    assert finding.evidence["rsi"] == 100.0
    assert finding.stance < -0.5
    assert finding.confidence < 0.01


def test_a_middling_market_is_no_evidence():
    finding = MeanReversion()(make_view(np.tile([100.0, 101.0, 100.5, 100.5], 40)))
    assert abs(finding.stance) < 0.2
    assert finding.confidence < 0.2
