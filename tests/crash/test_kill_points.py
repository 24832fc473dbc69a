"""Killed at any point, and killed again while it recovers: what comes of it is what an undisturbed run leaves.

`python -m tests.crash` tries every point, and `make crash` every line besides.
"""

import json
import subprocess
import sys

import pytest

from tests.crash.conftest import SUMS
from tests.crash.points import At
from tests.crash.sweep import balanced, doubled, every_point, sampled, spread
from tests.postgres import missing
from tests.test_architecture import ROOT

KILLED_ONCE, KILLED_TWICE = 1_000, 500
NOT_REACHED = 1.12  # second kills are drawn, and some lie where the recovery does not come by


def crash(*arguments, code="from tests.crash.__main__ import main"):
    """The harness forks, and pytest's own process may have threads by now: it gets one of its own."""
    program = f"import sys\n{code}\nsys.exit(main({[*arguments]!r}))"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)


def swept(*arguments):
    done = crash("--json", *arguments)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def report():
    return swept("--kills", str(KILLED_ONCE), "--doubles", str(round(KILLED_TWICE * NOT_REACHED)))


def test_whoever_is_killed_anywhere_leaves_what_an_undisturbed_run_leaves(report, record_property):
    sums = "{kills} kills in {cycles} homes, {doubles} of them killed twice; {a_minute} kills and recoveries a minute"
    record_property(SUMS, sums.format(**report))
    assert report["broken"] == []
    assert report["cycles"] - report["doubles"] - report["missed"] >= KILLED_ONCE
    assert report["doubles"] >= KILLED_TWICE


def test_at_every_named_point_somebody_was_killed(report):
    """A promise that is kept at points which nobody comes by is none."""
    assert report["never"] == []
    assert report["points"] > 100
    assert min(report["by_variant"].values()) > 20


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_so_it_is_when_the_main_database_is_a_server():
    report = swept("--database", "postgres", "--variant", "trade", "--kills", "30", "--doubles", "20")
    assert report["broken"] == []
    assert report["doubles"] > 10


FORGETFUL = """
from checkpoints.runs import CheckpointManager
from tests.crash.__main__ import main

async def has_checkpoint(self, run_id):
    return False  # so that the run is begun again from its input

CheckpointManager.has_checkpoint = has_checkpoint
"""


def test_a_resume_that_begins_anew_is_told_with_the_command_that_shows_it():
    done = crash("--variant", "trade", "--at", "broker.send done", code=FORGETFUL)
    assert done.returncode == 1
    assert "killed at broker.send done#1" in done.stdout
    assert "research was done and saved, and was done again" in done.stdout
    done = crash("--variant", "trade", "--kills", "20", "--doubles", "0", code=FORGETFUL)
    assert done.returncode == 1
    assert "replay: python -m tests.crash --variant trade --at '" in done.stdout


def test_a_line_is_a_point_too():
    done = crash("--variant", "trade", "--points", "lines", "--kills", "15", "--doubles", "5", "--json")
    report = json.loads(done.stdout)
    assert report["broken"] == []
    assert report["points"] > 1000
    assert report["kills"] > 15


def test_a_point_has_a_name_and_a_time():
    assert At.parse("insert orders#2") == At("insert orders", 2)
    assert At.parse("insert orders") == At("insert orders")
    assert str(At("broker.send done", 3)) == "broker.send done#3"


class Undisturbed:
    """What the plan sees of a stage."""

    lines = False
    points = ([At("a"), At("b"), At("a", 2), At("c")], [At("a"), At("d")])


class Other(Undisturbed):
    points = ([At("a"), At("e"), At("e", 2), At("e", 3)], [At("a"), At("a", 2)])


def test_every_point_of_every_stage_but_a_line_only_where_it_is_first_seen(monkeypatch):
    stages = [Undisturbed, Other]
    assert len(every_point(stages)) == 4 + 2 + 4 + 2
    monkeypatch.setattr(Undisturbed, "lines", True)
    lines = [(stage, len(kills), str(kills[-1])) for stage, kills in every_point(stages)]
    assert lines[:6] == [(Undisturbed, 1, at) for at in ("a#1", "b#1", "a#2", "c#1")] + [
        (Undisturbed, 2, at) for at in ("a#1", "d#1")
    ]
    assert lines[6:] == [(Other, 1, "e#1"), (Other, 1, "e#3")]


def test_a_sample_has_every_name_once_and_is_spread():
    points = [(Undisturbed, (at,)) for at in Undisturbed.points[0]]
    assert {kills[0] for _, kills in sampled(points, 3)} == {At("a"), At("b"), At("c")}
    assert {kills[0] for _, kills in sampled(points, 9)} == set(Undisturbed.points[0])
    assert [kills[0] for _, kills in spread(points, 2)] == [At("a"), At("a", 2)]


def test_half_of_a_sample_lies_where_an_order_is_on_its_way():
    names = [
        "connect holdfast.db",
        "insert orders",
        "commit broker.db",
        "insert fills done",
        *("commit holdfast.db",) * 9,
    ]
    chosen = balanced([(Undisturbed, (At(name),)) for name in names], 4)
    assert [kills[0].name for _, kills in chosen][:2] == ["insert orders", "commit broker.db"]
    assert len(chosen) == 4


def test_second_kills_are_drawn_by_their_seed_from_what_lies_ahead():
    points = [(Undisturbed, (at,)) for at in Undisturbed.points[0]] * 20
    drawn = list(doubled(points, 1))
    assert drawn == list(doubled(points, 1)) != list(doubled(points, 2))
    after_b = {kills[1] for _, kills in drawn if kills[0] == At("b")}
    assert after_b == {At("a"), At("d"), At("a", 2), At("c")}
