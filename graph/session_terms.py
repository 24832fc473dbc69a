"""The limits of a session, each with its default; docs/session.md has the reasons."""

from dataclasses import dataclass, fields

from agents.errors import ConfigError

__all__ = ["SessionTerms"]


@dataclass(frozen=True, slots=True)
class SessionTerms:
    """How a session is run. Times are in seconds of session time.

    `queue_size`: orders that wait to be sent; what comes then is refused. `heartbeat`: between two looks at the
    account, the trading state and the age of the data; `mark_every`: between two marks on disk. `stale_reduce` and
    `stale_halt`: age of the newest price at which trading is REDUCING, and HALTED; after `fresh_quotes` new ones it is
    what it was. `decide_every`: bars from one decision of the slow lane to the next; `losses_max`: round trips in a row
    that end with a loss, at which trading is REDUCING; `trail_atr`: distance of the trailing stop in average true
    ranges, 0 for a stop that stays; `drain`: how long an end waits for what is in flight. `funding_rate`: what a long
    position pays of its worth, and a short one gets, every `funding_every`, counted from midnight UTC; 0 for a market
    without, such as all of spot.

    Raises:
        ConfigError: a number is not finite, or nothing could be run by it.
    """

    queue_size: int = 50
    heartbeat: float = 1.0
    mark_every: float = 5.0
    stale_reduce: float = 10.0
    stale_halt: float = 60.0
    fresh_quotes: int = 3
    decide_every: int = 1
    losses_max: int = 5
    trail_atr: float = 0.0
    drain: float = 10.0
    funding_rate: float = 0.0
    funding_every: float = 28_800.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            least = _LEAST.get(each.name, 1e-9)
            if isinstance(value, bool) or not least <= value < 1e9:
                raise ConfigError(
                    f"the session's {each.name} is {value}; no session can be run by it; set a number above 0"
                )
        for name in ("queue_size", "fresh_quotes", "decide_every", "losses_max"):
            if getattr(self, name) != int(getattr(self, name)):
                raise ConfigError(f"the session's {name} is {getattr(self, name)}; set a whole number")
        if self.stale_halt < self.stale_reduce:
            raise ConfigError(
                f"the session's stale_halt is {self.stale_halt:g}, below stale_reduce of {self.stale_reduce:g};"
                " what halts comes after what reduces; set it higher"
            )


_LEAST = {"trail_atr": 0.0, "funding_rate": -1.0}
