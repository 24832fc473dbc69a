"""The WebSocket API and the user stream."""

import pytest


def connected(shop, *faults, subscribe=True, **more):
    opened = shop(*faults, **more)
    opened.go(0.2)
    connection, wire = opened.open("/ws-api/v3")
    if subscribe:
        opened.say(connection, id=1, method="userDataStream.subscribe.signature", params=opened.signed())
        assert wire.read()[0]["result"] == {"subscriptionId": 0}
    return opened, connection, wire


def placed(opened, connection, **more):
    params = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "1"} | more
    opened.say(connection, id=9, method="order.place", params=opened.signed(**params))


def reports(wire):
    return [each["event"] for each in wire.read() if each.get("event", {}).get("e") == "executionReport"]


class TestRequests:
    def test_an_order_is_placed_asked_for_and_cancelled(self, shop):
        opened, connection, wire = connected(shop, subscribe=False)
        placed(opened, connection, type="LIMIT", timeInForce="GTC", price="39000", newClientOrderId="me-1")
        (answer,) = wire.read()
        assert (answer["id"], answer["status"], answer["result"]["status"]) == (9, 200, "NEW")
        assert [each["count"] for each in answer["rateLimits"]] == [1, 1, 1]
        name = {"symbol": "BTCUSDT", "origClientOrderId": "me-1"}
        for method, status in (("order.status", "NEW"), ("order.cancel", "CANCELED")):
            opened.say(connection, id="x", method=method, params=opened.signed(**name))
            assert wire.read()[0]["result"]["status"] == status
        opened.say(connection, id="x", method="order.cancel", params=opened.signed(**name))
        assert wire.read()[0]["error"] == {"code": -2011, "msg": "Unknown order sent."}

    def test_numbers_and_truth_values_are_signed_as_they_are_written(self, shop):
        opened, connection, wire = connected(shop, subscribe=False)
        opened.say(connection, id=1, method="account.status", params=opened.signed(omitZeroBalances="true"))
        assert wire.read()[0]["status"] == 200
        params = opened.signed(symbol="BTCUSDT", limit=5)
        opened.say(connection, id=1, method="myTrades", params=params | {"returnRateLimits": False})
        assert wire.read()[0]["error"]["code"] == -1022
        params = {"symbol": "BTCUSDT", "limit": 5, "returnRateLimits": "false"}
        opened.say(connection, id=1, method="depth", params=params)
        assert len(wire.read()[0]["result"]["bids"]) == 5

    def test_no_rate_limits_for_who_wants_none(self, shop):
        opened, connection, wire = connected(shop, subscribe=False)
        opened.say(connection, id=1, method="ping", params={"returnRateLimits": False})
        assert wire.read() == [{"id": 1, "status": 200, "result": {}}]

    @pytest.mark.parametrize(
        ("message", "code"),
        [
            ({"id": 1}, -1135),
            ({"id": 1, "method": "sell"}, -1020),
            ({"id": 1, "method": "session.logon", "params": {}}, -1020),
            ({"id": 1, "method": "order.place", "params": {"symbol": "BTCUSDT"}}, -2014),
            ({"id": 1, "method": "order.place", "params": []}, -1135),
            ({"id": 1, "method": "depth", "params": {"symbol": ["BTCUSDT"]}}, -1130),
            ({"id": 1, "method": "depth", "params": {"symbol": "B" * 1_000}}, -1130),
            ({"id": 1, "method": "userDataStream.subscribe.signature", "params": {}}, -2014),
        ],
    )
    def test_what_is_refused(self, shop, message, code):
        opened, connection, wire = connected(shop, subscribe=False)
        opened.say(connection, **message)
        assert wire.read()[0]["error"]["code"] == code

    def test_bytes_that_are_no_json(self, shop):
        opened, connection, wire = connected(shop, subscribe=False)
        opened.exchange.receive(connection, b"\xff{")
        assert wire.read()[0]["error"]["code"] == -1135


class TestUserStream:
    def test_everything_that_happens_to_an_order_is_told(self, shop):
        opened, _connection, wire = connected(shop)
        opened.order("BUY", "3", newClientOrderId="me-1")
        events = [each["event"] for each in wire.read()]
        told = [(each["x"], each["X"], each["c"]) for each in events if each["e"] == "executionReport"]
        assert told[0] == ("NEW", "NEW", "me-1")
        assert told[-1] == ("TRADE", "FILLED", "me-1")
        last = [each for each in events if each["e"] == "executionReport"][-1]
        assert last["z"] == "3.00000000"
        assert float(last["n"]) == pytest.approx(float(last["l"]) / 1_000)
        balances = {each["a"]: each["f"] for each in events[-1]["B"]}
        account = opened.ask("GET", "account", signed=True).json["balances"]
        assert balances == {each["asset"]: each["free"] for each in account if each["asset"] in balances}

    def test_a_cancellation_carries_its_own_id_and_the_order_s(self, shop):
        opened, _connection, wire = connected(shop)
        opened.order("BUY", "1", "39000", newClientOrderId="me-1")
        wire.read()
        opened.ask("DELETE", "order", signed=True, symbol="BTCUSDT", origClientOrderId="me-1", newClientOrderId="no")
        (report,) = reports(wire)
        assert (report["x"], report["c"], report["C"]) == ("CANCELED", "no", "me-1")

    def test_an_order_of_the_crowd_that_meets_a_client_s_is_told(self, shop):
        opened, _connection, wire = connected(shop)
        bid = opened.ask("GET", "ticker/bookTicker", symbol="BTCUSDT").json["bidPrice"]
        opened.order("BUY", "0.01", bid)
        wire.read()
        opened.go(600)
        trades = [each for each in reports(wire) if each["x"] == "TRADE"]
        assert trades
        assert trades[-1]["X"] == "FILLED"
        assert all(each["m"] for each in trades)

    def test_who_unsubscribes_or_leaves_hears_nothing_more(self, shop):
        opened, connection, wire = connected(shop)
        opened.say(connection, id=2, method="session.subscriptions", params={})
        assert wire.read()[0]["result"] == [{"subscriptionId": 0}]
        opened.say(connection, id=2, method="userDataStream.unsubscribe", params={})
        wire.read()
        opened.order("BUY", "1")
        assert wire.read() == []
        opened.say(connection, id=3, method="userDataStream.subscribe.signature", params=opened.signed())
        opened.say(connection, id=4, method="userDataStream.subscribe.signature", params=opened.signed())
        assert [each["status"] for each in wire.read()] == [200, 400]
        connection.lost()
        opened.order("BUY", "1")
        assert wire.read() == []

    def test_a_duplicate_report(self, shop):
        opened, _connection, wire = connected(shop, {"kind": "duplicate", "on": "user", "nth": 1})
        opened.order("BUY", "1", "39000")
        first, second = reports(wire)
        assert first == second

    def test_a_report_that_comes_before_the_answer(self, shop):
        opened, connection, wire = connected(shop, {"kind": "slow", "on": "order.place", "seconds": 3.0})
        placed(opened, connection)
        assert {each.get("id") for each in wire.read()} == {None}
        opened.go(3)
        assert wire.read()[0]["id"] == 9
