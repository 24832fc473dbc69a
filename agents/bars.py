"""Reading price files: CSV or Parquet in, columns that can be trusted out, or one clear line that says what is wrong.

Nothing is repaired and nothing is left out: corrupt data is worse than no data. The two things that are taken for
granted, and told in `Bars.notes`, are that times without a zone are UTC, and that an open or close which lies outside
[low, high] by no more than floating-point noise belongs to the range.
"""

import csv
import stat
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TextIO

import numpy as np
from numpy.typing import NDArray

from agents.errors import BadBars

__all__ = ["Bars", "read_bars"]

_PRICES = ("open", "high", "low", "close")
_TIMES = ("date", "time", "datetime", "timestamp")
_UNNAMED = frozenset({"", "index", "unnamed: 0", "__index_level_0__"})
_BARS_MAX = 5_000_000
_LINE_CHARS_MAX = 65_536
_NOISE = 1e-9  # relative: far above the rounding of a double, far below the price step of any market
_STEP_ROWS = 512
_STEP_DECIMALS_MAX = 8
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_WITHOUT_ZONE = _EPOCH.replace(tzinfo=None)
_EPOCH_END_NS = 4_102_444_800 * 10**9  # 2100-01-01
_EPOCH_UNIT_NS = {9: 10**9, 10: 10**9, 12: 10**6, 13: 10**6, 15: 10**3, 16: 10**3, 18: 1, 19: 1}


@dataclass(frozen=True, slots=True, eq=False)
class Bars:
    """A history of bars as read-only columns of one length n, oldest first.

    `close_ns` (n,) int64, strictly increasing: the time that the data gives the bar, nanoseconds UTC. `open`, `high`,
    `low`, `close` (n,) float64, all above 0, with low <= open, close <= high. `volume` (n,) float64, not negative, or
    None where the source has none. `price_step`: the smallest decimal place that the last 512 bars use, 8 decimals at
    most. `notes`: what the reader took for granted, in sentences for the user.
    """

    close_ns: NDArray[np.int64]
    open: NDArray[np.float64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]
    close: NDArray[np.float64]
    volume: NDArray[np.float64] | None = None
    price_step: Decimal = Decimal("0.01")
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("close_ns", *_PRICES, "volume"):
            column = getattr(self, name)
            if column is not None:
                column.flags.writeable = False

    def __len__(self) -> int:
        return len(self.close_ns)


def read_bars(path: Path, minimum: int = 100) -> Bars:
    """Read a price file: Parquet where the name ends in `.parquet`, else CSV (comma, semicolon or tab; UTF-8).

    Needed columns, in any case and order: open, high, low, close, and the date in one called date, time, datetime or
    timestamp, or else in an unnamed first column or a Parquet index. `volume` is optional, further columns are
    ignored. Times are ISO 8601, YYYYMMDD, or epoch numbers in s, ms, us or ns, told apart by their magnitude.

    Raises:
        BadBars: the file is no history of at least `minimum` bars; one line with file, line or row, values, remedy.
    """
    _check_regular(path)
    table = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    return _checked(path, table, minimum)


class _Columns(NamedTuple):
    """Where the needed columns stand: their positions in the header, and the name of the time column."""

    time: int
    time_name: str
    cells: dict[str, int]


class _Table(NamedTuple):
    """Columns as they stood in the file, not yet checked; `places` (n,) their line or row numbers, for messages."""

    close_ns: NDArray[np.int64]
    columns: dict[str, NDArray[np.float64]]
    zoned: bool
    places: Sequence[int]
    place_word: str


_Records = Iterator[tuple[int, Sequence[str]]]

# What is said


def _shown(path: Path) -> str:
    name = str(path)
    return name if name.isprintable() else repr(name)


def _short(cell: object, limit: int = 40) -> str:
    text = cell if isinstance(cell, str) else str(cell)
    return repr(text if len(text) <= limit else text[:limit] + "...")


def _bad(path: Path, fact: str, remedy: str, place: str = "") -> BadBars:
    where = f"{_shown(path)}, {place}" if place else _shown(path)
    return BadBars(f"{where}: {fact}; the file was not used; {remedy}")


def _bad_cell(path: Path, place: str, name: str, cell: object) -> BadBars:
    if not str(cell).strip():
        return _bad(path, f"{name} is empty", "fill it in or remove the bar", place)
    if name in (*_PRICES, "volume"):
        remedy = "write it with a decimal point and no thousands separator"
        return _bad(path, f"{name} {_short(cell)} is not a number", remedy, place)
    fact = f"{name} {_short(cell)} is not a time between 1850 and 2100"
    return _bad(path, fact, "write times as 2004-08-19, 2004-08-19T14:30:00+00:00 or epoch numbers", place)


