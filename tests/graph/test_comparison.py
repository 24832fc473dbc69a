"""The ledger against the broker's books, while both go on: what agrees, what differs, and what that does to trading."""

from copy import copy
from dataclasses import replace
from decimal import Decimal

import pytest

from agents.domain import OrderStatus, TradingState
from agents.errors import HoldfastError
from checkpoints.ledger import BrokerReport
from checkpoints.trading_state import Trading
from graph.inquiry import GRACE_S
from tests.checkpoints.test_ledger import fill, intent
from tests.graph.test_reconciler import room

__all__ = ["room"]

ACTIVE, REDUCING, HALTED = TradingState


class TestActivate:
    async def test_who_stops_trading_meanwhile_has_the_last_word(self, room):
        here = await room()
        await here.switch.trip(Trading(REDUCING, "operator", "anna", "care", 1))
        lunch, read = Trading(HALTED, "operator", "bert", "lunch", 2), here.switch.read
        object.__setattr__(here.books, "switch", switch := copy(here.switch))

        async def read_and_then():
            was = await read()
            await here.switch.trip(lunch)
            return was

        switch.read = read_and_then
        with pytest.raises(HoldfastError, match="was changed while this was asked for; nothing was changed"):
            await here.books.activate("anna", "all is well")
        assert await read() == lunch


