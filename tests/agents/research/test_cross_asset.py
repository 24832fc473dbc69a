import numpy as np
import pytest

from agents.errors import InvalidValue
from agents.research import CrossAsset
from tests.agents.research import make_view, walk

STEPS = np.random.default_rng(11).normal(0, 0.01, 300)
OWN = np.random.default_rng(12).normal(0, 0.004, 300)
MARKET = np.exp(np.cumsum(STEPS) - STEPS[0])


def _prices(steps: np.ndarray) -> np.ndarray:
    return 100.0 * np.exp(np.cumsum(steps))


def test_finds_beta():
    finding = CrossAsset()(make_view(_prices(1.5 * STEPS + OWN), market=MARKET))
    assert finding.evidence["beta"] == pytest.approx(1.5, abs=0.1)


def test_beating_the_market_is_long_and_lagging_it_short_whatever_the_market_does():
    recent = np.where(np.arange(300) >= 240, 0.003, 0.0)
    stronger = CrossAsset()(make_view(_prices(STEPS + OWN + recent), market=MARKET))
    weaker = CrossAsset()(make_view(_prices(STEPS + OWN - recent), market=MARKET))
    assert stronger.evidence["relative"] > 2.0
    assert weaker.evidence["relative"] < -2.0
    assert stronger.stance > 0.3
    assert weaker.stance < -0.3


@pytest.mark.parametrize("last", [0.02, -0.02])
def test_follows_a_market_that_leads(last):
    steps = STEPS.copy()
    steps[-1] = last
    market = np.exp(np.cumsum(steps) - steps[0])
    finding = CrossAsset()(make_view(_prices(np.concatenate(([0.0], 0.8 * steps[:-1])) + OWN), market=market))
    assert finding.evidence["lead_t"] > 10.0
    assert finding.evidence["push"] * last > 0.0
    follower_only = CrossAsset()(make_view(_prices(OWN), market=market))
    assert (finding.stance - follower_only.stance) * last > 0.0


def test_the_market_itself_is_neither_stronger_nor_weaker():
    finding = CrossAsset()(make_view(100.0 * MARKET, market=MARKET))
    assert abs(finding.evidence["relative"]) < 1e-3


def test_a_market_that_stands_still_has_no_beta():
    assert CrossAsset()(make_view(walk(200), market=np.ones(200))).evidence["beta"] == 0.0


@pytest.mark.parametrize(("market", "reason"), [((), "No other symbol"), ([0.0] * 300, "touches 0")])
def test_abstains_without_a_usable_market(market, reason):
    finding = CrossAsset()(make_view(walk(300), market=market))
    assert (finding.stance, finding.confidence) == (0.0, 0.0)
    assert reason in finding.rationale


def test_a_lookback_of_no_bars_is_refused():
    with pytest.raises(InvalidValue, match="cross_asset got periods"):
        CrossAsset(lookback=0)
