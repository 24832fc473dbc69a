import math
from dataclasses import fields, replace
from decimal import Decimal

import pytest

from agents.errors import ConfigError
from agents.risk import RiskLimits

NAMES = [each.name for each in fields(RiskLimits)]


def test_the_defaults_are_limits():
    assert all(getattr(RiskLimits(), name) is None or getattr(RiskLimits(), name) > 0 for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [0, -1, math.nan, math.inf, "1", Decimal("NaN"), Decimal("Infinity"), []], ids=repr)
def test_a_limit_that_cannot_be_checked_against_is_refused(name, bad):
    with pytest.raises(ConfigError, match=name):
        replace(RiskLimits(), **{name: bad})


@pytest.mark.parametrize("name", NAMES)
def test_only_the_absolute_cap_may_be_left_out(name):
    if name == "quantity_max":
        assert replace(RiskLimits(), quantity_max=None).quantity_max is None
    else:
        with pytest.raises(ConfigError, match=name):
            replace(RiskLimits(), **{name: None})
