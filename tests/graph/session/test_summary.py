"""What is printed when a session is over: every field, on lines that no text can break."""

from dataclasses import replace
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
        "nobody watches its stop until the session is gone on with",
        "Report    not written",
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
    for word in ("Failed", "Resume", "Open", "Trading", "Reaction", "In this process"):
        assert word not in text


def test_what_stays_open_after_a_session_that_is_over_is_to_be_closed(capsys):
    text = printed(capsys, ended(status=RunStatus.FINISHED))
    assert 'close it by: python -m graph.run halt --flatten --reason "WHY"' in text


def test_a_report_that_is_there_is_named(capsys, tmp_path):
    (tmp_path / "report.html").touch()
    assert f"Report    {tmp_path / 'report.html'}" in printed(capsys, ended(folder=tmp_path))


@pytest.mark.parametrize(("speed", "failed", "told"), [(600.0, 3, True), (600.0, 0, False), (60.0, 3, False)])
def test_decisions_that_had_no_time_are_explained(capsys, speed, failed, told):
    begun = replace(ended().run, parameters={"session": {"speed": speed}})
    text = printed(capsys, ended(run=begun, counts={"slow_failed": failed}))
    assert ("Late      at --speed 600" in text) is told


def test_no_text_is_markup_or_a_command_to_the_terminal(capsys, hostile):
    text = printed(capsys, ended(hostile))
    assert all(mark.isprintable() or mark == "\n" for mark in text)
    assert "[/red]" in text
