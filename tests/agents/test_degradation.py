import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.degradation import level_of, too_many_missing


@pytest.mark.parametrize(
    ("answered", "asked", "level"),
    [(10, 10, 0), (8, 10, 0), (7, 10, 1), (5, 10, 1), (4, 10, 2), (0, 10, 2), (0, 0, 0), (4, 5, 0)],
)
def test_levels_change_below_80_and_below_50_percent(answered, asked, level):
    assert level_of(answered, asked) == level


@pytest.mark.parametrize(
    ("failed", "required", "critical"), [(3, 10, False), (4, 10, True), (1, 3, True), (0, 0, False), (1, 4, False)]
)
def test_more_than_30_percent_of_the_required_is_critical(failed, required, critical):
    assert too_many_missing(failed, required) is critical


@given(st.integers(1, 400))
def test_thresholds_are_exact_at_every_size(tens):
    asked = 10 * tens
    assert not too_many_missing(3 * tens, asked)
    assert too_many_missing(3 * tens + 1, asked)
    assert (level_of(8 * tens, asked), level_of(8 * tens - 1, asked)) == (0, 1)
    assert (level_of(5 * tens, asked), level_of(5 * tens - 1, asked)) == (1, 2)
