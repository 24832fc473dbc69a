import math
from dataclasses import fields, replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.domain import Outcome, Portfolio, Position, Synthesis, TradePlan, TradingAction, Verdict
from agents.errors import ConfigError
from agents.quality import GateSettings, review, unreviewed
from agents.strategist import StrategySettings, hold_plan, make_plan
from agents.walk_forward import WalkForward
from tests.agents.research import make_view, walk

VIEW = make_view(walk(200))
NOW_NS = VIEW.as_of_ns
GATE = GateSettings()
SYNTHESIS = Synthesis(0.6, 0.5, 0.9, 1.0)
HISTORY = WalkForward(trades=10, mean_r=0.2, hit_rate=0.5)
PLAN = TradePlan(
    symbol="TEST",
    action=TradingAction.BUY,
    target_weight=0.2,
    quantity=Decimal(10),
    entry=Decimal(100),
    stop=Decimal(95),
    take_profit=Decimal(110),
    horizon_bars=20,
    as_of_ns=NOW_NS,
)
SHORT = replace(PLAN, action=TradingAction.SELL, target_weight=-0.2, stop=Decimal(105), take_profit=Decimal(90))
CLOSING = replace(PLAN, action=TradingAction.SELL, target_weight=0.0, stop=None, take_profit=None)
ALL = ["coverage", "freshness", "agreement", "degradation", "walk_forward", "size", "stop", "reward_risk"]


def _review(plan=PLAN, synthesis=SYNTHESIS, settings=GATE, *, now_ns=NOW_NS, history=HISTORY, view=VIEW) -> Verdict:
    return review(plan, synthesis, view, settings, now_ns=now_ns, history=history)


def _failed(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.checks if not check.passed]


class TestSettings:
    @pytest.mark.parametrize("name", [each.name for each in fields(GateSettings)])
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None, "1", Decimal(1)], ids=repr)
    def test_that_no_plan_can_be_held_against_are_refused(self, name, bad):
        with pytest.raises(ConfigError, match=name):
            replace(GATE, **{name: bad})

    @pytest.mark.parametrize("name", [each.name for each in fields(GateSettings)])
    def test_only_the_mean_of_the_walk_forward_may_be_negative(self, name):
        if name == "mean_r_min":
            assert replace(GATE, mean_r_min=-1.0).mean_r_min == -1.0
        else:
            with pytest.raises(ConfigError, match=name):
                replace(GATE, **{name: -0.1})


class TestApproval:
    def test_a_sound_plan_passes_every_check(self):
        verdict = _review()
        assert verdict.outcome is Outcome.APPROVE
        assert [check.name for check in verdict.checks] == ALL
        assert all(check.passed and check.reason == "" for check in verdict.checks)
        assert verdict.revisions == ()

    def test_so_does_a_sound_short(self):
        assert _review(SHORT).outcome is Outcome.APPROVE

    def test_what_was_measured_stands_beside_its_limit(self):
        seen = {check.name: (check.value, check.limit) for check in _review().checks}
        assert seen["coverage"] == (1.0, 0.6)
        assert seen["freshness"] == (0.0, 3.0)
        assert seen["size"] == (0.2, 0.25)
        assert seen["reward_risk"] == (2.0, 1.5)


