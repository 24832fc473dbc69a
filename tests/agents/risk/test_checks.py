"""The fifteen checks: each alone at its edge, all together against an oracle, and the way out that stays open."""

import math
from dataclasses import fields, replace
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.domain import Side, TradingState
from agents.risk import Holding, OwnOrder, Proposal, RiskLimits, pre_trade_checks, trading_check

NAMES = [
    "parameters",
    "position_size",
    "order_size",
    "daily_loss",
    "concentration",
    "market_hours",
    "price_collar",
    "duplicate_intent",
    "order_rate",
    "trading_state",
    "open_exposure",
    "drawdown",
    "reject_streak",
    "self_trade",
    "restricted",
]
EXPOSURE = ["position_size", "order_size", "daily_loss", "concentration", "order_rate", "open_exposure", "drawdown"]
LET_OUT = ["duplicate_intent", "reject_streak", *EXPOSURE]
"""What lets an order pass that only reduces; the rest holds it as any other."""

S_NS = 10**9
NOW_NS = 1_700_000_000 * S_NS
LIMITS = RiskLimits(
    position_notional_max=20_000.0,
    order_notional_max=10_000.0,
    daily_loss_share_max=0.03,
    concentration_share_max=0.3,
    price_collar_share_max=0.05,
    reference_age_max_s=60.0,
    duplicate_window_s=5.0,
    rate_window_s=60.0,
    rate_count_max=10,
    rate_notional_max=15_000.0,
    gross_share_max=0.5,
    drawdown_share_max=0.1,
    reject_streak_max=3,
    restricted=("GME",),
)
GOOD = Proposal(
    symbol="AAA",
    side=Side.BUY,
    quantity=10.0,
    price=100.0,
    held=0.0,
    equity=100_000.0,
    day_profit=0.0,
    calendar="24/7",
    time_ns=NOW_NS,
    period_ns=3_600 * S_NS,
)
REFERRED = replace(GOOD, reference_price=100.0, reference_ns=NOW_NS)
EXIT = replace(GOOD, side=Side.SELL, held=50.0)
"""It only reduces."""


def own(symbol="AAA", side=Side.BUY, quantity=1.0, *, ago_s=0.0, price=100.0, left=0.0, limit_price=None):
    return OwnOrder(symbol, side, quantity, price, NOW_NS - round(ago_s * S_NS), left, limit_price)


def failed(proposal, limits=LIMITS):
    return [check.name for check in pre_trade_checks(proposal, limits) if not check.passed]


def check_of(name, proposal, limits=LIMITS):
    (check,) = [check for check in pre_trade_checks(proposal, limits) if check.name == name]
    return check


