"""What is printed at the end: complete, in lines that can be copied, and proof against any text."""

from dataclasses import replace

import pytest

from agents.domain import PolicyAnswer, TradingAction, TradingState
from checkpoints.events import Entry
from checkpoints.runs import Run, RunStatus
from checkpoints.trading_state import Trading
from graph import summary
from graph.workflow import WORKFLOWS


def printed(capsys, show, *arguments, **more):
    show(*arguments, **more)
    return capsys.readouterr().out


def test_a_finished_run(capsys, make_result):
    text = printed(capsys, summary.print_result, make_result())
    assert "Run       trade-SIM-1 (finished)" in text
    assert "Decision  BUY 2.5 SIM at 100.02" in text
    assert "          fine\n" in text
    assert "Policy    demo (mlp) said BUY in 4.5 us: fine\n" in text
    for told in ("Quality gate: approve", "coverage", make_result().orders[0].client_order_id, "c1", "start", "end"):
        assert told in text


def test_who_had_trouble(capsys, make_result, hostile):
    failed = {"error": hostile, "error_type": "AgentTimeout"}
    told = (("AttemptStarted", {}), ("AttemptFailed", failed), ("RetryScheduled", {}), ("AttemptStarted", {}))
    timeline = tuple(Entry("trade-SIM-1", 0, kind, "trend", detail) for kind, detail in told)
    text = printed(capsys, summary.print_result, make_result(timeline=timeline))
    table = text.partition("Guards (who had trouble)")[2]
    assert table.split("Checkpoints")[0].split()[10:17] == ["trend", "2", "1", "0", "1", "0", "0"]
    assert "AgentTimeout: [/red]" in table
    assert "Guards" not in printed(capsys, summary.print_result, make_result())


def test_a_policy_that_stood_in_for_another(capsys, make_result):
    answer = PolicyAnswer("x", "fallback_hold_cash", TradingAction.HOLD, "why", 0.3, is_fallback=True)
    text = printed(capsys, summary.print_result, make_result(state={"policy": answer}))
    assert "Policy    x (fallback_hold_cash, in place of the policy that was named) said HOLD in 0.3 us: why\n" in text
    assert "Policy" not in printed(capsys, summary.print_result, make_result(state={}))


def test_a_run_that_traded_nothing(capsys, make_result):
    text = printed(capsys, summary.print_result, make_result(orders=()))
    assert "Decision  HOLD SIM" in text
    assert "Orders" not in text


def test_a_failed_run_says_why_and_how_to_go_on(capsys, make_result):
    error = "no line " * 60
    text = printed(capsys, summary.print_result, make_result(error, status=RunStatus.FAILED))
    assert f"Failed    {error.strip()}\n" in text
    assert "Resume    python -m graph.run --resume trade-SIM-1" in text


def test_a_stopped_run(capsys, make_result):
    text = printed(capsys, summary.print_result, make_result(status=RunStatus.STOPPED, state={}))
    assert "Stopped   before the next step" in text
    assert "--resume trade-SIM-1" in text


@pytest.mark.parametrize("status", list(RunStatus))
def test_brief_is_one_line(capsys, make_result, hostile, status):
    text = printed(capsys, summary.print_line, summary.brief(make_result(hostile * 5, status=status)))
    assert len(text.splitlines()) == 1
    assert text.startswith(f"trade-SIM-1  {status}  BUY 2.5 SIM at 100.02")


@pytest.mark.parametrize("status", list(RunStatus))
def test_no_text_is_markup_or_a_command_to_the_terminal(capsys, make_result, hostile, status):
    text = printed(capsys, summary.print_result, make_result(hostile, status=status))
    assert all(mark.isprintable() or mark == "\n" for mark in text)
    assert "[/red]" in text
    assert "[bold]" in text


def run(**more):
    return replace(Run("trade-SIM-1", "trade", "SIM", 0, "paper", RunStatus.FAILED, {}, {}, "", 0, 0), **more)


