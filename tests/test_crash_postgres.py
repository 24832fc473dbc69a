"""The main promise with the run's memory on a server: either side is killed, and the outcome is that of a quiet run."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.postgres import Server
from tests.test_crash import ANALYSTS, EXECUTED, NODES, RUN_ID, asked, rows

PASSWORD = "canary-3f81"  # noqa: S105


@pytest.fixture(scope="module")
def server():
    """A server that is killed as well."""
    running = Server()
    yield running
    running.stop()


@pytest.fixture
def user(server):
    return server.locked(PASSWORD, "SUPERUSER")


@pytest.fixture
def url(server, user):
    return server.fresh().replace("postgres@", f"{user}:{PASSWORD}@")


def holdfast(home, *arguments, **environment):
    """Run the command line in a process of its own; the password is never in what it says."""
    usual = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    done = subprocess.run(
        [sys.executable, "-m", "graph.run", "--home", str(home), *arguments],
        capture_output=True,
        text=True,
        env=usual | environment,
        check=False,
        timeout=120,
    )
    assert PASSWORD not in done.stdout + done.stderr
    return done


def books(home, ask):
    """What both sides hold in the end. `ask` gives the rows of a query of the ledger."""
    report = json.loads((home / "runs" / RUN_ID / "report.json").read_text())
    return {
        "ledger": [tuple(row) for row in ask("SELECT intent_id, status, quantity, side, checks FROM orders")],
        "fills": [tuple(row) for row in ask("SELECT trade_id, intent_id, quantity, price, fee FROM fills")],
        "broker": rows(home / "broker.db", EXECUTED),
        **{name: report[name] for name in ("decision", "gate", "findings", "portfolio")},
    }


def test_both_are_killed_and_nothing_is_lost_or_done_twice(tmp_path, server, url):
    quiet, home = tmp_path / "quiet", tmp_path / "home"
    assert holdfast(quiet, "--workflow", "trade", "--plain").returncode == 0

    killed = holdfast(home, "--workflow", "trade", "--plain", "--database", url, "--inject", "mean_reversion=kill")
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    server.kill()
    server.start(wait=False)
    again = holdfast(home, "--resume", RUN_ID, "--plain", "--inject", "broker=kill", HOLDFAST_DATABASE=url)
    assert again.returncode == -signal.SIGKILL, again.stdout + again.stderr
    assert set(asked(again.stdout)) & set(ANALYSTS) == {"mean_reversion"}
    server.kill()
    server.start(wait=False)
    (home / "holdfast.toml").write_text(f'database = "{url}"\n')
    resumed = holdfast(home, "--resume", RUN_ID, "--plain")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr

    assert not set(asked(resumed.stdout)) & {*NODES[:4], *ANALYSTS}, "what was done is done again"
    schema = url.rpartition("%3D")[2]
    on_server = books(home, lambda query: server.run(query, schema=schema))
    assert on_server == books(quiet, lambda query: rows(quiet / "holdfast.db", query))
    assert len(on_server["broker"]) == len(on_server["ledger"]) == 1
    assert not (home / "holdfast.db").exists()


def test_the_password_is_kept_nowhere_and_the_hint_is_whole_but_for_it(tmp_path, server, user, url):
    (tmp_path / "holdfast.toml").write_text("[guards.synthesis]\nmax_attempts = 1\n")
    failed = holdfast(tmp_path, "--workflow", "trade", "--json", "--database", url, "--inject", "synthesis=error")
    assert failed.returncode == 1, failed.stdout + failed.stderr
    hint = json.loads(failed.stdout)["resume_command"]
    where = f"--home {tmp_path} --database 'postgresql://{user}:***@"
    assert hint.startswith(f"python -m graph.run --resume {RUN_ID} {where}")

    schema = url.rpartition("%3D")[2]
    tables = server.run("SELECT tablename FROM pg_tables WHERE schemaname = current_schema", schema=schema)
    kept = [str(server.run(f"SELECT * FROM {table}", schema=schema)) for (table,) in tables]  # noqa: S608
    kept += [path.read_bytes().decode(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert len(tables) > 5
    assert not [each for each in kept if PASSWORD in each]


def test_a_server_that_is_not_there_is_one_line(tmp_path):
    done = holdfast(tmp_path, "--runs", "--database", f"postgresql://locked:{PASSWORD}@127.0.0.1:5/postgres")

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: postgresql://locked:***@127.0.0.1:5/postgres cannot be reached (")
