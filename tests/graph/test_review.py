"""What an order meets: nothing that the ledger, the bars or a quote can tell is left at its default."""

from dataclasses import fields, replace
from decimal import Decimal

import pytest

from agents.domain import Fill, OrderIntent, Portfolio, Quote, Side, TradingState
from agents.errors import InvalidValue
from agents.risk import NO_REFERENCE, OwnOrder, Proposal, RiskLimits
from checkpoints.books import Opening
from checkpoints.ledger import Account
from checkpoints.trading_state import Trading
from graph.review import Mark, Scene, _proposal, review, throttled

DAY_NS = 86_400 * 10**9
S_NS = 10**9
LIMITS = RiskLimits(concentration_share_max=10, gross_share_max=10)


def portfolio(*trades):
    made = Portfolio("paper", Decimal(10_000))
    for number, (symbol, quantity, price) in enumerate(trades):
        side = Side.BUY if quantity > 0 else Side.SELL
        amount = Decimal(abs(quantity))
        made = made.apply(Fill(f"t{number}", "c", symbol, side, amount, Decimal(price), Decimal(0), 1))
    return made


def books(*trades, opening=None, **more):
    prices = {symbol: Decimal(price) for symbol, _, price in trades}
    usual = {
        "portfolio": portfolio(*trades),
        "opening": opening or Opening(Decimal(10_000)),
        "live": {},
        "closable": Decimal(0),
        "trading": Trading(TradingState.ACTIVE, "new", "", "", 0),
        "prices": prices,
    }
    return Account(**usual | more)


def intent(scene, side=Side.BUY, quantity="2", **more):
    return OrderIntent.derive(
        run_id="run-1",
        account="paper",
        symbol=scene.view.symbol,
        side=side,
        quantity=Decimal(quantity),
        reference_price=scene.view.last_price,
        reference_ns=scene.time_ns,
        **more,
    )


def proposed(scene, account, side=Side.BUY, quantity="2", **more):
    return _proposal(intent(scene, side, quantity, **more), Decimal(quantity), scene, account)


def quote(bid="99", ask="101", time_ns=0, symbol="SIM"):
    return Quote(symbol, time_ns, Decimal(bid), Decimal(ask))


@pytest.fixture
def minutes(flat):
    """A view of minute bars that ends at noon of day 20,000."""

    def make(closes=(100.0,) * 120, **more):
        view = flat(closes=closes, **more)
        noon_ns = 20_000 * DAY_NS + DAY_NS // 2
        times = tuple(noon_ns - 60 * S_NS * (len(closes) - 1 - number) for number in range(len(closes)))
        return replace(view, close_ns=times, period_ns=60 * S_NS)

    return make


class TestProposal:
    def test_all_of_it_has_a_source(self, minutes):
        """None of the fields that have a default is left at it, but for prices that the order does not have."""
        view = minutes()
        now_ns = view.as_of_ns + 5 * S_NS
        others = (OwnOrder("SIM", Side.SELL, 1, 1, now_ns),)
        careful = Trading(TradingState.REDUCING, "operator", "anna", "news", 1)
        account = books(
            ("SIM", 2, "90"), ("BBB", -3, "50"), orders=others, peak=Decimal(1), rejects_in_row=2, trading=careful
        )
        scene = Scene(view, quote(time_ns=now_ns - S_NS), now_ns, {"BBB": Mark(Decimal(60), Decimal(55))})
        made = proposed(scene, account, limit_price=Decimal(98), stop_price=Decimal(97))
        usual = {each.name: each.default for each in fields(Proposal)}
        assert [name for name, default in usual.items() if getattr(made, name) == default] == []
        assert (made.price, made.reference_price, made.reference_ns) == (100, 100, now_ns - S_NS)
        assert (made.time_ns, made.period_ns, made.held, made.quantity) == (now_ns, 60 * S_NS, 2, 2)
        assert [(each.symbol, each.quantity, each.price) for each in made.others] == [("BBB", -3, 60)]
        assert made.equity == 10_000 - 2 * 90 + 3 * 50 + 2 * 100 - 3 * 60
        assert (made.trading, made.trading_why) == (TradingState.REDUCING, "news")

    def test_a_symbol_of_which_nothing_is_told_counts_at_its_last_fill(self, minutes):
        account = books(("BBB", 3, "50"), ("BBB", 1, "70"))
        made = proposed(Scene(minutes()), account)
        assert made.equity == 10_000 - 3 * 50 - 70 + 4 * 70
        assert [each.price for each in made.others] == [70]

    def test_without_a_quote_only_an_order_with_a_price_of_its_own_has_a_reference(self, minutes):
        view = minutes()
        assert proposed(Scene(view), books()).reference_price == NO_REFERENCE
        assert proposed(Scene(view), books(), stop_price=Decimal(90)).reference_price == NO_REFERENCE
        made = proposed(Scene(view, now_ns=view.as_of_ns + 61 * S_NS), books(), limit_price=Decimal(99))
        assert (made.reference_price, made.reference_ns) == (100, view.as_of_ns)

    @pytest.mark.parametrize(("age_s", "passed"), [(0, True), (60, True), (61, False), (-61, False)])
    def test_the_age_of_a_quote_counts(self, minutes, age_s, passed):
        view = minutes()
        scene = Scene(view, quote(time_ns=view.as_of_ns - age_s * S_NS), view.as_of_ns)
        checks = {each.name: each for each in review(intent(scene), Decimal(2), scene, books(), LIMITS)}
        assert checks["price_collar"].passed is passed

    def test_a_quote_far_from_what_the_decision_saw_refuses_it(self, minutes):
        view = minutes()
        scene = Scene(view, quote("109", "110", view.as_of_ns), view.as_of_ns)
        failed = [each.name for each in review(intent(scene), Decimal(2), scene, books(), LIMITS) if not each.passed]
        assert failed == ["price_collar"]

    def test_the_quote_of_another_symbol_is_a_mistake(self, minutes):
        with pytest.raises(InvalidValue, match="a quote of BBB came with an order in SIM; nothing was ordered"):
            Scene(minutes(), quote(symbol="BBB"))

    @pytest.mark.parametrize("now_ns", [-1, 2**63, 1.5, True])
    def test_a_time_that_is_none_is_a_mistake(self, minutes, now_ns):
        with pytest.raises(InvalidValue, match="now_ns is"):
            Scene(minutes(), now_ns=now_ns)

    @pytest.mark.parametrize("quantity", [*map(Decimal, ("NaN", "sNaN", "Infinity", "-1", "0")), 2, 2.5, None, "2"])
    def test_a_quantity_that_is_none_is_nothing_to_order(self, minutes, quantity):
        left = throttled(quantity, Decimal(-3), 1, Scene(minutes()), LIMITS)
        assert (left.quantity, "is nothing to order" in left.reasons[0]) == (0, True)

    @pytest.mark.parametrize("held", [Decimal("NaN"), Decimal("sNaN"), None])
    def test_a_position_that_is_no_number_closes_nothing(self, minutes, held):
        wild = Scene(minutes(), quote("90", "110"))
        assert throttled(Decimal(2), held, 1, wild, LIMITS) == throttled(Decimal(2), Decimal(0), 1, wild, LIMITS)
        assert throttled(Decimal(2), Decimal(-3), 1, wild, LIMITS).quantity == 2


