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
