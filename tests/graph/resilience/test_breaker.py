import asyncio
import json
import math
from dataclasses import asdict

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agents.errors import BreakerOpen, ConfigError
from graph.resilience import Breaker, BreakerSnapshot, BreakerState, CircuitBreaker, Guard
from graph.resilience.virtual import VirtualLoop

CLOSED, OPEN, HALF_OPEN, ISOLATED = BreakerState


class Clock:
    def __init__(self):
        self.now = 500.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def breaker(clock, **policy):
    changes = []
    made = CircuitBreaker("trend", Breaker(**policy), clock=clock, on_change=lambda b: changes.append(b.state))
    return made, changes


def fail(made, times=1):
    for _ in range(times):
        made.failure(made.acquire(), 0.1, ValueError("bad"))


def succeed(made, times=1, seconds=0.1):
    for _ in range(times):
        made.success(made.acquire(), seconds)


def test_opens_after_five_failures_in_a_row_and_not_after_four_and_a_success(clock):
    made, _ = breaker(clock)
    fail(made, 4)
    succeed(made)
    fail(made, 4)
    assert made.state is CLOSED
    fail(made)
    assert made.state is OPEN
    assert made.acquire() is None
    assert made.reason == "failures in a row: 5; the last was ValueError: bad"


def test_recovers_by_two_successful_probes_after_a_minute(clock):
    made, changes = breaker(clock)
    fail(made, 5)
    clock.now += 59.999
    assert made.acquire() is None
    assert made.acquire() is None
    clock.now += 0.002
    assert made.open_seconds_left() == 0
    succeed(made)
    assert made.state is HALF_OPEN
    succeed(made)
    assert changes == [OPEN, HALF_OPEN, CLOSED]
    assert made.trips == 0
    assert made.reason == ""


def test_half_open_admits_only_as_many_probes_as_allowed(clock):
    made, _ = breaker(clock, probes=3)
    fail(made, 5)
    clock.now += 60
    permits = [made.acquire() for _ in range(1000)]
    assert sum(permit is not None for permit in permits) == 3


def test_one_failed_probe_opens_again_and_for_longer(clock):
    made, _ = breaker(clock, open_seconds=10, open_growth=3, open_seconds_max=50)
    fail(made, 5)
    waits = []
    for _ in range(4):
        waits.append(made.open_seconds_left())
        clock.now += made.open_seconds_left()
        fail(made)
        assert made.state is OPEN
    assert waits == [10, 30, 50, 50]
    clock.now += 50
    succeed(made, 2)
    fail(made, 5)
    assert made.open_seconds_left() == 10  # a recovery makes it patient again


def test_a_cancelled_probe_gives_its_place_back(clock):
    made, _ = breaker(clock)
    fail(made, 5)
    clock.now += 60
    permit = made.acquire()
    assert made.acquire() is None
    made.give_back(permit)
    assert made.acquire() is not None


def test_a_probe_that_never_comes_back_loses_its_place_and_its_voice(clock):
    made, _ = breaker(clock)
    fail(made, 5)
    clock.now += 60
    lost = made.acquire()
    clock.now += 59
    assert made.acquire() is None
    clock.now += 1
    fresh = made.acquire()
    assert fresh is not None
    made.failure(lost, 119, ValueError())
    made.give_back(lost)
    assert made.state is HALF_OPEN
    assert made.acquire() is None  # the lost probe's place was not given out twice


def test_a_probe_that_is_let_through_late_keeps_its_place_and_its_voice(clock):
    made, _ = breaker(clock)
    fail(made, 5)
    clock.now += 60
    succeed(made)
    clock.now += 59  # nobody called for a while
    second = made.acquire()
    clock.now += 1
    assert made.acquire() is None  # half-open for a minute, but this probe is out for a second
    made.success(second)
    assert made.state is CLOSED


@pytest.mark.parametrize("late", ["success", "failure", "give_back"])
def test_late_results_of_an_older_epoch_change_nothing(clock, late):
    made, _ = breaker(clock, success_threshold=1)
    old = [made.acquire() for _ in range(10)]
    fail(made, 5)
    clock.now += 60
    probe = made.acquire()
    for permit in old:
        getattr(made, late)(permit)
    assert made.state is HALF_OPEN
    assert made.acquire() is None
    made.success(probe)
    assert made.state is CLOSED
    for permit in old:
        made.failure(permit)
    assert made.state is CLOSED


def test_failure_rate_needs_its_minimum_of_calls(clock):
    made, _ = breaker(clock, failure_threshold=1000, failure_rate=0.5, calls_min=10, window_seconds=60)
    for _ in range(4):
        fail(made)
        succeed(made)
    assert made.state is CLOSED  # half of 8 failed, but 8 are too few to judge
    succeed(made)
    fail(made)
    assert made.state is OPEN
    assert made.reason == "5 of 10 calls in 60 s failed"


