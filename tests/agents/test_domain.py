import math
import string
from dataclasses import fields, is_dataclass, replace
from decimal import Decimal
from enum import Enum
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from agents import domain
from agents.domain import (
    Bar,
    Check,
    Fill,
    Finding,
    KillSwitchReason,
    MarketView,
    Order,
    OrderIntent,
    OrderStatus,
    OrderType,
    Outage,
    Outcome,
    PolicyAnswer,
    Portfolio,
    Position,
    Quote,
    Revision,
    Side,
    Synthesis,
    Trade,
    TradePlan,
    TradingAction,
    TradingState,
    Verdict,
    check_symbol,
    towards_zero,
)
from agents.errors import InvalidValue

TYPES = [
    kind
    for kind in (getattr(domain, name) for name in domain.__all__)
    if isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, Enum))
]

INTENT = OrderIntent.derive(
    run_id="trade-AAA-1",
    account="paper",
    symbol="AAA",
    side=Side.BUY,
    quantity=Decimal("1.50"),
    reference_price=Decimal("10.1"),
    reference_ns=5,
    limit_price=Decimal("10.2"),
)
TRIED_AGAIN = OrderIntent.derive(
    run_id="trade-AAA-1",
    account="paper",
    symbol="AAA",
    side=Side.SELL,
    quantity=Decimal("1.50"),
    reference_price=Decimal("10.1"),
    reference_ns=5,
    leg="stop",
    limit_price=Decimal("9.8"),
    stop_price=Decimal("9.90"),
    attempt=2,
)
CHECK = Check("size", passed=True, value=0.1, limit="0.2", reason="small")
VIEW = MarketView(
    symbol="AAA",
    period_ns=60,
    close_ns=(1_700_000_000_000_000_000, 1_700_000_000_000_000_060),
    open=(1.1, 1.2),
    high=(1.3, 1.3),
    low=(1.0, 1.1),
    close=(1.2, 0.1 + 0.2 + 0.9),
    volume=(0.0, 3.5),
    market=(1.0, 1.01),
    price_step=Decimal("0.001"),
    calendar="XNYS",
    source="here",
)
PLAN = TradePlan(
    symbol="AAA",
    action=TradingAction.BUY,
    target_weight=0.1,
    quantity=Decimal("1.5"),
    entry=Decimal(10),
    stop=Decimal(9),
    take_profit=Decimal(12),
    horizon_bars=20,
    reasons=("a trend", "a volume"),
    level=1,
    revision=2,
    as_of_ns=7,
)
FILL = Fill("t1", "c1", "AAA", Side.SELL, Decimal("0.1"), Decimal("9.9"), Decimal("-0.01"), 8)
POSITION = Position("AAA", Decimal("-0.5"), Decimal("10.0"))
SAMPLES = (
    Bar("AAA", 1, Decimal("1.10"), Decimal(2), Decimal(1), Decimal("1.5"), Decimal(0)),
    CHECK,
    FILL,
    Finding("trend", -0.5, 0.25, "it falls", {"t": -2.0}),
    VIEW,
    Order(INTENT, OrderStatus.OPEN, Decimal(1), Decimal("10.1"), Decimal("0.1"), "b1", "why", (CHECK,)),
    INTENT,
    TRIED_AGAIN,
    Outage("news", required=False, error="gone"),
    PolicyAnswer("demo", "mlp", TradingAction.SELL, "greatest_output", 4.5, is_fallback=True),
    Portfolio("paper", Decimal("99.5"), (POSITION,), Decimal(-1), Decimal("0.2")),
    POSITION,
    Quote("AAA", 3, Decimal(1), Decimal("1.1"), Decimal(5), Decimal("0.5")),
    Revision("target_weight", 0.1, "too large"),
    Synthesis(0.5, 0.4, 0.9, 0.8, 1, ("news",)),
    Trade("AAA", 3, Decimal(1), Decimal("0.5"), Side.SELL),
    PLAN,
    Verdict(Outcome.REVISE, (replace(CHECK, passed=False),), (Revision("target_weight", 0.1, "too large"),)),
    *KillSwitchReason,
    *OrderStatus,
    *OrderType,
    *Outcome,
    *Side,
    *TradingAction,
    *TradingState,
)
BY_TYPE = {type(sample): sample for sample in SAMPLES}


