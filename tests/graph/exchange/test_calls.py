"""Every method by REST: its parameters, its answer, and what it refuses. With `params` and `placing`."""

import pytest

from graph.exchange.calls import METHODS, ROUTES


def open_shop(shop, *faults, **more):
    opened = shop(*faults, **more)
    opened.go(0.2)  # somebody has to be in the book
    return opened


class TestMarket:
    def test_ping_and_time(self, shop):
        opened = shop()
        assert opened.ask("GET", "ping").json == {}
        assert opened.ask("GET", "time").json == {"serverTime": opened.now_ms}

    def test_the_rules_of_a_symbol(self, shop):
        info = shop().ask("GET", "exchangeInfo").json
        (symbol,) = info["symbols"]
        filters = {each["filterType"]: each for each in symbol["filters"]}
        assert (symbol["symbol"], symbol["baseAsset"], symbol["quoteAsset"]) == ("BTCUSDT", "BTC", "USDT")
        assert filters["PRICE_FILTER"]["tickSize"] == "0.01000000"
        assert filters["LOT_SIZE"]["stepSize"] == "0.00001000"
        assert filters["NOTIONAL"]["minNotional"] == "5.00000000"
        assert {each["rateLimitType"] for each in info["rateLimits"]} == {"REQUEST_WEIGHT", "ORDERS"}

    def test_the_book_and_its_best_prices(self, shop):
        opened = open_shop(shop)
        depth = opened.ask("GET", "depth", symbol="BTCUSDT", limit=5).json
        best = opened.ask("GET", "ticker/bookTicker", symbol="BTCUSDT").json
        assert (len(depth["bids"]), len(depth["asks"])) == (5, 5)
        assert depth["bids"][0] == [best["bidPrice"], best["bidQty"]]
        assert float(depth["bids"][0][0]) > float(depth["bids"][1][0])
        assert depth["lastUpdateId"] == opened.engine.book.update

    def test_candles_have_a_history_and_no_holes(self, shop):
        opened = open_shop(shop)
        rows = opened.ask("GET", "klines", symbol="BTCUSDT", interval="1m", limit=1_000).json
        opens = [row[0] for row in rows]
        assert len(rows) == 601
        assert opens == list(range(opens[0], opens[-1] + 1, 60_000))
        assert all(float(row[3]) <= float(row[1]) <= float(row[2]) for row in rows)
        assert opened.ask("GET", "klines", symbol="BTCUSDT", interval="7m").json["code"] == -1120

    def test_prices_trades_and_the_last_day(self, shop):
        opened = open_shop(shop)
        opened.go(5)
        trades = opened.ask("GET", "trades", symbol="BTCUSDT", limit=3).json
        numbers = [each["id"] for each in trades]
        assert numbers == sorted(numbers)
        assert len(numbers) == 3
        assert opened.ask("GET", "ticker/price", symbol="BTCUSDT").json["price"] == trades[-1]["price"]
        (day,) = opened.ask("GET", "ticker/24hr").json
        assert float(day["lowPrice"]) <= float(day["lastPrice"]) <= float(day["highPrice"])

    @pytest.mark.parametrize(
        ("path", "params", "code"),
        [
            ("depth", {}, -1102),
            ("depth", {"symbol": "NOPE"}, -1121),
            ("depth", {"symbol": "BTCUSDT", "limit": 0}, -1130),
            ("depth", {"symbol": "BTCUSDT", "limit": "x"}, -1100),
            ("depth", {"symbol": "BTCUSDT", "more": 1}, -1104),
            ("ping", {"more": 1}, -1104),
        ],
    )
    def test_what_is_refused(self, shop, path, params, code):
        answer = shop().ask("GET", path, **params)
        assert (answer.status, answer.json["code"]) == (400, code)

    def test_a_parameter_that_comes_twice_and_an_endpoint_that_is_not_there(self, shop):
        opened = shop()
        assert opened.ask("GET", "depth", symbol="BTCUSDT&symbol=BTCUSDT").json["code"] == -1101
        assert opened.ask("GET", "nothing").status == 404
        assert opened.ask("PUT", "order").status == 404