def test_failure_rate_forgets_what_is_older_than_its_window(clock):
    made, _ = breaker(clock, failure_threshold=1000, failure_rate=0.5, calls_min=10, window_seconds=60)
    fail(made, 9)
    clock.now += 61
    succeed(made, 5)
    fail(made, 4)
    assert made.state is CLOSED
    clock.now += 30
    fail(made)  # 5 of 10 within one window now
    assert made.state is OPEN


@pytest.mark.parametrize("by_hand", [True, False], ids=["released", "recovered"])
def test_a_breaker_that_has_closed_again_begins_with_an_empty_window(clock, by_hand):
    made, _ = breaker(clock, failure_threshold=1000, failure_rate=0.5, calls_min=10, window_seconds=60, open_seconds=5)
    fail(made, 10)
    assert made.state is OPEN
    if by_hand:
        made.release()
    else:
        clock.now += 5  # the failures are far from a minute old
        succeed(made, 2)
    fail(made, 9)
    assert made.state is CLOSED
    fail(made)
    assert made.state is OPEN


@pytest.mark.parametrize("kind", ["failure_rate", "slow_rate"])
def test_a_rate_that_is_reached_exactly_opens_it(clock, kind):
    made, _ = breaker(clock, failure_threshold=1000, slow_seconds=2.0, calls_min=100, **{kind: 0.07})
    succeed(made, 93)
    for _ in range(7):  # 0.07 * 100 is more than 7, for a computer
        assert made.state is CLOSED
        if kind == "failure_rate":
            fail(made)
        else:
            succeed(made, seconds=3.0)
    assert made.state is OPEN


def test_a_failure_just_inside_the_window_still_counts(clock):
    made, _ = breaker(clock, failure_threshold=1000, failure_rate=0.5, calls_min=10, window_seconds=60)
    fail(made, 9)
    clock.now += 53.9
    fail(made)
    assert made.state is OPEN


def test_slow_calls_open_it_though_they_answer(clock):
    made, _ = breaker(clock, slow_seconds=2.0, slow_rate=0.5, calls_min=4)
    succeed(made, 2, seconds=2.0)
    succeed(made, 1, seconds=2.1)
    assert made.state is CLOSED
    succeed(made, 1, seconds=2.1)
    assert made.state is OPEN
    clock.now += 60
    succeed(made, 1, seconds=2.1)  # a slow probe is no recovery
    assert made.state is OPEN


def test_isolated_until_released(clock):
    made, changes = breaker(clock)
    made.isolate("deploy")
    clock.now += 1e9
    assert made.acquire() is None
    assert made.acquire() is None
    assert made.open_seconds_left() == math.inf
    made.release()
    assert made.acquire() is not None
    assert changes == [ISOLATED, CLOSED]


@pytest.mark.parametrize("by_hand", ["isolate", "release"])
def test_isolated_or_released_by_whoever_hears_that_it_is_half_open(clock, by_hand):
    def decide(made):
        if made.state is HALF_OPEN:
            made.release() if by_hand == "release" else made.isolate("stay away")

    made = CircuitBreaker("trend", clock=clock, on_change=decide)
    fail(made, 5)
    clock.now += 60
    permits = [made.acquire() for _ in range(3)]
    assert permits == [None if by_hand == "isolate" else made.epoch] * 3


def test_a_success_that_began_before_the_isolation_does_not_end_it(clock):
    made, _ = breaker(clock)
    permit = made.acquire()
    made.isolate("deploy")
    made.success(permit)
    assert made.state is ISOLATED


def test_snapshot_survives_a_restart_with_another_clock(clock):
    made, _ = breaker(clock)
    fail(made, 5)
    clock.now += 20
    kept = made.snapshot()
    other = Clock()
    other.now = 3.0
    again, _ = breaker(other)
    again.restore(kept)
    assert again.state is OPEN
    assert again.reason == made.reason
    assert again.trips == 1
    assert again.open_seconds_left() == pytest.approx(40)
    other.now += 40
    assert again.acquire() is not None


@pytest.mark.parametrize("state", ["open", "half_open", "isolated"])
def test_a_snapshot_survives_json(clock, state):
    made, _ = breaker(clock)
    fail(made, 5)
    if state == "half_open":
        clock.now += 60
        made.acquire()
    elif state == "isolated":
        made.isolate("deploy")
    kept = json.loads(json.dumps(asdict(made.snapshot()), allow_nan=False))
    again, _ = breaker(clock)
    again.restore(BreakerSnapshot(**kept))
    assert again.reason == made.reason
    assert (again.acquire() is None) == (state != "half_open")
    assert again.open_seconds_left() == {"open": 60, "half_open": 0, "isolated": math.inf}[state]


