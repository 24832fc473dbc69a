"""What is seen while runs run: the states of the board, the lines, and that no text can break them."""

import io

import pytest
from rich.console import Console

from checkpoints.events import Entry
from graph import progress as module
from graph.progress import Board, progress


def entry(kind, subject="trend", run_id="run-1", **detail):
    return Entry(run_id, 0, kind, subject, detail)


STARTED = entry("AttemptStarted", attempt=1)
FAILED = entry("AttemptFailed", attempt=1, seconds=0.25, error="no line", error_type="ConnectionError")


def state_after(*entries):
    board = Board(["trend", "volume"])
    for each in entries:
        board.take(each)
    return board.runs["run-1"]["trend"].state


@pytest.mark.parametrize(
    ("entries", "state"),
    [
        ([entry("RunStarted", "")], "waiting"),
        ([STARTED], "running"),
        ([STARTED, entry("AttemptSucceeded", attempt=1, seconds=0.1)], "done"),
        ([STARTED, FAILED], "failed: ConnectionError"),
        ([STARTED, FAILED, entry("RetryScheduled", attempt=1, delay_seconds=1.25)], "retry in 1.2 s"),
        ([STARTED, FAILED, entry("AttemptStarted", attempt=2)], "attempt 2"),
        (
            [STARTED, FAILED, entry("AttemptStarted", attempt=2), entry("AttemptSucceeded", attempt=2, seconds=1.0)],
            "done at attempt 2",
        ),
        ([STARTED, FAILED, entry("AttemptStarted", attempt=1, link="trend/rules")], "fallback rules"),
        (
            [
                entry("AttemptStarted", attempt=1, link="trend/rules"),
                entry("AttemptSucceeded", attempt=1, seconds=0.1, link="trend/rules"),
            ],
            "done by fallback rules",
        ),
        ([entry("CallRejected", reason="breaker")], "refused by its breaker"),
        ([entry("SomethingNew", odd=1)], "waiting"),
    ],
)
def test_the_states_of_a_row(entries, state):
    assert state_after(*entries) == state


def test_runs_have_rows_of_their_own_and_end():
    board = Board(["trend"])
    for run_id in ("run-1", "run-2"):
        board.take(entry("RunStarted", "", run_id))
    board.take(entry("AttemptStarted", run_id="run-2", attempt=1))
    board.take(entry("RunFailed", "", "run-2", error="x"))
    assert board.runs["run-1"]["trend"].state == "waiting"
    assert board.ended == {"run-2": "failed"}


def test_a_step_that_was_not_announced_gets_a_row():
    board = Board(["trend"])
    board.take(entry("AttemptStarted", "broker", attempt=1))
    assert list(board.runs["run-1"]) == ["trend", "broker"]


class TestLines:
    def lines(self, capsys, *entries, runs=1):
        with progress(["trend"], runs, plain=True, silent=False) as watch:
            for each in entries:
                watch(each)
        return [line[12:] for line in capsys.readouterr().out.splitlines()]

    def test_one_line_for_each_change(self, capsys):
        told = self.lines(
            capsys,
            entry("RunStarted", ""),
            STARTED,
            entry("FaultInjected", action="error"),
            FAILED,
            entry("RetryScheduled", attempt=1, delay_seconds=1.0),
            entry("AttemptStarted", attempt=2),
            entry("AttemptSucceeded", attempt=2, seconds=0.5),
            entry("BreakerOpened", reason="5 failures", open_seconds=60.0),
            entry("CallRejected", reason="breaker"),
            entry("TimedOut", attempt=1),
            entry("RunFinished", "", error=""),
        )
        assert told == [
            "run-1  started",
            "trend            running",
            "trend            fault injected: error",
            "trend            failed: ConnectionError  (250.0 ms)  no line",
            "trend            retry in 1.0 s",
            "trend            done at attempt 2  (500.0 ms)",
            "trend            breaker opened: 5 failures",
            "trend            refused by its breaker",
            "run-1  finished",
        ]

    def test_with_many_runs_each_line_names_its_own(self, capsys):
        assert self.lines(capsys, STARTED, runs=2) == ["run-1  trend            running"]

    def test_no_text_breaks_a_line(self, capsys, hostile):
        told = self.lines(capsys, entry("AttemptFailed", attempt=1, seconds=0.1, error=hostile, error_type="Bad"))
        assert len(told) == 1
        assert told[0].isprintable()

    def test_a_reader_that_has_gone_stops_nobody(self, monkeypatch):
        class Gone(io.StringIO):
            def write(self, text):
                raise BrokenPipeError

        monkeypatch.setattr("sys.stdout", Gone())
        with progress(["trend"], 1, plain=True, silent=False) as watch:
            watch(STARTED)

    def test_silent_is_nobody(self, capsys):
        with progress(["trend"], 1, plain=False, silent=True) as watch:
            assert watch is None
        assert capsys.readouterr().out == ""


class TestTable:
    @staticmethod
    def shown(renderable):
        console = Console(file=io.StringIO(), width=100, force_terminal=False)
        console.print(renderable)
        return console.file.getvalue()

    def test_one_run_shows_its_steps(self):
        board = Board(["trend", "volume"])
        board.take(entry("RunStarted", ""))
        board.take(STARTED)
        board.take(FAILED)
        text = self.shown(module._detail(board))
        assert "run-1" in text
        assert "failed: ConnectionError" in text
        assert "250.0 ms" in text
        assert "waiting" in text

    def test_before_anything_has_started(self):
        assert "starting" in self.shown(module._detail(Board(["trend"])))

    def test_many_runs_show_who_is_busy(self):
        board = Board(["trend"])
        for run_id in ("run-1", "run-2", "run-3"):
            board.take(entry("RunStarted", "", run_id))
        board.take(entry("AttemptStarted", run_id="run-2", attempt=3))
        board.take(entry("RunFinished", "", "run-1"))
        text = self.shown(module._overview(board, 4))
        assert "1 of 4 runs ended" in text
        assert "attempt 3" in text
        assert "run-1" not in text

    def test_markup_and_control_characters_are_text(self, hostile):
        board = Board(["trend"])
        board.take(STARTED)
        board.take(entry("AttemptFailed", attempt=1, seconds=0.1, error=hostile, error_type=hostile))
        for renderable in (module._detail(board), module._overview(board, 1)):
            text = self.shown(renderable)
            assert "\x1b" not in text
        assert "[/red]" in self.shown(module._detail(board))

    def test_on_a_terminal_the_table_is_live(self, monkeypatch, capsys):
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        with progress(["trend"], 1, plain=False, silent=False) as watch:
            watch(STARTED)
            watch(entry("AttemptSucceeded", attempt=1, seconds=0.1))
        assert "done" in capsys.readouterr().out
