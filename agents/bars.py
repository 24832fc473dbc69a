"""Reading price files: CSV or Parquet in, columns that can be trusted out, or one clear line that says what is wrong.

Nothing is repaired and nothing is left out: corrupt data is worse than no data. The two things that are taken for
granted, and told in `Bars.notes`, are that times without a zone are UTC, and that an open or close which lies outside
[low, high] by no more than floating-point noise belongs to the range.
"""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from agents.errors import BadBars
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

__all__ = ["Bars", "read_bars"]

_PRICES = ("open", "high", "low", "close")
_BARS_MAX = 5_000_000
_NOISE = 1e-9  # relative: far above the rounding of a double, far below the price step of any market
_STEP_ROWS = 512
_STEP_DECIMALS_MAX = 8


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
    check_regular(path)
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


def _bad_cell(path: Path, place: str, name: str, cell: object) -> BadBars:
    if not str(cell).strip():
        return bad(path, f"{name} is empty", "fill it in or remove the bar", place)
    if name in (*_PRICES, "volume"):
        remedy = "write it with a decimal point and no thousands separator"
        return bad(path, f"{name} {short(cell)} is not a number", remedy, place)
    fact = f"{name} {short(cell)} is not a time between 1850 and 2100"
    return bad(path, fact, "write times as 2004-08-19, 2004-08-19T14:30:00+00:00 or epoch numbers", place)


# Header and cells


def _locate(path: Path, names: Sequence[str]) -> _Columns:
    """Find the needed columns; several candidates for one are refused, because taking the first would be a guess."""
    known = [name.strip().casefold() for name in names]
    wanted = (*_PRICES, *TIMES, "volume")
    for name in wanted:
        if known.count(name) > 1:
            raise bad(path, f"{known.count(name)} columns are called {name!r}", "keep one of them")
    times = [name for name in TIMES if name in known]
    if len(times) > 1:
        raise bad(path, f"several columns hold a time: {', '.join(times)}", "keep the one with the whole date and time")
    _check_missing(path, names, known, bool(times))
    at = known.index(times[0]) if times else 0
    values = {name: known.index(name) for name in (*_PRICES, "volume") if name in known}
    return _Columns(at, times[0] if times else "date", values)


def _check_missing(path: Path, names: Sequence[str], known: Sequence[str], has_time: bool) -> None:
    missing = [name for name in _PRICES if name not in known]
    if len(missing) == 4 and all(any(name.startswith(side) for name in known) for side in ("bid", "ask")):
        raise bad(path, "these are quotes (bid and ask), not bars", "aggregate them into bars first")
    if not has_time and not (known and known[0] in UNNAMED):
        missing.insert(0, f"date (or {', '.join(TIMES[1:])})")
    if missing:
        found = ", ".join(short(name, 24) for name in names[:12]) + (", ..." if len(names) > 12 else "") or "none"
        raise bad(path, f"no column {', '.join(missing)}; found {found}", "the first line must name the columns")


# CSV


def _read_csv(path: Path) -> _Table:
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            return _parse_csv(path, file)
    except OSError as error:
        refuse_os(path, error)


def _parse_csv(path: Path, file: TextIO) -> _Table:
    names, records = csv_table(path, file)
    return _parse_rows(path, records, _locate(path, names), len(names), "line")


def _parse_rows(path: Path, records: Records, columns: _Columns, width: int, word: str) -> _Table:
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
            time_ns, has_zone = read_time(row[columns.time])
            times.append(time_ns)
            for column, at in targets:
                column.append(read_number(row[at]))
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
        raise bad(path, fact, "correct or remove the line", place)


def _too_many(path: Path) -> BadBars:
    return bad(path, f"it holds more than {_BARS_MAX:,} bars", "give a shorter span or longer bars")


def _zone_of_first(path: Path, word: str, place: int, places: Sequence[int], zoned: bool) -> bool:
    """The first bar settles whether times carry a zone. A later one that differs is refused: it may be hours off."""
    if not places:
        return zoned
    fact = f"the time carries {'a' if zoned else 'no'} zone, and that of {word} {places[0]} does{' not' * zoned}"
    raise bad(path, fact, "write all times with a zone, or none", f"{word} {place}")


def _first_bad_cell(path: Path, place: str, row: Sequence[str], columns: _Columns) -> BadBars:
    try:
        read_time(row[columns.time])
    except ValueError:
        return _bad_cell(path, place, columns.time_name, row[columns.time])
    for name, at in columns.cells.items():
        try:
            read_number(row[at])
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
        raise bad(path, "reading Parquet needs pyarrow", "run: pip install 'holdfast[parquet]'") from None
    try:
        rows = pq.read_metadata(path).num_rows
        frame = pd.DataFrame() if rows > _BARS_MAX else pd.read_parquet(path, engine="pyarrow")
    except PermissionError as error:
        refuse_os(path, error)
    except Exception as error:  # noqa: BLE001 (a damaged file makes pyarrow raise almost anything)
        reason = short(" ".join(str(error).split()), 120)
        raise bad(path, f"it is not a readable Parquet file ({reason})", "write it again") from None
    if rows > _BARS_MAX:
        raise _too_many(path)
    levels = [] if isinstance(frame.index, pd.RangeIndex) else range(frame.index.nlevels)
    index = [(str(frame.index.names[at] or ""), frame.index.get_level_values(at).to_numpy()) for at in levels]
    return index + [(str(name), frame.iloc[:, at].to_numpy()) for at, name in enumerate(frame.columns)]


# The rules that every file must keep


def _checked(path: Path, table: _Table, minimum: int) -> Bars:
    count = len(table.close_ns)
    if count == 0:
        raise bad(path, "it has column names and no bars", f"give at least {minimum} bars")
    faults = [*_value_faults(table.columns), *_time_faults(table)]
    if faults:
        row, fact, remedy = min(faults, key=lambda fault: fault[0])
        raise bad(path, fact, remedy, f"{table.place_word} {table.places[row]}")
    if count < minimum:
        raise bad(path, f"it holds {count} bars, and {minimum} are needed", "give a longer history")
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
