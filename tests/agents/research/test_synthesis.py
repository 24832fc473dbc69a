import random
from dataclasses import astuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.domain import Finding, Outage, Synthesis
from agents.errors import CriticalDegradation, InvalidValue
from agents.research.synthesis import synthesise

unit = st.floats(0.0, 1.0)
reports = st.lists(
    st.one_of(
        st.builds(Finding, st.text("abc", min_size=1), st.floats(-1.0, 1.0), unit, st.just("")),
        st.builds(Outage, st.text("abc", min_size=1), st.just(value=False), st.just("gone")),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda report: report.analyst,
)


def _finding(name: str, stance: float = 0.5, confidence: float = 0.5) -> Finding:
    return Finding(name, stance, confidence, "")


def _outage(name: str, *, required: bool = False, error: str = "no answer in 2 s") -> Outage:
    return Outage(name, required, error)


def test_stance_is_weighted_by_confidence():
    result = synthesise([_finding("a", 1.0, 0.6), _finding("b", -0.5, 0.2), _finding("c", 0.0, 0.2)], ["a", "b"])
    assert result.stance == pytest.approx((0.6 - 0.1) / 1.0)
    assert result.agreement == pytest.approx(0.6)
    assert result.confidence == pytest.approx(1.0 / 3)
    assert (result.coverage, result.level, result.missing) == (1.0, 0, ())


def test_those_that_abstain_do_not_move_the_stance():
    voices = [_finding("a", 0.8, 0.5), _finding("b", 0.2, 0.5)]
    assert synthesise([*voices, _finding("c", 0.0, 0.0)], []).stance == synthesise(voices, []).stance


def test_the_faintest_confidence_does_not_distort_the_stance():
    assert synthesise([_finding("a", 0.75, 5e-324)], []).stance == 0.75


def test_nobody_confident_is_no_stance_and_no_agreement():
    result = synthesise([_finding("a", 1.0, 0.0)], ["a"])
    assert (result.stance, result.confidence, result.agreement, result.coverage) == (0.0, 0.0, 0.0, 1.0)


def test_missing_members_are_named_in_order_and_cost_coverage_and_confidence():
    result = synthesise([_outage("z"), _finding("b", 0.5, 0.9), _outage("a")], [])
    assert result.missing == ("a", "z")
    assert result.coverage == pytest.approx(1 / 3)
    assert result.confidence == pytest.approx(0.3)
    assert result.stance == 0.5


def test_a_required_member_that_never_reported_counts_as_failed():
    result = synthesise([_finding("a"), _finding("b"), _finding("c")], ["a", "b", "c", "d"])
    assert result.missing == ("d",)
    assert result.level == 1


@pytest.mark.parametrize(
    ("answered", "asked", "level"),
    [(10, 10, 0), (8, 10, 0), (7, 10, 1), (5, 10, 1), (4, 10, 2), (0, 3, 2), (4, 5, 0), (1, 2, 1)],
)
def test_degradation_levels(answered, asked, level):
    members = [_finding(f"m{number}") for number in range(answered)]
    members += [_outage(f"m{number}") for number in range(answered, asked)]
    assert synthesise(members, []).level == level


def test_three_in_ten_required_may_fail_but_not_more():
    names = [f"m{index}" for index in range(10)]
    three = [_outage(name, required=True) for name in names[:3]] + [_finding(name) for name in names[3:]]
    assert synthesise(three, names).missing == ("m0", "m1", "m2")
    with pytest.raises(CriticalDegradation, match=r"4 of 10 required analysts failed \(limit 30 %\)"):
        synthesise([*three[:3], _outage("m3"), *three[4:]], names)


def test_critical_degradation_names_members_causes_consequence_and_remedy_in_one_line():
    findings = [_outage("volatility", required=True, error="bad\nanswer"), _finding("trend")]
    with pytest.raises(CriticalDegradation) as caught:
        synthesise(findings, ["trend", "volatility", "breakout"])
    message = str(caught.value)
    assert "breakout: no report; volatility: bad answer" in message
    assert "no plan was made" in message
    assert "resume the run" in message
    assert "\n" not in message


def test_an_outage_that_says_it_was_required_is_believed():
    with pytest.raises(CriticalDegradation, match="1 of 1"):
        synthesise([_outage("a", required=True), _finding("b")], [])


def test_optional_members_may_all_fail():
    result = synthesise([_finding("a"), *(_outage(name) for name in "bcd")], ["a"])
    assert (result.level, result.missing) == (2, ("b", "c", "d"))


def test_a_member_that_reports_twice_is_refused():
    with pytest.raises(InvalidValue, match="a reported more than once"):
        synthesise([_finding("a"), _outage("a")], [])


def test_asking_nobody_is_refused():
    with pytest.raises(InvalidValue, match="no analyst was asked"):
        synthesise([], [])


@settings(max_examples=200, deadline=None)
@given(reports, st.randoms(use_true_random=False))
def test_any_order_gives_the_identical_result(findings, shuffler: random.Random):
    shuffled = list(findings)
    shuffler.shuffle(shuffled)
    assert astuple(synthesise(shuffled, [])) == astuple(synthesise(findings, []))


@settings(max_examples=200, deadline=None)
@given(reports)
def test_stance_lies_among_the_stances_and_shares_are_shares(findings):
    result = synthesise(findings, [])
    assert isinstance(result, Synthesis)
    stances = [each.stance for each in findings if isinstance(each, Finding)] or [0.0]
    assert min(*stances, 0.0) - 1e-9 <= result.stance <= max(*stances, 0.0) + 1e-9
    assert 0.0 <= result.agreement <= 1.0
