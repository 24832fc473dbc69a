import math
from dataclasses import fields, replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import conditions
from agents.domain import (
    MarketView,
    Outcome,
    Portfolio,
    Position,
    Revision,
    Synthesis,
    TradePlan,
    TradingAction,
    Verdict,
)
from agents.errors import ConfigError
from agents.strategist import StrategySettings, hold_plan, make_plan
from tests.agents.research import make_view, views, walk

# Volatility and Kelly are far above the cap unless a test makes them bind.
LOOSE = StrategySettings(target_volatility=50.0, kelly_share=10.0, weight_max=0.25)
VIEW = make_view(walk(200))
PRICE = VIEW.last_price
CASH = Decimal(100_000)
EMPTY = Portfolio("paper", CASH)
BULLISH = Synthesis(0.6, 0.5, 0.9, 1.0)
BEARISH = replace(BULLISH, stance=-0.6)


def _holding(weight: float) -> Portfolio:
    """An account of 100,000 with this share of it in the view's symbol, at the view's price."""
    quantity = Decimal(str(weight)) * CASH / PRICE
    return Portfolio("paper", CASH - quantity * PRICE, (Position("TEST", quantity, PRICE),))


def _wishing(**limits: float) -> Verdict:
    return Verdict(Outcome.REVISE, (), tuple(Revision(name, limit, "") for name, limit in limits.items()))


class TestSettings:
    @pytest.mark.parametrize("name", [each.name for each in fields(StrategySettings) if each.name != "allow_short"])
    @pytest.mark.parametrize("bad", [0, -1, math.nan, math.inf, None, "1", Decimal("NaN")], ids=repr)
    def test_that_no_plan_can_be_sized_by_are_refused(self, name, bad):
        with pytest.raises(ConfigError, match=name):
            replace(LOOSE, **{name: bad})


class TestHolds:
    def test_a_stance_that_is_no_view_leaves_everything_as_it_is(self):
        for portfolio in (EMPTY, _holding(0.2)):
            plan = make_plan(VIEW, portfolio, replace(BULLISH, stance=0.0799), LOOSE)
            assert (plan.action, plan.quantity) == (TradingAction.HOLD, 0)
            assert "no view" in plan.reasons[0]
        assert make_plan(VIEW, EMPTY, replace(BULLISH, stance=0.08), LOOSE).action is TradingAction.BUY

    def test_without_equity_there_is_nothing_to_risk(self):
        for cash in (Decimal(0), Decimal(-5)):
            plan = make_plan(VIEW, Portfolio("paper", cash), BULLISH, LOOSE)
            assert plan.action is TradingAction.HOLD
            assert "nothing to risk" in plan.reasons[0]

    def test_bearish_without_a_position_and_without_short_selling(self):
        plan = make_plan(VIEW, EMPTY, BEARISH, LOOSE)
        assert plan.action is TradingAction.HOLD
        assert "short selling is off" in plan.reasons[0]

    def test_close_to_the_target_is_at_the_target(self):
        near, far = _holding(0.246), _holding(0.244)
        assert make_plan(VIEW, near, BULLISH, LOOSE).action is TradingAction.HOLD
        assert "of the target" in make_plan(VIEW, near, BULLISH, LOOSE).reasons[-1]
        assert make_plan(VIEW, far, BULLISH, LOOSE).action is TradingAction.BUY

    def test_carry_level_revision_and_the_moment(self):
        plan = make_plan(VIEW, EMPTY, replace(BULLISH, stance=0.0, level=1), LOOSE, revision=2)
        assert (plan.level, plan.revision, plan.as_of_ns, plan.entry) == (1, 2, VIEW.as_of_ns, PRICE)
        plain = hold_plan(VIEW, "because")
        assert (plain.reasons, plain.target_weight, plain.stop, plain.take_profit) == (("because",), 0.0, None, None)


