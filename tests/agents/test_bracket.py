"""A bracket: whatever the price does, the position goes once, and never for less than the stop let it be seen."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agents.bracket import Bracket, Part
from agents.domain import Bar, Order, OrderIntent, OrderStatus, Quote, Side, TradePlan, TradingAction
from agents.errors import InvalidValue

S_NS = 1_000_000_000
BEGAN_NS = 1_000 * S_NS


def entry(side=Side.BUY, quantity="10", **more) -> OrderIntent:
    """An order that opens the position."""
    order = {"run_id": "run-1", "account": "paper", "symbol": "SIM", "side": side, "quantity": Decimal(quantity)}
    return OrderIntent.derive(**order | {"reference_price": Decimal(100), "reference_ns": BEGAN_NS} | more)


def news(intent, status="filled", filled=None) -> Order:
    return Order(intent, OrderStatus(status), intent.quantity if filled is None else Decimal(filled), Decimal(100))


def fresh(side=Side.BUY, stop="95", target="110", trail=None) -> Bracket:
    """A bracket of which nothing is opened yet."""
    prices = (None if price is None else Decimal(price) for price in (stop, target, trail))
    return Bracket("run-1", "paper", "SIM", side, *prices, since_ns=BEGAN_NS)


def opened(side=Side.BUY, stop="95", target="110", trail=None, *, filled="10") -> Bracket:
    """A bracket of a position that was opened at the decision; a short one is its mirror image."""
    order = news(entry(side), "filled" if filled == "10" else "open", filled)
    return fresh(side, stop, target, trail).heard(order, BEGAN_NS)


def short(stop="105", target="90", trail=None) -> Bracket:
    return opened(Side.SELL, stop, target, trail)


def quote(bid, ask=None, at_s=1.0, symbol="SIM") -> Quote:
    time_ns = BEGAN_NS + round(at_s * S_NS)
    return Quote(symbol, time_ns, Decimal(bid), Decimal(bid if ask is None else ask))


def bar(prices, at_s=60.0, symbol="SIM") -> Bar:
    return Bar(symbol, BEGAN_NS + round(at_s * S_NS), *map(Decimal, prices.split()))


def sprung(bracket, price) -> tuple[str, str] | None:
    """The leg that a price touches, and what there is for it."""
    after, intent = bracket.on_quote(price) if isinstance(price, Quote) else bracket.on_bar(price, BEGAN_NS)
    assert (intent is not None) is bool(after.sprung)
    return None if intent is None else (intent.leg, str(intent.reference_price))


class TestTouch:
    @pytest.mark.parametrize(
        ("price", "leg"),
        [
            (quote("95.01", "95.02"), None),
            (quote("95", "95.5"), ("stop", "95")),
            (quote("80", "99"), ("stop", "80")),
            (quote("109.99", "110.5"), None),
            (quote("110", "111"), ("target", "110")),
            (quote("120", "121"), ("target", "120")),
        ],
    )
    def test_a_long_position_is_seen_by_the_bid(self, price, leg):
        assert sprung(opened(), price) == leg

    @pytest.mark.parametrize(
        ("price", "leg"),
        [
            (quote("104", "105"), ("stop", "105")),
            (quote("104", "104.99"), None),
            (quote("100", "120"), ("stop", "120")),
            (quote("89", "90.01"), None),
            (quote("80", "90"), ("target", "90")),
        ],
    )
    def test_a_short_one_by_the_ask(self, price, leg):
        assert sprung(short(), price) == leg

    @pytest.mark.parametrize(
        ("prices", "leg"),
        [
            ("100 109 96 100", None),
            ("100 109 95 100", ("stop", "95")),
            ("100 110 96 100", ("target", "110")),
            ("100 111 94 100", ("stop", "95")),  # both: the stop
            ("93 96 92 95", ("stop", "93")),  # a gap: the open, and not the stop
            ("112 113 109 110", ("target", "112")),
            ("112 113 94 100", ("stop", "95")),
        ],
    )
    def test_of_a_bar_the_stop_comes_first_and_a_gap_is_seen_at_the_open(self, prices, leg):
        assert sprung(opened(), bar(prices)) == leg

    @pytest.mark.parametrize(
        ("prices", "leg"),
        [("100 104 91 100", None), ("100 106 89 100", ("stop", "105")), ("107 108 106 106", ("stop", "107"))],
    )
    def test_so_it_is_for_a_short_one(self, prices, leg):
        assert sprung(short(), bar(prices)) == leg

    def test_one_leg_alone(self):
        assert sprung(opened(stop=None), quote("1")) is None
        assert sprung(opened(target=None), quote("1000")) is None
        assert sprung(opened(stop=None), quote("110")) == ("target", "110")

    def test_prices_of_others_and_from_before_are_not_looked_at(self):
        for price in (quote("1", symbol="OTHER"), quote("1", at_s=-1)):
            assert sprung(opened(), price) is None
        assert sprung(opened(), bar("1 1 1 1", symbol="OTHER")) is None
        assert sprung(opened(), bar("1 1 1 1", at_s=-1)) is None

    def test_of_a_bar_in_which_the_position_was_opened_the_close_counts_alone(self):
        found = bar("100 120 80 100")
        later = fresh().heard(news(entry()), found.close_ns - 1)
        assert later.on_bar(found, BEGAN_NS)[1] is None
        assert later.on_bar(bar("100 120 80 94"), BEGAN_NS)[1].leg == "stop"
        assert later.on_bar(bar("100 120 80 100", at_s=120), found.close_ns)[1].leg == "stop"


class TestExit:
    def test_it_closes_what_there_is_at_the_market(self):
        _, intent = opened().on_quote(quote("94"))
        assert intent == OrderIntent.derive(
            run_id="run-1",
            account="paper",
            symbol="SIM",
            side=Side.SELL,
            quantity=Decimal(10),
            reference_price=Decimal(94),
            reference_ns=BEGAN_NS + S_NS,
            leg="stop",
        )
        assert short().on_quote(quote("106"))[1].side is Side.BUY

    def test_it_is_asked_for_until_there_is_news_of_it_and_is_always_the_same(self):
        saved, intent = opened().on_quote(quote("94"))
        assert (saved.exit, saved.on_quote(quote("120", at_s=1.9))) == (intent, (saved, None))
        again, same = saved.on_quote(quote("120", at_s=2))
        assert (same, again.on_quote(quote("94", at_s=2.9))[1]) == (intent, None)
        for status in ("pending", "sending", "unknown"):  # it may never have left
            told = again.heard(news(intent, status, "0"), 0)
            assert (told.on_quote(quote("94", at_s=2.9)), told.on_quote(quote("94", at_s=3))[1]) == (
                (told, None),
                intent,
            )
        there = told.heard(news(intent, "open", "0"), 0)
        assert (there.exit, there.on_quote(quote("94", at_s=99))) == (intent, (there, None))
        assert there.heard(news(intent, "sending", "0"), 0) == there

    def test_nothing_goes_before_anything_was_opened_or_after_all_was_closed(self):
        assert fresh().on_quote(quote("1")) == (fresh(), None)
        saved, intent = opened().on_quote(quote("94"))
        over = saved.heard(news(intent), 0)
        assert (over.held, over.closed, over.on_quote(quote("1", at_s=9))) == (0, True, (over, None))

    def test_what_was_never_opened_is_not_closed_either(self):
        assert not fresh().closed
        denied = fresh().heard(news(entry(), "denied", "0"), 0)
        assert (denied.closed, denied.held) == (False, 0)
        assert denied.heard(news(entry(leg="entry-2")), 0).held == 10

    def test_a_position_that_is_still_being_opened_is_covered_as_far_as_it_is(self):
        part = opened(filled="4")
        saved, intent = part.on_quote(quote("94"))
        assert (intent.quantity, saved.closed) == (4, False)
        more = saved.heard(news(entry(), "open", "7"), BEGAN_NS + 2 * S_NS).heard(news(intent), 0)
        assert (more.held, more.exit, more.closed) == (3, None, False)
        again, rest = more.on_quote(quote("100", at_s=3))  # it has sprung: whatever the price is now
        assert (rest.quantity, rest.leg, rest.reference_price) == (3, "stop-2", 100)
        assert again.heard(news(entry(), "cancelled", "7"), 0).heard(news(rest), 0).closed

    def test_a_position_of_several_orders_is_one(self):
        both = opened().heard(news(entry(quantity="5", leg="entry-2"), "open", "2"), BEGAN_NS)
        saved, intent = both.on_quote(quote("94"))
        assert (intent.quantity, saved.heard(news(intent), 0).closed) == (12, False)

    def test_an_exit_that_is_filled_in_parts_leaves_the_rest(self):
        saved, intent = opened().on_quote(quote("94"))
        part = saved.heard(news(intent, "open", "6"), 0)
        assert (part.held, part.exit, part.on_quote(quote("90", at_s=5))[1]) == (4, intent, None)
        cancelled = part.heard(news(intent, "cancelled", "6"), 0)
        after, rest = cancelled.on_quote(quote("90", at_s=6))
        assert (rest.quantity, rest.leg) == (4, "stop-2")
        late = after.heard(news(intent, "filled", "10"), 0)  # a late fill: there is nothing left for the other
        assert (late.held, late.exit, late.closed) == (0, rest, True)

    @pytest.mark.parametrize("status", ["denied", "rejected", "not_placed", "cancelled"])
    def test_one_that_comes_to_nothing_is_tried_again_after_longer_and_longer_pauses(self, status):
        bracket, at_s, pauses, legs = opened(), 1.0, [], []
        for _ in range(10):
            bracket, intent = bracket.on_quote(quote("94", at_s=at_s))
            bracket, tried_s = bracket.heard(news(intent, status, "0"), 0), at_s
            assert bracket.heard(news(intent, status, "0"), 0) == bracket
            while bracket.on_quote(quote("94", at_s=at_s))[1] is None:
                at_s += 0.5
            pauses.append(at_s - tried_s)
            legs.append(intent.leg)
        assert pauses == [1, 2, 4, 8, 16, 32, 64, 64, 64, 64]
        assert legs == ["stop", *(f"stop-{number}" for number in range(2, 11))]
        assert bracket.held == 10

    def test_those_that_were_refused_are_not_remembered(self):
        bracket, intent = opened().on_quote(quote("94"))
        refused = bracket.heard(news(intent, "denied", "0"), 0)
        assert [part.leg for part in refused.parts] == ["entry"]
        assert refused.heard(news(intent, "open", "0"), 0) == refused

    def test_the_pauses_begin_anew_once_one_was_filled(self):
        bracket, first = opened().on_quote(quote("94"))
        bracket, second = bracket.heard(news(first, "denied", "0"), 0).on_quote(quote("94", at_s=2))
        bracket = bracket.heard(news(second, "cancelled", "3"), 0)
        assert (bracket.vain, bracket.held) == (0, 7)
        assert bracket.on_quote(quote("94", at_s=2))[1].leg == "stop-3"

    def test_one_that_turns_up_after_all_counts(self):
        saved, intent = opened().on_quote(quote("94"))
        lost = saved.heard(news(intent, "not_placed", "0"), 0)
        assert (lost.exit, lost.held) == (None, 10)
        assert lost.heard(news(intent), 0).closed

    def test_old_news_and_those_of_others_change_nothing(self):
        saved, intent = opened().on_quote(quote("94"))
        over = saved.heard(news(intent), 0)
        others = [entry(decision=1), entry(run_id="run-2"), entry(account="other"), entry(symbol="OTHER")]
        for told in (news(intent, "open", "3"), news(entry(), "open", "2"), news(intent), *map(news, others)):
            assert over.heard(told, BEGAN_NS + 9 * S_NS) == over

    def test_what_somebody_else_has_closed_is_not_closed_again(self):
        smaller = opened().at_most(Decimal(4))
        saved, intent = smaller.on_quote(quote("94"))
        assert (smaller.held, intent.quantity, smaller.at_most(Decimal(4))) == (4, 4, smaller)
        assert (smaller.at_most(Decimal(3)).held, smaller.at_most(Decimal(9)).held) == (3, 4)
        assert opened().at_most(Decimal(0)).closed
        assert saved.heard(news(intent), 0).closed


class TestOfPlan:
    def plan(self, action=TradingAction.BUY, weight=0.1, **more):
        prices = {"stop": Decimal(95), "take_profit": Decimal(110)} if action is TradingAction.BUY else {}
        return TradePlan("SIM", action, weight, Decimal(10), Decimal(100), **prices | {"as_of_ns": BEGAN_NS} | more)

    def of(self, plan, **more):
        return Bracket.of(plan, run_id="run-1", account="paper", **more)

    def test_it_has_the_bounds_of_the_plan(self):
        assert self.of(self.plan()) == fresh()
        assert self.of(self.plan(), trail=Decimal(4), decision=3) == replace(fresh(), trail=Decimal(4), decision=3)
        down = self.plan(TradingAction.SELL, -0.1, stop=Decimal(105), take_profit=Decimal(90))
        assert self.of(down) == fresh(Side.SELL, "105", "90")
        assert self.of(self.plan(stop=None), trail=Decimal(4)) == fresh(stop=None)

    def test_a_plan_that_opens_nothing_has_none(self):
        assert self.of(self.plan(TradingAction.SELL, 0.1, stop=Decimal(95))) is None  # it trims a long position
        assert self.of(self.plan(TradingAction.SELL, 0.0, stop=Decimal(95))) is None
        assert self.of(self.plan(stop=None, take_profit=None)) is None
        nothing = TradePlan("SIM", TradingAction.HOLD, 0.1, Decimal(0), Decimal(100), Decimal(95), reasons=("no",))
        assert self.of(nothing) is None


class TestTrailing:
    def test_it_follows_the_best_price_and_never_goes_back(self):
        bracket, stops = opened(stop="95", target=None, trail="4"), []
        for number, bid in enumerate(("98", "101", "100", "103", "99.01", "110")):
            bracket, intent = bracket.on_quote(quote(bid, at_s=number + 1))
            assert intent is None
            stops.append(str(bracket.stop))
        assert stops == ["95", "97", "97", "99", "99", "106"]
        assert bracket.on_quote(quote("106", at_s=9))[1].leg == "stop"

    def test_so_it_does_downwards(self):
        bracket = short(stop="105", target=None, trail="4")
        for number, ask in enumerate(("99", "97", "100.9")):
            bracket, intent = bracket.on_quote(quote(ask, at_s=number + 1))
            assert intent is None
        assert bracket.stop == 101

    def test_in_a_bar_the_old_stop_is_looked_at_before_it_moves(self):
        bracket = opened(stop="95", target=None, trail="4")
        after, intent = bracket.on_bar(bar("100 108 96 107"), BEGAN_NS)
        assert (intent, after.stop) == (None, 104)
        assert sprung(bracket, bar("100 108 95 107")) == ("stop", "95")

    def test_a_close_below_it_came_after_the_best_price(self):
        assert sprung(opened(stop="95", target=None, trail="4"), bar("100 108 96 103")) == ("stop", "104")

    def test_it_never_falls_to_zero(self):
        bracket, _ = opened(stop="95", target=None, trail="1000").on_quote(quote("100"))
        assert (bracket.stop, bracket.best) == (95, 100)

    def test_where_nothing_is_better_it_stays_the_same_value(self):
        bracket, _ = opened(trail="4").on_quote(quote("101"))
        assert bracket.on_quote(quote("101", at_s=2))[0] is bracket


class TestConstructor:
    @pytest.mark.parametrize(
        "bad",
        [
            {"symbol": ""},
            {"side": "up"},
            {"run_id": ""},
            {"account": None},
            {"decision": -1},
            {"stop": None, "target": None},
            {"stop": Decimal(110)},
            {"stop": Decimal(111)},
            {"stop": 95},
            {"target": Decimal(0)},
            {"trail": Decimal(-1)},
            {"stop": None, "trail": Decimal(1)},
            {"best": Decimal("NaN")},
            {"sprung": "both"},
            {"exit": entry(Side.SELL)},
            {"parts": (None,)},
            {"tries": -1},
            {"vain": 1.5},
            {"since_ns": None},
            {"tried_ns": "1"},
        ],
        ids=str,
    )
    def test_refuses_what_makes_no_bracket(self, bad):
        with pytest.raises(InvalidValue):
            replace(opened(), **bad)

    def test_a_short_one_has_its_stop_above(self):
        with pytest.raises(InvalidValue, match="wrong sides of a sell position"):
            short(stop="89")

    @pytest.mark.parametrize("bad", [{"filled": Decimal(-1)}, {"side": "up"}, {"leg": ""}], ids=str)
    def test_a_part_is_checked_too(self, bad):
        with pytest.raises(InvalidValue):
            replace(Part("entry", Side.BUY, Decimal(1), over=False), **bad)


PRICES = st.integers(85, 115).map(Decimal)


class BracketMachine(RuleBasedStateMachine):
    """Prices and news in any order, the broker filling what it wants: what is closed is never more than was opened."""

    def __init__(self):
        super().__init__()
        self.now_s = 1
        self.bracket = fresh(trail="6")
        self.orders = {"entry": [entry(), Decimal(0), "open"]}
        self.stop = self.bracket.stop

    def price(self, found, *more):
        self.now_s += 1
        before = self.bracket
        self.bracket, intent = (before.on_quote if isinstance(found, Quote) else before.on_bar)(found, *more)
        if intent is not None and before.exit is None:
            assert intent.leg not in self.orders
            assert (self.bracket.exit, intent.quantity) == (intent, before.held)
            self.orders[intent.leg] = [intent, Decimal(0), "open"]
        elif intent is not None:
            assert intent == before.exit

    @rule(bid=PRICES, spread=st.integers(0, 2))
    def on_quote(self, bid, spread):
        self.price(quote(bid, bid + spread, self.now_s))

    @rule(prices=st.tuples(PRICES, PRICES, PRICES, PRICES))
    def on_bar(self, prices):
        found = f"{prices[0]} {max(prices)} {min(prices)} {prices[3]}"
        self.price(bar(found, self.now_s), BEGAN_NS + (self.now_s - 1) * S_NS)

    @rule(data=st.data(), part=st.integers(0, 10), end=st.sampled_from(["open", "cancelled", "denied", "rejected"]))
    def happens(self, data, part, end):
        """At the broker; whether it is heard of is another matter. A cancelled order may be filled late."""
        name = data.draw(st.sampled_from(sorted(self.orders)))
        intent, filled, status = self.orders[name]
        if status in {"filled", "denied", "rejected"} or (
            end in {"denied", "rejected"} and (filled or status != "open")
        ):
            return
        more = Decimal(0) if end in {"denied", "rejected"} else min(Decimal(part), intent.quantity - filled)
        others = self.closed() if name != "entry" else Decimal(0)
        if name != "entry":
            more = min(more, self.orders["entry"][1] - others)  # the desk lets only what closes go
        filled += more
        ended = "filled" if filled == intent.quantity else "cancelled" if status == "cancelled" else end
        self.orders[name] = [intent, filled, ended]

    @rule(data=st.data())
    def hears(self, data):
        name = data.draw(st.sampled_from(sorted(self.orders)))
        intent, filled, status = self.orders[name]
        self.bracket = self.bracket.heard(news(intent, status, filled), BEGAN_NS + self.now_s * S_NS)

    def closed(self):
        return sum((filled for name, (_, filled, _) in self.orders.items() if name != "entry"), Decimal(0))

    @invariant()
    def the_stop_never_goes_back(self):
        assert self.bracket.stop >= self.stop
        self.stop = self.bracket.stop

    @invariant()
    def it_never_thinks_that_there_is_less_than_nothing_or_more_than_was_opened(self):
        assert 0 <= self.bracket.held <= 10


TestBracketMachine = BracketMachine.TestCase
TestBracketMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(
    st.lists(PRICES, min_size=1, max_size=30), st.sampled_from(list(Side)), st.none() | st.integers(1, 9).map(Decimal)
)
def test_the_first_price_at_a_leg_springs_it_and_no_other(prices, side, trail):
    bracket = opened(side, *(("95", "110") if side is Side.BUY else ("110", "95")), trail)
    for number, price in enumerate(prices):
        before = bracket
        bracket, intent = bracket.on_quote(quote(price, at_s=number + 1))
        at_stop = (price - before.stop) * side.sign <= 0
        at_target = (price - before.target) * side.sign >= 0
        assert (intent is not None) is (at_stop or at_target)
        if intent is not None:
            assert intent.leg == ("stop" if at_stop else "target")
            return
