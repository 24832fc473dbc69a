"""What a venue takes: quantities only get smaller, limits no worse, stops no later."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.domain import OrderIntent, Side
from graph.grid import Grid, Steps

D = Decimal
GRID = Grid(
    lots=Steps(D("0.001"), D("0.001"), D(100)),
    market_lots=Steps(D("0.01"), D("0.01"), D(10)),
    ticks=Steps(D("0.05"), D("0.05"), D(1_000)),
    worth_least=D(5),
)


def fit(side=Side.BUY, quantity="1", price="100", **prices):
    return GRID.fit(side, D(quantity), price=D(price), **{name: D(value) for name, value in prices.items()})


@pytest.mark.parametrize(("given_", "left"), [("1.2399", "1.239"), ("0.0999", "0.099"), ("250", "100")])
def test_quantities_are_rounded_down_and_capped(given_, left):
    assert fit(quantity=given_, limit_price="90").quantity == D(left)


def test_a_market_order_keeps_to_both_steps():
    assert fit(quantity="1.2399").quantity == D("1.23")
    assert fit(quantity="12").quantity == D(10)


@pytest.mark.parametrize(
    ("side", "name", "became"),
    [
        (Side.BUY, "limit_price", "90.10"),
        (Side.SELL, "limit_price", "90.15"),
        (Side.BUY, "stop_price", "90.10"),
        (Side.SELL, "stop_price", "90.15"),
    ],
)
def test_prices_go_to_the_safe_side(side, name, became):
    fitted = fit(side, **{name: "90.12"})
    assert getattr(fitted, name) == D(became)
    assert fitted.reasons == (f"{name[:-6]} 90.12 became {D(became).normalize()}, which the venue takes",)


@pytest.mark.parametrize(
    ("order", "why"),
    [
        ({"quantity": "0.009"}, "quantity 0 is below 0.001, the least that the venue takes"),
        ({"quantity": "0.0009", "limit_price": "90"}, "quantity 0 is below 0.001, the least that the venue takes"),
        ({"quantity": "0.01"}, "it is worth 1, below 5, the least that the venue takes"),
        ({"limit_price": "0.01"}, "limit 0 is below 0.05, the least that the venue takes"),
        ({"limit_price": "2000"}, "limit 2000 is above 1000, the most that the venue takes"),
        ({"stop_price": "2000"}, "stop 2000 is above 1000, the most that the venue takes"),
    ],
)
def test_what_is_not_taken_at_all(order, why):
    fitted = fit(**order)
    assert (fitted.quantity, fitted.reasons) == (0, (why,))


def test_no_rules_change_nothing():
    free = Grid().fit(Side.BUY, D("1.23456789"), price=D(1), limit_price=D("0.123"))
    assert (free.quantity, free.limit_price, free.reasons) == (D("1.23456789"), D("0.123"), ())


def test_the_worth_of_market_orders_where_it_does_not_count():
    grid = Grid(worth_least=D(5), market_worth=False)
    assert grid.fit(Side.BUY, D("0.01"), price=D(1)).quantity == D("0.01")
    assert grid.fit(Side.BUY, D("0.01"), price=D(1), limit_price=D(1)).quantity == 0


def order(quantity, **prices):
    return OrderIntent.derive(
        run_id="r",
        account="a",
        symbol="SIM",
        side=Side.BUY,
        quantity=D(quantity),
        reference_price=D(100),
        reference_ns=1,
        **{name: D(value) for name, value in prices.items()},
    )


@pytest.mark.parametrize(
    ("quantity", "prices", "why"),
    [
        ("1", {}, ""),
        ("1.005", {"limit_price": "90"}, ""),
        ("1.005", {}, "quantity 1.005 is no multiple of 0.01"),
        ("1.0005", {"limit_price": "90"}, "quantity 1.0005 is no multiple of 0.001"),
        ("11", {}, "quantity 11 is above 10, the most that the venue takes"),
        ("1", {"limit_price": "90.01"}, "limit 90.01 is no multiple of 0.05"),
        ("1", {"stop_price": "90.01"}, "stop 90.01 is no multiple of 0.05"),
        ("0.02", {}, "it is worth 2, below 5, the least that the venue takes"),
    ],
)
def test_what_is_wrong_with_an_order(quantity, prices, why):
    assert GRID.complaint(order(quantity, **prices)) == why


amounts = st.decimals("0.0000001", 10_000, places=7)


@given(amounts, amounts, amounts, st.sampled_from(Side), st.sampled_from(("limit_price", "stop_price", "")))
def test_what_is_fitted_is_taken_and_never_more(quantity, at, price, side, name):
    prices = {name: at} if name else {}
    fitted = GRID.fit(side, quantity, price=price, **prices)
    assert fitted.quantity <= quantity
    if fitted.quantity:
        made = OrderIntent.derive(
            run_id="r",
            account="a",
            symbol="SIM",
            side=side,
            quantity=fitted.quantity,
            reference_price=price,
            reference_ns=1,
            limit_price=fitted.limit_price,
            stop_price=fitted.stop_price,
        )
        assert GRID.complaint(made) == ""