class TestAll:
    def test_an_ordinary_order_passes_all_fifteen(self):
        for proposal in (GOOD, REFERRED, EXIT):
            checks = pre_trade_checks(proposal, LIMITS)
            assert [check.name for check in checks] == NAMES
            assert all(check.passed and check.reason == "" for check in checks)

    @pytest.mark.parametrize(
        ("change", "name"),
        [
            ({"held": 191.0}, "position_size"),
            ({"held": -191.0, "side": Side.SELL}, "position_size"),
            ({"quantity": 100.1}, "order_size"),
            ({"day_profit": -3_000.1}, "daily_loss"),
            ({"equity": 3_000.0}, "concentration"),
            ({"calendar": "nowhere"}, "market_hours"),
            ({"reference_price": 106.0, "reference_ns": NOW_NS}, "price_collar"),
            ({"reference_price": 100.0, "reference_ns": NOW_NS - 61 * S_NS}, "price_collar"),
            ({"orders": (own(quantity=10.0, ago_s=4.9),)}, "duplicate_intent"),
            ({"orders": (own(),) * 10}, "order_rate"),
            ({"orders": (own("BBB", quantity=141.0),)}, "order_rate"),
            ({"trading": TradingState.REDUCING}, "trading_state"),
            ({"trading": TradingState.HALTED}, "trading_state"),
            ({"others": (Holding("BBB", -491.0, 100.0),)}, "open_exposure"),
            ({"peak_equity": 111_112.0}, "drawdown"),
            ({"rejects_in_row": 4}, "reject_streak"),
            ({"orders": (own(side=Side.SELL, ago_s=99, left=1.0, limit_price=104.9),)}, "self_trade"),
            ({"symbol": "gme"}, "restricted"),
        ],
        ids=str,
    )
    def test_each_refuses_what_is_beyond_it_and_says_so(self, change, name):
        check = check_of(name, replace(GOOD, **change))
        assert not check.passed
        assert check.reason
        assert check.reason.isprintable()
        assert failed(replace(GOOD, **change)) == [name]

    def test_an_order_that_turns_a_position_is_held_as_one_that_opens_it(self):
        turning = replace(GOOD, held=-300.0, quantity=501.0)
        assert failed(turning) == ["position_size", "order_size", "order_rate"]
        assert failed(replace(turning, quantity=300.0)) == []

    @pytest.mark.parametrize(
        "change",
        [
            {"held": 190.0},
            {"quantity": 100.0},
            {"day_profit": -3_000.0},
            {"equity": 1_000.0 / 0.3},
            {"day_profit": 1e9},
            {"reference_price": 100.0 / 1.05, "reference_ns": NOW_NS},
            {"reference_price": 105.0, "reference_ns": NOW_NS},
            {"reference_price": 100.0, "reference_ns": NOW_NS - 60 * S_NS},
            {"reference_price": 100.0, "reference_ns": NOW_NS + 60 * S_NS},
            {"orders": (own(quantity=10.0, ago_s=5.0),)},
            {"orders": (own(quantity=10.1), own("BBB", quantity=10.0), own(side=Side.SELL, quantity=10.0))},
            {"orders": (own(),) * 9},
            {"orders": (own("BBB", quantity=140.0),)},
            {"orders": (own(ago_s=60.0),) * 50},
            {"others": (Holding("BBB", 490.0, 100.0),)},
            {"peak_equity": 111_111.0},
            {"peak_equity": 1.0},
            {"rejects_in_row": 3},
            {"orders": (own(side=Side.SELL, left=1.0, limit_price=105.1),)},
            {"orders": (own(left=1.0, limit_price=99.0),)},
            {"orders": (own(side=Side.SELL, left=0.0, limit_price=99.0),)},
            {"orders": (own(side=Side.SELL, left=1.0),)},
            {"symbol": "GMEX"},
        ],
        ids=str,
    )
    def test_each_lets_through_what_just_fits(self, change):
        assert failed(replace(GOOD, **change)) == []

    def test_what_was_measured_stands_beside_its_limit(self):
        proposal = replace(
            REFERRED,
            held=5.0,
            day_profit=-500.0,
            price=101.0,
            orders=(own("BBB", quantity=20.0, ago_s=9), own(ago_s=70, left=1.0)),
            others=(Holding("CCC", -100.0, 10.0),),
            peak_equity=125_000.0,
            rejects_in_row=2,
        )
        checks = {check.name: (check.value, check.limit) for check in pre_trade_checks(proposal, LIMITS)}
        assert checks == {
            "parameters": ("valid", "finite and above 0"),
            "position_size": (1_616.0, 20_000.0),
            "order_size": (1_010.0, 10_000.0),
            "daily_loss": (0.005, 0.03),
            "concentration": (0.01616, 0.3),
            "market_hours": ("2023-11-14T22:13+00:00", "24/7"),
            "price_collar": (0.01, 0.05),
            "duplicate_intent": (0.0, 0.0),
            "order_rate": ("2 worth 3010", "10 worth 15000 in 60 s"),
            "trading_state": ("active", "active"),
            "open_exposure": (0.02616, 0.5),
            "drawdown": (0.2, 0.1),
            "reject_streak": (2.0, 3.0),
            "self_trade": (0.0, 0.0),
            "restricted": ("AAA", "none of 1"),
        }

    def test_all_are_evaluated_and_not_only_the_first_that_fails(self):
        bad = replace(
            GOOD,
            symbol="GME",
            quantity=5_000.0,
            equity=-1.0,
            day_profit=-50_000.0,
            calendar="nowhere",
            reference_price=50.0,
            reference_ns=NOW_NS,
            orders=(own("GME", quantity=5_000.0), own("GME", Side.SELL, left=1.0, limit_price=90.0)),
            trading=TradingState.HALTED,
            peak_equity=5.0,
            rejects_in_row=9,
        )
        assert failed(bad) == NAMES


