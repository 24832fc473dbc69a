"""Files of quotes."""

import os
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents import quotes as module
from agents.domain import Quote
from agents.errors import BadBars, InvalidValue
from agents.quotes import are_quotes, read_quotes

DATA = Path(os.environ.get("HOLDFAST_DATA") or Path(__file__).parents[2].parent / "shared" / "data")
GOOD = "timestamp,bid,ask\n2024-01-01T00:00:00Z,1.10,1.2\n2024-01-01T00:00:00Z,1.1,1.1\n"


@pytest.fixture
def save(tmp_path):
    def save(text, name="q.csv"):
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return save


def test_quotes_are_read_as_printed_and_may_share_a_time(save):
    read = read_quotes(save(GOOD))
    assert len(read) == 2
    assert list(read.quotes("A")) == [
        Quote("A", 1_704_067_200 * 10**9, Decimal("1.1"), Decimal("1.2")),
        Quote("A", 1_704_067_200 * 10**9, Decimal("1.1"), Decimal("1.1")),
    ]
    with pytest.raises(InvalidValue):
        list(read.quotes("a b"))


@pytest.mark.parametrize("names", ["bid_size,ask_size", "BID_VOLUME,Ask_Volume", "bid_qty,ask_qty"])
def test_sizes(save, names):
    read = read_quotes(save(f"bid;ask;{names.replace(',', ';')};x;time\n1;2;3;0;9;2024-01-01\n"))
    (quote,) = read.quotes("A")
    assert (quote.bid_size, quote.ask_size) == (3, 0)
    assert "no time zone" in read.notes[0]


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("", "it is empty"),
        ("timestamp,bid,ask\n", "no quotes"),
        ("bid,ask\n1,2\n", "no column date"),
        ("timestamp,bid\n2024-01-01,1\n", "no column ask"),
        ("time,date,bid,ask\n1,2,3,4\n", "several columns"),
        ("time,bid,bid,ask\n1,2,3,4\n", "several columns"),
        (GOOD + "2023-01-01T00:00:00Z,1,2\n", "line 4: time goes back"),
        (GOOD + "2024-01-02,1,2\n", "only some times carry a zone"),
        (GOOD + "2024-01-02T00:00:00Z,1\n", "line 4: 2 fields"),
        (GOOD + "2024-01-02T00:00:00Z,2,1\n", "line 4: ask 1.0 is below bid 2.0"),
        (GOOD + "2024-01-02T00:00:00Z,nan,1\n", "must be numbers above 0"),
        (GOOD + "2024-01-02T00:00:00Z,inf,inf\n", "must be numbers above 0"),
        (GOOD + "2024-01-02T00:00:00Z,0,1\n", "must be numbers above 0"),
        (GOOD + "2024-01-02T00:00:00Z,x,1\n", "are numbers"),
        (GOOD + "2024-01-02T00:00:00Z,1_0,11\n", "are numbers"),
        (GOOD + "yesterday,1,2\n", "is not a time"),
        ("time,bid,ask,bid_size,ask_size\n2024-01-01,1,2,-1,0\n", "must not be negative"),
        (b"time,bid,ask\n\x00,1,2\n", "NUL"),
        (b"time,bid,ask\n\xff,1,2\n", "not UTF-8"),
    ],
)
def test_a_file_that_is_no_history_of_quotes(save, text, fact):
    with pytest.raises(BadBars, match=fact) as error:
        read_quotes(save(text))
    assert "\n" not in str(error.value)


def test_blank_lines_are_passed_over(save):
    assert len(read_quotes(save(GOOD + "\n,,\n".replace(",,", "") + "\n"))) == 2


def test_too_many(save, monkeypatch):
    monkeypatch.setattr(module, "_QUOTES_MAX", 1)
    with pytest.raises(BadBars, match="more than 1 quotes"):
        read_quotes(save(GOOD))


def test_which_files_are_quotes(save, tmp_path):
    assert are_quotes(save(GOOD))
    assert not are_quotes(save("date,open,high,low,close\n", "b.csv"))
    assert not are_quotes(tmp_path / "x.parquet")
    with pytest.raises(BadBars, match="no such file"):
        are_quotes(tmp_path / "none.csv")
    with pytest.raises(BadBars, match="folder"):
        read_quotes(tmp_path)


def test_a_real_file():
    path = DATA / "usdjpy_quotes_2013.csv"
    if not path.exists():
        pytest.skip(f"{path.name} is not in the folder of real price data (HOLDFAST_DATA)")
    read = read_quotes(path)
    assert len(read) == 1_000
    assert (np.diff(read.time_ns) >= 0).all()
    assert read.notes == ()


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.sampled_from(["1", "2.5", "nan", "", "x", "2024-01-01", "1e400", '"', "-1"]), max_size=4)))
def test_any_rows_below_a_good_header(tmp_path, rows):
    path = tmp_path / "q.csv"
    path.write_text("time,bid,ask\n" + "".join(",".join(row) + "\n" for row in rows))
    try:
        quotes = list(read_quotes(path).quotes("A"))
    except BadBars:
        return
    assert all(0 < quote.bid <= quote.ask for quote in quotes)
