"""Whatever becomes of its policy, the agent has an answer, and it is never a trade that nobody meant."""

import math
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.domain import TradingAction
from agents.errors import ConfigError, DeadlineExceeded, PolicyFault
from agents.policy import DeadlineMode, ExecutionAgent
from agents.policy.bundle import METADATA

SEEN = np.array([2.0, 0.0, 0.0, 0.0])
SECOND = 1_000_000_000


class Clock:
    def __init__(self):
        self.now_ns = 0

    def __call__(self):
        return self.now_ns


class Timed:
    """A policy that says how long it took, without taking it."""

    policy_id = "timed"

    def __init__(self, latency_us=1.0):
        self.latency_us = latency_us
        self.calls = 0

    def predict(self, observation, deterministic=True):
        self.calls += 1
        if isinstance(self.latency_us, Exception):
            raise self.latency_us
        return TradingAction.BUY, {
            "policy_id": self.policy_id,
            "policy_type": "test",
            "action_reason": "it feels like it",
            "latency_us": self.latency_us,
            "is_fallback": False,
            "prediction_count": 0,
        }


@pytest.fixture
def told():
    return []


@pytest.fixture
def make(told):
    def make(policy, **options):
        clock = Clock()
        # A machine that is busy must not make these tests late: what is late is what the policy says.
        given = {"deadline_us": 1e6, "alert": lambda what, why: told.append(what), "now_ns": clock} | options
        return ExecutionAgent(policy, **given), clock

    return make


LATE = 2e6  # microseconds, twice the deadline


class TestBundles:
    def test_a_bundle_that_works(self, bundle, make, told):
        agent, _ = make(bundle())
        for count in (1, 2, 3):
            action, info = agent.predict(SEEN)
            assert action is TradingAction.BUY
            assert (info["policy_id"], info["is_fallback"], info["prediction_count"]) == ("small", False, count)
        assert told == ["policy_loaded"]
        assert (agent.policy_id, agent.is_fallback, agent.inline) == ("small", False, True)

    @pytest.mark.parametrize(
        "broken",
        ["no folder", "no policy file", "corrupt policy file", "invalid metadata", "empty folder", "empty policy file"],
    )
    def test_a_bundle_that_does_not_holds_cash(self, bundle, make, told, tmp_path, broken):
        folder = bundle("torchscript") if "policy file" in broken else bundle()
        if broken == "no folder":
            folder = tmp_path / "nobody"
        elif broken == "no policy file":
            (folder / "policy.pt").unlink()
        elif broken == "corrupt policy file":
            (folder / "policy.pt").write_bytes(b"corrupted")
        elif broken == "empty policy file":
            (folder / "policy.pt").write_bytes(b"")
        elif broken == "invalid metadata":
            (folder / METADATA).write_text("{ not json")
        else:
            shutil.rmtree(folder)
            folder.mkdir()
        agent, _ = make(folder)
        for count in (1, 2):
            action, info = agent.predict(SEEN)
            assert action is TradingAction.HOLD
            assert info.pop("latency_us") >= 0
            assert info == {
                "policy_id": "fallback_hold_cash",
                "policy_type": "fallback_hold_cash",
                "action_reason": "fallback_safe_hold",
                "is_fallback": True,
                "prediction_count": count,
            }
        assert told == ["policy_unusable"]
        assert agent.why
        assert (agent.is_fallback, agent.fallback_count) == (True, 2)

    def test_a_bundle_made_for_other_features(self, bundle, make, told):
        agent, _ = make(bundle(), features=("a", "b", "x", "d"))
        assert agent.is_fallback
        assert "c where x is given" in agent.why
        assert not make(bundle(), features=("a", "b", "c", "d"))[0].is_fallback

    def test_a_bundle_that_is_mended_is_found(self, bundle, make, told):
        folder = bundle()
        (folder / METADATA).rename(folder / "away")
        agent, clock = make(folder)
        assert agent.is_fallback
        assert not agent.reload_due
        clock.now_ns = 60 * SECOND
        assert agent.reload_due
        assert not agent.reload()
        assert not agent.reload_due, "a try that failed is a try"
        (folder / "away").rename(folder / METADATA)
        clock.now_ns = 120 * SECOND
        assert agent.reload()
        assert (agent.is_fallback, agent.why, agent.reload_due) == (False, "", False)
        assert agent.predict(SEEN)[0] is TradingAction.BUY
        assert told == ["policy_unusable", "policy_unusable", "policy_loaded"]

    def test_a_bundle_that_breaks_leaves_the_policy_that_is_there(self, bundle, make):
        folder = bundle()
        agent, _ = make(folder)
        (folder / METADATA).write_text("{}")
        assert not agent.reload()
        assert agent.predict(SEEN)[0] is TradingAction.BUY
        assert not agent.reload_due

    def test_an_alert_that_fails_stops_nothing(self, bundle):
        def alert(what, why):
            raise OSError("no pager")

        assert not ExecutionAgent(bundle(), alert=alert).is_fallback

    def test_it_is_kept_warm(self, make, tmp_path):
        agent, _ = make(policy := Timed(), mode="strict")
        agent.keep_warm(4)
        assert (policy.calls, agent.prediction_count) == (4, 0), "warming up is no prediction"
        policy.latency_us = ZeroDivisionError("x")
        agent.keep_warm()
        assert (policy.calls, agent.fault_count) == (5, 0)
        make(tmp_path)[0].keep_warm()