class TestParameters:
    @pytest.mark.parametrize("name", ["quantity", "price", "equity", "limit_price"])
    @pytest.mark.parametrize("bad", [0, -1.0, math.nan, math.inf, "1", 10**400, True], ids=lambda bad: repr(bad)[:8])
    def test_must_be_finite_and_above_zero(self, name, bad):
        assert "parameters" in failed(replace(GOOD, **{name: bad}))

    @pytest.mark.parametrize("name", ["held", "day_profit", "peak_equity", "rejects_in_row", "time_ns", "period_ns"])
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None, "1", False], ids=repr)
    def test_must_be_finite(self, name, bad):
        check = pre_trade_checks(replace(GOOD, **{name: bad}), LIMITS)[0]
        assert (check.passed, check.value) == (False, name)

    @pytest.mark.parametrize(
        "change",
        [
            {"symbol": None},
            {"symbol": ""},
            {"symbol": "a b"},
            {"symbol": ["AAA"]},
            {"side": "buy"},
            {"side": None},
            {"period_ns": 0},
            {"peak_equity": -1.0},
            {"rejects_in_row": -1},
            {"orders": None},
            {"orders": "AAA"},
            {"orders": (None,)},
            {"orders": (own(), "AAA")},
            {"orders": (own(price=0.0),)},
            {"orders": (own(quantity=math.nan),)},
            {"orders": (own(left=-1.0),)},
            {"orders": (own(limit_price=0.0),)},
            {"orders": (own(side="buy"),)},
            {"orders": (own(symbol=None),)},
            {"orders": (replace(own(), sent_ns=None),)},
            {"others": None},
            {"others": (1,)},
            {"others": (Holding(None, 1.0, 1.0),)},
            {"others": (Holding("BBB", math.nan, 1.0),)},
            {"others": (Holding("BBB", 1.0, 0.0),)},
        ],
        ids=str,
    )
    def test_must_be_what_they_say(self, change):
        (name,) = change
        check = pre_trade_checks(replace(GOOD, **change), LIMITS)[0]
        assert not check.passed
        assert name in check.value.split(", ")
        assert f"{name} cannot be traded with" in check.reason or f"{name}, " in check.reason

    def test_are_named_when_they_are_wrong(self):
        check = pre_trade_checks(replace(GOOD, price=math.nan, held=math.inf), LIMITS)[0]
        assert check.reason == "price, held cannot be traded with; the order is refused; mend what was given"

    @pytest.mark.parametrize(
        ("change", "names"),
        [
            ({"quantity": math.nan}, ["position_size", "order_size", "concentration", "order_rate", "open_exposure"]),
            ({"price": math.nan}, ["position_size", "order_size", "concentration", "order_rate", "open_exposure"]),
            ({"held": math.nan}, ["position_size", "concentration", "open_exposure"]),
            ({"equity": math.nan}, ["daily_loss", "concentration", "open_exposure", "drawdown"]),
            ({"equity": -1.0}, ["daily_loss", "concentration", "open_exposure", "drawdown"]),
            ({"day_profit": math.nan}, ["daily_loss"]),
            ({"peak_equity": math.nan}, ["drawdown"]),
            ({"rejects_in_row": None}, ["reject_streak"]),
            ({"others": None}, ["open_exposure"]),
            (
                {"orders": None},
                ["position_size", "concentration", "duplicate_intent", "order_rate", "open_exposure", "self_trade"],
            ),
            ({"time_ns": None}, ["market_hours"]),
            ({"trading": None}, ["trading_state"]),
            ({"symbol": None}, ["restricted"]),
            ({"side": "buy"}, ["position_size", "concentration", "open_exposure"]),
        ],
        ids=str,
    )
    def test_what_rests_on_them_is_refused_as_well(self, change, names):
        found = failed(replace(GOOD, **change))
        assert [name for name in found if name != "parameters"] == names

    @pytest.mark.parametrize("huge", [1e200, Decimal("1e200"), 10**200], ids=repr)
    def test_a_product_beyond_all_numbers_is_refused(self, huge):
        proposal = replace(GOOD, quantity=huge, price=huge)
        assert failed(proposal) == ["position_size", "order_size", "concentration", "order_rate", "open_exposure"]
        assert failed(replace(proposal, side=Side.SELL, held=huge)) == []

    def test_decimals_and_integers_are_numbers(self):
        told = {"quantity": 10, "price": Decimal(100), "held": Decimal("0.0"), "equity": 100_000, "day_profit": 0}
        assert pre_trade_checks(replace(GOOD, **told), LIMITS) == pre_trade_checks(GOOD, LIMITS)