class TestSize:
    def test_the_cap_binds(self):
        plan = make_plan(VIEW, EMPTY, BULLISH, LOOSE)
        assert plan.target_weight == 0.25
        assert plan.quantity == (Decimal("0.25") * CASH / PRICE).quantize(Decimal("0.0001"), rounding="ROUND_DOWN")

    def test_volatility_binds(self):
        wild = make_view(walk(200, volatility=0.05))
        settings = replace(LOOSE, target_volatility=0.5)
        plan = make_plan(wild, EMPTY, BULLISH, settings)
        assert plan.target_weight == pytest.approx(0.5 / conditions.annual_volatility(wild))
        assert plan.target_weight < 0.25

    def test_kelly_binds(self):
        settings = replace(LOOSE, kelly_share=0.1, edge_max=0.4, reward_risk=2.0)
        plan = make_plan(VIEW, EMPTY, BULLISH, settings)
        edge = 0.4 * 0.6 * 0.5
        hit_rate = 1 / (1 + 2.0) + edge
        kelly = (hit_rate * 2.0 - (1 - hit_rate)) / 2.0
        assert plan.target_weight == pytest.approx(0.1 * kelly)

    @pytest.mark.parametrize(("level", "share"), [(0, 1.0), (1, 0.5), (2, 0.25)])
    def test_a_degraded_swarm_risks_less(self, level, share):
        plan = make_plan(VIEW, EMPTY, replace(BULLISH, level=level), LOOSE)
        assert plan.target_weight == 0.25 * share
        assert plan.level == level

    def test_a_market_that_stands_still_is_sized_by_the_other_two(self):
        still = make_view([100.0] * 120, spread=0.001)
        assert make_plan(still, EMPTY, BULLISH, LOOSE).target_weight == 0.25

    def test_quantities_round_towards_zero(self):
        settings = replace(LOOSE, quantity_step=Decimal(1))
        exact = Decimal("0.25") * CASH / PRICE
        assert make_plan(VIEW, EMPTY, BULLISH, settings).quantity == exact // 1
        short = make_plan(VIEW, EMPTY, BEARISH, replace(settings, allow_short=True))
        assert (short.action, short.quantity) == (TradingAction.SELL, exact // 1)

    def test_reasons_name_all_three_bounds(self):
        reasons = " ".join(make_plan(VIEW, EMPTY, BULLISH, LOOSE).reasons)
        assert all(word in reasons for word in ("volatility", "Kelly", "cap"))


class TestDirection:
    def test_bearish_closes_a_long_when_short_selling_is_off(self):
        held = _holding(0.2)
        plan = make_plan(VIEW, held, BEARISH, LOOSE)
        assert (plan.action, plan.quantity) == (TradingAction.SELL, held.position("TEST").quantity)
        assert (plan.target_weight, plan.stop, plan.take_profit) == (0.0, None, None)

    def test_bearish_turns_a_long_into_a_short_when_it_is_on(self):
        plan = make_plan(VIEW, _holding(0.2), BEARISH, replace(LOOSE, allow_short=True))
        assert plan.target_weight == -0.25
        assert float(plan.quantity * PRICE / CASH) == pytest.approx(0.45, abs=1e-4)
        assert plan.take_profit < plan.entry < plan.stop

    def test_bullish_turns_a_short_into_a_long(self):
        plan = make_plan(VIEW, _holding(-0.1), BULLISH, LOOSE)
        assert (plan.action, plan.target_weight) == (TradingAction.BUY, 0.25)
        assert float(plan.quantity * PRICE / CASH) == pytest.approx(0.35, abs=1e-4)

    def test_trimming_a_long_keeps_the_bounds_of_a_long(self):
        plan = make_plan(VIEW, _holding(0.4), BULLISH, LOOSE)
        assert (plan.action, plan.target_weight) == (TradingAction.SELL, 0.25)
        assert plan.stop < plan.entry < plan.take_profit

    def test_a_target_below_one_step_is_no_position(self):
        coarse = replace(LOOSE, quantity_step=Decimal(1_000_000))
        plan = make_plan(VIEW, _holding(0.2), BULLISH, coarse)
        assert (plan.action, plan.target_weight, plan.stop) == (TradingAction.SELL, 0.0, None)
        assert plan.quantity == _holding(0.2).position("TEST").quantity


class TestBounds:
    def test_stand_where_the_average_true_range_puts_them(self):
        plan = make_plan(VIEW, EMPTY, BULLISH, replace(LOOSE, stop_atr=2.0, reward_risk=3.0))
        distance = 2.0 * conditions.true_range(VIEW)
        assert float(plan.entry - plan.stop) == pytest.approx(distance, abs=0.01)
        assert float(plan.take_profit - plan.entry) == pytest.approx(3 * distance, abs=0.01)
        assert plan.stop % VIEW.price_step == plan.take_profit % VIEW.price_step == 0

    def test_a_stop_at_or_below_zero_is_none(self):
        plan = make_plan(VIEW, EMPTY, BULLISH, replace(LOOSE, stop_atr=1e6))
        assert plan.stop is None
        assert plan.take_profit > plan.entry

    def test_a_market_without_any_range_has_no_bounds(self):
        plan = make_plan(make_view([100.0] * 120, spread=0.0), EMPTY, BULLISH, LOOSE)
        assert (plan.stop, plan.take_profit) == (None, None)


class TestRevisions:
    def test_a_smaller_weight_is_obeyed(self):
        plan = make_plan(VIEW, EMPTY, BULLISH, LOOSE, verdict=_wishing(target_weight=0.1), revision=1)
        assert (plan.target_weight, plan.revision) == (0.1, 1)

    def test_a_better_reward_is_obeyed(self):
        settings = replace(LOOSE, reward_risk=1.0)
        plan = make_plan(VIEW, EMPTY, BULLISH, settings, verdict=_wishing(reward_risk=2.5))
        ratio = (plan.take_profit - plan.entry) / (plan.entry - plan.stop)
        assert float(ratio) == pytest.approx(2.5, rel=0.01)

    def test_a_wish_can_never_widen_what_is_allowed(self):
        plan = make_plan(VIEW, EMPTY, BULLISH, LOOSE, verdict=_wishing(target_weight=0.9, reward_risk=0.1))
        assert plan == make_plan(VIEW, EMPTY, BULLISH, LOOSE)

    def test_a_verdict_without_wishes_and_unknown_fields_change_nothing(self):
        for verdict in (Verdict(Outcome.APPROVE, ()), _wishing(colour=1.0)):
            assert make_plan(VIEW, EMPTY, BULLISH, LOOSE, verdict=verdict) == make_plan(VIEW, EMPTY, BULLISH, LOOSE)


def test_same_input_same_plan():
    plans = {repr(make_plan(VIEW, _holding(0.1), BULLISH, StrategySettings())) for _ in range(3)}
    assert len(plans) == 1


def _check(plan: TradePlan, view: MarketView, portfolio: Portfolio, synthesis: Synthesis, chosen: StrategySettings):
    """What holds for every plan, whatever went in."""
    assert plan.symbol == view.symbol
    assert plan.entry == view.last_price
    assert plan.reasons
    held = portfolio.position(view.symbol).quantity
    if plan.action is TradingAction.HOLD:
        return
    side = 1 if plan.action is TradingAction.BUY else -1
    target = held + side * plan.quantity
    allowed = chosen.weight_max * {0: 1.0, 1: 0.5, 2: 0.25}[synthesis.level]
    assert abs(plan.target_weight) <= allowed
    assert target * Decimal(repr(plan.target_weight)) >= 0
    assert (target == 0) == (plan.target_weight == 0)
    equity = portfolio.equity({view.symbol: view.last_price})
    assert abs(target) * view.last_price <= Decimal(repr(allowed)) * equity * (1 + Decimal("1e-20"))
    if not chosen.allow_short:
        assert plan.target_weight >= 0
    direction = 1 if plan.target_weight > 0 else -1
    if plan.stop is not None:
        assert (plan.entry - plan.stop) * direction > 0
    if plan.take_profit is not None:
        assert (plan.take_profit - plan.entry) * direction > 0


UNIT = st.floats(0.0, 1.0)
SYNTHESES = st.builds(Synthesis, st.floats(-1.0, 1.0), UNIT, UNIT, UNIT, st.sampled_from([0, 1, 2]))
SETTINGS = st.builds(
    StrategySettings,
    target_volatility=st.floats(1e-6, 1e6),
    kelly_share=st.floats(1e-6, 10.0),
    weight_max=st.floats(1e-9, 10.0),
    stop_atr=st.floats(1e-6, 1e6),
    reward_risk=st.floats(1e-6, 1e6),
    quantity_step=st.sampled_from([Decimal(text) for text in ("1E-8", "0.0001", "1", "3", "1000000")]),
    allow_short=st.booleans(),
)
HELD = st.decimals("-1e6", "1e6", places=4)
EDGES = st.sampled_from([5e-324, 1e-300, 1e-12, 0.01, 123.45, 1e9, 1e300, 1.79e308])


@st.composite
def extreme_views(draw: st.DrawFn) -> MarketView:
    """Views of few bars at the very ends of floats."""
    closes = draw(st.lists(EDGES, min_size=1, max_size=5))
    step = draw(st.sampled_from([Decimal(text) for text in ("0.01", "1E-8", "1E-320", "1E+300")]))
    return replace(make_view(closes, spread=0.0), price_step=step)


def _portfolio(held: Decimal, cash: Decimal) -> Portfolio:
    return Portfolio("paper", cash, (Position("TEST", held, Decimal(100)),) if held else ())


@settings(max_examples=60)
@given(views(), SYNTHESES, SETTINGS, HELD)
def test_every_market_gives_a_plan_within_its_bounds(view, synthesis, chosen, held):
    portfolio = _portfolio(held, CASH)
    _check(make_plan(view, portfolio, synthesis, chosen), view, portfolio, synthesis, chosen)


@given(extreme_views(), SYNTHESES, SETTINGS, HELD, st.decimals("-1e9", "1e15", places=2))
def test_so_do_the_smallest_and_the_largest_prices(view, synthesis, chosen, held, cash):
    portfolio = _portfolio(held, cash)
    _check(make_plan(view, portfolio, synthesis, chosen), view, portfolio, synthesis, chosen)


@pytest.mark.parametrize("price", [1e-8, 0.5, 1e4, 1e7])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_price_levels_of_real_markets_are_bought_and_bounded(price, level):
    scaled = replace(make_view(walk(150) * price / 100.0), price_step=Decimal("1E-12"))
    plan = make_plan(scaled, EMPTY, replace(BULLISH, level=level), LOOSE)
    assert plan.action is TradingAction.BUY
    assert plan.stop < plan.entry < plan.take_profit