class TestDeadline:
    def test_fast_policy(self, make):
        agent, _ = make(Timed(), mode="strict")
        assert agent.predict(SEEN)[0] is TradingAction.BUY
        assert agent.breach_count == 0

    def test_slow_policy_fails_fast(self, make):
        agent, _ = make(Timed(LATE), mode="strict")
        with pytest.raises(
            DeadlineExceeded, match=r"timed: the policy took 2000000.0 us, beyond the deadline of 1e\+06 us"
        ):
            agent.predict(SEEN)

    def test_the_call_as_a_whole_has_it_too(self):
        """The policy says that it was quick; end to end it was not."""
        agent = ExecutionAgent(Timed(0.0), mode="strict", deadline_us=1e-6)
        with pytest.raises(DeadlineExceeded, match="the call took"):
            agent.predict(SEEN)

    def test_switched_off(self, make):
        agent, _ = make(Timed(LATE), mode="off")
        assert [agent.predict(SEEN)[0] for _ in range(20)] == [TradingAction.BUY] * 20
        assert (agent.breach_count, agent.is_fallback) == (0, False)

    def test_it_is_no_assertion(self, tmp_path):
        code = (
            "import numpy as np\n"
            "from agents.errors import DeadlineExceeded\n"
            "from agents.policy import ExecutionAgent, RulePolicy\n"
            "assert False, 'stripped'\n"
            "try: ExecutionAgent(RulePolicy(), mode='strict', deadline_us=0.001).predict(np.zeros(4))\n"
            "except DeadlineExceeded: print('kept')\n"
        )
        done = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "kept\n"

    def test_guarded_it_holds_and_counts(self, make, told):
        agent, _ = make(policy := Timed(LATE))
        action, info = agent.predict(SEEN)
        assert (action, info["action_reason"], info["policy_id"]) == (TradingAction.HOLD, "deadline_exceeded", "timed")
        assert (agent.breach_count, agent.is_fallback, told) == (1, False, [])
        policy.latency_us = 1.0
        assert agent.predict(SEEN)[0] is TradingAction.BUY

    def test_breaches_in_a_row_trip_it(self, make, told):
        agent, _ = make(policy := Timed(LATE), breaches_in_row=3)
        for latency in (LATE, LATE, 1.0, LATE, LATE):
            policy.latency_us = latency
            agent.predict(SEEN)
            assert not agent.is_fallback
        agent.predict(SEEN)
        assert told == ["policy_tripped"]
        calls = policy.calls
        action, info = agent.predict(SEEN)
        assert (action, info["is_fallback"], policy.calls) == (TradingAction.HOLD, True, calls)
        assert "3 calls in a row" in agent.why

    def test_a_share_of_breaches_trips_it(self, make, told):
        agent, _ = make(policy := Timed(), breach_share=0.1)
        for step in range(1, 400):
            policy.latency_us = LATE if step % 9 == 0 else 1.0
            agent.predict(SEEN)
            if agent.is_fallback:
                break
        assert told == ["policy_tripped"]
        assert 100 <= step <= 110, "not before the share is worth its name"

    def test_one_in_twenty_does_not(self, make, told):
        agent, _ = make(policy := Timed(), breach_share=0.1)
        for step in range(3_000):
            policy.latency_us = LATE if step % 20 == 0 else 1.0
            agent.predict(SEEN)
        assert (told, agent.breach_count) == ([], 150)

    def test_old_breaches_are_forgotten(self, make, told):
        agent, _ = make(policy := Timed(), breach_share=0.1, breaches_in_row=1_000)
        for latency in [1.0] * 950 + [LATE] * 90 + [1.0] * 950 + [LATE] * 90:
            policy.latency_us = latency
            agent.predict(SEEN)
        assert told == []

    def test_it_recovers(self, make, told):
        agent, clock = make(policy := Timed(LATE), breaches_in_row=1, recover_seconds=60)
        agent.predict(SEEN)
        policy.latency_us = 1.0
        clock.now_ns = 60 * SECOND - 1
        assert agent.predict(SEEN)[1]["is_fallback"]
        clock.now_ns = 60 * SECOND
        assert agent.predict(SEEN)[0] is TradingAction.BUY
        assert told == ["policy_tripped", "policy_recovered"]
        assert agent.why == ""

    def test_not_while_it_raises(self, make, told):
        agent, clock = make(policy := Timed(LATE), breaches_in_row=1, recover_seconds=60)
        agent.predict(SEEN)
        policy.latency_us = PolicyFault("broken")
        clock.now_ns = 60 * SECOND
        assert agent.predict(SEEN)[1]["is_fallback"]
        calls = policy.calls
        clock.now_ns += SECOND
        assert agent.predict(SEEN)[1]["is_fallback"]
        assert policy.calls == calls, "the next try is a whole period away"
        assert told == ["policy_tripped"]