class TestHoldings:
    async def filled(self, here, quantity="2"):
        order = await here.sent("a", quantity)
        here.venue.take(order, OrderStatus.FILLED, quantity)
        await here.reconciler.once()

    async def test_a_venue_that_counts_another_position_halts(self, room):
        here = await room()
        here.venue.counts = {"SIM": Decimal(2)}
        await self.filled(here)
        assert await here.state() == (ACTIVE, "new")
        resting = await here.open("rests", symbol="BBB")
        here.venue.counts = {"SIM": Decimal(5)}
        done = await here.reconciler.once()
        assert await here.state() == (HALTED, "reconciliation")
        assert "SIM: 2 in the ledger, 5 at the venue" in done.trading.why
        assert await here.status(resting) is OrderStatus.CANCELLED
        here.venue.counts = {"SIM": Decimal(2)}
        await here.reconciler.once()
        assert await here.state() == (HALTED, "reconciliation"), "a halt is for a person to lift"

    async def test_by_how_much_it_differs_may_be_accepted_and_holds_while_it_is_traded(self, room):
        """Coins that were there before anything was traded here."""
        here = await room()
        here.venue.counts = {"SIM": Decimal(5), "OLD": Decimal(1)}
        await self.filled(here)
        assert await here.state() == (HALTED, "reconciliation")
        found, _ = await here.books.activate("anna", "they were there before")
        assert len(found.differences) == 2
        await here.reconciler.once()
        assert await here.state() == (ACTIVE, "operator")
        order = await here.sent("b", "3")
        here.venue.take(order, OrderStatus.FILLED, "3")
        here.venue.counts = {"SIM": Decimal(8), "OLD": Decimal(1)}
        await here.reconciler.once()
        assert (await here.held(), await here.state()) == (5, (ACTIVE, "operator"))
        here.venue.counts = {"SIM": Decimal(9), "OLD": Decimal(1)}
        await here.reconciler.once()
        assert await here.state() == (HALTED, "reconciliation")

    async def test_roundings_are_no_difference(self, room):
        here = await room()
        here.venue.counts = {"SIM": Decimal("2.002")}
        await self.filled(here)
        assert await here.state() == (ACTIVE, "new")
        here.venue.counts = {"SIM": Decimal("2.003")}
        await here.reconciler.once()
        assert await here.state() == (HALTED, "reconciliation")

    async def test_a_position_that_is_apart_halts_also_where_orders_were_apart_before(self, room):
        here = await room(lists=True)
        here.venue.counts = {"SIM": Decimal(2)}
        await self.filled(here)
        gone = here.venue.orders.pop((await here.ledger.orders("a"))[0].client_order_id)
        here.venue.counts = {}
        found = (await here.reconciler.once()).found
        assert ([each.ledger for each in found.differences], found.holdings) == ([2], ()), "told by order alone"
        assert await here.state() == (REDUCING, "reconciliation")
        here.venue.counts = {"SIM": Decimal(1)}
        (held,) = (await here.reconciler.once()).found.holdings
        assert (held.ledger, held.broker) == (0, 1)
        assert await here.state() == (HALTED, "reconciliation")
        here.venue.counts = {}
        await here.books.activate("anna", "the venue has lost it")
        await here.reconciler.once()
        assert await here.state() == (ACTIVE, "operator"), "what was accepted of an order is so of its position"
        here.venue.take(*gone[:2], "2")
        here.venue.counts = {"SIM": Decimal(2)}
        await here.reconciler.once()
        assert await here.state() == (ACTIVE, "operator")

    async def test_what_is_adopted_is_no_difference_of_positions(self, room):
        """A ledger that is an older copy of itself."""
        here = await room(lists=True)
        order = intent("lost", "2")
        here.venue.take(order, OrderStatus.FILLED, "2")
        here.venue.counts = {"SIM": Decimal(2)}
        done = await here.reconciler.once()
        assert ([each.intent for each in done.found.adopted], done.found.holdings) == ([order], ())
        assert done.moved == done.found.adopted, "whoever watches its position hears of it"
        assert (await here.held(), await here.state()) == (2, (ACTIVE, "new"))

    async def test_nor_is_a_late_fill_that_comes_between_orders_and_positions(self, room):
        here = await room(lists=True)
        order = await here.open("a")
        here.venue.take(order, OrderStatus.CANCELLED)
        await here.reconciler.once()

        lots = [["1"], ["1"], ["1", "0.5"], ["1", "0.5"]]  # it is asked before and after the ledger is read, twice

        async def holdings():
            here.venue.take(order, OrderStatus.CANCELLED, *(now := lots.pop(0)))
            return {"SIM": sum(map(Decimal, now), Decimal(0))}

        here.venue.holdings = holdings
        found = await here.books.compare()
        assert (found.holdings, [each.filled for each in found.adopted], lots) == ((), [1], [])
        assert await here.held() == 1

    async def test_the_orders_of_a_run_that_is_not_ours_count_where_the_venue_has_them(self, room):
        """Of a home on a server: a run of which nothing is left here, or that was none."""
        here = await room(lists=True)
        here.venue.counts = {"SIM": Decimal(2)}
        await self.filled(here)
        other = await here.sent("other", "5")
        made = fill(other, "elsewhere", Decimal(5))
        await here.ledger.record(other.intent_id, BrokerReport(OrderStatus.FILLED, fills=(made,)))
        assert (await replace(here.books, ours=lambda _: False).compare()).agrees

    async def test_a_symbol_in_which_something_is_under_way_is_looked_at_later(self, room):
        here = await room()
        here.venue.counts = {"SIM": Decimal(2)}
        order = await here.open("a")
        assert (await here.reconciler.once()).found.holdings == ()
        here.venue.take(order, OrderStatus.CANCELLED)
        assert len((await here.reconciler.once()).found.holdings) == 1

    async def test_what_is_booked_while_the_venue_answers_is_no_difference(self, room):
        here = await room()
        order = await here.open("a")
        here.venue.take(order, OrderStatus.FILLED, "2")

        answers = [{}, {"SIM": Decimal(2)}]

        async def holdings():
            answer = answers.pop(0)
            await here.ledger.record(order.intent_id, await here.venue.find(order.intent_id))
            return answer

        here.venue.holdings = holdings
        assert (await here.books.compare()).holdings == ()
        assert answers == []

    async def test_what_is_traded_after_the_ledger_was_read_is_no_difference(self, room):
        here = await room()
        answers = [{}, {"SIM": Decimal(2)}]

        async def holdings():
            answer = answers.pop(0)
            if answer:
                order = await here.sent("a")
                here.venue.take(order, OrderStatus.FILLED, "2")
                await here.ledger.record(order.intent_id, await here.venue.find(order.intent_id))
            return answer

        here.venue.holdings = holdings
        assert (await here.books.compare()).holdings == ()
        assert (await here.held(), answers) == (2, [])

    async def test_what_fills_while_the_books_are_compared_is_no_difference(self, room):
        here = await room(lists=True)
        order = await here.open("a", "3")
        here.venue.take(order, OrderStatus.OPEN, "1")
        real = here.venue.executed

        async def executed():
            told = await real()
            here.venue.take(order, OrderStatus.FILLED, "1", "2")
            await here.ledger.record(order.intent_id, await here.venue.find(order.intent_id))
            return told

        here.venue.executed = executed
        found = await here.books.compare()
        assert (found.differences, await here.held()) == ((), 3)

    async def test_a_late_fill_of_one_that_was_cancelled_is_found(self, room):
        here = await room(lists=True)
        order = await here.open("a")
        here.venue.take(order, OrderStatus.CANCELLED)
        await here.reconciler.once()
        here.venue.take(order, OrderStatus.CANCELLED, "0.5")
        found = await here.books.compare()
        assert [each.filled for each in found.adopted] == [Decimal("0.5")]
        assert (await here.held(), await here.state()) == (Decimal("0.5"), (ACTIVE, "new"))

    async def test_what_only_a_restored_ledger_doubts_is_not_lifted_by_a_broker_that_cannot_tell(self, room):
        here = await room()
        order = await here.sent("a")
        restored = Trading(REDUCING, "restored_backup", "holdfast", "the file was damaged", 9)
        await here.switch.set(restored, instead_of=await here.switch.read())
        here.venue.silent = {order.intent_id}
        here.wait(GRACE_S)
        await here.reconciler.once()
        here.venue.silent = set()
        for _ in range(2):
            await here.reconciler.once()
            assert await here.switch.read() == restored
