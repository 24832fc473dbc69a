import numpy as np
import pytest

from agents.research import Volatility
from tests.agents.research import DAY_NS, make_view, walk


def _regimes(before: float, after: float) -> np.ndarray:
    rng = np.random.default_rng(5)
    steps = np.concatenate((rng.normal(0, before, 200), rng.normal(0, after, 40)))
    return 100.0 * np.exp(np.cumsum(steps))


def test_a_rough_market_lowers_the_stance_and_a_calm_one_raises_it():
    rough = Volatility()(make_view(_regimes(0.005, 0.03)))
    calm = Volatility()(make_view(_regimes(0.03, 0.005)))
    assert rough.stance < -0.3
    assert calm.stance > 0.3


def test_the_direction_of_the_rough_moves_does_not_matter():
    closes = _regimes(0.005, 0.03)
    upside_down = make_view(1e4 / closes)
    assert Volatility()(upside_down).stance == pytest.approx(Volatility()(make_view(closes)).stance, abs=1e-4)


def test_it_damps_and_does_not_lead():
    extreme = np.append(np.full(200, 100.0), 100.0 * np.exp(np.cumsum(np.tile([0.2, -0.2], 10))))
    finding = Volatility()(make_view(extreme))
    assert finding.stance < -0.7
    assert finding.confidence <= 0.5


def test_a_market_as_rough_as_ever_has_little_to_say():
    assert abs(Volatility()(make_view(100.0 * np.exp(0.01 * (np.arange(200) % 2)))).stance) < 0.01


def test_volatility_is_told_per_year():
    finding = Volatility()(make_view(walk(500, volatility=0.01), period_ns=DAY_NS, calendar="XNYS"))
    assert finding.evidence["annual"] == pytest.approx(0.01 * np.sqrt(252), rel=0.3)
    assert f"{finding.evidence['annual']:.1%} a year" in finding.rationale
