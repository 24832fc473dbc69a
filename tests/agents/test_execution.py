import itertools
import math
from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import conditions
from agents.domain import (
    Check,
    MarketView,
    Outcome,
    Portfolio,
    Position,
    Side,
    Synthesis,
    TradePlan,
    TradingAction,
    Verdict,
)
from agents.execution import OBSERVATION_NAMES, observe, want
from agents.features import FEATURE_NAMES, feature_vector
from agents.policy import HoldCashPolicy, Info, RulePolicy
from agents.policy.observation import PLAN_FEATURES
from agents.strategist import StrategySettings, hold_plan, make_plan
from tests.agents.research import make_view, views, walk

VIEW = make_view(walk(200))
SYNTHESIS = Synthesis(0.6, 0.5, 0.9, 1.0)
CASH = Portfolio("paper", Decimal(100_000))
BUYING = make_plan(VIEW, CASH, SYNTHESIS, StrategySettings())
SELLING = make_plan(VIEW, CASH, replace(SYNTHESIS, stance=-0.6), StrategySettings(allow_short=True))
HOLDING = hold_plan(VIEW, "no view")
APPROVED = Verdict(Outcome.APPROVE, ())
FAILED = (Check("stop", passed=False, value=0, limit=0),)
NOT_APPROVED = (None, Verdict(Outcome.REJECT, FAILED), Verdict(Outcome.REVISE, FAILED), Verdict(Outcome.REJECT, ()))


@dataclass(frozen=True)
class Wilful:
    """A policy that always wants the same, whatever the plan says."""

    action: TradingAction
    policy_id: str = "wilful"

    def predict(self, observation: np.ndarray, deterministic: bool = True) -> tuple[TradingAction, Info]:
        return self.action, {
            "policy_id": self.policy_id,
            "policy_type": "test",
            "action_reason": "it feels like it",
            "latency_us": 1.5,
            "is_fallback": False,
            "prediction_count": 1,
        }


def _seen(view: MarketView, plan: TradePlan) -> dict[str, float]:
    return dict(zip(OBSERVATION_NAMES, observe(view, plan).tolist(), strict=True))


def _moved(view: MarketView, atr: float) -> MarketView:
    """The same view, but its newest close is so many average true ranges further on."""
    price = view.close[-1] + atr * conditions.true_range(view)
    edges = {"high": max(view.high[-1], price), "low": min(view.low[-1], price), "close": price}
    return replace(view, **{name: (*getattr(view, name)[:-1], edge) for name, edge in edges.items()})


class TestObservation:
    def test_is_the_features_and_then_the_plan(self):
        assert (*FEATURE_NAMES, *PLAN_FEATURES) == OBSERVATION_NAMES
        assert len(set(OBSERVATION_NAMES)) == len(OBSERVATION_NAMES)
        vector = observe(VIEW, BUYING)
        assert (vector.shape, vector.dtype) == ((len(OBSERVATION_NAMES),), np.float64)
        assert vector[: len(FEATURE_NAMES)].tolist() == feature_vector(VIEW).tolist()

    @pytest.mark.parametrize(("plan", "direction"), [(BUYING, 1.0), (SELLING, -1.0), (HOLDING, 0.0)])
    def test_tells_the_direction(self, plan, direction):
        assert _seen(VIEW, plan)["direction"] == direction

    @pytest.mark.parametrize("plan", [BUYING, SELLING], ids=["long", "short"])
    def test_measures_the_room_in_average_true_ranges(self, plan):
        seen = _seen(VIEW, plan)
        assert seen["entry_drift"] == 0.0
        assert seen["stop_room"] == pytest.approx(2.0, abs=0.05)
        assert seen["target_room"] == pytest.approx(4.0, abs=0.05)

    def test_room_is_negative_beyond_the_bounds(self):
        assert _seen(_moved(VIEW, -2.5), BUYING)["stop_room"] < 0
        assert _seen(_moved(VIEW, 6.0), BUYING)["target_room"] < 0
        assert _seen(_moved(VIEW, 2.5), SELLING)["stop_room"] < 0
        assert _seen(_moved(VIEW, -6.0), SELLING)["target_room"] < 0

    def test_a_trimmed_long_has_the_room_of_a_long(self):
        many = Portfolio("paper", Decimal(10_000), (Position("TEST", Decimal(1_000), Decimal(100)),))
        trim = make_plan(VIEW, many, SYNTHESIS, StrategySettings())
        assert (trim.action, trim.target_weight > 0) == (TradingAction.SELL, True)
        seen = _seen(VIEW, trim)
        assert seen["direction"] == -1.0
        assert seen["stop_room"] > 0
        assert seen["target_room"] > 0
        assert want(trim, APPROVED, VIEW, RulePolicy()).side is Side.SELL

    def test_missing_bounds_are_far_away(self):
        seen = _seen(VIEW, replace(BUYING, stop=None, take_profit=None))
        assert (seen["stop_room"], seen["target_room"]) == (10.0, 10.0)

    @settings(max_examples=60)
    @given(
        views(),
        st.sampled_from([BUYING, SELLING]),
        st.decimals("1e-300", "1e300", allow_nan=False).filter(lambda price: price > 0),
        st.sampled_from([None, Decimal("1E-320"), Decimal(1), Decimal("1E+308"), Decimal("1E+400")]),
        st.sampled_from([None, Decimal("1E-320"), Decimal(1), Decimal("1E+308"), Decimal("1E+400")]),
    )
    def test_is_finite_and_bounded_for_every_plan(self, view, plan, entry, stop, target):
        vector = observe(view, replace(plan, entry=entry, stop=stop, take_profit=target))
        assert np.isfinite(vector).all()
        assert np.abs(vector).max() <= 10.0