class TestCheckpoint:
    def test_every_type_has_a_sample(self):
        assert set(TYPES) == set(BY_TYPE)

    @pytest.mark.parametrize("kind", [kind for kind in TYPES if is_dataclass(kind)], ids=lambda kind: kind.__name__)
    def test_the_samples_set_every_field(self, kind):
        sample = BY_TYPE[kind]
        empty = [each.name for each in fields(kind) if getattr(sample, each.name) in (None, "", ())]
        assert not empty, "a field without content proves nothing about its round trip"

    @pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{type(sample).__name__}-{str(sample)[:12]}")
    def test_values_come_back_as_they_went(self, sample):
        serializer = JsonPlusSerializer(allowed_msgpack_modules=TYPES)
        back = serializer.loads_typed(serializer.dumps_typed(sample))
        assert type(back) is type(sample)
        assert back == sample
        assert _deep_types(back) == _deep_types(sample)

    def test_types_that_are_not_allowed_do_not_come_back(self):
        serializer = JsonPlusSerializer(allowed_msgpack_modules=[kind for kind in TYPES if kind is not Check])
        assert not isinstance(serializer.loads_typed(serializer.dumps_typed(CHECK)), Check)

    def test_numbers_of_numpy_become_plain_ones(self):
        columns = {name: np.array(getattr(VIEW, name)) for name in ("close_ns", "open", "high", "low", "close")}
        view = replace(VIEW, **columns)
        assert view == VIEW
        assert _deep_types(view) == _deep_types(VIEW)
        assert type(Synthesis(np.float64(0.5), 1, 1, 1).stance) is float
        assert type(replace(PLAN, target_weight=np.float64(0.5)).target_weight) is float
        assert type(Finding("a", np.float64(0.5), np.float32(0.5), "").confidence) is float


def _deep_types(value):
    if is_dataclass(value):
        return [type(value), [_deep_types(getattr(value, each.name)) for each in fields(value)]]
    if isinstance(value, tuple | list):
        return [type(value), [_deep_types(each) for each in value]]
    if isinstance(value, dict):
        return [type(value), [[_deep_types(key), _deep_types(each)] for key, each in value.items()]]
    return type(value)


NOT_NUMBERS = (None, "1", b"1", [], (), {}, object())
NOT_FINITE = (math.nan, math.inf, -math.inf, 10**400)
NOT_DECIMALS = (*NOT_NUMBERS, 1, 1.5, True, *(Decimal(text) for text in ("NaN", "sNaN", "Infinity", "-Infinity")))
NOT_POSITIVE = (*NOT_DECIMALS, Decimal(0), Decimal(-1))
NOT_OPTIONAL_POSITIVE = tuple(bad for bad in NOT_POSITIVE if bad is not None)
NOT_FLOATS = (*NOT_NUMBERS, *NOT_FINITE, Decimal("NaN"), Decimal("sNaN"))
NOT_WHOLE = (*NOT_NUMBERS, 1.0, math.nan, math.inf, Decimal(1), True)
NOT_COLUMNS = (None, 1, 1.5, math.nan, object(), ("1", "2"), (None, 1.0), (Decimal(1), Decimal(1)), "12", (10**400, 1))
NOT_PRICES = (*NOT_COLUMNS, (1.2,), (1.2, 1.2, 1.2), (1.2, 0.0), (1.2, -1.0), (math.nan, 1.2), (1.2, math.inf))
NOT_OPTIONAL_COLUMNS = (*NOT_COLUMNS, (1.0,), (1.0, -1.0), (1.0, math.nan), (math.inf, 1.0))
NOT_SYMBOLS = (None, 5, b"A", "", " ", "A B", "-A", "A" * 33, "A\n", "Ä", "A;B", ["A"])
NOT_TEXTS = (None, "ab", 5, ["a", None], (1,), {"a"})
NOT_LINES = (None, 5, "", "a\x1fb", "a\nb")
NOT_MEMBERS = (None, "x", 7, -1, math.nan, Decimal("sNaN"), [], object())
NOT_CHECKS = (None, "ab", 5, (None,), [CHECK, "x"], CHECK)

