import asyncio

import pytest

from agents.errors import AgentUnhealthy, ConfigError
from graph.resilience import Guard, HealthMonitor


async def answer():
    return "pong"


async def down():
    raise ConnectionError("refused")


async def hang():
    await asyncio.Event().wait()


async def test_a_ping_that_answers_is_healthy_and_anything_else_is_not(now):
    async def nothing():
        return None

    monitor = HealthMonitor({"good": answer, "down": down, "hangs": hang, "none": nothing, "sync": lambda: True})
    began = now()
    found = await monitor.check_all()
    assert now() - began == pytest.approx(5)  # all at the same time, and at most one ping's time
    assert {name: health.healthy for name, health in found.items()} == {
        "good": True,
        "down": False,
        "hangs": False,
        "none": False,
        "sync": True,
    }
    assert found["down"].reason == "ConnectionError: refused"
    assert found["hangs"].reason == "no answer to a ping in 5 s"
    assert found["hangs"].seconds == pytest.approx(5)


@pytest.mark.parametrize("how", ["its own", "of its task"])
async def test_a_ping_that_ends_in_a_cancellation_which_nobody_wanted_is_not_healthy(how):
    async def cancelled():
        if how == "of its task":
            asyncio.current_task().cancel("pool closed")
            await asyncio.sleep(1)
        raise asyncio.CancelledError("pool closed")

    monitor = HealthMonitor({"bad": cancelled, "good": answer})
    found = await monitor.check_all()
    assert (found["bad"].healthy, found["bad"].reason) == (False, "CancelledError: pool closed")
    assert found["good"].healthy
    assert await monitor.check("bad") == found["bad"]
    assert asyncio.current_task().cancelling() == 0


@pytest.mark.parametrize("call", ["check", "check_all", "wait_for_healthy"])
@pytest.mark.parametrize("seconds", [0, 1, 5, 7])
async def test_a_cancellation_of_the_caller_is_passed_on(call, seconds):
    """At 5 s the ping's time is up at the same moment; after it, only waiting goes on."""
    monitor, hit = HealthMonitor({"trend": hang}), []
    task = asyncio.create_task(getattr(monitor, call)(*(() if call == "check_all" else ("trend",))))
    asyncio.get_running_loop().call_later(seconds, lambda: hit.append(task.cancel()))
    await asyncio.wait([task])
    await asyncio.sleep(10)
    assert hit == [seconds <= 5 or call == "wait_for_healthy"]
    assert task.cancelled() is hit[0]


async def test_a_task_that_was_cancelled_before_it_checks_is_not_told_of_a_bad_ping():
    ended = []

    async def whole():
        asyncio.current_task().cancel()
        ended.append(await HealthMonitor({"trend": answer}).check("trend"))

    task = asyncio.create_task(whole())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == []


async def test_an_error_that_cannot_say_what_it_is_is_told_by_its_type():
    class Broken(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    async def broken():
        raise Broken

    async def long():
        raise ValueError("two\nlines")

    found = await HealthMonitor({"broken": broken, "long": long}).check_all()
    assert found["broken"].reason == "Broken"
    assert found["long"].reason == "ValueError: two lines"


async def test_waiting_ends_where_the_ping_is_a_group_that_fails(now):
    """Up to Python 3.12 such a group leaves its task's `cancelling()` one too high."""

    async def group():
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(down())

    began = now()
    with pytest.raises(AgentUnhealthy, match="unhandled errors in a TaskGroup"):
        await HealthMonitor({"trend": group}).wait_for_healthy("trend", timeout=60)
    assert now() - began == pytest.approx(60)
    assert asyncio.current_task().cancelling() == 0


async def test_a_ping_that_hangs_after_its_group_has_failed_is_late():
    async def caught():
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(down())
        except ExceptionGroup:
            pass
        await hang()

    assert (await HealthMonitor({"trend": caught}).check("trend")).reason == "no answer to a ping in 5 s"


async def test_flowing_calls_make_the_ping_unnecessary_and_silence_brings_it_back():
    pings = []

    async def ping():
        pings.append(1)
        return True

    guard = Guard("trend", retry=None)
    monitor = HealthMonitor({"trend": ping}, breakers=guard.breakers)
    await monitor.check("trend")
    assert len(pings) == 1
    await guard(answer)
    health = await monitor.check("trend")
    assert (health.healthy, health.reason, len(pings)) == (True, "it answers calls", 1)
    await monitor.check("trend")  # nothing flowed since the last check
    assert len(pings) == 2
    await guard(answer)
    with pytest.raises(ConnectionError):
        await guard(down)
    await monitor.check("trend")  # it answered, but failed after that: ask
    assert len(pings) == 3


async def test_an_open_breaker_is_unhealthy_without_a_ping_until_its_time_is_up():
    guard = Guard("trend", retry=None)
    for _ in range(5):
        with pytest.raises(ConnectionError):
            await guard(down)
    monitor = HealthMonitor({"trend": answer}, breakers=guard.breakers)
    health = await monitor.check("trend")
    assert not health.healthy
    assert health.reason.startswith("its breaker is open (failures in a row: 5;")
    await asyncio.sleep(60)
    assert (await monitor.check("trend")).healthy
    guard.breakers["trend"].isolate("deploy")
    assert not (await monitor.check("trend")).healthy


async def test_waiting_until_an_agent_is_back(now):
    began = now()

    async def back_after_17_seconds():
        return True if now() - began >= 17 else None

    health = await HealthMonitor({"trend": back_after_17_seconds}).wait_for_healthy("trend")
    assert health.healthy
    assert now() - began == pytest.approx(20)  # checked every 5 s


@pytest.mark.parametrize("ping", [down, hang])
async def test_waiting_ends(now, ping):
    began = now()
    with pytest.raises(AgentUnhealthy, match="'trend' did not become healthy within 60 s"):
        await HealthMonitor({"trend": ping}).wait_for_healthy("trend", timeout=60)
    assert now() - began == pytest.approx(60)


async def test_changes_are_told_once(heard):
    state = [True]
    monitor = HealthMonitor({"trend": lambda: True if state[0] else None}, observers=[heard])
    for healthy in (True, True, False, False, True):
        state[0] = healthy
        await monitor.check("trend")
    assert [event.healthy for event in heard] == [True, False, True]


async def test_bad_input_is_refused():
    with pytest.raises(ConfigError, match="no agent 'x' to check; there are trend"):
        await HealthMonitor({"trend": answer}).check("x")
    with pytest.raises(ConfigError, match="ping_timeout"):
        HealthMonitor({}, ping_timeout=0)
