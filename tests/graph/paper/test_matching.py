"""What prices do to orders: nothing is seen before it was there, and nothing is had for less than it cost."""

from dataclasses import replace
from decimal import Decimal

import pytest

from agents.domain import Bar, Side
from graph.paper import PaperTerms
from graph.paper.matching import Interest, Met, Path, Prices, Resting, fee_of, match, slipped
from tests.graph.paper.market import BARE, MINUTE_NS, S_NS, SEEN_NS, bar, intent, quote

BUY, SELL = Side.BUY, Side.SELL
NEVER_NS = SEEN_NS + 10**18


def order(side=BUY, quantity="2", *, limit=None, stop=None, number=1, live_s=0.0, **more) -> Resting:
    """In the book from the decision on, or seconds after."""
    times = {"after_ns": SEEN_NS, "live_ns": SEEN_NS + round(live_s * S_NS), "ends_ns": NEVER_NS}
    return Resting(intent(f"run-{number}", side, quantity, limit=limit, stop=stop), number, **times | more)


def of(found, begin_ns=SEEN_NS, terms=BARE) -> Prices:
    """A quote or a bar, of which it is known when it began."""
    return Prices.of_bar(found, begin_ns, terms) if isinstance(found, Bar) else Prices.of_quote(found)


def one(resting, found, terms=BARE, **more) -> Met | None:
    """What becomes of one order."""
    found = match([resting], of(found, terms=terms, **more), terms)
    return found[0] if found else None


def price(resting, found, **more) -> Decimal | None:
    """The price it gets; None where it gets none."""
    met = one(resting, found, **more)
    return met.price if met is not None and met.quantity else None


class TestTime:
    """No price from before an order was there does anything to it."""

    @pytest.mark.parametrize(("at_s", "fills"), [(0.0, False), (0.1, False), (0.2, True), (5.0, True)])
    def test_an_order_is_filled_by_prices_from_after_its_arrival_on(self, at_s, fills):
        assert (price(order(live_s=0.2), quote("99", "101", at_s)) is not None) is fills

    def test_the_price_that_was_known_when_it_was_sent_never_fills_it_however_fast_it_is(self):
        assert price(order(live_s=0), quote("99", "101", at_s=0)) is None

    @pytest.mark.parametrize("kind", [{}, {"limit": "101"}, {"stop": "99"}, {"stop": "99", "limit": "101"}])
    def test_an_order_that_comes_while_a_bar_is_under_way_sees_its_close_alone(self, kind):
        low, high = order(live_s=30, **kind), order(SELL, live_s=30, **kind)
        assert price(low, bar("98 110 90 100")) == 100
        if not kind:
            assert price(high, bar("98 110 90 100")) == 100

    def test_so_it_does_where_it_is_not_known_when_the_bar_began(self):
        assert price(order(), bar("98 110 90 100"), begin_ns=None) == 100
        assert price(order(limit="95"), bar("98 110 90 100"), begin_ns=None) is None

    def test_one_that_was_there_before_sees_all_of_it(self):
        assert price(order(), bar("98 110 90 100")) == 98
        assert price(order(limit="95"), bar("98 110 90 100")) == 95

    @pytest.mark.parametrize(("ends_s", "ended"), [(1, True), (1.5, False)])
    def test_one_whose_time_is_over_is_not_filled_any_more(self, ends_s, ended):
        met = one(order(limit="101", ends_ns=SEEN_NS + round(ends_s * S_NS)), quote("99", at_s=1))
        assert (met.ended, met.quantity) == ((True, 0) if ended else (False, 2))


class TestMarketOrders:
    def test_pay_the_ask_and_get_the_bid(self):
        assert (price(order(), quote("99", "101")), price(order(SELL), quote("99", "101"))) == (101, 99)

    def test_are_filled_at_the_open_of_the_next_bar(self):
        assert price(order(), bar("98 110 90 100")) == price(order(SELL), bar("98 110 90 100")) == 98

    def test_slip_and_pay_the_spread_that_a_bar_has_not(self):
        terms = replace(BARE, slippage_bps=Decimal(10), spread_bps=Decimal(20))
        flat = bar("100 100 100 100")
        assert price(order(), flat, terms=terms) == Decimal("100.1") * Decimal("1.001")
        assert price(order(SELL), flat, terms=terms) == Decimal("99.9") * Decimal("0.999")
        assert price(order(), quote("99", "100"), terms=terms) == Decimal("100.1")

    @pytest.mark.parametrize("text", ["0.00000012345678", "12345678901234567.12345678", "1E+30", "1E-30"])
    def test_prices_of_all_sizes(self, text):
        paid = price(order(), quote(text), terms=replace(BARE, slippage_bps=Decimal(1)))
        assert abs(paid / Decimal(text) - Decimal("1.0001")) < Decimal("1e-10")