class TestWant:
    def test_takes_an_approved_plan_that_the_policy_takes(self):
        wanted = want(BUYING, APPROVED, VIEW, RulePolicy())
        assert (wanted.side, wanted.quantity) == (Side.BUY, BUYING.quantity)
        assert wanted.answer.policy_id == "rule_plan"
        wanted = want(SELLING, APPROVED, VIEW, RulePolicy())
        assert (wanted.side, wanted.quantity) == (Side.SELL, SELLING.quantity)

    @pytest.mark.parametrize("verdict", NOT_APPROVED, ids=["none", "reject", "revise", "bare reject"])
    def test_never_trades_without_approval(self, verdict):
        for plan, action in itertools.product((BUYING, SELLING, HOLDING), TradingAction):
            wanted = want(plan, verdict, VIEW, Wilful(action))
            assert (wanted.side, wanted.quantity) == (None, 0)
            assert "not approved" in wanted.reason

    @pytest.mark.parametrize("action", list(TradingAction))
    def test_trades_only_what_plan_and_policy_both_want(self, action):
        for plan in (BUYING, SELLING, HOLDING):
            wanted = want(plan, APPROVED, VIEW, Wilful(action))
            if plan.action is action is not TradingAction.HOLD:
                assert (wanted.side, wanted.quantity) == (plan.side, plan.quantity)
            else:
                assert (wanted.side, wanted.quantity) == (None, 0)
            assert wanted.reason

    def test_says_who_did_not_want_it(self):
        assert "the plan holds" in want(HOLDING, APPROVED, VIEW, Wilful(TradingAction.BUY)).reason
        assert "wilful holds" in want(BUYING, APPROVED, VIEW, Wilful(TradingAction.HOLD)).reason
        assert (
            "wants to SELL against an approved BUY" in want(BUYING, APPROVED, VIEW, Wilful(TradingAction.SELL)).reason
        )

    def test_the_policy_of_last_resort_never_trades(self):
        wanted = want(BUYING, APPROVED, VIEW, HoldCashPolicy())
        assert (wanted.side, wanted.quantity, wanted.answer.is_fallback) == (None, 0, True)

    def test_a_price_that_ran_away_is_not_followed(self):
        assert want(BUYING, APPROVED, _moved(VIEW, 1.5), RulePolicy()).side is None
        assert want(BUYING, APPROVED, _moved(VIEW, 0.5), RulePolicy()).side is Side.BUY

    @settings(max_examples=30)
    @given(views(), st.sampled_from(list(TradingAction)), st.sampled_from([APPROVED, *NOT_APPROVED]))
    def test_never_more_than_the_approved_plan(self, view, action, verdict):
        for plan in (BUYING, SELLING, HOLDING):
            wanted = want(plan, verdict, view, Wilful(action))
            assert wanted.quantity in {Decimal(0), plan.quantity}
            assert (wanted.side is None) == (wanted.quantity == 0)
            if wanted.side is not None:
                assert verdict is APPROVED
                assert wanted.side is plan.side
                assert action is plan.action


def test_a_broken_feature_is_held(monkeypatch):
    monkeypatch.setattr("agents.execution.features.feature_vector", lambda view: np.array([math.nan]))
    wanted = want(BUYING, APPROVED, VIEW, RulePolicy())
    assert wanted.side is None
    assert "not finite" in wanted.reason


class TestBounds:
    """Whatever a policy wants, the plan is the last word."""

    def test_a_plan_for_another_market_is_not_traded(self):
        elsewhere = replace(VIEW, symbol="OTHER")
        wanted = want(BUYING, APPROVED, elsewhere, Wilful(TradingAction.BUY))
        assert (wanted.side, wanted.quantity) == (None, 0)
        assert wanted.reason == f"the plan is for {BUYING.symbol}, and the market is OTHER"

    @pytest.mark.parametrize(("plan", "action"), [(BUYING, TradingAction.BUY), (SELLING, TradingAction.SELL)])
    @pytest.mark.parametrize("bound", ["stop", "take_profit"])
    def test_a_price_at_or_beyond_stop_or_target_is_not_traded_at(self, plan, action, bound):
        price = float(getattr(plan, bound))
        for beyond, traded in ((price, False), (price * (0.9 if price < VIEW.close[-1] else 1.1), False), (None, True)):
            view = VIEW if beyond is None else replace(VIEW, close=(*VIEW.close[:-1], beyond))
            wanted = want(plan, APPROVED, view, Wilful(action))
            assert (wanted.side is not None) is traded
            if not traded:
                assert wanted.reason.endswith("and the price is beyond the plan's stop or take-profit")
