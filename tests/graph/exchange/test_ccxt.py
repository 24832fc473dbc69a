"""An independent client: unmodified ccxt, whose only setting is where the exchange is."""

import asyncio
import re
import socket
import warnings
from pathlib import Path

import pytest

from graph.exchange.openings import client_of
from tests.graph.exchange.test_server import served

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    ccxt = pytest.importorskip("ccxt.pro")

MARKET = "BTC/USDT"


@pytest.fixture
async def binance():
    """A client of an exchange of its own; everything it does is bounded in time."""
    async with served() as port:
        client = client_of(7)
        made = ccxt.binance(
            {
                "apiKey": client.key,
                "secret": client.secret,
                "options": {"defaultType": "spot", "fetchMarkets": {"types": ["spot"]}, "fetchMargins": False},
            }
        )
        made.has["fetchCurrencies"] = False  # of Binance's wallet, which is no exchange
        rest = f"http://127.0.0.1:{port}/api/v3"
        made.urls["api"] |= {"public": rest, "private": rest}
        made.urls["api"]["ws"] |= {"spot": f"ws://127.0.0.1:{port}/ws"}
        made.urls["api"]["ws"]["ws-api"] = {"spot": f"ws://127.0.0.1:{port}/ws-api/v3"}
        try:
            async with asyncio.timeout(30):
                yield made
        finally:
            await made.close()


async def test_time_markets_and_balance(binance):
    assert abs(await binance.fetch_time() - binance.milliseconds()) < 5_000
    markets = await binance.load_markets()
    assert set(markets) == {"BTC/USDT", "ETH/USDT"}
    assert markets[MARKET]["precision"]["price"] == 0.01
    assert markets[MARKET]["limits"]["cost"]["min"] == 5.0
    assert (await binance.fetch_balance())["total"] == {"USDT": 1_000_000.0, "BTC": 10.0, "ETH": 100.0}


async def test_trades_ticker_book_and_candles_of_the_streams(binance):
    trades = await binance.watch_trades(MARKET)
    ticker = await binance.watch_ticker(MARKET)
    assert abs(ticker["last"] / trades[-1]["price"] - 1) < 0.01
    for _ in range(5):
        book = await binance.watch_order_book(MARKET)
        assert book["bids"][0][0] < book["asks"][0][0]
    best = (await binance.watch_bids_asks([MARKET]))[MARKET]
    assert best["bid"] < best["ask"]
    candles = await binance.watch_ohlcv(MARKET, "1m")
    assert len(await binance.fetch_ohlcv(MARKET, "1m", limit=50)) == 50
    assert candles[-1][4] > 0


async def test_orders_from_placing_to_their_trades(binance):
    await binance.load_markets()
    await binance.authenticate()
    watching = asyncio.create_task(binance.watch_orders(MARKET))
    bought = await binance.create_order(MARKET, "market", "buy", 0.5)
    assert (bought["status"], bought["filled"], bought["fee"]["currency"]) == ("closed", 0.5, "BTC")
    assert (await watching)[-1]["id"] == bought["id"]
    resting = await binance.create_order(MARKET, "limit", "buy", 0.1, 30_000, {"clientOrderId": "me-1"})
    assert resting["status"] == "open"
    assert (await binance.fetch_order(resting["id"], MARKET))["clientOrderId"] == "me-1"
    assert [each["id"] for each in await binance.fetch_open_orders(MARKET)] == [resting["id"]]
    assert (await binance.cancel_order(resting["id"], MARKET))["status"] == "canceled"
    assert sum(each["amount"] for each in await binance.fetch_my_trades(MARKET)) == pytest.approx(0.5)
    assert len(await binance.fetch_orders(MARKET)) == 2
    stop = await binance.create_order(MARKET, "market", "sell", 0.1, None, {"stopLossPrice": 30_000})
    assert (await binance.cancel_order(stop["id"], MARKET))["status"] == "canceled"


async def test_orders_by_the_websocket_api(binance):
    await binance.load_markets()
    resting = await binance.create_order_ws(MARKET, "limit", "sell", 0.1, 41_000)
    assert (await binance.fetch_order_ws(resting["id"], MARKET))["status"] == "open"
    assert (await binance.cancel_order_ws(resting["id"], MARKET))["status"] == "canceled"


async def test_errors_are_what_they_are_at_binance(binance):
    await binance.load_markets()
    with pytest.raises(ccxt.InsufficientFunds):
        await binance.create_order(MARKET, "limit", "buy", 1_000, 39_000)
    with pytest.raises(ccxt.OrderNotFound):
        await binance.fetch_order("1", MARKET)
    with pytest.raises(ccxt.InvalidOrder):
        await binance.create_order(MARKET, "limit", "buy", 0.1, 1)
    binance.secret = "wrong"  # noqa: S105 - which is the point
    with pytest.raises(ccxt.AuthenticationError):
        await binance.fetch_balance()


async def test_the_client_of_the_docs_goes_nowhere_else(monkeypatch):
    """Executed as it is written there: a setting that is missing would have it ask Binance itself, with a signature."""
    docs = Path(__file__).parents[3] / "docs" / "exchange.md"
    (block,) = re.findall(r"```python\n(import ccxt\.pro.*?)```", docs.read_text(encoding="utf-8"), re.DOTALL)
    find = socket.getaddrinfo

    def at_home(host, *more, **named):
        assert host == "127.0.0.1"
        return find(host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", at_home)
    client = client_of(7)
    async with served() as port, asyncio.timeout(30):
        names = {
            "KEY": client.key,
            "SECRET": client.secret,
            "REST": f"http://127.0.0.1:{port}",
            "STREAMS": f"ws://127.0.0.1:{port}/ws",
            "API": f"ws://127.0.0.1:{port}/ws-api/v3",
        }
        exec(block, names)  # noqa: S102 - of our own docs
        try:
            assert (await names["exchange"].fetch_balance())["total"]["BTC"] == 10.0
            assert await names["exchange"].watch_trades(MARKET)
        finally:
            await names["exchange"].close()
