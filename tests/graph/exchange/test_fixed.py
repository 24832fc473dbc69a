"""Numbers in hundred-millionths."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graph.exchange.fixed import SCALE, fee_of, notional, parse, show


@given(st.integers(0, 10**20 - 1))
def test_what_is_shown_is_read_again(value):
    assert parse(show(value)) == value
    assert Decimal(show(value)) * SCALE == value


def test_a_loss_is_shown_with_its_sign():
    assert show(-150_000_000) == "-1.50000000"


@pytest.mark.parametrize("text", ["1", "1.0", "1.00000000", "1.0000000000", "0001"])
def test_one_is_one_however_it_is_written(text):
    assert parse(text) == SCALE


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", "1e3", "NaN", "inf", "1.", ".5", "1,5", " 1", "1_0", "\u0661", "0.000000001", "1" * 13]
)
def test_what_is_no_number_is_refused(text):
    with pytest.raises(ValueError):
        parse(text)


def test_money_is_rounded_towards_the_client():
    assert notional(parse("0.01"), parse("0.00001")) == parse("0.0000001")
    assert fee_of(999, 10) == 0
    assert fee_of(1_000, 10) == 1
