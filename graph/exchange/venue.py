"""The exchange without its protocol: symbols, clients, their orders, and the crowd that trades on its own."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from graph.exchange.accounts import Account
from graph.exchange.crowd import Crowd
from graph.exchange.engine import Engine, Listener
from graph.exchange.orders import Order
from graph.exchange.refusal import Refusal
from graph.exchange.registry import Registry
from graph.exchange.scripts import Script
from graph.exchange.symbols import SymbolRules

__all__ = ["Past", "Ticket", "Venue"]

_PER_MS = 1_000  # numbers begin at the time of opening, so that those of an earlier life are never given again


@dataclass(frozen=True, slots=True)
class Ticket:
    """An order as a client asked for it; see `Order` for the fields."""

    symbol: str
    buy: bool
    type: str
    tif: str
    quantity: int
    price: int
    stop: int
    budget: int
    client_id: str


@dataclass(frozen=True, slots=True)
class Past:
    """What an earlier life of the exchange has left: clients' orders, oldest first, and their accounts."""

    orders: Sequence[Order] = ()
    accounts: Mapping[str, Account] = field(default_factory=dict)
    prices: Mapping[str, int] = field(default_factory=dict)


class Venue:
    """All markets. `scripts`: what each symbol's market does; `past`: what is gone on with."""

    def __init__(
        self,
        scripts: Mapping[SymbolRules, Script],
        accounts: Iterable[Account],
        listener: Listener,
        *,
        seed: int,
        now_ms: int,
        past: Past,
    ) -> None:
        first = now_ms * _PER_MS
        self.accounts = {account.key: account for account in accounts}
        self.engines = {
            rules.name: Engine(rules, self.accounts, listener, script.history, first)
            for rules, script in scripts.items()
        }
        self._crowds = [Crowd(self.engines[rules.name], script.path, seed) for rules, script in scripts.items()]
        self._registries: dict[tuple[str, str], Registry] = {}
        self._restore(past)

    def step(self, now_ms: int) -> None:
        """Let the crowd do what it does in one moment."""
        for crowd in self._crowds:
            crowd.step(now_ms)

    def engine(self, symbol: str) -> Engine:
        """Raises Refusal where nothing of this name is traded."""
        engine = self.engines.get(symbol)
        if engine is None:
            raise Refusal(-1121, "Invalid symbol.")
        return engine

    def registry(self, owner: str, symbol: str) -> Registry:
        """A client's orders on a symbol."""
        known = self._registries.get((owner, symbol))
        if known is None:
            known = self._registries[owner, symbol] = Registry()
        return known

    def place(self, owner: str, ticket: Ticket, now_ms: int, *, dry: bool = False) -> Order:
        """Take an order in; `dry`: only say whether it would be taken.

        Raises:
            Refusal: it is not; nothing has happened.
        """
        engine, registry = self.engine(ticket.symbol), self.registry(owner, ticket.symbol)
        registry.check_name(ticket.client_id)
        resting = registry.open()
        stops = sum(each.waits for each in resting)
        engine.rules.check_counts(len(resting), stops, stop=ticket.stop > 0)
        order = Order(
            engine.next_order(),
            owner,
            ticket.symbol,
            ticket.buy,
            ticket.price,
            ticket.quantity,
            ticket.client_id,
            ticket.type,
            ticket.tif,
            ticket.stop,
            ticket.budget,
            now_ms,
            now_ms,
        )
        if dry:
            engine.check(order)
            return order
        engine.submit(order, now_ms)
        registry.add(order)
        return order

    def find(self, owner: str, symbol: str, number: int | None, client_id: str | None) -> Order:
        """A client's order. Raises Refusal where there is none."""
        self.engine(symbol)
        order = self.registry(owner, symbol).find(number, client_id)
        if order is None:
            raise Refusal(-2013, "Order does not exist.")
        return order

    def resting(self, owner: str, symbol: str, number: int | None, client_id: str | None) -> Order:
        """A client's open order. Raises Refusal where there is none to cancel."""
        self.engine(symbol)
        order = self.registry(owner, symbol).find(number, client_id)
        if order is None or not order.open:
            raise Refusal(-2011, "Unknown order sent.")
        return order

    def open_orders(self, owner: str, symbol: str | None) -> list[Order]:
        """A client's open orders, on one symbol or all."""
        names = self.engines if symbol is None else [self.engine(symbol).rules.name]
        return [order for name in names for order in self.registry(owner, name).open()]

    def _restore(self, past: Past) -> None:
        for key, account in past.accounts.items():
            if key in self.accounts:
                self.accounts[key].balances = account.balances
        known = [order for order in past.orders if order.owner in self.accounts and order.symbol in self.engines]
        for order in known:
            self.registry(order.owner, order.symbol).add(order)
        for symbol, engine in self.engines.items():
            engine.restore(order for order in known if order.symbol == symbol and order.open)
