"""Whether a market trades at the time of a decision.

`24/7` never closes; `24/5` is the currency week, Sunday to Friday 17:00 in New York, which is 22:00 UTC in winter and
21:00 in summer; any other name is an exchange's market identifier code (ISO 10383, such as XNYS), whose sessions,
holidays and half-days come from exchange_calendars.
A decision on daily or longer bars is asked for its date: is it a session? On shorter bars the minute is asked.
"""

import warnings
from bisect import bisect_right
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from agents.domain import Check
from agents.errors import ConfigError

__all__ = ["check_calendar", "market_hours"]

_DAY_NS = 86_400_000_000_000


def market_hours(calendar: str, time_ns: int, period_ns: int) -> Check:
    """The check `market_hours`; never raises: an unknown calendar or a time outside it is closed, with the reason."""
    try:
        moment = datetime.fromtimestamp(_whole(time_ns) // 1_000_000_000, tz=UTC)
        is_open = _is_open(calendar, moment, daily=_whole(period_ns) >= _DAY_NS)
    except Exception as error:  # noqa: BLE001 - a total function: whatever the calendar library raises is a refusal
        name = calendar if isinstance(calendar, str) else type(calendar).__name__
        why = " ".join(str(error).split())
        reason = f"the trading hours of {name!r:.40} cannot be told ({why}); the market counts as closed"
        return Check("market_hours", passed=False, value="unknown", limit=name, reason=reason)
    when = moment.isoformat(timespec="minutes")
    reason = "" if is_open else f"{calendar} does not trade at {when}; decide again when it is open"
    return Check("market_hours", passed=is_open, value=when, limit=calendar, reason=reason)


def _whole(number: Any) -> int:
    if type(number) is not int:
        raise TypeError(f"a {type(number).__name__} is no time in nanoseconds")
    return number


def check_calendar(name: str) -> None:
    """Raise ConfigError unless `name` is `24/7`, `24/5` or an exchange that exchange_calendars knows."""
    if name in {"24/7", "24/5"}:
        return
    import exchange_calendars  # noqa: PLC0415

    known = exchange_calendars.get_calendar_names(include_aliases=True)
    if name not in known:
        near = ", ".join(get_close_matches(name.upper(), known, n=3)) or "XNYS, XNAS, XLON"
        raise ConfigError(
            f"{name!r:.40} is no calendar; nothing was run, since every order would be refused; use 24/7, 24/5 or an"
            f" exchange's code, such as {near}"
        )


def _is_open(calendar: str, moment: datetime, *, daily: bool) -> bool:
    if not isinstance(calendar, str):
        raise TypeError("a calendar is named by text")
    if calendar == "24/7":
        return True
    if calendar == "24/5":
        return moment.weekday() < 5 if daily else _in_currency_week(moment.astimezone(ZoneInfo("America/New_York")))
    sessions = _sessions(calendar, moment.year)
    if daily:
        return moment.strftime("%Y-%m-%d") in sessions.dates
    spell = bisect_right(sessions.opens, moment.timestamp()) - 1
    return spell >= 0 and moment.timestamp() < sessions.closes[spell]


def _in_currency_week(there: datetime) -> bool:
    weekday, evening = there.weekday(), there.hour >= 17
    return weekday < 4 or (weekday == 4 and not evening) or (weekday == 6 and evening)


class _Sessions(NamedTuple):
    """The dates on which an exchange trades, and the spells without a break in which it is open, in seconds UTC."""

    dates: frozenset[str]
    opens: tuple[float, ...]
    closes: tuple[float, ...]


@lru_cache(maxsize=32)
def _sessions(code: str, year: int) -> _Sessions:
    """One year's sessions; loaded when first asked, because the library brings pandas along.

    The library is behind pandas, and its deprecations must not close the market where warnings are errors.
    """
    import exchange_calendars  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        known = exchange_calendars.get_calendar(code, start=f"{year}-01-01", end=f"{year}-12-31")
        rows = [tuple(row) for row in known.schedule[["open", "break_start", "break_end", "close"]].itertuples()]
    spells: list[tuple[float, float]] = []
    for _, opens, *pause, closes in rows:
        edges = [each.timestamp() for each in (opens, *pause, closes) if each == each]  # noqa: PLR0124 - NaT is not
        spells += zip(edges[::2], edges[1::2], strict=True)
    dates = frozenset(row[0].strftime("%Y-%m-%d") for row in rows)
    return _Sessions(dates, tuple(spell[0] for spell in spells), tuple(spell[1] for spell in spells))