BAD = {
    Bar: {
        "symbol": NOT_SYMBOLS,
        "close_ns": NOT_WHOLE,
        "open": NOT_POSITIVE,
        "high": NOT_POSITIVE,
        "low": NOT_POSITIVE,
        "close": NOT_POSITIVE,
        "volume": (*[bad for bad in NOT_DECIMALS if bad is not None], Decimal(-1)),
    },
    Quote: {
        "symbol": NOT_SYMBOLS,
        "time_ns": NOT_WHOLE,
        "bid": NOT_POSITIVE,
        "ask": NOT_POSITIVE,
        **dict.fromkeys(("bid_size", "ask_size"), (*[bad for bad in NOT_DECIMALS if bad is not None], Decimal(-1))),
    },
    Trade: {
        "symbol": NOT_SYMBOLS,
        "time_ns": NOT_WHOLE,
        "price": NOT_POSITIVE,
        "quantity": NOT_POSITIVE,
        "taker": [bad for bad in NOT_MEMBERS if bad is not None],
    },
    MarketView: {
        "symbol": NOT_SYMBOLS,
        "period_ns": (*NOT_WHOLE, 0, -1),
        "close_ns": (*NOT_COLUMNS, (), (1,), (1, 1), (2, 1), (1.0, 2.0), (1, 2, 3)),
        **dict.fromkeys(("open", "high", "low", "close"), NOT_PRICES),
        **dict.fromkeys(("volume", "market"), NOT_OPTIONAL_COLUMNS),
        "price_step": NOT_POSITIVE,
    },
    Finding: {
        "stance": (*NOT_FLOATS, 1.01, -1.01),
        "confidence": (*NOT_FLOATS, 1.01, -0.01),
        "evidence": (None, "x", 5, [("a", 1.0)], *({"a": bad} for bad in NOT_FLOATS)),
    },
    Synthesis: {
        "stance": (*NOT_FLOATS, 1.01, -1.01),
        **dict.fromkeys(("confidence", "agreement", "coverage"), (*NOT_FLOATS, 1.01, -0.01)),
        "level": (*NOT_WHOLE, 3, -1),
        "missing": NOT_TEXTS,
    },
    TradePlan: {
        "symbol": NOT_SYMBOLS,
        "action": NOT_MEMBERS,
        "target_weight": NOT_FLOATS,
        "quantity": NOT_POSITIVE,
        "entry": NOT_POSITIVE,
        **dict.fromkeys(("stop", "take_profit"), NOT_OPTIONAL_POSITIVE),
        **dict.fromkeys(("horizon_bars", "level", "revision"), (*NOT_WHOLE, -1)),
        "as_of_ns": NOT_WHOLE,
        "reasons": NOT_TEXTS,
    },
    PolicyAnswer: {
        "action": NOT_MEMBERS,
        "latency_us": (*NOT_FLOATS, -1.0),
        **dict.fromkeys(("policy_id", "policy_type", "action_reason"), (None, 5, b"a", "\ud800")),
    },
    Revision: {"limit": NOT_FLOATS},
    Verdict: {"outcome": NOT_MEMBERS, "checks": NOT_CHECKS, "revisions": NOT_CHECKS},
    OrderIntent: {
        "intent_id": (None, "", "hfother"),
        "symbol": NOT_SYMBOLS,
        "side": NOT_MEMBERS,
        "type": (*NOT_MEMBERS, OrderType.MARKET),
        "quantity": NOT_POSITIVE,
        "reference_price": NOT_POSITIVE,
        "limit_price": NOT_POSITIVE,
        "stop_price": NOT_POSITIVE,
        "attempt": (*NOT_WHOLE, 0, 1, 3, 1000),
        "reference_ns": NOT_WHOLE,
        "decision": (*NOT_WHOLE, -1),
        **dict.fromkeys(("run_id", "account", "leg"), NOT_LINES),
    },
    Fill: {
        "symbol": NOT_SYMBOLS,
        "side": NOT_MEMBERS,
        "quantity": NOT_POSITIVE,
        "price": NOT_POSITIVE,
        "fee": NOT_DECIMALS,
        "time_ns": NOT_WHOLE,
    },
    Order: {
        "intent": (None, "x", CHECK),
        "status": NOT_MEMBERS,
        "filled": (*NOT_DECIMALS, Decimal(-1)),
        "price": NOT_OPTIONAL_POSITIVE,
        "fee": NOT_DECIMALS,
        "checks": NOT_CHECKS,
    },
    Position: {"symbol": NOT_SYMBOLS, "quantity": NOT_DECIMALS, "average_price": (*NOT_DECIMALS, Decimal(-1))},
    Portfolio: {
        **dict.fromkeys(("cash", "realised", "fees"), NOT_DECIMALS),
        "positions": (None, "AAA", 5, (None,), POSITION),
    },
}


