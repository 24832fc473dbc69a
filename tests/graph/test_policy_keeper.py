"""One policy for all runs of a process: loaded once, tried again when due, and never by the event loop itself."""

import asyncio
import threading

import numpy as np
import pytest

from agents.domain import TradingAction
from agents.policy.named import DEMO_FOLDER
from agents.policy.observation import OBSERVATION_NAMES
from graph.policy_keeper import PolicyKeeper

SEEN = np.zeros(len(OBSERVATION_NAMES))


@pytest.fixture
def told():
    return []


@pytest.fixture
def make(told):
    return lambda name, pin="": PolicyKeeper(str(name), pin, lambda what, why: told.append(what))


async def test_it_is_loaded_when_it_is_needed_and_once(make, told):
    keeper = make("demo")
    assert (told, keeper.policy_id) == ([], "demo")
    agents = await asyncio.gather(*(keeper.ready() for _ in range(8)))
    assert (told, keeper.policy_id) == (["policy_loaded"], "demo_mlp")
    assert {id(agent) for agent in agents} == {id(await keeper.ready())}
    assert keeper.predict(SEEN)[0] is TradingAction.HOLD


def test_who_only_asks_gets_an_answer_too(make):
    assert make("demo").predict(SEEN)[1]["policy_id"] == "demo_mlp"


async def test_it_is_not_loaded_on_the_event_loop(make, monkeypatch):
    loaded_by = []
    monkeypatch.setattr("graph.policy_keeper.agent_named", lambda *_, **__: loaded_by.append(threading.get_ident()))
    await make("rule").ready()
    assert len(loaded_by) == 1
    assert threading.get_ident() not in loaded_by


async def test_a_bundle_that_is_mended_is_found_when_it_is_due(make, told, tmp_path):
    keeper = make(tmp_path / "bundle")
    agent = await keeper.ready()
    assert agent.is_fallback
    (tmp_path / "bundle").symlink_to(DEMO_FOLDER)
    assert (await keeper.ready()).is_fallback, "not before it is due"
    agent._tried_ns = -(10**18)
    assert not (await keeper.ready()).is_fallback
    assert told == ["policy_unusable", "policy_loaded"]


async def test_decisions_that_took_seconds_are_not_held_for_microseconds(make):
    keeper = make("demo")
    agent = await keeper.ready()
    agent._deadline_us = 0.0
    assert [keeper.predict(SEEN)[1]["action_reason"] for _ in range(9)] == ["greatest_output"] * 9
    assert agent.breach_count == 0


def test_the_fast_lane_has_an_agent_of_its_own_with_a_deadline(make, told):
    keeper = make("demo")
    agent = keeper.fast(deadline_us=1e-9)
    assert agent.predict(SEEN)[1]["action_reason"] == "deadline_exceeded"
    assert told == ["policy_loaded"]


async def test_threads_take_turns(make):
    """Two loops of one server may ask at the same time, and a network has one buffer."""
    keeper = make("demo")
    agent, inside, most = await keeper.ready(), [0], [0]
    real = agent.predict

    def predict(*given):
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        answer = real(*given)
        inside[0] -= 1
        return answer

    agent.predict = predict
    buys = SEEN.copy()
    buys[-4:] = (1.0, 0.0, 2.0, 4.0)

    def ask(row, wanted):
        return all(keeper.predict(row)[0] is wanted for _ in range(300))

    pairs = [(SEEN, TradingAction.HOLD), (buys, TradingAction.BUY)] * 3
    assert all(await asyncio.gather(*(asyncio.to_thread(ask, *pair) for pair in pairs)))
    assert most == [1]
