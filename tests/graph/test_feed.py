import os
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from agents.bars import read_bars
from agents.domain import MarketView
from agents.errors import BadBars, ConfigError, InvalidValue
from agents.market import simulate
from graph import feed as module
from graph.feed import Feed, FileFeed, SimulatedFeed, resolve_data

DATA = Path(os.environ.get("HOLDFAST_DATA") or Path(__file__).parents[2].parent / "shared" / "data")
MONDAY = date(2024, 1, 1)


def save(
    folder: Path, name: str, closes, *, start: int = 0, step: timedelta = timedelta(days=1), volume: str = ""
) -> Path:
    """A file of flat bars, one a `step`, beginning `start` days after Monday 2024-01-01."""
    path = folder / f"{name}.csv"
    begin = np.datetime64(MONDAY + timedelta(days=start), "s")
    rows = [f"{begin + at * np.timedelta64(step)},{c},{c},{c},{c}{volume}" for at, c in enumerate(closes)]
    path.write_text("\n".join(["date,open,high,low,close" + (",volume" if volume else ""), *rows]) + "\n")
    return path


def real(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not in the folder of real price data (HOLDFAST_DATA)")
    return path


def expected_market(own_times: np.ndarray, others: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The index by its definition, bar by bar, with no shortcut: the mean of the members' log returns, added up."""
    index = [1.0]
    for before, now in pairwise(own_times):
        returns = [np.log(closes[times <= now][-1] / closes[times <= before][-1]) for times, closes in others]
        index.append(index[-1] * np.exp(np.mean(returns)))
    return np.array(index)


class TestFileFeed:
    def test_view_is_the_last_window(self, tmp_path):
        path = save(tmp_path, "A", [f"{100 + at}.5" for at in range(300)], volume=",7")
        view = FileFeed({"A": path}, window=200).view("A")
        assert isinstance(view, MarketView)
        assert len(view) == 200
        assert view.close == tuple(200.5 + at for at in range(200))
        assert view.open == view.high == view.low == view.close
        assert view.volume == (7.0,) * 200
        assert view.as_of_ns == read_bars(path).close_ns[-1]
        assert str(view.price_step) == "0.1"
        assert (view.symbol, view.source, view.market) == ("A", str(path), ())

    def test_a_shorter_history_is_given_whole(self, tmp_path):
        view = FileFeed({"A": save(tmp_path, "A", [100] * 120)}, window=512).view("A")
        assert len(view) == 120
        assert view.volume == ()

    def test_period_is_the_usual_distance_and_not_the_mean(self, tmp_path):
        path = save(tmp_path, "A", [100] * 120, step=timedelta(hours=1))
        late = save(tmp_path, "B", [100] * 30, start=60, step=timedelta(hours=1))
        path.write_text(path.read_text() + "\n".join(late.read_text().splitlines()[1:]) + "\n")
        assert FileFeed({"A": path}).view("A").period_ns == 3600 * 10**9

    def test_each_file_is_read_once_and_when_the_feed_is_made(self, tmp_path, monkeypatch):
        reads = []
        monkeypatch.setattr(module, "read_bars", lambda path, minimum: reads.append(path) or read_bars(path, minimum))
        files = {name: save(tmp_path, name, [100] * 120) for name in ("A", "B")}
        feed = FileFeed(files)
        assert reads == list(files.values())
        for path in files.values():
            path.unlink()
        assert feed.view("A") == feed.view("A")
        feed.view("B")
        assert reads == list(files.values())

    def test_only_the_windows_stay_in_memory(self, tmp_path):
        feed = FileFeed({"A": save(tmp_path, "A", [100] * 1000)}, window=10)
        file = feed._files["A"]
        for column, most in [(file.tail.close, 10), (file.tail.close_ns, 10), (file.closes.logs, 80)]:
            assert len(column) == most
            assert column.base is None, "a slice would keep the whole column alive"
        assert file.closes.close_ns.base is None

    def test_a_bad_file_stops_the_start(self, tmp_path):
        files = {"A": save(tmp_path, "A", [100] * 120), "B": save(tmp_path, "B", [100, 0])}
        with pytest.raises(BadBars, match=r"B\.csv, line 3: open is 0\.0"):
            FileFeed(files)

    def test_minimum_is_asked_of_the_file(self, tmp_path):
        path = save(tmp_path, "A", [100] * 50)
        with pytest.raises(BadBars, match="holds 50 bars, and 100 are needed"):
            FileFeed({"A": path})
        assert len(FileFeed({"A": path}, minimum=50).view("A")) == 50
        with pytest.raises(BadBars, match="holds 1 bars, and 2 are needed"):
            FileFeed({"A": save(tmp_path, "A", [100])}, minimum=0)

    def test_notes_are_the_readers(self, tmp_path):
        feed = FileFeed({"A": save(tmp_path, "A", [100] * 120)})
        assert feed.notes("A") == ("120 times carry no time zone and were taken as UTC",)

    def test_unknown_symbol(self, tmp_path):
        feed = FileFeed({"A": save(tmp_path, "A", [100] * 120)})
        for ask in (feed.view, feed.notes):
            with pytest.raises(ConfigError, match=r"no price file was given for 'B' \(there are: A\)"):
                ask("B")

    def test_refuses_a_window_without_period_and_a_key_that_is_no_symbol(self, tmp_path):
        path = save(tmp_path, "A", [100] * 120)
        with pytest.raises(ConfigError, match="a window of 1 bars"):
            FileFeed({"A": path}, window=1)
        with pytest.raises(InvalidValue, match="is not a symbol"):
            FileFeed({"../A": path})

    def test_real_files(self):
        daily, minute = real("goog_daily_2004_2013.csv"), real("btc_perp_1m_2022_01.csv")
        feed: Feed = FileFeed({"GOOG": daily, "BTC/USD": minute})
        stock, coin = feed.view("GOOG"), feed.view("BTC/USD")
        assert (len(stock), stock.period_ns, stock.calendar) == (512, 86_400 * 10**9, "24/5")
        assert (len(coin), coin.period_ns, coin.calendar) == (512, 60 * 10**9, "24/7")
        assert str(stock.last_price) == "806.19"
        assert stock.market == (), "the coin began years later"
        assert coin.market == (1.0,) * 512, "the stock's last close is old, and stays"


class TestCalendar:
    def calendar(self, tmp_path: Path, step: timedelta, count: int = 100, start: int = 0, **options) -> str:
        path = save(tmp_path, "A", [100] * count, start=start, step=step)
        return FileFeed({"A": path}, minimum=2, **options).view("A").calendar

    def test_weekdays_only(self, tmp_path):
        assert self.calendar(tmp_path, timedelta(days=7)) == "24/5"
        assert self.calendar(tmp_path, timedelta(hours=1), count=120) == "24/5", "Monday 00:00 to Friday 23:00"

    def test_one_bar_on_a_saturday(self, tmp_path):
        assert self.calendar(tmp_path, timedelta(days=7), start=5) == "24/7"
        assert self.calendar(tmp_path, timedelta(days=7), start=6) == "24/5", "currencies trade on Sunday evenings"
        assert self.calendar(tmp_path, timedelta(hours=1), count=121) == "24/7", "the last one is Saturday 00:00"

    def test_the_whole_history_counts_and_not_the_window(self, tmp_path):
        path = save(tmp_path, "A", [100] * 3, start=5)
        rest = save(tmp_path, "B", [100] * 100, start=14, step=timedelta(days=7))
        path.write_text(path.read_text() + "\n".join(rest.read_text().splitlines()[1:]) + "\n")
        assert FileFeed({"A": path}, window=50).view("A").calendar == "24/7"

    def test_a_named_one_is_passed_through(self, tmp_path):
        assert self.calendar(tmp_path, timedelta(days=1), calendar="XNYS") == "XNYS"

    def test_before_1970(self, tmp_path):
        path = tmp_path / "old.csv"
        fridays = [date(1969, 1, 3) + timedelta(days=7 * at) for at in range(100)]
        path.write_text("\n".join(["date,open,high,low,close", *(f"{day},1,1,1,1" for day in fridays)]))
        assert FileFeed({"A": path}).view("A").calendar == "24/5"


class TestMarketIndex:
    def walk(self, seed: int, count: int = 150) -> list[float]:
        return np.round(100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.02, count))), 2).tolist()

    def test_equal_weight_index_of_the_others(self, tmp_path):
        walks = {name: self.walk(seed) for seed, name in enumerate("ABCD")}
        feed = FileFeed({name: save(tmp_path, name, walk) for name, walk in walks.items()}, window=120)
        for name in walks:
            view = feed.view(name)
            times = np.array(view.close_ns)
            others = [(times, np.array(walk[-120:])) for other, walk in walks.items() if other != name]
            assert view.market[0] == 1.0
            np.testing.assert_allclose(view.market, expected_market(times, others), rtol=1e-12)

    def test_own_price_is_not_in_it(self, tmp_path):
        files = {"A": save(tmp_path, "A", self.walk(1)), "B": save(tmp_path, "B", [100] * 150)}
        assert FileFeed(files).view("A").market == (1.0,) * 150
        assert FileFeed({"A": files["A"]}).view("A").market == ()

    def test_other_times_are_joined_by_the_last_close_at_or_before(self, tmp_path):
        files = {
            "A": save(tmp_path, "A", self.walk(1), start=3),
            "B": save(tmp_path, "B", self.walk(2, 800), step=timedelta(hours=5)),
            "C": save(tmp_path, "C", self.walk(3, 40), step=timedelta(days=7)),
        }
        feed, bars = FileFeed(files, window=140, minimum=20), {name: read_bars(files[name], 2) for name in files}
        for name, members in (("A", "BC"), ("C", "B")):
            others = [(bars[member].close_ns, bars[member].close) for member in members]
            expected = expected_market(np.array(feed.view(name).close_ns), others)
            np.testing.assert_allclose(feed.view(name).market, expected, rtol=1e-12)

    def test_who_has_far_more_bars_than_are_kept_is_left_out_and_told(self, tmp_path):
        daily = save(tmp_path, "A", self.walk(1, 120))
        for bars_a_day, kept in ((6, True), (12, False)):
            step = timedelta(hours=24 // bars_a_day)
            dense = save(tmp_path, "B", self.walk(2, 120 * bars_a_day), step=step)
            feed = FileFeed({"A": daily, "B": dense}, window=120)
            assert bool(feed.view("A").market) is kept
            assert ("leaves out B" in feed.notes("A")[-1]) is not kept

    def test_nothing_of_the_future_is_in_it(self, tmp_path):
        a, b = self.walk(1), self.walk(2)
        before = FileFeed({"A": save(tmp_path, "A", a), "B": save(tmp_path, "B", b)}).view("A").market
        b[100:] = [price * 5 for price in b[100:]]
        after = FileFeed({"A": save(tmp_path, "A", a), "B": save(tmp_path, "B", b)}).view("A").market
        assert before[:100] == after[:100]
        assert before[100] != after[100]

    def test_who_begins_late_is_left_out_and_told(self, tmp_path):
        files = {
            "A": save(tmp_path, "A", self.walk(1)),
            "B": save(tmp_path, "B", self.walk(2), start=1),
            "C": save(tmp_path, "C", self.walk(3)),
        }
        feed, without = FileFeed(files), FileFeed({name: files[name] for name in "AC"})
        np.testing.assert_allclose(feed.view("A").market, without.view("A").market, rtol=1e-12)
        assert feed.notes("A")[-1].startswith("the market index leaves out B: no close is known")
        assert len(feed.notes("B")) == 1
        assert FileFeed({name: files[name] for name in "AB"}).view("A").market == ()

    def test_a_hundred_symbols_share_one_sum(self, tmp_path, monkeypatch):
        joins = []
        moves = module._Closes.moves
        monkeypatch.setattr(module._Closes, "moves", lambda self, times: joins.append(1) or moves(self, times))
        path = save(tmp_path, "A", self.walk(1))
        feed = FileFeed({f"S{at}": path for at in range(100)}, window=120)
        for at in range(100):
            feed.view(f"S{at}")
        assert len(joins) == 200, "each symbol is joined once for the sum, and once to take its own part out"


class TestSimulatedFeed:
    def test_view_is_the_simulated_market(self):
        feed: Feed = SimulatedFeed(seed=7)
        view, bars = feed.view("BTC/USD"), simulate("BTC/USD", 7)
        assert view.close == tuple(bars.close.tolist())
        assert view.close_ns == tuple(bars.close_ns.tolist())
        assert (len(view), view.period_ns, view.calendar, view.market) == (512, 3600 * 10**9, "24/7", ())
        assert (str(view.price_step), view.source) == ("0.01", "simulated market, seed 7")
        assert feed.view("BTC/USD") == SimulatedFeed(seed=7).view("BTC/USD") != SimulatedFeed(seed=8).view("BTC/USD")

    def test_window_and_notes(self):
        feed = SimulatedFeed(seed=7, window=120)
        assert len(feed.view("A")) == 120
        assert feed.notes("A") == ()
        with pytest.raises(ConfigError, match="a window of 1 bars"):
            SimulatedFeed(seed=7, window=1)

    def test_named_symbols_are_each_others_market(self):
        feed = SimulatedFeed(seed=7, symbols=("A", "B", "C"))
        views = {name: feed.view(name) for name in "ABC"}
        times = np.array(views["A"].close_ns)
        others = [(times, np.array(views[name].close)) for name in "BC"]
        np.testing.assert_allclose(views["A"].market, expected_market(times, others), rtol=1e-12)
        assert feed.view("D").market[0] == 1.0
        assert SimulatedFeed(seed=7, symbols=("A",)).view("A").market == ()

    def test_no_symbol(self):
        with pytest.raises(InvalidValue, match="is not a symbol"):
            SimulatedFeed(seed=7).view("")


class TestResolveData:
    def refusal(self, symbols, data) -> str:
        with pytest.raises(ConfigError) as caught:
            resolve_data(symbols, data)
        assert "\n" not in str(caught.value)
        assert "; nothing was run; " in str(caught.value)
        return str(caught.value)

    def test_pairs_in_order(self, tmp_path):
        a, b = tmp_path / "one.csv", tmp_path / "two.parquet"
        assert resolve_data(["B", "A"], [a, b]) == {"B": a, "A": b}
        assert resolve_data(["A"], [a]) == {"A": a}, "whether there is such a file is for the reader to say"

    def test_without_data(self):
        assert resolve_data(["A"], []) == {}
        assert resolve_data([], []) == {}

    def test_a_folder_by_symbol(self, tmp_path):
        for name in ("GOOG.csv", "BTC-USD.parquet", "X-Y.csv", "EURUSD=X.csv"):
            (tmp_path / name).touch()
        assert resolve_data(["GOOG", "BTC/USD", "X:Y", "EURUSD=X"], [tmp_path]) == {
            "GOOG": tmp_path / "GOOG.csv",
            "BTC/USD": tmp_path / "BTC-USD.parquet",
            "X:Y": tmp_path / "X-Y.csv",
            "EURUSD=X": tmp_path / "EURUSD=X.csv",
        }

    def test_data_without_symbol(self, tmp_path):
        assert "name its symbol by --symbol" in self.refusal([], [tmp_path])

    @pytest.mark.parametrize(("symbols", "files"), [(["A", "B"], 1), (["A"], 2), (["A", "B", "C"], 2)])
    def test_numbers_that_differ(self, tmp_path, symbols, files):
        message = self.refusal(symbols, [tmp_path / f"{at}.csv" for at in range(files)])
        assert message.startswith(f"{len(symbols)} --symbol and {files} --data do not pair up")

    def test_a_symbol_twice(self, tmp_path):
        assert "--symbol A is given 2 times" in self.refusal(["A", "B", "A"], [])

    def test_not_in_the_folder(self, tmp_path):
        assert f"{tmp_path} has no A-B.csv or A-B.parquet" in self.refusal(["A/B"], [tmp_path])

    def test_two_files_for_one_symbol(self, tmp_path):
        (tmp_path / "A.csv").touch()
        (tmp_path / "A.parquet").touch()
        assert "has both A.csv and A.parquet" in self.refusal(["A"], [tmp_path])

    def test_two_symbols_for_one_file(self, tmp_path):
        (tmp_path / "A-B.csv").touch()
        assert "A/B and A-B would both be read from" in self.refusal(["A/B", "A-B"], [tmp_path])

    def test_no_way_out_of_the_folder(self, tmp_path):
        folder = tmp_path / "prices"
        folder.mkdir()
        (tmp_path / "secret.csv").touch()
        (folder / "x").mkdir()
        for symbol in ("../secret", "/secret", "..", "\0"):
            with pytest.raises(InvalidValue, match="is not a symbol"):
                resolve_data([symbol], [folder])
        assert "has no x-..-..-secret.csv" in self.refusal(["x/../../secret"], [folder])

    def test_a_folder_that_may_not_be_looked_at(self, tmp_path, monkeypatch):
        def denied(*args, **kwargs):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "exists", denied)
        assert "Permission denied" in self.refusal(["A"], [tmp_path])

    def test_a_strange_path_stays_one_line(self, tmp_path):
        assert r"a\nb" in self.refusal([], [Path("a\nb")])