@pytest.mark.parametrize(("trips", "longest"), [(0, 60), (1, 60), (2, 120), (10**400, 300)], ids=range(4))
def test_a_restored_breaker_stays_open_no_longer_than_its_own_policy_says(clock, trips, longest):
    made, _ = breaker(clock, open_growth=2)  # a whole number, whose powers know no bounds
    made.restore(BreakerSnapshot("open", 0, trips, 1e9, "an outage"))
    assert made.open_seconds_left() == longest


GOOD = {"state": "closed", "failures": 4, "trips": 0, "reopens_in_seconds": 0.0, "reason": ""}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("state", "ajar"),
        ("state", None),
        ("state", ["open"]),
        ("failures", -1),
        ("failures", 1.5),
        ("failures", True),
        ("failures", "4"),
        ("trips", -1),
        ("trips", math.nan),
        ("trips", None),
        ("reopens_in_seconds", -0.1),
        ("reopens_in_seconds", math.nan),
        ("reopens_in_seconds", math.inf),
        ("reopens_in_seconds", "40"),
        ("reopens_in_seconds", None),
        ("reason", None),
    ],
)
@pytest.mark.parametrize("state", ["closed", "open", "half_open", "isolated"])
def test_a_snapshot_that_no_breaker_makes_is_refused_whole(clock, field, value, state):
    made, changes = breaker(clock)
    fail(made, 5)
    before, told = made.snapshot(), list(changes)
    with pytest.raises(ConfigError, match=rf"has the {field} .*, and 'trend' keeps its own; it must be"):
        made.restore(BreakerSnapshot(**{**GOOD, "state": state, field: value}))
    assert made.snapshot() == before
    assert changes == told


def test_open_on_one_loops_clock_is_not_open_for_ever_on_the_next(clock):
    made, _ = breaker(clock)
    clock.now = 1e6
    fail(made, 5)
    clock.now = 0.0
    assert made.acquire() is None
    assert made.open_seconds_left() == 60
    clock.now = 59.9
    assert made.acquire() is None
    clock.now = 60.0
    assert made.acquire() is not None


def test_a_probe_that_was_lost_with_its_loop_gives_its_place_back_on_the_next(clock):
    made, _ = breaker(clock)
    clock.now = 1e6
    fail(made, 5)
    clock.now += 60
    made.acquire()
    clock.now = 0.0
    assert made.acquire() is not None
    assert made.acquire() is None


def test_the_window_of_one_loops_clock_is_forgotten_on_the_next(clock):
    made, _ = breaker(clock, failure_threshold=1000, failure_rate=0.5, calls_min=10, window_seconds=60)
    clock.now = 1e6
    fail(made, 9)
    clock.now = 0.0
    fail(made)
    assert made.state is CLOSED
    clock.now = 61.0
    fail(made, 9)
    assert made.state is CLOSED
    fail(made)
    assert made.state is OPEN


def test_good_calls_on_the_next_loop_count_in_its_own_window(path):
    policy = Breaker(failure_threshold=1000, failure_rate=0.5, calls_min=10)
    guard = Guard("trend", retry=None, breaker=policy, **path)

    async def call(fail):
        if fail:
            raise ConnectionError("down")

    async def calls(good, bad, late=0):
        await asyncio.sleep(late)
        await asyncio.gather(*(guard(call, n < bad) for n in range(good + bad)), return_exceptions=True)

    for main in (calls(5, 0, late=1e6), calls(11, 0), calls(0, 10)):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(main)
    assert guard.breakers["trend"].state is CLOSED  # 10 of 21


@pytest.mark.parametrize("others", [{}, {"last_resort": lambda: "rules"}], ids=["alone", "chain"])
def test_a_guard_that_was_opened_on_one_loop_recovers_on_the_next(others):
    guard = Guard("trend", retry=None, breaker=Breaker(failure_threshold=1, success_threshold=1), **others)

    async def answer():
        return "ok"

    async def fail_late():
        await asyncio.sleep(1e6)
        guard.breakers["trend"].failure(guard.breakers["trend"].acquire())

    async def recover():
        (result,) = await asyncio.gather(guard(answer), return_exceptions=True)
        assert result == "rules" or isinstance(result, BreakerOpen)
        await asyncio.sleep(60)
        return await guard(answer)

    for main, result in ((fail_late, None), (recover, "ok")):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            assert runner.run(main()) == result


