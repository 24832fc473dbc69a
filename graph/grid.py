"""The quantities and prices that a venue takes: an order is brought onto them before it gets its id. Pure."""

from dataclasses import dataclass
from decimal import ROUND_UP, Context, Decimal

from agents.domain import OrderIntent, Side
from agents.rules import towards_zero

__all__ = ["Fitted", "Grid", "Steps"]

_NONE = Decimal(0)
_UP = Context(prec=60, rounding=ROUND_UP)


@dataclass(frozen=True, slots=True)
class Steps:
    """Whole multiples of `step`, from `least` to `most`; each of them 0 where there is no such rule."""

    step: Decimal = _NONE
    least: Decimal = _NONE
    most: Decimal = _NONE

    def down(self, number: Decimal) -> Decimal:
        """The nearest that is not above."""
        return towards_zero(number, self.step) if self.step else number

    def up(self, number: Decimal) -> Decimal:
        """The nearest that is not below."""
        if not self.step:
            return number
        return _UP.multiply(_UP.divide(number, self.step).to_integral_value(rounding=ROUND_UP), self.step)

    def complaint(self, what: str, number: Decimal) -> str:
        """Why it is none of them; "" where it is one."""
        if number < self.least or number <= 0:
            return f"{what} {_digits(number)} is below {_digits(self.least)}, the least that the venue takes"
        if self.most and number > self.most:
            return f"{what} {_digits(number)} is above {_digits(self.most)}, the most that the venue takes"
        if self.down(number) != number:
            return f"{what} {_digits(number)} is no multiple of {_digits(self.step)}"
        return ""


@dataclass(frozen=True, slots=True)
class Fitted:
    """An order as a venue takes it, and what was changed. With a `quantity` of 0 it takes none of it."""

    quantity: Decimal
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Grid:
    """The rules of one symbol.

    `lots`: quantities; `market_lots`: those of orders without a limit price, which have to keep to both; `ticks`:
    prices; `worth_least`: the least worth of an order, `market_worth`: whether that holds without a price, too.
    """

    lots: Steps = Steps()
    market_lots: Steps = Steps()
    ticks: Steps = Steps()
    worth_least: Decimal = _NONE
    market_worth: bool = True

    def fit(
        self,
        side: Side,
        quantity: Decimal,
        *,
        price: Decimal,
        limit_price: Decimal | None = None,
        stop_price: Decimal | None = None,
    ) -> Fitted:
        """Bring an order onto the grid; `price`: what a unit is worth now.

        A quantity is only ever made smaller. A limit becomes no worse, a stop comes no later: by less than a tick.
        """
        buys = side is Side.BUY
        limit = None if limit_price is None else (self.ticks.down if buys else self.ticks.up)(limit_price)
        stop = None if stop_price is None else (self.ticks.down if buys else self.ticks.up)(stop_price)
        left = self._lots(quantity, market=limit is None)
        why = self._complaint(left, limit, stop, price)
        if why:
            return Fitted(_NONE, limit, stop, (why,))
        changed = (("quantity", quantity, left), ("limit", limit_price, limit), ("stop", stop_price, stop))
        reasons = [f"{what} {_digits(old)} became {_digits(new)}, which the venue takes"
                   for what, old, new in changed if old is not None and new is not None and old != new]  # fmt: skip
        return Fitted(left, limit, stop, tuple(reasons))

    def complaint(self, intent: OrderIntent) -> str:
        """Why the venue will not take an order as it is; "" where nothing is against it."""
        market = intent.limit_price is None
        for steps in (self.lots, self.market_lots) if market else (self.lots,):
            if why := steps.complaint("quantity", intent.quantity):
                return why
        return self._complaint(intent.quantity, intent.limit_price, intent.stop_price, intent.reference_price)

    def _lots(self, quantity: Decimal, *, market: bool) -> Decimal:
        for steps in (self.lots, self.market_lots) if market else (self.lots,):
            quantity = steps.down(min(quantity, steps.most) if steps.most else quantity)
        return quantity

    def _complaint(self, quantity: Decimal, limit: Decimal | None, stop: Decimal | None, price: Decimal) -> str:
        for what, number in (("limit", limit), ("stop", stop)):
            if number is not None and (why := self.ticks.complaint(what, number)):
                return why
        for steps in (self.lots, self.market_lots) if limit is None else (self.lots,):
            if quantity < steps.least or quantity <= 0:
                return steps.complaint("quantity", quantity)
        worth = quantity * (limit or stop or price)
        if worth < self.worth_least and (self.market_worth or limit is not None):
            return f"it is worth {_digits(worth)}, below {_digits(self.worth_least)}, the least that the venue takes"
        return ""


def _digits(number: Decimal) -> str:
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