class TestChecks:
    """Each just passes at its limit, and fails alone just beyond it."""

    def _only(self, name: str, verdict: Verdict) -> None:
        assert _failed(verdict) == [name]
        (check,) = [each for each in verdict.checks if not each.passed]
        assert check.reason
        assert "\n" not in check.reason

    def test_coverage(self):
        assert _review(synthesis=replace(SYNTHESIS, coverage=0.6)).outcome is Outcome.APPROVE
        verdict = _review(synthesis=replace(SYNTHESIS, coverage=0.59, missing=("news", "trend")))
        self._only("coverage", verdict)
        assert "news, trend" in verdict.reasons[0]

    @pytest.mark.parametrize(("periods", "passes"), [(0, True), (3, True), (3.01, False), (-0.01, False)])
    def test_freshness(self, periods, passes):
        verdict = _review(now_ns=NOW_NS + int(periods * VIEW.period_ns))
        if passes:
            assert verdict.outcome is Outcome.APPROVE
        else:
            self._only("freshness", verdict)

    def test_agreement(self):
        small = replace(PLAN, target_weight=0.1)
        assert _review(small, replace(SYNTHESIS, agreement=0.52)).outcome is Outcome.APPROVE
        self._only("agreement", _review(small, replace(SYNTHESIS, agreement=0.51)))

    def test_degradation(self):
        small = replace(PLAN, target_weight=0.1)
        assert _review(replace(small, level=1)).outcome is Outcome.APPROVE
        self._only("degradation", _review(replace(small, level=2)))

    def test_walk_forward(self):
        assert _review(history=WalkForward(5, -0.35, 0.3)).outcome is Outcome.APPROVE
        self._only("walk_forward", _review(history=WalkForward(5, -0.36, 0.3)))
        self._only("walk_forward", _review(history=WalkForward(5, math.nan, 0.3)))

    def test_walk_forward_of_too_few_trades_says_nothing(self):
        assert _review(history=WalkForward(4, -1.0, 0.0)).outcome is Outcome.APPROVE

    @pytest.mark.parametrize(
        ("change", "synthesis", "limit"),
        [
            ({}, {}, 0.25),
            ({}, {"agreement": 0.65}, 0.25),
            ({}, {"agreement": 0.64}, 0.125),
            ({"level": 1}, {}, 0.125),
        ],
    )
    def test_size_is_halved_for_a_divided_or_degraded_swarm(self, change, synthesis, limit):
        for plan in (PLAN, SHORT):
            side = math.copysign(1.0, plan.target_weight)
            divided = replace(SYNTHESIS, **synthesis)
            assert _review(replace(plan, target_weight=side * limit, **change), divided).outcome is Outcome.APPROVE
            verdict = _review(replace(plan, target_weight=side * (limit + 0.001), **change), divided)
            self._only("size", verdict)
            assert ("halved" in verdict.reasons[0]) is (limit < 0.25)

    @pytest.mark.parametrize("plan", [PLAN, SHORT], ids=["long", "short"])
    def test_stop(self, plan):
        wrong = plan.entry + (plan.entry - plan.stop)
        self._only("stop", _review(replace(plan, stop=wrong)))
        assert _failed(_review(replace(plan, stop=plan.entry))) == ["stop", "reward_risk"]
        assert _failed(_review(replace(plan, stop=None))) == ["stop", "reward_risk"]

    def test_stop_of_a_trimmed_long_is_the_stop_of_a_long(self):
        trimmed = replace(PLAN, action=TradingAction.SELL)
        assert _review(trimmed).outcome is Outcome.APPROVE
        assert "stop" in _failed(_review(replace(trimmed, stop=Decimal(105))))

    @pytest.mark.parametrize(("reward", "passes"), [("7.5", True), ("7.49", False), ("0", False), ("-20", False)])
    def test_reward_risk(self, reward, passes):
        for plan, side in ((PLAN, 1), (SHORT, -1)):
            verdict = _review(replace(plan, take_profit=plan.entry + side * Decimal(reward)))
            if passes:
                assert verdict.outcome is Outcome.APPROVE
            else:
                self._only("reward_risk", verdict)

    def test_reward_risk_without_a_target(self):
        self._only("reward_risk", _review(replace(PLAN, take_profit=None)))


class TestWhoIsAskedWhat:
    def test_a_hold_is_asked_only_whether_it_may_be_trusted(self):
        verdict = _review(hold_plan(VIEW, "no view"), replace(SYNTHESIS, agreement=0.0), history=WalkForward(9, -1.0))
        assert verdict.outcome is Outcome.APPROVE
        assert [check.name for check in verdict.checks] == ["coverage", "freshness"]
        assert _review(hold_plan(VIEW, "no view"), now_ns=0).outcome is Outcome.REJECT

    def test_a_plan_that_only_closes_needs_neither_stop_nor_target(self):
        verdict = _review(CLOSING)
        assert verdict.outcome is Outcome.APPROVE
        assert [check.name for check in verdict.checks] == ["coverage", "freshness"]

    def test_a_plan_that_turns_a_position_around_needs_both(self):
        assert _failed(_review(replace(SHORT, stop=None, take_profit=None))) == ["stop", "reward_risk"]