class TestLimitOrders:
    @pytest.mark.parametrize(
        ("side", "limit", "ask_or_bid", "fills"),
        [
            (BUY, "100", "100.01", False),
            (BUY, "100", "100", True),
            (BUY, "100", "99", True),
            (SELL, "100", "99.99", False),
            (SELL, "100", "100", True),
            (SELL, "100", "101", True),
        ],
    )
    def test_are_filled_where_the_price_comes_to_them_and_not_before(self, side, limit, ask_or_bid, fills):
        waiting = order(side, limit=limit, rested=True)
        assert price(waiting, quote(ask_or_bid)) == (Decimal(ask_or_bid) if fills else None)

    @pytest.mark.parametrize(("side", "gets"), [(BUY, "99.0099"), (SELL, "98.9901")])
    def test_take_the_price_that_is_there_when_they_come_if_it_is_better(self, side, gets):
        limit = "100" if side is BUY else "98"
        assert price(order(side, limit=limit), quote("99"), terms=replace(BARE, slippage_bps=Decimal(1))) == Decimal(
            gets
        )

    @pytest.mark.parametrize(("side", "limit"), [(BUY, "99.005"), (SELL, "98.995")])
    def test_do_not_slip_beyond_themselves(self, side, limit):
        slow = replace(BARE, slippage_bps=Decimal(1))
        assert price(order(side, limit=limit), quote("99"), terms=slow) == Decimal(limit)

    def test_one_that_has_waited_gets_its_own_price_or_where_that_was_left_out_the_worst_there_was(self):
        met = one(order(limit="100"), quote("102"))
        assert (met.order.rested, met.quantity) == (True, 0)
        assert price(met.order, quote("90", at_s=2)) == 90
        assert price(met.order, bar("90 95 85 92")) == 95
        assert price(met.order, bar("90 105 85 92")) == 100

    def test_one_that_waits_already_is_not_changed_by_prices_that_do_not_reach_it(self):
        assert one(order(limit="100", rested=True), quote("102")) is None

    @pytest.mark.parametrize(
        ("side", "limit", "gets"),
        [
            (BUY, "96", "96"),
            (BUY, "94", None),
            (BUY, "99", "98"),
            (SELL, "105", "105"),
            (SELL, "111", None),
            (SELL, "97", "98"),
        ],
    )
    def test_in_a_bar(self, side, limit, gets):
        found = price(order(side, limit=limit), bar("98 110 95 100"))
        assert found == (None if gets is None else Decimal(gets))

    def test_takers_and_makers_pay_their_own_fees(self):
        terms = replace(BARE, taker_fee_bps=Decimal(10), maker_fee_bps=Decimal(-5))
        taken = one(order(limit="100"), quote("100"), terms)
        waited = one(order(limit="100", rested=True), quote("100"), terms)
        assert (taken.fee, waited.fee) == (Decimal("0.2"), Decimal("-0.1"))
        assert one(order(), quote("100"), terms).fee == Decimal("0.2")


