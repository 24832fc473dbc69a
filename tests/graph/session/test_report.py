"""A session's report and summary: what it did, in words, tables and pictures; whatever a broker wrote is text."""

import json
import struct
from dataclasses import replace
from decimal import Decimal

import pytest

from agents.domain import Fill, Order, OrderIntent, OrderStatus, Portfolio, Position, Side, TradingState
from checkpoints.runs import Run, RunStatus
from checkpoints.sessions import SessionMark
from checkpoints.trading_state import Trading
from graph.session import pictures as drawing
from graph.session.report import write_session_report
from graph.session.status import SessionResult
from graph.session.summary import print_session

HELD = Position("BTCUSDT", Decimal(2), Decimal(100))
START = 1_790_000_000 * 10**9


def mark(number, equity="100000", price="100"):
    return SessionMark(START + number * 10**9, number * 10**9, Decimal(price), Decimal(equity), Decimal(1))


def order(leg="entry", side=Side.BUY, reason=""):
    intent = OrderIntent.derive(
        run_id="session-1", account="a", symbol="BTCUSDT", side=side, quantity=Decimal(2), reference_price=Decimal(100),
        reference_ns=START, decision=1, leg=leg,
    )  # fmt: skip
    return Order(intent, OrderStatus.FILLED, Decimal(2), Decimal("100.5"), reason=reason)


def fill(number, side=Side.BUY):
    return Fill(
        f"t{number}", f"o{number}", "BTCUSDT", side, Decimal(2), Decimal(100), Decimal("0.1"), START + number * 10**9
    )


@pytest.fixture
def result(tmp_path):
    run = Run(
        run_id="session-BTCUSDT-1", workflow="session", symbol="BTCUSDT", as_of_ns=START, account="a",
        status=RunStatus.STOPPED, fingerprint={}, parameters={}, error="", created_ns=START, updated_ns=START,
        forked_from=None, forked_at=None, dry=False,
    )  # fmt: skip
    return SessionResult(
        run=run,
        folder=tmp_path,
        portfolio=Portfolio(
            "a", Decimal(99_800), (Position("BTCUSDT", Decimal(2), Decimal(100)),), Decimal(-50), Decimal(3)
        ),
        opening_cash=Decimal(100_000),
        marks=(mark(0), mark(5, "101000", "105"), mark(10, "99990", "95")),
        orders=(order(), order("stop", Side.SELL)),
        fills=(fill(1), fill(7, Side.SELL)),
        trading=Trading(TradingState.REDUCING, "loss_limit", "session s", "3 % lost", START),
        counts={"events": 1_234, "errors": 2, "exits": 0},
        reaction_us={"p50": 9.0, "p99": 350.0, "max": 3_000.0},
        home=" --home /h",
    )


def size_of(png):
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", png[16:24])


class TestReport:
    def test_all_files_are_there_and_name_the_same(self, result, tmp_path):
        write_session_report(tmp_path, result)
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {"report.md", "report.html", "report.json", "price.png", "equity.png", "drawdown.png"}
        told = json.loads((tmp_path / "report.json").read_text())
        assert (told["equity"], told["pnl"], len(told["marks"]), len(told["all_fills"])) == (99_990, -10, 3, 2)
        assert told["resume_command"] == "python -m graph.run --resume session-BTCUSDT-1 --home /h"
        for text in ((tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()):
            told = ["Equity 99,990.00, largest drawdown 1.00%", "Open: 2 BTCUSDT at 100.00", "REDUCING (loss_limit"]
            told += ["L -10.00: realised -50.00", "1,234", "350.0", order().client_order_id, "stopped"]
            assert [words for words in told if words not in text] == []

    def test_a_page_is_one_file(self, result, tmp_path):
        write_session_report(tmp_path, result)
        page = (tmp_path / "report.html").read_text()
        assert page.count("data:image/png;base64,") == 3
        assert "http" not in page.replace("<!doctype html>", "")

    def test_text_from_elsewhere_is_text(self, result, tmp_path):
        hostile = replace(result, orders=(order(reason="<script>alert(1)</script>|x"),))
        write_session_report(tmp_path, hostile)
        assert "<script>" not in (tmp_path / "report.html").read_text()
        assert "<script>" not in (tmp_path / "report.md").read_text()

    def test_a_session_that_never_began(self, result, tmp_path):
        write_session_report(tmp_path, replace(result, marks=(), orders=(), fills=(), counts={}, reaction_us={}))
        assert not list(tmp_path.glob("*.png"))
        assert "None." in (tmp_path / "report.md").read_text()

    def test_of_many_orders_the_newest_are_listed_and_all_are_counted(self, result, tmp_path):
        many = replace(result, orders=(order(),) * 700)
        write_session_report(tmp_path, many)
        assert "Orders (the newest 500 of 700)" in (tmp_path / "report.md").read_text()


class TestPictures:
    def test_they_are_pictures_and_the_same_each_time(self, result):
        once, again = drawing.pictures(result), drawing.pictures(result)
        assert once == again
        assert all(size_of(png)[0] > 1_000 for png in once.values())

    def test_one_mark_is_enough(self, result):
        assert set(drawing.pictures(replace(result, marks=(mark(0),), fills=()))) == {"price", "equity", "drawdown"}

    def test_of_a_hundred_thousand_marks_no_extreme_is_lost(self):
        marks = [mark(number, str(100_000 + number % 7)) for number in range(100_000)]
        marks[77_777], marks[12_345] = mark(77_777, "1"), mark(12_345, "900000")
        times, values = drawing.thinned(marks, "equity")
        assert len(times) == len(values) <= 2_000
        assert (min(values), max(values)) == (1, 900_000)
        assert times == sorted(times)

    def test_fills_are_where_they_were(self, result):
        axes = drawing._price(result).axes[0]
        labels = [text.get_text() for text in axes.get_legend().get_texts()]
        assert labels == ["price", "buy (1)", "sell (1)"]
        assert [points.get_offsets()[0][1] for points in axes.collections] == [100.0, 100.0]

    def test_drawdown_is_what_was_lost_of_the_highest(self, result):
        lost = drawing._drawdown(result).axes[0].lines[0].get_ydata()
        assert list(lost) == [0, 0, pytest.approx(-100 * 1010 / 101000)]


def test_the_summary_says_how_it_stands_and_how_to_go_on(result, capsys):
    print_session(result)
    out = capsys.readouterr().out
    told = ["session-BTCUSDT-1 (stopped)", "Resume    python -m graph.run --resume session-BTCUSDT-1 --home /h"]
    told += ["P&L       -10.00 (realised -50.00, fees 3.00)", "largest drawdown 1.00%", "Open      2 BTCUSDT at 100.00"]
    told += ["Trading   REDUCING", "350 us P99", "Orders (2, 2 fills)", "stop", "1,234", "Report    not written"]
    assert [words for words in told if words not in out] == []
    assert "stops and targets" not in out, "there were none"
