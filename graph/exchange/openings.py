"""How an exchange is opened: the markets that are there, and one client with money and a key of its own."""

import hashlib
from collections.abc import Sequence

from agents.bars import Bars
from graph.exchange.accounts import Account, Balance
from graph.exchange.fixed import SCALE
from graph.exchange.gateway import Journal, Opening
from graph.exchange.scripts import recorded, seeded
from graph.exchange.symbols import SYMBOLS, SymbolRules
from graph.exchange.venue import Past

__all__ = ["BALANCES", "client_of", "opening_of"]

BALANCES = {"USDT": 1_000_000, "BTC": 10, "ETH": 100}
"""What the client begins with, in whole units."""


def client_of(seed: int) -> Account:
    """The client of an exchange with this seed. Its key and secret are no secrets: they follow from the seed."""
    key, secret = (hashlib.sha256(f"{what} of exchange {seed}".encode()).hexdigest() for what in ("key", "secret"))
    return Account(key, secret, {asset: Balance(amount * SCALE) for asset, amount in BALANCES.items()})


def opening_of(
    seed: int,
    now_ns: int,
    *,
    symbols: Sequence[SymbolRules] = SYMBOLS,
    bars: Bars | None = None,
    past: Past | None = None,
    journal: Journal | None = None,
    steps: float = 10.0,
    latency_ms: float = 2.0,
) -> Opening:
    """An opening with one client. `bars`: what the first symbol's market does; all else is seeded."""
    past, now_ms = past or Past(), now_ns // 1_000_000
    scripts = {rules: seeded(rules, seed, now_ms, price=past.prices.get(rules.name, 0)) for rules in symbols}
    if bars is not None:
        scripts[symbols[0]] = recorded(bars, symbols[0], seed, now_ms)
    return Opening(
        scripts,
        [client_of(seed)],
        seed=seed,
        steps=steps,
        latency_ms=latency_ms,
        past=past,
        journal=journal,
    )
