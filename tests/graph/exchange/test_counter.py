"""What goes wrong with requests: before they are carried out, and after."""

import pytest

NAME = {"symbol": "BTCUSDT", "origClientOrderId": "me-1"}


def opened_with(shop, *faults, **more):
    opened = shop(*faults, **more)
    opened.go(0.2)
    return opened


def known(opened):
    """The order as the exchange has it, whatever its client was told."""
    orders = list(opened.exchange.venue.registry(opened.client.key, "BTCUSDT"))
    return orders[-1] if orders else None


def place(opened, **more):
    return opened.order("BUY", "1", newClientOrderId="me-1", **more)


class TestNotCarriedOut:
    @pytest.mark.parametrize(
        ("fault", "status", "code"),
        [
            ({"kind": "unavailable"}, 503, -1000),
            ({"kind": "overload"}, 503, -1008),
            ({"kind": "limit", "seconds": 7.0}, 429, -1003),
            ({"kind": "ban", "seconds": 60.0}, 418, -1003),
            ({"kind": "order_limit"}, 429, -1015),
        ],
    )
    def test_a_refusal(self, shop, fault, status, code):
        opened = opened_with(shop, fault | {"on": "order.place"})
        answer = place(opened)
        assert (answer.status, answer.json["code"], known(opened)) == (status, code, None)
        if "seconds" in fault:
            assert answer.headers["Retry-After"] == str(int(fault["seconds"]))

    def test_a_request_that_gets_lost(self, shop):
        opened = opened_with(shop, {"kind": "lost", "on": "order.*"})
        assert (place(opened), known(opened)) == (None, None)

    def test_a_clock_that_is_off(self, shop):
        opened = opened_with(shop, {"kind": "skew", "on": "*", "seconds": -8.0})
        assert place(opened).json["code"] == -1021
        server_ms = opened.ask("GET", "time").json["serverTime"]
        assert server_ms == opened.now_ms - 8_000
        assert place(opened, timestamp=server_ms).status == 200


class TestCarriedOut:
    @pytest.mark.parametrize(
        ("kind", "status", "code"), [("ack_503", 503, -1000), ("ack_1006", 500, -1006), ("ack_1007", 504, -1007)]
    )
    def test_and_denied(self, shop, kind, status, code):
        opened = opened_with(shop, {"kind": kind, "on": "order.place"})
        answer = place(opened)
        assert (answer.status, answer.json["code"], known(opened).status) == (status, code, "FILLED")
        assert opened.ask("GET", "order", signed=True, **NAME).json["status"] == "FILLED"

    def test_and_not_answered(self, shop):
        opened = opened_with(shop, {"kind": "drop_ack", "on": "order.place"})
        assert place(opened) is None
        assert known(opened).status == "FILLED"

    def test_and_answered_with_what_nobody_can_read(self, shop):
        opened = opened_with(shop, {"kind": "garble", "on": "order.place"})
        assert isinstance(place(opened).json, bytes)
        assert known(opened).status == "FILLED"

    def test_and_answered_late(self, shop):
        opened = opened_with(shop, {"kind": "slow", "on": "order.place", "seconds": 5.0})
        before = opened.now_ms
        assert place(opened, wait=5.0).status == 200
        assert known(opened).time_ms == before

    def test_by_the_websocket_api_an_answer_that_is_dropped_ends_the_connection(self, shop):
        opened = opened_with(shop, {"kind": "drop_ack", "on": "order.place"})
        connection, wire = opened.open("/ws-api/v3")
        params = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "1"}
        opened.say(connection, id=1, method="order.place", params=opened.signed(**params))
        assert (wire.frames, wire.events, known(opened).status) == ([], ["reset"], "FILLED")

    def test_by_the_websocket_api_an_answer_that_cannot_be_read(self, shop):
        opened = opened_with(shop, {"kind": "garble", "on": "ping"})
        connection, wire = opened.open("/ws-api/v3")
        opened.say(connection, id=1, method="ping")
        with pytest.raises(ValueError):
            wire.read()


class TestCancelling:
    def test_too_late_it_was_filled(self, shop):
        opened = opened_with(shop, {"kind": "fill_on_cancel", "on": "order.cancel"})
        opened.order("BUY", "1", "39000", newClientOrderId="me-1")
        answer = opened.ask("DELETE", "order", signed=True, **NAME)
        assert (answer.json["code"], known(opened).status) == (-2011, "FILLED")

    def test_it_is_filled_although_it_was_confirmed(self, shop):
        opened = opened_with(shop, {"kind": "late_fill", "on": "order.cancel", "seconds": 2.0})
        opened.order("BUY", "1", "39000", newClientOrderId="me-1")
        assert opened.ask("DELETE", "order", signed=True, **NAME).json["status"] == "CANCELED"
        opened.go(1.9)
        assert known(opened).executed == 0
        opened.go(0.2)
        assert opened.ask("GET", "order", signed=True, **NAME).json["status"] == "FILLED"


class TestTheWay:
    def test_orders_take_their_time_and_the_same_seed_takes_the_same(self, shop):
        def took(seed):
            opened = opened_with(shop, latency_ms=5.0, seed=seed)
            for _ in range(20):
                begin = opened.clock.now_ns()
                answers = []
                opened.exchange.request(_ping(), answers.append)
                while not answers:
                    opened.go(0.0005)
                yield opened.clock.now_ns() - begin

        times = list(took(1))
        assert times == list(took(1)) != list(took(2))
        assert 0.002e9 < min(times) < max(times) < 0.101e9

    def test_rate_limits_are_told_and_kept(self, shop):
        opened = opened_with(shop)
        answer = place(opened)
        assert answer.headers == {"X-MBX-USED-WEIGHT-1M": "1", "X-MBX-ORDER-COUNT-10S": "1"}
        answers = [opened.ask("GET", "account", signed=True) for _ in range(301)]
        assert [each.status for each in answers[-2:]] == [429, 429]
        assert int(answers[-1].headers["Retry-After"]) <= 60

    def test_too_many_orders(self, shop):
        opened = opened_with(shop)
        codes = [opened.order("BUY", "0.01").json.get("code") for _ in range(101)]
        assert codes == [None] * 100 + [-1015]


def _ping():
    from graph.exchange.gateway import Request

    return Request("GET", "/api/v3/ping")


def test_the_count_of_orders_is_not_that_of_spans_that_are_over(shop):
    opened = opened_with(shop)
    assert place(opened).headers["X-MBX-ORDER-COUNT-10S"] == "1"
    opened.go(10)
    assert "X-MBX-ORDER-COUNT-10S" not in opened.ask("GET", "account", signed=True).headers


def test_a_late_fill_is_kept_when_it_is_told(shop):
    class Journal:
        def __init__(self):
            self.saved = []

        def save(self, orders, accounts):
            self.saved += [(order.client_id, order.status, order.executed) for order in orders]

    journal = Journal()
    late = {"kind": "late_fill", "on": "order.cancel", "seconds": 3.0}
    opened = shop(late, journal=journal, steps=0.001)  # nothing else happens that would keep it
    place(opened, price="39000", type="LIMIT", timeInForce="GTC")
    opened.ask("DELETE", "order", signed=True, **NAME)
    opened.go(2.9)
    assert journal.saved[-1][1] == "CANCELED"
    opened.go(0.2)
    assert journal.saved[-1] == ("me-1", "FILLED", 10**8)
