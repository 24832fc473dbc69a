"""The operator's controls in a home folder: what they do, what they print, and what is broken meanwhile."""

import json
import os
import select
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from agents.domain import Finding
from graph.app import App
from graph.command import Command, execute
from graph.kill_switch import KillSwitch

pytestmark = pytest.mark.usefixtures("no_waiting")

ROOT = Path(__file__).resolve().parents[2]
HOOKS: list = []


def bull(view):
    for hook in HOOKS:
        hook()
    return Finding("bull", 0.8, 0.9, "up")


OURS = {"required": ("tests.graph.test_controls:bull",), "optional": (), "gate": {"mean_r_min": -100.0}}


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
    HOOKS.clear()
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def run(home, capsys):
    """Run a verb in the home of this test; gives the code, the objects that were printed, and what was told."""

    def run(verb, subject="", *, flags=None, **more):
        chosen = {"home": home} | (OURS if verb == "workflow" else {}) | (flags or {})
        code = execute(Command(verb, subject, flags=chosen, json=True, **more))
        printed = capsys.readouterr()
        return code, [json.loads(line) for line in printed.out.splitlines()], printed.err

    return run


@pytest.fixture
def said(home, capsys):
    """The same for people."""

    def said(verb, subject="", **more):
        code = execute(Command(verb, subject, flags={"home": home}, **more))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return said


def trade(run, *symbols):
    code, results, _ = run("workflow", "trade", symbols=symbols or ("SIM",))
    assert code == 0
    return [result["orders"][0] for result in results]


