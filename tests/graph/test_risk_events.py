"""Risk events: told at once, from any thread, to whoever wants to hear them, and nobody keeps them from being told."""

import asyncio
import threading

import pytest

from agents.domain import KillSwitchReason
from graph.risk_events import RiskEvent, RiskEvents


@pytest.fixture
def events():
    return RiskEvents()


def test_what_is_told(events):
    heard = []
    events.subscribe(heard.append)
    events("TradingChanged", {"code": "drawdown", "state": "halted"})
    events("CancelFailed", {"order": "x"})
    events("PolicyUnusable", {"code": "no such code"})
    assert heard == [
        RiskEvent("TradingChanged", {"code": "drawdown", "state": "halted"}, KillSwitchReason.DRAWDOWN),
        RiskEvent("CancelFailed", {"order": "x"}),
        RiskEvent("PolicyUnusable", {"code": "no such code"}),
    ]
    assert events.counts == {"TradingChanged": 1, "CancelFailed": 1, "PolicyUnusable": 1}


@pytest.mark.parametrize("code", [*KillSwitchReason, *map(str, KillSwitchReason)])
def test_every_code_is_a_reason(events, code):
    heard = []
    events.subscribe(heard.append)
    events("TradingChanged", {"code": code})
    assert heard[0].reason is KillSwitchReason(code)


def test_a_code_that_is_none(events):
    heard = []
    events.subscribe(heard.append)
    for code in (None, 5, [], {}):
        events("X", {"code": code})
    assert [event.reason for event in heard] == [None] * 4


def test_a_callback_that_fails_keeps_no_other(events, caplog):
    heard = []

    def fails(event):
        raise ValueError("mine")

    events.subscribe(fails)
    events.subscribe(heard.append)
    events("X", {})
    assert (len(heard), events.counts["CallbackFailed"]) == (1, 1)
    assert "was not told of X: ValueError('mine')" in caplog.text


def test_a_callback_may_subscribe_and_tell_something_itself(events):
    heard = []

    def tells(event):
        if event.kind == "first":
            events.subscribe(heard.append)
            events("second", {})

    events.subscribe(tells)
    events("first", {})
    assert [event.kind for event in heard] == ["second"]


def test_an_asynchronous_callback_needs_a_loop_to_run_on(events):
    async def hears(event): ...

    with pytest.raises(RuntimeError):
        events.subscribe(hears)
    events("X", {})
    assert events.counts["CallbackFailed"] == 0


async def test_an_asynchronous_callback_runs_on_its_own_loop_whoever_tells(events):
    threads = []

    class Object:
        async def __call__(self, event):
            threads.append(threading.current_thread())

    async def hears(event):
        threads.append(threading.current_thread())

    events.subscribe(hears)
    end = events.subscribe(Object())
    await asyncio.to_thread(events, "X", {})
    await events.settle()
    assert threads == [threading.current_thread()] * 2
    end()
    end()
    events("X", {})
    await events.settle()
    assert len(threads) == 3


def test_a_loop_that_is_closed_fails_nobody(events):
    async def hears(event): ...

    async def subscribe():
        events.subscribe(hears)

    asyncio.run(subscribe())
    events("X", {})
    assert events.counts["CallbackFailed"] == 1


async def test_callbacks_that_hang_are_bounded_in_time_and_number(events, monkeypatch):
    events.seconds = 0.001
    monkeypatch.setattr("graph.risk_events._WAITING_MAX", 10)
    begun = []

    async def hangs(event):
        begun.append(event)
        await asyncio.Event().wait()

    events.subscribe(hangs)
    for _ in range(25):
        events("X", {})
    await asyncio.sleep(0)
    assert len(events._waiting) == 10
    assert events.counts["CallbackFailed"] == 15
    await events.settle()
    await asyncio.sleep(0)
    assert (len(begun), len(events._waiting), events.counts["CallbackFailed"]) == (10, 0, 25)
