import math
import re
from dataclasses import fields, replace
from decimal import Decimal
from pathlib import Path

import pytest

from agents.domain import Side
from agents.errors import ConfigError, InvalidValue
from agents.risk import Proposal, RiskLimits, explain_limits, pre_trade_checks

NAMES = [each.name for each in fields(RiskLimits)]
NUMBERS = [name for name in NAMES if name != "restricted"]
AT_MOST = {name: 1 for name in NUMBERS if "share" in name or name in {"participation_max", "volatility_max"}} | {
    "concentration_share_max": 10,  # a position may be bought with borrowed money
    "gross_share_max": 10,
    "spread_bps_max": 10_000,
}
DOC = (Path(__file__).parents[3] / "docs" / "risk.md").read_text(encoding="utf-8")


def _part(begin, end):
    return DOC.partition(begin)[2].partition(end)[0]


def test_the_defaults_are_limits():
    assert all(getattr(RiskLimits(), name) is None or getattr(RiskLimits(), name) > 0 for name in NUMBERS)
    assert RiskLimits().restricted == ()


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "bad",
    [0, -1, math.nan, math.inf, "1", True, False, Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), [], 10**5000],
    ids=lambda bad: repr(bad)[:10] if not isinstance(bad, int) or bad < 9 else "huge",
)
def test_a_limit_that_cannot_be_checked_against_is_refused(name, bad):
    with pytest.raises(ConfigError, match=f"risk limit {name} is") as caught:
        replace(RiskLimits(), **{name: bad})
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", NUMBERS)
def test_only_the_absolute_cap_may_be_left_out(name):
    if name == "quantity_max":
        assert replace(RiskLimits(), quantity_max=None).quantity_max is None
    else:
        with pytest.raises(ConfigError, match=name):
            replace(RiskLimits(), **{name: None})


@pytest.mark.parametrize(("name", "most"), AT_MOST.items())
def test_a_limit_that_would_hold_nothing_is_refused(name, most):
    assert getattr(replace(RiskLimits(), **{name: most}), name) == most
    with pytest.raises(ConfigError, match=f"at most {most}"):
        replace(RiskLimits(), **{name: most * 1.01})


def test_a_share_is_not_written_in_percent():
    with pytest.raises(ConfigError, match=r"a share of 30 % is written 0\.3"):
        RiskLimits(daily_loss_share_max=3)


@pytest.mark.parametrize("name", ["rate_count_max", "reject_streak_max"])
def test_orders_are_counted_in_whole_numbers(name):
    assert getattr(replace(RiskLimits(), **{name: Decimal("3.0")}), name) == 3
    with pytest.raises(ConfigError, match="whole numbers"):
        replace(RiskLimits(), **{name: 2.5})


@pytest.mark.parametrize("name", NUMBERS)
def test_a_limit_has_its_own_type_however_it_was_given(name):
    """The checks multiply them with floats, which decimals refuse to be."""
    for given in (1, 1.0, Decimal(1)):
        assert type(getattr(replace(RiskLimits(), **{name: given}), name)) is type(getattr(RiskLimits(), name) or 1.0)


def test_a_step_is_what_was_printed():
    assert RiskLimits(quantity_step=0.1).quantity_step == Decimal("0.1")


def test_a_cap_below_one_step_would_stop_everything():
    assert RiskLimits(quantity_max=0.5, quantity_step=Decimal("0.5")).quantity_max == 0.5
    with pytest.raises(ConfigError, match=r"quantity_max is 0\.4, below one quantity_step of 0\.5"):
        RiskLimits(quantity_max=0.4, quantity_step=Decimal("0.5"))


class TestRestricted:
    def test_is_a_list_of_symbols_in_any_case_and_order(self):
        assert RiskLimits(restricted=["gme", "AMC", "Gme"]).restricted == ("AMC", "GME")
        assert RiskLimits(restricted={"BTC/USD"}).restricted == ("BTC/USD",)

    @pytest.mark.parametrize("bad", ["GME", None, 5, {"GME": 1}, 10**5000], ids=lambda bad: str(type(bad)))
    def test_what_is_no_list_is_refused(self, bad):
        with pytest.raises(ConfigError, match="restricted"):
            RiskLimits(restricted=bad)

    @pytest.mark.parametrize("bad", ["", "G ME", 5, None])
    def test_what_is_no_symbol_would_restrict_nothing(self, bad):
        with pytest.raises(InvalidValue, match="is not a symbol"):
            RiskLimits(restricted=("GME", bad))


class TestExplained:
    def test_every_limit_has_its_value_a_unit_and_a_meaning(self):
        limits = RiskLimits(order_notional_max=5, restricted=("GME",))
        told = explain_limits(limits)
        assert [each.name for each in told] == NAMES
        assert all(each.unit and each.meaning and each.value == getattr(limits, each.name) for each in told)

    def test_the_document_has_every_limit_with_its_default(self):
        table = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", _part("## Limits", "## What"), flags=re.MULTILINE))
        usual = {each.name: each.value for each in explain_limits(RiskLimits())}
        assert list(table) == NAMES
        for name, text in table.items():
            number = text.replace(",", "").split()[0]
            assert usual[name] in {None, ()} if number == "none" else float(number) == float(usual[name]), name

    def test_the_document_has_every_check_in_its_order(self):
        checks = pre_trade_checks(Proposal("A", Side.BUY, 1, 1, 0, 1, 0, "24/7", 0, 1), RiskLimits())
        rows = re.findall(r"^\| \d+ \| `(\w+)` ", _part("## Checks", "## Hours"), flags=re.MULTILINE)
        assert rows == [check.name for check in checks]
