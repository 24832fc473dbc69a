"""A desk, its ledger and its reconciler at an exchange, all in one loop on virtual time."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from types import SimpleNamespace

from pydantic import SecretStr

from agents.domain import Fill, MarketView, OrderIntent, Portfolio, Side
from agents.errors import OrderError
from agents.risk import RiskLimits
from checkpoints.database import Database
from checkpoints.ledger import OrderLedger
from checkpoints.trading_state import TradingSwitch
from graph.comparison import Books
from graph.desk import OrderDesk
from graph.exchange.driver import drive
from graph.exchange.fixed import SCALE
from graph.exchange.gateway import Exchange
from graph.exchange.memory import MemoryTransport
from graph.exchange.menu import ExchangeFault, FaultMenu
from graph.exchange.openings import client_of, opening_of
from graph.exchange.symbols import SYMBOLS
from graph.inquiry import Inquiry
from graph.kill_switch import KillSwitch
from graph.reconciler import Reconciler
from graph.resilience import Guard
from graph.resilience.virtual import VirtualClock
from graph.spot.broker import ExchangeBroker, follow, of_ledger
from graph.spot.terms import ExchangeTerms
from tests.graph.stream.world import LoopTime

BTC = "BTCUSDT"
SEED = 3
GENEROUS = RiskLimits(
    concentration_share_max=10.0,
    position_notional_max=1e12,
    order_notional_max=1e12,
    gross_share_max=10.0,
    rate_count_max=10_000,
    rate_notional_max=1e12,
    reject_streak_max=1_000,
    daily_loss_share_max=1.0,
    drawdown_share_max=1.0,
    price_collar_share_max=1.0,
    reference_age_max_s=3_600.0,
    duplicate_window_s=0.001,
    quantity_step=Decimal("0.0000001"),
)
CASH = Decimal(1_000_000)
MINUTE_NS = 60 * 10**9


def terms_of(client, symbols=(BTC,), rest="http://127.0.0.1:1", api="ws://127.0.0.1:1/ws-api/v3"):
    return ExchangeTerms(rest, "ws://127.0.0.1:1", api, SecretStr(client.key), SecretStr(client.secret), symbols)


@dataclass
class Counted:
    """The transport, which counts what is asked by REST."""

    inner: MemoryTransport
    asked: list[str] = field(default_factory=list)

    async def connect(self, url):
        return await self.inner.connect(url)

    async def request(self, method, url, headers):
        self.asked.append(f"{method} {url.split('?')[0].rpartition('/api/v3/')[2]}")
        return await self.inner.request(method, url, headers)


class World:
    """All of it; `play` a story in it."""

    def __init__(self, clock, *faults, seed=SEED, steps=2.0, symbols=(BTC,), follows=True, skew_s=0.0, limits=None):
        self.clock, self.seed = clock, seed
        self.time = LoopTime(clock)
        self.menu = FaultMenu([ExchangeFault(**each) for each in faults], seed=seed)
        known = tuple(each for each in SYMBOLS if each.name in symbols)
        self.exchange = Exchange(opening_of(seed, self.time.now_ns(), symbols=known, steps=steps), self.time, self.menu)
        self.client = client_of(seed)
        self.http = Counted(MemoryTransport(self.exchange))
        self.here = SimpleNamespace(now_ns=lambda: self.time.now_ns() + round(skew_s * 1e9))
        self.database = Database.open(":memory:", inline=True)
        self.ledger = OrderLedger(self.database, clock=self.here)
        self.notices, self.told, self.follows = [], [], follows
        self.broker = self.open(symbols, limits)
        self.guard = Guard("broker", retry=None, breaker=None, attempt_timeout=30.0)
        self.switch = TradingSwitch(self.database)
        self.kill = KillSwitch(self.switch, self.ledger, self.broker, self.guard, self.here, self.tell)
        self.desk = OrderDesk(self.ledger, self.broker, GENEROUS, self.guard, clock=self.here)
        books = Books(self.ledger, self.broker, self.switch, self.here, CASH)
        inquiry = Inquiry(self.ledger, self.broker, self.guard, self.here)
        self.reconciler = Reconciler(books, self.kill, inquiry, self.tell)
        self.orders = 0

    def open(self, symbols=(BTC,), limits=None):
        """A broker as a process would have it that has just begun."""
        return ExchangeBroker(
            self.http, self.http, terms_of(self.client, symbols), self.here, symbol_of=of_ledger(self.ledger),
            limits=limits, dice=Random(self.seed), observer=self.notices.append,  # noqa: S311 - no secret
        )  # fmt: skip

    def tell(self, kind, detail):
        self.told.append((kind, dict(detail)))

    async def run(self, story):
        driving = asyncio.create_task(drive(self.exchange, self.time))
        await self.ledger.open_account("a", CASH)
        following = None
        try:
            await self.insist(self.broker.begin)
            if self.follows:
                following = asyncio.create_task(follow(self.broker, self.ledger, self.tell))
                await asyncio.sleep(0.1)
            return await story(self)
        finally:
            for task in filter(None, (following, driving)):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            self.database.close()

    # What is done in it

    @property
    def engine(self):
        return self.exchange.venue.engines[BTC]

    @property
    def price(self):
        return Decimal(self.engine.last_price) / SCALE

    def view(self, symbol=BTC):
        price = float(Decimal(self.exchange.venue.engines[symbol].last_price) / SCALE)
        end = self.here.now_ns() // MINUTE_NS * MINUTE_NS
        times = tuple(end - (119 - number) * MINUTE_NS for number in range(120))
        columns = dict.fromkeys(("open", "high", "low", "close"), (price,) * 120)
        return MarketView(symbol, MINUTE_NS, times, **columns)

    async def submit(self, quantity="0.1", side=Side.BUY, *, run_id=None, symbol=BTC, **more):
        """The ticket of an order; of a new decision, unless its run is named."""
        self.orders += run_id is None
        run_id = run_id or f"run-{self.orders}"
        return await self.desk.submit(
            run_id=run_id, account="a", side=side, quantity=Decimal(quantity), view=self.view(symbol),
            now_ns=self.here.now_ns(), **more,
        )  # fmt: skip

    async def tried(self, *given, **more):
        """The same; None where its fate is unknown."""
        try:
            return (await self.submit(*given, **more)).order
        except OrderError:
            return None

    async def settle(self, seconds=200.0, *, every=5.0):
        """Passes of the reconciler, as its timer makes them, and then one over all books that comes to its end."""
        until = self.clock.now + seconds
        while self.clock.now < until:
            await asyncio.sleep(every)
            with suppress(OrderError):
                await self.reconciler.once(compare=False)
        return await self.insist(self.reconciler.once)

    async def insist(self, ask, times=100):
        """Ask until there is an answer."""
        for _ in range(times):
            with suppress(OrderError):
                return await ask()
            await asyncio.sleep(2)
        return await ask()

    # What must be true of it

    def placed(self, symbol=BTC):
        """Orders of the client at the exchange."""
        return list(self.exchange.venue.registry(self.client.key, symbol))

    def fold(self, *symbols):
        """The portfolio as the exchange's own trades make it."""
        whole = Portfolio("a", CASH)
        rows = [
            (each.time_ms, each.trade, order, each)
            for symbol in symbols or (BTC,)
            for order in self.placed(symbol)
            for each in order.executions
        ]
        for _, _, order, each in sorted(rows, key=lambda row: row[:2]):
            price, quantity, fee = (Decimal(number) / SCALE for number in (each.price, each.quantity, each.fee))
            fee *= 1 if each.fee_asset == "USDT" else price
            side = Side.BUY if order.buy else Side.SELL
            whole = whole.apply(Fill(str(each.trade), order.client_id, order.symbol, side, quantity, price, fee, 0))
        return whole

    async def check(self, *symbols):
        """Nothing lost, nothing twice, and the ledger's portfolio is the exchange's."""
        mine = await self.ledger.portfolio("a")
        theirs = self.fold(*symbols)
        held = {each.symbol: each.quantity for each in mine.positions}
        assert held == {each.symbol: each.quantity for each in theirs.positions}
        assert (mine.cash, mine.fees) == (theirs.cash, theirs.fees)
        names = [order.client_id for symbol in symbols or (BTC,) for order in self.placed(symbol)]
        assert len(names) == len(set(names)), "an id was executed twice"
        known = await self.ledger.executed()
        assert set(names) <= set(known), "the exchange has an order that the ledger does not"
        return known


def play(story, *faults, seed=SEED, **more):
    """Run a story; gives what it returned."""
    with VirtualClock(seed) as clock:
        world = World(clock, *faults, seed=seed, **more)
        return clock.run(world.run(story))


def intent_of(quantity="0.1", *, side=Side.BUY, run_id="r", symbol=BTC, price="40000", **more):
    return OrderIntent.derive(
        run_id=run_id, account="a", symbol=symbol, side=side, quantity=Decimal(quantity),
        reference_price=Decimal(price), reference_ns=1, **more,
    )  # fmt: skip
