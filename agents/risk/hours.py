"""Whether a market trades at the time of a decision, and when its day began.

`24/7` never closes; `24/5` is the currency week, Sunday to Friday 17:00 in New York, which is 22:00 UTC in winter and
21:00 in summer; any other name is an exchange's market identifier code (ISO 10383, such as XNYS), whose sessions,
holidays and half-days come from exchange_calendars.
A decision on daily or longer bars is asked for its date: is it a session? On shorter bars the minute is asked.

A day is the market's own: of an exchange from the opening of its newest session to that of the next one, in the
currency week from 17:00 in New York to 17:00, and of a market that never closes, and of daily bars, that of UTC.
"""

import warnings
from bisect import bisect_right
from datetime import UTC, datetime, time, timedelta
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from agents.domain import Check
from agents.errors import ConfigError

__all__ = ["check_calendar", "day_start_ns", "market_hours"]

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


def day_start_ns(calendar: str, time_ns: int, period_ns: int) -> int:
    """When the day began to which this time belongs; never raises: where that cannot be told, it is that of UTC."""
    try:
        moment = datetime.fromtimestamp(_whole(time_ns) // 1_000_000_000, tz=UTC)
        if calendar == "24/7" or _whole(period_ns) >= _DAY_NS:
            return time_ns - time_ns % _DAY_NS
        began = _currency_day(moment) if calendar == "24/5" else _session(calendar, moment)
    except Exception:  # noqa: BLE001 - a total function: its hours refuse the order
        return time_ns - time_ns % _DAY_NS if type(time_ns) is int else 0
    return round(began * 1_000_000_000)


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


def _currency_day(moment: datetime) -> float:
    there = moment.astimezone(ZoneInfo("America/New_York"))
    day = there.date() if there.hour >= 17 else there.date() - timedelta(days=1)
    while day.weekday() in {4, 5}:
        day -= timedelta(days=1)
    return datetime.combine(day, time(17), there.tzinfo).timestamp()


def _session(calendar: str, moment: datetime) -> float:
    """The opening of the newest session; in the first days of a year that is one of the year before."""
    for year in (moment.year, moment.year - 1):
        begins = _sessions(calendar, year).begins
        newest = bisect_right(begins, moment.timestamp()) - 1
        if newest >= 0:
            return begins[newest]
    raise ValueError(f"{calendar} had no session in {moment.year - 1} and {moment.year}")


def _in_currency_week(there: datetime) -> bool:
    weekday, evening = there.weekday(), there.hour >= 17
    return weekday < 4 or (weekday == 4 and not evening) or (weekday == 6 and evening)


class _Sessions(NamedTuple):
    """The dates on which an exchange trades, and the spells without a break in which it is open, in seconds UTC.

    `begins`: when each date's first spell opens.
    """

    dates: frozenset[str]
    opens: tuple[float, ...]
    closes: tuple[float, ...]
    begins: tuple[float, ...]


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
    begins = tuple(row[1].timestamp() for row in rows)
    return _Sessions(dates, tuple(spell[0] for spell in spells), tuple(spell[1] for spell in spells), begins)
