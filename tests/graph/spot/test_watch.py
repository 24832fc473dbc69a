"""What is passed on of a stream: each order with all of its fills, or not before it has been asked for."""

from decimal import Decimal

import pytest

from agents.domain import Fill, OrderStatus, Side
from checkpoints.ledger import BrokerReport
from graph.grid import Grid
from graph.spot import watch as module
from graph.spot.frames import Moved
from graph.spot.rules import Market
from graph.spot.trades import Execution
from graph.spot.watch import TOLD_S, Ask, Watch, is_ours
from graph.stream.events import Reason
from graph.stream.frames import Refused

D = Decimal
NAME = "hf" + "a" * 26
OPEN, FILLED, CANCELLED = OrderStatus.OPEN, OrderStatus.FILLED, OrderStatus.CANCELLED


@pytest.fixture
def watch():
    return Watch({"BTCUSDT": Market("BTCUSDT", "BTC", "USDT", Grid())})


def moved(status, executed, trade=None, *, asset="USDT", name=NAME, symbol="BTCUSDT", quantity="1"):
    done = None
    if trade is not None:
        done = Execution(name, trade, Side.BUY, D(quantity), D(100), D("0.1"), asset, 5)
    return Moved(name, symbol, 9, status, D(executed), "", done)


def fill(number, quantity="1"):
    return Fill(f"BTCUSDT-{number}", NAME, "BTCUSDT", Side.BUY, D(quantity), D(100), D("0.1"), 5_000_000)


def refused(watch, *given, **more):
    with pytest.raises(Refused) as why:
        watch.heard(moved(*given, **more))
    return why.value.reason


def test_each_report_has_all_fills_so_far(watch):
    assert watch.heard(moved(OPEN, 0)) == BrokerReport(OPEN, "9")
    assert watch.heard(moved(OPEN, 1, 1)).fills == (fill(1),)
    assert watch.heard(moved(FILLED, 2, 2)) == BrokerReport(FILLED, "9", (fill(1), fill(2)))
    assert watch.open() == []


def test_twice_or_late_is_dropped(watch):
    watch.heard(moved(OPEN, 0))
    assert refused(watch, OPEN, 0) is Reason.DUPLICATE
    watch.heard(moved(OPEN, 1, 1))
    assert refused(watch, OPEN, 1, 1) is Reason.DUPLICATE
    assert refused(watch, OPEN, 0) is Reason.LATE
    watch.heard(moved(CANCELLED, 1))
    assert refused(watch, OPEN, 1, 1) is Reason.LATE
    assert refused(watch, CANCELLED, 1) is Reason.DUPLICATE


def test_a_fill_after_the_cancellation_is_told(watch):
    watch.heard(moved(CANCELLED, 0))
    assert watch.heard(moved(FILLED, 1, 1)) == BrokerReport(FILLED, "9", (fill(1),))


def test_where_a_frame_before_it_is_missing_the_order_is_asked_for(watch):
    assert watch.heard(moved(FILLED, 2, 2)) is Ask.IT
    report = BrokerReport(FILLED, "9", (fill(1), fill(2)))
    watch.answered(NAME, "BTCUSDT", report, 5, now=0.0)
    assert watch.fills(NAME) == (fill(2), fill(1))
    assert refused(watch, OPEN, 1, 1) is Reason.LATE


def test_a_fee_in_a_third_currency_is_asked_for(watch):
    assert watch.heard(moved(FILLED, 1, 1, asset="BNB")) is Ask.IT


@pytest.mark.parametrize("name", ["web_1", "hf" + "A" * 26, "hf" + "a" * 25, NAME + "-1000", NAME + "x", ""])
def test_orders_of_others_are_not_ours(watch, name):
    assert not is_ours(name)
    assert refused(watch, OPEN, 0, name=name) is Reason.UNKNOWN


def test_what_is_not_traded_here(watch):
    assert is_ours(f"{NAME}-12")
    assert refused(watch, OPEN, 0, symbol="DOGEUSDT") is Reason.UNKNOWN


def test_a_trade_of_nothing_is_none(watch):
    assert refused(watch, OPEN, 1, 1, quantity="0") is Reason.BAD_NUMBER


def test_a_stream_that_does_not_tell_what_an_answer_told_is_overdue(watch):
    watch.listening(1_000)
    watch.answered(NAME, "BTCUSDT", BrokerReport(OPEN, "9"), 2_500, now=10.0)
    assert watch.overdue(10.0 + TOLD_S - 0.1) is None
    watch.answered(NAME, "BTCUSDT", BrokerReport(OPEN, "9"), 2_500, now=12.0)  # asked again: it stays as it was
    assert watch.overdue(10.0 + TOLD_S) == NAME
    watch.heard(moved(OPEN, 0))
    assert watch.overdue(100.0) is None


def test_what_moved_before_anybody_listened_is_not_expected(watch):
    watch.answered(NAME, "BTCUSDT", BrokerReport(OPEN, "9"), 2_500, now=10.0)
    assert watch.overdue(100.0) is None
    watch.listening(2_000)
    watch.answered(NAME, "BTCUSDT", BrokerReport(OPEN, "9"), 2_500, now=10.0)
    assert watch.overdue(100.0) is None
    watch.answered(NAME, "BTCUSDT", BrokerReport(OPEN, "9"), 3_500, now=10.0)
    assert watch.overdue(100.0) == NAME
    watch.listening(4_000)
    assert watch.overdue(100.0) is None


def test_what_the_stream_told_before_the_answer_is_not_expected(watch):
    watch.listening(0)
    watch.heard(moved(FILLED, 1, 1))
    watch.answered(NAME, "BTCUSDT", BrokerReport(FILLED, "9", (fill(1),)), 5_000, now=0.0)
    assert watch.overdue(100.0) is None


def test_orders_that_may_still_move(watch):
    watch.sent(NAME, "BTCUSDT")
    watch.sent(f"{NAME}-2", "BTCUSDT")
    assert (watch.open(), watch.symbol(NAME)) == ([NAME, f"{NAME}-2"], "BTCUSDT")
    watch.not_placed(NAME)
    assert (watch.open(), watch.symbol(NAME)) == ([f"{NAME}-2"], None)


def test_orders_that_are_over_are_forgotten_and_open_ones_are_not(watch, monkeypatch):
    monkeypatch.setattr(module, "_KEPT_MAX", 10)
    for number in range(100):
        name = f"{NAME}-{number}"
        watch.answered(name, "BTCUSDT", BrokerReport(OPEN if number == 5 else FILLED), 0, now=0.0)
    assert watch.symbol(f"{NAME}-5") == "BTCUSDT"
    assert sum(watch.symbol(f"{NAME}-{number}") is not None for number in range(100)) <= 10


def test_an_answer_that_is_older_than_what_the_stream_told_expects_nothing(watch):
    watch.listening(0)
    watch.heard(moved(FILLED, 1, 1))
    watch.answered(NAME, "BTCUSDT", BrokerReport(OPEN, "9"), 5_000, now=0.0)
    assert (watch.overdue(100.0), watch.open()) == (None, [])


def test_an_end_that_the_stream_has_not_told_is_expected(watch):
    watch.listening(0)
    watch.heard(moved(OPEN, 1, 1))
    watch.answered(NAME, "BTCUSDT", BrokerReport(CANCELLED, "9", (fill(1),)), 5_000, now=0.0)
    assert watch.overdue(100.0) == NAME
