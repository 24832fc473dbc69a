"""Whatever becomes of its policy, the agent has an answer, and it is never a trade that nobody meant."""

import math
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
from tests.agents.policy.conftest import BIAS, WEIGHT, content_of

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


def _without(name):
    def broken(bundle, tmp_path):
        folder = bundle("torchscript")
        (folder / name).unlink()
        return folder, {}

    return broken


def _with(name, content):
    def broken(bundle, tmp_path):
        folder = bundle("torchscript")
        (folder / name).write_bytes(content)
        return folder, {}

    return broken


BROKEN = {
    "missing folder": lambda bundle, tmp_path: (tmp_path / "nobody", {}),
    "empty folder": lambda bundle, tmp_path: (tmp_path, {}),
    "missing policy.pt": _without("policy.pt"),
    "corrupt policy.pt": lambda bundle, tmp_path: (bundle("torchscript", b"corrupted"), {}),
    "changed policy.pt": _with("policy.pt", b"corrupted"),
    "empty policy.pt": _with("policy.pt", b""),
    "bad metadata": _with(METADATA, b"{ not json"),
    "missing metadata": _without(METADATA),
    "hash of another": lambda bundle, tmp_path: (bundle("torchscript", sha256="0" * 64), {}),
    "hash pinned of another": lambda bundle, tmp_path: (bundle("torchscript"), {"pinned_sha256": "0" * 64}),
    "input of another shape": lambda bundle, tmp_path: (
        bundle(
            "torchscript",
            input={"shape": [3], "dtype": "float32"},
            features=["a", "b", "c"],
            canaries=[{"input": [0, 0, 0], "output": [0, 0, 0]}],
        ),
        {},
    ),
    "output of another shape": lambda bundle, tmp_path: (
        bundle("torchscript", content_of("torchscript", WEIGHT[:2], BIAS[:2])),
        {},
    ),
    "canary mismatch": lambda bundle, tmp_path: (
        bundle("torchscript", canaries=[{"input": [0, 0, 0, 0], "output": [0.6, 0, 0]}]),
        {},
    ),
    "torch not installed": lambda bundle, tmp_path: (bundle("torchscript"), {}),
    "a path that is none": lambda bundle, tmp_path: (tmp_path / "a\0b", {}),
}


