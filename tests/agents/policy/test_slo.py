"""What is charged to a policy is what it took, and what it kept waiting; nothing is that a timer did."""

import pytest

from agents.policy.slo import measure_slo

MS = 1_000_000


@pytest.fixture
def clock(monkeypatch):
    now = [0]
    monkeypatch.setattr("agents.policy.slo.perf_counter_ns", lambda: now[0])
    return now


def measured(clock, takes_ms, *, wakes_late_ms=lambda number: 0, deadline_ms=50.0):
    """Calls due at 10, 20, 30 ... ms; call `number` takes so long, and is woken so much too late."""
    numbers = iter(range(len(takes_ms)))

    def wait(seconds):
        number = len(takes_ms) - numbers.__length_hint__()
        clock[0] += round(seconds * 1e9) + wakes_late_ms(number) * MS

    def call():
        clock[0] += takes_ms[next(numbers)] * MS

    return measure_slo(call, trials=len(takes_ms), deadline_us=deadline_ms * 1000, pacing_seconds=0.01, wait=wait)


def test_calls_wait_until_they_are_due(clock):
    waits = []

    def wait(seconds):
        waits.append(round(seconds, 6))
        clock[0] += round(seconds * 1e9)

    def call():
        clock[0] += 1 * MS

    measure_slo(call, trials=3, deadline_us=1.0, pacing_seconds=0.01, wait=wait)
    assert waits == [0.01, 0.009, 0.009]


def test_a_slow_call_is_charged_with_those_that_waited_for_it(clock):
    report = measured(clock, [100, *[0] * 19])
    assert report.late == 5, "those due at 10 to 50 ms were answered at 110"


def test_a_delay_of_less_than_a_step_counts_too(clock):
    report = measured(clock, [19, 1, *[0] * 8], deadline_ms=9.5)
    assert report.late == 2, "the second was due 9 ms before it was begun, and took 1"
    assert report.percentiles_us["max"] == 19_000


def test_a_timer_that_is_late_is_no_fault_of_theirs(clock):
    report = measured(clock, [1] * 20, wakes_late_ms=lambda number: 45 if number == 3 else 0, deadline_ms=2.0)
    assert report.late == 0
    assert report.percentiles_us["max"] == 1_000


def test_hot_calls_wait_for_nothing_and_are_charged_with_nothing_else(clock):
    takes = iter([100, 1, 1, 1])

    def call():
        clock[0] += next(takes) * MS

    report = measure_slo(call, trials=4, deadline_us=50_000.0, pacing_seconds=0.0, wait=pytest.fail)
    assert (report.late, report.met, report.paced_ms) == (1, False, 0.0)