class TestStops:
    @pytest.mark.parametrize(
        ("side", "stop", "found", "gets"),
        [
            (BUY, "105", quote("104", "104.9"), None),
            (BUY, "105", quote("104", "105"), "105"),
            (BUY, "105", quote("107", "108"), "108"),
            (SELL, "95", quote("95.1", "96"), None),
            (SELL, "95", quote("95", "96"), "95"),
            (SELL, "95", quote("91", "92"), "91"),
        ],
    )
    def test_a_quote_at_or_beyond_it_triggers_it_and_is_what_it_gets(self, side, stop, found, gets):
        assert price(order(side, stop=stop), found) == (None if gets is None else Decimal(gets))

    @pytest.mark.parametrize(
        ("side", "stop", "gets"),
        [
            (SELL, "96", "96"),  # on the way: at the stop
            (SELL, "99", "98"),  # it opened beyond: at the open, and not at the stop
            (SELL, "94", None),
            (BUY, "105", "105"),
            (BUY, "97", "98"),
            (BUY, "111", None),
        ],
    )
    def test_in_a_bar_a_gap_is_filled_at_the_open_and_not_at_the_stop(self, side, stop, gets):
        found = price(order(side, stop=stop), bar("98 110 95 100"))
        assert found == (None if gets is None else Decimal(gets))

    def test_it_slips(self):
        terms = replace(BARE, slippage_bps=Decimal(10))
        assert price(order(SELL, stop="96"), bar("98 110 95 100"), terms=terms) == Decimal("95.904")

    def test_what_the_volume_did_not_fill_goes_at_the_next_price_wherever_that_is(self):
        first = one(order(SELL, "10", stop="96"), bar("98 110 95 100", volume="4"))
        assert (first.quantity, first.price, first.order.triggered) == (4, 96, True)
        second = one(first.order, bar("101 110 100 105", 2, volume="100"), begin_ns=SEEN_NS + MINUTE_NS)
        assert (second.quantity, second.price, second.order.left) == (6, 101, 0)

    def test_nothing_happens_to_one_that_is_not_reached(self):
        assert one(order(SELL, stop="94"), bar("98 110 95 100")) is None


class TestStopLimits:
    @pytest.mark.parametrize(
        ("side", "stop", "limit", "gets"),
        [
            (BUY, "105", "106", "105"),  # on the way, and allowed
            (BUY, "105", "104", None),  # on the way, and what came before is not known to have come after
            (BUY, "97", "99", "98"),  # it opened beyond the stop, within the limit
            (BUY, "97", "97", "97"),  # it opened beyond both, and came back
            (BUY, "90", "94", None),  # it opened beyond both, and did not
            (BUY, "111", "112", None),
            (SELL, "96", "95", "96"),
            (SELL, "96", "97", None),
            (SELL, "99", "97", "98"),
            (SELL, "99", "99", "99"),
        ],
    )
    def test_in_a_bar(self, side, stop, limit, gets):
        found = price(order(side, stop=stop, limit=limit), bar("98 110 95 100"))
        assert found == (None if gets is None else Decimal(gets))

    def test_a_gap_beyond_the_limit_leaves_it_resting_as_a_limit_order(self):
        met = one(order(SELL, stop="95", limit="94"), quote("90"))
        assert (met.quantity, met.order.triggered, met.order.rested) == (0, True, True)
        assert price(met.order, quote("93.99", at_s=2)) is None
        assert price(met.order, quote("94", at_s=3)) == 94

    def test_it_does_not_slip_beyond_its_limit(self):
        terms = replace(BARE, slippage_bps=Decimal(1000))
        assert price(order(BUY, stop="105", limit="106"), bar("98 110 95 100"), terms=terms) == 106


class TestVolume:
    def test_all_orders_together_get_their_share_of_a_bar_in_the_order_of_arrival(self):
        terms = replace(BARE, participation=Decimal("0.1"))
        waiting = [order(quantity="6", number=2), order(SELL, quantity="6", number=1), order(quantity="1", number=3)]
        found = match(waiting, of(bar("98 110 90 100", volume="80"), terms=terms), terms)
        assert [(met.order.number, met.quantity) for met in found] == [(1, 6), (2, 2)]

    def test_stops_come_before_targets(self):
        target, stop = order(SELL, "4", limit="105", number=1), order(SELL, "4", stop="96", number=2)
        found = match([target, stop], of(bar("98 110 95 100", volume="5")), BARE)
        assert [(met.order.number, met.quantity, met.price) for met in found] == [(2, 4, 96), (1, 1, 105)]

    def test_of_a_quote_each_side_has_its_own(self):
        waiting = [order(quantity="3", number=1), order(SELL, "3", number=2), order(quantity="3", number=3)]
        found = match(waiting, of(quote("99", "101", sizes=("2", "4"))), BARE)
        assert [(met.order.number, met.quantity) for met in found] == [(1, 3), (2, 2), (3, 1)]

    @pytest.mark.parametrize(("quantity", "filled"), [("10", "3"), ("10.0", "3.7"), ("10.00", "3.75"), ("1E+1", "3")])
    def test_no_smaller_pieces_than_the_order_is_written_in(self, quantity, filled):
        assert one(order(quantity=quantity), bar("1 1 1 1", volume="3.759")).quantity == Decimal(filled)

    def test_nothing_of_a_bar_without_trades_and_all_of_one_that_does_not_tell(self):
        assert one(order(), bar("98 110 90 100", volume="0")) is None
        assert one(order(quantity="1000000"), bar("98 110 90 100")).order.left == 0

    def test_an_order_that_took_a_part_goes_on_taking_and_does_not_wait_at_its_limit(self):
        first = one(order(quantity="10", limit="110"), quote("100", sizes=("0", "4")))
        assert (first.quantity, first.price) == (4, 100)
        assert price(first.order, quote("101", at_s=2)) == 101

    def test_every_digit_of_a_quantity_counts(self):
        long = "1." + "0" * 38 + "1"
        first = one(order(quantity=long), quote("1", sizes=("0", "1")))
        assert str(first.order.left) == "1E-39"
        assert one(first.order, quote("1", at_s=2)).order.left == 0


