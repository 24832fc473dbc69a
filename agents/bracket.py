"""A stop and a target for the position that a decision opens: prices go in, and one exit at a time comes out.

A bracket is a value; each of its methods gives the one after. It covers what the orders of its decision were filled, as
they are filled, less what closed it again. When a price touches the stop or the target the bracket *springs*, for good:
from then on all of the position goes at the market, whatever the price does. There is one exit at a time, so the stop
cancels the target and the target the stop.

====================  ==============================  ==================================================
a price that is       makes the bracket               in a bar
====================  ==============================  ==================================================
at or past the stop   close at the market             seen from the open, where that was past it already
at the target, past   close at the market             only where the stop was not touched as well
better than before    move a trailing stop after it   after the stop of before was looked at
====================  ==============================  ==================================================

An exit is asked for until the broker has it for certain: one that is being sent, or whose fate is unknown, may never
have left, and goes on only where somebody asks for it. Its id follows from the bracket, which is saved before the exit
is sent: so it is sent once, however often it is asked for, also after a crash. Whoever keeps brackets orders nothing
more for a decision whose bracket has sprung.
"""

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import NamedTuple

from agents import rules
from agents.domain import Bar, Order, OrderIntent, OrderStatus, Quote, Side, TradePlan

__all__ = ["Bracket", "Part"]

_NONE = Decimal(0)
_PAUSE_NS = 1_000_000_000
_DOUBLED_MAX = 6
"""After exits in vain the next one waits a second, then two, and so on: one a minute at last."""
_UNSENT = frozenset({OrderStatus.PENDING, OrderStatus.DENIED, OrderStatus.REJECTED, OrderStatus.NOT_PLACED})


@dataclass(frozen=True, slots=True)
class Part:
    """What is known of one order of the decision: how much it was filled, and whether no more is expected of it."""

    leg: str
    side: Side
    filled: Decimal
    over: bool

    def __post_init__(self) -> None:
        rules.one_line("leg", self.leg)
        object.__setattr__(self, "side", rules.member(Side, self.side))
        rules.not_negative("filled", self.filled)


class _Path(NamedTuple):
    """Prices as a position sees them."""

    open: Decimal
    worst: Decimal
    best: Decimal
    close: Decimal


