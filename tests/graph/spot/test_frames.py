"""Frames of the WebSocket API: whatever comes, it is read or refused."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.domain import OrderStatus, Side
from graph.spot.frames import Answered, Ended, Moved, read_frame
from graph.stream.events import Reason
from graph.stream.frames import Refused

NAME = "hf" + "a" * 26
REPORT = {
    "e": "executionReport", "E": 5, "s": "BTCUSDT", "c": NAME, "S": "BUY", "o": "LIMIT", "f": "GTC", "q": "1.0",
    "p": "100.0", "P": "0.0", "F": "0", "g": -1, "C": "", "x": "TRADE", "X": "PARTIALLY_FILLED", "r": "NONE", "i": 42,
    "l": "0.25", "z": "0.5", "L": "99.5", "n": "0.00025", "N": "BTC", "T": 1_700_000_000_000, "t": 7, "I": 0, "w": True,
    "m": False, "M": False, "O": 4, "Z": "50", "Y": "25", "Q": "0", "V": "NONE",
}  # fmt: skip


def frame(event=None, **more):
    return json.dumps({"subscriptionId": 0, "event": event} if event is not None else more).encode()


def read(content, most=65_536):
    return read_frame(content, most)


def test_an_execution():
    moved = read(frame(REPORT))
    assert (moved.name, moved.symbol, moved.number, moved.status) == (NAME, "BTCUSDT", 42, OrderStatus.OPEN)
    assert moved.executed == Decimal("0.5")
    trade = moved.trade
    assert (trade.number, trade.side, trade.quantity, trade.price) == (7, Side.BUY, Decimal("0.25"), Decimal("99.5"))
    assert (trade.commission, trade.asset, trade.time_ms) == (Decimal("0.00025"), "BTC", 1_700_000_000_000)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"x": "NEW", "X": "NEW", "N": None, "t": -1}, OrderStatus.OPEN),
        ({"x": "CANCELED", "X": "CANCELED", "C": NAME, "c": "web_1", "t": -1}, OrderStatus.CANCELLED),
        ({"x": "EXPIRED", "X": "EXPIRED", "t": -1}, OrderStatus.CANCELLED),
        ({"x": "TRADE_PREVENTION", "X": "EXPIRED_IN_MATCH", "t": -1}, OrderStatus.CANCELLED),
        ({"x": "REJECTED", "X": "REJECTED", "r": "INSUFFICIENT_BALANCES", "t": -1}, OrderStatus.REJECTED),
        ({"x": "TRADE", "X": "FILLED", "C": "null"}, OrderStatus.FILLED),
    ],
)
def test_how_an_order_stands(changes, status):
    moved = read(frame(REPORT | changes))
    assert (moved.name, moved.status, moved.trade is None) == (NAME, status, changes["x"] != "TRADE")
    assert moved.reason == ("" if changes.get("r", "NONE") == "NONE" else changes["r"])


def test_answers():
    assert read(frame(id=1, status=200, result={"subscriptionId": 3})) == Answered(1, (3,))
    assert read(frame(id=2, status=200, result=[{"subscriptionId": 3}, {"subscriptionId": 4}])) == Answered(2, (3, 4))
    assert read(frame(id=2, status=200, result=[])) == Answered(2)
    told = read(frame(id=1, status=400, error={"code": -1021, "msg": "a\nb"}))
    assert told == Answered(1, (), -1021, "a b")
    assert read(frame(id=None, status=400, error={"code": -1135, "msg": "x"})).code == -1135


def test_the_end():
    assert read(b'{"e":"serverShutdown","E":1}') == Ended(shutdown=True)
    assert read(frame({"e": "serverShutdown", "E": 1})) == Ended(shutdown=True)
    assert read(frame({"e": "eventStreamTerminated", "E": 1})) == Ended()


def test_what_says_nothing_of_orders_is_good():
    for kind in ("outboundAccountPosition", "balanceUpdate", "listStatus", "externalLockUpdate"):
        assert read(frame({"e": kind, "E": 1})) is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"x" * 70_000, Reason.TOO_LARGE),
        (b"not json", Reason.NOT_JSON),
        (b"\xff\xfe\x00", Reason.NOT_JSON),
        (b"[" * 20_000, Reason.WRONG_SHAPE),
        (b"[]", Reason.WRONG_SHAPE),
        (b"{}", Reason.WRONG_SHAPE),
        (frame(id="one", status=200, result={}), Reason.WRONG_SHAPE),
        (frame(id=1, status=200, result={}), Reason.WRONG_SHAPE),
        (frame(id=1, status=200), Reason.NOT_JSON),
        (frame({"e": "somethingNew"}), Reason.UNKNOWN),
        (frame({}), Reason.WRONG_SHAPE),
        (frame([]), Reason.WRONG_SHAPE),
        (frame({"e": "executionReport"}), Reason.WRONG_SHAPE),
        (frame(REPORT | {"X": "WHATEVER"}), Reason.WRONG_SHAPE),
        (frame(REPORT | {"S": "HOLD"}), Reason.WRONG_SHAPE),
        (frame(REPORT | {"z": "NaN"}), Reason.BAD_NUMBER),
        (frame(REPORT | {"l": "-1"}), Reason.BAD_NUMBER),
        (frame(REPORT | {"L": "1e9"}), Reason.BAD_NUMBER),
        (frame(REPORT | {"n": ""}), Reason.BAD_NUMBER),
        (frame(REPORT | {"t": -1}), Reason.BAD_NUMBER),
        (frame(REPORT | {"T": 10**30}), Reason.WRONG_SHAPE),
        (frame(REPORT | {"T": True}), Reason.WRONG_SHAPE),
        (frame(REPORT | {"c": "x" * 100}), Reason.WRONG_SHAPE),
        (frame(REPORT | {"i": -1}), Reason.WRONG_SHAPE),
    ],
)
def test_what_is_refused(content, reason):
    with pytest.raises(Refused) as refused:
        read(content)
    assert refused.value.reason is reason


values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=True), st.text(max_size=40),
    st.sampled_from(("0.1", "NaN", "-0", "1e5", "0" * 50, "BUY", "FILLED", "TRADE")), st.just([]), st.just({}),
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(sorted(REPORT)), values, max_size=4))
def test_any_values_are_read_or_refused(changes):
    try:
        said = read(frame(REPORT | changes))
    except Refused:
        return
    assert said is None or isinstance(said, Moved | Ended)


@given(st.data())
def test_any_bytes_are_read_or_refused(data):
    whole = bytearray(frame(REPORT))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    for content in (bytes(whole), cut, data.draw(st.binary(max_size=60))):
        try:
            read(content)
        except Refused:
            continue