class TestPrices:
    def test_of_a_quote_are_one_moment(self):
        found = of(quote("99", "101", 2, sizes=("3", "4")))
        assert (found.bid, found.ask) == (Path(*[Decimal(99)] * 4), Path(*[Decimal(101)] * 4))
        assert (found.time_ns, found.begin_ns, found.shared) == (SEEN_NS + 2 * S_NS, SEEN_NS + 2 * S_NS, False)
        assert found.room == {BUY: 4, SELL: 3}

    def test_of_a_bar_are_a_spread_apart(self):
        terms = PaperTerms(spread_bps=Decimal(100), participation=Decimal("0.5"))
        found = of(bar("100 110 90 100", volume="7"), terms=terms)
        assert found.bid == Path(*map(Decimal, ("99.5", "89.55", "109.45", "99.5")))
        assert found.ask == Path(*map(Decimal, ("100.5", "90.45", "110.55", "100.5")))
        assert (found.room, found.shared) == ({BUY: Decimal("3.5"), SELL: Decimal("3.5")}, True)


def test_fees_and_slippage():
    terms = PaperTerms(slippage_bps=Decimal(2))
    assert (slipped(Decimal(100), BUY, terms), slipped(Decimal(100), SELL, terms)) == (
        Decimal("100.02"),
        Decimal("99.98"),
    )
    assert fee_of(Decimal(3), Decimal("0.1"), Decimal(1)) == Decimal("0.00003")
    assert fee_of(Decimal("1e30"), Decimal("1e30"), Decimal(1)) == Decimal("1e56")


class TestInterest:
    """It may say too often that prices matter, and never too rarely."""

    KINDS = (
        {},
        {"limit": "98"},
        {"limit": "98", "rested": True},
        {"stop": "102"},
        {"stop": "102", "limit": "103"},
        {"stop": "102", "triggered": True},
        {"stop": "102", "limit": "103", "triggered": True, "rested": True},
    )

    @pytest.mark.parametrize("kind", KINDS, ids=str)
    @pytest.mark.parametrize("side", list(Side))
    def test_prices_that_do_not_wake_it_do_nothing(self, side, kind):
        waiting = [order(side, live_s=2, ends_ns=SEEN_NS + 8 * S_NS, **kind)]
        interest, slept = Interest.of(waiting), 0
        for at_s in (0, 1, 2, 3, 8, 9):
            for bid in range(90, 111):
                found = quote(str(bid), str(bid + 1), at_s)
                if not interest.wakes(found.time_ns, found.bid, found.ask):
                    slept += 1
                    assert match(waiting, of(found), BARE) == []
        assert slept

    def test_nobody_is_woken_for_nothing(self):
        assert not Interest().wakes(NEVER_NS, Decimal("1e-9"), Decimal("1e9"))
        far = [order(limit="50", rested=True, number=1), order(SELL, limit="150", rested=True, number=2)]
        far += [order(stop="160", number=3), order(SELL, stop="40", number=4)]
        interest = Interest.of(far)
        assert (interest.below, interest.above, interest.due_ns) == (50, 150, NEVER_NS)
        assert not interest.wakes(NEVER_NS - 1, Decimal(51), Decimal(149))
        assert interest.wakes(NEVER_NS - 1, Decimal(50), Decimal(60))
        assert interest.wakes(NEVER_NS - 1, Decimal(140), Decimal(150))
        assert interest.wakes(NEVER_NS, Decimal(60), Decimal(60))