class TestReducing:
    @pytest.mark.parametrize(
        ("held", "side", "quantity", "reducing"),
        [
            (10.0, Side.SELL, 5.0, True),
            (10.0, Side.SELL, 10.0, True),
            (10.0, Side.SELL, 10.1, False),
            (10.0, Side.BUY, 5.0, False),
            (-10.0, Side.BUY, 10.0, True),
            (-10.0, Side.SELL, 5.0, False),
            (0.0, Side.SELL, 5.0, False),
            (10.0, Side.SELL, -5.0, False),
            (10.0, Side.SELL, 0.0, False),
            (math.nan, Side.SELL, 5.0, False),
            (Decimal("0.3"), Side.SELL, Decimal("0.30000000000000000001"), False),
        ],
    )
    def test_only_brings_the_position_closer_to_zero(self, held, side, quantity, reducing):
        proposal = replace(GOOD, held=held, side=side, quantity=quantity, trading=TradingState.REDUCING)
        assert ("trading_state" not in failed(proposal)) is reducing
        assert ("daily_loss" not in failed(replace(proposal, day_profit=-50_000.0))) is reducing

    @pytest.mark.parametrize("number", [float, Decimal], ids=["floats", "decimals"])
    def test_what_other_orders_close_is_not_closed_twice(self, number):
        """0.3 less 0.1 is not quite 0.2 in floats: a way out is not shut by that."""
        orders = (own(side=Side.SELL, left=number("0.1")), own(side=Side.BUY, left=number("5")))
        orders = (*orders, own("BBB", Side.SELL, left=number("5")))
        proposal = replace(GOOD, side=Side.SELL, held=number("0.3"), orders=orders, trading=TradingState.REDUCING)
        assert failed(replace(proposal, quantity=number("0.2"))) == []
        assert failed(replace(proposal, quantity=number("0.2001"))) == ["trading_state"]

    def test_when_others_close_more_than_there_is_nothing_is_left_to_close(self):
        orders = (own(side=Side.SELL, left=12.0),)
        proposal = replace(GOOD, side=Side.SELL, held=5.0, quantity=6.0, orders=orders, trading=TradingState.REDUCING)
        assert failed(proposal) == ["trading_state"]
        assert check_of("trading_state", proposal).limit == "closes at most 0"

    def test_what_cannot_be_told_in_digits_is_rounded_against_the_order(self):
        proposal = replace(GOOD, side=Side.SELL, held=1.79e308, quantity=1.79e308, trading=TradingState.REDUCING)
        assert failed(proposal) == []
        assert "trading_state" in failed(replace(proposal, orders=(own(side=Side.SELL, left=1.0),)))

    def test_the_way_out_of_a_position_beyond_every_limit_is_free(self):
        trapped = replace(
            EXIT,
            held=1_000.0,
            quantity=400.0,
            equity=1_000.0,
            day_profit=-50_000.0,
            peak_equity=50_000.0,
            rejects_in_row=9,
            trading=TradingState.REDUCING,
            orders=(own(side=Side.SELL, quantity=400.0),) * 20,
        )
        assert failed(trapped) == []
        assert set(failed(replace(trapped, orders=(own(quantity=400.0),) * 20, side=Side.BUY))) == {
            *LET_OUT,
            "trading_state",
        }

    @pytest.mark.parametrize("equity", [0.0, -5_000.0])
    def test_an_account_that_has_nothing_left_can_be_closed(self, equity):
        assert failed(replace(EXIT, equity=equity, day_profit=-50_000.0, peak_equity=9.0)) == []
        assert "parameters" in failed(replace(EXIT, equity=equity, quantity=51.0))

    @given(
        st.floats(1e-6, 1e9), st.floats(0.0, 1.0), st.floats(1e-6, 1e9), st.floats(-1e12, 1e12), st.floats(-1e12, 1e12)
    )
    def test_is_never_blocked_by_an_exposure_limit(self, size, share, price, equity, profit):
        quantity = max(size * share, 1e-9)
        tight = RiskLimits(1e-9, 1e-9, 1e-9, 1e-9, rate_notional_max=1e-9, gross_share_max=1e-9, rate_count_max=1)
        for side in Side:
            proposal = replace(
                GOOD,
                side=side,
                held=-size * side.sign,
                quantity=quantity,
                price=price,
                equity=equity,
                day_profit=profit,
            )
            proposal = replace(proposal, peak_equity=1e13, rejects_in_row=99, orders=(own(side=side),) * 9)
            assert failed(proposal, tight) == []

    @pytest.mark.parametrize(
        ("change", "name"),
        [
            ({"calendar": "nowhere"}, "market_hours"),
            ({"price": math.nan}, "parameters"),
            ({"equity": math.nan}, "parameters"),
            ({"trading": TradingState.HALTED}, "trading_state"),
            ({"symbol": "GME"}, "restricted"),
            ({"orders": (own(left=1.0, limit_price=99.0),)}, "self_trade"),
            ({"orders": (None,)}, "parameters"),
            ({"price": math.nan}, "order_rate"),
            ({"price": math.nan}, "position_size"),
            ({"reference_price": None}, "price_collar"),
            ({"reference_price": 100.0, "reference_ns": None}, "price_collar"),
            ({"reference_price": 100.0, "reference_ns": NOW_NS, "limit_price": 94.9}, "price_collar"),
        ],
        ids=str,
    )
    def test_is_still_held_by_what_is_no_exposure_limit(self, change, name):
        assert name not in LET_OUT or change == {"price": math.nan}
        assert name in failed(replace(EXIT, **change))


