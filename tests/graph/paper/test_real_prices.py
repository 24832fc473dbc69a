"""The paper broker on prices that were: a month of minutes of a perpetual, and a morning of currency quotes."""

import csv
import os
import random
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from agents.clock import ReplayClock
from agents.domain import Bar, OrderIntent, OrderStatus, Portfolio, Quote, Side
from graph.paper import PaperBroker, PaperTerms
from tests.graph.paper.market import MINUTE_NS

DATA = Path(os.environ.get("HOLDFAST_DATA") or Path(__file__).parents[3].parent / "shared" / "data")
CASH = Decimal(10_000_000)


def rows(name):
    """The file's rows, with their times in nanoseconds."""
    if not (DATA / name).is_file():
        pytest.skip(f"{name} is not in the folder of real price data (HOLDFAST_DATA)")
    with (DATA / name).open() as file:
        for row in csv.DictReader(file):
            at = datetime.fromisoformat(row["timestamp"])
            whole = round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1_000_000)
            yield whole * 1_000, row


@pytest.fixture(scope="module")
def minutes():
    names = ("open", "high", "low", "close", "volume")
    found = rows("btc_perp_1m_2022_01.csv")
    return [Bar("BTC", at_ns, *(Decimal(row[name]) for name in names)) for at_ns, row in found]


@pytest.fixture(scope="module")
def quotes():
    return [
        Quote("USD/JPY", at_ns, Decimal(row["bid"]), Decimal(row["ask"]))
        for at_ns, row in rows("usdjpy_quotes_2013.csv")
    ]


class Trader:
    """Sends any order now and then, by a seed; remembers what it was told."""

    def __init__(self, path, terms, seed, start_ns):
        self.clock = ReplayClock(start_ns)
        self.broker = PaperBroker.open(path, self.clock, terms, at_once=False, inline=True)
        self.random = random.Random(seed)  # noqa: S311 - no secret
        self.orders: dict[str, OrderIntent] = {}
        self.reports = {}

    async def act(self, symbol, price, at_ns, quantity):
        def near():
            return self.random.choice([None, (price * Decimal(self.random.uniform(0.992, 1.008))).quantize(price)])

        order = OrderIntent.derive(
            run_id=f"run-{len(self.orders)}",
            account="paper",
            symbol=symbol,
            side=self.random.choice(list(Side)),
            quantity=quantity,
            reference_price=price,
            reference_ns=at_ns,
            limit_price=near(),
            stop_price=near(),
        )
        self.orders[order.intent_id] = order
        self.reports[order.intent_id] = await self.broker.send(order)

    async def feed(self, found):
        if isinstance(found, Quote):
            self.clock.advance_to(found.time_ns)
            self.reports |= await self.broker.on_quote(found)
        else:
            self.clock.advance_to(found.close_ns)
            self.reports |= await self.broker.on_bar(found, found.close_ns - MINUTE_NS)

    def fills(self):
        return [(self.orders[name], fill) for name, report in self.reports.items() for fill in report.fills]

    def held(self):
        portfolio = Portfolio("paper", CASH)
        for _, fill in sorted(self.fills(), key=lambda each: each[1].time_ns):
            portfolio = portfolio.apply(fill)
        return portfolio


async def trade_minutes(path, minutes, seed):
    terms = PaperTerms(participation=Decimal("0.00001"), expiry_hours=Decimal(2), seed=seed)
    trader = Trader(path, terms, seed, minutes[0].close_ns)
    for number, bar in enumerate(minutes):
        await trader.feed(bar)
        if number % 25 == 0:
            await trader.act("BTC", bar.close, bar.close_ns, Decimal(trader.random.randint(1, 60)))
    trader.broker.database.close()
    return trader


async def test_a_day_of_minutes(minutes, tmp_path):
    day = minutes[: 24 * 60]
    trader = await trade_minutes(tmp_path / "one.db", day, 7)
    at, spread = {bar.close_ns: bar for bar in day}, Decimal("1.00031")  # half a spread, and the slippage
    for order, fill in trader.fills():
        bar = at[fill.time_ns]
        assert bar.low / spread <= fill.price <= bar.high * spread
        assert order.limit_price is None or (fill.price - order.limit_price) * order.side.sign <= 0
        assert fill.time_ns > order.reference_ns
    used = {}
    for _, fill in trader.fills():
        used[fill.time_ns] = used.get(fill.time_ns, Decimal(0)) + fill.quantity
    assert all(quantity <= at[time_ns].volume * Decimal("0.00001") for time_ns, quantity in used.items())
    statuses = [report.status for report in trader.reports.values()]
    assert all(statuses.count(status) > 5 for status in (OrderStatus.FILLED, OrderStatus.CANCELLED))
    assert max(len(report.fills) for report in trader.reports.values()) > 3
    spent = sum((fill.price * fill.quantity * fill.side.sign + fill.fee for _, fill in trader.fills()), Decimal(0))
    assert trader.held().cash == CASH - spent
    again = await trade_minutes(tmp_path / "two.db", day, 7)
    assert again.reports == trader.reports


async def test_currency_quotes(quotes, tmp_path):
    trader = Trader(tmp_path / "broker.db", PaperTerms(), 7, quotes[0].time_ns)
    for number, quote in enumerate(quotes):
        await trader.feed(quote)
        if number % 10 == 0:
            await trader.act("USD/JPY", quote.bid, quote.time_ns, Decimal(1_000))
    slip, times = Decimal("1.0002"), [quote.time_ns for quote in quotes]
    assert len(trader.fills()) > 40
    for order, fill in trader.fills():
        met = [quote for quote in quotes if quote.time_ns == fill.time_ns]
        if order.side is Side.BUY:
            assert any(quote.ask <= fill.price <= quote.ask * slip for quote in met)
        else:
            assert any(quote.bid * (2 - slip) <= fill.price <= quote.bid for quote in met)
        arrived_ns = order.reference_ns + PaperTerms().latency_ns("order", order.intent_id)
        assert fill.time_ns >= arrived_ns
        if order.limit_price is None and order.stop_price is None:  # the first quote after it came, and no later one
            assert fill.time_ns == next(each for each in times if each >= arrived_ns)
    trader.broker.database.close()
