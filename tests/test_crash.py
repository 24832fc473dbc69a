"""The main promise, by the command line itself: killed anywhere, resumed, and the outcome is that of a quiet run."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

RUN_ID = "trade-SIM-20260101T000000Z-1"
ANALYSTS = ("trend", "breakout", "mean_reversion", "volatility", "volume", "seasonality")
EXECUTED = (
    "SELECT client_order_id, symbol, side, paper_fills.quantity, price FROM paper_fills"
    " JOIN paper_orders USING (client_order_id)"
)
NODES = ("research", "synthesis", "strategy", "quality_gate", "execution")


def holdfast(home, *arguments):
    """Run the command line in a process of its own, in a home of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    return subprocess.run(
        [sys.executable, "-m", "graph.run", "--home", str(home), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=120,
    )


def rows(path, query):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def outcome(home):
    """All that must be the same however often the run was killed: both sides' books, and the decision."""
    report = json.loads((home / "runs" / RUN_ID / "report.json").read_text())
    return {
        "ledger": rows(home / "holdfast.db", "SELECT intent_id, status, quantity, side, checks FROM orders"),
        "fills": rows(home / "holdfast.db", "SELECT trade_id, intent_id, quantity, price, fee FROM fills"),
        "broker": rows(home / "broker.db", EXECUTED),
        "decision": report["decision"],
        "gate": report["gate"],
        "findings": report["findings"],
        "portfolio": report["portfolio"],
    }


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """The outcome of a run that nobody disturbs."""
    home = tmp_path_factory.mktemp("quiet")
    done = holdfast(home, "--workflow", "trade", "--plain")
    assert done.returncode == 0, done.stderr
    result = outcome(home)
    assert len(result["broker"]) == len(result["ledger"]) == 1
    return result


def asked(output):
    """The steps that a run's plain progress says were begun."""
    return [line.split()[2] for line in output.splitlines() if line.endswith("running")]


@pytest.mark.parametrize("target", [*NODES, "broker"])
def test_killed_inside_a_node_and_resumed(tmp_path, quiet, target):
    killed = holdfast(tmp_path, "--workflow", "trade", "--plain", "--inject", f"{target}=kill")
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr

    resumed = holdfast(tmp_path, "--resume", RUN_ID, "--plain")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert outcome(tmp_path) == quiet
    before = [*NODES, "broker"].index(target)
    done = {*NODES[:before], *(ANALYSTS if target != "research" else ())} - {"execution"}
    assert not done & set(asked(resumed.stdout)), "what was done is done again"


@pytest.mark.parametrize("by", ["run", "head"])
def test_killed_in_the_middle_of_the_swarm(tmp_path, quiet, by):
    killed = holdfast(tmp_path, "--workflow", "trade", "--plain", "--inject", "mean_reversion=kill")
    assert killed.returncode == -signal.SIGKILL
    assert set(ANALYSTS) <= set(asked(killed.stdout)), "the siblings were not asked at the same time"

    listed = holdfast(tmp_path, "--checkpoints", RUN_ID, "--json").stdout.splitlines()
    identifier = RUN_ID if by == "run" else json.loads(listed[-1])["id"]
    resumed = holdfast(tmp_path, "--resume", identifier, "--plain")
    assert resumed.returncode == 0, resumed.stderr
    assert outcome(tmp_path) == quiet
    assert set(asked(resumed.stdout)) & set(ANALYSTS) == {"mean_reversion"}


def test_killed_again_while_it_resumes(tmp_path, quiet):
    holdfast(tmp_path, "--workflow", "trade", "--plain", "--inject", "volume=kill")
    for target in ("volume", "strategy", "broker", "execution"):
        again = holdfast(tmp_path, "--resume", RUN_ID, "--plain", "--inject", f"{target}=kill")
        assert again.returncode == -signal.SIGKILL, (target, again.stdout, again.stderr)
    assert holdfast(tmp_path, "--resume", RUN_ID, "--plain").returncode == 0
    assert outcome(tmp_path) == quiet


def test_rewinding_sends_nothing_twice(tmp_path, quiet):
    first = json.loads(holdfast(tmp_path, "--workflow", "trade", "--json").stdout)
    for before in ("research", "analyst", "strategy", "execution"):
        older = next(row["id"] for row in first["checkpoints"] if row["before"] == before)
        rewound = holdfast(tmp_path, "--resume", older, "--json")
        assert rewound.returncode == 0, rewound.stderr
        again = json.loads(rewound.stdout)
        assert again["resumed_from"] == older
        assert again["orders"] == first["orders"]
    assert outcome(tmp_path) == quiet


def test_finished_run_is_only_reported(tmp_path, quiet):
    first = json.loads(holdfast(tmp_path, "--workflow", "trade", "--json").stdout)
    for identifier in (RUN_ID, first["checkpoints"][-1]["id"]):
        again = json.loads(holdfast(tmp_path, "--resume", identifier, "--json").stdout)
        assert again["checkpoints"] == first["checkpoints"], "something was run"
        assert again["decision"] == first["decision"]
    assert outcome(tmp_path) == quiet
