import pytest

from agents.errors import InvalidValue
from agents.research.scoring import abstain, check_periods, clip_unit, conviction, mean


def test_mean_and_clip():
    assert mean([0.1] * 10) == 0.1
    assert [clip_unit(value) for value in (-3.0, 0.5, 3.0)] == [-1.0, 0.5, 1.0]


def test_conviction_is_high_for_loud_agreement_and_nothing_for_silence_or_quarrel():
    assert conviction([1.0, 1.0, 1.0]) == pytest.approx(0.8)
    assert conviction([-1.0, -1.0]) == pytest.approx(0.8)
    assert conviction([1.0, -1.0]) == 0.0
    assert conviction([0.0, 0.0]) == 0.0
    assert conviction([0.05, 0.05]) < 0.2


def test_an_abstention_weighs_nothing_and_says_why():
    finding = abstain("volume", "There is none.")
    assert (finding.stance, finding.confidence, finding.rationale) == (0.0, 0.0, "There is none.")


@pytest.mark.parametrize("periods", [(), (20, 0)])
def test_periods_that_cannot_be_judged_with_are_refused(periods):
    with pytest.raises(InvalidValue, match=r"trend got periods .* each at least 1 bar"):
        check_periods("trend", periods)
