import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agents.errors import AgentTimeout, ConfigError, InjectedFault
from graph.resilience import (
    KILL_GRACE_SECONDS,
    AttemptFailed,
    Corrupted,
    Fault,
    FaultAction,
    FaultInjected,
    FaultPlan,
    Guard,
)

ROOT = Path(__file__).parents[3]


async def answer():
    return "ok"


async def test_an_error_is_raised_and_the_call_is_not_made(heard):
    calls = []

    async def agent():
        calls.append(1)

    guard = Guard("trend", retry=None, faults=FaultPlan.parse(["trend=error"]), observers=[heard])
    with pytest.raises(InjectedFault, match="failed call 1 of 'trend'; it was not made"):
        await guard(agent)
    assert not calls
    assert heard.of(FaultInjected) == [FaultInjected("trend", "trend", 1000.0, "error")]
    assert heard.of(AttemptFailed)[0].error_type == "InjectedFault"


async def test_only_the_named_guard_is_hit_and_fallbacks_have_names_of_their_own():
    plan = FaultPlan.parse(["trend=error"])
    assert await Guard("volume", faults=plan)(answer) == "ok"
    assert (await Guard("trend", faults=plan, fallbacks=[answer]).ask(answer)).link == "trend/answer"
    both = FaultPlan.parse(["trend*=error"])
    assert (
        await Guard("trend", faults=both, fallbacks=[answer], last_resort=lambda: 0).ask(answer)
    ).link == "trend/last-resort"


async def test_the_nth_call_only_and_retries_count():
    guard = Guard("trend", faults=FaultPlan.parse(["trend=error@2"]), retry=None)
    assert await guard(answer) == "ok"
    with pytest.raises(InjectedFault):
        await guard(answer)
    assert await guard(answer) == "ok"
    retried = Guard("trend", faults=FaultPlan.parse(["trend=error@1"]))
    assert (await retried.ask(answer)).attempts == 2


async def test_latency_delays_and_hang_waits_until_it_is_cancelled(now):
    began = now()
    assert await Guard("trend", faults=FaultPlan.parse(["trend=latency:2.5"]))(answer) == "ok"
    assert now() - began == pytest.approx(2.5)
    with pytest.raises(AgentTimeout):
        await Guard("trend", retry=None, attempt_timeout=7, faults=FaultPlan.parse(["trend=hang"]))(answer)
    assert now() - began == pytest.approx(9.5)


async def test_a_corrupt_result_cannot_be_mistaken_and_accept_refuses_it():
    plan = FaultPlan.parse(["trend=corrupt@1"])
    assert await Guard("trend", faults=plan)(answer) == Corrupted("ok")
    guard = Guard("trend", faults=FaultPlan.parse(["trend=corrupt@1"]), accept=lambda value: isinstance(value, str))
    assert (await guard.ask(answer)).attempts == 2
    shouting = FaultPlan([Fault("trend", FaultAction.CORRUPT)], corrupt=str.upper)
    assert await Guard("trend", faults=shouting)(answer) == "OK"


async def test_kill_strikes_when_the_work_is_done_and_its_result_is_not_yet_returned(monkeypatch, now):
    done, began = [], now()

    async def work():
        await asyncio.sleep(3)
        done.append(now() - began)
        return "ok"

    def kill(process, number):
        assert number == signal.SIGKILL
        done.append(now() - began)

    monkeypatch.setattr("os.kill", kill)
    await Guard("strategy", faults=FaultPlan.parse(["strategy=kill"]))(work)
    assert done == [pytest.approx(3), pytest.approx(3 + KILL_GRACE_SECONDS)]


