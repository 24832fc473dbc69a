"""The newest bars of one symbol as they come in, one by one: each taken once, in order, or refused."""

from bisect import bisect_left
from dataclasses import replace
from typing import Any

from agents.clock import NANOSECONDS
from agents.domain import Bar, MarketView, Quote
from agents.errors import ConfigError, InvalidValue

__all__ = ["SKEW_S", "BarWindow"]

SKEW_S = 1.0
"""A venue's clock and ours may differ by so much; a time beyond it is no time of the present."""
_SKEW_NS = round(SKEW_S * NANOSECONDS)


class BarWindow:
    """At most `size` bars, beginning with those of `view`, and the newest quote.

    A time that cannot be right is refused and never mended: a bar under a wrong time would be decided on as another
    one. `bar_period_ns`: from bar to bar. The index of other symbols ends with the first bar that comes in: nobody
    tells how it goes on.
    """

    __slots__ = ("_size", "bar_period_ns", "quote", "view")

    def __init__(self, view: MarketView, bar_period_ns: int, size: int) -> None:
        """Begin.

        Raises:
            ConfigError: the view's bars have another period.
        """
        if view.period_ns != bar_period_ns:
            raise ConfigError(
                f"the bars of {view.symbol} come every {view.period_ns / NANOSECONDS:g} s, and the setting bar_period"
                f" is {bar_period_ns / NANOSECONDS:g}; it is not traded; make them the same"
            )
        self.view = view
        self.quote: Quote | None = None
        self.bar_period_ns = bar_period_ns
        self._size = size

    @property
    def next_ns(self) -> int:
        """When the next bar is due."""
        return self.view.as_of_ns + self.bar_period_ns

    def since(self, time_ns: int) -> int:
        """How many bars are newer than a time. On a market that never closes, those that are missing count too."""
        view = self.view
        seen = len(view) - bisect_left(view.close_ns, time_ns + 1)
        if view.calendar == "24/7":
            return max(seen, (view.as_of_ns - time_ns) // self.bar_period_ns)
        return seen

    def is_old(self, now_ns: int) -> bool:
        """Whether the newest bar is history: the one after it should have come."""
        return now_ns > self.next_ns + _SKEW_NS

    def take(self, bar: Bar, now_ns: int) -> bool:
        """Add a bar; False for one that is there already, whose time alone says so.

        Raises:
            InvalidValue: its time is before those that are there, less than half a period after the newest, or in the
                future; or it lacks the volume that the others have.
        """
        view = self.view
        place = bisect_left(view.close_ns, bar.close_ns)
        if place < len(view) and view.close_ns[place] == bar.close_ns:
            return False
        self._check(bar, now_ns)
        keep = slice(max(0, len(view) + 1 - self._size), None)
        columns: dict[str, Any] = {
            name: (*getattr(view, name)[keep], float(getattr(bar, name))) for name in ("open", "high", "low", "close")
        }
        volume = (*view.volume[keep], float(bar.volume)) if view.volume and bar.volume is not None else ()
        times = (*view.close_ns[keep], bar.close_ns)
        self.view = replace(view, close_ns=times, volume=volume, market=(), **columns)
        return True

    def take_quote(self, quote: Quote, now_ns: int) -> None:
        """Take the newest quote.

        Raises:
            InvalidValue: its time is before the one there is, or in the future.
        """
        if quote.time_ns > now_ns + _SKEW_NS:
            raise self._refused("quote", quote.time_ns, f"{(quote.time_ns - now_ns) / NANOSECONDS:.3f} s in the future")
        if self.quote is not None and quote.time_ns < self.quote.time_ns:
            raise self._refused("quote", quote.time_ns, f"before the last, of {self.quote.time_ns}")
        self.quote = quote

    def _check(self, bar: Bar, now_ns: int) -> None:
        newest_ns = self.view.as_of_ns
        if bar.close_ns > now_ns + _SKEW_NS:
            raise self._refused("bar", bar.close_ns, f"{(bar.close_ns - now_ns) / NANOSECONDS:.3f} s in the future")
        if bar.close_ns < newest_ns:
            raise self._refused("bar", bar.close_ns, f"before the newest, of {newest_ns}, and none of those there are")
        if (bar.close_ns - newest_ns) * 2 < self.bar_period_ns:
            after = f"{(bar.close_ns - newest_ns) / NANOSECONDS:g} s after the newest"
            raise self._refused("bar", bar.close_ns, f"{after}, and bars come every {self.bar_period_ns / 1e9:g} s")
        if self.view.volume and bar.volume is None:
            raise self._refused("bar", bar.close_ns, "one without volume, which those before it have")

    def _refused(self, what: str, time_ns: int, why: str) -> InvalidValue:
        return InvalidValue(
            f"the {what} of {self.view.symbol} at {time_ns} is {why}; it was not taken; see the feed and the clocks"
        )
