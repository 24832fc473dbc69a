"""The command line itself: its flags in this process, and a few true processes for what only those can show."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from graph import command, run

ROOT = Path(__file__).resolve().parents[2]


def shell(*arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    return process(sys.executable, "-m", "graph.run", *map(str, arguments), env=environment)


def process(*line, **more):
    return subprocess.run(line, check=False, capture_output=True, text=True, cwd=ROOT, timeout=60, **more)


@pytest.fixture
def main(monkeypatch, capsys):
    """Call the entry point; gives the exit code and what was printed."""

    def main(*arguments):
        monkeypatch.setattr(sys, "argv", ["holdfast", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            run.main()
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err

    return main


@pytest.fixture
def parsed(monkeypatch, main):
    """What a command line is parsed to."""

    def parsed(*arguments):
        taken = []
        monkeypatch.setattr(command, "execute", lambda each: taken.append(each) or 0)
        assert main(*arguments) == (0, "", "")
        return taken[0]

    return parsed


class TestFlags:
    def test_everything_reaches_the_command(self, parsed):
        line = "--workflow trade --symbol A --symbol B --data a.csv --data b.csv --inject a=kill"
        more = (
            "--faults plan.toml --fault-seed 3 --concurrency 2 --calendar XNYS --home /h --database sqlite:///x"
            " --config c.toml --plain --json"
        )
        flags = {"home": Path("/h"), "database": "sqlite:///x", "concurrency": 2, "calendar": "XNYS"}
        assert parsed(*line.split(), *more.split()) == command.Command(
            verb="workflow",
            subject="trade",
            symbols=("A", "B"),
            data=(Path("a.csv"), Path("b.csv")),
            inject=("a=kill",),
            faults=Path("plan.toml"),
            fault_seed=3,
            config=Path("c.toml"),
            flags=flags,
            plain=True,
            json=True,
        )

    @pytest.mark.parametrize(
        ("line", "verb", "subject"),
        [
            ("--resume x", "resume", "x"),
            ("--checkpoints x", "checkpoints", "x"),
            ("--runs", "runs", ""),
            ("--workflows", "workflows", ""),
            ("--activate seen", "activate", "seen"),
            ("--limits", "limits", ""),
            ("--fork x", "fork", "x"),
            ("--show x", "show", "x"),
            ("--prune --keep 7d", "prune", ""),
            ("--export x --to f", "export", "x"),
            ("--import f", "import", "f"),
        ],
    )
    def test_the_other_verbs(self, parsed, line, verb, subject):
        taken = parsed(*line.split())
        assert (taken.verb, taken.subject, taken.symbols, taken.seed) == (verb, subject, (), 7)

    def test_what_belongs_to_one_verb(self, parsed):
        fork = parsed("--fork", "x", "--orders", "--config", "c.toml", "--inject", "a=kill")
        assert (fork.orders, fork.config, fork.inject) == (True, Path("c.toml"), ("a=kill",))
        prune = parsed("--prune", "--keep", "12h", "--dry-run")
        assert (prune.keep, prune.dry_run, prune.orders) == ("12h", True, False)
        assert parsed("--export", "x", "--to", "a b").to == Path("a b")

    @pytest.mark.parametrize("code", [0, 1, 2, 3])
    def test_the_code_is_the_commands(self, main, monkeypatch, code):
        monkeypatch.setattr(command, "execute", lambda _: code)
        assert main("--runs")[0] == code

    @pytest.mark.parametrize(
        "line",
        [
            "--runs --workflow trade",
            "--runs --activate seen",
            "--resume a --checkpoints b",
            "--json",
            "--runs --symbol A",
            "--resume x --data y",
            "--runs --inject a=kill",
            "--runs --faults plan.toml",
            "--show x --inject a=kill",
            "--resume x --orders",
            "--workflow trade --orders",
            "--prune",
            "--prune --dry-run",
            "--runs --keep 7d",
            "--runs --dry-run",
            "--export x",
            "--export",
            "--import",
            "--import f --to g",
            "--fork x --resume y",
            "--workflow trade --fault-seed 3",
            "--workflow trade --inject a=kill --fault-seed x",
            "--bogus",
            "--runs extra",
            "--home",
            "--workflow trade --seed x",
            "--workflow trade --concurrency x",
            "--workflow trade --concurrency 1.5",
        ],
    )
    def test_a_bad_line_is_one_line_and_two(self, main, line):
        code, out, err = main(*line.split())
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("error: ")

    def test_an_empty_name_is_a_name(self, main, tmp_path):
        for verb in ("--workflow", "--resume", "--checkpoints", "--fork", "--show", "--import"):
            code, _, err = main(verb, "", "--home", tmp_path)
            assert (code, err.count("\n")) == (2, 1)

    def test_nothing_asked_for_is_told_what_there_is(self, main):
        code, _, err = main()
        assert code == 2
        assert "--workflow" in err


class TestProcesses:
    def test_help_is_complete_and_light(self):
        shown = shell("--help")
        assert (shown.returncode, shown.stderr) == (0, "")
        for flag in ("--workflow", "--resume", "--fork", "--prune", "--inject", "--checkpoints", "Exit codes"):
            assert flag in shown.stdout
        assert max(map(len, shown.stdout.splitlines())) <= 120
        code = "import sys, graph.run; print([m for m in ('langgraph', 'numpy', 'sqlalchemy') if m in sys.modules])"
        assert process(sys.executable, "-c", code).stdout.strip() == "[]"

    def test_killed_inside_a_node_listed_and_resumed_with_one_order(self, tmp_path):
        killed = shell("--workflow", "trade", "--json", "--inject", "execution=kill", "--home", tmp_path)
        assert (killed.returncode, killed.stdout) == (-9, "")
        listed = shell("--runs", "--json", "--home", tmp_path)
        row = json.loads(listed.stdout)
        assert (listed.returncode, row["status"]) == (0, "interrupted")
        resumed = shell("--resume", row["run_id"], "--json", "--home", tmp_path)
        assert (resumed.returncode, resumed.stderr) == (0, "")
        one = json.loads(resumed.stdout)
        assert (one["status"], one["resumed_from"], len(one["orders"])) == ("finished", row["run_id"], 1)
        assert one["orders"][0]["status"] == "filled"

    def test_a_usage_error_and_a_reader_that_goes(self, tmp_path):
        wrong = shell("--workflow", "trade", "--concurrency", "0", "--home", tmp_path)
        assert (wrong.returncode, wrong.stdout, wrong.stderr.count("\n")) == (2, "", 1)
        line = f"{sys.executable} -m graph.run --workflow trade --plain --home {tmp_path}"
        piped = process("bash", "-c", f"{line} | head -1; echo ${{PIPESTATUS[0]}}")
        assert piped.stderr == ""
        assert piped.stdout.splitlines()[-1] == "0"