class TestConstructors:
    @pytest.mark.parametrize(
        ("kind", "name"),
        [(kind, name) for kind, rules in BAD.items() for name in rules],
        ids=lambda part: part if isinstance(part, str) else part.__name__,
    )
    def test_refuse_what_breaks_their_rules(self, kind, name):
        for bad in BAD[kind][name]:
            with pytest.raises(InvalidValue) as refusal:
                replace(BY_TYPE[kind], **{name: bad})
            assert "\n" not in str(refusal.value)

    @pytest.mark.parametrize(
        "prices",
        [{"high": "0.5"}, {"open": "3"}, {"close": "0.5"}, {"low": "1.7"}, {"close": "3"}],
        ids=str,
    )
    def test_a_bar_has_its_open_and_close_between_low_and_high(self, prices):
        with pytest.raises(InvalidValue):
            replace(BY_TYPE[Bar], **{name: Decimal(price) for name, price in prices.items()})

    def test_a_quote_is_not_crossed(self):
        with pytest.raises(InvalidValue, match="below bid"):
            Quote("A", 0, bid=Decimal(2), ask=Decimal(1))
        assert Quote("A", 0, bid=Decimal(1), ask=Decimal(1)).ask == 1

    def test_a_hold_trades_nothing_and_says_why(self):
        with pytest.raises(InvalidValue, match="trades nothing"):
            replace(PLAN, action=TradingAction.HOLD)
        with pytest.raises(InvalidValue, match="say why"):
            replace(PLAN, action=TradingAction.HOLD, quantity=Decimal(0), reasons=())
        assert replace(PLAN, action=TradingAction.HOLD, quantity=Decimal(0)).side is None

    def test_an_approval_carries_no_failed_check(self):
        with pytest.raises(InvalidValue, match="failed check"):
            Verdict(Outcome.APPROVE, (replace(CHECK, passed=False),))

    @pytest.mark.parametrize("order_type", list(OrderType))
    @pytest.mark.parametrize("limit", [None, Decimal(10)])
    @pytest.mark.parametrize("stop", [None, Decimal(9)])
    def test_an_order_has_the_prices_of_its_type_and_no_others(self, order_type, limit, stop):
        order = _derive(limit_price=limit, stop_price=stop)
        if order.type is order_type:
            named = str(order_type).split("_")
            assert ("limit" in named, "stop" in named) == (limit is not None, stop is not None)
        else:
            with pytest.raises(InvalidValue, match="has the prices that its name says"):
                replace(order, type=order_type)

    def test_an_intent_cannot_be_given_another_order_under_its_id(self):
        with pytest.raises(InvalidValue, match="does not follow"):
            replace(INTENT, quantity=Decimal(2))

    @pytest.mark.parametrize("bad", NOT_OPTIONAL_POSITIVE)
    def test_derive_refuses_as_the_constructor_does(self, bad):
        with pytest.raises(InvalidValue):
            _derive(quantity=bad)
        with pytest.raises(InvalidValue):
            _derive(limit_price=bad)

    def test_lists_that_come_back_from_disk_become_tuples(self):
        assert replace(PLAN, reasons=["a"]).reasons == ("a",)
        assert Portfolio("a", Decimal(1), [POSITION]).positions == (POSITION,)

    def test_plain_values_become_members(self):
        assert replace(PLAN, action=2).action is TradingAction.SELL
        assert replace(FILL, side="buy").side is Side.BUY

    @pytest.mark.parametrize("symbol", ["A", "BTC-USD", "BRK.B", "EUR/USD", "ES=F", "BINANCE:BTCUSDT", "0" * 32])
    def test_symbols_of_all_kinds_of_venues(self, symbol):
        assert check_symbol(symbol) == symbol


