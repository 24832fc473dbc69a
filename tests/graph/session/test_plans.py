"""What may be traded: the plan that was approved last, for the account it was made for, and nothing after the end."""

import asyncio
from dataclasses import replace
from decimal import Decimal

import pytest

from agents.domain import Check, Outcome, TradingAction, Verdict
from agents.strategist import hold_plan
from graph.session.slow_lane import Decided
from tests.graph.session.floor import APPROVED, PERIOD_NS, START_NS, SYMBOL, bar, buy, history, minute, plan_of, view_of

QUIET = [(second, "100") for second in range(1, 121)]
VIEW = view_of(history())
REJECTED = Verdict(Outcome.REJECT, (Check("coverage", passed=False, value=0.1, limit=0.5, reason="too few answered"),))


def decided(plan, verdict=APPROVED, held=0):
    return Decided(VIEW, plan, verdict, held, "plan-1")


@pytest.mark.parametrize(
    ("plan", "verdict", "words"),
    [
        (hold_plan(VIEW, "nothing to gain"), APPROVED, "hold: nothing to gain"),
        (plan_of(VIEW), REJECTED, "hold: too few answered"),
        (None, None, "hold"),
        (plan_of(VIEW), None, "hold"),
    ],
)
def test_what_was_not_approved_is_not_traded_nor_is_the_plan_before(home, plan, verdict, words):
    async def during(app, session):
        await minute(session, 2)
        await buy(app, session, quantity="1")
        await minute(session, 10)
        await session.take_plan(decided(plan, verdict))
        assert session.status().plan.startswith(words)

    result = home.sit(lines=[*QUIET[:58], (60.5, bar(1)), *QUIET[61:]], minutes=2, during=during)
    assert len(result.orders) == 1
    assert result.counts["held"] == 1 + result.counts["slow_decisions"], "its own decisions find nothing, too"
    assert home.seen.of("PlanApproved")[0]["plan"] == "buy 1 at 100.0, stop 95, target 110"


def test_a_plan_that_nobody_ordered_leaves_no_bracket(home):
    async def during(app, session):
        await minute(session, 2)
        await session.take_plan(decided(replace(plan_of(VIEW), horizon_bars=0, as_of_ns=START_NS - 3 * PERIOD_NS)))
        assert session.status().brackets == 1
        await session.take_plan(decided(None, None))
        assert session.status().brackets == 0

    result = home.sit(lines=QUIET, minutes=1, during=during)
    assert result.orders == ()


def test_decisions_are_counted_from_the_beginning_of_the_session_also_after_a_restart(home):
    numbers = []

    async def during(app, session):
        await asyncio.sleep(1)
        numbers.extend(session._plans.number(START_NS + minutes * PERIOD_NS) for minutes in (-5, 0, 1, 2, 90))

    first = home.sit(lines=QUIET[:20], minutes=1, during=during)
    assert numbers == [0, 1, 2, 3, 91]
    assert first.run.as_of_ns == START_NS


def test_nothing_is_approved_after_the_end_was_asked_for(home):
    async def during(app, session):
        await minute(session, 5)
        session.stop()
        await asyncio.sleep(0)
        await buy(app, session)

    assert home.sit(lines=QUIET, minutes=2, during=during).orders == ()


def test_a_trailing_stop_follows_by_the_average_true_range(home):
    home.settings = {"session": {"trail_atr": 2.0}}

    async def during(app, session):
        await minute(session, 2)
        await buy(app, session)
        await minute(session, 20)
        (bracket,) = session._brackets.all()
        assert bracket.trail == 4, "the quiet market's true range is 2"

    lines = [(s, "100" if s < 30 else "108" if s < 60 else "103.9") for s in range(1, 121)]
    result = home.sit(lines=lines, minutes=2, during=during)
    assert [order.intent.leg for order in result.orders] == ["entry", "stop"], "sprung at 104, where it had come to"
    assert not result.portfolio.positions


def test_the_symbol_is_that_of_the_session():
    assert plan_of(VIEW).symbol == SYMBOL
    assert plan_of(VIEW).action is TradingAction.BUY


def test_a_stop_does_not_outlive_the_position_that_another_plan_has_sold(home):
    """Bought with a stop at 95, sold by the next plan, bought again with a stop at 90: 94 touches nothing."""
    after = [view_of([*history(), *(bar(number) for number in range(1, count + 1))]) for count in range(3)]
    selling = replace(plan_of(after[1], stop=None, target=None), action=TradingAction.SELL, target_weight=0.0)

    async def during(app, session):
        await minute(session, 2)
        await buy(app, session, stop="95")
        await minute(session, 65)
        await session.take_plan(Decided(after[1], selling, APPROVED, Decimal(2), "plan-2"))
        await minute(session, 80)
        assert session.status().brackets == 1
        await session.take_plan(decided(None, None))
        assert session.status().brackets == 0
        await minute(session, 125)
        await session.take_plan(Decided(after[2], plan_of(after[2], stop="90"), APPROVED, Decimal(0), "plan-3"))

    prices = [(s, "100" if s < 150 else "94") for s in range(1, 200)]
    lines = sorted([*prices, (60.5, bar(1)), (120.5, bar(2))], key=lambda each: each[0])
    result = home.sit(lines=lines, minutes=3, during=during)
    told = [(order.intent.side, order.intent.leg, order.intent.decision) for order in result.orders]
    assert told == [("buy", "entry", 1), ("sell", "entry", 2), ("buy", "entry", 3)]
    assert result.portfolio.position(SYMBOL).quantity == 2
