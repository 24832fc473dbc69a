"""What a person sees of a session: every figure, in plain lines too; and nothing that is shown can hurt it."""

import io
import sys
from dataclasses import fields, replace
from decimal import Decimal

import pytest
from rich.console import Console

from agents.domain import Position, TradingState
from checkpoints.trading_state import Trading
from graph.session import view
from graph.session.status import SessionStatus

ACTIVE = Trading(TradingState.ACTIVE, "new", "", "", 0)
HALTED = Trading(TradingState.HALTED, "stale_data", "session s", "no price for 61 s", 5)
STATUS = SessionStatus(
    run_id="session-BTCUSDT-1", symbol="BTCUSDT", time_ns=0, elapsed_s=61.5, duration_s=600.0,
    price=Decimal("40001.5"), position=Position("BTCUSDT", Decimal("0.25"), Decimal(39_999)),
    equity=Decimal("100123.4"), pnl=Decimal("123.4"), realised=Decimal("100.1"), fees=Decimal("7.7"), drawdown=0.0123,
    plan="buy 0.25 at 40000, stop 39800, target 40400", brackets=3,
    streams={"btcusdt@trade": 0.25, "btcusdt@kline_1m": 12.5},
    reconnects=2, queued=7, queue_size=50, dropped=4, decisions=11, orders=5, fills=6, errors=8,
    breakers={"strategy": "open"}, trading=HALTED, draining=True,
)  # fmt: skip
SHOWN = {
    "run_id": "session-BTCUSDT-1",
    "symbol": "BTCUSDT",
    "elapsed_s": "00:01:01",
    "duration_s": "00:10:00",
    "price": "40001.5",
    "position": "0.25 at 39,999.00",
    "equity": "100,123.40",
    "pnl": "+123.40",
    "realised": "+100.10",
    "fees": "7.70",
    "drawdown": "1.23%",
    "plan": "stop 39800",
    "brackets": "3 watched",
    "streams": "btcusdt@kline_1m, 12.5 s ago",
    "reconnects": "2 reconnects",
    "queued": "queue 7",
    "queue_size": "of 50",
    "dropped": "4 dropped",
    "orders": "5 sent",
    "fills": "6 fills",
    "errors": "8 errors",
    "breakers": "strategy open",
    "trading": "HALTED (stale_data",
    "draining": "ending",
}


def rendered(board, width=100):
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(board.render())
    return console.file.getvalue()


def live(status=STATUS):
    board = view._Board()
    board.show(status)
    return board


class TestLive:
    @pytest.mark.parametrize(("name", "words"), SHOWN.items())
    def test_every_figure_is_there(self, name, words):
        assert words in rendered(live()), name

    def test_no_field_was_forgotten_here(self):
        assert {each.name for each in fields(SessionStatus)} - set(SHOWN) == {"time_ns", "decisions"}

    def test_before_the_first_heartbeat(self):
        assert "starting" in rendered(view._Board())

    def test_what_happened_last_stands_below(self):
        board = live()
        for number in range(20):
            board.tell("Filled", {"side": "buy", "quantity": number, "price": 1, "leg": "entry"})
        lines = [line for line in rendered(board).splitlines() if "filled" in line]
        assert len(lines) == 8
        assert lines[-1].startswith("00:01:01  filled   buy 19 at 1 (entry)")

    @pytest.mark.parametrize("width", [20, 40, 60])
    def test_a_narrow_terminal_shows_no_broken_lines(self, width):
        board = live(replace(STATUS, plan="x" * 500))
        board.tell("OrderFailed", {"order": "o" * 300, "error": "e"})
        assert all(len(line) <= width for line in rendered(board, width).splitlines())

    def test_text_from_elsewhere_is_no_markup_and_no_command(self):
        board = live(replace(STATUS, plan="[red]up[/]\x1b[31m\nnext"))
        board.tell("OrderFailed", {"order": "[bold]", "error": "\x1b[2J"})
        text = rendered(board)
        assert "[red]up[/]" in text
        assert "[bold]" in text
        assert "\x1b" not in text


class TestLines:
    @pytest.fixture
    def lines(self):
        return view._Lines()

    def test_a_line_every_ten_seconds_and_at_once_when_something_matters(self, lines, capsys):
        for second in range(25):
            lines.show(replace(STATUS, elapsed_s=float(second)))
        lines.show(replace(STATUS, elapsed_s=25.0, errors=9))
        shown = capsys.readouterr().out.splitlines()
        assert [line[:8] for line in shown] == ["00:00:00", "00:00:10", "00:00:20", "00:00:25"]

    def test_what_is_wrong_is_in_it_and_what_is_not_is_not(self, lines, capsys):
        lines.show(STATUS)
        line = capsys.readouterr().out
        told = ["BTCUSDT 40001.5", "position 0.25", "p&l +123.40", "queue 7/50", "quiet for 12.5 s"]
        told += ["2 reconnects", "4 dropped", "8 errors", "strategy is open", "HALTED (stale_data", "ending"]
        assert [words for words in told if words not in line] == []
        calm = {
            "reconnects": 0,
            "dropped": 0,
            "errors": 0,
            "breakers": {},
            "trading": ACTIVE,
            "draining": False,
            "streams": {},
        }
        lines.show(replace(STATUS, **calm))
        assert capsys.readouterr().out.rstrip().endswith("queue 7/50")

    def test_why_nothing_is_traded_is_told_once(self, lines, capsys):
        holds = replace(STATUS, plan="hold: agreement is 0.4")
        for status in (STATUS, holds, holds, STATUS, holds):
            lines.show(status)
        assert capsys.readouterr().out.count("  plan     hold: agreement is 0.4\n") == 2

    def test_a_price_has_no_empty_digits(self, lines, capsys):
        lines.show(replace(STATUS, price=Decimal("40000.00000000")))
        assert "BTCUSDT 40000 |" in capsys.readouterr().out

    def test_a_reader_that_has_gone_stops_nothing(self, lines, monkeypatch):
        class Gone:
            def write(self, text):
                raise BrokenPipeError

        monkeypatch.setattr(sys, "stdout", Gone())
        lines.show(STATUS)
        lines.tell("Draining", {"waiting": 0})


class TestWords:
    def test_every_kind_has_words_that_its_detail_fills(self):
        assert (
            view.words_of("StopSprung", {"leg": "stop", "decision": 3, "quantity": "2"})
            == "exit     stop of decision 3: 2 goes"
        )
        assert view.words_of("OrderMoved", {"order": "x"}) == "", "no news to a person"

    def test_a_detail_that_lacks_something_is_told_as_it_is(self):
        assert view.words_of("StopSprung", {"leg": "stop"}) == "StopSprung: leg stop"


def test_nothing_is_shown_where_nothing_is_wanted(capsys):
    with view.session_view(plain=False, silent=True) as viewer:
        assert viewer is None
    with view.session_view(plain=True, silent=False) as viewer:
        viewer.tell("StreamEnded", {})
    assert capsys.readouterr().out == "00:00:00  feed     at its end\n"


def test_without_an_output_it_is_silent(monkeypatch):
    """Started with its output closed, Python has none."""
    monkeypatch.setattr(sys, "stdout", None)
    with view.session_view(plain=False, silent=False) as viewer:
        viewer.show(STATUS)
        viewer.tell("Draining", {"waiting": 0})
