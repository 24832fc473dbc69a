"""The exchange as a whole: connections that are refused, cut and swept away, what is kept, and hostile input."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graph.exchange.gateway import Request
from tests.graph.exchange.conftest import Shop


def test_connections_that_are_refused_during_an_outage(shop):
    opened = shop({"kind": "refuse", "from_seconds": 2.0, "until_seconds": 7.0})
    opened.go(2)
    assert opened.open()[0] == 503
    opened.go(5)
    assert opened.open()[0] != 503


def test_a_day_that_is_over_sooner(shop):
    opened = shop({"kind": "cut", "on": "/ws", "seconds": 30.0, "nth": 1})
    (_, first), (_, second) = opened.open(), opened.open()
    opened.go(31)
    assert (first.events, second.events) == (["ping", "close 1001"], ["ping"])


def test_a_storm_takes_everybody(shop):
    opened = shop({"kind": "storm", "on": "btcusdt@trade", "nth": 5})
    wires = [opened.open("/ws/btcusdt@trade")[1], opened.open("/ws-api/v3")[1], opened.open("/ws")[1]]
    opened.go(10)
    assert [wire.events for wire in wires] == [["reset"]] * 3
    assert opened.open("/ws")[0] != 503


def test_closing_says_good_bye_to_everybody(shop):
    opened = shop()
    wires = [opened.open(path)[1] for path in ("/ws", "/ws-api/v3")]
    opened.exchange.close()
    assert [wire.events for wire in wires] == [["close 1001"]] * 2


class Journal:
    """Notes what it is given, and what had been answered by then."""

    def __init__(self):
        self.saved = []

    def save(self, orders, accounts):
        self.saved.append(([(order.client_id, order.status) for order in orders], [each.key for each in accounts]))


def test_what_has_happened_is_kept_before_it_is_answered(shop):
    journal = Journal()
    opened = shop(journal=journal)
    opened.go(0.2)
    opened.order("BUY", "0.5", newClientOrderId="a")
    opened.order("BUY", "0.5", "39000", newClientOrderId="b")
    opened.order("BUY", "99999", newClientOrderId="c")
    opened.ask("GET", "account", signed=True)
    assert journal.saved == [([("a", "FILLED")], [opened.client.key]), ([("b", "NEW")], [opened.client.key])]


def test_what_cannot_be_kept_is_not_answered(shop):
    class Full:
        def save(self, orders, accounts):
            raise OSError("disk full")

    opened = shop(journal=Full())
    opened.go(0.2)
    with pytest.raises(OSError, match="disk full"):
        opened.order("BUY", "0.5")


texts = st.text(max_size=40)
small = st.one_of(
    texts, st.sampled_from(["BTCUSDT", "BUY", "LIMIT", "GTC", "1", "39000", "NaN", "-1", "1e9", "9" * 30, "", "%00"])
)
NAMES = [
    "symbol",
    "side",
    "type",
    "timeInForce",
    "quantity",
    "price",
    "stopPrice",
    "quoteOrderQty",
    "limit",
    "orderId",
    "origClientOrderId",
    "fromId",
    "startTime",
    "endTime",
    "interval",
    "timestamp",
    "signature",
]


@settings(max_examples=300)
@given(
    st.sampled_from(["GET", "POST", "DELETE", "PUT"]),
    st.sampled_from(
        ["order", "depth", "klines", "myTrades", "allOrders", "account", "openOrders", "exchangeInfo", "x"]
    ),
    st.dictionaries(st.one_of(st.sampled_from(NAMES), texts), small, max_size=8),
    texts,
    st.booleans(),
)
def test_whatever_is_asked_there_is_one_answer_and_it_is_no_crash(method, path, params, body, signed):
    opened = _SHOP
    if signed:
        clean = {name: value for name, value in params.items() if name not in {"signature", "timestamp"}}
        answer = opened.ask(method, path, signed=True, **{"recvWindow": "5000"} | clean)
        assert answer.status in {200, 400, 401, 404, 418, 429}
        return
    answers = []
    query = "&".join(f"{name}={value}" for name, value in params.items())
    opened.exchange.request(Request(method, f"/api/v3/{path}", query, body, "k", "somebody"), answers.append)
    opened.go(0)
    assert answers[0].status in {200, 400, 401, 404, 418, 429}


_SHOP = Shop()
_SHOP.go(0.2)


@settings(max_examples=300)
@given(st.sampled_from(["/ws", "/ws-api/v3", "/stream"]), st.lists(st.binary(max_size=60), max_size=4))
def test_whatever_is_said_on_a_connection_the_exchange_lives(path, frames):
    connection, wire = _SHOP.open(path)
    for frame in frames:
        _SHOP.exchange.receive(connection, frame)
    _SHOP.go(1.0)
    wire.read()
    connection.lost()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=6,
)


@settings(max_examples=200)
@given(
    st.sampled_from(["SUBSCRIBE", "UNSUBSCRIBE", "SET_PROPERTY", "order.place", "userDataStream.subscribe.signature"]),
    json_values,
)
def test_whatever_the_parameters_of_a_message_are(method, params):
    import json

    for path in ("/ws", "/ws-api/v3"):
        connection, wire = _SHOP.open(path)
        _SHOP.exchange.receive(connection, json.dumps({"method": method, "params": params, "id": 1}).encode())
        _SHOP.go(0.1)
        wire.read()
        connection.lost()