class TestFaults:
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_a_number_that_is_none_is_held(self, bundle, make, told, bad):
        agent, _ = make(bundle())
        action, info = agent.predict(np.array([bad, 0, 0, 0]))
        assert (action, info["action_reason"], info["policy_id"]) == (TradingAction.HOLD, "policy_fault", "small")
        assert (agent.fault_count, agent.prediction_count) == (1, 1)
        assert told == ["policy_loaded", "policy_fault"]
        assert agent.predict(SEEN)[0] is TradingAction.BUY

    def test_strict_it_is_raised(self, bundle, make):
        agent, _ = make(bundle(), mode=DeadlineMode.STRICT)
        with pytest.raises(PolicyFault):
            agent.predict(np.array([math.nan, 0, 0, 0]))

    def test_whatever_a_policy_raises(self, make):
        action, info = make(Timed(ZeroDivisionError("x")))[0].predict(SEEN)
        assert (action, info["action_reason"]) == (TradingAction.HOLD, "policy_raised_ZeroDivisionError")

    @given(st.lists(st.floats(), max_size=6))
    def test_there_is_always_an_answer(self, values):
        agent = ExecutionAgent(Timed())
        assert agent.predict(np.array(values))[0] in TradingAction


@pytest.mark.parametrize(
    "wrong",
    [
        {"deadline_us": 0},
        {"deadline_us": math.nan},
        {"breaches_in_row": 0},
        {"breach_share": 0.0},
        {"breach_share": 1.1},
        {"recover_seconds": -1},
    ],
)
def test_numbers_that_cannot_be_used(wrong):
    with pytest.raises(ConfigError, match="no agent was made"):
        ExecutionAgent(Timed(), **wrong)


class TestSlo:
    def test_hot(self, bundle, make):
        agent, _ = make(bundle())
        report = agent.validate_slo(50)
        assert (report.calls, report.late, report.paced_ms, report.met) == (50, 0, 0.0, True)
        assert 0 < report.percentiles_us["p50"] <= report.percentiles_us["max"]
        assert agent.prediction_count == 0

    def test_slow_calls_are_told_and_not_raised(self):
        report = ExecutionAgent(Timed(), mode="strict", deadline_us=1e-6).validate_slo(20)
        assert (report.late, report.met) == (20, False)

    def test_paced_calls_wait_until_they_are_due(self):
        waits = []
        report = ExecutionAgent(Timed()).validate_slo(5, pacing_seconds=1000.0, wait=waits.append)
        assert report.paced_ms == 1e6
        assert [round(each, -3) for each in waits] == [1000.0, 2000.0, 3000.0, 4000.0, 5000.0]

    def test_a_slow_call_is_charged_with_those_that_waited_for_it(self, monkeypatch):
        """Calls are due at 10, 20, 30 ... ms; the first takes 100 ms, the others nothing."""
        now = [0]
        monkeypatch.setattr("agents.policy.agent.perf_counter_ns", lambda: now[0])

        class Slow(Timed):
            def predict(self, observation, deterministic=True):
                answer = super().predict(observation)
                now[0] += 100_000_000 if self.calls == 1 else 0
                return answer

        agent = ExecutionAgent(Slow(), deadline_us=50_000.0)
        report = agent.validate_slo(20, pacing_seconds=0.01, wait=lambda s: now.__setitem__(0, now[0] + int(s * 1e9)))
        assert report.late == 5, "those due at 10 to 50 ms were answered at 110"
