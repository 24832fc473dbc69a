"""The values that all rooms share: frozen, slotted, and checked once, in their constructors.

Money and quantities are `Decimal`; market statistics (the columns of a `MarketView`, stances, weights) are `float`,
because they are measured and not owed; times are integer nanoseconds UTC. A price crosses from the one world to the
other by `Decimal(str(price))`, which is exact for the price as it was printed. All values survive the checkpointer's
strict msgpack unchanged; sequences are tuples, and a list that comes back from disk is turned into a tuple again.
"""

import hashlib
import math
import operator
from base64 import b32encode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import IntEnum, StrEnum
from functools import lru_cache
from typing import Any, Self

from agents import rules
from agents.rules import check_symbol, towards_zero

__all__ = [
    "Bar",
    "Check",
    "Fill",
    "Finding",
    "KillSwitchReason",
    "MarketView",
    "Order",
    "OrderIntent",
    "OrderStatus",
    "OrderType",
    "Outage",
    "Outcome",
    "PolicyAnswer",
    "Portfolio",
    "Position",
    "Quote",
    "Revision",
    "Side",
    "Synthesis",
    "Trade",
    "TradePlan",
    "TradingAction",
    "TradingState",
    "Verdict",
    "check_symbol",
    "towards_zero",
]


class TradingAction(IntEnum):
    """What a policy wants. The numbers are part of every policy's output coding."""

    HOLD = 0
    BUY = 1
    SELL = 2


class Side(StrEnum):
    BUY = "buy"
    SELL = "sell"

    @property
    def sign(self) -> int:
        """+1 for BUY, -1 for SELL."""
        return 1 if self is Side.BUY else -1


class TradingState(StrEnum):
    """ACTIVE trades; REDUCING lets only reducing orders through; HALTED only cancels."""

    ACTIVE = "active"
    REDUCING = "reducing"
    HALTED = "halted"


class KillSwitchReason(StrEnum):
    """The code that stands beside a trading state that is not ACTIVE, the gravest first.

    `operator`, `signal` and `file` are asked for by people; `stale_data` by whoever watches the feed; `restored_backup`
    and `reconciliation` by a start that found the books in doubt; the others follow from the checks of an order.
    `breach`: orders come faster than the limits allow.
    """

    OPERATOR = "operator"
    SIGNAL = "signal"
    FILE = "file"
    UNREADABLE_STATE = "unreadable_state"
    LOSS_LIMIT = "loss_limit"
    DRAWDOWN = "drawdown"
    REJECT_STREAK = "reject_streak"
    BREACH = "breach"
    STALE_DATA = "stale_data"
    RECONCILIATION = "reconciliation"
    RESTORED_BACKUP = "restored_backup"


class OrderType(StrEnum):
    """A stop becomes a market order once the market trades at its stop price or beyond, a stop-limit a limit order."""

    MARKET = "market"
    LIMIT = "limit"
    STOP = "stop"
    STOP_LIMIT = "stop_limit"

    @classmethod
    def of(cls, limit_price: Decimal | None, stop_price: Decimal | None) -> "OrderType":
        """The type that these prices make."""
        if stop_price is None:
            return cls.MARKET if limit_price is None else cls.LIMIT
        return cls.STOP if limit_price is None else cls.STOP_LIMIT


class OrderStatus(StrEnum):
    """Where an order stands in its life; see `checkpoints/ledger.py` for the way through.

    NOT_PLACED: it was sent and never reached the broker; the next attempt at it has an id of its own. An order that is
    filled in part is OPEN.
    """

    PENDING = "pending"
    SENDING = "sending"
    OPEN = "open"
    FILLED = "filled"
    REJECTED = "rejected"
    DENIED = "denied"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    NOT_PLACED = "not_placed"

    @property
    def final(self) -> bool:
        """Whether nothing more can happen to the order."""
        return self in _FINAL


_FINAL = frozenset(
    {OrderStatus.FILLED, OrderStatus.REJECTED, OrderStatus.DENIED, OrderStatus.CANCELLED, OrderStatus.NOT_PLACED}
)


