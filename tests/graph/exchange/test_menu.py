"""The fault menu and its plans."""

import pytest

from agents.errors import ConfigError
from graph.exchange.menu import ExchangeFault, FaultKind, FaultMenu

PLAN = """
seed = 7

[[fault]]
kind = "gap"
on = "*@depth*"
rate = 0.25

[[fault]]
kind = "slow"
on = "order.place"
seconds = 2.5
nth = 3

[[fault]]
kind = "refuse"
from_seconds = 10
until_seconds = 15
"""


def test_a_plan_from_a_file(tmp_path):
    (tmp_path / "plan.toml").write_text(PLAN)
    menu = FaultMenu.from_toml(tmp_path / "plan.toml")
    assert menu.seed == 7
    assert menu.faults[0] == ExchangeFault(FaultKind.GAP, "*@depth*", rate=0.25)
    assert menu.frame_kinds == (FaultKind.GAP,)
    menu.begin(100.0)
    hits = [bool(menu.strikes(FaultKind.GAP, "btcusdt@depth", 100.0)) for _ in range(400)]
    assert 60 < sum(hits) < 140
    assert not any(menu.strikes(FaultKind.GAP, "btcusdt@trade", 100.0) for _ in range(50))
    slow = [menu.strikes(FaultKind.SLOW, "order.place", 100.0) for _ in range(5)]
    assert [each and each.seconds for each in slow] == [None, None, 2.5, None, None]
    assert menu.strikes(FaultKind.REFUSE, "/ws", 109.9) is None
    assert menu.strikes(FaultKind.REFUSE, "/ws", 110.0)
    assert menu.strikes(FaultKind.REFUSE, "/ws", 115.0) is None
    assert menu.struck == {FaultKind.GAP: sum(hits), FaultKind.SLOW: 1, FaultKind.REFUSE: 1}


def test_the_same_seed_strikes_alike_whatever_runs_beside_it():
    def hits(*others):
        menu = FaultMenu([ExchangeFault(FaultKind.RESET, rate=0.3)], seed=3)
        for _ in range(50):
            for other in others:
                menu.strikes(FaultKind.RESET, other, 0.0)
            yield bool(menu.strikes(FaultKind.RESET, "a", 0.0))

    assert list(hits()) == list(hits("b", "c"))


def test_two_faults_that_differ_in_their_seconds_alone_are_told_apart():
    menu = FaultMenu([ExchangeFault("delay", "a", seconds=1.0), ExchangeFault("delay", "b", seconds=2.0)])
    assert [menu.strikes(FaultKind.DELAY, point, 0.0).seconds for point in "ab"] == [1.0, 2.0]


@pytest.mark.parametrize(
    "text",
    [
        '[[fault]]\nkind = "no_such"',
        '[[fault]]\non = "x"',
        '[[fault]]\nkind = "gap"\nwhat = 1',
        '[[fault]]\nkind = "gap"\nseconds = 1',
        '[[fault]]\nkind = "delay"',
        '[[fault]]\nkind = "delay"\nseconds = -1',
        '[[fault]]\nkind = "delay"\nseconds = true',
        '[[fault]]\nkind = "slow"\nseconds = nan',
        f'[[fault]]\nkind = "slow"\nseconds = 1{"0" * 400}',
        '[[fault]]\nkind = "gap"\nrate = 2',
        '[[fault]]\nkind = "gap"\nnth = 0',
        '[[fault]]\nkind = "gap"\non = ""',
        '[[fault]]\nkind = "gap"\non = 1',
        "kind = 1",
        "fault = 1",
        "seed = 1.5",
        "not toml",
    ],
)
def test_a_plan_that_says_something_else_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "plan.toml").write_text(text)
    with pytest.raises(ConfigError, match="nothing was run") as error:
        FaultMenu.from_toml(tmp_path / "plan.toml")
    assert "\n" not in str(error.value).replace("\\n", "") or "not toml" in text


def test_a_clock_may_be_ahead_or_behind():
    assert [ExchangeFault("skew", seconds=seconds).seconds for seconds in (-3.0, 3.0)] == [-3.0, 3.0]
