import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.risk.number import exact, number

NONE = [None, "1", "", True, False, [], b"1", 1j, math.nan, math.inf, -math.inf, 10**400, 10**5000]
NONE += [Decimal(text) for text in ("NaN", "sNaN", "Infinity", "-Infinity", "1e999", "-1e999999")]


@pytest.mark.parametrize("value", NONE, ids=lambda value: str(type(value)))
def test_what_is_none_is_nan(value):
    assert math.isnan(number(value))
    assert exact(value).is_nan()


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**300), 10**300))
def test_floats_and_integers_stay_what_they_are(value):
    assert number(value) == float(value)
    assert float(exact(value)) == float(value)


def test_exact_has_the_digits_as_they_are_printed():
    assert exact(0.3) - exact(0.1) == exact(0.2)
    assert exact(2**60 + 1) == 2**60 + 1
    assert exact(Decimal("0.10000000000000000001")) == Decimal("0.10000000000000000001")
