"""What is history before a replay begins; and bars that quotes make."""

from contextlib import aclosing
from decimal import Decimal

import pytest

from agents.clock import ReplayClock
from agents.domain import Bar, Quote
from agents.errors import BadBars
from graph.config import load_settings
from graph.session.history import FileHistory, QuoteBars, WithBars
from graph.stream.replay import ReplayStream
from tests.graph.session.floor import PERIOD_NS, START_NS, SYMBOL, quote


class TestQuoteBars:
    def test_a_bar_has_the_first_the_highest_the_lowest_and_the_last_middle(self):
        made = QuoteBars(SYMBOL, PERIOD_NS)
        prices = [(1, "100"), (20, "103"), (30, "99"), (59, "101")]
        assert [made.take(quote(second, price)) for second, price in prices] == [None] * 4
        assert made.take(quote(60, "102")) == Bar(
            SYMBOL, START_NS + PERIOD_NS, Decimal(100), Decimal(103), Decimal(99), Decimal(101)
        )

    def test_a_minute_without_quotes_has_no_bar(self):
        made = QuoteBars(SYMBOL, PERIOD_NS)
        made.take(quote(1, "100"))
        assert made.take(quote(200, "101")).close_ns == START_NS + PERIOD_NS
        assert made.take(quote(250, "101")).close_ns == START_NS + 4 * PERIOD_NS


@pytest.fixture
def settings(tmp_path):
    return load_settings(None, home=tmp_path / "home")


def bar_file(path, count):
    rows = "".join(f"{1_700_000_000 + 60 * n},100,103,99,{100 + n % 3},10\n" for n in range(count))
    path.write_text("timestamp,open,high,low,close,volume\n" + rows)
    return path


def quote_file(path, minutes, per_minute=2):
    step = 60 // per_minute
    rows = "".join(f"{1_700_000_040 + step * n},{100 + n % 5},{100.5 + n % 5}\n" for n in range(minutes * per_minute))
    path.write_text("timestamp,bid,ask\n" + rows)
    return path


class TestFileHistory:
    def test_the_first_half_is_history_and_six_hundred_bars_at_most(self, tmp_path, settings):
        for count, before in ((200, 100), (1_000, 500), (2_000, 600)):
            history = FileHistory.read(bar_file(tmp_path / "bars.csv", count), SYMBOL, settings)
            assert sum(bar.close_ns <= history.begins_ns for bar in history.bars) == before
            assert (len(history.bars), history.period_ns, history.of_quotes) == (count, PERIOD_NS, False)

    def test_a_file_that_is_too_short_is_refused(self, tmp_path, settings):
        with pytest.raises(BadBars, match="has 199 bars; nothing was run; a replay needs 200"):
            FileHistory.read(bar_file(tmp_path / "bars.csv", 199), SYMBOL, settings)

    def test_quotes_make_bars_of_the_setting_bar_period(self, tmp_path, settings):
        history = FileHistory.read(quote_file(tmp_path / "quotes.csv", 301), SYMBOL, settings)
        assert (len(history.bars), history.period_ns, history.of_quotes) == (300, PERIOD_NS, True)


async def test_a_stream_of_quotes_tells_each_bar_before_the_quote_that_closes_it(tmp_path, settings):
    path = quote_file(tmp_path / "quotes.csv", 4)
    stream = WithBars(ReplayStream({SYMBOL: path}, ReplayClock(0)), SYMBOL, PERIOD_NS)
    async with aclosing(stream.events()) as events:
        kinds = [type(event) async for event in events]
    assert kinds == [Quote, Quote, Bar] * 3 + [Quote, Quote]
    assert stream.health.delivered == 8