def test_kill_really_kills():
    code = """
import asyncio
from graph.resilience import FaultPlan, Guard
async def work(): print("done", flush=True)
asyncio.run(Guard("strategy", faults=FaultPlan.parse(["strategy=kill"]))(work))
print("never")
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert (run.returncode, run.stdout) == (-signal.SIGKILL, "done\n")


def hits(plan, link, calls):
    return [bool(plan.draw(link, 0.0)) for _ in range(calls)]


def test_a_rate_hits_its_share_and_the_same_seed_hits_the_same_calls():
    once, again = (hits(FaultPlan.parse(["*=error:0.3"], seed=7), "trend", 5000) for _ in range(2))
    assert once == again
    assert 0.27 < sum(once) / 5000 < 0.33
    assert hits(FaultPlan.parse(["*=error:0.3"], seed=8), "trend", 5000) != once
    assert sum(hits(FaultPlan.parse(["*=error:0"]), "trend", 100)) == 0


def test_what_happens_to_one_link_does_not_depend_on_what_runs_beside_it():
    alone, mixed = FaultPlan.parse(["*=error:0.5"], seed=1), FaultPlan.parse(["*=error:0.5"], seed=1)
    expected = hits(alone, "trend", 50)
    seen = []
    for _ in range(50):
        mixed.draw("volume", 0.0)
        seen += hits(mixed, "trend", 1)
    assert seen == expected


def test_a_span_of_time_counts_from_the_plans_first_call():
    plan = FaultPlan([Fault("trend", FaultAction.ERROR, from_seconds=10, until_seconds=20)])
    assert [bool(plan.draw("trend", 500.0 + t)) for t in (0, 9.9, 10, 19.9, 20)] == [False, False, True, True, False]


def test_several_faults_strike_in_the_order_of_the_plan():
    plan = FaultPlan.parse(["trend=latency:1", "*=error"])
    assert [fault.action for fault in plan.draw("trend", 0.0)] == [FaultAction.LATENCY, FaultAction.ERROR]


def test_the_command_lines_form():
    plan = FaultPlan.parse(["a=kill", "b=error:0.3", "c=latency:2.5@3", "d*=hang@2", "x=corrupt"])
    assert plan.faults == (
        Fault("a", FaultAction.KILL),
        Fault("b", FaultAction.ERROR, rate=0.3),
        Fault("c", FaultAction.LATENCY, seconds=2.5, nth=3),
        Fault("d*", FaultAction.HANG, nth=2),
        Fault("x", FaultAction.CORRUPT),
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "trend",
        "=error",
        "trend=",
        "trend=explode",
        "trend=error:",
        "trend=error:x",
        "trend=error:2",
        "trend=error:nan",
        "trend=error@",
        "trend=error@x",
        "trend=error@0",
        "trend=latency",
        "trend=latency:-1",
        "trend=latency:inf",
        "trend=latency:0",
        "trend=error:0.3:4",
        "trend\n=error:2",
        "trend\n",
        "trend=expl\node",
        pytest.param("trend=latency:" + "9" * 5000, id="huge latency"),
        pytest.param("trend=error:" + "9" * 5000, id="huge rate"),
        pytest.param("trend=error@" + "9" * 5000, id="huge number"),
        pytest.param("trend=" + "e" * 5000, id="long action"),
        pytest.param("t" * 5000 + "=error:2", id="long target"),
    ],
)
def test_what_is_no_fault_is_refused_with_one_clear_line(text):
    with pytest.raises(ConfigError) as caught:
        FaultPlan.parse([text])
    assert is_one_clear_line(caught.value)


def is_one_clear_line(error):
    """A fact, the consequence and a remedy, short enough to be read."""
    fact, consequence, remedy = str(error).partition("nothing was run")
    return bool(fact and consequence and remedy.startswith("; ")) and "\n" not in str(error) and len(str(error)) < 400


@pytest.mark.parametrize(
    "wrong",
    [
        {"action": "latency"},
        {"action": "latency", "seconds": True},
        {"action": "latency", "seconds": 10**400},
        {"action": "latency", "seconds": 10**5000},
        {"seconds": 2.5},
        {"action": "hang", "seconds": 30},
        {"rate": True},
        {"rate": 10**5000},
        {"nth": True},
        {"nth": 1.0},
        {"nth": 10**400},
        {"nth": 10**9},
        {"from_seconds": "soon"},
        {"from_seconds": 10**400},
        {"until_seconds": "late"},
        {"until_seconds": float("nan")},
        {"from_seconds": 3, "until_seconds": 2},
        {"target": ""},
        {"target": None},
        {"target": "trend\n", "nth": 0},
    ],
    ids=", ".join,
)
def test_a_fault_that_can_never_strike_as_it_is_meant_is_refused(wrong):
    with pytest.raises(ConfigError) as caught:
        Fault(**({"target": "trend", "action": "error"} | wrong))
    assert is_one_clear_line(caught.value)


@pytest.mark.parametrize("seed", [True, 1.5, "7", None, 2**63, -(10**5000)], ids=type)
def test_a_seed_is_a_whole_number_of_a_size_that_can_be_written_down(seed):
    with pytest.raises(ConfigError) as caught:
        FaultPlan(seed=seed)
    assert is_one_clear_line(caught.value)


def test_a_target_that_matches_nothing_is_refused_and_names_what_there_is():
    plan = FaultPlan.parse(["trend=error", "vol*=hang", "trend/rules=error"])
    plan.check_targets(["volume", "trend"])
    with pytest.raises(ConfigError, match=r"vol\*=hang matches no guard.*the guards are macro, trend"):
        plan.check_targets(["trend", "macro"])
    with pytest.raises(ConfigError, match="the guards are none"):
        plan.check_targets([])
    with pytest.raises(ConfigError, match=r"the fault a\\nb=hang matches no guard"):
        FaultPlan.parse(["a\nb=hang"]).check_targets(["trend"])


def test_a_plan_from_a_file(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(
        'seed = 7\n[[fault]]\ntarget = "trend"\naction = "error"\nrate = 0.3\n'
        '[[fault]]\ntarget = "volume"\naction = "latency"\nseconds = 2\nnth = 4\nfrom_seconds = 1\nuntil_seconds = 9\n'
    )
    plan = FaultPlan.from_toml(path)
    assert plan.seed == 7
    assert plan.faults == (
        Fault("trend", FaultAction.ERROR, rate=0.3),
        Fault("volume", FaultAction.LATENCY, seconds=2, nth=4, from_seconds=1, until_seconds=9),
    )


FAULT = '[[fault]]\ntarget = "x"\naction = "error"\n'


@pytest.mark.parametrize(
    "text",
    [
        "not toml",
        "sede = 7",
        '"a\\nb" = 7',
        'seed = "x"',
        "seed = true",
        "seed = 7.0",
        "fault = 3",
        "fault = {}",
        "fault = [3]",
        '[[fault]]\ntarget = "x"',
        '[fault]\ntarget = "x"\naction = "error"',
        FAULT + "rtae = 0.3",
        FAULT + '"a\\nb" = 0.3',
        FAULT + 'rate = "often"',
        FAULT + "rate = 2024-01-01",
        FAULT + "rate = [0.3]",
        FAULT + "rate = true",
        FAULT + "nth = true",
        FAULT + "nth = false",
        FAULT + "nth = 2.0",
        FAULT + "seconds = 3",
        FAULT + "from_seconds = nan",
        '[[fault]]\ntarget = "x"\naction = "latency"',
        '[[fault]]\ntarget = "x"\naction = "latency"\nseconds = inf',
        '[[fault]]\ntarget = "x"\naction = "explode"',
        '[[fault]]\ntarget = "x"\naction = 3',
        '[[fault]]\ntarget = 3\naction = "error"',
        '[[fault]]\ntarget = "a\\nb"\naction = "error"\nrate = 2',
        pytest.param("seed = " + "9" * 400, id="a seed of 400 digits"),
        pytest.param("seed = " + "9" * 5000, id="a seed of 5000 digits"),
        pytest.param("seed = 0x" + "f" * 5000, id="a seed of 5000 hexadecimal digits"),
        pytest.param(FAULT.replace("error", "latency") + "seconds = " + "9" * 400, id="400 digits of seconds"),
        pytest.param(FAULT.replace("error", "latency") + "seconds = 0x" + "f" * 5000, id="seconds in hexadecimal"),
        pytest.param(FAULT + "nth = " + "9" * 400, id="a call number of 400 digits"),
        pytest.param(FAULT + "until_seconds = " + "9" * 400, id="400 digits of time"),
        pytest.param("x = " + "[" * 20_000, id="lists in lists"),
        pytest.param("x = " + "{a=" * 20_000, id="tables in tables"),
        pytest.param(".".join("a" * 3000) + " = 1", id="a long way down"),
        pytest.param("[[fault]]\n" + ".".join("a" * 3000) + " = 1", id="a long way down in a fault"),
        pytest.param(FAULT + "rate." + ".".join("a" * 3000) + " = 1", id="a long way down in a field"),
    ],
)
def test_a_file_that_is_no_plan_is_refused_with_one_clear_line(tmp_path, text):
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        FaultPlan.from_toml(path)
    assert is_one_clear_line(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        FaultPlan.from_toml(tmp_path / "absent.toml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        FaultPlan.from_toml(tmp_path / "binary")
