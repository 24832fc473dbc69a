"""The report: what it holds, and that no text from outside can change its shape."""

import json
import re

import pytest

from agents.domain import TradingState
from checkpoints.events import Entry
from checkpoints.runs import RunStatus
from checkpoints.trading_state import Trading
from graph.report import write_report


@pytest.fixture
def written(tmp_path):
    def write(result):
        write_report(tmp_path, result)
        return (tmp_path / "report.md").read_text(), json.loads(
            (tmp_path / "report.json").read_text(), parse_constant=pytest.fail
        )

    return write


def headings(text):
    return [line for line in text.splitlines() if line.startswith("#")]


def columns(line):
    """Cells of a table row as a Markdown reader counts them: a bar that is not escaped ends one."""
    return len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) - 1


SECTIONS = ["Findings", "Plan", "Quality gate", "Policy", "Risk", "Orders", "Checkpoints", "Timeline"]


def test_it_holds_the_whole_decision(written, make_result):
    text, data = written(make_result())
    assert headings(text) == ["# trade-SIM-1", *(f"## {name}" for name in SECTIONS)]
    for told in (
        "Status **finished**, decision **BUY**",
        "slope 0.125",
        "100.02",
        "missing: volume",
        "holding 2.5",
        "demo (mlp) said BUY in 4.5 us: fine.",
    ):
        assert told in text
    assert data["decision"] == {"action": "BUY", "quantity": 2.5, "reasons": ["fine"]}
    assert (data["policy"]["policy_id"], data["policy"]["action"], data["policy"]["latency_us"]) == ("demo", "BUY", 4.5)
    assert data["findings"][0]["evidence"] == {"slope": 0.125}
    assert data["portfolio"]["positions"][0]["quantity"] == 2.5
    assert data["plan"]["stop"] == 90.0


def test_a_run_that_came_nowhere(written, make_result):
    text, data = written(
        make_result("no line", status=RunStatus.FAILED, state={}, orders=(), checkpoints=(), timeline=())
    )
    assert "Status **failed**: no line. Resume with `python -m graph.run --resume trade-SIM-1`." in text
    for told in (
        "No plan was made.",
        "The gate was not reached.",
        "The policy was not asked.",
        "No order was asked for.",
    ):
        assert told in text
    assert "Nothing was recorded." in text
    assert (data["plan"], data["gate"]["verdict"], data["policy"]) == (None, None, None)
    assert data["decision"]["action"] == "HOLD"


@pytest.mark.parametrize("status", [RunStatus.FINISHED, RunStatus.FAILED])
def test_no_text_changes_its_shape(written, make_result, hostile, status):
    plain, _ = written(make_result("fine", status=status))
    text, data = written(make_result(hostile, status=status))
    assert headings(text) == headings(plain)
    assert len(text.splitlines()) == len(plain.splitlines())
    for line, model in zip(text.splitlines(), plain.splitlines(), strict=True):
        if model.startswith("|"):
            assert columns(line) == columns(model), line
    assert "<script" not in text
    assert all(mark.isprintable() or mark == "\n" for mark in text)
    assert data["findings"][0]["rationale"] == hostile, "the machine's file has it as it was"


@pytest.fixture
def rough(hostile):
    """The timeline of a run in which trend was answered for, volume is dead, and breakout had no trouble."""

    def rough(text=hostile):
        failed = {"error": text, "error_type": "AgentTimeout", "seconds": 1.0}
        told = [
            ("AttemptStarted", "breakout", {}),
            ("AttemptSucceeded", "breakout", {}),
            ("AttemptStarted", "trend", {}),
            ("AttemptFailed", "trend", failed),
            ("RetryScheduled", "trend", {"delay_seconds": 1.0}),
            ("AttemptStarted", "trend", {}),
            ("AttemptFailed", "trend", failed),
            ("BreakerOpened", "trend", {"reason": text}),
            ("FallbackUsed", "trend", {"link": "trend/rules"}),
            ("AttemptStarted", "trend", {"link": "trend/rules"}),
            ("AttemptSucceeded", "trend", {"link": "trend/rules"}),
            ("CallRejected", "volume", {"reason": "breaker"}),
        ]
        return tuple(Entry("trade-SIM-1", 0, kind, who, detail) for kind, who, detail in told)

    return rough


def test_who_had_trouble_has_a_row_and_nobody_else(written, make_result, rough):
    text, data = written(make_result(timeline=rough("too slow")))
    assert headings(text)[-2:] == ["## Guards", "## Timeline"]
    rows = text.partition("## Guards")[2].partition("## Timeline")[0].strip().splitlines()[2:]
    assert rows == [
        "| trend | 3 | 2 | 0 | 1 | 1 | 1 | AgentTimeout: too slow |",
        "| volume | 0 | 0 | 1 | 0 | 0 | 0 |  |",
    ]
    assert [each["guard"] for each in data["guards"]] == ["trend", "volume"]
    assert data["guards"][0]["fallbacks"] == 1


def test_without_trouble_nothing_is_said_of_guards(written, make_result, rough):
    text, data = written(make_result(timeline=rough()[:2]))
    assert ("## Guards" in text, data["guards"]) == (False, [])


def test_no_error_changes_the_shape_of_the_guards_table(written, make_result, rough):
    plain, _ = written(make_result(timeline=rough("fine")))
    text, _ = written(make_result(timeline=rough()))
    assert headings(text) == headings(plain)
    assert [columns(line) for line in text.splitlines()] == [columns(line) for line in plain.splitlines()]


def test_numbers_that_json_lacks_become_text(written, make_result):
    _, data = written(make_result(value=float("nan")))
    assert data["timeline"][1]["detail"]["open_seconds"] == "inf"
    assert data["gate"]["checks"][0]["value"] == "nan"


def test_a_trading_state_that_is_not_active(written, make_result, hostile):
    halted = Trading(TradingState.HALTED, "operator", "anna", hostile, 0)
    text, data = written(make_result(trading=halted))
    assert "Trading is **HALTED (operator, anna: [/red]" in text
    assert headings(text) == headings(written(make_result())[0])
    assert (data["trading"]["state"], data["trading"]["why"]) == ("halted", hostile)


def test_a_report_is_replaced_in_one_piece(tmp_path, make_result, monkeypatch):
    write_report(tmp_path, make_result("old"))
    before = (tmp_path / "report.md").read_text()

    def full(self, text, **more):
        raise OSError("no space")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        write_report(tmp_path, make_result("new"))
    assert (tmp_path / "report.md").read_text() == before