class TestOpenOrders:
    """They count in every exposure, as if they filled."""

    def test_the_position_counts_with_all_open_orders_of_its_side(self):
        resting = (own(ago_s=99, left=90.0), own(ago_s=99, left=100.0))
        assert failed(replace(GOOD, orders=resting)) == []
        assert failed(replace(GOOD, orders=resting, quantity=10.1)) == ["position_size"]
        assert check_of("concentration", replace(GOOD, orders=resting)).value == 0.2

    def test_those_of_the_other_side_do_not_make_room(self):
        offsetting = (own(side=Side.SELL, ago_s=99, left=100.0, limit_price=200.0),)
        assert failed(replace(GOOD, held=190.0, orders=offsetting)) == []
        assert failed(replace(GOOD, held=191.0, orders=offsetting)) == ["position_size"]

    def test_what_fills_no_more_does_not_count(self):
        assert check_of("position_size", replace(GOOD, orders=(own(quantity=500.0, ago_s=99),))).value == 1_000.0

    @pytest.mark.parametrize(
        ("orders", "others", "units"),
        [
            ((), (), 0),
            ((), ((5, 2),), 5),
            ((), ((5, 2), (-3, 2)), 2),
            ((("buy", 4),), ((5, 2),), 9),
            ((("sell", 4),), ((5, 2),), 5),  # it closes
            ((("sell", 15),), ((5, 2),), 10),
            ((("sell", 4), ("buy", 3)), ((-5, 2),), 9),
            ((("buy", 4), ("sell", 7)), (), 7),
        ],
    )
    def test_another_symbol_counts_at_its_worst(self, orders, others, units):
        resting = tuple(own("BBB", Side(side), price=2.0, ago_s=99, left=float(left)) for side, left in orders)
        held = tuple(Holding("BBB", float(quantity), float(price)) for quantity, price in others)
        ignored = (Holding("AAA", 1e9, 1.0),)  # of this symbol `held` speaks
        check = check_of("open_exposure", replace(GOOD, orders=resting, others=held + ignored))
        assert check.value == pytest.approx((1_000 + 2 * units) / 100_000)


class TestPriceCollar:
    @pytest.mark.parametrize(
        ("side", "limit_price", "passed"),
        [
            (Side.BUY, 105.0, True),
            (Side.BUY, 105.1, False),
            (Side.BUY, 50.0, True),  # it only rests
            (Side.SELL, 95.0, True),
            (Side.SELL, 94.9, False),
            (Side.SELL, 150.0, True),
        ],
    )
    def test_a_limit_price_is_off_on_the_side_that_costs(self, side, limit_price, passed):
        assert check_of("price_collar", replace(REFERRED, side=side, limit_price=limit_price)).passed is passed

    @pytest.mark.parametrize("side", Side)
    @pytest.mark.parametrize("price", [94.9, 105.1])
    def test_a_market_order_is_off_on_both(self, side, price):
        assert not check_of("price_collar", replace(REFERRED, side=side, price=price)).passed
        assert check_of("price_collar", replace(REFERRED, side=side, price=price, held=-20.0 * side.sign)).passed

    @pytest.mark.parametrize("away_s", [-61, 61, 10**9, -(10**9)])
    def test_a_reference_that_is_old_or_of_the_future_holds_nothing(self, away_s):
        aged = replace(REFERRED, reference_ns=NOW_NS - away_s * S_NS)
        check = check_of("price_collar", aged)
        assert (check.passed, check.limit) == (False, "60 s")
        assert check.value == f"{abs(away_s):.6g} s old"
        assert "take a fresh one" in check.reason
        assert check_of("price_collar", replace(aged, side=Side.SELL, held=10.0, limit_price=1.0)).passed

    @pytest.mark.parametrize("reference", [None, math.nan, 0.0, -1.0, math.inf, "", "100", True, Decimal("sNaN")])
    def test_one_that_is_no_price_is_refused_whoever_asks(self, reference):
        for proposal in (REFERRED, replace(REFERRED, side=Side.SELL, held=50.0)):
            assert failed(replace(proposal, reference_price=reference)) == ["price_collar"]
            assert failed(replace(proposal, reference_ns=1.5)) == ["price_collar"]

    def test_without_one_there_is_nothing_to_hold_the_price_against(self):
        check = check_of("price_collar", GOOD)
        assert (check.passed, check.value) == (True, "no reference")

    def test_a_limit_price_above_the_price_is_what_a_unit_may_cost(self):
        assert check_of("order_size", replace(GOOD, limit_price=150.0)).value == 1_500.0
        assert check_of("order_size", replace(GOOD, limit_price=50.0)).value == 1_000.0


