"""The verbs of the command line, in this process: what they print, and the code they end with."""

import json
import os
import signal

import pytest

from agents.domain import Finding
from graph.command import Command, execute

pytestmark = pytest.mark.usefixtures("no_waiting")

HOOKS: list = []


def bull(view):
    for hook in HOOKS:
        hook()
    return Finding("bull", 0.8, 0.9, "[red]up[/]\n\x1b[31m")


OURS = {"required": ("tests.graph.test_command:bull",), "optional": (), "gate": {"mean_r_min": -100.0}}


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
    HOOKS.clear()
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def run(tmp_path, capsys):
    """Run a verb in the home of this test; gives the code, and what was printed."""

    def run(verb, subject="", *, home=None, ours=True, flags=None, **more):
        chosen = {"home": home or tmp_path / "home"} | (OURS if ours else {}) | (flags or {})
        code = execute(Command(verb, subject, flags=chosen, **more))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def objects(text):
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


class TestJson:
    def test_a_run(self, run):
        code, out, err = run("workflow", "trade", json=True)
        (one,) = objects(out)
        assert (code, err) == (0, "")
        assert (one["run_id"], one["status"]) == ("trade-SIM-20260101T000000Z-1", "finished")
        assert one["decision"].keys() == {"action", "quantity", "reasons"}
        assert one["decision"]["action"] == "BUY"
        assert one["decision"]["reasons"]
        assert one["gate"]["verdict"] == "approve"
        assert all(check.keys() == {"name", "passed", "value", "limit", "reason"} for check in one["gate"]["checks"])
        (order,) = one["orders"]
        assert order.keys() >= {"client_order_id", "side", "quantity", "price", "status"}
        assert (order["side"], order["status"], order["quantity"]) == ("buy", "filled", one["decision"]["quantity"])
        assert [row["before"] for row in one["checkpoints"]][0::7] == ["start", "end"]
        assert all(row["id"] for row in one["checkpoints"])
        assert (one["resumed_from"], one["resume_command"], one["error"]) == (None, None, None)

    def test_one_object_a_line_for_many(self, run):
        code, out, _ = run("workflow", "trade", symbols=("A", "B"), json=True)
        assert (code, [one["symbol"] for one in objects(out)]) == (0, ["A", "B"])

    def test_the_lists(self, run):
        (one,) = objects(run("workflow", "trade", json=True)[1])
        (row,) = objects(run("runs", json=True)[1])
        assert (row["run_id"], row["status"], row["symbol"]) == (one["run_id"], "finished", "SIM")
        rows = objects(run("checkpoints", one["run_id"], json=True)[1])
        assert rows == one["checkpoints"]
        assert objects(run("workflows", json=True)[1])[0]["name"] == "trade"

    def test_of_nothing(self, run):
        assert run("runs", json=True) == (0, "", "")

    def test_a_resume_says_from_where(self, run):
        (one,) = objects(run("workflow", "trade", json=True)[1])
        for identifier in (one["run_id"], one["checkpoints"][4]["id"]):
            code, out, _ = run("resume", identifier, json=True)
            (again,) = objects(out)
            assert (code, again["resumed_from"], again["orders"]) == (0, identifier, one["orders"])

    def test_hostile_text_is_text(self, run):
        def fail():
            raise ValueError('"}\n{"run_id": "forged"}\x1b[31m')

        HOOKS.append(fail)
        code, out, err = run("workflow", "trade", json=True)
        (one,) = objects(out)
        assert (code, err, one["status"]) == (1, "", "failed")
        assert "forged" in one["error"]
        assert f"--resume {one['run_id']} --home " in one["resume_command"]


