"""The markets of a session: opened at the beginning, and where the last process stopped."""

from contextlib import aclosing

import pytest

from agents.domain import Bar
from agents.errors import BadBars, ConfigError, LinkLost
from graph.config import load_settings
from graph.resilience.virtual import VirtualClock
from graph.session.history import FileHistory
from graph.session.host import Terms
from graph.session.market import Source, opened, rest_of
from tests.graph.session.floor import PERIOD_NS, START_NS, SYMBOL
from tests.graph.session.test_history import bar_file, quote_file


class TestSource:
    @pytest.mark.parametrize(
        ("text", "kind", "where"),
        [
            ("sim", "sim", ""),
            ("replay:/a/b.csv", "replay", "/a/b.csv"),
            ("ws:wss://stream.binance.com:9443/", "ws", "wss://stream.binance.com:9443"),
            ("ws://127.0.0.1:9010", "ws", "ws://127.0.0.1:9010"),
        ],
    )
    def test_what_a_feed_names(self, text, kind, where):
        assert Source.of(text) == Source(kind, where)
        assert Source.of(str(Source.of(text))) == Source.of(text), "as it is kept with the run"

    @pytest.mark.parametrize(
        "text", ["", "sims", "sim:7", "replay", "replay:", "ws", "ws:http://x", "http://x", "file.csv"]
    )
    def test_what_names_nothing(self, text):
        with pytest.raises(ConfigError, match="nothing was run; write sim, replay:FILE or ws:URL"):
            Source.of(text)

    def test_a_path_is_kept_from_where_it_was_given(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert Source.of("replay:bars.csv").where == str(tmp_path / "bars.csv")

    def test_requests_go_to_the_same_host(self):
        assert rest_of("ws://127.0.0.1:9010") == "http://127.0.0.1:9010"
        assert rest_of("wss://a.b:443/x") == "https://a.b:443"


def told(settings, feed, count, **options):
    """The opened market, and its first events."""

    async def read():
        async with opened(settings, Terms(SYMBOL, feed, 7, 1.0, None), **options) as found:
            events = []
            async with aclosing(found.stream.events()) as incoming:
                async for event in incoming:
                    events.append((event, found.clock.now_ns()))
                    if len(events) >= count:
                        break
            return found, events

    with VirtualClock(1) as clock:
        return clock.run(read())


@pytest.fixture
def settings(tmp_path):
    return load_settings(None, home=tmp_path / "home", window=200)


class TestSimulated:
    def test_a_session_that_goes_on_sees_the_same_market_from_where_it_stopped(self, settings):
        _, whole = told(settings, "sim", 3_000, began_ns=START_NS)
        reached_ns = START_NS + 70 * 10**9
        found, later = told(settings, "sim", 500, began_ns=START_NS, reached_ns=reached_ns)
        assert [event for event, _ in later] == [event for event, _ in whole if time_of(event) > reached_ns][:500]
        assert found.view.as_of_ns == START_NS + PERIOD_NS, "the bar that closed before it stopped is in its window"
        assert later[0][1] >= reached_ns


def time_of(event):
    return event.close_ns if isinstance(event, Bar) else event.time_ns


class TestReplayed:
    def test_bars_come_after_those_that_are_history_at_their_own_time(self, settings, tmp_path):
        path = bar_file(tmp_path / "bars.csv", 300)
        found, events = told(settings, f"replay:{path}", 10)
        first = events[0][0]
        assert first.close_ns == found.view.as_of_ns + PERIOD_NS
        assert len(found.view) == 150
        assert all(at_ns == event.close_ns for event, at_ns in events)
        assert found.settings.bar_period == 60

    def test_it_goes_on_where_it_stopped(self, settings, tmp_path):
        path = bar_file(tmp_path / "bars.csv", 300)
        _, whole = told(settings, f"replay:{path}", 20)
        found, later = told(settings, f"replay:{path}", 5, reached_ns=whole[9][0].close_ns)
        assert [event for event, _ in later] == [event for event, _ in whole[10:15]]
        assert found.view.as_of_ns == whole[9][0].close_ns

    def test_the_period_is_that_of_the_file(self, settings, tmp_path):
        path = tmp_path / "daily.csv"
        rows = "".join(f"{1_600_000_000 + 86_400 * n},100,101,99,100,10\n" for n in range(300))
        path.write_text("timestamp,open,high,low,close,volume\n" + rows)
        found, _ = told(settings, f"replay:{path}", 1)
        assert found.settings.bar_period == 86_400

    def test_quotes_bring_their_bars(self, settings, tmp_path):
        path = quote_file(tmp_path / "quotes.csv", 400)
        found, events = told(settings, f"replay:{path}", 20)
        bars = [event for event, _ in events if isinstance(event, Bar)]
        known = {bar.close_ns: bar for bar in FileHistory.read(path, SYMBOL, settings).bars}
        assert bars[0].close_ns == found.view.as_of_ns + PERIOD_NS
        assert bars == [known[bar.close_ns] for bar in bars], "the first one is whole, too"

    def test_a_file_that_is_none(self, settings, tmp_path):
        with pytest.raises(BadBars):
            told(settings, f"replay:{tmp_path / 'none.csv'}", 1)


class TestExchange:
    def test_bars_that_an_exchange_has_none_of(self, tmp_path):
        settings = load_settings(None, home=tmp_path, bar_period=61)
        with pytest.raises(ConfigError, match="bar_period is 61 s, and an exchange has bars of 1s, 1m"):
            told(settings, "ws:ws://127.0.0.1:1", 1)

    async def test_one_that_cannot_be_reached_is_named(self, settings):
        with pytest.raises(LinkLost, match=r"ws://127.0.0.1:1 gave no bars of BTCUSDT .*no session was begun"):
            async with opened(settings, Terms(SYMBOL, "ws:ws://127.0.0.1:1", 7, 1.0, None)):
                pass
