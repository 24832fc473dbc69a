"""What all analysts of the swarm have in common, who is in it, and how one's own is plugged in."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings

from agents.domain import Finding, MarketView
from agents.errors import ConfigError, InvalidValue
from agents.features import MIN_BARS
from agents.research import DEFAULT_MEMBERS, Breakout, Trend, load_analyst
from tests.agents.research import REAL_FILES, make_view, real_view, rescaled, views, walk

ANALYSTS = [pytest.param(member.analyst, id=member.name) for member in DEFAULT_MEMBERS]


class Contrarian:
    """An analyst of one's own, as a class."""

    name = "contrarian"

    def __call__(self, view: MarketView) -> Finding:
        return Finding(self.name, -1.0, 1.0, "All others are wrong.")


class Demanding:
    name = "demanding"

    def __init__(self, api_key: str) -> None:
        self.api_key = api_key


class Nameless:
    def __call__(self, view: MarketView) -> Finding:
        raise NotImplementedError


def moon_phase(view: MarketView) -> Finding:
    return Finding("moon_phase", 0.1, 0.1, "It wanes.")


async def slow_model(view: MarketView) -> Finding:
    return Finding("slow_model", 0.2, 0.1, "I have thought.")


def BadName(view: MarketView) -> Finding:  # noqa: N802  # the name that is to be refused
    raise NotImplementedError


ready_made = Contrarian()
not_callable = 42


def _check(finding: Finding, name: str) -> None:
    assert finding.analyst == name
    assert -1.0 <= finding.stance <= 1.0
    assert 0.0 <= finding.confidence <= 1.0
    assert finding.rationale.endswith(".")
    assert "\n" not in finding.rationale
    assert "nan" not in finding.rationale
    numbers = [finding.stance, finding.confidence, *finding.evidence.values()]
    assert all(type(number) is float for number in numbers)


class TestEveryAnalyst:
    @pytest.mark.parametrize("analyst", ANALYSTS)
    @settings(max_examples=40, deadline=None)
    @given(view=views())
    def test_is_total_and_bounded(self, analyst, view):
        _check(analyst(view), analyst.name)

    @pytest.mark.parametrize("analyst", ANALYSTS)
    @settings(max_examples=25, deadline=None)
    @given(view=views())
    def test_does_not_know_the_unit_of_money(self, analyst, view):
        here = analyst(view)
        for factor in (1e-5, 3.7, 1e6):
            there = analyst(rescaled(view, factor))
            assert there.stance == pytest.approx(here.stance, abs=1e-6)
            assert there.confidence == pytest.approx(here.confidence, abs=1e-6)

    @pytest.mark.parametrize("analyst", ANALYSTS)
    def test_a_flat_market_is_no_evidence(self, analyst):
        flat = make_view(np.full(MIN_BARS, 0.1), spread=0.0, volume=np.full(MIN_BARS, 5.0), market=np.ones(MIN_BARS))
        finding = analyst(flat)
        assert (finding.stance, finding.confidence) == (0.0, 0.0)

    @pytest.mark.parametrize("analyst", ANALYSTS)
    @pytest.mark.parametrize("prices", [(1e-8, 1e12), (5e-324, 1.7e308)])
    def test_judges_the_most_extreme_prices(self, analyst, prices):
        closes = np.tile(prices, MIN_BARS // 2)
        view = make_view(closes, spread=0.0, volume=np.tile([0.0, 1.7e308], MIN_BARS // 2), market=closes)
        _check(analyst(view), analyst.name)

    @pytest.mark.parametrize("analyst", ANALYSTS)
    def test_refuses_a_window_that_is_too_short(self, analyst):
        with pytest.raises(InvalidValue, match="has 99 bars"):
            analyst(make_view(walk(MIN_BARS - 1)))

    @pytest.mark.parametrize("analyst", ANALYSTS)
    @pytest.mark.parametrize(("name", "period_ns", "calendar"), REAL_FILES)
    def test_has_an_opinion_that_changes_on_real_prices(self, analyst, name, period_ns, calendar):
        found = [analyst(real_view(name, period_ns, calendar, first=first, count=300)) for first in range(0, 1800, 300)]
        for finding in found:
            _check(finding, analyst.name)
        silent = analyst.name == "cross_asset" or (analyst.name == "seasonality" and calendar == "24/7")
        assert (len({finding.stance for finding in found}) == 1) == silent


class TestMembers:
    def test_four_are_required_and_names_are_unique(self):
        names = [member.name for member in DEFAULT_MEMBERS]
        assert len(set(names)) == len(names) == 7
        required = {member.name for member in DEFAULT_MEMBERS if member.required}
        assert required == {"trend", "breakout", "mean_reversion", "volatility"}

    def test_importing_them_is_light(self):
        heavy = "{'pandas', 'torch', 'langgraph', 'langchain_core', 'asyncio', 'sqlalchemy'}"
        script = f"import sys, agents.research, agents.research.synthesis; print({heavy} & set(sys.modules))"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "set()"


class TestLoadAnalyst:
    def test_a_class_is_made_without_arguments(self):
        assert load_analyst("agents.research:Trend") == Trend()
        assert isinstance(load_analyst("agents.research.breakout:Breakout"), Breakout)
        assert load_analyst(f"{__name__}:Contrarian")(make_view([1.0])).stance == -1.0

    def test_an_object_is_taken_as_it_is(self):
        assert load_analyst(f"{__name__}:ready_made") is ready_made

    def test_a_function_has_its_own_name(self):
        analyst = load_analyst(f"{__name__}:moon_phase")
        assert analyst.name == "moon_phase"
        assert analyst(make_view([1.0])).stance == 0.1

    async def test_an_async_function_stays_awaitable(self):
        analyst = load_analyst(f"{__name__}:slow_model")
        assert analyst.name == "slow_model"
        assert (await analyst(make_view([1.0]))).stance == 0.2

    @pytest.mark.parametrize(
        ("path", "fact"),
        [
            ("trend", "is not of the form package.module:attribute"),
            ("agents.research:", "is not of the form"),
            (":Trend", "is not of the form"),
            (".research:Trend", "is not of the form"),
            ("no_such_package_here:thing", r"cannot be imported \(ModuleNotFoundError"),
            ("agents.research:Astrology", "module agents.research has no 'Astrology'"),
            (f"{__name__}:Demanding", r"cannot be made without arguments \(TypeError"),
            (f"{__name__}:not_callable", "is of type int, which cannot be called"),
            (f"{__name__}:Nameless", "has the name None"),
            (f"{__name__}:BadName", "has the name 'BadName', which does not match"),
        ],
    )
    def test_what_cannot_be_used_is_refused_with_its_reason(self, path, fact):
        with pytest.raises(ConfigError, match=fact) as caught:
            load_analyst(path)
        assert "the swarm was not started; name an importable" in str(caught.value)

    def test_a_module_that_breaks_while_it_is_imported_is_a_config_error(self, tmp_path, monkeypatch):
        (tmp_path / "broken_analyst.py").write_text("1 / 0\n")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ConfigError, match="ZeroDivisionError"):
            load_analyst("broken_analyst:thing")