def harm(home, *statements, name="holdfast.db"):
    with closing(sqlite3.connect(home / name)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def changes(run):
    return [(each["detail"]["from"], each["detail"]["to"], each["who"] != "", each["why"]) for each in run("audit")[1]]


class TestHalt:
    def test_a_halted_home_finishes_its_runs_with_orders_denied(self, run, said, home):
        trade(run)
        code, (told,), err = run("halt", "lunch")
        assert (code, err, told["trading"], told["why"], told["file"], told["error"]) == (
            0,
            "",
            "halted",
            "lunch",
            None,
            None,
        )
        code, (result,), _ = run("workflow", "trade")
        (order,) = result["orders"]
        reason = "trading is HALTED (lunch); no order goes until an operator lets it"
        assert (code, result["status"], order["status"], order["reason"]) == (0, "finished", "denied", reason)
        assert result["decision"]["action"] == "HOLD"
        assert reason in result["decision"]["reasons"]
        assert (result["trading"]["state"], result["trading"]["code"]) == ("halted", "operator")
        report = (home / "runs" / result["run_id"] / "report.md").read_text()
        assert "Trading is **HALTED (operator, " in report
        assert said("runs")[1].startswith("Trading   HALTED (operator, ")
        assert changes(run) == [("active", "halted", True, "lunch")]

    def test_with_the_file_written_before_it_is_one_entry(self, run, home):
        from graph.control_line import _halt_at_once

        trade(run)
        _halt_at_once(home, None, "lunch")
        assert run("halt", "lunch")[0] == 0
        assert changes(run) == [("active", "halted", True, "lunch")]
        assert not (home / "HALT").exists()

    def test_a_home_without_a_database_is_halted_by_the_file_and_gets_none(self, run, said, home):
        code, (told,), err = run("halt", "not today")
        assert (code, err, told["file"]) == (0, "", str(home / "HALT"))
        assert [each.name for each in home.iterdir()] == ["HALT"]
        assert trade(run)[0]["status"] == "denied"
        assert changes(run) == [("active", "halted", True, "not today")]
        assert not (home / "HALT").exists()
        assert said("halt", "again")[1] == "trading is HALTED: again\n"

    @pytest.mark.parametrize(
        "broken", ["sede = 7", "[risk]\norder_notional_max = -1", "no toml [", 'database = "nonsense"']
    )
    def test_broken_settings_are_no_reason_to_trade_on(self, run, home, broken):
        trade(run)
        (home / "holdfast.toml").write_text(broken)
        code, (told,), err = run("halt", "lunch")
        assert (code, told["trading"], told["file"]) == (0, "halted", str(home / "HALT"))
        assert err.startswith("warning: only the file halts trading: ConfigError: ")
        assert run("halt", "lunch", flatten=True)[0] == 1
        (home / "holdfast.toml").unlink()
        assert trade(run)[0]["status"] == "denied"

    def test_a_database_that_cannot_be_used_is_none_either(self, run, home, monkeypatch):
        trade(run)
        monkeypatch.setattr("checkpoints.database.LOCKED_S_MAX", 0.05)
        with closing(sqlite3.connect(home / "holdfast.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            code, (told,), err = run("halt", "lunch")
        assert (code, told["file"]) == (0, str(home / "HALT"))
        assert "was locked by another process" in err
        assert trade(run)[0]["status"] == "denied"

    def test_where_nothing_can_be_written_that_is_an_error(self, run, home):
        home.write_text("no folder")
        code, told, err = run("halt", "lunch")
        assert (code, told) == (1, [])
        assert "trading is not halted by it" in err

    def test_a_bug_is_no_reason_to_trade_on(self, run, home, monkeypatch):
        trade(run)

        def bug(*_):
            raise ZeroDivisionError

        monkeypatch.setattr(App, "recover", bug)
        code, (told,), err = run("halt", "lunch", flatten=True)
        assert (code, told["file"]) == (1, str(home / "HALT"))
        assert "ZeroDivisionError" in err

    def test_a_log_that_is_damaged_stops_no_halt_but_a_release(self, run, home):
        trade(run)
        harm(home, "DELETE FROM audit_head")
        code, _, err = run("halt", "lunch")
        assert code == 0
        assert "warning: trading is halted, and the audit log could not be written (StorageError: " in err
        assert trade(run)[0]["status"] == "denied"
        code, told, err = run("resume-trading", "back")
        assert (code, told) == (1, [])
        assert "the audit log has 0 heads" in err
        assert trade(run)[0]["status"] == "denied"

    def test_what_rests_is_cancelled_and_by_the_next_start_where_that_was_killed(self, run, home):
        rests = "UPDATE orders SET status = 'open'"
        trade(run)
        harm(home, rests)
        code, (told,), _ = run("halt", "lunch")
        assert (code, told["cancelled"], told["not_cancelled"]) == (0, [], {})
        assert run("show", "trade-SIM-20260101T000000Z-1")[1][0]["orders"][0]["status"] == "filled", "it was before"
        harm(home, rests)
        run("runs")
        assert run("show", "trade-SIM-20260101T000000Z-1")[1][0]["orders"][0]["status"] == "filled"
        harm(home, rests)
        harm(home, "DELETE FROM paper_orders", name="broker.db")
        code, (told,), err = run("halt", "again")
        ((name, why),) = told["not_cancelled"].items()
        assert (code, why) == (1, "the broker does not know it any more")
        assert f"error: order {name} may still rest at the broker: {why}" in err
        harm(home, "UPDATE orders SET intent_id = 'damaged'")
        code, (told,), err = run("halt", "and again")
        assert (code, told["trading"]) == (0, "halted")
        assert "warning: " in err

    def test_the_file_made_by_hand(self, run, said, home):
        trade(run)
        (home / "HALT").write_text("the feed lies\n")
        order = trade(run)[0]
        assert (order["status"], order["reason"][:34]) == ("denied", "trading is HALTED (the feed lies);")
        (home / "HALT").unlink()
        assert trade(run)[0]["status"] == "denied", "it was taken in: to remove it is no release"
        (home / "HALT").touch()
        code, out, _ = said("resume-trading", "the feed is mended")
        assert (code, (home / "HALT").exists()) == (0, False)
        assert out.startswith("trading is ACTIVE: every order goes that passes its checks; it was HALTED (file, ")
        assert trade(run)[0]["status"] == "filled"


class TestStates:
    def test_reduce_lets_nothing_open_and_a_halt_stays(self, run, said):
        trade(run)
        code, (told,), _ = run("reduce", "news")
        assert (code, told["trading"]) == (0, "reducing")
        order = trade(run)[0]
        assert order["status"] == "denied"
        assert "trading is REDUCING (news); only what closes a position goes" in order["reason"]
        run("halt", "lunch")
        code, out, _ = said("reduce", "news")
        assert code == 0
        assert out.startswith("trading stays HALTED (lunch); to let what closes a position go: resume-trading")
        assert [change[1] for change in changes(run)] == ["reducing", "halted"]

    def test_resume_trading_goes_back_by_one_step_or_by_all(self, run, said):
        trade(run)
        run("halt", "lunch")
        code, (told,), _ = run("resume-trading", "soup", reducing=True)
        assert (code, told["trading"], told["was"], told["why"]) == (0, "reducing", "halted", "lunch")
        assert trade(run)[0]["status"] == "denied"
        assert said("resume-trading", "soup", reducing=True)[1] == (
            "trading is REDUCING, which allows that already; nothing was changed\n"
        )
        assert run("resume-trading", "full")[0] == 0
        assert trade(run)[0]["status"] == "filled"
        assert [change[:2] for change in changes(run)] == [
            ("active", "halted"),
            ("halted", "reducing"),
            ("reducing", "active"),
        ]

    def test_the_log_is_listed_and_verified(self, run, said, home):
        assert said("audit")[1] == "the audit log is empty: the trading state was never changed\n"
        run("halt", "[red]lunch[/]\x1b")
        out = said("audit")[1]
        assert "by " in out
        assert "[red]lunch[/]\N{REPLACEMENT CHARACTER}" in out
        code, (found,), _ = run("audit-verify")
        assert (code, found["good"], found["entries"], found["at"]) == (0, True, 1, None)
        assert said("audit-verify")[1] == f"1 entries are as they were written; the newest has hash {found['head']}\n"
        harm(home, "UPDATE audit SET who = 'somebody else'", "UPDATE trading_state SET state = 'active'")
        code, (found,), err = run("audit-verify")
        assert (code, found["good"], found["at"], err.count("\n")) == (1, False, 1, 2)
        assert err.startswith("error: entry 1 was changed: ")
        assert "changed past this program" in err
        harm(home, "UPDATE audit SET time_ns = 'never', detail = 'nothing'")
        assert "never" in said("audit")[1]


class TestLost:
    def test_a_log_that_was_emptied_with_its_head_shows_by_the_state_and_by_the_other_log(self, run, home):
        trade(run)
        run("halt", "lunch")
        harm(home, "DELETE FROM audit", "UPDATE audit_head SET number = 0, hash = '" + "0" * 64 + "'")
        code, (found,), err = run("audit-verify")
        assert (code, found["at"], len(found["wrong"])) == (1, None, 1)
        assert "set when the log could not be written" in err
        assert trade(run)[0]["status"] == "denied"
        lines = [json.loads(line) for line in (home / "failures.log").read_text().splitlines()]
        (kept,) = [line for line in lines if line["event"] == "TradingChanged"]
        assert (kept["entry"], kept["state"], len(kept["hash"])) == (1, "halted", 64)


class TestSignal:
    @pytest.fixture
    def blocked(self):
        """As the entry point leaves it."""
        was = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        yield
        signal.pthread_sigmask(signal.SIG_SETMASK, was)

    @pytest.mark.usefixtures("blocked")
    @pytest.mark.parametrize("when", ["before", "inside"])
    def test_sigusr1_halts_a_run_that_goes_on_to_its_end(self, run, home, when):
        if when == "before":
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)  # only this thread blocks it
        else:
            HOOKS.append(lambda: os.kill(os.getpid(), signal.SIGUSR1))
        code, (result,), err = run("workflow", "trade")
        assert (code, result["status"], result["orders"][0]["status"]) == (0, "finished", "denied")
        assert err.count("trading is HALTED by SIGUSR1; ") == 1
        assert (result["trading"]["state"], result["trading"]["code"]) == ("halted", "signal")
        assert not (home / "HALT").exists()
        assert changes(run) == [("active", "halted", True, f"SIGUSR1 was sent to process {os.getpid()}")]
        assert signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def start(*arguments, **more):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    return subprocess.Popen([sys.executable, "-m", "graph.run", *map(str, arguments)], **pipes, **more)


class TestProcesses:
    def test_another_process_halts_a_run_that_is_under_way(self, run, home, tmp_path):
        """The run waits inside its analyst; it is halted from elsewhere, and from then on it cannot order."""
        (tmp_path / "slow.py").write_text(
            "from agents.domain import Finding\n"
            "def bull(view):\n"
            f"    open({str(tmp_path / 'asked')!r}, 'w').write('now')\n"
            f"    open({str(tmp_path / 'go')!r}).read()\n"
            "    return Finding('bull', 0.8, 0.9, 'up')\n"
        )
        for name in ("asked", "go"):
            os.mkfifo(tmp_path / name)
        asked = os.open(tmp_path / "asked", os.O_RDONLY | os.O_NONBLOCK)
        (tmp_path / "x.toml").write_text('required = ["slow:bull"]\noptional = []\n[gate]\nmean_r_min = -100.0\n')
        environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
        running = start(
            "--workflow", "trade", "--json", "--home", home, "--config", tmp_path / "x.toml", env=environment
        )
        assert select.select([asked], [], [], 60)[0], running.poll()
        halting = start("halt", "--reason", "lunch", "--home", home, "--json")
        told = json.loads(halting.communicate(timeout=60)[0])
        assert (halting.returncode, told["trading"], told["file"]) == (0, "halted", None)
        (tmp_path / "go").write_text("on")
        os.close(asked)
        out, err = running.communicate(timeout=60)
        result = json.loads(out)
        assert (running.returncode, err) == (0, "")
        assert (result["orders"][0]["status"], result["trading"]["why"]) == ("denied", "lunch")

    def test_killed_in_the_middle_of_a_flattening_nothing_opens_any_more(self, run, home, monkeypatch):
        trade(run, "ONE", "TWO")
        child = os.fork()
        if not child:
            monkeypatch.setattr(KillSwitch, "trip", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            execute(Command("halt", "lunch", flags={"home": home}, flatten=True))
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        assert [change[:2] for change in changes(run)] == [("active", "reducing")]
        assert trade(run, "ONE")[0]["status"] == "denied"
        code, (told,), _ = run("halt", "lunch", flatten=True)
        assert (code, told["closed"], told["not_closed"]) == (0, [], {})


CANARY = "hunter2-canary-secret"


def test_no_secret_of_the_settings_is_told(run, home, server, monkeypatch, capsys):
    """The password of the database stands in the flag, the environment and the settings file."""
    user = server.locked(CANARY)
    good = server.fresh()
    schema = good.rpartition("%3D")[2]
    server.run(f"GRANT ALL ON SCHEMA {schema} TO {user}")
    url = good.replace("postgres@", f"{user}:{CANARY}@")
    assert CANARY in url
    monkeypatch.setenv("HOLDFAST_DATABASE", url)
    told = []

    def say(verb, subject="", **more):
        execute(Command(verb, subject, flags={"home": home}, **more))
        printed = capsys.readouterr()
        told.extend([printed.out, printed.err])

    say("halt", "lunch", flatten=True)
    say("resume-trading", "back")
    say("reduce", "care")
    (home / "HALT").write_text("by hand")
    for verb in ("runs", "audit", "audit-verify"):
        say(verb, json=True)
    server.run(f"ALTER ROLE {user} PASSWORD '{CANARY}-2'")
    say("halt", "away")
    (home / "holdfast.toml").write_text(f'database = "{url}"\nsede = 7')
    say("halt", "broken")
    rows = server.run("SELECT * FROM audit", schema=schema)
    assert len(rows) >= 4
    assert any("away" in text for text in told)
    files = [path for path in home.rglob("*") if path.is_file() and path.name != "holdfast.toml"]
    everything = [*told, repr(rows), repr(server.run("SELECT * FROM trading_state", schema=schema))]
    for text in [*everything, *(path.read_bytes().decode(errors="replace") for path in files)]:
        assert CANARY not in text
