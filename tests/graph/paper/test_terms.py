"""The paper broker's terms: what does not make sense is refused, and chance is drawn from the seed."""

from dataclasses import replace
from decimal import Decimal

import pytest

from agents.errors import ConfigError
from graph.config import load_settings
from graph.paper import PaperTerms

MS_NS = 1_000_000


@pytest.mark.parametrize(
    "bad",
    [
        *(
            {name: Decimal(bad)}
            for name in ("slippage_bps", "spread_bps", "taker_fee_bps")
            for bad in ("-1", "1001", "NaN")
        ),
        {"maker_fee_bps": Decimal("Infinity")},
        *({"participation": Decimal(bad)} for bad in ("0", "-0.1", "1.01", "sNaN")),
        *({"expiry_hours": Decimal(bad)} for bad in ("0", "-1", "8785")),
        {"latency_ms_min": -1},
        {"latency_ms_min": 501},
        {"latency_ms_max": 60_001},
    ],
    ids=str,
)
def test_terms_by_which_nothing_can_be_filled_are_refused(bad):
    with pytest.raises(ConfigError, match="nothing was opened") as refusal:
        PaperTerms(**bad)
    assert "\n" not in str(refusal.value)


def test_makers_may_get_a_rebate():
    assert PaperTerms(maker_fee_bps=Decimal(-1)).maker_fee_bps == -1


def test_latency_is_the_same_whenever_it_is_asked_for_and_spread_over_its_bounds():
    terms = PaperTerms(latency_ms_min=50, latency_ms_max=60, seed=3)
    drawn = [terms.latency_ns("order", f"hf{number}") for number in range(2_000)]
    assert drawn == [terms.latency_ns("order", f"hf{number}") for number in range(2_000)]
    assert 50 * MS_NS <= min(drawn) < 50.1 * MS_NS
    assert 59.9 * MS_NS < max(drawn) <= 60 * MS_NS
    assert drawn[0] != terms.latency_ns("cancel", "hf0") != replace(terms, seed=4).latency_ns("cancel", "hf0")
    assert PaperTerms(latency_ms_min=7, latency_ms_max=7).latency_ns("order", "hf") == 7 * MS_NS


def test_they_are_settings_of_today_and_not_of_a_run(monkeypatch, tmp_path):
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path))
    monkeypatch.setenv("HOLDFAST_PAPER__SLIPPAGE_BPS", "3.5")
    settings = load_settings()
    assert settings.paper == PaperTerms(slippage_bps=Decimal("3.5"))
    assert "paper" not in settings.shaping()
    assert settings.of_run(load_settings().shaping() | {"window": 200}).paper == settings.paper
    (tmp_path / "holdfast.toml").write_text("[paper]\nslipage_bps = 1\n")
    with pytest.raises(ConfigError, match=r"has paper\.slipage_bps, which is no setting"):
        load_settings()
