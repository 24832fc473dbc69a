import subprocess
import sys
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
import tenacity

from agents.errors import ConfigError
from graph.resilience import Budget, Guard, Retry
from graph.resilience.retry import retry_after_seconds

ROOT = Path(__file__).parents[3]


def seeded(seed):
    return Random(seed)  # noqa: S311


def delays(retry, attempts, error=None):
    return [retry.delay_seconds(n, error or ConnectionError(), seeded(1), 0.0) for n in range(1, attempts + 1)]


def test_three_attempts_one_then_two_seconds():
    assert delays(Retry(jitter=(1, 1)), 3) == [1, 2, None]


def test_waits_grow_up_to_the_cap():
    assert delays(Retry(max_attempts=9, jitter=(1, 1)), 8) == [1, 2, 4, 8, 16, 32, 60, 60]


def test_jitter_spreads_between_half_and_one_and_a_half():
    random = seeded(7)
    waits = [Retry().delay_seconds(1, ConnectionError(), random, 0.0) for _ in range(1000)]
    assert min(waits) >= 0.5
    assert max(waits) <= 1.5
    assert max(waits) - min(waits) > 0.9


def test_the_same_seed_waits_the_same():
    assert [Retry().delay_seconds(1, ConnectionError(), seeded(3), 0.0) for _ in range(2)] == [
        Retry().delay_seconds(1, ConnectionError(), seeded(3), 0.0)
    ] * 2


def test_tenacitys_strategies_replace_ours():
    retry = Retry(
        wait=tenacity.wait_chain(tenacity.wait_fixed(3), tenacity.wait_fixed(7)), stop=tenacity.stop_after_attempt(5)
    )
    assert delays(retry, 5) == [3, 7, 7, 7, None]
    by_time = Retry(stop=tenacity.stop_after_delay(10))
    assert by_time.delay_seconds(50, ConnectionError(), seeded(1), 9.9) is not None
    assert by_time.delay_seconds(1, ConnectionError(), seeded(1), 10.1) is None
    on_error = Retry(wait=lambda state: 5.0 if isinstance(state.outcome.exception(), ConnectionError) else 1.0)
    assert delays(on_error, 1) == [5.0]


def test_a_strategy_that_counts_the_coming_wait_is_told_of_it():
    retry = Retry(wait=tenacity.wait_fixed(7), stop=tenacity.stop_before_delay(10))
    assert retry.delay_seconds(1, ConnectionError(), seeded(1), 2.9) == 7
    assert retry.delay_seconds(1, ConnectionError(), seeded(1), 3.1) is None
    assert retry.delay_seconds(1, Asked(retry_after="9"), seeded(1), 2.9) is None


def broken(state):
    raise LookupError("no such strategy")


@pytest.mark.parametrize(
    "strategy",
    [
        {"wait": broken},
        {"stop": broken},
        {"wait": lambda state: float("nan")},
        {"wait": lambda state: float("inf")},
        {"wait": lambda state: None},
        {"stop": tenacity.stop_when_event_set(None)},
    ],
    ids=["wait", "stop", "nan", "inf", "none", "event"],
)
async def test_a_strategy_that_fails_hides_neither_the_error_nor_the_fallback(strategy, caplog):
    calls = []

    async def down():
        calls.append(1)
        raise ConnectionError("down")

    async def rules():
        return "by rule"

    assert await Guard("g", retry=Retry(**strategy), fallbacks=[rules])(down) == "by rule"
    with pytest.raises(ConnectionError, match="down"):
        await Guard("g", retry=Retry(**strategy))(down)
    assert len(calls) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "the strategy of a retry failed after a ConnectionError; it is not tried again"
    ] * 2


def test_a_wait_below_nothing_is_none():
    assert delays(Retry(wait=lambda state: -3.0), 1) == [0]


class Asked(ConnectionError):
    def __init__(self, **headers):
        self.response = SimpleNamespace(headers={key.replace("_", "-"): value for key, value in headers.items()})