class TestOrders:
    def test_a_market_order_is_answered_with_its_fills(self, shop):
        answer = open_shop(shop).order("BUY", "1.5", newClientOrderId="me-1").json
        assert (answer["status"], answer["clientOrderId"], answer["executedQty"]) == ("FILLED", "me-1", "1.50000000")
        assert sum(float(fill["qty"]) for fill in answer["fills"]) == 1.5
        assert {fill["commissionAsset"] for fill in answer["fills"]} == {"BTC"}

    @pytest.mark.parametrize(("kind", "has"), [("ACK", False), ("RESULT", True), ("FULL", True)])
    def test_as_long_an_answer_as_was_asked_for(self, shop, kind, has):
        answer = open_shop(shop).order("BUY", "1", newOrderRespType=kind).json
        assert ("status" in answer, "fills" in answer) == (has, kind == "FULL")

    def test_the_life_of_a_limit_order(self, shop):
        opened = open_shop(shop)
        placed = opened.order("BUY", "1", "39000", newClientOrderId="me-1").json
        assert placed["status"] == "NEW"
        name = {"symbol": "BTCUSDT", "origClientOrderId": "me-1"}
        assert opened.ask("GET", "order", signed=True, **name).json["orderId"] == placed["orderId"]
        assert len(opened.ask("GET", "openOrders", signed=True).json) == 1
        assert opened.order("BUY", "1", "39000", newClientOrderId="me-1").json["code"] == -2010
        cancelled = opened.ask("DELETE", "order", signed=True, **name).json
        assert (cancelled["status"], cancelled["origClientOrderId"]) == ("CANCELED", "me-1")
        assert opened.ask("DELETE", "order", signed=True, **name).json["code"] == -2011
        assert opened.ask("GET", "order", signed=True, **name).json["status"] == "CANCELED"
        assert opened.ask("GET", "openOrders", signed=True, symbol="BTCUSDT").json == []

    def test_all_open_orders_at_once(self, shop):
        opened = open_shop(shop)
        for price in ("39000", "38000"):
            opened.order("BUY", "1", price)
        cancelled = opened.ask("DELETE", "openOrders", signed=True, symbol="BTCUSDT").json
        assert [each["status"] for each in cancelled] == ["CANCELED", "CANCELED"]
        assert opened.ask("DELETE", "openOrders", signed=True, symbol="BTCUSDT").json["code"] == -2011

    def test_lists_are_read_page_by_page(self, shop):
        opened = open_shop(shop)
        numbers = [opened.order("BUY", "0.1").json["orderId"] for _ in range(5)]
        page = opened.ask("GET", "allOrders", signed=True, symbol="BTCUSDT", orderId=numbers[2], limit=2).json
        assert [each["orderId"] for each in page] == numbers[2:4]
        newest = opened.ask("GET", "allOrders", signed=True, symbol="BTCUSDT", limit=2).json
        assert [each["orderId"] for each in newest] == numbers[3:]
        trades = opened.ask("GET", "myTrades", signed=True, symbol="BTCUSDT").json
        later = opened.ask("GET", "myTrades", signed=True, symbol="BTCUSDT", fromId=trades[1]["id"], limit=2).json
        assert [each["id"] for each in later] == [each["id"] for each in trades[1:3]]
        mine = opened.ask("GET", "myTrades", signed=True, symbol="BTCUSDT", orderId=numbers[0]).json
        assert {each["orderId"] for each in mine} == {numbers[0]}
        assert opened.ask("GET", "myTrades", signed=True, symbol="BTCUSDT", startTime=opened.now_ms + 1).json == []

    def test_balances(self, shop):
        opened = open_shop(shop)
        opened.order("BUY", "1", "39000")
        account = opened.ask("GET", "account", signed=True, omitZeroBalances="true").json
        held = {each["asset"]: (each["free"], each["locked"]) for each in account["balances"]}
        assert held["USDT"] == ("961000.00000000", "39000.00000000")

    def test_a_test_order_is_only_looked_at(self, shop):
        opened = open_shop(shop)
        params = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "1"}
        assert opened.ask("POST", "order/test", signed=True, **params).json == {}
        assert opened.ask("GET", "allOrders", signed=True, symbol="BTCUSDT").json == []

    @pytest.mark.parametrize(
        ("changed", "code"),
        [
            ({"side": "buy"}, -1117),
            ({"type": "ICEBERG"}, -1116),
            ({"quantity": ""}, -1102),
            ({"quantity": "abc"}, -1100),
            ({"quantity": "1e3"}, -1100),
            ({"quantity": "NaN"}, -1100),
            ({"quantity": "-1"}, -1100),
            ({"quantity": "0"}, -1013),
            ({"quantity": "1.123456789"}, -1111),
            ({"price": "1"}, -1106),
            ({"timeInForce": "GTC"}, -1114),
            ({"type": "LIMIT", "price": "39000"}, -1102),
            ({"type": "LIMIT", "price": "39000", "timeInForce": "DAY"}, -1115),
            ({"type": "STOP_LOSS"}, -1102),
            ({"quoteOrderQty": "5"}, -1106),
            ({"newClientOrderId": "a b"}, -1100),
            ({"newClientOrderId": "a" * 37}, -1100),
            ({"newOrderRespType": "SOME"}, -1130),
            ({"icebergQty": "1"}, -1104),
            ({"symbol": "NOPE"}, -1121),
        ],
    )
    def test_what_is_refused(self, shop, changed, code):
        params = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "1"} | changed
        opened = open_shop(shop)
        params = {name: value.replace(" ", "%20") for name, value in params.items()}
        answer = opened.ask("POST", "order", signed=True, **params)
        assert (answer.status, answer.json["code"]) == (400, code)
        assert opened.ask("GET", "allOrders", signed=True, symbol="BTCUSDT").json == []


@pytest.mark.parametrize("route", [route for route, name in ROUTES.items() if METHODS[name].signed])
def test_whatever_is_a_client_s_own_needs_a_signature(shop, route):
    method, path = route
    answer = shop().ask(method, path.removeprefix("/api/v3/"), symbol="BTCUSDT")
    assert (answer.status, answer.json["code"]) == (401, -2014)


def test_a_request_from_another_time_is_refused(shop):
    opened = shop()
    late = opened.ask("GET", "account", signed=True, timestamp=opened.now_ms - 6_000)
    early = opened.ask("GET", "account", signed=True, timestamp=opened.now_ms + 2_000)
    assert (late.json["code"], early.json["code"]) == (-1021, -1021)
    assert opened.ask("GET", "account", signed=True, timestamp=opened.now_ms - 6_000, recvWindow=9_000).status == 200
    assert opened.ask("GET", "account", signed=True, timestamp="").json["code"] == -1102