class TestStops:
    """An order that waits until the market is at its stop price: it is that price which counts."""

    @pytest.mark.parametrize("side", Side)
    def test_the_distance_of_its_stop_from_the_market_holds_nothing(self, side):
        for stop_price in (50.0, 150.0):
            assert check_of("price_collar", replace(REFERRED, side=side, stop_price=stop_price)).passed
            assert check_of("price_collar", replace(GOOD, side=side, stop_price=stop_price)).passed

    @pytest.mark.parametrize(
        ("side", "limit_price", "passed"),
        [
            (Side.SELL, 76.0, True),
            (Side.SELL, 75.9, False),
            (Side.SELL, 90.0, True),
            (Side.BUY, 84.0, True),
            (Side.BUY, 84.1, False),
            (Side.BUY, 70.0, True),
        ],
    )
    def test_a_limit_price_is_held_against_the_stop_price(self, side, limit_price, passed):
        for proposal in (GOOD, REFERRED):
            wanted = replace(proposal, side=side, stop_price=80.0, limit_price=limit_price)
            assert check_of("price_collar", wanted).passed is passed

    def test_a_reference_that_is_old_or_lost_refuses_it_as_any_other(self):
        for change in ({"reference_ns": NOW_NS - 61 * S_NS}, {"reference_price": None}, {"reference_price": math.nan}):
            assert failed(replace(REFERRED, stop_price=110.0, **change)) == ["price_collar"]

    def test_a_unit_may_cost_the_dearest_of_its_prices(self):
        for change, worth in (
            ({"stop_price": 120.0}, 1_200.0),
            ({"stop_price": 120.0, "limit_price": 125.0}, 1_250.0),
            ({"stop_price": 80.0}, 1_000.0),
        ):
            assert check_of("order_size", replace(GOOD, **change)).value == worth

    @pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, "80", True])
    def test_a_stop_price_that_is_none_is_named(self, bad):
        assert check_of("parameters", replace(GOOD, stop_price=bad)).value == "stop_price"

    @pytest.mark.parametrize(
        ("side", "stop_price", "resting", "crossed"),
        [
            (Side.BUY, 110.0, 115.5, True),
            (Side.BUY, 110.0, 115.6, False),
            (Side.BUY, 90.0, 105.0, True),  # the market is there already
            (Side.SELL, 90.0, 85.5, True),
            (Side.SELL, 90.0, 85.4, False),
        ],
    )
    def test_it_reaches_as_far_as_the_collar_from_its_stop_price(self, side, stop_price, resting, crossed):
        other = Side.SELL if side is Side.BUY else Side.BUY
        orders = (own(side=other, ago_s=99, left=1.0, limit_price=resting),)
        check = check_of("self_trade", replace(GOOD, side=side, stop_price=stop_price, orders=orders))
        assert check.passed is not crossed


def test_no_measure_is_a_negative_zero():
    sell = replace(GOOD, side=Side.SELL, limit_price=100.0, reference_price=100.0, reference_ns=GOOD.time_ns)
    for proposal in (replace(GOOD, day_profit=0), replace(GOOD, day_profit=0.0), sell):
        told = {check.name: str(check.value) for check in pre_trade_checks(proposal, RiskLimits())}
        assert (told["daily_loss"], [name for name, value in told.items() if value.startswith("-")]) == ("0.0", [])


class TestWindows:
    @pytest.mark.parametrize("ahead_s", [0.0, 4.9])
    def test_a_clock_that_was_set_back_forgets_nothing(self, ahead_s):
        assert failed(replace(GOOD, orders=(own(quantity=10.0, ago_s=-ahead_s),))) == ["duplicate_intent"]
        assert failed(replace(GOOD, orders=(own(ago_s=-ahead_s),) * 10)) == ["order_rate"]

    def test_what_is_further_ahead_than_the_window_is_of_another_time(self):
        """Of a decision on history that is newer than this one."""
        assert failed(replace(GOOD, orders=(own(quantity=10.0, ago_s=-5.1),))) == []
        assert failed(replace(GOOD, orders=(own(ago_s=-60.1),) * 10)) == []

    def test_a_twin_has_the_same_symbol_side_and_quantity(self):
        twin = own(quantity=10.0)
        assert check_of("duplicate_intent", replace(GOOD, orders=(twin, twin))).value == 2.0
        for other in (replace(twin, symbol="B"), replace(twin, side=Side.SELL), replace(twin, quantity=9.0)):
            assert check_of("duplicate_intent", replace(GOOD, orders=(other,))).passed
        assert not check_of("duplicate_intent", replace(GOOD, orders=(replace(twin, quantity=Decimal(10)),))).passed
        assert check_of("duplicate_intent", replace(GOOD, orders=(replace(twin, same_decision=True),))).passed
        smaller = replace(twin, quantity=3.0)  # as the throttle left it
        assert check_of("duplicate_intent", replace(GOOD, orders=(smaller,))).passed
        assert not check_of("duplicate_intent", replace(GOOD, orders=(replace(smaller, asked=10.0),))).passed

    def test_either_too_many_or_too_much(self):
        many = check_of("order_rate", replace(GOOD, orders=(own(),) * 10))
        much = check_of("order_rate", replace(GOOD, orders=(own(quantity=141.0),)))
        assert (many.value, much.value) == ("11 worth 2000", "2 worth 15100")
        assert many.reason.startswith("orders would be 11 worth 2000, above 10 worth 15000 in 60 s; ")


class TestSelfTrade:
    @pytest.mark.parametrize(
        ("side", "limit_price", "resting", "crossed"),
        [
            (Side.BUY, 100.0, 100.0, True),
            (Side.BUY, 100.0, 99.0, True),
            (Side.BUY, 100.0, 100.1, False),
            (Side.SELL, 100.0, 100.0, True),
            (Side.SELL, 100.0, 101.0, True),
            (Side.SELL, 100.0, 99.9, False),
            (Side.BUY, None, 105.0, True),  # a market order reaches as far as the collar
            (Side.BUY, None, 105.1, False),
            (Side.SELL, None, 95.0, True),
            (Side.SELL, None, 94.9, False),
        ],
    )
    def test_it_would_meet_its_own(self, side, limit_price, resting, crossed):
        other = Side.SELL if side is Side.BUY else Side.BUY
        orders = (
            own(side=other, ago_s=99, left=1.0, limit_price=resting),
            own("BBB", other, left=1.0, limit_price=1.0),
        )
        check = check_of("self_trade", replace(GOOD, side=side, limit_price=limit_price, orders=orders))
        assert check.passed is not crossed
        assert check.value == (1.0 if crossed else 0.0)