class TestMeanings:
    def test_sides_have_signs(self):
        assert (Side.BUY.sign, Side.SELL.sign) == (1, -1)
        assert INTENT.signed_quantity == Decimal("1.5")
        assert (PLAN.side, replace(PLAN, action=TradingAction.SELL).side) == (Side.BUY, Side.SELL)

    def test_final_states(self):
        final = {status for status in OrderStatus if status.final}
        assert final == set(OrderStatus) - {
            OrderStatus.PENDING,
            OrderStatus.SENDING,
            OrderStatus.OPEN,
            OrderStatus.UNKNOWN,
        }

    def test_a_view_knows_its_newest_bar_as_printed(self):
        view = replace(VIEW, close=(1.0, 1.1))
        assert (len(view), view.as_of_ns, view.last_price) == (2, VIEW.close_ns[-1], Decimal("1.1"))

    def test_a_verdict_gives_the_reason_of_each_failure_or_its_name(self):
        bare = Check("stop", passed=False, value=0, limit=0)
        said = Check("size", passed=False, value=0, limit=0, reason="too large")
        assert Verdict(Outcome.REJECT, (bare, CHECK, said)).reasons == ("stop", "too large")

    def test_an_order_goes_by_the_id_of_its_intent(self):
        assert Order(INTENT, OrderStatus.PENDING).client_order_id == INTENT.intent_id


QUANTITIES = st.decimals("0.0001", "1000000", places=4)
STEPS = st.sampled_from([Decimal(text) for text in ("0.0001", "0.01", "1", "0.25", "3", "1E-12")])


class TestTowardsZero:
    @given(st.decimals("-1e30", "1e30", allow_nan=False, places=12), STEPS)
    def test_gives_whole_steps_and_never_more(self, quantity, step):
        rounded = towards_zero(quantity, step)
        assert abs(rounded) <= abs(quantity)
        assert abs(Fraction(quantity)) - abs(Fraction(rounded)) < Fraction(step)
        assert (Fraction(rounded) / Fraction(step)).denominator == 1
        assert rounded * quantity >= 0

    def test_never_rounds_up_where_the_usual_precision_would(self):
        almost_ten = Decimal("9." + "9" * 40)
        assert towards_zero(almost_ten, Decimal("0.0001")) == Decimal("9.9999")


def _derive(**changes) -> OrderIntent:
    order = {
        "run_id": "run",
        "account": "paper",
        "symbol": "AAA",
        "side": Side.BUY,
        "quantity": Decimal(1),
        "reference_price": Decimal(10),
        "reference_ns": 1,
        "limit_price": Decimal(9),
    }
    return OrderIntent.derive(**{**order, **changes})


_NAMES = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=8)
ORDERS = st.fixed_dictionaries(
    {
        "run_id": _NAMES,
        "decision": st.integers(0, 20),
        "symbol": st.sampled_from(["A", "AB", "1", "2"]),
        "leg": _NAMES,
        "side": st.sampled_from(list(Side)),
        "quantity": st.sampled_from([Decimal(text) for text in ("1", "10", "1.5", "0.1", "100")]),
        "limit_price": st.sampled_from([None, Decimal(1), Decimal("1.5"), Decimal(10)]),
        "stop_price": st.sampled_from([None, Decimal(1), Decimal("1.5"), Decimal(10)]),
        "attempt": st.integers(1, 999),
    }
)


