"""A quiet market with two clients, an exchange on a clock that is moved by hand, and clients that speak to it."""

import json
from decimal import Decimal
from types import SimpleNamespace

import pytest

from agents.clock import ReplayClock
from graph.exchange.accounts import Account, Balance
from graph.exchange.candles import Candle
from graph.exchange.engine import Engine
from graph.exchange.fixed import SCALE, parse
from graph.exchange.gateway import Exchange, Request
from graph.exchange.menu import ExchangeFault, FaultMenu
from graph.exchange.openings import client_of, opening_of
from graph.exchange.orders import Order
from graph.exchange.signing import signature_of
from graph.exchange.symbols import SYMBOLS

NOW_MS = 1_700_000_000_123
BTC = SYMBOLS[0]


def fixed(value):
    """A number as the exchange keeps it."""
    return parse(format(Decimal(str(value)), "f"))


class Ear:
    """Hears everything that an engine tells."""

    def __init__(self):
        self.trades, self.takings, self.reports = [], [], []

    def traded(self, engine, trade):
        self.trades.append(trade)

    def taken(self, engine, trades):
        self.takings.append(list(trades))

    def reported(self, order, what, execution):
        self.reports.append((order.client_id, what, order.status, execution))


class Market:
    """One engine at a last price of 100, with nobody in its book, and the clients `me` and `you`."""

    def __init__(self):
        flat = Candle(NOW_MS - NOW_MS % 60_000 - 60_000, *(fixed(100),) * 4)
        self.ear = Ear()
        rich = {"USDT": 100_000, "BTC": 1_000}
        self.accounts = {
            name: Account(name, "s", {asset: Balance(amount * SCALE) for asset, amount in rich.items()})
            for name in ("me", "you")
        }
        self.engine = Engine(BTC, self.accounts, self.ear, [flat])
        self.now_ms = NOW_MS

    def order(self, side, quantity, price=0, *, owner="me", name="", kind="", tif="GTC", stop=0, budget=0):
        kind = kind or ("LIMIT" if price else "MARKET")
        return Order(
            self.engine.next_order(), owner, BTC.name, side == "buy", fixed(price), fixed(quantity), name, kind, tif,
            fixed(stop), fixed(budget), self.now_ms, self.now_ms,
        )  # fmt: skip

    def submit(self, *given, **more):
        order = self.order(*given, **more)
        self.engine.submit(order, self.now_ms)
        return order

    def crowd(self, side, quantity, price=0):
        """An order of nobody's."""
        order = self.order(side, quantity, price, owner="", tif="GTC" if price else "IOC")
        self.engine.take(order, self.now_ms)
        return order

    def free(self, owner, asset):
        return Decimal(self.accounts[owner].balance(asset).free) / SCALE

    def locked(self, owner, asset):
        return Decimal(self.accounts[owner].balance(asset).locked) / SCALE


@pytest.fixture
def market():
    return Market()


class Wire:
    """The other end of a connection. It answers pings where `answers` says how."""

    def __init__(self):
        self.frames, self.events = [], []
        self.answers = lambda: None

    def send(self, frame):
        self.frames.append(frame)

    def ping(self):
        self.events.append("ping")
        self.answers()

    def pong(self, payload):
        self.events.append(f"pong {payload.decode()}")

    def close(self, code):
        self.events.append(f"close {code}")

    def reset(self):
        self.events.append("reset")

    def read(self):
        """All frames so far, as JSON."""
        read, self.frames = [json.loads(frame) for frame in self.frames], []
        return read


class Shop:
    """A whole exchange on a clock that is moved by hand; its client asks in whole steps."""

    def __init__(self, *faults, seed=7, **more):
        self.clock = ReplayClock(NOW_MS * 1_000_000)
        opening = opening_of(seed, self.clock.now_ns(), symbols=(BTC,), **({"latency_ms": 0.0} | more))
        self.client = client_of(seed)
        self.exchange = Exchange(opening, self.clock, FaultMenu([ExchangeFault(**each) for each in faults], seed=seed))
        self.engine = self.exchange.venue.engines[BTC.name]

    @property
    def now_ms(self):
        return self.clock.now_ns() // 1_000_000

    def go(self, seconds):
        """Let time go by, as a driver would."""
        until = self.clock.now_ns() + round(seconds * 1e9)
        while (due := self.exchange.advance()) <= until:
            self.clock.advance_to(max(due, self.clock.now_ns()))
        self.clock.advance_to(until)
        self.exchange.advance()

    def ask(self, method, path, *, signed=False, key=None, wait=0.0, **params):
        """One REST request; what was answered after `wait` seconds: status, JSON, headers; None for a broken line."""
        params = {name: str(value) for name, value in params.items()}
        if signed:
            params.setdefault("timestamp", str(self.now_ms))
        query = "&".join(f"{name}={value}" for name, value in params.items())
        if signed:
            query += f"&signature={signature_of(self.client.secret, query)}"
        answers = []
        key = (self.client.key if signed else "") if key is None else key
        self.exchange.request(Request(method, f"/api/v3/{path}", query, "", key, "here"), answers.append)
        self.go(wait)
        (reply,) = answers
        if reply is None:
            return None
        try:
            content = json.loads(reply.body)
        except ValueError:
            content = reply.body
        return SimpleNamespace(status=reply.status, json=content, headers=dict(reply.headers))

    def order(self, side, quantity, price=None, **more):
        """Place an order."""
        params = {"symbol": BTC.name, "side": side, "type": "MARKET", "quantity": quantity}
        if price is not None:
            params |= {"type": "LIMIT", "timeInForce": "GTC", "price": price}
        return self.ask("POST", "order", signed=True, **(params | more))

    def open(self, path="/ws", query=""):
        """A WebSocket connection: the exchange's end, and the wire."""
        wire = Wire()
        connection = self.exchange.connect(path, query, wire, "here")
        if not isinstance(connection, int):
            wire.answers = connection.pong
        return connection, wire

    def say(self, connection, **message):
        self.exchange.receive(connection, json.dumps(message).encode())
        self.go(0)

    def signed(self, **params):
        """Parameters for the WebSocket API."""
        whole = {"apiKey": self.client.key, "timestamp": self.now_ms} | params
        payload = "&".join(f"{name}={whole[name]}" for name in sorted(whole))
        return whole | {"signature": signature_of(self.client.secret, payload)}


@pytest.fixture
def shop():
    """Make an exchange: `shop({"kind": "reset", "on": "*"}, seed=3)`."""
    return Shop
