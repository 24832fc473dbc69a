"""The inbox of the fast lane: it takes whatever comes, and what waits in it is bounded."""

import asyncio
from dataclasses import replace

from graph.session.inbox import Inbox
from tests.graph.session.floor import bar, quote


async def test_bars_come_out_in_order_and_the_newest_quote_before_them():
    inbox = Inbox()
    for item in (bar(1), quote(1, "100"), bar(2), quote(2, "101")):
        inbox.put(item)
    assert [await inbox.get() for _ in range(3)] == [quote(2, "101"), bar(1), bar(2)]
    assert (inbox.empty(), inbox.conflated, inbox.dropped_bars) == (True, 1, 0)


async def test_quotes_of_several_symbols_do_not_replace_each_other():
    inbox = Inbox()
    other = replace(quote(1, "5"), symbol="ETHUSDT")
    for item in (quote(1, "100"), other, quote(2, "101")):
        inbox.put(item)
    assert {inbox.get_nowait(), inbox.get_nowait()} == {other, quote(2, "101")}


async def test_it_waits_until_something_comes():
    inbox = Inbox()
    waiting = asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    assert not waiting.done()
    inbox.put(bar(1))
    assert await waiting == bar(1)
    inbox.task_done()


async def test_a_lane_that_does_not_come_leaves_no_more_than_fifty_bars():
    inbox = Inbox()
    for number in range(1, 61):
        inbox.put(bar(number))
        inbox.put(quote(number, "100"))
    assert (inbox.dropped_bars, inbox.conflated) == (10, 59)
    left = [inbox.get_nowait() for _ in range(51)]
    assert left == [quote(60, "100"), *(bar(number) for number in range(11, 61))]