class TestBundles:
    def test_a_bundle_that_works(self, bundle, make, told):
        agent, _ = make(bundle())
        for count in (1, 2, 3):
            action, info = agent.predict(SEEN)
            assert action is TradingAction.BUY
            assert (info["policy_id"], info["is_fallback"], info["prediction_count"]) == ("small", False, count)
        assert told == ["policy_loaded"]
        assert (agent.policy_id, agent.is_fallback, agent.inline) == ("small", False, True)

    @pytest.mark.parametrize("broken", BROKEN)
    def test_a_bundle_that_does_not_holds_cash(self, bundle, caplog, monkeypatch, tmp_path, broken):
        folder, options = BROKEN[broken](bundle, tmp_path)
        told = []
        if broken == "torch not installed":
            monkeypatch.delitem(sys.modules, "agents.policy.torchscript", raising=False)
            monkeypatch.setitem(sys.modules, "torch", None)
        agent = ExecutionAgent(folder, **options)
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
        assert (agent.policy_id, agent.is_fallback, agent.fallback_count) == ("fallback_hold_cash", True, 2)
        assert (agent.unusable_count, agent.prediction_count, agent.pin) == (1, 2, "")
        assert agent.why
        (record,) = caplog.records
        assert (record.levelname, record.getMessage()) == ("WARNING", f"policy_unusable: {agent.why}")
        loud = ExecutionAgent(folder, **options, alert=lambda what, why: told.append((what, why)))
        assert told == [("policy_unusable", loud.why)]

    def test_a_bundle_whose_outputs_change_while_it_is_timed(self, bundle, make, monkeypatch, told):
        """It passed every check, and then it faults: that is no reason to have no agent."""
        monkeypatch.setattr("agents.policy.agent._timed", lambda policy, limit: policy.predict(np.zeros(1)))
        agent, _ = make(bundle())
        assert (agent.is_fallback, told) == (True, ["policy_unusable"])
        assert "PolicyFault" in agent.why

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
        clock.now_ns = 999 * SECOND
        assert not agent.reload_due, "one that answers is not tried again"
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

    def test_recovering_costs_a_slow_policy_three_calls(self, make, told):
        agent, clock = make(policy := Timed(LATE), breaches_in_row=1, recover_seconds=60)
        agent.predict(SEEN)
        clock.now_ns = 60 * SECOND
        policy.calls = 0
        assert agent.predict(SEEN)[1]["is_fallback"]
        assert (policy.calls, told) == (3, ["policy_tripped"])

    def test_it_recovers_while_nobody_waits(self, make, told):
        agent, clock = make(policy := Timed(LATE), breaches_in_row=1, recover_seconds=60)
        agent.predict(SEEN)
        policy.latency_us = 1.0
        agent.keep_warm()
        assert agent.is_fallback
        clock.now_ns = 60 * SECOND
        agent.keep_warm()
        assert (agent.is_fallback, told) == (False, ["policy_tripped", "policy_recovered"])

    def test_what_was_late_before_it_recovered_is_forgotten(self, make):
        agent, clock = make(policy := Timed(LATE), breaches_in_row=2, recover_seconds=60)
        for _ in range(2):
            agent.predict(SEEN)
        policy.latency_us, clock.now_ns = 1.0, 60 * SECOND
        agent.predict(SEEN)
        policy.latency_us = LATE
        agent.predict(SEEN)
        assert not agent.is_fallback

    def test_a_reload_beside_a_call_that_is_late(self, bundle, make, told):
        """The bundle that was exchanged meanwhile is not tripped by what the one before it did."""
        agent, _ = make(bundle(), breaches_in_row=1)
        slow = agent._post.policy = Timed(LATE)

        def predict(observation, deterministic=True):
            assert agent.reload()
            return Timed.predict(slow, observation)

        slow.predict = predict
        assert agent.predict(SEEN)[0] is TradingAction.HOLD
        assert not agent.is_fallback
        assert agent.predict(SEEN)[0] is TradingAction.BUY

    @pytest.mark.parametrize("raised", [PolicyFault("broken"), ZeroDivisionError("x")])
    def test_not_while_it_raises(self, make, told, raised):
        agent, clock = make(policy := Timed(LATE), breaches_in_row=1, recover_seconds=60)
        agent.predict(SEEN)
        policy.latency_us = raised
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

    def test_whatever_a_policy_raises(self, make, told):
        agent, _ = make(policy := Timed(ZeroDivisionError("x")))
        for count in (1, 2, 3):
            action, info = agent.predict(SEEN)
            assert (action, info["action_reason"]) == (TradingAction.HOLD, "policy_raised_ZeroDivisionError")
            assert info["prediction_count"] == agent.fault_count == count
        assert told == ["policy_fault"], "of a row of them the first is told"
        policy.latency_us = 1.0
        assert agent.predict(SEEN)[0] is TradingAction.BUY
        policy.latency_us = ZeroDivisionError("x")
        agent.predict(SEEN)
        assert told == ["policy_fault", "policy_fault"]

    @pytest.mark.parametrize("action", [1, np.int64(1), "BUY", None, True, 7])
    def test_an_action_in_another_coding_is_none(self, make, action):
        """1 is BUY here, and was HOLD where the policy may come from."""
        policy = Timed()
        policy.predict = lambda observation, deterministic=True: (action, Timed.predict(policy, observation)[1])
        taken, info = make(policy)[0].predict(SEEN)
        assert (taken, info["action_reason"]) == (TradingAction.HOLD, "policy_fault")
        with pytest.raises(PolicyFault, match="no TradingAction"):
            make(policy, mode="strict")[0].predict(SEEN)

    @pytest.mark.parametrize("info", [{}, None, {"latency_us": "1", "is_fallback": False}])
    def test_an_answer_that_says_nothing_of_itself(self, make, info):
        policy = Timed()
        policy.predict = lambda observation, deterministic=True: (TradingAction.BUY, info)
        assert make(policy)[0].predict(SEEN)[0] is TradingAction.HOLD

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
        assert (agent.prediction_count, agent.predict(SEEN)[1]["prediction_count"]) == (0, 1)

    def test_late_calls_are_told_and_not_raised(self, told):
        agent = ExecutionAgent(Timed(), mode="strict", deadline_us=1e-6, alert=lambda what, why: told.append(what))
        report = agent.validate_slo(20)
        assert (report.late, report.met, told) == (20, False, [])

    def test_paced(self, make):
        waits = []
        report = make(Timed())[0].validate_slo(3, pacing_seconds=1000.0, wait=waits.append)
        assert (report.paced_ms, len(waits)) == (1e6, 3)

    def test_it_is_the_whole_call_that_is_measured(self, monkeypatch, make):
        """Of a policy that takes no time at all, the agent's own part is left."""
        ticks = iter(range(0, 10**9, 1_000))
        monkeypatch.setattr("agents.policy.slo.perf_counter_ns", lambda: next(ticks))
        monkeypatch.setattr("agents.policy.agent.perf_counter_ns", lambda: next(ticks))
        report = make(Timed())[0].validate_slo(10)
        assert report.percentiles_us["p50"] == pytest.approx(3.0, rel=0.05), "begun, begun inside, ended inside, ended"

    def test_without_a_policy_hold_cash_is_measured(self, make, tmp_path):
        assert make(tmp_path)[0].validate_slo(10).calls == 10

    def test_a_policy_without_answers_has_no_latency(self, make):
        with pytest.raises(PolicyFault, match="nothing was measured"):
            make(Timed(ZeroDivisionError("x")))[0].validate_slo(10)
