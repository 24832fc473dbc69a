"""Who watches a session, life after life, and knows the rules that hold always.

It is told what happens at the edges of the program: prices as they are delivered, orders as they leave, what the ledger
writes down, what is put into the timeline. What should follow it works out by itself, as simply as it can.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from agents.bracket import Bracket
from agents.domain import (
    Bar,
    Fill,
    KillSwitchReason,
    Order,
    OrderIntent,
    OrderStatus,
    Portfolio,
    Quote,
    Side,
    TradePlan,
    TradingState,
)
from checkpoints.events import Entry
from graph.exchange.menu import FaultKind
from graph.risk_events import RiskEvent
from graph.stream import MarketEvent
from tests.simulation.session.day import Day
from tests.simulation.session.trouble import Trouble

__all__ = ["ASKED_S", "BLOCKED_S", "CASH", "Witness"]

CASH = Decimal(100_000)
ASKED_S = 3.0
"""So soon after a price has touched a stop or a target an exit is asked for, whatever became of the price."""
CLOSED_S = 150.0
"""So soon after that the position is closed, where neither broker nor trading state are in the way."""
BLOCKED_S = 1.0
"""No longer than this does one market event keep the next one waiting, but for a database in trouble."""
REDUCE_S, HALT_S = 10.0, 60.0
"""Ages of the newest price at which trading is REDUCING, and HALTED."""
_HEED_S = 5.0
_CENT = Decimal("0.01")
_PERIOD_NS = 60_000_000_000
_K = FaultKind
_NO_ANSWER = frozenset({_K.LOST, _K.UNAVAILABLE, _K.OVERLOAD, _K.LIMIT, _K.GARBLE, _K.REFUSE, _K.SKEW})
_NONE = Decimal(0)
_AT_WORK = frozenset({OrderStatus.PENDING, OrderStatus.SENDING, OrderStatus.UNKNOWN, OrderStatus.OPEN})
_POSITION_MAX = CASH * Decimal("0.30") * Decimal("1.02")  # the price may move between check and fill


@dataclass(slots=True)
class _Stop:
    """What is to be watched for one decision. `touched`, `asked`: when that was, in seconds; None: not yet."""

    side: Side
    stop: Decimal | None
    target: Decimal | None
    since: float
    touched: float | None = None
    asked: float | None = None

    def is_touched(self, quote: Quote) -> bool:
        price, sign = (quote.bid, 1) if self.side is Side.BUY else (quote.ask, -1)
        below = self.stop is not None and (price - self.stop) * sign <= 0
        return below or (self.target is not None and (price - self.target) * sign >= 0)


class Witness:
    """`broken`: rules that were, in words; `reached`: what happened at all; `timeline`: all of it, in order."""

    def __init__(self, day: Day, trouble: Trouble, now: Any) -> None:
        self.broken: list[str] = []
        self.reached: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.timeline: list[tuple[float, str, str, str]] = []
        self.owner = 0  # the life that holds the session
        self.state = TradingState.ACTIVE
        self._day = day
        self._trouble = trouble
        self._now = now
        self._stops: dict[int, _Stop] = {}
        self._planned: dict[int, Decimal] = {}
        self._orders: dict[str, Order] = {}
        self._filled: dict[int, Decimal] = {}  # signed, by decision
        self._changed: dict[int, float] = {}  # when that was
        self._sent: Counter[str] = Counter()
        self._cleared: dict[str, float] = {}
        self._active_since = 0.0
        self._free_since = 0.0
        self.unchecked = False
        self.refused = 0
        self._left: Portfolio | None = None
        self._asked_as: dict[tuple[int, str, Decimal], str] = {}
        self._bar_ns = 0
        self._born = self._priced = 0.0

    def wrong(self, rule: str) -> None:
        """A rule is broken. Of those that go on being so the first is enough."""
        if len(self.broken) < 20:
            self.broken.append(f"at {self._now():.3f} s: {rule}")

    def note(self, kind: str, who: str = "", detail: str = "") -> None:
        """Something happened that no timeline of the program has."""
        self.timeline.append((round(self._now(), 6), who, kind, detail))
        self.reached.add(kind)

    # What the program tells.

    def entry(self, entry: Entry) -> None:
        """An entry of a run's timeline."""
        self.timeline.append((round(self._now(), 6), entry.run_id, entry.kind, entry.subject))
        self.counts[entry.kind] += 1
        self.reached.add(entry.kind)
        if entry.kind == "StopSprung":
            self.reached.add(f"{entry.detail['leg'].partition('-')[0]} sprung")
            self._asked(int(entry.detail["decision"]))

    def risk_event(self, event: RiskEvent) -> None:
        """What people are told at once."""
        if event.kind == "TradingChanged":
            state = TradingState(event.detail["state"])
            self.note(f"{state} {event.detail['code']}")
            self.turned(state)
        else:
            self.reached.add(event.kind)

    def turned(self, state: TradingState) -> None:
        """The trading state is another."""
        self.state = state
        self._active_since = self._now()

    def planned(self, bracket: Bracket) -> None:
        """A bracket is opened for a decision."""
        known = self._stops.get(bracket.decision)
        if known is None or not self._filled.get(bracket.decision):
            self._stops[bracket.decision] = _Stop(bracket.side, bracket.stop, bracket.target, self._now())

    def wanted(self, decision: int, plan: TradePlan) -> None:
        """A plan was made for a decision."""
        if plan.level:
            self.reached.add(f"level {plan.level}")
        if plan.side is not None:
            self._planned.setdefault(decision, plan.quantity)

    # Orders.

    def asked(self, intent: OrderIntent) -> None:
        """An order is asked for, for the first time or again."""
        known = self._asked_as.setdefault((intent.decision, intent.leg, intent.quantity), intent.first_id)
        if known != intent.first_id:
            self.wrong(
                f"{intent.leg} of decision {intent.decision} was asked for as {known}, and is {intent.first_id} now"
            )

    def reserved(self, life: int, intent: OrderIntent) -> None:
        """A process has reserved an order, or let one go."""
        if life != self.owner:
            self.wrong(f"{intent.leg} of decision {intent.decision} was ordered by a process that is not the owner")

    def judged(self, life: int, intent: OrderIntent, truth: TradingState, *, passed: bool) -> None:
        """The ledger has decided whether an order may leave, while the trading state was `truth`."""
        if not passed:
            return
        self._cleared[intent.intent_id] = self._now()
        self.reserved(life, intent)
        if truth is TradingState.HALTED:
            self.wrong(f"order {intent.leg} of decision {intent.decision} was let go while trading is HALTED")
        held = sum(self._filled.values(), _NONE)
        closes = intent.signed_quantity * held < 0 and intent.quantity <= abs(held)
        if truth is TradingState.REDUCING and not closes:
            self.wrong(f"order {intent.leg} of decision {intent.decision} was let go while trading is REDUCING")

    def sending(self, life: int, intent: OrderIntent, *, idempotent: bool) -> None:
        """An order leaves the process."""
        name = intent.intent_id
        self.note("order sent", name, f"{intent.side} {intent.quantity} {intent.leg} of {intent.decision}")
        self._sent[name] += 1
        if self._sent[name] > 1 and not idempotent:
            self.wrong(f"order {name} was sent twice to a venue that would execute it twice")
        if self._now() - self._cleared.get(name, -1e9) > BLOCKED_S:
            self.wrong(f"order {name} left without being let go just before")
        if life != self.owner:
            self.wrong(f"order {name} was sent by a process that does not own the session")

    def recorded(self, order: Order) -> None:
        """The ledger has written down how an order stands."""
        intent, name = order.intent, order.client_order_id
        before = self._orders.get(name)
        self._orders[name] = order
        self.reached.add(f"order {order.status}")
        if order.status is OrderStatus.OPEN and order.filled:
            self.reached.add("order filled in part")
        news = order.filled - (before.filled if before else _NONE)
        if not news:
            return
        if before is not None and before.status in {OrderStatus.CANCELLED, OrderStatus.NOT_PLACED}:
            self.reached.add("late fill")
        self.note("filled", name, f"{order.filled}")
        self.unchecked = True
        self._add(intent.decision, news * intent.side.sign)
        if intent.side.sign * self.held > 0 and abs(self.held) * (order.price or _NONE) > _POSITION_MAX:
            self.wrong(f"the position of {self.held} at {order.price} is beyond the limit of {_POSITION_MAX}")

    def _add(self, decision: int, signed: Decimal) -> None:
        """So much more is held by a decision; what it has closed or turned over of others they hold no more."""
        before = self.held
        self._filled[decision] = self._filled.get(decision, _NONE) + signed
        self._changed[decision] = self._now()
        if before * self.held <= 0 and before:
            self._filled = {decision: self.held} if self.held else {}

    @property
    def held(self) -> Decimal:
        """The position, as the ledger's orders have made it."""
        return sum(self._filled.values(), _NONE)

    @property
    def closing(self) -> bool:
        """Whether an order is on its way that closes some of the position."""
        return any(o.status in _AT_WORK and o.intent.side.sign * self.held < 0 for o in self._orders.values())

    @property
    def at_work(self) -> bool:
        """Whether more is to be heard of any order."""
        return any(order.status in _AT_WORK for order in self._orders.values())

    # Prices.

    def delivered(self, event: MarketEvent) -> None:
        """A market event is on its way into the session."""
        if isinstance(event, Bar):
            self._check_bar(event)
        elif isinstance(event, Quote):
            self._priced = self._now()
            for decision, stop in self._stops.items():
                held = self._filled.get(decision, _NONE) * stop.side.sign
                settled = self._now() - self._changed.get(decision, 1e9) > 0.5
                if stop.touched is None and held > 0 and settled and stop.is_touched(event):
                    stop.touched = self._now()
                    self.reached.add("touched")

    def _check_bar(self, bar: Bar) -> None:
        """Each bar comes once, and in order; one that was missed was asked for, where the exchange answers at all."""
        ahead = (bar.close_ns - self._bar_ns) / _PERIOD_NS
        if self._bar_ns and (ahead < 1 or (ahead > 1 and not self._deaf)):
            self.wrong(f"the bar of {bar.close_ns} came {ahead:g} bars after the one before it")
        self._bar_ns = max(self._bar_ns, bar.close_ns)

    @property
    def _deaf(self) -> bool:
        """Whether the exchange may not answer when it is asked for bars."""
        return any(fault.kind in _NO_ANSWER for fault in self._day.exchange)

    def look(self, truth: TradingState, code: str) -> None:
        """Now and then: what the trading state really is, and why."""
        now = self._now()
        if min(now - self._active_since, now - self._born, now - self._trouble.until) < _HEED_S:
            return
        age = now - max(self._priced, self._born)
        if self._priced < self._born:  # until the first quote comes, it may be a market of bars alone
            age -= _PERIOD_NS / 1e9
        ours = code == KillSwitchReason.STALE_DATA
        if (truth is TradingState.ACTIVE and age > REDUCE_S + _HEED_S) or (
            truth is TradingState.REDUCING and ours and age > HALT_S + _HEED_S
        ):
            self.wrong(f"trading is {truth}, and the newest price is {age:.1f} s old")

    def done(self, event: MarketEvent, seconds: float, depth: int, size: int) -> None:
        """The session has dealt with it, in so many seconds; `depth` orders wait in a queue of `size`."""
        now = self._now()
        if depth > size:
            self.wrong(f"{depth} orders wait in a queue of {size}")
        if seconds > BLOCKED_S and now - seconds > self._trouble.until:
            self.wrong(f"market data stood still for {seconds:.1f} s because of one {type(event).__name__}")
        for decision, stop in self._stops.items():
            if stop.touched is not None:
                self._check_stop(decision, stop, now)

    def _check_stop(self, decision: int, stop: _Stop, now: float) -> None:
        if self.closing:  # what others are closing is left to them
            self._free_since = now
        held = min(self._filled.get(decision, _NONE) * stop.side.sign, self.held * stop.side.sign)
        if held <= 0:  # it is closed, by whomever
            stop.touched = stop.asked = None
            return
        assert stop.touched is not None
        if stop.asked is None and now > max(stop.touched, self._trouble.until, self._free_since) + ASKED_S:
            self.wrong(f"the bracket of decision {decision} was touched at {stop.touched:.3f} s, and nobody left")
            stop.asked = now
        since = max(stop.touched, self._trouble.until, self._active_since)
        free = self.state is not TradingState.HALTED and not (self._day.losses or self._day.floods)
        if free and now > since + CLOSED_S:
            self.wrong(
                f"what decision {decision} holds is still {held}, {now - since:.0f} s after its stop was touched"
            )
            stop.touched = now

    def _asked(self, decision: int) -> None:
        if (stop := self._stops.get(decision)) is not None and stop.asked is None:
            stop.asked = self._now()

    # Lives.

    def died(self, portfolio: Portfolio) -> None:
        """The process is killed, and this is what the account was."""
        self._left = None if self.at_work else portfolio

    def born(
        self,
        life: int,
        orders: Mapping[str, Order],
        fills: Sequence[Fill],
        state: TradingState,
        portfolio: Portfolio | None,
    ) -> None:
        """A process has taken the session, and this is what it knows: all that the one before it knew, and no less."""
        for name, order in self._orders.items():
            known = orders.get(name)
            if known is None or known.filled < order.filled:
                self.wrong(f"order {name}, of which {order.filled} were filled, is {known} after the restart")
        left, self._left = self._left, None
        if left and portfolio and (left.cash, left.positions) != (portfolio.cash, portfolio.positions):
            self.wrong(f"the account was {left} when the process was killed, and is {portfolio} after the restart")
        self.owner = life
        self.turned(state)
        self._born, self._bar_ns = self._now(), 0
        self._orders = dict(orders)
        self._filled = {}
        for fill in fills:
            self._add(orders[fill.client_order_id].intent.decision, fill.quantity * fill.side.sign)
        for stop in self._stops.values():  # what nobody has written down before the kill nobody can know
            stop.touched = stop.touched if stop.asked is not None else None
        self.unchecked = True

    def conclude(self, struck: Mapping[str, int], told: Mapping[str, int], *, lost: int) -> None:
        """At the very end: what went wrong on purpose, and what the program has told of it; `lost`: lives cut short."""
        for what, enough, kinds in _TOLD_OF:
            made, heard = sum(struck.get(each, 0) for each in what), sum(told.get(kind, 0) for kind in kinds)
            if enough(made, heard, lost):
                self.wrong(f"{made} times {', '.join(what)}, and of {', '.join(kinds)} was told {heard} times")

    def compare(self, fills: Iterable[tuple[str, Decimal, Decimal, Decimal]], portfolio: Any) -> None:
        """The books at the venue against the portfolio that the program has, while nothing is in flight.

        `fills`: of each the order's name, signed quantity, price and fee.
        """
        self.unchecked = False
        quantity, cash = _NONE, CASH
        executed: dict[tuple[int, str], Decimal] = {}
        for name, signed, price, fee in fills:
            quantity += signed
            cash -= signed * price + fee
            if (order := self._orders.get(name)) is not None:
                leg = (order.intent.decision, order.intent.leg.partition("-")[0])
                executed[leg] = executed.get(leg, _NONE) + abs(signed)
        position = sum((held.quantity for held in portfolio.positions), _NONE)
        if position != quantity or abs(portfolio.cash - cash) > _CENT:
            self.wrong(
                f"the portfolio has {position} and {portfolio.cash}, the venue's fills make {quantity} and {cash}"
            )
        for (decision, leg), amount in executed.items():
            if leg == "entry" and amount > self._planned.get(decision, amount):
                self.wrong(f"of decision {decision} {amount} were executed, and {self._planned[decision]} planned")


