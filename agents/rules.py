"""The rules that values check themselves by: each lets a good value through, and raises InvalidValue for a bad one."""

import math
import re
from collections.abc import Iterable
from decimal import ROUND_DOWN, Context, Decimal
from enum import Enum
from numbers import Integral, Real
from typing import Any, TypeVar

from agents.errors import InvalidValue

__all__ = [
    "check_symbol",
    "column",
    "decimal",
    "finite",
    "member",
    "not_negative",
    "one_line",
    "positive",
    "require",
    "text",
    "towards_zero",
    "tuple_of",
    "whole",
]

_SYMBOL = re.compile(r"[A-Za-z0-9^][A-Za-z0-9._/:^=-]{0,31}")


def check_symbol(symbol: str) -> str:
    """Return the symbol, or raise InvalidValue: 1 to 32 letters, digits and `. _ / : ^ = -`, no space."""
    if not isinstance(symbol, str) or not _SYMBOL.fullmatch(symbol):
        raise InvalidValue(
            f"{symbol!r:.80} is not a symbol; nothing was run for it; "
            "use 1 to 32 letters, digits and . _ / : ^ = - and begin with a letter, a digit or ^"
        )
    return symbol


_DOWN = Context(prec=60, rounding=ROUND_DOWN)


def text(name: str, value: Any) -> None:
    """Text that can be written down anywhere: a str without lone surrogates."""
    if not isinstance(value, str):
        raise InvalidValue(f"{name} is a {type(value).__name__}, and must be a str")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidValue(f"{name} has characters that cannot be written down ({value!r:.60})") from None


def towards_zero(quantity: Decimal, step: Decimal) -> Decimal:
    """The quantity in whole steps, towards zero: rounding must never make an order or a position larger."""
    return _DOWN.multiply(_DOWN.divide(quantity, step).to_integral_value(rounding=ROUND_DOWN), step)


def require(condition: bool, message: str) -> None:
    if not condition:
        raise InvalidValue(message)


def finite(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    try:
        number = float(value) if isinstance(value, Real) else math.nan
    except OverflowError:
        number = math.nan
    if not (math.isfinite(number) and low <= number <= high):
        raise InvalidValue(f"{name} is {value!r:.80}, and must be a number in [{low}, {high}]")
    return number


def whole(name: str, value: Any, low: int | None = None) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or (low is not None and value < low):
        raise InvalidValue(f"{name} is {value!r:.80}, and must be a whole number{'' if low is None else f' >= {low}'}")


def decimal(name: str, value: Any) -> None:
    if not (isinstance(value, Decimal) and value.is_finite()):
        raise InvalidValue(f"{name} is {value!r:.80}, and must be a finite Decimal")


def positive(name: str, value: Decimal) -> None:
    decimal(name, value)
    require(value > 0, f"{name} is {value}, and must be above 0")


def not_negative(name: str, value: Decimal) -> None:
    decimal(name, value)
    require(value >= 0, f"{name} is {value}, and must not be below 0")


_Member = TypeVar("_Member", bound=Enum)


def member(kind: type[_Member], value: Any) -> _Member:
    """The enum's member; a value that came back from disk or from a caller as a plain one becomes it."""
    try:
        return kind(value)
    except (ValueError, ArithmeticError):
        raise InvalidValue(f"{value!r:.80} is no {kind.__name__}; use one of {', '.join(map(repr, kind))}") from None


def tuple_of(name: str, values: Any, kind: type) -> tuple[Any, ...]:
    if not (isinstance(values, list | tuple) and all(isinstance(value, kind) for value in values)):
        raise InvalidValue(f"{name} is {values!r:.80}, and must be a tuple of {kind.__name__}")
    return tuple(values)


def column(name: str, values: Iterable[Any], kind: type[int] | type[float]) -> tuple[Any, ...]:
    """A column of plain ints or floats: numpy's own numbers would not survive the checkpoint."""
    try:
        column = tuple(values)
        fits = all(issubclass(each, Integral if kind is int else Real) for each in set(map(type, column)))
        require(fits, f"{name} has a value that is not {'a whole' if kind is int else 'a'} number")
        return tuple(map(kind, column))
    except (TypeError, OverflowError) as error:
        raise InvalidValue(f"{name} is not a column of numbers ({error})") from None


def one_line(name: str, text: Any) -> None:
    """Control characters are refused: one of them separates the parts of an id, which must stay unique."""
    if not (isinstance(text, str) and text and text.isprintable()):
        raise InvalidValue(f"{name} is {text!r:.80}, and must be a line of text")
