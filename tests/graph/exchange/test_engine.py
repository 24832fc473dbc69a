"""Matching, fees, stops, and that nothing is ever made or lost."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graph.exchange.fixed import SCALE
from graph.exchange.refusal import Refusal
from tests.graph.exchange.conftest import Market, fixed


def code_of(act):
    with pytest.raises(Refusal) as refused:
        act()
    return refused.value.code, refused.value.text


class TestMatching:
    def test_better_prices_first_and_earlier_orders_first(self, market):
        for name, price in (("late", 101), ("first", 100), ("second", 100)):
            market.submit("sell", 1, price, owner="you", name=name)
        market.submit("buy", "2.5", name="taker")
        fills = [(who, str(each.price / SCALE)) for who, what, _, each in market.ear.reports if what == "TRADE"]
        assert [who for who, _ in fills] == ["first", "taker", "second", "taker", "late", "taker"]
        assert [price for who, price in fills if who == "taker"] == ["100.0", "100.0", "101.0"]

    def test_a_limit_takes_what_it_may_and_rests_with_what_is_left(self, market):
        market.submit("sell", 1, 100, owner="you")
        market.submit("sell", 1, 102, owner="you")
        order = market.submit("buy", 3, 101)
        assert (order.status, order.executed, order.left) == ("PARTIALLY_FILLED", fixed(1), fixed(2))
        assert market.engine.book.top == (fixed(101), fixed(2), fixed(102), fixed(1))

    def test_a_queue_is_served_before_whoever_came_later(self, market):
        ahead = market.crowd("buy", 5, 99)
        mine = market.submit("buy", 2, 99)
        market.crowd("sell", 6)
        assert (ahead.left, mine.executed, mine.status) == (0, fixed(1), "PARTIALLY_FILLED")

    def test_what_a_market_order_does_not_get_expires(self, market):
        market.crowd("sell", 1, 100)
        order = market.submit("buy", 3, name="m")
        assert (order.status, order.executed) == ("EXPIRED", fixed(1))
        assert [what for who, what, _, _ in market.ear.reports] == ["NEW", "TRADE", "EXPIRED"]

    def test_a_budget_is_spent_in_whole_steps(self, market):
        market.crowd("sell", 1, 100)
        market.crowd("sell", 5, 101)
        order = market.submit("buy", 0, budget="150.5")
        assert order.status == "FILLED"
        assert order.spent <= fixed("150.5")
        assert order.quantity == order.executed == fixed("1.5")

    @pytest.mark.parametrize(("tif", "status", "got"), [("IOC", "EXPIRED", 1), ("FOK", "EXPIRED", 0)])
    def test_immediate_or_cancel_and_fill_or_kill(self, market, tif, status, got):
        market.crowd("sell", 1, 100)
        order = market.submit("buy", 2, 100, tif=tif)
        assert (order.status, order.executed) == (status, fixed(got))
        assert market.engine.book.bids.best == 0
        whole = market.submit("buy", 1, 100, tif="FOK") if tif == "FOK" else None
        assert whole is None or whole.status == "FILLED"

    def test_nobody_trades_with_himself(self, market):
        mine = market.submit("sell", 1, 100, name="old")
        market.crowd("sell", 1, 100)
        taker = market.submit("buy", 1, 100, name="new")
        assert (mine.status, taker.status, mine.executed) == ("EXPIRED_IN_MATCH", "FILLED", 0)
        assert market.locked("me", "BTC") == 0

    def test_one_taking_is_one_price(self, market):
        for price in (100, 100, 101):
            market.crowd("sell", 1, price)
        market.submit("buy", 3)
        assert [[each.price // SCALE for each in taking] for taking in market.ear.takings] == [[100, 100], [101]]

    def test_a_cancelled_order_is_gone(self, market):
        order = market.submit("buy", 1, 99, name="x")
        market.engine.cancel(order, market.now_ms)
        assert (order.status, market.locked("me", "USDT"), market.engine.book.bids.best) == ("CANCELED", 0, 0)


class TestMoney:
    def test_a_buyer_pays_in_quote_and_his_fee_in_what_he_gets(self, market):
        market.crowd("sell", 1, 100)
        market.submit("buy", 1)
        assert market.free("me", "USDT") == 100_000 - 100
        assert market.free("me", "BTC") == 1_000 + 1 - Decimal("0.001")

    def test_a_seller_pays_his_fee_in_quote(self, market):
        market.submit("sell", 1, 100, owner="you")
        assert market.locked("you", "BTC") == 1
        market.crowd("buy", 1)
        assert market.free("you", "USDT") == 100_000 + 100 - Decimal("0.1")
        assert (market.free("you", "BTC"), market.locked("you", "BTC")) == (999, 0)

    def test_a_better_price_gives_back_what_was_set_aside_for_a_worse_one(self, market):
        market.crowd("sell", 1, 100)
        market.submit("buy", 2, 105)
        assert market.locked("me", "USDT") == 105
        assert market.free("me", "USDT") == 100_000 - 100 - 105

    def test_who_has_not_enough_is_refused_and_nothing_has_happened(self, market):
        market.crowd("sell", 100_000, 100)
        text = "Account has insufficient balance for requested action."
        assert code_of(lambda: market.submit("buy", 1_001, 100)) == (-2010, text)
        assert code_of(lambda: market.submit("buy", 1_001)) == (-2010, text)
        assert code_of(lambda: market.submit("sell", 1_001, 100)) == (-2010, text)
        assert market.ear.reports == []
        assert (market.free("me", "USDT"), market.locked("me", "USDT")) == (100_000, 0)


class TestFilters:
    @pytest.mark.parametrize(
        ("given", "failure"),
        [
            (("buy", 1, "100.001"), "PRICE_FILTER"),
            (("buy", 1, "151"), "PERCENT_PRICE_BY_SIDE"),
            (("buy", 1, "49"), "PERCENT_PRICE_BY_SIDE"),
            (("buy", "0.000001", 100), "LOT_SIZE"),
            (("buy", "9001", 100), "LOT_SIZE"),
            (("buy", "0.01", 100), "NOTIONAL"),
        ],
    )
    def test_each_filter(self, market, given, failure):
        assert code_of(lambda: market.submit(*given)) == (-1013, f"Filter failure: {failure}")

    def test_an_order_that_must_wait_may_not_take(self, market):
        market.crowd("sell", 1, 100)
        assert code_of(lambda: market.submit("buy", 1, 100, kind="LIMIT_MAKER"))[0] == -2010
        assert market.submit("buy", 1, 99, kind="LIMIT_MAKER").status == "NEW"

    def test_a_market_order_needs_somebody(self, market):
        assert code_of(lambda: market.submit("buy", 1))[0] == -2010


class TestStops:
    def test_a_stop_loss_sells_when_the_price_has_fallen_to_it(self, market):
        for price in (98, 97):
            market.crowd("buy", 3, price)
        stop = market.submit("sell", 1, kind="STOP_LOSS", stop=98, name="s")
        assert (stop.waits, market.locked("me", "BTC")) == (True, 1)
        market.crowd("sell", 1)
        assert (stop.status, stop.executions[0].price) == ("FILLED", fixed(98))
        assert market.locked("me", "BTC") == 0

    def test_a_take_profit_sells_when_the_price_has_risen_and_rests_at_its_limit(self, market):
        market.crowd("sell", 1, 103)
        stop = market.submit("sell", 1, 104, kind="TAKE_PROFIT_LIMIT", stop=103)
        market.crowd("buy", 1)
        assert (stop.status, stop.waits, market.engine.book.asks.best) == ("NEW", False, fixed(104))

    def test_one_stop_can_set_off_another(self, market):
        market.crowd("buy", 1, 99)
        market.crowd("buy", 1, 98)
        market.crowd("buy", 9, 97)
        stops = [market.submit("sell", 1, kind="STOP_LOSS", stop=price) for price in (99, 98)]
        market.crowd("sell", 1)
        assert [each.status for each in stops] == ["FILLED", "FILLED"]
        assert [each.executions[0].price // SCALE for each in stops] == [98, 97]

    @pytest.mark.parametrize(("side", "kind", "stop"), [("sell", "STOP_LOSS", 100), ("buy", "TAKE_PROFIT", 101)])
    def test_one_that_would_go_off_at_once_is_refused(self, market, side, kind, stop):
        refused = code_of(lambda: market.submit(side, 1, kind=kind, stop=stop))
        assert refused == (-2010, "Order would trigger immediately.")

    def test_a_buy_stop_that_has_become_too_dear_expires(self, market):
        stop = market.submit("buy", 900, kind="STOP_LOSS", stop=110)
        market.crowd("sell", 1, 110)
        market.crowd("sell", 2_000, 120)
        market.crowd("buy", 1)
        assert (stop.status, stop.executed, market.locked("me", "USDT")) == ("EXPIRED", 0, 0)

    def test_it_can_be_cancelled_before(self, market):
        stop = market.submit("sell", 1, kind="STOP_LOSS", stop=90)
        market.engine.cancel(stop, market.now_ms)
        market.crowd("buy", 5, 80)
        market.crowd("sell", 1)
        assert (stop.status, market.free("me", "BTC")) == ("CANCELED", 1_000)


class TestWhatShouldNotHappen:
    def test_a_fill_while_it_is_being_cancelled(self, market):
        order = market.submit("buy", 2, 99)
        market.engine.fill_now(order, market.now_ms)
        assert (order.status, order.open, market.engine.book.bids.best) == ("FILLED", False, 0)

    def test_a_fill_after_it_was_cancelled(self, market):
        order = market.submit("buy", 2, 99, name="x")
        market.engine.cancel(order, market.now_ms)
        market.engine.fill_late(order, fixed("0.5"), market.now_ms)
        assert (order.status, order.executed) == ("CANCELED", fixed("0.5"))
        market.engine.fill_late(order, fixed("1.5"), market.now_ms)
        assert (order.status, order.left) == ("FILLED", 0)
        assert market.free("me", "USDT") == 100_000 - 2 * 99


orders = st.tuples(
    st.sampled_from(["me", "you", ""]),
    st.sampled_from(["buy", "sell"]),
    st.integers(1, 40).map(lambda n: n / 4),
    st.sampled_from([0, 97, 98, 99, 100, 101, 102, 103]),
    st.sampled_from(["GTC", "IOC", "FOK"]),
    st.sampled_from(["LIMIT", "STOP_LOSS", "TAKE_PROFIT", "STOP_LOSS_LIMIT", "cancel", "late"]),
    st.sampled_from([96, 98, 102, 104]),
)


@settings(max_examples=200)
@given(st.lists(orders, max_size=40))
def test_whatever_is_ordered_money_and_goods_stay_what_they_are(steps):
    """Sums over both clients: what they own, plus fees, plus what went to or came from the crowd."""
    market = Market()
    placed = []
    for owner, side, quantity, price, tif, kind, stop in steps:
        try:
            if kind in {"cancel", "late"}:
                _cancel(market, placed, late=kind == "late")
            elif not owner:
                market.crowd(side, quantity, price)
            else:
                priced = price if kind in {"LIMIT", "STOP_LOSS_LIMIT"} else 0
                named = kind if kind != "LIMIT" or priced else "MARKET"
                stopped = 0 if named in {"LIMIT", "MARKET"} else stop
                if kind == "STOP_LOSS_LIMIT" and not priced:
                    continue
                placed.append(market.submit(side, quantity, priced, owner=owner, kind=named, tif=tif, stop=stopped))
        except Refusal:
            continue
        _check(market, placed)


def _cancel(market, placed, *, late):
    resting = [order for order in placed if order.open]
    if resting:
        order = resting[0]
        market.engine.cancel(order, market.now_ms)
        if late and not order.waits:
            market.engine.fill_late(order, order.left, market.now_ms)


def _check(market, placed):
    for name, account in market.accounts.items():
        mine = [order for order in placed if order.owner == name]
        for asset, opening in (("USDT", 100_000 * SCALE), ("BTC", 1_000 * SCALE)):
            held = account.balance(asset)
            moved = sum(_moved(order, each, asset) for order in mine for each in order.executions)
            assert held.free + held.locked == opening + moved
            needed = sum(order.locked for order in mine if order.buy == (asset == "USDT"))
            assert held.locked == needed
    for order in placed:
        assert order.executed == sum(each.quantity for each in order.executions) <= order.quantity
        assert order.open or order.locked == 0
    bid, _, ask, _ = market.engine.book.top
    assert not (bid and ask) or bid < ask


def _moved(order, each, asset):
    if asset == "BTC":
        return each.quantity - each.fee if order.buy else -each.quantity
    return -each.quote if order.buy else each.quote - each.fee