def test_the_registry(capsys, hostile):
    halted = Trading(TradingState.HALTED, "operator", hostile, hostile, 0)
    text = printed(capsys, summary.print_runs, [run(run_id="a" * 64), run(error=hostile)], halted)
    assert text.startswith("Trading   HALTED (operator, [/red]")
    assert "a" * 64 in text
    assert "1970-01-01T00:00:00+00:00" in text
    assert "\x1b" not in text
    active = replace(halted, state=TradingState.ACTIVE)
    assert printed(capsys, summary.print_runs, [], active).startswith("Trading   ACTIVE\nno runs yet")


def test_a_run_whose_row_is_damaged_is_listed_with_what_is_wrong(capsys):
    damaged = run(run_id="r-1", status=RunStatus.DAMAGED, error="a stored run is damaged ('r-1')", created_ns=0)
    text = printed(capsys, summary.print_runs, [damaged, run(run_id="r-2")], ACTIVE)
    assert "r-2" in text
    assert "damaged" in text
    line = next(line for line in text.splitlines() if "r-1" in line)
    assert "1970" not in line


def test_a_run_tells_the_trading_state_where_it_is_not_active(capsys, make_result, hostile):
    halted = Trading(TradingState.HALTED, "operator", "anna", hostile, 0)
    text = printed(capsys, summary.print_result, make_result(trading=halted))
    assert "Trading   HALTED (operator, anna: [/red]" in text
    assert "\x1b" not in text
    for trading in (None, replace(halted, state=TradingState.ACTIVE)):
        assert "Trading" not in printed(capsys, summary.print_result, make_result(trading=trading))


def test_checkpoints_and_workflows(capsys, make_result):
    text = printed(capsys, summary.print_checkpoints, run(), make_result().checkpoints)
    assert "trade-SIM-1 (failed)" in text
    assert "start" in text
    assert "trade  research swarm" in printed(capsys, summary.print_workflows, WORKFLOWS.values())


def test_a_reader_that_has_gone_is_told_as_such(monkeypatch):
    console = summary.console_of()

    def gone(*_):
        raise BrokenPipeError

    monkeypatch.setattr(console, "_write_buffer", gone)
    with pytest.raises(BrokenPipeError):
        console.print("hello")


ACTIVE = Trading(TradingState.ACTIVE, "new", "", "", 0)


class TestTree:
    def drawn(self, capsys, *runs):
        text = printed(capsys, summary.print_runs, list(runs), ACTIVE)
        lines = [line for line in text.splitlines() if "r-" in line]
        return [line[: line.index("r-") + 3].removeprefix("  ") for line in lines]

    def test_forks_stand_under_what_they_came_from(self, capsys):
        runs = [
            run(run_id="r-1"),
            run(run_id="r-2"),
            run(run_id="r-3", forked_from="r-1"),
            run(run_id="r-4", forked_from="r-2"),
            run(run_id="r-5", forked_from="r-3"),
            run(run_id="r-6", forked_from="r-1"),
        ]
        assert self.drawn(capsys, *runs) == ["r-1", "└ r-3", "  └ r-5", "└ r-6", "r-2", "└ r-4"]

    def test_every_run_is_listed_once_whatever_it_says_of_itself(self, capsys):
        runs = [
            run(run_id="r-1", forked_from="r-2"),
            run(run_id="r-2", forked_from="r-1"),
            run(run_id="r-3", forked_from="r-3"),
            run(run_id="r-4", forked_from="gone"),
        ]
        assert sorted(line[-3:] for line in self.drawn(capsys, *runs)) == ["r-1", "r-2", "r-3", "r-4"]

    def test_a_long_line_of_forks(self, capsys):
        runs = [run(run_id=f"r-{number}", forked_from=f"r-{number - 1}") for number in range(3_000)]
        assert len(summary._tree(runs)) == 3_000
        assert summary._tree(runs)[-1] == (2_999, runs[-1])

    def test_what_is_dry_says_so(self, capsys):
        dry = run(dry=True, status=RunStatus.FINISHED)
        assert "finished, dry" in printed(capsys, summary.print_runs, [dry], ACTIVE)
        assert "dry" not in printed(capsys, summary.print_runs, [replace(dry, status=RunStatus.IMPORTED)], ACTIVE)
