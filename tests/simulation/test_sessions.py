"""Whole sessions on virtual time, the exchange included: rules that hold always, and states that are reached sometimes.

`HOLDFAST_SIM_RUNS=10000` plays that many seeds instead of 200; `make sim` does so with a line of progress.
"""

import multiprocessing
import os
import sys

import pytest

from graph.exchange.menu import FaultKind
from tests.simulation.__main__ import main
from tests.simulation.session.day import PERILS, Day
from tests.simulation.session.many import Sum, settle, timed
from tests.simulation.session.play import play
from tests.simulation.session.rare import missing

SEEDS = max(200, int(os.environ.get("HOLDFAST_SIM_RUNS", "200")))  # less do not reach every rare state
_ERRORS = {
    "OrderFailed",
    "DecisionFailed",
    "LoopFailed",
    "ReconcileFailed",
    "TickFailed",
    "HeartbeatFailed",
    "NewsRefused",
}


@pytest.fixture(scope="module")
def total():
    """The sum of all seeds, played in two processes; what each seed's trace was is in `digests`."""
    total, digests = Sum(), {}
    with multiprocessing.get_context("spawn").Pool(2, settle) as pool:
        for story, spent in pool.imap_unordered(timed, range(SEEDS), chunksize=4):
            total.add(story, spent)
            digests[story.seed] = story.digest
    return total, digests


def test_no_seed_breaks_a_rule(total):
    assert total[0].seeds == SEEDS
    assert [(story.broken[0], story.replay) for story in total[0].broken] == []


def test_every_rare_state_is_reached_by_some_seed(total):
    assert missing(total[0].reached) == []


def test_every_session_ends_in_order_or_because_its_feed_is_dead(total):
    assert set(total[0].ended) == {"over", "failed"}
    assert total[0].ended["over"] > 0.8 * SEEDS


@pytest.mark.parametrize("seed", [1, len(PERILS) + 10, 33])
def test_a_seed_tells_the_same_story_in_another_process(total, seed):
    """The pool's processes have other hashes of texts than this one."""
    assert play(seed).digest == total[1][seed]


def test_the_command_line_replays_a_seed(total, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["simulation", "session", "--seed", "2"])
    assert main() == 0
    assert f"trace {total[1][2]}" in capsys.readouterr().out


# What a session must be able to do.


@pytest.mark.parametrize("venue", ["paper", "exchange"])
def test_ten_minutes_pass_without_an_error(venue):
    story = play(5, Day(5, venue=venue, volatility=2.0))
    assert (story.ended, story.broken) == (["over"], [])
    assert {kind: count for kind, count in story.counts.items() if kind in _ERRORS} == {}
    assert story.counts["Filled"] > 0
    assert story.seconds > 599


@pytest.mark.parametrize("venue", ["paper", "exchange"])
def test_stops_are_honoured_after_the_link_was_cut_for_five_seconds(venue):
    day = Day(5, venue=venue, jumps=[(150.0 + 60 * number, -0.01) for number in range(6)])
    for kind in (FaultKind.RESET, FaultKind.REFUSE, FaultKind.LOST):
        day.fault(kind, 130.0, 135.0)
    story = play(5, day)
    assert (story.ended, story.broken) == (["over"], [])
    cut = next(at for at, _, kind, _ in story.timeline if kind == "Disconnected")
    assert 130 <= cut <= 135
    sprung = [at for at, _, kind, _ in story.timeline if kind == "StopSprung" and at > cut]
    assert sprung
    assert [at for at, _, kind, _ in story.timeline if kind == "filled" and sprung[0] <= at < sprung[0] + 10]


@pytest.mark.parametrize("venue", ["paper", "exchange"])
@pytest.mark.parametrize("kill", [195.0, ("sent", 1), ("marked", 2), ("recorded", 2)], ids=str)
def test_a_killed_session_goes_on_where_it_was(venue, kill):
    """What it must find again is among the rules of the witness: every order and fill, the account to a digit."""
    story = play(5, Day(5, venue=venue, volatility=3.0, kills=[kill]))
    assert story.broken == []
    assert story.ended[0] == "killed"
    assert story.ended[-1] == "over"
    assert "RunResumed" in story.reached
