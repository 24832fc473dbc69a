"""The verbs of the command line, in this process: what they print, and the code they end with."""

import json
import os
import signal
import sqlite3
from contextlib import closing

import pytest

from agents.domain import Finding
from agents.risk import RiskLimits, explain_limits
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
        assert (one["policy"]["policy_id"], one["policy"]["action"]) == ("demo_mlp", "BUY")
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


class TestPolicy:
    @pytest.mark.parametrize(
        ("name", "kind", "action"),
        [("rule", "rule", "BUY"), ("hold-cash", "hold_cash", "HOLD"), ("demo", "mlp", "BUY")],
    )
    def test_it_is_named_by_a_setting(self, run, monkeypatch, name, kind, action):
        monkeypatch.setenv("HOLDFAST_POLICY", name)
        code, out, err = run("workflow", "trade", json=True)
        (one,) = objects(out)
        assert (code, err, one["decision"]["action"], one["policy"]["policy_type"]) == (0, "", action, kind)

    def test_one_that_cannot_be_used_is_warned_of_and_trades_nothing(self, run, tmp_path):
        code, out, err = run("workflow", "trade", json=True, flags={"policy": str(tmp_path / "gone")})
        (one,) = objects(out)
        assert (code, one["decision"]["action"], one["policy"]["is_fallback"]) == (0, "HOLD", True)
        assert err.startswith(f"warning: policy {tmp_path / 'gone'} cannot be used: ")
        assert err.count("\n") == 1

    def test_who_only_looks_loads_none(self, run, tmp_path):
        run("workflow", "trade")
        for verb, subject in (("runs", ""), ("checkpoints", "trade-SIM-20260101T000000Z-1"), ("limits", "")):
            code, _, err = run(verb, subject, flags={"policy": str(tmp_path / "gone")})
            assert (code, err) == (0, ""), verb


class TestLimits:
    def test_every_limit_with_its_value_and_where_it_comes_from(self, run, tmp_path, monkeypatch):
        (tmp_path / "given.toml").write_text("[risk]\norder_notional_max = 5\nreject_streak_max = 2\n")
        monkeypatch.setenv("HOLDFAST_RISK__REJECT_STREAK_MAX", "3")
        monkeypatch.setenv("HOLDFAST_RISK__RESTRICTED", "gme, AMC")
        code, out, err = run("limits", config=tmp_path / "given.toml", json=True)
        found = {each.pop("name"): each for each in objects(out)}
        assert (code, err, list(found)) == (0, "", [each.name for each in explain_limits(RiskLimits())])
        assert all(each["unit"] and each["meaning"] and len(each) == 4 for each in found.values())
        told = {name: (each["value"], each["source"]) for name, each in found.items()}
        assert told["order_notional_max"] == (5.0, "file")
        assert told["reject_streak_max"] == (3, "environment")
        assert told["restricted"] == (["AMC", "GME"], "environment")
        assert told["quantity_max"] == (None, "default")
        assert told["quantity_step"] == (0.0001, "default")

    def test_for_people(self, run, tmp_path, monkeypatch):
        monkeypatch.setenv("HOLDFAST_RISK__RESTRICTED", "gme,AMC")
        code, out, err = run("limits")
        rows = {line.split()[0]: " ".join(line.split()) for line in out.splitlines() if line.strip()}
        assert (code, err) == (0, "")
        assert rows["daily_loss_share_max"].endswith(
            " 0.03 share of equity default loss since the day of the order's market began"
        )
        assert rows["restricted"].startswith("restricted AMC, GME symbols environment ")
        assert rows["quantity_max"].startswith("quantity_max none units default ")
        assert not (tmp_path / "home").exists()

    def test_of_a_bad_file(self, run, tmp_path):
        (tmp_path / "given.toml").write_text("[risk]\ndaily_loss_share_max = 3\n")
        code, out, err = run("limits", config=tmp_path / "given.toml", json=True)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "a share of 30 % is written 0.3" in err


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

    def test_a_database_that_is_none_is_put_aside_and_told_in_one_line(self, run, tmp_path):
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "holdfast.db").write_text("this is no database, and it is long enough to be seen as such")
        code, out, err = run("runs", json=True)
        assert (code, out, err.count("\n")) == (0, "", 1)
        assert err.startswith("warning: holdfast.db was damaged (file is not a database), is kept as holdfast.db.corru")
        assert run("runs", json=True) == (0, "", "")


class TestLost:
    """A run that another process has taken over while this one was paused."""

    def test_it_is_told_in_one_line_and_can_be_gone_on_with(self, run, tmp_path):
        def taken_over():
            with closing(sqlite3.connect(tmp_path / "home" / "holdfast.db")) as connection, connection:
                connection.execute("UPDATE runs SET token = token + 1, leased_until_ns = 0, owner = 'other:1'")

        HOOKS.append(taken_over)
        run_id = "trade-SIM-20260101T000000Z-1"
        for command in (("workflow", "trade"), ("resume", run_id)):
            code, out, err = run(*command, json=True)
            assert (code, out, err.count("\n")) == (3, "", 1)
            assert err.startswith(f"error: run {run_id} was taken over by other:1; nothing more was written by this")
        HOOKS.clear()
        assert run("resume", run_id, json=True)[0] == 0
        log = (tmp_path / "home" / "failures.log").read_text()
        assert [json.loads(line)["event"] for line in log.splitlines()].count("RunLost") == 2


