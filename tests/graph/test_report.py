"""The report: what it holds, and that no text from outside can change its shape."""

import json
import re

import pytest

from checkpoints.runs import RunStatus
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


SECTIONS = ["Findings", "Plan", "Quality gate", "Risk", "Orders", "Checkpoints", "Timeline"]


def test_it_holds_the_whole_decision(written, make_result):
    text, data = written(make_result())
    assert headings(text) == ["# trade-SIM-1", *(f"## {name}" for name in SECTIONS)]
    for told in (
        "Status **finished**, decision **BUY**",
        "slope 0.125",
        "100.02",
        "missing: volume",
        "holding 2.5",
    ):
        assert told in text
    assert data["decision"] == {"action": "BUY", "quantity": 2.5, "reasons": ["fine"]}
    assert data["findings"][0]["evidence"] == {"slope": 0.125}
    assert data["portfolio"]["positions"][0]["quantity"] == 2.5
    assert data["plan"]["stop"] == 90.0


def test_a_run_that_came_nowhere(written, make_result):
    text, data = written(
        make_result("no line", status=RunStatus.FAILED, state={}, orders=(), checkpoints=(), timeline=())
    )
    assert "Status **failed**: no line. Resume with `python -m graph.run --resume trade-SIM-1`." in text
    for told in ("No plan was made.", "The gate was not reached.", "No order was asked for.", "Nothing was recorded."):
        assert told in text
    assert (data["plan"], data["gate"]["verdict"], data["decision"]["action"]) == (None, None, "HOLD")


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


def test_numbers_that_json_lacks_become_text(written, make_result):
    _, data = written(make_result(value=float("nan")))
    assert data["timeline"][1]["detail"]["open_seconds"] == "inf"
    assert data["gate"]["checks"][0]["value"] == "nan"


def test_a_report_is_replaced_in_one_piece(tmp_path, make_result, monkeypatch):
    write_report(tmp_path, make_result("old"))
    before = (tmp_path / "report.md").read_text()

    def full(self, text, **more):
        raise OSError("no space")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError, match="no space"):
        write_report(tmp_path, make_result("new"))
    assert (tmp_path / "report.md").read_text() == before
