"""A session by the command line: begun, stopped by a signal, killed, gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agents.errors import CheckpointNotFound, ConfigError
from checkpoints.runs import RunStatus
from graph import live
from graph.command import Command, execute
from graph.config import load_settings

SESSION = [sys.executable, "-m", "graph.run", "--workflow", "session", "--seed", "2", "--plain"]


class TestAsked:
    @pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5_400), ("1d", 86_400)])
    def test_durations(self, text, seconds):
        assert live.seconds_of(text) == seconds

    @pytest.mark.parametrize("text", ["", "10", "0m", "m", "-5m", "10 m", "1e3s", "10w", "٣m"])
    def test_what_is_no_duration(self, text):
        with pytest.raises(ConfigError, match="nothing was run; write 90s, 10m, 8h or 1d"):
            live.seconds_of(text)

    @pytest.mark.parametrize(
        ("given", "why"),
        [
            ({"feed": "sim", "duration": None}, "--feed sim never ends"),
            ({"feed": "ws:ws://a:1", "duration": None}, "never ends"),
            ({"feed": "ws:ws://a:1", "speed": 60.0}, "an exchange has its own pace"),
            ({"feed": "sim", "speed": 0.0}, "--speed is 0"),
            ({"feed": "tape"}, "--feed is 'tape'"),
        ],
    )
    def test_what_cannot_be_begun(self, tmp_path, given, why):
        asked = {"symbol": "BTCUSDT", "feed": "sim", "seed": 1, "speed": 1.0, "duration": "1m"} | given
        with pytest.raises(ConfigError, match=why):
            live.begin(load_settings(None, home=tmp_path), **asked)

    @pytest.mark.parametrize(
        ("feed", "symbol", "why"),
        [
            ("sim", "BTCUSDT", "--feed sim has no prices of an exchange"),
            (f"replay:{__file__}", "BTCUSDT", "--feed replay:.* has no prices of an exchange"),
            ("ws:ws://127.0.0.1:1", "ETHUSDT", "ETHUSDT is not traded in the account, which trades BTCUSDT; nothing"),
        ],
    )
    def test_no_order_goes_to_an_exchange_by_prices_of_elsewhere(self, tmp_path, feed, symbol, why):
        settings = load_settings(None, home=tmp_path, broker="exchange")
        with pytest.raises(ConfigError, match=why):
            live.begin(settings, symbol=symbol, feed=feed, seed=1, speed=1.0, duration="1m")

    def test_a_session_that_is_not_there(self, tmp_path):
        with pytest.raises(CheckpointNotFound):
            live.go_on(load_settings(None, home=tmp_path), "session-BTCUSDT-20260101T000000Z-1")


@pytest.fixture
def run(tmp_path, capsys):
    def run(verb, subject, **more):
        flags = {"home": tmp_path / "home"}
        code = execute(Command(verb, subject, flags=flags, **more))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


class TestCommand:
    def test_a_session_to_its_end_and_asked_for_once_more(self, run):
        code, out, err = run("workflow", "session", duration="2m", speed=60.0, seed=2, json=True)
        (told,) = map(json.loads, out.splitlines())
        assert (code, err, told["status"], told["resume_command"]) == (0, "", "finished", None)
        assert told["counts"]["errors"] == 0
        assert told["elapsed_s"] >= 120
        again, out, _ = run("resume", told["run_id"], json=True)
        assert (again, json.loads(out)["equity"]) == (0, told["equity"])
        code, shown, _ = run("show", told["run_id"])
        assert (code, "Fork" in shown, "States" in shown) == (0, False, False)
        code, _, err = run("fork", told["run_id"])
        assert (code, err.count("\n")) == (2, 1)
        assert "is a session, of which there is no fork; nothing was done" in err

    def test_a_replay_to_the_end_of_its_file(self, run, tmp_path):
        rows = "".join(f"{1_700_000_000 + 60 * n},100,103,99,{100 + n % 3},10\n" for n in range(210))
        (tmp_path / "bars.csv").write_text("timestamp,open,high,low,close,volume\n" + rows)
        feed = f"replay:{tmp_path / 'bars.csv'}"
        code, out, _ = run("workflow", "session", feed=feed, speed=1_000.0, symbols=("BTC-USD",), json=True)
        told = json.loads(out)
        assert (code, told["status"], told["symbol"]) == (0, "finished", "BTC-USD")
        assert told["counts"]["lane_bars"] == 105

    def test_its_decisions_are_gone_on_with_by_the_session_alone(self, run):
        _, out, _ = run("workflow", "session", duration="90s", speed=60.0, seed=2, json=True)
        session = json.loads(out)["run_id"]
        _, out, _ = run("runs", "", json=True)
        plan = next(each["run_id"] for each in map(json.loads, out.splitlines()) if each["workflow"] == "plan")
        for verb in ("resume", "fork"):
            code, _, err = run(verb, plan)
            assert (code, err.count("\n")) == (2, 1)
            assert f"is a decision of {session}" in err
        code, _, err = run("fork", session)
        assert (code, "of which there is no fork" in err) == (2, True)

    def test_one_symbol(self, run):
        code, _, err = run("workflow", "session", duration="1m", symbols=("A", "B"))
        assert (code, err.count("\n")) == (2, 1)
        assert "a session trades one symbol" in err

    def test_a_faulty_file(self, run, tmp_path):
        (tmp_path / "bars.csv").write_text("no bars")
        code, _, err = run("workflow", "session", feed=f"replay:{tmp_path / 'bars.csv'}")
        assert (code, err.count("\n")) == (2, 1)


def test_a_stop_while_it_is_being_begun_holds(tmp_path):
    @asynccontextmanager
    async def around(_app, stop, _name):
        stop()
        yield

    settings = load_settings(None, home=tmp_path)
    sitting = live.begin(settings, symbol="BTCUSDT", feed="sim", seed=2, speed=60.0, duration="2m")
    result = live.sit(sitting, silent=True, around=around)
    assert result.run.status is RunStatus.STOPPED
    assert result.elapsed_s < 60


def started(home, *more):
    """A process of its own; gives it once its session is in the registry and has run for a while."""
    env = {**os.environ, "PYTHONPATH": str(Path.cwd()), "HOLDFAST_SESSION__MARK_EVERY": "1"}
    process = subprocess.Popen(
        [*SESSION, "--duration", "1h", "--speed", "100", "--home", str(home), *more],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    lines = []
    while len(lines) < 2:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        lines.append(line)
    return process


def the_session(home):
    (found,) = [path.name for path in (home / "runs").iterdir() if path.name.startswith("session-")]
    return found


class TestProcess:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_it_in_order_with_the_command_to_go_on(self, tmp_path, number):
        process = started(tmp_path)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 3, err
        assert "stopping: no new risk is taken" in err
        assert f"python -m graph.run --resume {the_session(tmp_path)}" in out

    def test_killed_it_goes_on_where_it_was(self, tmp_path):
        process = started(tmp_path)
        process.kill()
        process.communicate(timeout=60)
        settings = load_settings(None, home=tmp_path)
        session = the_session(tmp_path)
        sitting = live.go_on(settings, session)
        assert sitting.last is not None
        assert sitting.terms.duration_ns == 3_600 * 10**9
        process = subprocess.Popen(
            [sys.executable, "-m", "graph.run", "--resume", session, "--home", str(tmp_path), "--json"],
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        while live.go_on(settings, session).last == sitting.last:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 3, err
        told = json.loads(out)
        assert told["run_id"] == session
        assert told["elapsed_s"] > sitting.last.elapsed_ns / 1e9
