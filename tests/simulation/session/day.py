"""What goes wrong in one session: some of a list of perils, drawn from the session's seed.

A peril is a few lines of somebody's bad day. The first follows from the seed's number, so that each is met by every
`len(PERILS)`-th seed; the others are drawn.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from agents.research import DEFAULT_MEMBERS
from graph.exchange.menu import ExchangeFault, FaultKind
from graph.resilience import Fault, FaultAction

__all__ = ["PERILS", "SECONDS", "Day", "Loss", "Span"]

SECONDS = 600.0
"""How long a session is."""
REQUIRED = tuple(member.name for member in DEFAULT_MEMBERS if member.required)
OPTIONAL = tuple(member.name for member in DEFAULT_MEMBERS if not member.required)
_K = FaultKind


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds of a session in which something is so."""

    kind: str
    begin: float
    end: float

    def holds(self, now: float) -> bool:
        return self.begin <= now < self.end


@dataclass(frozen=True, slots=True)
class Loss:
    """What may happen to a message to the broker.

    `kind`: lost on the way there, or answer_lost, late by `seconds`, arrives_late when it was given up, hang (no answer
    ever), refused; `on`: send, find, cancel, or * for all of them.
    """

    kind: str
    on: str
    rate: float
    begin: float = 0.0
    end: float = 1e9
    seconds: float = 0.0


@dataclass(slots=True)
class Day:
    """The plan of one session. Times are seconds since the exchange was opened, which is when the session begins.

    `kills`: by the clock, or by what the process is doing then (see `Life.passes`), the how-manieth time; `pauses`: it
    stands still until another has taken over; `drains`: when somebody stops it in order; `orders`: what an operator
    does; `floods`: when somebody asks for far too many orders.
    """

    seed: int
    perils: list[str] = field(default_factory=list)
    exchange: list[ExchangeFault] = field(default_factory=list)
    members: list[Fault] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    database: list[Span] = field(default_factory=list)
    policy: list[Span] = field(default_factory=list)
    pauses: list[tuple[str, int]] = field(default_factory=list)
    kills: list[float | tuple[str, int]] = field(default_factory=list)
    drains: list[float | tuple[str, int]] = field(default_factory=list)
    orders: list[tuple[float, str]] = field(default_factory=list)
    floods: list[float] = field(default_factory=list)
    jumps: list[tuple[float, float]] = field(default_factory=list)
    volatility: float = 1.0
    venue: str = "paper"
    idempotent: bool = True
    allow_short: bool = False
    skew_s: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, seed: int) -> "Day":
        """The plan that belongs to a seed."""
        dice = Random(f"{seed}/day")  # noqa: S311 - no secret
        day = cls(
            seed,
            volatility=dice.choice((1.0, 2.0, 3.0)),
            venue="exchange" if seed // len(PERILS) % 2 else "paper",
            idempotent=dice.random() < 0.5,
            allow_short=dice.random() < 0.7,
        )
        names = list(PERILS)
        drawn = [names[seed % len(names)], *dice.sample(names, dice.randrange(4))]
        for name in dict.fromkeys(drawn):
            day.perils.append(name)
            PERILS[name](day, dice)
        if day.venue == "exchange":
            day.idempotent = day.allow_short = False
            for loss in day.losses:
                day.exchange.append(_at_exchange(loss, dice))
        return day

    # The words that perils are written in.

    def fault(self, kind: FaultKind, begin: float = 0.0, end: float = 1e9, **more: Any) -> None:
        self.exchange.append(ExchangeFault(kind, from_seconds=begin, until_seconds=end, **more))

    def member(self, names: tuple[str, ...], action: FaultAction, begin: float, end: float, **more: Any) -> None:
        self.members += [Fault(name, action, from_seconds=begin, until_seconds=end, **more) for name in names]


