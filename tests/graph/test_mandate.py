"""What of a plan was ordered: counted from the ledger's orders, so that no crash makes it more."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.domain import Order, OrderIntent, OrderStatus, Side
from agents.errors import InvalidValue
from graph.mandate import ordered
from tests.graph.floor import mandate_of

MANDATE = mandate_of(quantity="10")


def order_of(status, quantity="4", filled="0", leg="entry", **more):
    given = {"run_id": "run-1", "account": "paper", "symbol": "SIM", "side": Side.BUY, "decision": 0} | more
    intent = OrderIntent.derive(
        **given, quantity=Decimal(quantity), reference_price=Decimal(100), reference_ns=1, leg=leg
    )
    return Order(intent, status, Decimal(filled))


@pytest.mark.parametrize(
    ("status", "filled", "counts", "leg"),
    [
        (OrderStatus.PENDING, 0, 0, "entry"),
        (OrderStatus.SENDING, 0, 4, "entry-2"),
        (OrderStatus.UNKNOWN, 0, 4, "entry-2"),
        (OrderStatus.OPEN, 1, 4, "entry-2"),
        (OrderStatus.FILLED, 4, 4, "entry-2"),
        (OrderStatus.CANCELLED, 1, 1, "entry-2"),
        (OrderStatus.REJECTED, 0, 0, "entry-2"),
        (OrderStatus.DENIED, 0, 0, "entry-2"),
        (OrderStatus.NOT_PLACED, 0, 0, "entry-2"),
    ],
)
def test_how_much_of_it_is_gone(status, filled, counts, leg):
    found = ordered(MANDATE, [order_of(status, filled=filled)])
    assert (found.filled, found.quantity, found.next_leg) == (filled, counts, leg)


def test_every_status_is_thought_of():
    assert all(ordered(MANDATE, [order_of(status)]).quantity in {0, 4} for status in OrderStatus)


def test_attempts_at_one_leg_are_one_leg():
    first = order_of(OrderStatus.NOT_PLACED)
    second = replace(first, intent=first.intent.next_attempt(), status=OrderStatus.FILLED, filled=Decimal(4))
    found = ordered(MANDATE, [first, second])
    assert (found.quantity, found.next_leg) == (4, "entry-2")


def test_other_orders_of_the_run_are_not_counted():
    filled = {"status": OrderStatus.FILLED, "filled": "4"}
    others = [
        order_of(**filled, decision=1),
        order_of(**filled, symbol="B"),
        order_of(**filled, leg="stop"),
        order_of(**filled, leg="entrypoint"),
    ]
    assert ordered(MANDATE, others).quantity == 0
    assert ordered(MANDATE, [*others, order_of(**filled, leg="entry-7")]).quantity == 4


@given(st.lists(st.sampled_from(OrderStatus), max_size=8))
def test_what_may_fill_is_never_asked_for_again(statuses):
    """With what is left asked for each time, all that may ever fill is never more than the plan."""
    orders, most = [], Decimal(0)
    for status in statuses:
        so_far = ordered(MANDATE, orders)
        left = MANDATE.plan.quantity - so_far.quantity
        if left <= 0:
            break
        filled = left if status is OrderStatus.FILLED else Decimal(0)
        asked = order_of(status, quantity=str(left), filled=str(filled), leg=so_far.next_leg)
        orders = [each for each in orders if each.intent.leg != so_far.next_leg] + [asked]
        live = {OrderStatus.SENDING, OrderStatus.UNKNOWN, OrderStatus.OPEN, OrderStatus.FILLED}
        most = sum((each.intent.quantity for each in orders if each.status in live), Decimal(0))
    assert most <= MANDATE.plan.quantity


@pytest.mark.parametrize(
    "wrong", [{"run_id": ""}, {"run_id": "a\nb"}, {"account": ""}, {"decision": -1}, {"decision": True}]
)
def test_what_is_no_mandate(wrong):
    with pytest.raises(InvalidValue):
        replace(MANDATE, **wrong)
