import csv
import io
import os
import subprocess
import sys
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import bars as module
from agents.bars import Bars, read_bars
from agents.errors import BadBars

DATA = Path(os.environ.get("HOLDFAST_DATA") or Path(__file__).parents[2].parent / "shared" / "data")
HEADER = "date,open,high,low,close,volume"
REFUSED = "; the file was not used; "


def row(day: int, rest: str = "10,12,9,11,500") -> str:
    return f"{date(2024, 1, 1) + timedelta(days=day)},{rest}"


def lines(count: int = 120, header: str = HEADER) -> list[str]:
    return [header, *(row(day) for day in range(count))]


def save(tmp_path: Path, content: list[str] | str | bytes, name: str = "prices.csv") -> Path:
    path = tmp_path / name
    text = "\n".join(content) + "\n" if isinstance(content, list) else content
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(path: Path, minimum: int = 100) -> str:
    with pytest.raises(BadBars) as caught:
        read_bars(path, minimum)
    message = str(caught.value)
    assert "\n" not in message
    assert REFUSED in message, "fact, consequence and remedy"
    return message.removeprefix(f"{path}")


def refused_line(tmp_path: Path, bad: str, at: int = 12) -> str:
    """The message for a file whose line `at` is `bad`."""
    content = lines()
    content[at - 1] = bad
    return refusal(save(tmp_path, content))


