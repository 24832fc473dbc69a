"""Market streams, as a client sees them. With the hub that feeds them."""

import itertools
import json

import pytest

from graph.exchange.hub import STREAMS_MAX


def connected(shop, *streams, path="/ws", query="", faults=()):
    opened = shop(*faults)
    connection, wire = opened.open(path, query)
    if streams:
        opened.say(connection, method="SUBSCRIBE", params=list(streams), id=1)
        assert wire.read() == [{"result": None, "id": 1}]
    return opened, connection, wire


class TestControl:
    def test_subscribing_and_not(self, shop):
        opened, connection, wire = connected(shop, "btcusdt@trade", "btcusdt@bookTicker")
        opened.say(connection, method="LIST_SUBSCRIPTIONS", id="x")
        assert wire.read() == [{"result": ["btcusdt@trade", "btcusdt@bookTicker"], "id": "x"}]
        opened.say(connection, method="UNSUBSCRIBE", params=["btcusdt@trade"], id=None)
        opened.go(2)
        first, *events = wire.read()
        assert first == {"result": None, "id": None}
        assert events
        assert not any(event.get("e") == "trade" for event in events)

    def test_streams_in_the_address_come_raw_or_wrapped(self, shop):
        opened, _, wire = connected(shop, path="/ws/btcusdt@trade")
        _, many = opened.open("/stream", "streams=btcusdt@trade/btcusdt@aggTrade")
        opened.go(2)
        raw, wrapped = wire.read(), many.read()
        assert {event["e"] for event in raw} == {"trade"}
        assert [each["data"] for each in wrapped if each["stream"] == "btcusdt@trade"] == raw
        assert {each["stream"] for each in wrapped} == {"btcusdt@trade", "btcusdt@aggTrade"}

    def test_the_property(self, shop):
        opened, connection, wire = connected(shop, "btcusdt@trade")
        opened.say(connection, method="SET_PROPERTY", params=["combined", True], id=2)
        opened.say(connection, method="GET_PROPERTY", params=["combined"], id=3)
        opened.go(1)
        first, second, event, *_ = wire.read()
        assert (first, second) == ({"result": None, "id": 2}, {"result": True, "id": 3})
        assert event["stream"] == "btcusdt@trade"

    @pytest.mark.parametrize(
        ("text", "code"),
        [
            ("no json", 3),
            ('{"method":', 3),
            ('{"method":"SUBSCRIBE","params":' + "[" * 5_000, 3),
            ("{}", 2),
            ('{"method":"SELL"}', 2),
            ('{"method":"SUBSCRIBE","params":[1]}', 2),
            ('{"method":"SUBSCRIBE","params":[["a"]]}', 2),
            ('{"method":"SUBSCRIBE","params":"a"}', 2),
            ('{"method":"SUBSCRIBE","params":["' + "a" * 65 + '"]}', 2),
            ('{"method":"SET_PROPERTY","params":["combined",1]}', 2),
            ('{"method":"GET_PROPERTY","params":["color"]}', 2),
            ("[1]", 2),
        ],
    )
    def test_what_is_no_control_message(self, shop, text, code):
        opened, connection, wire = connected(shop)
        opened.exchange.receive(connection, text.encode())
        (answer,) = wire.read()
        assert answer["code"] == code
        assert wire.events == []

    def test_bytes_that_are_no_text(self, shop):
        opened, connection, wire = connected(shop)
        opened.exchange.receive(connection, b"\xff\xfe")
        assert wire.read()[0]["code"] == 3

    def test_who_says_too_much_is_shown_out(self, shop):
        opened, connection, wire = connected(shop)
        for number in range(6):
            opened.say(connection, method="LIST_SUBSCRIPTIONS", id=number)
        assert (len(wire.frames), wire.events) == (5, ["close 1008"])

    def test_too_many_streams(self, shop):
        opened, connection, wire = connected(shop)
        opened.say(connection, method="SUBSCRIBE", params=[f"s{n}" for n in range(STREAMS_MAX + 1)], id=1)
        assert wire.read()[0]["code"] == 2
        assert opened.open("/stream", "streams=" + "/".join(f"s{n}" for n in range(STREAMS_MAX + 1)))[0] == 400

    def test_an_address_that_leads_nowhere(self, shop):
        assert shop().open("/nothing")[0] == 404

    def test_nothing_is_left_of_who_has_gone(self, shop):
        opened, connection, _ = connected(shop, "btcusdt@trade", "btcusdt@depth@100ms")
        connection.lost()
        assert opened.engine.book.watchers == []
        assert opened.exchange.hub._heard == {}

    def test_a_subscription_that_is_never_acknowledged(self, shop):
        opened = shop({"kind": "mute", "on": "btcusdt@*", "nth": 1})
        connection, wire = opened.open()
        opened.say(connection, method="SUBSCRIBE", params=["btcusdt@trade"], id=1)
        opened.go(5)
        assert wire.frames == []
        opened.say(connection, method="SUBSCRIBE", params=["btcusdt@trade"], id=2)
        assert wire.read() == [{"result": None, "id": 2}]


