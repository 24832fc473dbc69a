"""The order queue: bounded, never waited for, and exits wait for no entry."""

import asyncio
from contextlib import asynccontextmanager
from decimal import Decimal

import pytest

from agents.domain import Order, OrderIntent, OrderStatus, Side
from agents.errors import BrokerUnavailable, LeaseLost, StorageError
from graph.desk import Ticket
from graph.session.orders import OrderQueue, Scenery
from tests.graph.session.floor import START_NS, SYMBOL, history, quote, view_of

VIEW = view_of(history())


class Desk:
    """Answers when it is let, and keeps what it was asked."""

    def __init__(self):
        self.asked = []
        self.let = asyncio.Event()
        self.let.set()
        self.raises = None
        self.status = OrderStatus.OPEN

    async def submit(self, **order):
        self.asked.append(order)
        if order["leg"].startswith("entry"):
            await self.let.wait()
        if self.raises:
            raise self.raises
        intent = intent_of(order["leg"], order["decision"], order["quantity"])
        return Ticket(Order(intent, self.status, reason="trading is halted"))


class Clock:
    def now_ns(self):
        return START_NS


def intent_of(leg="stop", decision=1, quantity=Decimal(1)):
    return OrderIntent.derive(
        run_id="session-1", account="a", symbol=SYMBOL, side=Side.SELL, quantity=quantity,
        reference_price=Decimal(100), reference_ns=START_NS, decision=decision, leg=leg,
    )  # fmt: skip


class Floor:
    def __init__(self, size=50):
        self.desk, self.told, self.settled, self.allowed = Desk(), [], [], True
        self.quote = quote(1, "100")
        self.queue = OrderQueue(
            self.desk,
            size,
            Clock(),
            scenery=lambda: Scenery(VIEW, self.quote),
            allowed=lambda _decision: self.allowed,
            settled=self.settle,
            tell=lambda kind, detail: self.told.append((kind, detail)),
        )

    async def settle(self, order):
        self.settled.append(order)

    async def enter(self, leg="entry", decision=1):
        return await self.queue.submit(
            run_id="session-1", account="a", side=Side.BUY, quantity=Decimal(1), view=VIEW, decision=decision, leg=leg,
            quote=None, now_ns=None, marks=None,
        )  # fmt: skip

    @asynccontextmanager
    async def working(self):
        task = asyncio.create_task(self.queue.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def idle(self):
        while self.queue.busy:  # noqa: ASYNC110 - the queue tells nobody
            await asyncio.sleep(0)


async def test_what_a_decision_wants_is_sent_with_the_market_of_when_it_goes():
    floor = Floor()
    ticket = await floor.enter()
    assert (ticket.order, ticket.reasons) == (None, ("it waits to be sent",))
    floor.quote = quote(9, "105")
    async with floor.working():
        await floor.idle()
    assert floor.desk.asked[0]["quote"] == quote(9, "105")
    assert floor.desk.asked[0]["now_ns"] == START_NS
    assert [order.intent.leg for order in floor.settled] == ["entry"]


async def test_a_full_queue_refuses_tells_and_makes_nobody_wait():
    floor = Floor(size=3)
    tickets = [await floor.enter(f"entry-{number}") for number in range(2, 6)]
    assert [ticket.reasons[0] for ticket in tickets] == ["it waits to be sent"] * 3 + ["the queue is full"]
    assert floor.told == [("OrderDropped", {"order": "buy 1 (entry-5 of decision 1)", "waiting": 3, "exit": False})]
    assert not floor.queue.leave(intent_of()), "exits count, too"
    assert (floor.queue.depth, floor.queue.counts["dropped"]) == (3, 2)


async def test_an_exit_waits_for_no_entry():
    floor = Floor()
    floor.desk.let.clear()
    await floor.enter()
    async with floor.working():
        await asyncio.sleep(0)
        assert floor.queue.leave(intent_of())
        while not floor.settled:  # noqa: ASYNC110 - nor does it here
            await asyncio.sleep(0)
        assert [order.intent.leg for order in floor.settled] == ["stop"], "the entry hangs still"


async def test_an_exit_that_is_on_its_way_is_not_queued_again_and_later_is():
    floor = Floor()
    assert floor.queue.leave(intent_of())
    assert not floor.queue.leave(intent_of())
    assert floor.queue.depth == 1
    async with floor.working():
        await floor.idle()
        assert floor.queue.leave(intent_of()), "it came to nothing, and the bracket asks again"


async def test_a_plan_that_was_withdrawn_meanwhile_is_not_sent_and_its_exit_is():
    floor = Floor()
    await floor.enter()
    floor.queue.leave(intent_of())
    floor.allowed = False
    async with floor.working():
        await floor.idle()
    assert [order["leg"] for order in floor.desk.asked] == ["stop"]
    assert floor.told == [("OrderWithdrawn", {"order": "buy 1 (entry of decision 1)"})]


async def test_a_queue_that_is_closed_takes_exits_only():
    floor = Floor()
    floor.queue.open = False
    assert (await floor.enter()).reasons == ("the session ends, and takes no new risk",)
    assert floor.queue.leave(intent_of())


@pytest.mark.parametrize("error", [BrokerUnavailable("no answer"), RuntimeError("a mistake")])
async def test_an_order_that_fails_is_told_and_the_next_one_goes(error):
    floor = Floor()
    floor.desk.raises = error
    async with floor.working():
        await floor.enter()
        await floor.idle()
        floor.desk.raises = None
        await floor.enter("entry-2")
        await floor.idle()
    assert [kind for kind, _ in floor.told] == ["OrderFailed"]
    assert type(error).__name__ in floor.told[0][1]["error"]
    assert [order.intent.leg for order in floor.settled] == ["entry-2"]


async def test_a_lost_lease_ends_it():
    floor = Floor()
    floor.desk.raises = LeaseLost("taken over")
    await floor.enter()
    with pytest.raises(ExceptionGroup) as caught:
        await floor.queue.run()
    assert isinstance(caught.value.exceptions[0], LeaseLost)


async def test_what_was_denied_is_told_and_not_counted_as_sent():
    floor = Floor()
    floor.desk.status = OrderStatus.DENIED
    await floor.enter()
    async with floor.working():
        await floor.idle()
    assert floor.told == [("OrderDenied", {"order": "buy 1 (entry of decision 1)", "why": "trading is halted"})]
    assert (floor.queue.counts["denied"], floor.queue.counts["sent"]) == (1, 0)
    assert [order.status for order in floor.settled] == [OrderStatus.DENIED]


async def test_cancelled_while_the_disk_is_full_it_ends():
    """The cancellation of an order on its way comes out as the error of what was to be written down then."""

    class Full(Desk):
        async def submit(self, **order):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise StorageError("full") from None

    floor = Floor()
    floor.queue._desk = Full()
    task = asyncio.create_task(floor.queue.run())
    floor.queue.leave(intent_of())
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    ended = task.done()
    for each in asyncio.all_tasks() - {asyncio.current_task()}:
        each.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert ended
    assert not floor.told