def real(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not in the folder of real price data (HOLDFAST_DATA)")
    return path


class TestReads:
    def test_columns_units_and_step(self, tmp_path):
        content = [HEADER, "2024-01-01T00:00:00+00:00,10.5,12,9.25,11,500", "2024-01-01T01:00:00+01:00,11,12,9,10,0"]
        content[2] = "2024-01-01T02:00:00+01:00,11,12,9,10,0"
        bars = read_bars(save(tmp_path, content), minimum=2)
        start = 1_704_067_200 * 10**9
        assert bars.close_ns.tolist() == [start, start + 3600 * 10**9]
        assert bars.open.tolist() == [10.5, 11]
        assert bars.high.tolist() == [12, 12]
        assert bars.low.tolist() == [9.25, 9]
        assert bars.close.tolist() == [11, 10]
        assert bars.volume is not None
        assert bars.volume.tolist() == [500, 0]
        assert bars.price_step == Decimal("0.01")
        assert bars.notes == ()
        assert len(bars) == 2

    def test_columns_are_read_only(self, tmp_path):
        bars = read_bars(save(tmp_path, lines()))
        for name in ("close_ns", "open", "high", "low", "close", "volume"):
            with pytest.raises(ValueError, match="read-only"):
                getattr(bars, name)[0] = 1

    @pytest.mark.parametrize(
        "header",
        ["Date,OPEN,High,low,Close,Volume", " time , open ,high,low,close, volume", ",Open,High,Low,Close,Volume",
         "Unnamed: 0,open,high,low,close,volume", "TIMESTAMP,open,high,low,close,Volume BTC",
         '"datetime","open","high","low","close","volume"', "index,open,high,low,close,volume"],
    )  # fmt: skip
    def test_header_spellings(self, tmp_path, header):
        assert len(read_bars(save(tmp_path, lines(header=header)))) == 120

    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    def test_delimiters_line_ends_and_a_byte_order_mark(self, tmp_path, delimiter, end):
        text = "\ufeff" + end.join(lines()).replace(",", delimiter)
        assert len(read_bars(save(tmp_path, text))) == 120

    def test_columns_in_any_order_and_further_ones_ignored(self, tmp_path):
        content = [
            "close,note,low,high,open,date",
            *(f'11,"a, b",9,12,10,{date(2024, 1, 1 + day)}' for day in range(9)),
        ]
        bars = read_bars(save(tmp_path, content), minimum=9)
        assert (bars.open[0], bars.high[0], bars.low[0], bars.close[0], bars.volume) == (10, 12, 9, 11, None)

    def test_named_date_goes_before_an_unnamed_index(self, tmp_path):
        content = [",date,open,high,low,close", *(f"{at},{date(2024, 1, 1 + at)},10,12,9,11" for at in range(9))]
        assert read_bars(save(tmp_path, content), minimum=9).close_ns[0] == 1_704_067_200 * 10**9

    def test_blank_lines_are_passed_over_and_lines_still_counted(self, tmp_path):
        content = lines()
        content[5:5] = ["", "   "]
        assert len(read_bars(save(tmp_path, [*content, "", ""]))) == 120
        content[19] = row(17, "10,12,9,13,500")
        assert ", line 20: close 13.0" in refusal(save(tmp_path, content))

    def test_a_quoted_cell_over_two_lines_keeps_line_numbers_right(self, tmp_path):
        content = [f"{line},note" if at == 0 else f"{line},x" for at, line in enumerate(lines())]
        content[4] = f'{row(3)},"two\nlines"'
        assert len(read_bars(save(tmp_path, content))) == 120
        content[9] = f"{row(8, '10,12,9,oops,500')},x"
        assert ", line 11: close 'oops'" in refusal(save(tmp_path, content))

    @pytest.mark.parametrize(
        ("unit", "first"),
        [
            (10**9, 1_704_067_200),
            (10**6, 1_704_067_200_000),
            (10**3, 1_704_067_200_000_000),
            (1, 1_704_067_200 * 10**9),
        ],
    )
    def test_epoch_numbers_by_magnitude(self, tmp_path, unit, first):
        content = [HEADER, *(f"{first + at * 60 * 10**9 // unit},10,12,9,11,1" for at in range(100))]
        bars = read_bars(save(tmp_path, content))
        assert bars.close_ns.tolist() == [(1_704_067_200 + at * 60) * 10**9 for at in range(100)]
        assert bars.notes == (), "an epoch number says itself that it is UTC"

    def test_epoch_seconds_with_a_point_zero_and_of_nine_digits(self, tmp_path):
        content = ["time,open,high,low,close", "999999999.0,10,12,9,11", "1000000000.0,10,12,9,11"]
        assert read_bars(save(tmp_path, content), 2).close_ns.tolist() == [999_999_999 * 10**9, 10**18]

    def test_eight_digits_are_a_date_and_not_seconds(self, tmp_path):
        content = ["date,open,high,low,close", "20040819,10,12,9,11", "20040820,10,12,9,11"]
        bars = read_bars(save(tmp_path, content), minimum=2)
        assert bars.close_ns.tolist() == [1_092_873_600 * 10**9, 1_092_960_000 * 10**9]

    def test_times_without_a_zone_are_told(self, tmp_path):
        assert read_bars(save(tmp_path, lines())).notes == ("120 times carry no time zone and were taken as UTC",)

    @pytest.mark.parametrize(
        ("price", "step"),
        [("11", "1"), ("11.0", "1"), ("11.5", "0.1"), ("1.1e1", "1"), ("11.123456789012", "0.00000001")],
    )
    def test_price_step_is_the_last_decimal_in_use(self, tmp_path, price, step):
        content = [HEADER, row(0, "10.123,12,9,11,5"), *(row(day, f"10,12,9,{price},500") for day in range(1, 520))]
        bars = read_bars(save(tmp_path, content))
        assert bars.price_step == Decimal(step), "the first bar is older than the 512 that count"

    def test_floating_noise_widens_the_range_and_is_told(self, tmp_path):
        content = lines()
        content[7] = row(6, "12.000000000000002,12,9,8.999999999999998,500")
        bars = read_bars(save(tmp_path, content))
        assert bars.high[6] == bars.open[6]
        assert bars.low[6] == bars.close[6]
        assert bars.notes[1] == "bars whose range was widened, as a price lay outside it by rounding: 1"

    def test_every_accepted_bar_has_its_prices_in_its_range(self, tmp_path):
        bars = read_bars(real("btc_perp_1m_2022_01.csv"))
        assert (bars.low <= np.minimum(bars.open, bars.close)).all()
        assert (bars.high >= np.maximum(bars.open, bars.close)).all()


class TestRealData:
    def test_daily_stock(self):
        bars = read_bars(real("goog_daily_2004_2013.csv"))
        assert len(bars) == 2148
        assert (bars.close_ns[0], bars.close[0], bars.price_step) == (1_092_873_600 * 10**9, 100.34, Decimal("0.01"))
        assert bars.notes == ("2148 times carry no time zone and were taken as UTC",)

    def test_minute_bars(self):
        bars = read_bars(real("btc_perp_1m_2022_01.csv"))
        assert len(bars) == 45_031
        assert bars.volume is not None
        assert bars.volume[0] == 2_300_413.7295

    def test_quotes_are_refused_as_quotes(self):
        message = refusal(real("usdjpy_quotes_2013.csv"))
        assert "these are quotes (bid and ask), not bars" in message
        assert "aggregate them into bars first" in message


class TestRefusesFiles:
    def test_missing(self, tmp_path):
        assert refusal(tmp_path / "no.csv") == ": there is no such file; the file was not used; check the path"
        assert "no such file" in refusal(save(tmp_path, "x") / "below_a_file.csv")

    def test_folder(self, tmp_path):
        assert "this is a folder" in refusal(tmp_path)

    def test_what_is_no_regular_file(self):
        assert "not a regular file" in refusal(Path(os.devnull)), "a pipe would wait for ever, a device never ends"

    def test_nul_and_newline_in_the_path_stay_one_line(self, tmp_path):
        with pytest.raises(BadBars, match="cannot be read") as caught:
            read_bars(Path("a\0b\nc.csv"))
        assert "\n" not in str(caught.value)

    def test_no_permission(self, tmp_path, monkeypatch):
        path = save(tmp_path, lines())

        def denied(*args, **kwargs):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", denied)
        assert "permission denied" in refusal(path)

    def test_disk_error_while_reading(self, tmp_path, monkeypatch):
        class Broken(io.StringIO):
            def readline(self, *args):
                raise OSError(5, "Input/output error")

        path = save(tmp_path, lines())
        monkeypatch.setattr(Path, "open", lambda *args, **kwargs: Broken())
        assert "cannot be read (Input/output error)" in refusal(path)

    def test_empty_and_only_a_byte_order_mark(self, tmp_path):
        assert "it is empty" in refusal(save(tmp_path, b""))
        assert "it is empty" in refusal(save(tmp_path, b"\xef\xbb\xbf"))

    def test_header_only(self, tmp_path):
        assert "column names and no bars" in refusal(save(tmp_path, [HEADER]))

    def test_too_few_bars(self, tmp_path):
        assert "it holds 99 bars, and 100 are needed" in refusal(save(tmp_path, lines(99)))
        assert len(read_bars(save(tmp_path, lines(100)))) == 100

    def test_too_many_bars(self, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "_BARS_MAX", 110)
        assert "more than 110 bars" in refusal(save(tmp_path, lines(111)))
        assert len(read_bars(save(tmp_path, lines(110)))) == 110

    @pytest.mark.parametrize("content", [b"PK\x03\x04\0\0", b"\x1f\x8b\x08\0", "date,open".encode("utf-16")])
    def test_binary(self, tmp_path, content):
        assert "save it as CSV in UTF-8, or as .parquet" in refusal(save(tmp_path, content))

    def test_not_utf8_names_byte_and_line(self, tmp_path):
        content = "\n".join(lines()).encode().splitlines()
        content[11] = content[11] + b",caf\xe9"
        assert ", line 12: the byte 0xe9 is not UTF-8" in refusal(save(tmp_path, b"\n".join(content)))

    def test_other_letters_in_further_columns_are_fine(self, tmp_path):
        content = [f"{line},naïve 取引" for line in lines()]
        assert len(read_bars(save(tmp_path, content))) == 120

    def test_nul_byte_names_its_line(self, tmp_path):
        assert ", line 12: there is a NUL byte" in refused_line(tmp_path, row(10, "10,12,9,1\0,500"))

    def test_a_line_without_end(self, tmp_path):
        assert ", line 12: it is longer than 65536" in refused_line(tmp_path, row(10) + "0" * 70_000)

    def test_a_field_too_long_for_csv(self, tmp_path):
        content = lines()
        content[11] = '"' + "\n".join(["x" * 1000] * 200)
        message = refusal(save(tmp_path, content))
        assert ", line 12: it is not CSV (field larger than field limit (131072))" in message

    def test_an_open_quote_names_the_line_it_opened_on(self, tmp_path):
        message = refused_line(tmp_path, '2024-01-11,"10,12,9,11,500')
        assert ", line 12: it is not CSV (unexpected end of data)" in message
        assert "look for a quote that is not closed" in message


class TestRefusesHeaders:
    def test_missing_columns_name_what_was_found(self, tmp_path):
        message = refusal(save(tmp_path, lines(header="when,open,hi,low,close,volume")))
        assert "no column date (or time, datetime, timestamp), high; found 'when', 'open', 'hi'" in message

    def test_no_header(self, tmp_path):
        message = refusal(save(tmp_path, lines()[1:]))
        assert "found '2024-01-01', '10'" in message
        assert "the first line must name the columns" in message

    def test_blank_first_line(self, tmp_path):
        assert "found none" in refusal(save(tmp_path, ["", *lines()]))

    def test_many_and_long_names_are_shortened(self, tmp_path):
        message = refusal(save(tmp_path, [",".join("x" * 1000 for _ in range(50))]))
        assert len(message) < 700

    @pytest.mark.parametrize("name", ["close", "date", "volume"])
    def test_a_needed_column_twice(self, tmp_path, name):
        content = [f"{HEADER},{name.upper()}", *(f"{row(day)},1" for day in range(120))]
        assert f"2 columns are called '{name}'" in refusal(save(tmp_path, content))

    def test_other_columns_may_repeat(self, tmp_path):
        content = [f"{HEADER},x,x", *(f"{row(day)},1,2" for day in range(120))]
        assert len(read_bars(save(tmp_path, content))) == 120

    def test_date_and_time_in_two_columns(self, tmp_path):
        message = refusal(save(tmp_path, ["date,time,open,high,low,close", "2024-01-01,09:30,10,12,9,11"]))
        assert "several columns hold a time: date, time" in message

    def test_quotes(self, tmp_path):
        assert "these are quotes" in refusal(save(tmp_path, ["time,bid_price,ask_price", "2024-01-01,1,2"]))

    def test_bid_and_ask_beside_bars_are_ignored(self, tmp_path):
        content = [f"{HEADER},bid,ask", *(f"{row(day)},1,2" for day in range(120))]
        assert len(read_bars(save(tmp_path, content))) == 120


class TestRefusesBars:
    @pytest.mark.parametrize(
        ("rest", "fact"),
        [
            ("10,12,9,oops,500", "close 'oops' is not a number"),
            ('10,"1,200.5",9,11,500', "high '1,200.5' is not a number"),
            ("10,1_2,9,11,500", "high '1_2' is not a number"),
            ("10,12,9,,500", "close is empty"),
            ("10,12,9,  ,500", "close is empty"),
            ("10,12,9,11,", "volume is empty"),
            ("10,nan,9,11,500", "high is nan, and must be a number above 0"),
            ("10,inf,9,11,500", "high is inf, and must be a number above 0"),
            ("10,1e999,9,11,500", "high is inf, and must be a number above 0"),
            ("0,12,9,11,500", "open is 0.0, and must be a number above 0"),
            ("10,12,-9,11,500", "low is -9.0, and must be a number above 0"),
            ("10,9,12,11,500", "high 9.0 is below low 12.0"),
            ("12.01,12,9,11,500", "open 12.01 is outside low 9.0 to high 12.0"),
            ("10,12,9,8.99,500", "close 8.99 is outside low 9.0 to high 12.0"),
            ("10,12,9,11,-1", "volume is -1.0, and must be a number not negative"),
            ("10,12,9,11,nan", "volume is nan, and must be a number not negative"),
            ("10,12,9,11", "5 fields, and the first line names 6"),
            ("10,12,9,11,500,7", "7 fields, and the first line names 6"),
        ],
    )
    def test_a_bad_line(self, tmp_path, rest, fact):
        assert f", line 12: {fact}{REFUSED}" in refused_line(tmp_path, row(10, rest))

    def test_long_cells_are_shortened(self, tmp_path):
        message = refused_line(tmp_path, row(10, f"10,12,9,{'x' * 5000},500"))
        assert "close 'xxxx" in message
        assert len(message) < 250

    @pytest.mark.parametrize(
        "when",
        ["", "  ", "soon", "08/19/2004", "2004-02-30", "20041399", "09:30", "12", "0", "20040819123000", "200408191230",
         "12345678901", "1e9", "1704067200.5", "99999999999999999999", "0001-01-01", "9999-12-31", "9999999999999",
         "-1704067200", "\uff11\uff17\uff10\uff14\uff10\uff16\uff17\uff12\uff10\uff10"],
    )  # fmt: skip
    def test_not_a_time(self, tmp_path, when):
        message = refused_line(tmp_path, f"{when},10,12,9,11,500")
        assert ", line 12: date " in message
        if when.strip():
            assert "is not a time between 1850 and 2100" in message
            assert "2004-08-19T14:30:00+00:00 or epoch numbers" in message

    def test_the_same_time_twice(self, tmp_path):
        message = refused_line(tmp_path, row(9))
        assert ", line 12: the same time 2024-01-10T00:00:00 as line 11" in message

    def test_time_going_back(self, tmp_path):
        message = refused_line(tmp_path, row(3))
        assert ", line 12: time goes back from 2024-01-10T00:00:00 (line 11) to 2024-01-04T00:00:00" in message

    def test_newest_first(self, tmp_path):
        content = lines()
        message = refusal(save(tmp_path, [content[0], *reversed(content[1:])]))
        assert ", line 3: 2024-04-28T00:00:00 is before line 2: the file runs backwards" in message
        assert "sort ascending by time" in message

    @pytest.mark.parametrize(
        ("first", "second", "fact"),
        [("2024-01-01", "2024-01-02T00:00Z", "carries a zone, and that of line 2 does not"),
         ("2024-01-01T00:00Z", "2024-01-02", "carries no zone, and that of line 2 does;"),
         ("2024-01-01", "1704153600", "carries a zone, and that of line 2 does not")],
    )  # fmt: skip
    def test_times_with_and_without_zone(self, tmp_path, first, second, fact):
        content = [HEADER, f"{first},10,12,9,11,500", f"{second},10,12,9,11,500"]
        assert f", line 3: the time {fact}" in refusal(save(tmp_path, content))

    def test_the_earliest_bad_line_is_named(self, tmp_path):
        content = lines()
        content[9] = row(8, "10,12,9,11,-1")
        content[29] = row(28, "10,9,12,11,500")
        content[39] = row(3)
        assert ", line 10: volume" in refusal(save(tmp_path, content))


class TestParquet:
    def frame(self, count: int = 120) -> pd.DataFrame:
        times = pd.date_range("2024-01-01", periods=count, freq="h", name="Date")
        prices = {"Open": 10.25, "High": 12.0, "Low": 9.0, "Close": 11.0, "Volume": 500}
        return pd.DataFrame(prices, index=times)

    def save(self, tmp_path: Path, frame: pd.DataFrame) -> Path:
        path = tmp_path / "prices.parquet"
        frame.to_parquet(path)
        return path

    def accepted(self, tmp_path: Path, frame: pd.DataFrame) -> Bars:
        bars = read_bars(self.save(tmp_path, frame))
        assert bars.close_ns[0] == 1_704_067_200 * 10**9
        assert bars.close_ns[-1] - bars.close_ns[0] == 119 * 3600 * 10**9
        assert (bars.open[0], bars.high[0], bars.low[0], bars.close[0]) == (10.25, 12, 9, 11)
        assert bars.price_step == Decimal("0.01")
        return bars

    def test_date_in_the_index_or_in_a_column(self, tmp_path):
        frame = self.frame()
        assert self.accepted(tmp_path, frame).notes == ("120 times carry no time zone and were taken as UTC",)
        self.accepted(tmp_path, frame.rename_axis(None))
        self.accepted(tmp_path, frame.reset_index())
        self.accepted(tmp_path, frame.reset_index().set_index(pd.Index(range(5, 125))))

    def test_zones_and_other_kinds_of_time(self, tmp_path):
        frame = self.frame()
        assert self.accepted(tmp_path, frame.tz_localize("UTC").tz_convert("Asia/Tokyo")).notes == ()
        self.accepted(tmp_path, frame.set_axis(frame.index.astype(str).rename("time")))
        self.accepted(tmp_path, frame.set_axis(frame.index.astype("datetime64[s]").astype("int64").rename("time")))
        self.accepted(tmp_path, frame.set_axis(frame.index.astype("datetime64[ms]")))

    @pytest.mark.parametrize("backend", ["numpy_nullable", "pyarrow"])
    def test_other_kinds_of_number(self, tmp_path, backend):
        self.accepted(tmp_path, self.frame().convert_dtypes(dtype_backend=backend))
        self.accepted(tmp_path, self.frame().astype({"Open": str}))

    def test_short_floats_keep_their_print(self, tmp_path):
        frame = self.frame().assign(Close=np.float32(11.34))
        assert read_bars(self.save(tmp_path, frame)).close[0] == 11.34

    def test_refusals_name_the_row(self, tmp_path):
        frame = self.frame().astype({"Volume": float})
        for column, value, fact in [
            ("Close", np.nan, "close is nan"),
            ("Close", 13.0, "close 13.0 is outside"),
            ("Volume", -1.0, "volume is -1.0"),
        ]:
            bad = frame.copy()
            bad.loc[bad.index[3], column] = value
            assert f", row 4: {fact}" in refusal(self.save(tmp_path, bad))
        missing_time = frame.reset_index()
        missing_time.loc[3, "Date"] = pd.NaT
        assert ", row 4: date is empty" in refusal(self.save(tmp_path, missing_time))
        assert ", row 2: 2024-01-05T22:00:00 is before row 1" in refusal(self.save(tmp_path, frame.iloc[::-1]))
        assert ", row 1: close 'True' is not a number" in refusal(self.save(tmp_path, frame.assign(Close=True)))

    def test_files_that_are_no_bars(self, tmp_path):
        assert "no column date" in refusal(self.save(tmp_path, pd.DataFrame({"x": [1]})))
        assert "column names and no bars" in refusal(self.save(tmp_path, self.frame(0)))
        assert "it holds 99 bars" in refusal(self.save(tmp_path, self.frame(99)))
        path = tmp_path / "prices.parquet"
        for content in (b"", b"date,open", b"PAR1 junk PAR1", self.save(tmp_path, self.frame()).read_bytes()[:-9]):
            path.write_bytes(content)
            assert "not a readable Parquet file" in refusal(path)

    def test_a_damaged_page(self, tmp_path):
        path = self.save(tmp_path, self.frame())
        content = bytearray(path.read_bytes())
        content[4:200] = bytes(196)
        path.write_bytes(content)
        refusal(path)

    def test_too_many_bars(self, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "_BARS_MAX", 110)
        path = self.save(tmp_path, self.frame())

        def loaded(*args, **kwargs):
            raise AssertionError("the number of rows stands in the footer: no need to load them")

        monkeypatch.setattr(pd, "read_parquet", loaded)
        assert "more than 110 bars" in refusal(path)

    def test_no_permission(self, tmp_path, monkeypatch):
        path = self.save(tmp_path, self.frame())

        def denied(*args, **kwargs):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(pd, "read_parquet", denied)
        assert "permission denied" in refusal(path)

    def test_without_pyarrow_says_what_to_install(self, tmp_path, monkeypatch):
        path = self.save(tmp_path, self.frame())
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
        assert "pip install 'holdfast[parquet]'" in refusal(path)


def attempt(folder: Path, content: bytes, suffix: str = ".csv") -> Bars | None:
    """What read_bars makes of any bytes: bars that keep every rule, or BadBars. Anything else fails the test."""
    path = folder / f"fuzz{suffix}"
    path.write_bytes(content)
    try:
        bars = read_bars(path, minimum=1)
    except BadBars as error:
        message = str(error)
    else:
        return checked(bars)
    assert "\n" not in message
    assert len(message) < 1000
    return None


def checked(bars: Bars) -> Bars:
    assert (np.diff(bars.close_ns) > 0).all()
    assert (bars.low > 0).all()
    assert (bars.low <= np.minimum(bars.open, bars.close)).all()
    assert (bars.high >= np.maximum(bars.open, bars.close)).all()
    assert np.isfinite(bars.high).all()
    return bars


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


CELL = st.one_of(
    st.sampled_from(
        ["10", "12.5", "1e308", "5e-324", "0", "-1", "nan", "inf", "", " ", '"', '"a\nb"', "\r", "\0", "é"]
    ),
    st.sampled_from(
        ["2024-01-01", "2024-01-02T00:00Z", "20240103", "1704067200", "1850-01-01", "2099-12-31T23:59-23:59"]
    ),
    st.text(max_size=6),
    st.floats(allow_nan=True).map(repr),
)


class TestFuzz:
    @given(content=st.binary(max_size=300))
    @settings(deadline=None)
    def test_any_bytes(self, folder, content):
        attempt(folder, content)

    @given(content=st.binary(max_size=300))
    @settings(max_examples=25, deadline=None)
    def test_any_bytes_as_parquet(self, folder, content):
        attempt(folder, content, ".parquet")
        attempt(folder, b"PAR1" + content + b"PAR1", ".parquet")

    @given(content=st.text(max_size=300))
    @settings(deadline=None)
    def test_any_text(self, folder, content):
        attempt(folder, content.encode(errors="surrogatepass"))

    @given(content=st.text(alphabet='0123456789-:.,;\t\n\r" TZ+eE_naif', max_size=300))
    @settings(deadline=None)
    def test_any_rows_below_a_good_header(self, folder, content):
        attempt(folder, f"{HEADER}\n{content}".encode())

    @given(cells=st.lists(st.tuples(st.integers(0, 10), st.integers(0, 5), CELL), min_size=1, max_size=5))
    @settings(deadline=None)
    def test_a_good_file_with_cells_exchanged(self, folder, cells):
        table = [line.split(",") for line in lines(10)]
        for line, column, cell in cells:
            table[line][column] = cell
        text = "\n".join(",".join(row) for row in table)
        attempt(folder, text.encode(errors="replace"))

    @given(at=st.integers(0, 300), length=st.integers(0, 40), junk=st.binary(max_size=20))
    @settings(deadline=None)
    def test_a_good_file_with_bytes_exchanged(self, folder, at, length, junk):
        content = "\n".join(lines(10)).encode()
        attempt(folder, content[:at] + junk + content[at + length :])

    @given(
        rows=st.lists(st.tuples(*[st.floats(0.01, 1e6)] * 4), min_size=1, max_size=20),
        delimiter=st.sampled_from(",;\t"),
    )
    @settings(deadline=None)
    def test_what_was_written_is_what_is_read(self, folder, rows, delimiter):
        text = io.StringIO()
        writer = csv.writer(text, delimiter=delimiter)
        writer.writerow(["date", "open", "high", "low", "close"])
        ordered = [(a, max(a, b, c, d), min(a, b, c, d), d) for a, b, c, d in rows]
        writer.writerows([str(date(2024, 1, 1) + timedelta(days=at)), *row] for at, row in enumerate(ordered))
        bars = attempt(folder, text.getvalue().encode())
        assert bars is not None
        assert list(zip(bars.open, bars.high, bars.low, bars.close, strict=True)) == ordered


def test_importing_the_reader_does_not_import_pandas():
    code = "import sys, agents.market, graph.feed; print('pandas' in sys.modules, 'pyarrow' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "False"]