def _at_exchange(loss: Loss, dice: Random) -> ExchangeFault:
    """What comes nearest to it on the exchange's menu."""
    on = {"send": "order.place", "find": "order.status", "cancel": "order.cancel", "*": "order.*"}[loss.on]
    kinds: dict[str, tuple[FaultKind, ...]] = {
        "lost": (_K.LOST, _K.UNAVAILABLE),
        "answer_lost": (_K.DROP_ACK, _K.ACK_503, _K.ACK_1006, _K.ACK_1007, _K.GARBLE),
        "refused": (_K.ORDER_LIMIT,),
    }
    kind = dice.choice(kinds.get(loss.kind, (_K.SLOW,)))
    seconds = (loss.seconds or 40.0) if kind is _K.SLOW else 0.0
    return ExchangeFault(kind, on, rate=loss.rate, seconds=seconds, from_seconds=loss.begin, until_seconds=loss.end)


def _when(dice: Random, last: float = 480.0) -> float:
    return round(dice.uniform(20.0, last), 3)


# Market data.


def _cut(day: Day, dice: Random) -> None:
    """The link is cut for five seconds: what was connected breaks, and nobody can connect."""
    begin = _when(dice)
    day.fault(_K.RESET, begin, begin + 5)
    day.fault(_K.REFUSE, begin, begin + 5)
    day.fault(_K.LOST, begin, begin + 5)


def _zombie(day: Day, dice: Random) -> None:
    begin = _when(dice)
    day.fault(_K.ZOMBIE, begin, begin + 0.7)


def _half_open(day: Day, dice: Random) -> None:
    begin = _when(dice)
    day.fault(_K.HALF_OPEN, begin, begin + 0.7)


def _long_zombie(day: Day, dice: Random) -> None:
    """Whoever connects hears nothing, for longer than prices may be old."""
    begin = _when(dice, 400)
    day.fault(_K.ZOMBIE, begin, begin + 80)


def _dead_feed(day: Day, dice: Random) -> None:
    begin = dice.uniform(20, 60)
    day.fault(_K.RESET, begin, begin + 1)
    day.fault(_K.REFUSE, begin)


def _mute(day: Day, dice: Random) -> None:
    begin = _when(dice)
    day.fault(_K.CLOSE, begin, begin + 0.6)
    day.fault(_K.MUTE, begin, begin + 20)


def _breaks(day: Day, dice: Random) -> None:
    for kind in (_K.STORM, _K.CLOSE, _K.RESET):
        begin = _when(dice)
        day.fault(kind, begin, begin + 0.6)
    begin = _when(dice)
    day.fault(_K.SHUTDOWN, begin, begin + 0.6, seconds=2.0)
    if dice.random() < 0.5:
        day.fault(_K.CUT, seconds=dice.uniform(30, 200))


def _dirty_frames(day: Day, dice: Random) -> None:
    for kind in (_K.CORRUPT, _K.TRUNCATE, _K.GAP, _K.DUPLICATE, _K.REORDER):
        day.fault(kind, rate=round(dice.uniform(0.003, 0.03), 4))
    day.fault(_K.DELAY, rate=0.002, seconds=dice.uniform(0.5, 6))