def test_retry_after_lengthens_the_wait_but_never_shortens_it():
    retry = Retry(jitter=(1, 1))
    assert delays(retry, 2, Asked(retry_after="17")) == [17, 17]
    assert delays(retry, 2, Asked(retry_after="1.5")) == [1.5, 2]
    assert delays(retry, 1, Asked(retry_after="61")) == [None]  # more than the cap: it is not worth waiting for
    assert delays(retry, 1, Asked(retry_after="9" * 400)) == [None]
    assert delays(retry, 1, Asked(retry_after="nan")) == [1]


def test_of_a_group_the_longest_wish_counts():
    members = [Asked(retry_after="5"), ConnectionError(), ExceptionGroup("", [Asked(retry_after="17")])]
    assert delays(Retry(jitter=(1, 1)), 1, ExceptionGroup("swarm", members)) == [17]
    assert delays(Retry(jitter=(1, 1)), 1, ExceptionGroup("swarm", members[1:2])) == [1]


def test_retry_after_is_read_in_all_its_forms():
    date = {"retry_after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}
    assert retry_after_seconds(Asked(**date)) == 30
    assert retry_after_seconds(Asked(retry_after=date["retry_after"])) is None  # a date, and nothing to count it from
    assert retry_after_seconds(Asked(retry_after="soon")) is None
    assert retry_after_seconds(Asked(retry_after="-3")) is None
    assert retry_after_seconds(Asked()) is None
    error = ConnectionError()
    error.retry_after = 4
    assert retry_after_seconds(error) == 4
    error.retry_after = object()
    assert retry_after_seconds(error) is None
    assert retry_after_seconds(ValueError()) is None


class Unread(ConnectionError):
    @property
    def response(self):
        raise RuntimeError("the response was not read")


async def test_retry_after_is_honoured_by_the_guard(now):
    calls, began = [], now()

    async def busy():
        calls.append(1)
        if len(calls) == 1:
            raise Asked(retry_after="20")
        return "ok"

    assert await Guard("model")(busy) == "ok"
    assert now() - began == pytest.approx(20)


def test_a_budget_is_a_tenth_of_the_calls_and_a_reserve():
    budget = Budget(ratio=0.125, reserve=2)
    assert [budget.withdraw() for _ in range(3)] == [True, True, False]
    for _ in range(7):
        budget.deposit()
    assert not budget.withdraw()
    budget.deposit()
    assert budget.withdraw()
    for _ in range(1000):
        budget.deposit()
    assert budget.tokens == 2


@pytest.mark.parametrize(
    "wrong",
    [{"max_attempts": 0}, {"base_seconds": -1}, {"factor": 0.5}, {"max_seconds": float("inf")}, {"jitter": (1.5, 0.5)}],
)
def test_policies_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Retry(**wrong)
    with pytest.raises(ConfigError, match="reserve"):
        Budget(reserve=0)


def test_tenacity_is_imported_by_the_first_failure_and_not_before():
    code = """
import asyncio, sys
from graph.resilience import Guard, Retry
async def ok(): return 1
async def down(): raise ConnectionError
guard = Guard("trend", retry=Retry(base_seconds=0))
async def main():
    await guard(ok)
    assert "tenacity" not in sys.modules and "langgraph" not in sys.modules
    try: await guard(down)
    except ConnectionError: pass
    assert "tenacity" in sys.modules and "langgraph" not in sys.modules
asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=ROOT)


def test_the_children_of_one_process_do_not_retry_in_step():
    code = """
import os
from graph.resilience.retry import JITTER
for _ in range(2):
    if os.fork() == 0:
        print(JITTER.random(), flush=True)
        os._exit(0)
    os.wait()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, cwd=ROOT
    )
    first, second = done.stdout.split()
    assert first != second


@pytest.mark.parametrize(
    "strange",
    [{"retry_after": 10**400}, {"headers": {"retry-after": ["3"]}}, {"headers": [("retry-after", "3")]}, {}],
    ids=["huge", "list", "pairs", "unread"],
)
async def test_a_wish_that_cannot_be_read_neither_hides_the_error_nor_the_fallback(strange):
    async def fail():
        error = ConnectionError("down")
        if "retry_after" in strange:
            error.retry_after = strange["retry_after"]
        elif not strange:
            error = Unread("down")
        else:
            error.response = type("Response", (), {"headers": strange["headers"]})()
        raise error

    async def rules():
        return "by rule"

    assert await Guard("g", fallbacks=[rules])(fail) == "by rule"