def _check_regular(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise _bad(path, "there is no such file", "check the path") from None
    except (OSError, ValueError) as error:
        _refuse_os(path, error)
    if stat.S_ISDIR(mode):
        raise _bad(path, "this is a folder, not a file", "name one file in it")
    if not stat.S_ISREG(mode):
        raise _bad(path, "this is not a regular file, and a resumed run could not read it again", "save it to a file")


def _refuse_os(path: Path, error: Exception) -> NoReturn:
    if isinstance(error, PermissionError):
        raise _bad(path, "it may not be read (permission denied)", "give this user the right to read it") from None
    reason = getattr(error, "strerror", None) or _short(str(error), 120)
    raise _bad(path, f"it cannot be read ({reason})", "check the path and the disk") from None


# Header and cells


def _locate(path: Path, names: Sequence[str]) -> _Columns:
    """Find the needed columns; several candidates for one are refused, because taking the first would be a guess."""
    known = [name.strip().casefold() for name in names]
    wanted = (*_PRICES, *_TIMES, "volume")
    for name in wanted:
        if known.count(name) > 1:
            raise _bad(path, f"{known.count(name)} columns are called {name!r}", "keep one of them")
    times = [name for name in _TIMES if name in known]
    if len(times) > 1:
        raise _bad(
            path, f"several columns hold a time: {', '.join(times)}", "keep the one with the whole date and time"
        )
    _check_missing(path, names, known, bool(times))
    at = known.index(times[0]) if times else 0
    values = {name: known.index(name) for name in (*_PRICES, "volume") if name in known}
    return _Columns(at, times[0] if times else "date", values)


def _check_missing(path: Path, names: Sequence[str], known: Sequence[str], has_time: bool) -> None:
    missing = [name for name in _PRICES if name not in known]
    if len(missing) == 4 and all(any(name.startswith(side) for name in known) for side in ("bid", "ask")):
        raise _bad(path, "these are quotes (bid and ask), not bars", "aggregate them into bars first")
    if not has_time and not (known and known[0] in _UNNAMED):
        missing.insert(0, f"date (or {', '.join(_TIMES[1:])})")
    if missing:
        found = ", ".join(_short(name, 24) for name in names[:12]) + (", ..." if len(names) > 12 else "") or "none"
        raise _bad(path, f"no column {', '.join(missing)}; found {found}", "the first line must name the columns")


def _number(cell: str) -> float:
    if "_" in cell:
        raise ValueError(cell)  # float() would take 1_000 for a number, and no price file means that
    return float(cell)


def _time_ns(cell: str) -> tuple[int, bool]:
    """Nanoseconds UTC, and whether the cell itself said so (an epoch number does)."""
    text = cell.strip()
    digits = text.removesuffix(".0")
    if digits.isdecimal() and digits.isascii() and len(digits) != 8:
        return _epoch_ns(digits), True
    when = datetime.fromisoformat(text)
    if not 1850 <= when.year < 2100:
        raise ValueError(text)
    zoned = when.tzinfo is not None
    age = when - (_EPOCH if zoned else _EPOCH_WITHOUT_ZONE)
    return (age.days * 86_400 + age.seconds) * 10**9 + age.microseconds * 1_000, zoned


def _epoch_ns(digits: str) -> int:
    # Twelve digits from 19 or 20 are as likely 2004-08-19 12:30 as milliseconds of 1976: no guess is made.
    if len(digits) not in _EPOCH_UNIT_NS or (len(digits) == 12 and digits[:2] in {"19", "20"}):
        raise ValueError(digits)
    time_ns = int(digits) * _EPOCH_UNIT_NS[len(digits)]
    if time_ns >= _EPOCH_END_NS:
        raise ValueError(digits)
    return time_ns


# CSV


def _read_csv(path: Path) -> _Table:
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            return _parse_csv(path, file)
    except OSError as error:
        _refuse_os(path, error)


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    """The file's lines, each of bounded length and real text, so that a binary file is refused at its first line."""
    for number, line in enumerate(iter(lambda: file.readline(_LINE_CHARS_MAX), ""), start=1):
        if not line.isascii() or "\0" in line or len(line) == _LINE_CHARS_MAX:
            _check_line(path, line, f"line {number}")
        yield line


def _check_line(path: Path, line: str, place: str) -> None:
    remedy = "save it as CSV in UTF-8, or as .parquet"
    try:
        line.encode()
    except UnicodeEncodeError as error:  # a byte that was no UTF-8 stands in the line as a lone surrogate
        byte = ord(line[error.start]) - 0xDC00
        raise _bad(path, f"the byte 0x{byte:02x} is not UTF-8", remedy, place) from None
    if "\0" in line:
        raise _bad(path, "there is a NUL byte, so this is no text file", remedy, place)
    if len(line) == _LINE_CHARS_MAX and line[-1] not in "\r\n":
        raise _bad(path, f"it is longer than {_LINE_CHARS_MAX} characters", "give each bar a line of its own", place)


def _parse_csv(path: Path, file: TextIO) -> _Table:
    lines = _lines(path, file)
    header = next(lines, "")
    if not header:
        raise _bad(path, "it is empty", "it needs a line of column names and one line a bar")
    records = _csv_records(path, chain([header], lines), max(",;\t", key=header.count))
    names = next(records)[1]
    return _parse_rows(path, records, _locate(path, names), len(names), "line")


def _csv_records(path: Path, lines: Iterator[str], delimiter: str) -> _Records:
    """The rows, each with the number of the line that it begins on (a quoted cell may go over several)."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    line = 1
    try:
        for row in reader:
            yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise _bad(path, f"it is not CSV ({error})", "look for a quote that is not closed", f"line {line}") from None


def _parse_rows(path: Path, records: _Records, columns: _Columns, width: int, word: str) -> _Table:
    """All rows below the header into flat arrays; a blank line is passed over."""
    times, places = array("q"), array("q")
    values = {name: array("d") for name in columns.cells}
    targets = [(values[name], at) for name, at in columns.cells.items()]
    zoned = False
    for place, row in records:
        if len(row) != width:
            _check_blank(path, f"{word} {place}", row, width)
            continue
        try:
            time_ns, has_zone = _time_ns(row[columns.time])
            times.append(time_ns)
            for column, at in targets:
                column.append(_number(row[at]))
        except ValueError:
            raise _first_bad_cell(path, f"{word} {place}", row, columns) from None
        if has_zone != zoned:
            zoned = _zone_of_first(path, word, place, places, has_zone)
        places.append(place)
        if len(places) > _BARS_MAX:
            raise _too_many(path)
    numbers = {name: np.asarray(column, np.float64) for name, column in values.items()}
    return _Table(np.asarray(times, np.int64), numbers, zoned, places, word)


def _check_blank(path: Path, place: str, row: Sequence[str], width: int) -> None:
    if any(cell.strip() for cell in row):
        fact = f"{len(row)} fields, and the first line names {width}"
        raise _bad(path, fact, "correct or remove the line", place)


def _too_many(path: Path) -> BadBars:
    return _bad(path, f"it holds more than {_BARS_MAX:,} bars", "give a shorter span or longer bars")


def _zone_of_first(path: Path, word: str, place: int, places: Sequence[int], zoned: bool) -> bool:
    """The first bar settles whether times carry a zone. A later one that differs is refused: it may be hours off."""
    if not places:
        return zoned
    fact = f"the time carries {'a' if zoned else 'no'} zone, and that of {word} {places[0]} does{' not' * zoned}"
    raise _bad(path, fact, "write all times with a zone, or none", f"{word} {place}")


def _first_bad_cell(path: Path, place: str, row: Sequence[str], columns: _Columns) -> BadBars:
    try:
        _time_ns(row[columns.time])
    except ValueError:
        return _bad_cell(path, place, columns.time_name, row[columns.time])
    for name, at in columns.cells.items():
        try:
            _number(row[at])
        except ValueError:
            return _bad_cell(path, place, name, row[at])
    raise AssertionError("a row failed to parse, and each of its cells parses")


# Parquet


def _read_parquet(path: Path) -> _Table:
    """The needed columns, cell by cell through the same words as a CSV: one set of rules for both."""
    fields = _parquet_fields(path)
    found = _locate(path, [name for name, _ in fields])
    cells = [fields[at][1] for at in (found.time, *found.cells.values())]
    records = (
        (row, [_printed(cell) for cell in row_cells]) for row, row_cells in enumerate(zip(*cells, strict=True), 1)
    )
    columns = _Columns(0, found.time_name, {name: at for at, name in enumerate(found.cells, start=1)})
    return _parse_rows(path, records, columns, len(cells), "row")


def _printed(cell: object) -> str:
    """The shortest print, so that a short float's 100.34 stays 100.34 and does not become 100.33999633789062."""
    text = str(cell)
    return "" if text in {"None", "NaT", "<NA>"} else text


def _parquet_fields(path: Path) -> list[tuple[str, NDArray[Any]]]:
    """Index and columns as (name, cells). pandas is imported here, because most runs never need it."""
    try:
        import pandas as pd  # noqa: PLC0415
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError:
        raise _bad(path, "reading Parquet needs pyarrow", "run: pip install 'holdfast[parquet]'") from None
    try:
        rows = pq.read_metadata(path).num_rows
        frame = pd.DataFrame() if rows > _BARS_MAX else pd.read_parquet(path, engine="pyarrow")
    except PermissionError as error:
        _refuse_os(path, error)
    except Exception as error:  # noqa: BLE001 (a damaged file makes pyarrow raise almost anything)
        reason = _short(" ".join(str(error).split()), 120)
        raise _bad(path, f"it is not a readable Parquet file ({reason})", "write it again") from None
    if rows > _BARS_MAX:
        raise _too_many(path)
    levels = [] if isinstance(frame.index, pd.RangeIndex) else range(frame.index.nlevels)
    index = [(str(frame.index.names[at] or ""), frame.index.get_level_values(at).to_numpy()) for at in levels]
    return index + [(str(name), frame.iloc[:, at].to_numpy()) for at, name in enumerate(frame.columns)]


# The rules that every file must keep


def _checked(path: Path, table: _Table, minimum: int) -> Bars:
    count = len(table.close_ns)
    if count == 0:
        raise _bad(path, "it has column names and no bars", f"give at least {minimum} bars")
    faults = [*_value_faults(table.columns), *_time_faults(table)]
    if faults:
        row, fact, remedy = min(faults, key=lambda fault: fault[0])
        raise _bad(path, fact, remedy, f"{table.place_word} {table.places[row]}")
    if count < minimum:
        raise _bad(path, f"it holds {count} bars, and {minimum} are needed", "give a longer history")
    return _bars(table)


_Fault = tuple[int, str, str]


def _first(bad: NDArray[np.bool_]) -> int | None:
    return int(bad.argmax()) if bad.any() else None


def _value_faults(values: Mapping[str, NDArray[np.float64]]) -> Iterator[_Fault]:
    """For each rule the first row that breaks it."""
    remedy = "correct or remove the bar"
    for name, column in values.items():
        low_enough = column >= 0 if name == "volume" else column > 0
        if (row := _first(~(low_enough & np.isfinite(column)))) is not None:
            rule = "not negative" if name == "volume" else "above 0"
            yield row, f"{name} is {column[row]}, and must be a number {rule}", remedy
    high, low = values["high"], values["low"]
    with np.errstate(invalid="ignore", over="ignore"):
        top, bottom = high * (1 + _NOISE), low * (1 - _NOISE)
    if (row := _first(bottom > high)) is not None:
        yield row, f"high {high[row]} is below low {low[row]}", remedy
    for name in ("open", "close"):
        column = values[name]
        if (row := _first((column > top) | (column < bottom))) is not None:
            yield row, f"{name} {column[row]} is outside low {low[row]} to high {high[row]}", remedy


def _time_faults(table: _Table) -> Iterator[_Fault]:
    times, word = table.close_ns, table.place_word
    later = times[1:] > times[:-1]
    row = _first(~later)
    if row is None:
        return
    before = f"{word} {table.places[row]}"
    if times[row + 1] == times[row]:
        fact = f"the same time {_iso(times[row])} as {before}"
        yield row + 1, fact, "keep one bar for each time, and one symbol in each file"
    elif len(times) > 2 and bool((times[1:] < times[:-1]).all()):
        yield row + 1, f"{_iso(times[row + 1])} is before {before}: the file runs backwards", "sort ascending by time"
    else:
        yield row + 1, f"time goes back from {_iso(times[row])} ({before}) to {_iso(times[row + 1])}", "sort ascending"


def _iso(time_ns: np.int64) -> str:
    return f"{np.datetime64(int(time_ns), 'ns')}".removesuffix("000000000").removesuffix(".")


def _bars(table: _Table) -> Bars:
    prices = {name: table.columns[name] for name in _PRICES}
    stack = list(prices.values())
    high, low = np.maximum.reduce(stack), np.minimum.reduce(stack)
    widened = int(np.count_nonzero((high != prices["high"]) | (low != prices["low"])))
    notes = []
    if not table.zoned:
        notes.append(f"{len(high)} times carry no time zone and were taken as UTC")
    if widened:
        notes.append(f"bars whose range was widened, as a price lay outside it by rounding: {widened}")
    return Bars(
        close_ns=table.close_ns,
        open=prices["open"],
        high=high,
        low=low,
        close=prices["close"],
        volume=table.columns.get("volume"),
        price_step=_price_step([column[-_STEP_ROWS:] for column in stack]),
        notes=tuple(notes),
    )


def _price_step(tails: Sequence[NDArray[np.float64]]) -> Decimal:
    """One unit of the last decimal place in use: a double prints as the shortest number that it can stand for."""
    exponents = (Decimal(repr(price)).normalize().as_tuple().exponent for tail in tails for price in tail.tolist())
    decimals = max(-exponent for exponent in exponents if isinstance(exponent, int))
    return Decimal(1).scaleb(-min(max(decimals, 0), _STEP_DECIMALS_MAX))