class TestTradingState:
    @pytest.mark.parametrize(
        ("state", "quantity", "closable", "passed"),
        [
            (TradingState.ACTIVE, "99", "0", True),
            (TradingState.REDUCING, "5", "5", True),
            (TradingState.REDUCING, "5", "4.9999", False),
            (TradingState.REDUCING, "5", "0", False),
            (TradingState.REDUCING, "0", "5", False),
            (TradingState.REDUCING, "-1", "5", False),
            (TradingState.HALTED, "5", "5", False),
        ],
    )
    def test_what_goes(self, state, quantity, closable, passed):
        check = trading_check(state, "because", Decimal(quantity), Decimal(closable))
        assert (check.name, check.passed, check.value) == ("trading_state", passed, str(state))
        assert check.reason.startswith("" if passed else f"trading is {state.upper()} (because); ")
        assert bool(check.reason) is not passed
        assert check.limit == (f"closes at most {closable}" if state is TradingState.REDUCING else "active")

    @pytest.mark.parametrize("state", [None, "active", "ACTIVE", 0, math.nan], ids=repr)
    def test_what_is_no_state_is_halted(self, state):
        check = check_of("trading_state", replace(EXIT, trading=state, trading_why="lunch\nbreak"))
        assert (check.passed, check.value) == (False, "unreadable")
        assert check.reason == "trading is HALTED (lunch break); no order goes until an operator lets it"

    @given(st.none() | st.text(), st.from_type(object), st.from_type(object), st.text() | st.integers() | st.none())
    def test_what_is_no_number_or_no_state_passes_only_while_trading_is_active(self, state, quantity, closable, why):
        for odd in (state, TradingState.REDUCING, TradingState.HALTED):
            check = trading_check(odd, why, quantity, closable)
            reduces = (
                odd is TradingState.REDUCING
                and isinstance(quantity, Decimal)
                and isinstance(closable, Decimal)
                and quantity.is_finite()
                and closable.is_finite()
                and 0 < quantity <= closable
            )
            assert check.passed is reduces

    def test_a_number_of_thousands_of_digits_is_not_printed(self):
        check = trading_check(TradingState.REDUCING, 10**5000, 10**5000, 10**5000)
        assert check.reason.endswith("at most no number, not no number")


ODD = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 5e-324, 1.79e308, -1.79e308, 1e-9])
HUGE = st.sampled_from(
    [10**5000, -(10**5000), Decimal("sNaN"), Decimal("1e999999"), Decimal("1e-999999"), Decimal("-0")]
)
ANYTHING = st.floats() | ODD | HUGE | st.none() | st.text(max_size=3) | st.integers() | st.booleans() | st.decimals()
CALENDARS = st.sampled_from(["24/7", "24/5", "XNYS", "nowhere", ""])


def anyhow(kind, **more):
    """A value with anything whatsoever in its fields, or what is usual there."""
    return st.builds(kind, **{each.name: more.get(each.name, st.nothing()) | ANYTHING for each in fields(kind)})


SIDES = st.sampled_from(list(Side))
ANY_ORDERS = st.lists(anyhow(OwnOrder, symbol=st.just("AAA"), side=SIDES), max_size=3)
ANY_OTHERS = st.lists(anyhow(Holding, symbol=st.just("BBB")) | ANYTHING, max_size=3)
ANY = anyhow(
    Proposal,
    symbol=st.just("AAA"),
    side=SIDES,
    calendar=CALENDARS,
    orders=ANY_ORDERS | ANY_ORDERS.map(tuple),
    others=ANY_OTHERS.map(tuple),
    trading=st.sampled_from(list(TradingState)),
)


@given(ANY)
def test_is_total(proposal):
    checks = pre_trade_checks(proposal, LIMITS)
    assert [check.name for check in checks] == NAMES
    for check in checks:
        assert check.passed is (check.reason == "")
        assert isinstance(check.value, str) or math.isfinite(check.value)
        assert isinstance(check.limit, str) or math.isfinite(check.limit)
        assert "\n" not in check.reason