class TestMarket:
    def test_trades_are_numbered_without_a_gap(self, shop):
        opened, _, wire = connected(shop, "btcusdt@trade")
        opened.go(20)
        events = wire.read()
        numbers = [event["t"] for event in events]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert len(numbers) > 50
        assert set(events[0]) == {"e", "E", "s", "t", "p", "q", "T", "m", "M"}

    def test_aggregates_cover_every_trade_once(self, shop):
        opened, _, wire = connected(shop, "btcusdt@trade", "btcusdt@aggTrade")
        opened.order("BUY", "5")
        opened.go(5)
        events = wire.read()
        trades = [event for event in events if event["e"] == "trade"]
        aggregates = [event for event in events if event["e"] == "aggTrade"]
        covered = [number for each in aggregates for number in range(each["f"], each["l"] + 1)]
        assert covered == [each["t"] for each in trades]
        assert sum(float(each["q"]) for each in aggregates) == pytest.approx(sum(float(each["q"]) for each in trades))
        assert set(aggregates[0]) == {"e", "E", "s", "a", "p", "q", "f", "l", "T", "m", "M"}

    def test_best_prices_come_when_they_change(self, shop):
        opened, _, wire = connected(shop, "btcusdt@bookTicker")
        opened.go(10)
        events = wire.read()
        assert [event["u"] for event in events] == sorted({event["u"] for event in events})
        assert all(float(event["b"]) < float(event["a"]) for event in events)
        assert all(before != after for before, after in itertools.pairwise(events))
        assert set(events[0]) == {"u", "s", "b", "B", "a", "A"}

    @pytest.mark.parametrize(("pace", "seconds"), [("@100ms", 0.1), ("", 1.0)])
    def test_differences_lead_from_a_snapshot_to_the_book(self, shop, pace, seconds):
        opened, _, wire = connected(shop, f"btcusdt@depth{pace}")
        opened.go(2.05)
        book = opened.ask("GET", "depth", symbol="BTCUSDT", limit=1_000).json
        opened.go(10)
        events = [event for event in wire.read() if event["u"] > book["lastUpdateId"]]
        assert events[0]["U"] <= book["lastUpdateId"] + 1 <= events[0]["u"]
        assert all(a["u"] + 1 == b["U"] for a, b in itertools.pairwise(events))
        times = [event["E"] for event in events]
        assert min(b - a for a, b in itertools.pairwise(times)) == seconds * 1_000
        sides = {"b": dict(book["bids"]), "a": dict(book["asks"])}
        for event in events:
            for side, levels in sides.items():
                levels.update(map(tuple, event[side]))
        held = {side: {p: q for p, q in levels.items() if float(q)} for side, levels in sides.items()}
        now = opened.ask("GET", "depth", symbol="BTCUSDT", limit=1_000).json
        if events[-1]["u"] == now["lastUpdateId"]:
            assert held == {"b": dict(now["bids"]), "a": dict(now["asks"])}
        else:
            assert pace == ""

    def test_the_best_levels(self, shop):
        opened, _, wire = connected(shop, "btcusdt@depth5@100ms", "btcusdt@depth10")
        opened.go(1.0)
        sizes = {len(event["bids"]) for event in wire.read()}
        assert max(sizes) <= 10
        assert 5 in sizes

    def test_a_candle_is_told_while_it_grows_and_once_when_it_closes(self, shop):
        opened, _, wire = connected(shop, "btcusdt@kline_1m", "btcusdt@kline_1s")
        opened.go(180)
        minutes = [event for event in wire.read() if event["k"]["i"] == "1m"]
        closed = [event["k"] for event in minutes if event["k"]["x"]]
        assert [each["t"] for each in closed] == list(range(closed[0]["t"], closed[0]["t"] + 180_000, 60_000))
        assert all(event["E"] == event["k"]["T"] + 1 for event in minutes if event["k"]["x"])
        rows = {row[0]: row for row in opened.ask("GET", "klines", symbol="BTCUSDT", interval="1m").json}
        for each in closed:
            assert rows[each["t"]][1:6] == [each[name] for name in "ohlcv"]
        growing = [event["k"]["n"] for event in minutes if event["k"]["t"] == closed[1]["t"]]
        assert growing == sorted(growing)
        assert len(growing) == 30

    def test_the_last_day(self, shop):
        opened, _, wire = connected(shop, "btcusdt@ticker", "btcusdt@miniTicker")
        opened.go(1)
        whole, mini = wire.read()
        assert (whole["e"], mini["e"]) == ("24hrTicker", "24hrMiniTicker")
        assert whole["c"] == mini["c"]

    def test_nobody_hears_of_a_name_that_is_no_stream(self, shop):
        opened, _, wire = connected(shop, "btcusdt@nothing", "xyz@trade")
        opened.go(5)
        assert wire.frames == []

    def test_the_same_seed_sends_the_same_bytes(self, shop):
        def heard(seed):
            opened = shop(seed=seed)
            _, wire = opened.open("/ws/btcusdt@trade/btcusdt@bookTicker/btcusdt@depth@100ms/btcusdt@kline_1m")
            opened.go(30)
            return wire.frames

        assert heard(3) == heard(3) != heard(4)
        assert all(json.loads(frame) for frame in heard(3))
