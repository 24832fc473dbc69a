"""What all price files have in common: the rows of a CSV, times and numbers, and what is said of a bad file."""

import csv
import stat
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import NoReturn, TextIO

from agents.errors import BadBars

__all__ = [
    "TIMES",
    "UNNAMED",
    "Records",
    "bad",
    "check_regular",
    "csv_table",
    "read_number",
    "read_time",
    "refuse_os",
    "short",
]

TIMES = ("date", "time", "datetime", "timestamp")
"""What a column of times may be called."""
UNNAMED = frozenset({"", "index", "unnamed: 0", "__index_level_0__"})
"""What a first column that has no name may be called."""

_LINE_CHARS_MAX = 65_536
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_WITHOUT_ZONE = _EPOCH.replace(tzinfo=None)
_EPOCH_END_NS = 4_102_444_800 * 10**9  # 2100-01-01
_EPOCH_UNIT_NS = {9: 10**9, 10: 10**9, 12: 10**6, 13: 10**6, 15: 10**3, 16: 10**3, 18: 1, 19: 1}

Records = Iterator[tuple[int, Sequence[str]]]
"""Rows, each with the number of the line that it begins on."""

# What is said


def _shown(path: Path) -> str:
    name = str(path)
    return name if name.isprintable() else repr(name)


def short(cell: object, limit: int = 40) -> str:
    """A cell within a line of text: quoted, escaped and cut short."""
    text = cell if isinstance(cell, str) else str(cell)
    return repr(text if len(text) <= limit else text[:limit] + "...")


def bad(path: Path, fact: str, remedy: str, place: str = "") -> BadBars:
    """What is wrong with a file, where, and what to do about it."""
    where = f"{_shown(path)}, {place}" if place else _shown(path)
    return BadBars(f"{where}: {fact}; the file was not used; {remedy}")


def check_regular(path: Path) -> None:
    """Raises BadBars for what is no file that can be read again."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise bad(path, "there is no such file", "check the path") from None
    except (OSError, ValueError) as error:
        refuse_os(path, error)
    if stat.S_ISDIR(mode):
        raise bad(path, "this is a folder, not a file", "name one file in it")
    if not stat.S_ISREG(mode):
        raise bad(path, "this is not a regular file, and a resumed run could not read it again", "save it to a file")


def refuse_os(path: Path, error: Exception) -> NoReturn:
    """Raises BadBars for what the operating system says of a file."""
    if isinstance(error, PermissionError):
        raise bad(path, "it may not be read (permission denied)", "give this user the right to read it") from None
    reason = getattr(error, "strerror", None) or short(str(error), 120)
    raise bad(path, f"it cannot be read ({reason})", "check the path and the disk") from None


# Cells


def read_number(cell: str) -> float:
    """Raises ValueError; what it gives may be NaN or infinite."""
    if "_" in cell:
        raise ValueError(cell)  # float() would take 1_000 for a number, and no price file means that
    return float(cell)


def read_time(cell: str) -> tuple[int, bool]:
    """Nanoseconds UTC, and whether the cell itself said so (an epoch number does). Raises ValueError."""
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


# Lines


def csv_table(path: Path, file: TextIO) -> tuple[Sequence[str], Records]:
    """The names of the columns, and the rows below them.

    Raises:
        BadBars: the file is empty; with a row, that it cannot be read.
    """
    lines = _lines(path, file)
    header = next(lines, "")
    if not header:
        raise bad(path, "it is empty", "it needs a line of column names and one line a bar")
    records = _csv_records(path, chain([header], lines), max(",;\t", key=header.count))
    return next(records)[1], records


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
        raise bad(path, f"the byte 0x{byte:02x} is not UTF-8", remedy, place) from None
    if "\0" in line:
        raise bad(path, "there is a NUL byte, so this is no text file", remedy, place)
    if len(line) == _LINE_CHARS_MAX and line[-1] not in "\r\n":
        raise bad(path, f"it is longer than {_LINE_CHARS_MAX} characters", "give each row a line of its own", place)


def _csv_records(path: Path, lines: Iterator[str], delimiter: str) -> Records:
    """The rows, each with the number of the line that it begins on (a quoted cell may go over several)."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    line = 1
    try:
        for row in reader:
            yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise bad(path, f"it is not CSV ({error})", "look for a quote that is not closed", f"line {line}") from None
