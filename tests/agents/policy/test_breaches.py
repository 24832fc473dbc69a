"""How many late calls are too many."""

import random

import pytest

from agents.policy.breaches import Breaches


def test_so_many_in_a_row():
    breaches = Breaches(3, 1.0)
    assert [breaches.late(), breaches.late()] == ["", ""]
    breaches.in_time()
    assert [breaches.late(), breaches.late(), breaches.late()] == ["", "", "3 calls in a row were late"]


def test_a_share_that_is_worth_the_name():
    breaches = Breaches(1_000, 0.1)
    told = []
    for step in range(1, 200):
        if step % 9:
            breaches.in_time()
        else:
            told.append((step, breaches.late()))
    first = next((step, why) for step, why in told if why)
    assert first == (108, "12 of the last 108 calls were late")


@pytest.mark.parametrize("seed", range(5))
def test_it_counts_the_last_thousand_as_a_plain_list_would(seed):
    draws = random.Random(seed)  # noqa: S311 - no secret
    breaches, calls = Breaches(10**9, 0.1), []
    for step in range(5_000):
        late = draws.random() < (0.15 if step // 700 % 2 else 0.02)
        calls = [*calls, late][-1_000:]
        if late:
            too_many = len(calls) >= 100 and sum(calls) > 0.1 * len(calls)
            assert bool(breaches.late()) == too_many
        else:
            breaches.in_time()
    assert len(breaches._calls) == 1_000