class TestRouting:
    LARGE = replace(PLAN, target_weight=0.4)
    POOR = replace(PLAN, take_profit=Decimal(103))

    def test_a_plan_that_a_smaller_size_mends_comes_back_with_the_wish(self):
        verdict = _review(self.LARGE)
        assert verdict.outcome is Outcome.REVISE
        assert [(wish.field, wish.limit) for wish in verdict.revisions] == [("target_weight", 0.25)]
        assert verdict.revisions[0].reason

    def test_a_plan_that_a_better_reward_mends_comes_back_with_the_wish(self):
        verdict = _review(self.POOR)
        assert verdict.outcome is Outcome.REVISE
        assert [wish.field for wish in verdict.revisions] == ["reward_risk"]
        assert verdict.revisions[0].limit > GATE.reward_risk_min

    def test_all_wishes_come_at_once(self):
        verdict = _review(replace(self.LARGE, take_profit=Decimal(103)))
        assert verdict.outcome is Outcome.REVISE
        assert [wish.field for wish in verdict.revisions] == ["target_weight", "reward_risk"]

    def test_what_nothing_mends_is_rejected_even_beside_a_wish(self):
        verdict = _review(self.LARGE, replace(SYNTHESIS, coverage=0.1))
        assert (verdict.outcome, verdict.revisions) == (Outcome.REJECT, ())
        assert len(verdict.reasons) == 2

    @pytest.mark.parametrize(("revision", "outcome"), [(0, "revise"), (1, "revise"), (2, "reject"), (7, "reject")])
    def test_a_plan_comes_back_at_most_so_many_times(self, revision, outcome):
        assert _review(replace(self.LARGE, revision=revision)).outcome == outcome

    def test_no_revisions_means_none(self):
        assert _review(self.LARGE, settings=replace(GATE, revisions_max=0)).outcome is Outcome.REJECT

    def test_where_nothing_is_allowed_no_smaller_plan_is_asked_for(self):
        assert _review(settings=replace(GATE, weight_max=0.0)).outcome is Outcome.REJECT

    def test_a_gate_that_cannot_look_rejects(self):
        verdict = unreviewed("the gate is gone")
        assert (verdict.outcome, verdict.reasons) == (Outcome.REJECT, ("the gate is gone",))

    def test_same_input_same_verdict(self):
        assert repr(_review(self.LARGE)) == repr(_review(self.LARGE))


UNIT = st.floats(0.0, 1.0)
SYNTHESES = st.builds(Synthesis, st.floats(-1.0, 1.0), UNIT, UNIT, UNIT, st.sampled_from([0, 1, 2]))
HISTORIES = st.builds(WalkForward, st.integers(0, 16), st.floats(-1.0, 3.0), UNIT)


STRATEGIES = st.builds(
    StrategySettings,
    weight_max=st.floats(0.01, 1.0),
    reward_risk=st.floats(0.2, 5.0),
    allow_short=st.booleans(),
)


@given(SYNTHESES, HISTORIES, STRATEGIES, st.integers(-300, 300))
def test_planning_and_gate_always_come_to_an_end(synthesis, history, chosen, held):
    """Whatever the strategist's own settings are, what is approved is within the gate's limits."""
    positions = (Position("TEST", Decimal(held), VIEW.last_price),) if held else ()
    portfolio = Portfolio("paper", Decimal(100_000), positions)
    verdict, plan = None, None
    for revision in range(GATE.revisions_max + 1):
        plan = make_plan(VIEW, portfolio, synthesis, chosen, verdict=verdict, revision=revision)
        verdict = _review(plan, synthesis, history=history)
        if verdict.outcome is not Outcome.REVISE:
            break
    assert verdict.outcome is not Outcome.REVISE
    if verdict.outcome is Outcome.APPROVE:
        assert abs(plan.target_weight) <= GATE.weight_max * (1 + 1e-9)
        assert plan.target_weight == 0 or synthesis.level <= GATE.level_max