class Outcome(StrEnum):
    """What the quality gate says of a plan."""

    APPROVE = "approve"
    REVISE = "revise"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of trading. `close_ns`: the time that the data gives the bar; prices and volume as printed."""

    symbol: str
    close_ns: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal | None = None

    def __post_init__(self) -> None:
        check_symbol(self.symbol)
        rules.whole("close_ns", self.close_ns)
        for name in ("open", "high", "low", "close"):
            rules.positive(name, getattr(self, name))
        rules.require(self.high >= self.low, f"high {self.high} is below low {self.low}")
        rules.require(self.low <= min(self.open, self.close), f"low {self.low} is above open or close")
        rules.require(self.high >= max(self.open, self.close), f"high {self.high} is below open or close")
        if self.volume is not None:
            rules.not_negative("volume", self.volume)


@dataclass(frozen=True, slots=True)
class Trade:
    """One trade of the market. `taker`: the side that came to the other, or None where the source does not tell."""

    symbol: str
    time_ns: int
    price: Decimal
    quantity: Decimal
    taker: Side | None = None

    def __post_init__(self) -> None:
        check_symbol(self.symbol)
        rules.whole("time_ns", self.time_ns)
        rules.positive("price", self.price)
        rules.positive("quantity", self.quantity)
        if self.taker is not None:
            object.__setattr__(self, "taker", rules.member(Side, self.taker))


@dataclass(frozen=True, slots=True)
class Quote:
    """The best bid and ask at one time; the sizes that stand there, or None where the source tells none."""

    symbol: str
    time_ns: int
    bid: Decimal
    ask: Decimal
    bid_size: Decimal | None = None
    ask_size: Decimal | None = None

    def __post_init__(self) -> None:
        check_symbol(self.symbol)
        rules.whole("time_ns", self.time_ns)
        rules.positive("bid", self.bid)
        rules.positive("ask", self.ask)
        rules.require(self.ask >= self.bid, f"ask {self.ask} is below bid {self.bid}")
        for name in ("bid_size", "ask_size"):
            if getattr(self, name) is not None:
                rules.not_negative(name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class MarketView:
    """What a decision may look at: the last n bars of one symbol as columns of equal length, oldest first.

    `close_ns` (n,) strictly increasing; `open`, `high`, `low`, `close` (n,) prices; `volume` (n,) or empty where the
    source has none; `market` (n,) or empty: an equal-weight index of the other symbols of the same command, 1.0 at
    its start. `period_ns` is the usual distance of two bars; `price_step` the smallest price increment seen;
    `calendar` names the trading hours (`24/7`, `24/5` or an exchange's MIC such as `XNYS`); `source` says where the
    bars came from.
    """

    symbol: str
    period_ns: int
    close_ns: tuple[int, ...]
    open: tuple[float, ...]
    high: tuple[float, ...]
    low: tuple[float, ...]
    close: tuple[float, ...]
    volume: tuple[float, ...] = ()
    market: tuple[float, ...] = ()
    price_step: Decimal = Decimal("0.01")
    calendar: str = "24/7"
    source: str = ""

    def __post_init__(self) -> None:
        check_symbol(self.symbol)
        object.__setattr__(self, "close_ns", rules.column("close_ns", self.close_ns, int))
        for name in ("open", "high", "low", "close", "volume", "market"):
            object.__setattr__(self, name, rules.column(name, getattr(self, name), float))
        count = len(self.close_ns)
        rules.require(count > 0, "a market view needs at least one bar")
        rules.whole("period_ns", self.period_ns, 1)
        for name in ("open", "high", "low", "close"):
            column = getattr(self, name)
            rules.require(len(column) == count, f"{name} has {len(column)} values for {count} bars")
            positive = all(map(math.isfinite, column)) and min(column) > 0
            rules.require(positive, f"{name} has a price that is not above 0")
        for name in ("volume", "market"):
            column = getattr(self, name)
            rules.require(len(column) in {0, count}, f"{name} has {len(column)} values for {count} bars")
            good = all(map(math.isfinite, column)) and min(column, default=0.0) >= 0
            rules.require(good, f"{name} has a negative or non-finite value")
        rules.require(all(map(operator.lt, self.close_ns, self.close_ns[1:])), "bar times must increase")
        rules.positive("price_step", self.price_step)

    def __len__(self) -> int:
        return len(self.close_ns)

    @property
    def as_of_ns(self) -> int:
        """The time of the newest bar: the moment of the decision."""
        return self.close_ns[-1]

    @property
    def last_price(self) -> Decimal:
        """The newest close, exactly as it was printed."""
        return Decimal(str(self.close[-1]))


@dataclass(frozen=True, slots=True)
class Finding:
    """What one analyst thinks: stance in [-1, 1] (short to long), confidence in [0, 1], and why, in numbers."""

    analyst: str
    stance: float
    confidence: float
    rationale: str
    evidence: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stance", rules.finite("stance", self.stance, -1.0, 1.0))
        object.__setattr__(self, "confidence", rules.finite("confidence", self.confidence, 0.0, 1.0))
        rules.text("analyst", self.analyst)
        rules.text("rationale", self.rationale)
        rules.require(isinstance(self.evidence, Mapping), "evidence must be a mapping of names to numbers")
        for name in self.evidence:
            rules.text("an evidence's name", name)
        evidence = {str(name): rules.finite(f"evidence {name!r}", value) for name, value in self.evidence.items()}
        object.__setattr__(self, "evidence", evidence)


@dataclass(frozen=True, slots=True)
class Outage:
    """A member of the swarm that gave no finding, and why. A value and not an exception: the others go on."""

    analyst: str
    required: bool
    error: str


@dataclass(frozen=True, slots=True)
class Synthesis:
    """The swarm's findings as one: the confidence-weighted stance, how far the members agree, and who is missing.

    `agreement` in [0, 1]: the share of confidence that points to the stance's side. `coverage` in [0, 1]: members
    that answered / members asked. `level`: degradation, 0 full, 1 degraded, 2 minimal.
    """

    stance: float
    confidence: float
    agreement: float
    coverage: float
    level: int = 0
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "stance", rules.finite("stance", self.stance, -1.0, 1.0))
        for name in ("confidence", "agreement", "coverage"):
            object.__setattr__(self, name, rules.finite(name, getattr(self, name), 0.0, 1.0))
        rules.whole("level", self.level, 0)
        rules.require(self.level <= 2, f"degradation level is {self.level}, and must be 0, 1 or 2")
        object.__setattr__(self, "missing", rules.tuple_of("missing", self.missing, str))


@dataclass(frozen=True, slots=True)
class TradePlan:
    """What the strategist wants, with its bounds. A HOLD has quantity 0 and says why in `reasons`.

    `target_weight`: signed share of equity after the trade; `quantity`: units to trade now; `entry`: the price the
    plan was made at; `horizon_bars`: after so many bars the plan is stale.
    """

    symbol: str
    action: TradingAction
    target_weight: float
    quantity: Decimal
    entry: Decimal
    stop: Decimal | None = None
    take_profit: Decimal | None = None
    horizon_bars: int = 0
    reasons: tuple[str, ...] = ()
    level: int = 0
    revision: int = 0
    as_of_ns: int = 0

    def __post_init__(self) -> None:
        check_symbol(self.symbol)
        object.__setattr__(self, "action", rules.member(TradingAction, self.action))
        object.__setattr__(self, "reasons", rules.tuple_of("reasons", self.reasons, str))
        object.__setattr__(self, "target_weight", rules.finite("target_weight", self.target_weight))
        for name in ("horizon_bars", "level", "revision"):
            rules.whole(name, getattr(self, name), 0)
        rules.whole("as_of_ns", self.as_of_ns)
        rules.not_negative("quantity", self.quantity)
        rules.positive("entry", self.entry)
        for name in ("stop", "take_profit"):
            if getattr(self, name) is not None:
                rules.positive(name, getattr(self, name))
        if self.action is TradingAction.HOLD:
            rules.require(self.quantity == 0, f"a HOLD trades nothing, and has quantity {self.quantity}")
            rules.require(bool(self.reasons), "a HOLD must say why")
        else:
            rules.positive("quantity", self.quantity)

    @property
    def side(self) -> Side | None:
        """The order side, or None for a HOLD."""
        return {TradingAction.BUY: Side.BUY, TradingAction.SELL: Side.SELL}.get(self.action)


@dataclass(frozen=True, slots=True)
class PolicyAnswer:
    """What a policy said of an approved plan, and who it was.

    `latency_us`: microseconds of the call; `is_fallback`: it stood in for the policy that was wanted.
    """

    policy_id: str
    policy_type: str
    action: TradingAction
    action_reason: str
    latency_us: float
    is_fallback: bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "action", rules.member(TradingAction, self.action))
        object.__setattr__(self, "latency_us", rules.finite("latency_us", self.latency_us, 0.0))
        for name in ("policy_id", "policy_type", "action_reason"):
            rules.text(name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class Check:
    """One named rule with what was measured, what was allowed, and a sentence. Refusals are values, not exceptions."""

    name: str
    passed: bool
    value: float | str
    limit: float | str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Revision:
    """What the gate wants changed: `field` of the plan must not go beyond `limit`."""

    field: str
    limit: float
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "limit", rules.finite("limit", self.limit))


@dataclass(frozen=True, slots=True)
class Verdict:
    """The quality gate's answer, with every check it made."""

    outcome: Outcome
    checks: tuple[Check, ...]
    revisions: tuple[Revision, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "outcome", rules.member(Outcome, self.outcome))
        object.__setattr__(self, "checks", rules.tuple_of("checks", self.checks, Check))
        object.__setattr__(self, "revisions", rules.tuple_of("revisions", self.revisions, Revision))
        if self.outcome is Outcome.APPROVE:
            rules.require(all(check.passed for check in self.checks), "an approval cannot carry a failed check")

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it did not pass: the reason of each failed check."""
        return tuple(check.reason or check.name for check in self.checks if not check.passed)


def _derive_id(*parts: Any) -> str:
    """`hf` and 26 base-32 characters: 130 bits of sha256 over the parts, safe as a client order id everywhere."""
    return _hashed("\x1f".join(str(part) for part in parts))


@lru_cache(maxsize=256)
def _hashed(text: str) -> str:
    """Who makes an intent and the intent itself derive the same."""
    digest = hashlib.sha256(text.encode()).digest()
    return "hf" + b32encode(digest[:20]).decode().lower()[:26]


def _plain(number: Decimal | None) -> str:
    """The digits without trailing zeros, all of them: `normalize` would round to the context's precision."""
    text = "" if number is None else format(number, "f") if isinstance(number, Decimal) else str(number)
    return text.rstrip("0").rstrip(".") if "." in text else text


_ATTEMPTS_MAX = 999
"""The id of the last of them has 32 characters."""


def _intent_id(*, stop_price: Decimal | None, attempt: int, **order: Any) -> str:
    parts = (_plain(order[name]) if name in _NUMBERS else order[name] for name in _ALWAYS)
    # What was added later counts only where it is set: orders that were stored before keep their ids.
    base = _derive_id(*parts, *(() if stop_price is None else (_plain(stop_price),)))
    return base if attempt == 1 else f"{base}-{attempt}"


_NUMBERS = frozenset({"quantity", "limit_price"})
_ALWAYS = ("run_id", "decision", "symbol", "leg", "side", "quantity", "type", "limit_price")
_MAKES_IT = (*_ALWAYS, "stop_price", "attempt")


@dataclass(frozen=True, slots=True)
class OrderIntent:
    """An order that a decision wants. Its id is a pure function of the decision, so a replay makes the same one.

    `decision` counts the decisions of a run (a one-shot workflow has only 0); `leg` names the order within the
    decision; `reference_price` is the price the decision saw, and `reference_ns` when. The account, the reference and
    the time are not part of the id: they describe the order, they do not make it another one. `attempt` counts how
    often the order was tried: each but the first, which never reached the broker, ends its id in its number.
    """

    intent_id: str
    run_id: str
    account: str
    symbol: str
    side: Side
    quantity: Decimal
    reference_price: Decimal
    reference_ns: int
    decision: int = 0
    leg: str = "entry"
    type: OrderType = OrderType.MARKET
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    attempt: int = 1

    def __post_init__(self) -> None:
        check_symbol(self.symbol)
        object.__setattr__(self, "side", rules.member(Side, self.side))
        object.__setattr__(self, "type", rules.member(OrderType, self.type))
        for name in ("run_id", "account", "leg"):
            rules.one_line(name, getattr(self, name))
        rules.whole("decision", self.decision, 0)
        rules.whole("reference_ns", self.reference_ns)
        rules.positive("quantity", self.quantity)
        rules.positive("reference_price", self.reference_price)
        rules.whole("attempt", self.attempt, 1)
        rules.require(self.attempt <= _ATTEMPTS_MAX, f"attempt is {self.attempt}, and at most {_ATTEMPTS_MAX} are made")
        for name in ("limit_price", "stop_price"):
            if getattr(self, name) is not None:
                rules.positive(name, getattr(self, name))
        rules.require(
            self.type is OrderType.of(self.limit_price, self.stop_price),
            f"a {self.type} order has the prices that its name says: a limit price, a stop price, both or none",
        )
        expected = _intent_id(**{name: getattr(self, name) for name in _MAKES_IT})
        rules.require(self.intent_id == expected, f"intent id {self.intent_id!r} does not follow from the order")

    @classmethod
    def derive(
        cls,
        *,
        run_id: str,
        account: str,
        symbol: str,
        side: Side,
        quantity: Decimal,
        reference_price: Decimal,
        reference_ns: int,
        decision: int = 0,
        leg: str = "entry",
        limit_price: Decimal | None = None,
        stop_price: Decimal | None = None,
        attempt: int = 1,
    ) -> Self:
        """Make an intent; its id follows from run, decision, symbol, leg, side, quantity, type, prices and attempt."""
        order: dict[str, Any] = {
            "run_id": run_id,
            "symbol": symbol,
            "side": side,
            "quantity": quantity,
            "decision": decision,
            "leg": leg,
            "type": OrderType.of(limit_price, stop_price),
            "limit_price": limit_price,
            "stop_price": stop_price,
            "attempt": attempt,
        }
        return cls(
            intent_id=_intent_id(**order),
            account=account,
            reference_price=reference_price,
            reference_ns=reference_ns,
            **order,
        )

    def next_attempt(self) -> "OrderIntent":
        """The same order, to be tried once more: this one is NOT_PLACED."""
        order = {name: getattr(self, name) for name in _MAKES_IT} | {"attempt": self.attempt + 1}
        return replace(self, intent_id=_intent_id(**order), attempt=self.attempt + 1)

    @property
    def first_id(self) -> str:
        """The id of the first attempt at this order."""
        return self.intent_id.partition("-")[0]

    @property
    def signed_quantity(self) -> Decimal:
        """Quantity with the side's sign: + buys, - sells."""
        return self.quantity * self.side.sign


@dataclass(frozen=True, slots=True)
class Fill:
    """One execution at the broker; `trade_id` is the broker's, and unique. A rebate is a negative fee."""

    trade_id: str
    client_order_id: str
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    fee: Decimal
    time_ns: int

    def __post_init__(self) -> None:
        check_symbol(self.symbol)
        object.__setattr__(self, "side", rules.member(Side, self.side))
        rules.positive("quantity", self.quantity)
        rules.positive("price", self.price)
        rules.decimal("fee", self.fee)
        rules.whole("time_ns", self.time_ns)


@dataclass(frozen=True, slots=True)
class Order:
    """An intent and what became of it. `price`: average fill price, or None while nothing is filled."""

    intent: OrderIntent
    status: OrderStatus
    filled: Decimal = Decimal(0)
    price: Decimal | None = None
    fee: Decimal = Decimal(0)
    broker_order_id: str = ""
    reason: str = ""
    checks: tuple[Check, ...] = ()

    def __post_init__(self) -> None:
        rules.require(isinstance(self.intent, OrderIntent), "an order must have its intent")
        object.__setattr__(self, "status", rules.member(OrderStatus, self.status))
        object.__setattr__(self, "checks", rules.tuple_of("checks", self.checks, Check))
        rules.not_negative("filled", self.filled)
        rules.decimal("fee", self.fee)
        if self.price is not None:
            rules.positive("price", self.price)

    @property
    def client_order_id(self) -> str:
        return self.intent.intent_id


@dataclass(frozen=True, slots=True)
class Position:
    """A signed holding at its average cost."""

    symbol: str
    quantity: Decimal
    average_price: Decimal

    def __post_init__(self) -> None:
        check_symbol(self.symbol)
        rules.decimal("quantity", self.quantity)
        rules.not_negative("average_price", self.average_price)


@dataclass(frozen=True, slots=True)
class Portfolio:
    """An account: cash, positions, realised profit and fees. A fold over fills, never edited by hand."""

    account: str
    cash: Decimal
    positions: tuple[Position, ...] = ()
    realised: Decimal = Decimal(0)
    fees: Decimal = Decimal(0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", rules.tuple_of("positions", self.positions, Position))
        for name in ("cash", "realised", "fees"):
            rules.decimal(name, getattr(self, name))

    def position(self, symbol: str) -> Position:
        """The holding in `symbol`; quantity 0 where there is none."""
        for held in self.positions:
            if held.symbol == symbol:
                return held
        return Position(symbol, Decimal(0), Decimal(0))

    def equity(self, marks: Mapping[str, Decimal]) -> Decimal:
        """Cash plus positions at `marks` (symbol -> price); a symbol without a mark counts at its average cost."""
        return self.cash + sum(
            (held.quantity * marks.get(held.symbol, held.average_price) for held in self.positions), Decimal(0)
        )

    def unrealised(self, marks: Mapping[str, Decimal]) -> Decimal:
        """What closing every position at `marks` would add to `realised`; one without a mark adds nothing."""
        return sum(
            (
                held.quantity * (marks[held.symbol] - held.average_price)
                for held in self.positions
                if held.symbol in marks
            ),
            Decimal(0),
        )

    def net(self, marks: Mapping[str, Decimal]) -> Decimal:
        """Worth of the positions at `marks`, short ones against long ones; without a mark at average cost."""
        return self.equity(marks) - self.cash

    def gross(self, marks: Mapping[str, Decimal]) -> Decimal:
        """Worth of the positions at `marks`, short ones beside long ones; without a mark at average cost."""
        worth = (abs(held.quantity) * marks.get(held.symbol, held.average_price) for held in self.positions)
        return sum(worth, Decimal(0))

    def apply(self, fill: Fill) -> "Portfolio":
        """The account after one more fill. Profit is realised on what the fill closes, at average cost."""
        held = self.position(fill.symbol)
        signed = fill.quantity * fill.side.sign
        closes = min(abs(held.quantity), fill.quantity) if held.quantity * signed < 0 else Decimal(0)
        profit = closes * (fill.price - held.average_price) * (1 if held.quantity > 0 else -1)
        quantity = held.quantity + signed
        moved = Position(fill.symbol, quantity, _average_price(held, fill, quantity))
        others = tuple(other for other in self.positions if other.symbol != fill.symbol)
        kept = (*others, moved) if quantity else others
        return replace(
            self,
            cash=self.cash - signed * fill.price - fill.fee,
            positions=tuple(sorted(kept, key=lambda each: each.symbol)),
            realised=self.realised + profit,
            fees=self.fees + fill.fee,
        )


def _average_price(held: Position, fill: Fill, quantity: Decimal) -> Decimal:
    """Average cost after a fill: adding averages, reducing keeps it, crossing zero starts anew."""
    if quantity == 0:
        return Decimal(0)
    if held.quantity * fill.side.sign >= 0:
        cost = abs(held.quantity) * held.average_price + fill.quantity * fill.price
        return cost / abs(quantity)
    return held.average_price if held.quantity * quantity > 0 else fill.price
