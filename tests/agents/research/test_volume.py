import numpy as np

from agents.research import Volume
from tests.agents.research import make_view, walk

CLOSES = walk(200)


def _leaning(side: int) -> np.ndarray:
    """Four times the volume on bars that move to one side."""
    rises = np.sign(np.diff(CLOSES, prepend=CLOSES[0])) * side > 0
    return np.where(rises, 400.0, 100.0)


def test_volume_on_rises_is_long_and_volume_on_falls_short():
    bought, sold = (
        Volume()(make_view(CLOSES, volume=_leaning(1))),
        Volume()(make_view(CLOSES, volume=_leaning(-1))),
    )
    assert bought.stance > 0.3
    assert sold.stance < -0.3
    assert min(bought.confidence, sold.confidence) > 0.2


def test_an_illiquid_market_is_trusted_less():
    volume = _leaning(1)
    dried = volume.copy()
    dried[-20:] /= 10.0
    liquid, thin = Volume()(make_view(CLOSES, volume=volume)), Volume()(make_view(CLOSES, volume=dried))
    assert abs(thin.stance - liquid.stance) < 1e-9
    assert thin.confidence < liquid.confidence / 1.5


def test_without_a_volume_column_it_abstains_and_says_so():
    finding = Volume()(make_view(CLOSES))
    assert (finding.stance, finding.confidence) == (0.0, 0.0)
    assert "no volume column" in finding.rationale


def test_with_nothing_traded_it_abstains_and_says_so():
    finding = Volume()(make_view(CLOSES, volume=np.zeros(200)))
    assert (finding.stance, finding.confidence) == (0.0, 0.0)
    assert "Nothing was traded in the last 200 bars" in finding.rationale


def test_the_greatest_and_the_smallest_volumes_are_judged():
    volume = np.where(np.arange(200) % 3 == 0, 1.7e308, 5e-324)
    assert -1.0 <= Volume()(make_view(CLOSES, volume=volume)).stance <= 1.0
