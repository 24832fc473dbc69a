import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.bars import Bars
from agents.errors import InvalidValue
from agents.market import Regime, regimes, simulate

SEEDS = range(60)
HOUR_NS = 3_600 * 10**9
KNOWN_CLOSES = [129.15, 128.7, 128.55]
KNOWN_DIGEST = "c043670a98a10fee"


def digest(bars: Bars) -> str:
    columns = (bars.close_ns, bars.open, bars.high, bars.low, bars.close, bars.volume)
    return hashlib.sha256(b"".join(column.tobytes() for column in columns)).hexdigest()[:16]


def log_returns(bars: Bars) -> np.ndarray:
    """From each close to the next; the first from its own open."""
    return np.diff(np.log(bars.close), prepend=np.log(bars.open[0]))


def mean_by_regime(measure) -> dict[Regime, float]:
    """`measure(bars, mask)` of each regime, averaged over the seeds."""
    sums = dict.fromkeys(Regime, 0.0)
    for seed in SEEDS:
        bars, where = simulate("BTC/USD", seed), np.array(regimes("BTC/USD", seed))
        for regime in Regime:
            sums[regime] += measure(bars, where == regime) / len(SEEDS)
    return sums


class TestSameSeedSameBars:
    def test_known_bars(self):
        """Pins the first bars, so that another numpy or machine that makes other bars is found out."""
        bars = simulate("BTC/USD", 7)
        assert bars.close[:3].tolist() == KNOWN_CLOSES
        assert digest(bars) == KNOWN_DIGEST

    def test_in_another_process_with_another_hash_seed(self):
        code = (
            "from tests.agents.test_market import digest, simulate, regimes;"
            "print(digest(simulate('BTC/USD', 7)), len(set(regimes('BTC/USD', 7))))"
        )
        for hash_seed in ("1", "2"):
            answer = subprocess.run(
                [sys.executable, "-c", code],
                capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": "."},
            )  # fmt: skip
            assert answer.stdout.split() == [KNOWN_DIGEST, "5"]

    def test_seed_and_symbol_both_count(self):
        digests = {digest(simulate(symbol, seed)) for symbol in ("A", "B", "A1") for seed in (1, 11, -1)}
        assert len(digests) == 9


class TestBarsAreCredible:
    @given(seed=st.integers(-(2**63), 2**63), symbol=st.sampled_from(["A", "BTC/USD", "EURUSD=X"]))
    @settings(deadline=None)
    def test_rules_of_a_bar(self, seed, symbol):
        bars = simulate(symbol, seed)
        assert len(bars) == len(regimes(symbol, seed)) == 512
        assert (bars.low > 0).all()
        assert (bars.low <= np.minimum(bars.open, bars.close)).all()
        assert (bars.high >= np.maximum(bars.open, bars.close)).all()
        assert bars.volume is not None
        assert (bars.volume >= 1).all()
        assert (bars.volume == np.round(bars.volume)).all()
        for column in (bars.open, bars.high, bars.low, bars.close):
            assert all(price == round(price, 2) for price in column.tolist())
        assert 5 < bars.low.min() < bars.high.max() < 2000

    def test_times_end_with_2025(self):
        bars = simulate("A", 1, count=3, period_ns=60 * 10**9)
        assert bars.close_ns.tolist() == [1_767_225_600 * 10**9 - back * 60 * 10**9 for back in (2, 1, 0)]
        assert simulate("A", 1).close_ns[-1] == 1_767_225_600 * 10**9

    def test_start_prices_are_spread_over_20_to_500(self):
        starts = np.array([simulate(f"S{at}", 1, count=1).open[0] for at in range(300)])
        assert 17 < starts.min() < 30
        assert 350 < starts.max() < 600

    @pytest.mark.parametrize("period_ns", [1, 60 * 10**9, 24 * HOUR_NS])
    def test_any_period_and_length_stays_in_a_sane_range(self, period_ns):
        bars = simulate("A", 0, count=20_000, period_ns=period_ns)
        assert np.abs(np.log(bars.close / bars.open[0])).max() < 2.51, "12 times up or down, and no further"

    def test_fat_tails(self):
        kurtosis = []
        for seed in SEEDS:
            where = np.array(regimes("A", seed))
            returns = log_returns(simulate("A", seed))[np.isin(where, ["trend up", "trend down", "range"])]
            kurtosis.append(((returns - returns.mean()) ** 4).mean() / returns.var() ** 2)
        assert np.mean(kurtosis) > 4, "a normal distribution has 3"

    def test_volatility_clusters(self):
        together = []
        for seed in SEEDS:
            where = np.array(regimes("A", seed))
            sizes = np.abs(log_returns(simulate("A", seed)))[np.isin(where, ["trend up", "trend down"])]
            together.append(np.corrcoef(sizes[1:], sizes[:-1])[0, 1])
        assert np.mean(together) > 0.05

    def test_symbols_move_on_their_own(self):
        moves = [log_returns(simulate(f"S{at}", 1)) for at in range(20)]
        assert np.abs(np.corrcoef(moves) - np.eye(20)).max() < 0.5


class TestRegimes:
    def test_every_512_bars_hold_all_five(self):
        assert all(set(regimes("A", seed)) == set(Regime) for seed in SEEDS)

    def test_a_shorter_history_is_in_the_same_regimes(self):
        assert regimes("A", 1, 100) == regimes("A", 1, 512)[:100]

    def test_trends_trend_crashes_crash_and_ranges_stay(self):
        totals = mean_by_regime(lambda bars, mask: log_returns(bars)[mask].sum())
        assert totals[Regime.TREND_UP] > 0.2
        assert totals[Regime.TREND_DOWN] < -0.15
        assert totals[Regime.CRASH] < -0.1
        assert abs(totals[Regime.RANGE]) < 0.02

    def test_crashes_are_wild_and_busy_and_ranges_calm(self):
        spread = mean_by_regime(lambda bars, mask: log_returns(bars)[mask].std())
        volume = mean_by_regime(lambda bars, mask: bars.volume[mask].mean() / bars.volume.mean())
        assert spread[Regime.RANGE] < spread[Regime.TREND_UP] < spread[Regime.CRASH] / 1.5
        assert volume[Regime.RANGE] < volume[Regime.TREND_UP] < volume[Regime.CRASH] / 2

    def test_only_gaps_open_away_from_the_close_before(self):
        for seed in SEEDS:
            bars, where = simulate("A", seed), np.array(regimes("A", seed))
            jumps = np.abs(np.log(bars.open[1:] / bars.close[:-1]))
            gap = where[1:] == Regime.GAP
            assert (jumps[~gap] == 0).all()
            assert (jumps[gap] > 0.03).all()


class TestRefuses:
    @pytest.mark.parametrize("count", [0, -1, 1_000_001])
    def test_count(self, count):
        with pytest.raises(InvalidValue, match="count is"):
            simulate("A", 1, count=count)
        with pytest.raises(InvalidValue, match="count is"):
            regimes("A", 1, count)

    @pytest.mark.parametrize("period_ns", [0, 24 * HOUR_NS + 1])
    def test_period(self, period_ns):
        with pytest.raises(InvalidValue, match="period_ns is"):
            simulate("A", 1, period_ns=period_ns)

    def test_symbol(self):
        with pytest.raises(InvalidValue, match="is not a symbol"):
            simulate("../A", 1)
        with pytest.raises(InvalidValue, match="is not a symbol"):
            regimes("", 1)