class TestIntentIds:
    def test_is_what_it_has_always_been(self):
        assert _derive().intent_id == _derive().intent_id
        assert INTENT.intent_id == "hfu5kv3auloz5dbfkvxrx2mwzmue"  # stored orders are found by it: it may never change
        assert TRIED_AGAIN.intent_id == "hf5g5sz2ookvvx7iorg7bflm3ay4-2"

    def test_the_first_attempt_names_the_others(self):
        ids = [_derive(attempt=attempt).intent_id for attempt in (1, 2, 999)]
        assert ids == [f"{ids[0]}{ending}" for ending in ("", "-2", "-999")]
        assert _derive().next_attempt().next_attempt() == _derive(attempt=3)
        assert {_derive(attempt=attempt).first_id for attempt in (1, 2, 999)} == {ids[0]}

    @pytest.mark.parametrize(
        "change",
        [
            {"run_id": "other"},
            {"decision": 1},
            {"symbol": "BBB"},
            {"leg": "exit"},
            {"side": Side.SELL},
            {"quantity": Decimal("1.0001")},
            {"limit_price": Decimal(8)},
            {"limit_price": None},
            {"stop_price": Decimal(9)},
            {"stop_price": Decimal(9), "limit_price": None},
            {"attempt": 2},
        ],
        ids=str,
    )
    def test_differs_with_each_part_of_the_order(self, change):
        assert _derive(**change).intent_id != _derive().intent_id

    @pytest.mark.parametrize(
        "change", [{"account": "b"}, {"reference_price": Decimal(11)}, {"reference_ns": 2}], ids=str
    )
    def test_does_not_depend_on_what_only_describes_it(self, change):
        assert _derive(**change).intent_id == _derive().intent_id

    @pytest.mark.parametrize("same", [("1.5", "1.50"), ("100", "1E+2"), ("0.1", "0.1000"), ("1000", "1000.0")])
    def test_one_number_however_written_is_one_order(self, same):
        one, other = (Decimal(text) for text in same)
        assert _derive(quantity=one).intent_id == _derive(quantity=other).intent_id
        assert _derive(limit_price=one).intent_id == _derive(limit_price=other).intent_id
        assert _derive(stop_price=one).intent_id == _derive(stop_price=other).intent_id

    def test_every_digit_counts_beyond_the_usual_precision(self):
        long = Decimal("1." + "0" * 40 + "1")
        assert _derive(quantity=long).intent_id != _derive(quantity=Decimal(1)).intent_id

    @given(ORDERS, ORDERS)
    def test_is_safe_everywhere_and_two_orders_never_share_one(self, one, other):
        first, second = _derive(**one), _derive(**other)
        assert len(first.intent_id) <= 32
        assert set(first.intent_id) <= set(string.ascii_lowercase + string.digits + "-")
        assert (first.intent_id == second.intent_id) == (one == other)


FILLS = st.lists(
    st.builds(
        Fill,
        trade_id=st.just("t"),
        client_order_id=st.just("c"),
        symbol=st.sampled_from(["A", "B", "C"]),
        side=st.sampled_from(list(Side)),
        quantity=st.decimals("0.01", "1000", places=2),
        price=st.decimals("0.01", "5000", places=2),
        fee=st.decimals("-1", "10", places=2),
        time_ns=st.just(0),
    ),
    max_size=12,
)
CASH = Decimal(100_000)
CENT_MILLIONTH = Decimal("1e-12")  # average prices are quotients, rounded in the 28th digit


def _fold(fills) -> Portfolio:
    portfolio = Portfolio("paper", CASH)
    for fill in fills:
        portfolio = portfolio.apply(fill)
    return portfolio


def _fill(side: Side, quantity: str, price: str, fee: str = "0") -> Fill:
    return Fill("t", "c", "A", side, Decimal(quantity), Decimal(price), Decimal(fee), 0)


