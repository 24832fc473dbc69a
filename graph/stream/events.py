"""What a stream of market data gives, and what it tells of itself."""

from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, TypeAlias

from agents.domain import Bar, Quote, Trade

__all__ = [
    "Connected",
    "Disconnected",
    "GapFound",
    "MarketEvent",
    "MarketStream",
    "MessageRefused",
    "Reason",
    "StreamHealth",
    "StreamNotice",
    "StreamStale",
]

MarketEvent: TypeAlias = Trade | Quote | Bar
"""A trade, the best prices as they changed, or a bar that is closed."""


class MarketStream(Protocol):
    """A source of market events, for one reader. `health` tells how it is, while it runs."""

    @property
    def health(self) -> "StreamHealth": ...

    def events(self) -> AsyncGenerator[MarketEvent, None]:
        """Every event, in the order of its arrival; of each symbol and kind, times never go back.

        Ends when the source has ended. Close it (`contextlib.aclosing`) when it is not read to its end.

        Raises:
            FeedDead: the source failed too often in a row.
        """
        ...


class Reason(StrEnum):
    """Why a message was dropped."""

    TOO_LARGE = "too large"
    NOT_JSON = "not JSON"
    WRONG_SHAPE = "not of its kind's shape"
    UNKNOWN = "of no stream that was subscribed to"
    BAD_NUMBER = "a number that is none"
    BAD_PRICES = "prices that cannot be"
    TIME_BACK = "time goes back"
    FUTURE = "from the future"
    OLD = "from another day"
    DUPLICATE = "already seen"
    LATE = "out of order"
    JUMP = "a number far from the one before"


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection is open, and its subscriptions are acknowledged."""

    time_ns: int
    streams: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A connection is over. `failures` in a row until now; the next try is made after `wait_seconds`."""

    time_ns: int
    reason: str
    failures: int
    wait_seconds: float


@dataclass(frozen=True, slots=True)
class StreamStale:
    """Nothing good came on one stream for so long that its connection is given up, though it is open."""

    time_ns: int
    stream: str
    quiet_seconds: float


@dataclass(frozen=True, slots=True)
class GapFound:
    """Messages of a stream are missing; -1 where nobody can say how many. `filled`: they were fetched elsewhere."""

    time_ns: int
    stream: str
    missing: int
    filled: int = 0


@dataclass(frozen=True, slots=True)
class MessageRefused:
    """A message was dropped."""

    time_ns: int
    stream: str
    reason: Reason


StreamNotice: TypeAlias = Connected | Disconnected | StreamStale | GapFound | MessageRefused
"""What an observer of a stream is told."""


@dataclass(slots=True)
class StreamHealth:
    """Counters of one stream of data, since it was made.

    `received`: messages, good or not; `delivered`: events; `refused`: messages by reason; `missing`: messages that gaps
    have swallowed, as far as that can be told; `connections` that were opened; `failures` in a row until now;
    `last_ns`: when the newest good message of each stream came. A source that has no connections leaves most at 0.
    """

    received: int = 0
    delivered: int = 0
    refused: Counter[Reason] = field(default_factory=Counter)
    missing: int = 0
    connections: int = 0
    failures: int = 0
    last_ns: dict[str, int] = field(default_factory=dict)
