"""What clients own: balances, of which a part is set aside for open orders."""

from dataclasses import dataclass, field

from graph.exchange.fixed import fee_of, notional
from graph.exchange.orders import Order
from graph.exchange.refusal import rejected
from graph.exchange.symbols import SymbolRules

__all__ = ["Account", "Balance"]


@dataclass(slots=True)
class Balance:
    """Of one asset, in hundred-millionths."""

    free: int = 0
    locked: int = 0


@dataclass(slots=True, eq=False)
class Account:
    """One client. `key` names it, `secret` signs for it; fees are in hundredths of a percent."""

    key: str
    secret: str = field(repr=False)
    balances: dict[str, Balance] = field(default_factory=dict)
    maker_bps: int = 10
    taker_bps: int = 10
    update_ms: int = 0

    def balance(self, asset: str) -> Balance:
        return self.balances.setdefault(asset, Balance())

    def lock(self, order: Order, rules: SymbolRules, amount: int) -> None:
        """Set aside what an order may need; raises Refusal where it is not there."""
        held = self.balance(rules.quote if order.buy else rules.base)
        if amount > held.free:
            raise rejected("Account has insufficient balance for requested action.")
        held.free -= amount
        held.locked += amount
        order.locked = amount

    def unlock(self, order: Order, rules: SymbolRules) -> None:
        """Give back what is set aside for an order."""
        held = self.balance(rules.quote if order.buy else rules.base)
        held.locked -= order.locked
        held.free += order.locked
        order.locked = 0

    def settle(self, order: Order, rules: SymbolRules, price: int, quantity: int, *, maker: bool) -> tuple[int, str]:
        """Exchange what a fill exchanges; gives the fee and its asset, which is always what the client receives."""
        cost, bps = notional(price, quantity), self.maker_bps if maker else self.taker_bps
        base, quote = self.balance(rules.base), self.balance(rules.quote)
        if order.buy:
            set_aside = min(order.locked, notional(order.price, quantity)) if order.price else 0
            quote.locked -= set_aside
            quote.free += set_aside - cost
            fee, asset, got = fee_of(quantity, bps), rules.base, base
            got.free += quantity - fee
        else:
            set_aside = min(order.locked, quantity)
            base.locked -= set_aside
            base.free -= quantity - set_aside
            fee, asset, got = fee_of(cost, bps), rules.quote, quote
            got.free += cost - fee
        order.locked -= set_aside
        return fee, asset