class TestPortfolio:
    def test_starts_flat(self):
        empty = Portfolio("paper", CASH)
        assert empty.position("A") == Position("A", Decimal(0), Decimal(0))
        assert empty.equity({"A": Decimal(5)}) == CASH

    def test_adding_averages_the_cost(self):
        held = _fold([_fill(Side.BUY, "1", "10"), _fill(Side.BUY, "3", "14")])
        assert held.position("A") == Position("A", Decimal(4), Decimal(13))
        assert (held.cash, held.realised) == (CASH - 52, 0)

    def test_reducing_realises_profit_and_keeps_the_cost(self):
        held = _fold([_fill(Side.BUY, "4", "10"), _fill(Side.SELL, "1", "15", "0.5")])
        assert held.position("A") == Position("A", Decimal(3), Decimal(10))
        assert (held.realised, held.fees, held.cash) == (5, Decimal("0.5"), CASH - 40 + 15 - Decimal("0.5"))

    def test_closing_leaves_no_position(self):
        flat = _fold([_fill(Side.SELL, "2", "10"), _fill(Side.BUY, "2", "7")])
        assert (flat.positions, flat.realised) == ((), 6)

    def test_crossing_zero_realises_the_old_side_and_starts_the_new_one_at_its_price(self):
        held = _fold([_fill(Side.BUY, "2", "10"), _fill(Side.SELL, "5", "12")])
        assert held.position("A") == Position("A", Decimal(-3), Decimal(12))
        assert held.realised == 4
        back = held.apply(_fill(Side.BUY, "4", "11"))
        assert back.position("A") == Position("A", Decimal(1), Decimal(11))
        assert back.realised == 4 + 3

    def test_equity_is_marked_and_without_a_mark_counts_cost(self):
        held = _fold([_fill(Side.BUY, "2", "10")])
        assert held.equity({"A": Decimal(20)}) == CASH + 20
        assert held.equity({}) == CASH

    def test_what_is_not_realised_yet_and_what_is_exposed(self):
        short = Fill("s", "c", "B", Side.SELL, Decimal(3), Decimal(10), Decimal(0), 1)
        held = _fold([_fill(Side.BUY, "2", "10"), short])
        marks = {"A": Decimal(15), "B": Decimal(20)}
        assert (held.unrealised(marks), held.unrealised({"B": Decimal(9)}), held.unrealised({})) == (-20, 3, 0)
        assert (held.net(marks), held.gross(marks)) == (-30, 90)
        assert (held.net({}), held.gross({})) == (-10, 50)

    @given(FILLS)
    def test_what_is_realised_and_what_is_not_is_all_that_was_earned(self, fills):
        held, marks = _fold(fills), {symbol: Decimal(7) for symbol in "ABC"}
        earned = held.realised + held.unrealised(marks) - held.fees
        assert abs(held.equity(marks) - CASH - earned) < CENT_MILLIONTH
        assert abs(held.net(marks)) <= held.gross(marks)

    @given(FILLS)
    def test_cash_and_cost_always_add_up_to_what_was_put_in_and_earned(self, fills):
        held = _fold(fills)
        cost = sum((each.quantity * each.average_price for each in held.positions), Decimal(0))
        assert abs(held.cash + cost - (CASH + held.realised - held.fees)) < CENT_MILLIONTH
        assert held.fees == sum((fill.fee for fill in fills), Decimal(0))
        assert held.cash == CASH - sum(
            (fill.quantity * fill.side.sign * fill.price + fill.fee for fill in fills), Decimal(0)
        )

    @given(FILLS)
    def test_positions_are_the_net_of_the_fills_by_symbol_and_never_zero(self, fills):
        held = _fold(fills)
        symbols = [each.symbol for each in held.positions]
        assert symbols == sorted(set(symbols))
        for symbol in "ABC":
            net = sum((fill.quantity * fill.side.sign for fill in fills if fill.symbol == symbol), Decimal(0))
            assert held.position(symbol).quantity == net
            assert (symbol in symbols) == (net != 0)
            assert (held.position(symbol).average_price > 0) == (net != 0)

    @given(FILLS, st.randoms(use_true_random=False))
    def test_the_order_in_which_different_symbols_fill_changes_nothing(self, fills, order):
        queues = {symbol: [fill for fill in fills if fill.symbol == symbol] for symbol in "ABC"}
        drawn = [fill.symbol for fill in fills]
        order.shuffle(drawn)
        shuffled = [queues[symbol].pop(0) for symbol in drawn]
        one, other = _fold(fills), _fold(shuffled)
        assert (one.cash, one.positions, one.fees) == (other.cash, other.positions, other.fees)
        assert abs(one.realised - other.realised) < CENT_MILLIONTH

    @given(FILLS, st.decimals("0.01", "5000", places=2))
    def test_filling_at_the_mark_changes_equity_by_the_fee_alone(self, fills, price):
        held = _fold(fills)
        marks = dict.fromkeys("ABC", price)
        after = held.apply(Fill("t", "c", "B", Side.SELL, Decimal(7), price, Decimal("0.3"), 0))
        assert after.equity(marks) == held.equity(marks) - Decimal("0.3")