UNITS = st.integers(0, 300).map(float) | st.integers(0, 3000).map(lambda tenths: Decimal(tenths) / 10)
PRICES = st.integers(900, 1100).map(lambda tenths: tenths / 10)
NEAR_ORDERS = st.builds(
    OwnOrder,
    symbol=st.sampled_from(["AAA", "BBB"]),
    side=SIDES,
    quantity=UNITS,
    price=PRICES,
    sent_ns=st.integers(-90, 90).map(lambda second: NOW_NS + second * S_NS),
    open=st.just(0) | UNITS,
    limit_price=st.none() | PRICES,
)
CHANGES = {
    "symbol": st.sampled_from(["AAA", "GME", ""]),
    "side": SIDES,
    "quantity": UNITS | ODD,
    "price": PRICES | ODD,
    "held": st.integers(-300, 300) | ODD,
    "equity": st.floats(1_000, 200_000) | ODD,
    "day_profit": st.floats(-4_000, 4_000) | ODD,
    "limit_price": st.none() | PRICES | ODD,
    "stop_price": st.none() | PRICES | ODD,
    "orders": st.lists(NEAR_ORDERS, max_size=4),
    "others": st.lists(st.builds(Holding, st.sampled_from(["AAA", "BBB", "CCC"]), UNITS, PRICES), max_size=3),
    "peak_equity": st.floats(90_000, 120_000) | ODD,
    "rejects_in_row": st.integers(0, 5),
    "reference_price": PRICES | ODD | st.none(),
    "reference_ns": st.integers(-90, 90).map(lambda second: NOW_NS + second * S_NS),
    "trading": st.sampled_from([*TradingState, None]),
}
NEAR = st.fixed_dictionaries({}, optional=CHANGES).map(lambda changes: replace(GOOD, **changes))
"""An ordinary order with some of its fields about their limits: a good part of these passes."""


def breaches(p, most):
    """The rules once more, in fractions of the digits as printed: whatever an order breaks that may not be let out."""
    given = [each for each in (p.limit_price, p.stop_price) if each is not None]
    numbers = (p.quantity, p.price, p.held, p.equity, p.day_profit, p.peak_equity, *given)
    if not all(math.isfinite(each) for each in numbers) or min(p.quantity, p.price, *given) <= 0 or not p.symbol:
        return ["a number"]
    amount, price, before, worth, gain, peak, *own_prices = (Fraction(str(each)) for each in numbers)
    mine = [each for each in p.orders if each.symbol == p.symbol]
    same = sum(Fraction(str(each.open)) for each in mine if each.side is p.side)
    after, unit = before + p.side.sign * (same + amount), max(price, *own_prices, 0)
    closes = amount <= -before * p.side.sign - same
    recent = [each for each in p.orders if abs(each.sent_ns - NOW_NS) < 60 * S_NS]
    lately = amount * unit + sum(Fraction(str(each.quantity)) * Fraction(str(each.price)) for each in recent)
    rules = {
        "restricted": p.symbol in most.restricted,
        "halted": p.trading not in set(TradingState) or p.trading is TradingState.HALTED,
        "a wrong order": any(not each.quantity for each in p.orders) or any(not each.price for each in p.others),
        "no reference": p.reference_price in {None, 0} or p.reference_price != p.reference_price,
    }
    if not closes:
        rules |= {
            "state": p.trading is not TradingState.ACTIVE,
            "equity": worth <= 0,
            "position": abs(after) * unit > most.position_notional_max * SLACK,
            "order": amount * unit > most.order_notional_max * SLACK,
            "loss": -gain > Fraction(most.daily_loss_share_max) * worth * SLACK,
            "concentration": abs(after) * unit > Fraction(most.concentration_share_max) * worth * SLACK,
            "gross": abs(after) * unit > Fraction(most.gross_share_max) * worth * SLACK,
            "rate": len(recent) + 1 > most.rate_count_max or lately > most.rate_notional_max * SLACK,
            "drawdown": peak - worth > Fraction(most.drawdown_share_max) * peak * SLACK,
            "rejects": p.rejects_in_row > most.reject_streak_max,
            "old": p.reference_price != "no reference" and abs(p.reference_ns - NOW_NS) > 60 * S_NS,
        }
    return [name for name, broken in rules.items() if broken]


SLACK = 1 + Fraction(1, 10**9)


@given(NEAR)
def test_never_approves_a_breach(proposal):
    if not failed(proposal):
        assert breaches(proposal, LIMITS) == []


@given(NEAR, st.floats(1.0, 1e6))
def test_a_larger_order_never_passes_where_a_smaller_one_fails(proposal, factor):
    larger = replace(proposal, quantity=float(proposal.quantity) * factor)
    held_up = {*EXPOSURE, "parameters", "trading_state", "reject_streak"}
    if float(proposal.quantity) > 0:
        assert held_up & set(failed(proposal)) <= set(failed(larger))


@given(
    NEAR, st.sampled_from(["position_notional_max", "order_notional_max", "daily_loss_share_max"]), st.floats(0.01, 1)
)
def test_a_tighter_limit_never_lets_more_through(proposal, name, factor):
    tighter = replace(LIMITS, **{name: getattr(LIMITS, name) * factor})
    assert set(failed(proposal)) <= set(failed(proposal, tighter))