@dataclass(frozen=True, slots=True)
class Bracket:
    """The bracket of what the `decision` of a run opens; `side`: BUY for a long position.

    `stop` and `target` are prices, and one of them may be None; `trail` is the distance at which the stop follows the
    `best` price, None for a stop that stays. Prices of `since_ns` on count: the newest fill. `parts`: the orders that
    were filled, or may be; `sprung`: the leg that was touched, "" while none was; `exit`: the one that is under way,
    `heard_of` once the broker has it for certain. `tries`: how many exits there were, `vain`: how many of the last ones
    came to nothing, and `tried_ns`: when one was asked for last.

    Raises:
        InvalidValue: the stop is not on the losing side of the target, or there is nothing to watch.
    """

    run_id: str
    account: str
    symbol: str
    side: Side
    stop: Decimal | None
    target: Decimal | None = None
    trail: Decimal | None = None
    decision: int = 0
    since_ns: int = 0
    best: Decimal | None = None
    parts: tuple[Part, ...] = ()
    sprung: str = ""
    exit: OrderIntent | None = None
    heard_of: bool = False
    tries: int = 0
    vain: int = 0
    tried_ns: int = 0

    def __post_init__(self) -> None:
        rules.check_symbol(self.symbol)
        object.__setattr__(self, "side", rules.member(Side, self.side))
        object.__setattr__(self, "parts", rules.tuple_of("parts", self.parts, Part))
        for name in ("run_id", "account"):
            rules.one_line(name, getattr(self, name))
        for name in ("stop", "target", "trail", "best"):
            if getattr(self, name) is not None:
                rules.positive(name, getattr(self, name))
        for name in ("since_ns", "tried_ns"):
            rules.whole(name, getattr(self, name))
        for name in ("decision", "tries", "vain"):
            rules.whole(name, getattr(self, name), 0)
        rules.require(self.sprung in {"", "stop", "target"}, f"sprung is {self.sprung!r:.20}, which is no leg")
        rules.require(self.exit is None or bool(self.sprung), "a bracket that has not sprung has no exit")
        rules.require(self.stop is not None or self.target is not None, "a bracket needs a stop or a target")
        rules.require(self.trail is None or self.stop is not None, "only a stop can trail")
        if self.stop is not None and self.target is not None:
            rules.require(
                (self.target - self.stop) * self.side.sign > 0,
                f"stop {self.stop} and target {self.target} are on the wrong sides of a {self.side} position",
            )

    @classmethod
    def of(
        cls, plan: TradePlan, *, run_id: str, account: str, decision: int = 0, trail: Decimal | None = None
    ) -> "Bracket | None":
        """The bracket of an approved plan; None for one that opens nothing, or has neither stop nor target."""
        side = plan.side
        if side is None or plan.target_weight * side.sign <= 0 or plan.stop is plan.take_profit is None:
            return None
        prices = (plan.stop, plan.take_profit, None if plan.stop is None else trail)
        return cls(run_id, account, plan.symbol, side, *prices, decision=decision, since_ns=plan.as_of_ns)

    # What it knows.

    @property
    def held(self) -> Decimal:
        """How much of the position there is."""
        return sum((part.filled if part.side is self.side else -part.filled for part in self.parts), _NONE)

    @property
    def closed(self) -> bool:
        """Whether what was opened is closed again, and nothing more is expected to open."""
        return self.held <= 0 and any(part.filled for part in self.parts) and all(part.over for part in self.parts)

    # What happens.

    def heard(self, order: Order, at_ns: int) -> "Bracket":
        """After news of `at_ns` about an order of the decision; others change nothing, nor do old news."""
        intent = order.intent
        mine = (self.run_id, self.account, self.symbol, self.decision)
        if (intent.run_id, intent.account, intent.symbol, intent.decision) != mine:
            return self
        known = {part.leg: part for part in self.parts}
        before = known.get(intent.leg, Part(intent.leg, intent.side, _NONE, over=False))
        part = replace(before, filled=max(before.filled, order.filled), over=before.over or order.status.final)
        current = self.exit is not None and self.exit.leg == intent.leg
        if intent.side is not self.side and not current and not part.filled:
            return self  # old news of an exit that came to nothing
        opens = intent.side is self.side and part.filled > before.filled
        since_ns = max(self.since_ns, at_ns) if opens else self.since_ns
        after = replace(self, since_ns=since_ns, parts=tuple({**known, part.leg: part}.values()))
        return _after_exit(after, part, order.status) if current else after

    def at_most(self, quantity: Decimal) -> "Bracket":
        """After somebody else has closed some of the position, of which `quantity` is left."""
        missing = self.held - quantity
        if missing <= 0:
            return self
        gone = next((part.filled for part in self.parts if part.leg == _ELSEWHERE), _NONE)
        others = tuple(part for part in self.parts if part.leg != _ELSEWHERE)
        part = Part(_ELSEWHERE, _other(self.side), gone + missing, over=True)
        return replace(self, parts=(*others, part))

    def on_quote(self, quote: Quote) -> tuple["Bracket", OrderIntent | None]:
        """After a quote; and the exit to send, where one is to be sent now."""
        if quote.symbol != self.symbol or quote.time_ns < self.since_ns or self.held <= 0:
            return self, None
        price = quote.bid if self.side is Side.BUY else quote.ask
        return self._on_path(_Path(price, price, price, price), quote.time_ns)

    def on_bar(self, bar: Bar, begin_ns: int) -> tuple["Bracket", OrderIntent | None]:
        """After a bar that began at `begin_ns`; and the exit to send, where one is to be sent now.

        Of a bar in which some of the position was opened the close counts alone.
        """
        if bar.symbol != self.symbol or bar.close_ns < self.since_ns or self.held <= 0:
            return self, None
        worst, best = (bar.low, bar.high) if self.side is Side.BUY else (bar.high, bar.low)
        whole = begin_ns >= self.since_ns
        path = _Path(bar.open, worst, best, bar.close) if whole else _Path(*[bar.close] * 4)
        return self._on_path(path, bar.close_ns)

    def _on_path(self, path: _Path, time_ns: int) -> tuple["Bracket", OrderIntent | None]:
        if self.sprung:
            return self.leave(path.close, time_ns)
        after, touched = self, self._touched(path)
        if touched is None:
            after = self._followed(path.best)
            if after.stop is not None and self._past(path.close, after.stop):
                touched = "stop", after.stop  # the best price was on the way, and the close came after it
        if touched is None:
            return after, None
        leg, price = touched
        return replace(after, sprung=leg).leave(price, time_ns)

    def _past(self, price: Decimal, stop: Decimal) -> bool:
        return (price - stop) * self.side.sign <= 0

    def _reached(self, price: Decimal, target: Decimal) -> bool:
        return (price - target) * self.side.sign >= 0

    def _touched(self, path: _Path) -> tuple[str, Decimal] | None:
        """The leg, and the price that there was for it."""
        if self.stop is not None and self._past(path.worst, self.stop):
            return "stop", path.open if self._past(path.open, self.stop) else self.stop
        if self.target is not None and self._reached(path.best, self.target):
            return "target", path.open if self._reached(path.open, self.target) else self.target
        return None

    def _followed(self, best: Decimal) -> "Bracket":
        """With the trailing stop moved after the best price; it never goes back."""
        if self.trail is None or self.stop is None:
            return self
        if self.best is not None and self._past(best, self.best):
            return self
        stop = best - self.trail * self.side.sign
        return replace(self, best=best, stop=self.stop if self._past(stop, self.stop) else stop)

    def leave(self, price: Decimal, time_ns: int) -> tuple["Bracket", OrderIntent | None]:
        """The exit of a bracket that has sprung, where it is to be asked for now; `price`: what there was for it."""
        pause_ns = _PAUSE_NS << min(max(self.vain - 1, 0), _DOUBLED_MAX)
        if self.tries and time_ns < self.tried_ns + pause_ns and (self.exit is not None or self.vain):
            return self, None
        if self.exit is not None:
            return (self, None) if self.heard_of else (replace(self, tried_ns=time_ns), self.exit)
        tries = self.tries + 1
        intent = OrderIntent.derive(
            run_id=self.run_id,
            account=self.account,
            symbol=self.symbol,
            side=_other(self.side),
            quantity=self.held,
            reference_price=price,
            reference_ns=time_ns,
            decision=self.decision,
            leg=self.sprung if tries == 1 else f"{self.sprung}-{tries}",
        )
        return replace(self, exit=intent, heard_of=False, tries=tries, tried_ns=time_ns), intent


_ELSEWHERE = "closed elsewhere"


def _after_exit(bracket: Bracket, part: Part, status: OrderStatus) -> Bracket:
    """After news of the exit that is under way: it goes on, or is over, and then the rest goes by another one."""
    vain = 0 if part.filled else bracket.vain + part.over
    if not part.over:
        return replace(bracket, vain=vain, heard_of=bracket.heard_of or status is OrderStatus.OPEN)
    lost = not part.filled and status in _UNSENT
    kept = tuple(each for each in bracket.parts if each.leg != part.leg) if lost else bracket.parts
    return replace(bracket, parts=kept, vain=vain, exit=None, heard_of=False)


def _other(side: Side) -> Side:
    return Side.SELL if side is Side.BUY else Side.BUY
