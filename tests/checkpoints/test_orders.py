"""Orders and fills as rows: what comes back is what was written down, in the digits that it was given in."""

from decimal import Decimal

import pytest

from agents.domain import Check, Order, OrderStatus, Side
from agents.errors import OrderError
from checkpoints.database import Database
from checkpoints.ledger import BrokerReport, OrderLedger
from checkpoints.orders import (
    add_fill,
    change,
    fills_of,
    found,
    insert_order,
    live_runs,
    of_leg,
    order_of,
    orders_of,
    orders_that_are,
)
from tests.checkpoints.test_ledger import allow, deny, fill, filled, intent, sent


@pytest.fixture
def database(address):
    with Database.open(address, inline=True) as opened:
        yield opened


@pytest.fixture
async def ledger(database):
    ledger = OrderLedger(database)
    await ledger.open_account("paper", Decimal(1000))
    return ledger


ODD = "'; DROP TABLE orders; --"
ORDERS = [
    intent(),
    intent(quantity="0.000000000000000001", side=Side.SELL, limit_price=Decimal("1E+2"), stop_price=Decimal("99.500")),
    intent(ODD, leg=ODD[:20], decision=2**31 - 1, symbol="BRK.B", at_ns=-(2**62)),
    intent(attempt=999),
    intent(quantity="1E+20", stop_price=Decimal("0.1")),
]


@pytest.mark.parametrize("wanted", ORDERS, ids=str)
def test_an_order_comes_back_as_it_was(database, wanted):
    checks = (
        Check("size", passed=True, value=1.5, limit="none", reason=ODD),
        Check("x", passed=False, value="nan", limit=2.0),
    )
    order = Order(wanted, OrderStatus.DENIED, reason="ü \n \u202e", checks=checks, broker_order_id="b-1")
    database.write(lambda connection: insert_order(connection, order, "7.50", 5))
    assert database.read(lambda connection: orders_of(connection, wanted.run_id)) == (order,)
    row = database.read(lambda connection: found(connection, wanted.intent_id))
    assert (row.asked, row.sent_ns) == ("7.50", 5)


def test_a_reason_is_kept_in_words_that_can_be(database):
    database.write(lambda connection: insert_order(connection, Order(intent(), OrderStatus.PENDING)))

    def work(connection):
        row = change(connection, found(connection, intent().intent_id), reason="a\0b\ud800")
        assert row == found(connection, intent().intent_id)
        return row.reason

    assert database.write(work) == "a\N{REPLACEMENT CHARACTER}b?"


def test_numbers_go_up_by_one_whoever_writes(database):
    for number in range(3):
        order = Order(intent(f"run-{number}"), OrderStatus.PENDING)
        database.write(lambda connection, order=order: insert_order(connection, order))
    numbers = "SELECT number FROM orders ORDER BY number"
    assert database.read(lambda connection: [row[0] for row in connection.exec_driver_sql(numbers)]) == [1, 2, 3]


def test_a_trade_is_kept_once_and_belongs_to_one_order(database):
    one, two = (Order(intent(run), OrderStatus.SENDING) for run in ("a", "b"))

    def work(connection):
        for order in (one, two):
            insert_order(connection, order)
        row, other = (found(connection, order.client_order_id) for order in (one, two))
        for _ in range(2):
            add_fill(connection, row, fill(one.intent, "t1", "0.50"))
        for target, wrong in ((other, fill(two.intent, "t1")), (row, fill(two.intent, "t2"))):
            with pytest.raises(OrderError, match="and belongs to"):
                add_fill(connection, target, wrong)
        return fills_of(connection, one.client_order_id), order_of(connection, row)

    made, order = database.write(work)
    assert made == (fill(one.intent, "t1", "0.50"),)
    assert (order.filled, order.price, order.fee) == (Decimal("0.50"), 100, Decimal("0.1"))


def test_attempts_of_a_leg_come_newest_first(database):
    for number in (1, 3, 2):
        order = Order(intent(attempt=number), OrderStatus.NOT_PLACED)
        database.write(lambda connection, order=order: insert_order(connection, order))
    rows = database.read(lambda connection: of_leg(connection, intent()))
    assert [row.attempt for row in rows] == [3, 2, 1]
    assert database.read(lambda connection: of_leg(connection, intent(leg="exit"))) == []


async def test_by_status_and_by_the_time_of_sending(ledger, database):
    await ledger.reserve(intent("pending"), allow)
    old, new = await sent(ledger, intent("old")), await sent(ledger, intent("new"))
    database.write(lambda connection: change(connection, found(connection, old.intent_id), sent_ns=1))

    def names(*given):
        return [each.intent.run_id for each in database.read(lambda connection: orders_that_are(connection, *given))]

    assert names((OrderStatus.SENDING, OrderStatus.PENDING)) == ["pending", "old", "new"]
    assert names((OrderStatus.SENDING,), 2) == ["new"]
    assert names((OrderStatus.FILLED,)) == []
    await ledger.record(new.intent_id, filled(new))
    assert names((OrderStatus.FILLED,)) == ["new"]


async def test_runs_with_an_order_whose_fate_is_open(ledger, database):
    answers = [OrderStatus.FILLED, OrderStatus.REJECTED, OrderStatus.OPEN, OrderStatus.UNKNOWN]
    for number, answer in enumerate(answers):
        order = await sent(ledger, intent(f"run-{number}"))
        report = filled(order, f"t{number}") if answer is OrderStatus.FILLED else BrokerReport(answer)
        await ledger.record(order.intent_id, report)
    await ledger.reserve(intent("pending"), allow)
    await ledger.reserve(intent("denied"), deny)
    await sent(ledger, intent("sending"))
    assert database.read(live_runs) == {"run-2", "run-3", "pending", "sending"}
