"""From whatever a caller has to a number that can be compared."""

import math
from decimal import Decimal
from typing import Any, TypeAlias

__all__ = ["Number", "exact", "number"]

Number: TypeAlias = int | float | Decimal


def number(value: Any) -> float:
    """A finite float, or NaN for whatever is none: text, None, a truth value, and what is beyond all floats."""
    if type(value) is float:
        return value if math.isfinite(value) else math.nan
    try:
        found = float(value) if isinstance(value, int | float | Decimal) and not isinstance(value, bool) else math.nan
    except (OverflowError, ValueError):  # an integer beyond all floats, a signalling NaN
        return math.nan
    return found if math.isfinite(found) else math.nan


def exact(value: Any) -> Decimal:
    """The number in the digits that are printed: 0.3 is three tenths, and 0.1 and 0.2 close it to nothing."""
    found = number(value)
    return Decimal(str(found)) if math.isnan(found) or isinstance(value, float) else Decimal(value)