@pytest.mark.parametrize("growth", [2.0, 1e10, 10**400, 1e308])
def test_the_open_time_never_grows_beyond_its_cap(clock, growth):
    made, _ = breaker(clock, failure_threshold=1, open_growth=growth, open_seconds_max=300)
    for _ in range(1200):
        fail(made)
        assert made.open_seconds_left() <= 300
        clock.now += made.open_seconds_left()
    assert made.open_seconds_left() == 0
    fail(made)
    assert made.open_seconds_left() == 300


def test_snapshot_of_closed_keeps_the_count_and_half_open_comes_back_ready_to_probe(clock):
    made, _ = breaker(clock)
    fail(made, 4)
    again, _ = breaker(clock)
    again.restore(made.snapshot())
    fail(again)
    assert again.state is OPEN
    clock.now += 60
    assert again.acquire() is not None
    third, _ = breaker(clock)
    third.restore(again.snapshot())
    assert third.state is OPEN
    assert third.acquire() is not None
    fourth, _ = breaker(clock)
    made.isolate("by hand")
    fourth.restore(made.snapshot())
    assert fourth.acquire() is None


def test_snapshot_with_an_unknown_state_is_told_which_there_are(clock):
    made, _ = breaker(clock)
    with pytest.raises(ConfigError, match="must be one of closed, open, half_open, isolated"):
        made.restore(BreakerSnapshot("ajar", 0, 0, 0.0, ""))


@pytest.mark.parametrize(
    "wrong",
    [
        {"failure_threshold": 0},
        {"success_threshold": 0},
        {"open_seconds": 0},
        {"open_seconds": math.nan},
        {"open_seconds_max": math.inf},
        {"open_seconds_max": math.nan},
        {"open_growth": 0.5},
        {"probes": 0},
        {"failure_rate": 0.0},
        {"failure_rate": 1.1},
        {"slow_seconds": 0.0},
        {"window_seconds": -1},
        {"calls_min": 0},
    ],
)
def test_policies_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Breaker(**wrong)


class Model:
    """The breaker in ten lines: one probe at a time, 3 failures, 2 successes, 60 s."""

    def __init__(self):
        self.state, self.count, self.probe, self.until = CLOSED, 0, None, 0.0

    def admits(self, now):
        if self.state is CLOSED:
            return True
        return now >= self.until and (self.probe is None or now >= self.probe_began + 60)

    def ends(self, now, good, is_probe):
        if self.state is CLOSED:
            self.count = 0 if good else self.count + 1
            if self.count == 3:
                self.state, self.until, self.count = OPEN, now + 60, 0
        elif is_probe:
            self.probe, self.count = None, self.count + good
            if not good:
                self.state, self.until, self.count = OPEN, now + 60, 0
            elif self.count == 2:
                self.state, self.count = CLOSED, 0


class BreakerAgainstModel(RuleBasedStateMachine):
    """Any order of calls, results, cancellations and waiting leaves the breaker and its model in the same state."""

    @initialize()
    def begin(self):
        self.clock, self.model = Clock(), Model()
        policy = Breaker(failure_threshold=3, success_threshold=2, open_seconds=60, open_growth=1)
        self.breaker = CircuitBreaker("any", policy, clock=self.clock)
        self.calls = []  # (permit, is this the model's current probe, model generation)
        self.generation = 0

    @rule()
    def call(self):
        now = self.clock.now
        admitted = self.model.admits(now)
        permit = self.breaker.acquire()
        assert (permit is not None) == admitted
        if not admitted:
            return
        if self.model.state is not CLOSED:
            if self.model.state is OPEN or self.model.probe is not None:
                self.model.count = 0  # a new half-open period begins
            self.model.state, self.model.probe, self.model.probe_began = HALF_OPEN, object(), now
        self.calls.append((permit, self.model.probe, self.generation))

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), how=st.sampled_from(["good", "bad", "cancelled"]))
    def end(self, data, how):
        permit, probe, generation = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        if how == "cancelled":
            self.breaker.give_back(permit)
            if probe is not None and probe is self.model.probe:
                self.model.probe = None
            return
        (self.breaker.success if how == "good" else self.breaker.failure)(permit)
        before = self.model.state
        current = generation == self.generation and (
            before is CLOSED or (probe is not None and probe is self.model.probe)
        )
        if current:
            self.model.ends(self.clock.now, how == "good", before is HALF_OPEN)
            if self.model.state is not before:
                self.generation += 1

    @rule(seconds=st.sampled_from([0.5, 30, 59.5, 60, 600]))
    def wait(self, seconds):
        self.clock.now += seconds

    @invariant()
    def same_state(self):
        if hasattr(self, "breaker"):
            assert self.breaker.state is self.model.state


BreakerAgainstModel.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestBreakerAgainstModel = BreakerAgainstModel.TestCase