class TestDay:
    """The day of the account: all its symbols, since the order's own market began its day."""

    def test_other_symbols_count_by_their_marks(self, minutes):
        account = books(
            ("SIM", 1, "100"),
            ("BBB", 10, "50"),
            opening=Opening(Decimal(10_000) - 500, {"BBB": Decimal(10)}, {"BBB": Decimal(50)}),
        )
        fallen = Scene(minutes(), marks={"BBB": Mark(Decimal(40), Decimal(60))})
        assert proposed(fallen, account).day_profit == -200
        assert proposed(Scene(minutes(), marks={"BBB": Mark(Decimal(40))}), account).day_profit == -100
        assert proposed(Scene(minutes()), account).day_profit == 0

    def test_the_symbols_own_close_of_before_the_day_counts(self, minutes):
        held = {"opening": Opening(Decimal(9_000), {"SIM": Decimal(10)}, {"SIM": Decimal(100)})}
        account = books(("SIM", 10, "100"), **held)
        closes = (110.0,) * 60 + (90.0,) * 60  # the day of UTC began before all of them
        assert proposed(Scene(minutes(closes)), account).day_profit == -100
        currency = Scene(minutes(closes, calendar="XTKS"), now_ns=20_000 * DAY_NS + DAY_NS // 2)
        assert currency.day_ns == 20_000 * DAY_NS  # Tokyo opens at 00:00 UTC
        yesterday = replace(minutes(closes), close_ns=tuple(20_000 * DAY_NS + (n - 60) * 60 * S_NS for n in range(120)))
        assert proposed(Scene(yesterday), account).day_profit == -200  # since 110, and not since what was paid

    def test_it_is_the_exchanges_own(self, minutes):
        """16:00 UTC in New York: a session that began at 13:30, and a day of UTC that began long before."""
        view = replace(minutes(), calendar="XNYS")  # day 20,000 is Friday, 4 October 2024
        assert Scene(view).day_ns == 20_000 * DAY_NS - DAY_NS + 48_600 * S_NS  # noon: that session is to come
        later = Scene(view, now_ns=20_000 * DAY_NS + 16 * 3600 * S_NS)
        assert later.day_ns == 20_000 * DAY_NS + 48_600 * S_NS
        assert later.look(LIMITS) == (later.day_ns, 60 * S_NS)
        assert Scene(replace(view, period_ns=DAY_NS)).day_ns == 20_000 * DAY_NS

    def test_an_order_that_goes_now_is_asked_for_its_minute(self, flat):
        """Daily bars have a decision of the day; whether the market is open is a matter of the moment."""
        view = flat(calendar="XNYS", last_day=20_000)
        night_ns = 20_000 * DAY_NS + 3600 * S_NS
        for now_ns, passed in ((None, True), (night_ns, False), (night_ns + 13 * 3600 * S_NS, True)):
            scene = Scene(view, now_ns=now_ns)
            checks = review(intent(scene), Decimal(2), scene, books(), LIMITS)
            assert [each.passed for each in checks if each.name == "market_hours"] == [passed]


class TestThrottle:
    def test_a_wide_spread_shrinks_what_opens_and_leaves_what_closes(self, minutes):
        view = minutes()
        wide = Scene(view, quote("99.9", "100.3"))  # 40 basis points, twice what is allowed
        assert throttled(Decimal(10), Decimal(0), 1, wide, RiskLimits()).quantity == Decimal("5.0050")
        assert throttled(Decimal(10), Decimal(-10), 1, wide, RiskLimits()).quantity == 10
        assert throttled(Decimal(10), Decimal(10), -1, wide, RiskLimits()).quantity == 10
        assert throttled(Decimal(10), Decimal(10), 1, wide, RiskLimits()).quantity < 6
        turned = throttled(Decimal(10), Decimal(-4), 1, wide, RiskLimits())
        assert Decimal(4) < turned.quantity < 10
        assert "a spread of 40.0 bps" in turned.reasons[0]

    def test_without_a_quote_it_does_not_bind(self, minutes):
        assert throttled(Decimal(10), Decimal(0), 1, Scene(minutes()), RiskLimits()).reasons == ()