def _no_bars(day: Day, dice: Random) -> None:
    """Bars get lost on the stream, and asking for them fails as well."""
    day.fault(_K.GAP, on="*kline*", rate=0.4)
    kinds = (_K.UNAVAILABLE, _K.OVERLOAD, _K.LOST, _K.GARBLE)
    day.fault(kinds[day.seed // len(PERILS) % 4], on="klines", rate=0.5)
    begin = _when(dice)
    day.fault(_K.LIMIT, begin, begin + 30, seconds=5.0)


# The swarm.


def _blackout(day: Day, dice: Random) -> None:
    begin = _when(dice, 300)
    day.member(REQUIRED[:2], FaultAction.ERROR, begin, begin + 150)


def _level_1(day: Day, dice: Random) -> None:
    begin = dice.uniform(0.0, 60.0)
    day.member(OPTIONAL[:2], FaultAction.ERROR, begin, begin + 400)


def _level_2(day: Day, dice: Random) -> None:
    begin = dice.uniform(0.0, 60.0)
    day.settings |= {"required": REQUIRED[:2], "optional": (*REQUIRED[2:], *OPTIONAL)}
    day.member((*REQUIRED[2:], *OPTIONAL[:2]), FaultAction.ERROR, begin, begin + 400)


def _hangs(day: Day, dice: Random) -> None:
    begin = _when(dice, 300)
    day.member((dice.choice(REQUIRED), dice.choice(OPTIONAL)), FaultAction.HANG, begin, begin + 120)
    day.member(("synthesis", "strategy", "quality_gate"), FaultAction.HANG, 0, 600, rate=0.1)


def _flaky(day: Day, dice: Random) -> None:
    day.member((*REQUIRED, *OPTIONAL, "synthesis", "strategy", "quality_gate"), FaultAction.ERROR, 0, 600, rate=0.2)
    day.member((dice.choice(REQUIRED),), FaultAction.CORRUPT, 0, 600, rate=0.2)


# The broker.


def _slow_broker(day: Day, dice: Random) -> None:
    day.losses.append(Loss("late", "*", 0.5, seconds=dice.uniform(0.3, 4.0)))


def _lost_answers(day: Day, dice: Random) -> None:
    day.losses.append(Loss("answer_lost", "send", dice.choice((0.3, 0.6, 1.0))))
    day.losses.append(Loss("answer_lost", "cancel", 0.3))


def _lost_orders(day: Day, dice: Random) -> None:
    """They never arrive, and only time can tell."""
    day.losses.append(Loss("lost", "send", 1.0, end=dice.uniform(100, 300)))
    day.idempotent = False


def _very_late_arrival(day: Day, dice: Random) -> None:
    """Later than any venue lets a message live."""
    day.losses.append(Loss("arrives_late", "send", 1.0, end=130.0, seconds=dice.uniform(130, 170)))
    day.idempotent = False


def _cancels(day: Day, dice: Random) -> None:
    """Trading is halted again and again while orders rest; they are filled while they are cancelled, or after it."""
    day.fault(_K.FILL_ON_CANCEL, rate=0.5)
    day.fault(_K.LATE_FILL, rate=0.5, seconds=1.0)
    day.losses.append(Loss(dice.choice(("lost", "answer_lost")), "cancel", 0.7))
    day.losses.append(Loss("late", "send", 0.5, seconds=0.3))
    for begin in range(60, 540, 60):
        day.orders += [(begin + dice.uniform(0.3, 0.9), "halt"), (begin + 20.0, "resume")]


def _late_arrival(day: Day, dice: Random) -> None:
    day.losses.append(Loss("arrives_late", "send", 0.5, seconds=dice.uniform(20, 50)))


def _silent_broker(day: Day, dice: Random) -> None:
    begin = _when(dice, 300)
    day.losses.append(Loss("hang", "*", 1.0, begin, begin + 90))


def _dead_broker(day: Day, dice: Random) -> None:
    begin = dice.uniform(55, 300)
    day.losses.append(Loss("lost", "*", 1.0, begin, begin + 120))


def _strict_broker(day: Day, dice: Random) -> None:
    day.losses.append(Loss("refused", "send", dice.choice((0.3, 1.0))))


# The machine.


def _shake(day: Day, dice: Random, begin: float) -> None:
    """The price goes far away at just that moment, and comes back."""
    far = dice.choice((-1, 1)) * dice.uniform(0.004, 0.01)
    day.jumps += [(begin - 3, far), (begin + 2, -far)]


def _full_disk(day: Day, dice: Random) -> None:
    begin = _when(dice)
    day.database.append(Span("full", begin, begin + dice.uniform(2.0, 6.0)))
    _shake(day, dice, begin)


def _locked(day: Day, dice: Random) -> None:
    begin = _when(dice)
    day.database.append(Span("locked", begin, begin + dice.uniform(0.5, 4.0)))
    _shake(day, dice, begin)


def _bad_disk(day: Day, dice: Random) -> None:
    begin = _when(dice)
    day.database.append(Span("broken", begin, begin + dice.choice((4.0, 15.0))))
    _shake(day, dice, begin)


def _bad_policy(day: Day, dice: Random) -> None:
    begin = _when(dice, 200)
    day.policy.append(Span(dice.choice(("raises", "no_action")), begin, begin + 200))


def _skew(day: Day, dice: Random) -> None:
    day.skew_s = round(dice.uniform(-0.9, 0.9), 3)
    day.fault(_K.SKEW, seconds=dice.uniform(-0.5, 0.5))


def _killed(day: Day, dice: Random) -> None:
    for _ in range(1 + dice.randrange(3)):
        day.kills.append(_when(dice, 590))


_POINTS = ("sending", "sent", "answered", "reserved", "marked", "recorded", "bracket", "commit")


def _killed_at_work(day: Day, dice: Random) -> None:
    turn = day.seed // len(PERILS)
    for point in (_POINTS[2 * turn % 8], _POINTS[(2 * turn + 1) % 8], dice.choice(_POINTS)):
        day.kills.append((point, dice.randrange(20, 900) if point == "commit" else 1 + dice.randrange(3)))


def _paused(day: Day, dice: Random) -> None:
    """A process stands still in the middle of a decision, and goes on when another has taken the session over."""
    day.pauses.append((dice.choice(("bracket", "reserved")), 1 + dice.randrange(2)))


def _stopped(day: Day, dice: Random) -> None:
    day.drains.append(_when(dice))
    day.drains.append(("sending", 1 + dice.randrange(3)))
    day.losses.append(Loss("late", "send", 0.5, seconds=dice.uniform(1, 14)))


# People.


def _halt(day: Day, dice: Random) -> None:
    begin = _when(dice)
    day.orders += [(begin, dice.choice(("halt", "file"))), (begin + dice.uniform(5, 60), "resume")]


def _halt_at_work(day: Day, dice: Random) -> None:
    """At the very moment at which an order is on its way."""
    day.losses.append(Loss("late", "send", 1.0, seconds=1.5))
    for begin in range(60, 540, 60):
        day.orders += [(begin + dice.uniform(0.0, 1.5), "halt"), (begin + 20.0, "resume")]


def _reduce(day: Day, dice: Random) -> None:
    begin = _when(dice, 300)
    day.orders += [(begin, "reduce"), (begin + dice.uniform(60, 200), "resume")]


def _flood(day: Day, dice: Random) -> None:
    day.floods += [_when(dice), _when(dice)]


# The market.


def _fall(day: Day, dice: Random) -> None:
    day.jumps += [(begin + dice.uniform(5, 50), -dice.uniform(0.002, 0.008)) for begin in range(60, 600, 120)]


def _rise(day: Day, dice: Random) -> None:
    day.jumps += [(begin + dice.uniform(5, 50), dice.uniform(0.002, 0.008)) for begin in range(60, 600, 120)]


def _crash(day: Day, dice: Random) -> None:
    """The price falls so far, and is let fall so far, that the equity breaker has to end it."""
    day.jumps += [(_when(dice, 400), -dice.uniform(0.03, 0.08))]
    day.jumps += [(begin, -0.01) for begin in range(130, 600, 120)]
    day.settings["risk"] = {"daily_loss_share_max": 0.0002} if dice.random() < 0.4 else {"drawdown_share_max": 0.0002}


def _losing_streak(day: Day, dice: Random) -> None:
    day.settings["session"] = {"losses_max": 1}
    _fall(day, dice)


def _trailing(day: Day, dice: Random) -> None:
    day.settings["session"] = {"trail_atr": dice.uniform(0.3, 1.0)}
    _rise(day, dice)
    _fall(day, dice)


def _fine(day: Day, dice: Random) -> None:
    """A day on which nothing happens."""


PERILS: dict[str, Callable[[Day, Random], None]] = {
    peril.__name__.strip("_"): peril
    for peril in (
        _fine, _cut, _zombie, _half_open, _long_zombie, _dead_feed, _mute, _breaks, _dirty_frames, _no_bars,
        _blackout, _level_1, _level_2, _hangs, _flaky,
        _slow_broker, _lost_answers, _lost_orders, _late_arrival, _very_late_arrival, _cancels, _silent_broker,
        _dead_broker, _strict_broker,
        _full_disk, _locked, _bad_disk, _bad_policy, _skew, _killed, _killed_at_work, _paused, _stopped,
        _halt, _halt_at_work, _reduce, _flood, _fall, _rise, _crash, _losing_streak, _trailing,
    )
}  # fmt: skip
