"""The fault menu: what may go wrong at the exchange, and a seeded plan of when it does."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from agents.errors import ConfigError
from graph.resilience import Fault, FaultAction, FaultPlan
from graph.resilience.faults import is_number, shown

__all__ = ["FRAME_KINDS", "ExchangeFault", "FaultKind", "FaultMenu"]


class FaultKind(StrEnum):
    """What may go wrong. Each is drawn at one kind of moment: see docs/exchange.md.

    When somebody connects: `refuse` the handshake, `cut` the connection after so many seconds.
    With a frame that goes out: `reset`, `close` (1001), `zombie` (nothing but pongs from then on), `half_open` (nothing
    at all), `storm` (all connections at once), `shutdown` (announced, then closed), `gap` (the frame is left out),
    `duplicate`, `reorder`, `delay`, `corrupt`, `truncate`.
    With a subscription: `mute`, neither made nor acknowledged.
    With a request, which is not carried out: `lost`, `unavailable` (503), `overload` (-1008), `limit` (429), `ban`
    (418), `order_limit` (-1015), `skew` (the server's time is another one).
    With a request, which is carried out: `drop_ack`, `ack_503`, `ack_1006`, `ack_1007`, `garble`, `slow`.
    With a cancellation: `fill_on_cancel`, `late_fill`.
    """

    REFUSE = "refuse"
    CUT = "cut"
    RESET = "reset"
    CLOSE = "close"
    ZOMBIE = "zombie"
    HALF_OPEN = "half_open"
    STORM = "storm"
    SHUTDOWN = "shutdown"
    GAP = "gap"
    DUPLICATE = "duplicate"
    REORDER = "reorder"
    DELAY = "delay"
    CORRUPT = "corrupt"
    TRUNCATE = "truncate"
    MUTE = "mute"
    LOST = "lost"
    UNAVAILABLE = "unavailable"
    OVERLOAD = "overload"
    LIMIT = "limit"
    BAN = "ban"
    ORDER_LIMIT = "order_limit"
    SKEW = "skew"
    DROP_ACK = "drop_ack"
    ACK_503 = "ack_503"
    ACK_1006 = "ack_1006"
    ACK_1007 = "ack_1007"
    GARBLE = "garble"
    SLOW = "slow"
    FILL_ON_CANCEL = "fill_on_cancel"
    LATE_FILL = "late_fill"


_K = FaultKind
FRAME_KINDS = (
    _K.RESET, _K.CLOSE, _K.ZOMBIE, _K.HALF_OPEN, _K.STORM, _K.SHUTDOWN,
    _K.GAP, _K.DUPLICATE, _K.REORDER, _K.DELAY, _K.CORRUPT, _K.TRUNCATE,
)  # fmt: skip
"""What is drawn with each frame that goes out, in this order."""

_TIMED = frozenset({_K.CUT, _K.SHUTDOWN, _K.DELAY, _K.LIMIT, _K.BAN, _K.SKEW, _K.SLOW, _K.LATE_FILL})


@dataclass(frozen=True, slots=True)
class ExchangeFault:
    """One line of a plan. `on`: fnmatch pattern of what it strikes: a stream, a request (`order.place`), `user`.

    `seconds`: how late, how long or how far off; for those of the menu that have it. `rate`, `nth` and the span are as
    in `graph.resilience.Fault`, counted for each kind and each stream or request by itself.

    Raises:
        ConfigError: a field has a value that no fault can have.
    """

    kind: FaultKind
    on: str = "*"
    rate: float = 1.0
    seconds: float = 0.0
    nth: int | None = None
    from_seconds: float = 0.0
    until_seconds: float = math.inf

    def __post_init__(self) -> None:
        if self.kind not in tuple(FaultKind):
            raise ConfigError(
                f"a fault has the kind {shown(self.kind)}, which is not on the menu, and nothing was run; it must be "
                f"one of {', '.join(FaultKind)}"
            )
        object.__setattr__(self, "kind", FaultKind(self.kind))
        if not isinstance(self.on, str) or not self.on:
            raise ConfigError(f"the {self.kind} is on {shown(self.on)}, and nothing was run; name a stream or request")
        self._check_seconds()
        self.condition()

    def _check_seconds(self) -> None:
        timed = self.kind in _TIMED
        good = is_number(self.seconds) and (self.seconds > 0 or self.kind is FaultKind.SKEW)
        if timed != bool(self.seconds) or (timed and not good):
            wanted = "a finite number above 0" if timed else "left out: this kind has none"
            raise ConfigError(
                f"the {self.kind} on {shown(self.on)} has seconds {shown(self.seconds)}, and nothing was run; they "
                f"must be {wanted}"
            )

    def condition(self) -> Fault:
        """When it strikes, in the words of the guards' fault plans, which draw it."""
        return Fault(
            f"{self.kind}:{self.on}",
            FaultAction.ERROR,
            rate=self.rate,
            nth=self.nth,
            from_seconds=self.from_seconds,
            until_seconds=self.until_seconds,
        )


class FaultMenu:
    """A seeded plan, and the count of what it has seen. As a file: `seed = 7` and `[[fault]]` tables.

    `struck`: how often each kind did. `now_seconds` is on any one clock.
    """

    def __init__(self, faults: Iterable[ExchangeFault] = (), *, seed: int = 0) -> None:
        self.faults = tuple(faults)
        self.seed = seed
        self.struck: dict[FaultKind, int] = {}
        self._conditions = [fault.condition() for fault in self.faults]
        self._of = dict(zip(map(id, self._conditions), self.faults, strict=True))
        self._plan = FaultPlan(self._conditions, seed=seed)
        self._kinds = frozenset(fault.kind for fault in self.faults)
        self.frame_kinds = tuple(kind for kind in FRAME_KINDS if kind in self._kinds)

    def begin(self, now_seconds: float) -> None:
        """Count spans from now on, if they are not counted yet."""
        self._plan.draw("", now_seconds)

    @classmethod
    def from_toml(cls, path: Path) -> "FaultMenu":
        """Read a plan.

        Raises:
            ConfigError: the file cannot be read, or says something that a plan does not have.
        """
        import tomllib  # noqa: PLC0415 - only for an exchange with faults

        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"the fault plan {path} cannot be read ({error}), and nothing was run; correct it, or give another file"
            ) from error
        tables, seed = document.pop("fault", []), document.pop("seed", 0)
        if document or not isinstance(tables, list):
            raise ConfigError(
                f"the fault plan {path} has {shown(next(iter(document), tables))}, and nothing was run; "
                "it may have a `seed` and `[[fault]]` tables"
            )
        return cls([_fault(table, path) for table in tables], seed=seed)

    def strikes(self, kind: FaultKind, point: str, now_seconds: float) -> ExchangeFault | None:
        """Count one moment at which this could happen, and say whether it does."""
        if kind not in self._kinds:
            return None
        struck = self._plan.draw(f"{kind}:{point}", now_seconds)
        if not struck:
            return None
        self.struck[kind] = self.struck.get(kind, 0) + 1
        return self._of[id(struck[0])]


def _fault(table: Any, path: Path) -> ExchangeFault:
    known = {field.name for field in fields(ExchangeFault)}
    if not isinstance(table, dict) or not {"kind"} <= set(table) <= known:
        raise ConfigError(
            f"the fault plan {path} has the fault {shown(table)}, and nothing was run; kind is needed, and "
            f"{', '.join(sorted(known - {'kind'}))} are possible"
        )
    return ExchangeFault(**table)