def _not_all(made: int, heard: int, lost: int) -> bool:
    return heard < made - 4 * lost - 4  # what is cut off in the middle of a call tells nothing


def _nothing(made: int, heard: int, lost: int) -> bool:
    return made > 2 + lost and not heard


def _hardly_any(made: int, heard: int, lost: int) -> bool:
    """A lease that is renewed after a while, and a timeline that is written later, are no failures."""
    return made > 25 + 25 * lost and not heard


def _hardly(made: int, heard: int, lost: int) -> bool:
    return made > 10 and heard < made // 4 - 4 * lost


_TOLD_OF: tuple[tuple[tuple[str, ...], Callable[[int, int, int], bool], tuple[str, ...]], ...] = (
    (("faults",), _not_all, ("FaultInjected",)),
    (
        ("messages to the broker",),
        _not_all,
        ("AttemptFailed broker", "TimedOut broker", "AttemptFailed cancel", "TimedOut cancel"),
    ),
    (
        ("errors of the database",),
        _hardly_any,
        (
            "HeartbeatFailed",
            "TickFailed",
            "ReconcileFailed",
            "OrderFailed",
            "DecisionFailed",
            "LoopFailed",
            "BackupFailed",
            "TripFailed",
        ),
    ),
    (("policy",), _nothing, ("PolicyFault",)),
    (("reset", "close", "storm", "cut"), _nothing, ("Disconnected",)),
    (("zombie", "half_open"), _nothing, ("StreamStale", "Disconnected")),
    (("corrupt", "truncate"), _hardly, ("refused",)),
    (("gap",), lambda made, heard, _: made > 20 and not heard, ("GapFound",)),
)