class TestPeople:
    def test_a_run(self, run):
        code, out, err = run("workflow", "trade", plain=True)
        assert (code, err) == (0, "")
        for told in (
            "started",
            "bull             done",
            "execution        done",
            "finished",
            "Decision  BUY",
            "Orders",
        ):
            assert told in out
        assert "\x1b" not in out

    def test_many_runs_have_one_line_each(self, run):
        code, out, _ = run("workflow", "trade", symbols=("A", "B"), plain=True)
        ends = [line for line in out.splitlines() if line.startswith("trade-")]
        assert (code, len(ends)) == (0, 2)
        assert all("finished  BUY" in line for line in ends)

    def test_the_lists(self, run):
        assert "no runs yet" in run("runs")[1]
        run("workflow", "trade", plain=True)
        assert "trade-SIM-20260101T000000Z-1" in run("runs")[1]
        assert "quality_gate" in run("checkpoints", "trade-SIM-20260101T000000Z-1")[1]
        assert "trade  research swarm" in run("workflows")[1]

    def test_one_that_failed_says_how_to_go_on(self, run):
        HOOKS.append(lambda: 1 // 0)
        code, out, _ = run("workflow", "trade", plain=True)
        assert code == 1
        assert "Failed    CriticalDegradation" in out
        assert "--resume trade-SIM-20260101T000000Z-1" in out

    @pytest.mark.parametrize("as_json", [True, False])
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_stops_it_in_order_and_it_goes_on(self, run, number, as_json):
        HOOKS.append(lambda: os.kill(os.getpid(), number))
        code, out, err = run(
            "workflow", "trade", symbols=("A", "B"), flags={"concurrency": 1}, json=as_json, plain=True
        )
        assert (code, err) == (3, "stopping after the present step of each run; ask again to stop at once\n")
        HOOKS.clear()
        (row,) = objects(run("runs", json=True)[1])
        assert row["status"] == "stopped"
        assert row["run_id"] in out
        assert run("resume", row["run_id"], json=True)[0] == 0


class TestFaults:
    @pytest.fixture
    def plan(self, tmp_path):
        def plan(text):
            path = tmp_path / "plan.toml"
            path.write_text(text)
            return path

        return plan

    def told(self, run, **more):
        code, out, err = run("workflow", "trade", json=True, **more)
        assert err == ""
        (one,) = objects(out)
        return code, {each["guard"]: each["failed"] for each in one["guards"]}

    def test_a_file_and_flags_add_up(self, run, plan):
        path = plan('[[fault]]\ntarget = "bull"\naction = "error"\nnth = 1\n')
        assert self.told(run) == (0, {})
        assert self.told(run, faults=path) == (0, {"bull": 1})
        assert self.told(run, faults=path, inject=("bull=error@2", "strategy=error@1")) == (
            0,
            {"bull": 2, "strategy": 1},
        )

    def test_the_seed_is_that_of_the_file_or_of_the_flag(self, run, plan):
        half = '[[fault]]\ntarget = "*"\naction = "error"\nrate = 0.5\n'
        of_file = self.told(run, faults=plan("seed = 5\n" + half))
        assert self.told(run, faults=plan(half), fault_seed=5) == of_file
        assert self.told(run, inject=("*=error:0.5",), fault_seed=5) == of_file
        others = [self.told(run, faults=plan(half), fault_seed=seed) for seed in range(4)]
        assert any(each != of_file for each in others)

    @pytest.mark.parametrize(
        "text",
        [
            "this is no plan",
            "sede = 7",
            '[[fault]]\ntarget = "nobody"\naction = "error"',
            '[[fault]]\ntarget = "bull"\naction = "explode"',
            '[[fault]]\ntarget = "bull"\naction = "error"\nnth = 1.5',
            '[[fault]]\ntarget = "bull"\naction = "error"\nrtae = """\n0.3"""',
        ],
    )
    def test_a_bad_plan_is_one_line_and_two(self, run, plan, text):
        for faults in (plan(text), plan(text).with_name("absent.toml")):
            code, out, err = run("workflow", "trade", faults=faults)
            assert (code, out, err.count("\n")) == (2, "", 1)
            assert err.startswith("error: ")
            assert "nothing was run" in err


class TestBadInput:
    @pytest.mark.parametrize(
        "given",
        [
            {"verb": "workflow", "subject": "nope"},
            {"verb": "workflow", "subject": "trade", "symbols": ("a b",)},
            {"verb": "workflow", "subject": "trade", "symbols": ("",)},
            {"verb": "workflow", "subject": "trade", "symbols": ("A\n",)},
            {"verb": "workflow", "subject": "trade", "symbols": ("A", "A")},
            {"verb": "workflow", "subject": "trade", "inject": ("nonsense",)},
            {"verb": "workflow", "subject": "trade", "inject": ("bull=explode",)},
            {"verb": "workflow", "subject": "trade", "inject": ("nobody=kill",)},
            {"verb": "workflow", "subject": "trade", "inject": ("bull=error:2",)},
            {"verb": "workflow", "subject": "trade", "flags": {"concurrency": 0}},
            {"verb": "workflow", "subject": "trade", "flags": {"required": ("nobody",)}},
            {"verb": "resume", "subject": "nobody"},
            {"verb": "resume", "subject": "../../etc/passwd"},
            {"verb": "resume", "subject": "x\n\x1b[31m"},
            {"verb": "checkpoints", "subject": "nobody"},
            {"verb": "checkpoints", "subject": "'; DROP TABLE runs"},
        ],
    )
    @pytest.mark.parametrize("as_json", [True, False])
    def test_one_line_and_two(self, run, given, as_json):
        code, out, err = run(**given, json=as_json)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert err.strip().isprintable()

    def test_files(self, run, tmp_path):
        (tmp_path / "home is a file").write_text("")
        (tmp_path / "bad.csv").write_text("nonsense\n")
        for more in (
            {"home": tmp_path / "home is a file"},
            {"config": tmp_path / "none.toml"},
            {"symbols": ("X",), "data": (tmp_path / "none.csv",)},
            {"symbols": ("X",), "data": (tmp_path / "bad.csv",)},
            {"data": (tmp_path / "bad.csv",)},
        ):
            code, out, err = run("workflow", "trade", **more)
            assert (code, out, err.count("\n")) == (2, "", 1), more
            assert err.startswith("error: ")

    def test_a_database_that_is_none_is_a_failure(self, run, tmp_path):
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "holdfast.db").write_text("this is no database, and it is long enough to be seen as such")
        code, out, err = run("runs")
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert "not an SQLite database" in err
