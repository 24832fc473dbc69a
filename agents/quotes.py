"""Reading files of quotes: CSV in, columns that can be trusted out, or one clear line that says what is wrong."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from agents.domain import Quote, check_symbol
from agents.price_file import (
    TIMES,
    UNNAMED,
    Records,
    bad,
    check_regular,
    csv_table,
    read_number,
    read_time,
    refuse_os,
    short,
)

__all__ = ["Quotes", "are_quotes", "read_quotes"]

_QUOTES_MAX = 5_000_000
_SIZES = (("bid_size", "ask_size"), ("bid_volume", "ask_volume"), ("bid_qty", "ask_qty"))


@dataclass(frozen=True, slots=True, eq=False)
class Quotes:
    """A history of best prices as columns of one length n, oldest first.

    `time_ns` (n,) int64, never going back; `bid` and `ask` (n,) float64, above 0, ask not below bid; `bid_size` and
    `ask_size` (n,) float64, not negative, or None where the source has none. `notes`: what was taken for granted.
    """

    time_ns: NDArray[np.int64]
    bid: NDArray[np.float64]
    ask: NDArray[np.float64]
    bid_size: NDArray[np.float64] | None = None
    ask_size: NDArray[np.float64] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.time_ns)

    def quotes(self, symbol: str) -> Iterator[Quote]:
        """One by one, with prices as they were printed."""
        check_symbol(symbol)
        columns = [column.tolist() for column in (self.bid, self.ask)]
        sizes = [each.tolist() for each in (self.bid_size, self.ask_size) if each is not None]
        for time_ns, *numbers in zip(self.time_ns.tolist(), *columns, *sizes, strict=True):
            yield Quote(symbol, time_ns, *(Decimal(str(number)) for number in numbers))


def are_quotes(path: Path) -> bool:
    """Whether a file has columns bid and ask, and is to be read by `read_quotes`. Raises BadBars."""
    if path.suffix.lower() == ".parquet":
        return False
    check_regular(path)
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            names, _ = csv_table(path, file)
    except OSError as error:
        refuse_os(path, error)
    return {"bid", "ask"} <= {name.strip().casefold() for name in names}


def read_quotes(path: Path) -> Quotes:
    """Read a CSV (comma, semicolon or tab; UTF-8) with columns bid and ask, and one of times.

    Times are as in `read_bars`; several quotes may have one time. Sizes are read where there are columns `bid_size` and
    `ask_size` (or `_volume`, `_qty`); further columns are ignored.

    Raises:
        BadBars: the file is no history of quotes; one line with file, line, values, remedy.
    """
    check_regular(path)
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            return _parse(path, file)
    except OSError as error:
        refuse_os(path, error)


def _parse(path: Path, file: TextIO) -> Quotes:
    names, records = csv_table(path, file)
    known = [name.strip().casefold() for name in names]
    time_at, numbers_at = _locate(path, known)
    times, columns, zoned = _rows(path, records, time_at, numbers_at, len(names))
    notes = () if zoned else (f"{len(times)} times carry no time zone and were taken as UTC",)
    bid, ask, *sizes = (np.asarray(column, np.float64) for column in columns)
    bid_size, ask_size = sizes or (None, None)
    return Quotes(np.asarray(times, np.int64), bid, ask, bid_size, ask_size, notes)


def _locate(path: Path, known: Sequence[str]) -> tuple[int, list[int]]:
    """Where the time stands, and where bid, ask and perhaps their sizes do."""
    times = [name for name in TIMES if name in known]
    missing = [name for name in ("bid", "ask") if name not in known]
    if missing or not (times or (known and known[0] in UNNAMED)):
        wanted = missing or ["date"]
        found = ", ".join(short(name, 24) for name in known[:12])
        raise bad(path, f"no column {', '.join(wanted)}; found {found}", "the first line must name the columns")
    sizes = next((pair for pair in _SIZES if set(pair) <= set(known)), ())
    chosen = [*times, "bid", "ask", *sizes]
    if len(times) > 1 or any(known.count(name) > 1 for name in chosen):
        raise bad(path, "several columns have one meaning", "keep one time, one bid and one ask")
    return known.index(times[0]) if times else 0, [known.index(name) for name in ("bid", "ask", *sizes)]


def _rows(
    path: Path, records: Records, time_at: int, numbers_at: Sequence[int], width: int
) -> tuple["array[int]", list["array[float]"], bool]:
    times, columns, zoned = array("q"), [array("d") for _ in numbers_at], False
    for line, row in records:
        if len(row) != width:
            if any(cell.strip() for cell in row):
                fact = f"{len(row)} fields, and the first line names {width}"
                raise bad(path, fact, "correct or remove the line", f"line {line}")
            continue
        time_ns, has_zone, numbers = _cells(path, line, row, time_at, numbers_at)
        if times and time_ns < times[-1]:
            raise bad(path, "time goes back", "sort ascending by time", f"line {line}")
        if times and has_zone != zoned:
            raise bad(path, "only some times carry a zone", "write all times with a zone, or none", f"line {line}")
        zoned = has_zone
        times.append(time_ns)
        for column, number in zip(columns, numbers, strict=True):
            column.append(number)
        if len(times) > _QUOTES_MAX:
            raise bad(path, f"it holds more than {_QUOTES_MAX:,} quotes", "give a shorter span")
    if not times:
        raise bad(path, "it has column names and no quotes", "give at least one")
    return times, columns, zoned


def _cells(
    path: Path, line: int, row: Sequence[str], time_at: int, numbers_at: Sequence[int]
) -> tuple[int, bool, list[float]]:
    place = f"line {line}"
    try:
        time_ns, has_zone = read_time(row[time_at])
    except ValueError:
        fact = f"{short(row[time_at])} is not a time between 1850 and 2100"
        raise bad(path, fact, "write times as 2013-01-01T22:00:00+00:00 or epoch numbers", place) from None
    try:
        numbers = [read_number(row[at]) for at in numbers_at]
    except ValueError:
        cells = ", ".join(short(row[at]) for at in numbers_at)
        raise bad(path, f"not all of {cells} are numbers", "correct or remove the quote", place) from None
    fault = _fault(*numbers)
    if fault:
        raise bad(path, fault, "correct or remove the quote", place)
    return time_ns, has_zone, numbers


def _fault(bid: float, ask: float, *sizes: float) -> str:
    if not (0 < bid < float("inf") and 0 < ask < float("inf")):
        return f"bid {bid} and ask {ask} must be numbers above 0"
    if ask < bid:
        return f"ask {ask} is below bid {bid}"
    return "" if all(0 <= size < float("inf") for size in sizes) else f"sizes {sizes} must not be negative"
