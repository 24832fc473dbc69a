"""How a loop asks its policy; what a whole bar makes of it is in the tests of the execution loop."""

import asyncio
import threading

import numpy as np
import pytest

from agents.domain import TradingAction
from agents.errors import DeadlineExceeded
from graph.policy_lane import PolicyLane
from tests.graph.floor import Says, agent_of

SEEN = np.zeros(4)


async def test_inline_and_in_a_thread_as_the_agent_has_measured():
    threads = []
    agent = agent_of(Says(before=lambda: threads.append(threading.current_thread())))
    lane = PolicyLane(agent, 60.0)
    for agent.inline in (True, False):
        assert (await lane.ask(SEEN))[0] is TradingAction.BUY
        await lane.keep_warm()
    here = [thread is threading.current_thread() for thread in threads]
    assert here == [True] * 6 + [False] * 6, "one answer and five for practice each"


@pytest.mark.parametrize("inline", [True, False])
async def test_what_the_strict_mode_raises_is_known(inline):
    def fails():
        raise ZeroDivisionError

    agent = agent_of(Says(before=fails), mode="strict")
    agent.inline = inline
    lane = PolicyLane(agent, 60.0)
    with pytest.raises(ZeroDivisionError) as raised:
        await lane.ask(SEEN)
    assert lane.raised is raised.value


async def test_strict_no_answer_is_one_that_is_late():
    free = threading.Event()
    agent = agent_of(Says(before=free.wait), mode="strict")
    agent.inline = False
    lane = PolicyLane(agent, 0.001)
    for _ in range(2):
        with pytest.raises(DeadlineExceeded, match=r"gave no answer within 0.001 s"):
            await lane.ask(SEEN)
    await lane.keep_warm()  # it is busy, and needs no practice
    free.set()
    await asyncio.wait({lane._asked})


async def test_one_reload_at_a_time(tmp_path):
    loading, go = threading.Event(), threading.Event()
    agent = agent_of(tmp_path, now_ns=lambda: 10**15)
    agent._tried_ns = 0

    def reload():
        loading.set()
        go.wait()
        agent._tried_ns = 10**15

    agent.reload = reload
    lane = PolicyLane(agent, 60.0)
    lane.reload_if_due()
    first = lane._reloading
    lane.reload_if_due()
    assert lane._reloading is first
    assert (await lane.ask(SEEN))[1]["is_fallback"], "hold-cash answers meanwhile"
    go.set()
    await first
    lane.reload_if_due()
    assert lane._reloading is first, "not due any more"
