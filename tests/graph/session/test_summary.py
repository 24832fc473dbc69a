"""What is printed when a session is over: every field, on lines that no text can break."""

from decimal import Decimal
from pathlib import Path

import pytest

from agents.domain import Fill, Order, OrderIntent, OrderStatus, Portfolio, Position, Side, TradingState
from checkpoints.runs import Run, RunStatus
from checkpoints.sessions import SessionMark
from checkpoints.trading_state import Trading
from graph.session.status import SessionResult
from graph.session.summary import print_session

START_NS = 1_790_000_000_000_000_000


def ended(text="fine", *, status=RunStatus.STOPPED, state=TradingState.HALTED, **more):
    intent = OrderIntent.derive(
        run_id="session-1",
        account="paper",
        symbol="BTCUSDT",
        side=Side.BUY,
        quantity=Decimal("0.5"),
        reference_price=Decimal(60000),
        reference_ns=START_NS,
    )
    half = Decimal("0.5")
    fill = Fill("t1", intent.intent_id, "BTCUSDT", Side.BUY, half, Decimal(60000), Decimal(1), START_NS)
    equities = ((0, 100_000), (3_725, 99_000))
    given = {
        "run": Run("session-1", "session", "BTCUSDT", START_NS, "paper", status, {}, {}, text, 0, 0),
        "folder": Path("there"),
        "portfolio": Portfolio(
            "paper", Decimal(70_000), (Position("BTCUSDT", half, Decimal(60_000)),), Decimal("12.5"), Decimal("1.25")
        ),
        "opening_cash": Decimal(100_000),
        "marks": tuple(
            SessionMark(START_NS + at * 10**9, at * 10**9, Decimal(60_000), Decimal(equity), half)
            for at, equity in equities
        ),
        "orders": (Order(intent, OrderStatus.FILLED, half, Decimal(60_000), Decimal(1), "b1", text),),
        "fills": (fill,),
        "trading": Trading(state, "drawdown", "anna", text, START_NS),
        "counts": {"events": 12_345, "errors": 7},
        "reaction_us": {"p50": 12.0, "p99": 88.0, "max": 1234.0},
    }
    return SessionResult(**(given | more))


def printed(capsys, result):
    print_session(result)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "told",
    [
        "Session   session-1 (stopped), 1:02:05",
        "Failed    fine",
        "Resume    python -m graph.run --resume session-1",
        "P&L       -1,000.00 (realised +12.50, fees 1.25)",
        "Equity    99,000.00, largest drawdown 1.00%",
        "Open      0.5 BTCUSDT at 60,000.00",
        "Trading   HALTED (drawdown, anna: fine)",
        "12 us P50, 88 us P99, 1,234 us at most",
        "Orders (1, 1 fills)",
        "12,345",
        "Report    there/report.html",
    ],
)
def test_every_field_is_told(capsys, told):
    assert told in printed(capsys, ended())


def test_what_is_not_so_is_not_told(capsys):
    portfolio = Portfolio("paper", Decimal(100_000))
    quiet = {"portfolio": portfolio, "marks": (), "orders": (), "fills": (), "counts": {}, "reaction_us": {}}
    text = printed(capsys, ended("", status=RunStatus.FINISHED, state=TradingState.ACTIVE, **quiet))
    assert "P&L       +0.00" in text
    assert "Orders    none" in text
    for word in ("Failed", "Resume", "Open", "Trading", "Reaction", "What happened"):
        assert word not in text


def test_no_text_is_markup_or_a_command_to_the_terminal(capsys, hostile):
    text = printed(capsys, ended(hostile))
    assert all(mark.isprintable() or mark == "\n" for mark in text)
    assert "[/red]" in text