class TestForks:
    @pytest.fixture
    def first(self, run):
        return objects(run("workflow", "trade", json=True)[1])[0]

    def test_dry_and_with_orders(self, run, first):
        at = first["checkpoints"][4]["id"]
        code, out, err = run("fork", at, json=True)
        (dry,) = objects(out)
        assert (code, err, dry["status"], dry["dry"]) == (0, "", "finished", True)
        assert (dry["forked_from"], dry["forked_at"]) == (first["run_id"], at)
        assert (dry["decision"]["action"], dry["orders"][0]["status"]) == ("HOLD", "denied")
        assert [row["before"] for row in dry["checkpoints"]] == ["quality_gate", "execution", "end"]
        (wet,) = objects(run("fork", at, orders=True, json=True)[1])
        assert (wet["dry"], wet["decision"]["action"], wet["orders"][0]["status"]) == (False, "BUY", "filled")
        assert objects(run("checkpoints", dry["run_id"], json=True)[1]) == dry["checkpoints"]

    def test_with_a_settings_file(self, run, first, tmp_path):
        other = tmp_path / "other.toml"
        other.write_text("concurrency = 3\n[strategy]\nweight_max = 0.01\n")
        (fork,) = objects(run("fork", first["checkpoints"][4]["id"], config=other, json=True)[1])
        assert fork["orders"][0]["quantity"] < first["decision"]["quantity"] / 2
        (shown,) = objects(run("show", fork["run_id"], json=True)[1])
        assert shown["settings"]["strategy"]["weight_max"] == 0.01
        assert shown["settings"]["gate"]["mean_r_min"] == -100.0

    def test_what_people_see(self, run, first):
        code, out, _ = run("fork", first["checkpoints"][4]["id"], plain=True)
        assert code == 0
        for told in (f"{first['run_id'][:-1]}2  forked", f"Forked    from {first['run_id']} at ", "Dry       it can"):
            assert told in out
        assert "dry fork: buy" in out
        tree = [line.split()[:3] for line in run("runs")[1].splitlines() if "trade-SIM" in line]
        assert tree == [[first["run_id"], "finished", "SIM"], ["└", f"{first['run_id'][:-1]}2", "finished,"]]
        rows = objects(run("runs", json=True)[1])
        assert [(row["forked_from"], row["dry"]) for row in rows] == [(None, False), (first["run_id"], True)]

    @pytest.mark.parametrize("as_json", [True, False])
    def test_what_cannot_be_forked_is_one_line_and_two(self, run, first, as_json, tmp_path):
        (tmp_path / "bad.toml").write_text("weight_max = 1")
        end = first["checkpoints"][-1]["id"]
        for subject, more in (
            ("nobody", {}),
            (first["run_id"], {}),
            (end, {}),
            (end, {"config": tmp_path / "bad.toml"}),
            (end, {"config": tmp_path / "none.toml"}),
        ):
            code, out, err = run("fork", subject, json=as_json, **more)
            assert (code, out, err.count("\n")) == (2, "", 1), subject
            assert err.startswith("error: ")
        assert len(objects(run("runs", json=True)[1])) == 1


class TestHousekeeping:
    def test_there_and_back_and_pruned(self, run, tmp_path):
        (one,) = objects(run("workflow", "trade", json=True)[1])
        run_id, file = one["run_id"], tmp_path / "run.hold"
        assert run("export", run_id, to=file)[:2] == (0, f"exported {run_id} (finished) to {file}, {size_of(file)}\n")
        (told,) = objects(run("export", run_id, to=tmp_path / "again", json=True)[1])
        assert told["bytes"] == (tmp_path / "again").stat().st_size
        there = {"home": tmp_path / "elsewhere"}
        (taken,) = objects(run("import", str(file), json=True, **there)[1])
        assert (taken["run_id"], taken["status"], taken["dry"]) == (run_id, "imported", True)
        assert "(imported)" in run("show", run_id, **there)[1]
        assert run("resume", run_id, **there)[0] == 2
        assert "1 run pruned, " in run("prune", keep="0m")[1]
        assert run("runs", json=True) == (0, "", "")
        (pruned,) = objects(run("prune", keep="0m", json=True)[1])
        assert (pruned["pruned"], pruned["dry_run"]) == ([], False)
        assert objects(run("show", run_id, json=True)[1])[0]["status"] == "pruned"

    @pytest.mark.parametrize("as_json", [True, False])
    def test_refusals_are_one_line(self, run, tmp_path, as_json):
        (one,) = objects(run("workflow", "trade", json=True)[1])
        (tmp_path / "there").write_text("x")
        for code, given in (
            (2, ("show", "nobody", {})),
            (2, ("show", "../x", {})),
            (2, ("prune", "", {"keep": "7"})),
            (2, ("prune", "", {"keep": ""})),
            (2, ("export", "nobody", {"to": tmp_path / "new"})),
            (1, ("export", one["run_id"], {"to": tmp_path / "there"})),
            (1, ("export", one["run_id"], {"to": tmp_path})),
            (2, ("import", str(tmp_path / "there"), {})),
            (2, ("import", str(tmp_path / "none"), {})),
            (2, ("import", "\x1b[31m", {})),
            (2, ("resume", "nobody", {})),
        ):
            verb, subject, more = given
            done, out, err = run(verb, subject, json=as_json, **more)
            assert (done, out, err.count("\n")) == (code, "", 1), given
            assert err.strip().isprintable()
        assert (tmp_path / "there").read_text() == "x"


def size_of(path):
    return f"{path.stat().st_size / 1e3:,.1f} kB"
