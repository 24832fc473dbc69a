"""The paper broker: every order once, by prices that came after it, and the same after any restart."""

import asyncio
import random
import sqlite3
from contextlib import closing
from dataclasses import replace
from decimal import Decimal

import pytest

from agents.clock import ReplayClock
from agents.domain import OrderStatus, Side
from agents.errors import OrderRefused, StorageError
from checkpoints.database import Database
from graph.app import open_app
from graph.config import load_settings
from graph.paper import PaperBroker, PaperTerms
from tests.graph.paper.market import BARE, MINUTE_NS, S_NS, SEEN_NS, bar, intent, quote

SLOW = replace(BARE, latency_ms_min=200, latency_ms_max=200)
DAY_NS = 24 * 60 * MINUTE_NS


@pytest.fixture
def broker(tmp_path):
    """As a decision on history has it."""
    opened = PaperBroker.open(tmp_path / "broker.db")
    yield opened
    opened.database.close()


class Venue:
    """A broker that is told prices, with its clock; `again` is the same after a restart."""

    def __init__(self, path, terms=BARE):
        self.path, self.terms, self.clock = path, terms, ReplayClock(SEEN_NS)
        self.opened = []
        self.broker = self.open()

    def open(self):
        broker = PaperBroker.open(self.path, self.clock, self.terms, at_once=False, inline=True)
        self.opened.append(broker)
        return broker

    def again(self):
        self.close()
        self.broker = self.open()
        return self.broker

    def close(self):
        for broker in self.opened:
            broker.database.close()

    def at(self, at_s):
        self.clock.advance_to(SEEN_NS + round(at_s * S_NS))


@pytest.fixture
def venue(tmp_path):
    made = Venue(tmp_path / "broker.db")
    yield made
    made.close()


@pytest.fixture
def slow(tmp_path):
    made = Venue(tmp_path / "slow.db", SLOW)
    yield made
    made.close()


def executions(report):
    return [(fill.quantity, fill.price) for fill in report.fills]


class TestAtOnce:
    async def test_a_market_order_is_filled_worse_than_seen_and_costs_a_fee(self, broker):
        for side, price in ((Side.BUY, "100.02"), (Side.SELL, "99.98")):
            report = await broker.send(intent(side, side))
            (fill,) = report.fills
            assert report.status is OrderStatus.FILLED
            assert (fill.price, fill.quantity, fill.side) == (Decimal(price), 2, side)
            assert fill.fee == (2 * Decimal(price) / 10_000).quantize(Decimal("1e-8"))
            assert fill.time_ns == SEEN_NS

    @pytest.mark.parametrize("more", [{"limit": "101"}, {"stop": "99"}, {"stop": "99", "limit": "101"}])
    async def test_every_other_order_rests_until_prices_come(self, tmp_path, more):
        broker = PaperBroker.open(tmp_path / "broker.db", ReplayClock(SEEN_NS), BARE)
        order = intent(**more)
        assert (await broker.send(order)).status is OrderStatus.OPEN
        told = await broker.on_quote(quote("100"))
        assert executions(told[order.intent_id]) == [(2, 100)]
        broker.database.close()

    async def test_a_cancellation_is_there_at_once_and_for_good(self, tmp_path):
        clock = ReplayClock(SEEN_NS)
        broker = PaperBroker.open(tmp_path / "broker.db", clock, SLOW)
        order = intent(limit="101")
        await broker.send(order)
        clock.advance_to(SEEN_NS + 10 * S_NS)
        report = await broker.cancel(order.intent_id)
        assert (report.status, report.reason, report.fills) == (OrderStatus.CANCELLED, "cancelled", ())
        assert await broker.on_quote(quote("90")) == {}
        broker.database.close()


class TestOnce:
    async def test_the_same_id_is_executed_once_and_answered_alike(self, broker):
        reports = await asyncio.gather(*(broker.send(intent()) for _ in range(20)))
        assert all(report == reports[0] for report in reports)
        assert len(await broker.orders()) == 1
        assert await broker.find(intent().intent_id) == reports[0]

    async def test_what_it_has_never_seen(self, broker):
        assert await broker.find("hf-none") is None
        assert await broker.cancel("hf-none") is None
        assert await broker.intent("hf-none") is None

    async def test_its_books_outlive_it(self, broker, tmp_path):
        first = await broker.send(intent())
        broker.database.close()
        again = PaperBroker.open(tmp_path / "broker.db")
        try:
            assert await again.find(intent().intent_id) == first
            second = await again.send(intent("run-2"))
            assert [row["number"] for row in await again.orders()] == [1, 2]
            assert second.broker_order_id == "paper-2"
        finally:
            again.database.close()

    @pytest.mark.parametrize("ending", ["filled", "cancelled", "expired"])
    async def test_an_id_is_remembered_for_ever(self, venue, ending):
        order = intent(limit="100")
        await venue.broker.send(order)
        if ending == "filled":
            await venue.broker.on_quote(quote("100"))
        elif ending == "cancelled":
            await venue.broker.cancel(order.intent_id)
        else:
            venue.clock.advance_to(SEEN_NS + 400 * DAY_NS)
        before = await venue.broker.find(order.intent_id)
        assert before.status.final
        again = venue.again()
        for at_s in (1, 2, 4):
            assert await again.send(order) == before
            assert await again.on_quote(quote("100", at_s=at_s + 4 * 10**7)) == {}
        assert len(await again.orders()) == 1

    async def test_further_attempts_are_orders_of_their_own(self, venue):
        for order in (intent(), intent().next_attempt()):
            await venue.broker.send(order)
        assert len(await venue.broker.on_quote(quote("100"))) == 2

    @pytest.mark.parametrize(
        "more", [{}, {"limit": "99.50"}, {"stop": "1E+2"}, {"stop": "101", "limit": "102", "attempt": 3, "decision": 9}]
    )
    async def test_it_knows_an_order_as_it_was_sent(self, venue, more):
        order = intent(side=Side.SELL, quantity="0.10", leg="stop", **more)
        await venue.broker.send(order)
        assert await venue.broker.intent(order.intent_id) == order

    @pytest.mark.parametrize(
        "more",
        [
            {"quantity": "1E+19"},
            {"quantity": "1E-19"},
            {"quantity": "1." + "1" * 40},
            {"limit": "1E+400"},
            {"stop": "1E-400"},
            {"reference_price": Decimal("1E+99")},
        ],
        ids=str,
    )
    async def test_numbers_beyond_all_measure_are_refused_and_not_kept(self, venue, more):
        with pytest.raises(OrderRefused, match="nothing was taken"):
            await venue.broker.send(intent(**more))
        assert await venue.broker.orders() == []


class TestLatency:
    async def test_an_order_is_filled_by_the_first_price_after_it_arrived_and_not_by_one_before(self, slow):
        await slow.broker.on_quote(quote("99", "101", at_s=0))
        order = intent()
        assert (await slow.broker.send(order)).status is OrderStatus.OPEN
        for at_s, ask in ((0, "91"), (0.1, "92"), (0.199, "93")):
            assert await slow.broker.on_quote(quote("90", ask, at_s)) == {}
        told = await slow.broker.on_quote(quote("104", "105", 0.2))
        assert executions(told[order.intent_id]) == [(2, 105)]
        assert told[order.intent_id].fills[0].time_ns == SEEN_NS + S_NS // 5

    async def test_it_is_counted_from_the_newest_price_where_the_clock_is_behind_the_market(self, slow):
        await slow.broker.on_quote(quote("99", "101", at_s=10))
        await slow.broker.send(intent())
        assert await slow.broker.on_quote(quote("90", "91", 10.19)) == {}
        assert len(await slow.broker.on_quote(quote("90", "91", 10.2))) == 1

    async def test_and_from_the_clock_where_the_market_is_behind(self, slow):
        slow.at(10)
        await slow.broker.send(intent())
        assert await slow.broker.on_quote(quote("90", "91", 10.19)) == {}
        assert len(await slow.broker.on_quote(quote("90", "91", 10.2))) == 1

    async def test_in_the_middle_of_a_bar_it_gets_the_close(self, slow):
        await slow.broker.on_bar(bar("100 100 100 100", 1))
        slow.at(60)
        order = intent()
        await slow.broker.send(order)
        told = await slow.broker.on_bar(bar("50 150 50 120", 2))
        assert executions(told[order.intent_id]) == [(2, 120)]


class TestBars:
    async def test_an_order_of_the_last_close_gets_the_next_open(self, venue):
        await venue.broker.on_bar(bar("100 100 100 100", 1))
        venue.at(60)
        order = intent()
        await venue.broker.send(order)
        told = await venue.broker.on_bar(bar("50 150 50 120", 2))
        assert executions(told[order.intent_id]) == [(2, 50)]

    async def test_of_the_first_bar_and_after_a_gap_the_close_counts_unless_its_beginning_is_told(self, venue):
        first, second = intent(), intent("run-2")
        await venue.broker.send(first)
        assert executions((await venue.broker.on_bar(bar("50 150 50 120", 1)))[first.intent_id]) == [(2, 120)]
        venue.at(600)  # nine minutes without a bar
        await venue.broker.send(second)
        begin_ns = SEEN_NS + 19 * MINUTE_NS
        told = await venue.broker.on_bar(bar("50 150 50 120", 20), begin_ns)
        assert executions(told[second.intent_id]) == [(2, 50)]

    async def test_a_bar_in_which_quotes_have_come_as_well_is_its_close(self, venue):
        order = intent(limit="95")
        await venue.broker.on_bar(bar("100 100 100 100", 1))
        await venue.broker.send(order)
        assert await venue.broker.on_quote(quote("100", at_s=90)) == {}
        assert await venue.broker.on_bar(bar("100 110 90 100", 2)) == {}
        told = await venue.broker.on_bar(bar("100 110 90 100", 3))
        assert executions(told[order.intent_id]) == [(2, 95)]

    async def test_a_large_order_takes_several_and_each_part_is_a_trade_of_its_own(self, venue):
        order = intent(quantity="10")
        await venue.broker.on_bar(bar("1 1 1 1", 1))
        await venue.broker.send(order)
        reports = [
            (await venue.broker.on_bar(bar(f"{n} {n} {n} {n}", n, volume="4")))[order.intent_id] for n in (2, 3, 4)
        ]
        assert [report.status for report in reports] == [OrderStatus.OPEN, OrderStatus.OPEN, OrderStatus.FILLED]
        assert [executions(report) for report in reports] == [[(4, 2)], [(4, 2), (4, 3)], [(4, 2), (4, 3), (2, 4)]]
        names = [fill.trade_id for fill in reports[-1].fills]
        assert names == [f"paper-{order.intent_id}-{number}" for number in (1, 2, 3)]


class TestPricesThatComeTwiceOrLate:
    async def test_older_ones_are_not_used(self, venue):
        await venue.broker.send(intent(limit="95"))
        await venue.broker.on_quote(quote("100", at_s=120))
        assert await venue.broker.on_quote(quote("90", at_s=119)) == {}
        assert await venue.broker.on_bar(bar("90 90 90 90", 1)) == {}

    async def test_a_bar_is_used_once_and_two_quotes_may_have_one_time(self, venue):
        order = intent(quantity="10")
        await venue.broker.send(order)
        for _ in range(2):
            await venue.broker.on_bar(bar("1 1 1 1", 1, volume="2"))
        await venue.broker.on_quote(quote("1", at_s=61, sizes=("0", "3")))
        await venue.broker.on_quote(quote("1", at_s=61, sizes=("0", "4")))
        assert executions(await venue.broker.find(order.intent_id)) == [(2, 1), (3, 1), (4, 1)]

    async def test_what_was_used_before_a_restart_is_not_used_again(self, venue):
        order = intent(quantity="10")
        await venue.broker.send(order)
        for feed, price in (
            ("on_bar", bar("1 1 1 1", 1, volume="2")),
            ("on_quote", quote("1", at_s=61, sizes=("0", "3"))),
        ):
            assert await getattr(venue.broker, feed)(price)
            assert await getattr(venue.again(), feed)(price) == {}
        assert len((await venue.broker.find(order.intent_id)).fills) == 2

    @pytest.mark.parametrize("price", [quote("100"), bar("100 100 100 100")])
    async def test_one_that_could_not_be_used_may_come_again(self, venue, monkeypatch, price):
        await venue.broker.send(order := intent())
        use = venue.broker.on_quote if hasattr(price, "bid") else venue.broker.on_bar

        async def full(*_):
            raise StorageError("the disk is full")

        monkeypatch.setattr(Database, "awrite", full)
        with pytest.raises(StorageError):
            await use(price)
        monkeypatch.undo()
        assert executions((await use(price))[order.intent_id]) == [(2, 100)]

    async def test_prices_of_other_symbols_are_nothing_to_it(self, venue):
        await venue.broker.send(intent())
        assert await venue.broker.on_quote(quote("1", symbol="OTHER")) == {}
        assert await venue.broker.on_bar(bar("1 1 1 1", symbol="OTHER")) == {}

    async def test_where_nothing_waits_nothing_is_read_or_written(self, venue, monkeypatch):
        await venue.broker.send(intent(limit="50"))
        await venue.broker.on_quote(quote("100"))

        def never(*_):
            raise AssertionError

        for name in ("awrite", "aread"):
            monkeypatch.setattr(Database, name, never)
        for at_s in range(2, 100):
            assert await venue.broker.on_quote(quote("51", "150", at_s)) == {}


class TestExpiry:
    async def test_a_price_after_its_time_finds_it_gone(self, venue):
        order = intent(limit="50")
        await venue.broker.send(order)
        day_s = 24 * 3600
        assert await venue.broker.on_quote(quote("100", at_s=day_s - 1)) == {}
        told = await venue.broker.on_quote(quote("50", at_s=day_s))
        assert told[order.intent_id].status is OrderStatus.CANCELLED
        assert told[order.intent_id].reason == "expired after 24 h in the book"
        assert await venue.broker.on_quote(quote("50", at_s=day_s + 1)) == {}

    async def test_one_that_its_clock_has_ended_is_gone_for_good(self, venue):
        order = intent(limit="50")
        await venue.broker.send(order)
        venue.at(24 * 3600)
        assert (await venue.broker.find(order.intent_id)).status is OrderStatus.CANCELLED
        assert await venue.broker.on_quote(quote("50", at_s=3600)) == {}

    async def test_so_does_who_asks_after_it_and_what_was_filled_stays(self, venue):
        order = intent(limit="50")
        await venue.broker.send(order)
        await venue.broker.on_quote(quote("50", sizes=("0", "1")))
        venue.at(24 * 3600 - 0.1)
        assert (await venue.broker.find(order.intent_id)).status is OrderStatus.OPEN
        venue.at(24 * 3600)
        report = await venue.again().find(order.intent_id)
        assert (report.status, executions(report)) == (OrderStatus.CANCELLED, [(1, 50)])
        assert await venue.broker.executed() == {order.intent_id: ("SIM", Decimal(1))}


class TestCancel:
    async def test_it_is_out_of_the_book(self, venue):
        order = intent(limit="50")
        await venue.broker.send(order)
        for start in (lambda: venue.broker, venue.again):
            broker = start()
            report = await broker.cancel(order.intent_id)
            assert (report.status, report.reason) == (OrderStatus.CANCELLED, "cancelled")
            assert await broker.on_quote(quote("40")) == {}

    async def test_one_that_was_filled_before_is_filled(self, venue):
        order = intent(limit="50")
        await venue.broker.send(order)
        await venue.broker.on_quote(quote("50"))
        assert (await venue.broker.cancel(order.intent_id)).status is OrderStatus.FILLED

    def test_a_fill_while_the_cancellation_is_on_its_way(self, slow, virtual_clock):
        order, part = intent(limit="50"), intent("part", quantity="4", limit="50")

        async def story():
            for each in (order, part):
                await slow.broker.send(each)
            slow.at(1)
            asked = [asyncio.create_task(slow.broker.cancel(each.intent_id)) for each in (order, part)]
            await asyncio.sleep(0.1)
            await slow.broker.on_quote(quote("50", at_s=1.1, sizes=("0", "5")))
            return [await task for task in asked]

        filled, cancelled = virtual_clock.run(story())
        assert (filled.status, executions(filled)) == (OrderStatus.FILLED, [(2, 50)])
        assert (cancelled.status, executions(cancelled)) == (OrderStatus.CANCELLED, [(3, 50)])
        assert virtual_clock.now >= 0.2

    def test_a_late_fill_of_a_price_from_before_it_was_there(self, slow, virtual_clock):
        orders = [intent(name, limit="50") for name in ("late", "part", "none")]

        async def story():
            await slow.broker.on_quote(quote("60", at_s=0.5))
            for order in orders[:2]:
                await slow.broker.send(order)
            slow.at(1)
            reports = [await slow.broker.cancel(order.intent_id) for order in orders[:2]]
            assert [report.status for report in reports] == [OrderStatus.CANCELLED] * 2
            told = await slow.broker.on_quote(quote("50", at_s=1.1, sizes=("0", "3")))
            gone = await slow.broker.on_quote(quote("50", at_s=1.2))
            return told, gone

        told, gone = virtual_clock.run(story())
        found = [(told[order.intent_id].status, executions(told[order.intent_id])) for order in orders[:2]]
        assert found == [(OrderStatus.FILLED, [(2, 50)]), (OrderStatus.CANCELLED, [(1, 50)])]
        assert gone == {}

    def test_it_is_counted_from_the_newest_price_where_the_clock_is_behind_the_market(self, slow, virtual_clock):
        order = intent(limit="50")

        async def story():
            await slow.broker.on_quote(quote("100", at_s=10))
            await slow.broker.send(order)
            await slow.broker.on_quote(quote("100", at_s=20))
            await slow.broker.cancel(order.intent_id)
            return await slow.broker.on_quote(quote("50", at_s=20.1))

        assert order.intent_id in virtual_clock.run(story())

    def test_one_that_was_asked_for_before_a_crash_takes_place(self, slow, virtual_clock):
        order = intent(limit="50")

        async def story():
            await slow.broker.send(order)
            slow.at(1)
            asked = asyncio.create_task(slow.broker.cancel(order.intent_id))
            await asyncio.sleep(0.1)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
            again = slow.again()
            assert (await again.find(order.intent_id)).status is OrderStatus.OPEN
            return await again.on_quote(quote("50", at_s=1.2))

        told = virtual_clock.run(story())
        assert (told[order.intent_id].status, told[order.intent_id].reason) == (OrderStatus.CANCELLED, "cancelled")


class TestRestart:
    @pytest.mark.parametrize("bars", [1, 2], ids=["sent after the bar", "sent before"])
    async def test_it_is_known_where_the_last_bar_ended(self, venue, bars):
        order = intent(side=Side.SELL, stop="95")
        for number in range(bars + 1):
            if number == 1:
                venue.at(90 if bars > 1 else 60)
                await venue.broker.send(order)
            if number != bars:
                await venue.broker.on_bar(bar("100 100 100 100", number + 1))
        told = await venue.again().on_bar(bar("100 100 90 100", bars + 1))
        assert executions(told[order.intent_id]) == [(2, 95)]

    async def test_before_the_first_price_nothing_is_forgotten_by_what_is_sent(self, venue):
        await venue.broker.send(intent())
        await venue.broker.on_bar(bar("1 1 1 1", 5))
        again = venue.again()
        await again.send(intent("run-2"))
        assert await venue.again().on_bar(bar("1 1 1 1", 5)) == {}

    async def test_a_resting_order_goes_on_resting(self, venue):
        order = intent(side=Side.SELL, stop="95", limit="94")
        await venue.broker.send(order)
        assert await venue.broker.on_quote(quote("90")) == {}  # triggered, and too low for the limit
        told = await venue.again().on_quote(quote("94", at_s=2))
        assert executions(told[order.intent_id]) == [(2, 94)]

    async def test_what_another_process_has_sent_is_found_within_a_second(self, venue):
        await venue.broker.on_quote(quote("100"))
        order = intent(limit="50")
        await venue.open().send(order)
        assert await venue.broker.on_quote(quote("50", at_s=2)) == {}
        venue.at(1)
        told = await venue.broker.on_quote(quote("50", at_s=3))
        assert executions(told[order.intent_id]) == [(2, 50)]

    async def test_a_row_that_somebody_has_changed_is_named(self, venue):
        order = intent(limit="50")
        await venue.broker.send(order)
        with closing(sqlite3.connect(venue.path)) as connection:
            connection.execute("UPDATE paper_orders SET quantity = '7'")
            connection.commit()
        with pytest.raises(
            StorageError, match=f"order {order.intent_id} in the paper broker's books is not as it was sent"
        ):
            await venue.again().on_quote(quote("50"))

    def test_books_that_cannot_be_opened(self, tmp_path):
        with pytest.raises(StorageError):
            PaperBroker.open(tmp_path)


class TestListing:
    async def test_what_was_executed_and_what_rests(self, venue):
        bought, sold, rests, part, gone = (
            intent("bought"),
            intent("sold", Side.SELL),
            intent("rests", limit="10"),
            intent("part", quantity="5", limit="100", symbol="OTHER"),
            intent("gone", limit="10"),
        )
        for order in (bought, sold, rests, part, gone):
            await venue.broker.send(order)
        await venue.broker.cancel(gone.intent_id)
        await venue.broker.on_quote(quote("100"))
        await venue.broker.on_quote(quote("100", sizes=("0", "2"), symbol="OTHER"))
        assert await venue.broker.executed() == {
            bought.intent_id: ("SIM", Decimal(2)),
            sold.intent_id: ("SIM", Decimal(-2)),
            rests.intent_id: ("SIM", Decimal(0)),
            part.intent_id: ("OTHER", Decimal(2)),
        }
        assert await venue.broker.resting() == {rests.intent_id: "SIM", part.intent_id: "OTHER"}
        assert await venue.broker.holdings() == {"SIM": 0, "OTHER": 2}
        await venue.broker.send(intent("more", Side.SELL, "7", symbol="OTHER"))
        await venue.broker.on_quote(quote("101", at_s=2, sizes=("9", "0"), symbol="OTHER"))
        assert await venue.again().holdings() == {"SIM": 0, "OTHER": -5}


class TestConcurrent:
    async def test_prices_orders_and_cancellations_at_once(self, tmp_path):
        broker = PaperBroker.open(tmp_path / "broker.db", ReplayClock(SEEN_NS), BARE, at_once=False)
        orders = [intent(f"run-{number}", limit="100" if number % 2 else None) for number in range(30)]
        works = [broker.send(order) for order in orders]
        works += [broker.on_quote(quote("100", at_s=number)) for number in range(1, 30)]
        works += [broker.cancel(order.intent_id) for order in orders[::5]]
        random.Random(7).shuffle(works)  # noqa: S311 - no secret
        await asyncio.gather(*works)
        await broker.on_quote(quote("100", at_s=99))
        reports = [await broker.find(order.intent_id) for order in orders]
        assert all(report.status.final and len(report.fills) <= 1 for report in reports)
        broker.database.close()

    async def test_prices_are_used_in_the_order_in_which_they_came(self, tmp_path):
        broker = PaperBroker.open(tmp_path / "broker.db", ReplayClock(SEEN_NS), BARE, at_once=False)
        order = intent(stop="105", limit="100")
        await broker.send(order)
        _, told = await asyncio.gather(broker.on_quote(quote("106")), broker.on_quote(quote("99", at_s=2)))
        assert executions(told[order.intent_id]) == [(2, 99)]
        broker.database.close()

    @pytest.mark.parametrize("known", [False, True])
    async def test_one_that_comes_while_the_books_are_read_is_not_forgotten(self, venue, monkeypatch, known):
        """Whoever looks finds nothing yet; when he has looked, the order is in the books."""
        order, look = intent(limit="50"), Database.aread

        async def slow(database, work):
            found = await look(database, work)
            monkeypatch.undo()
            await venue.broker.send(order)
            return found

        if known:
            await venue.broker.on_quote(quote("100"))
            venue.at(1)
        monkeypatch.setattr(Database, "aread", slow)
        assert await venue.broker.on_quote(quote("100", at_s=2)) == {}
        assert order.intent_id in await venue.broker.on_quote(quote("50", at_s=3))

    async def test_nor_is_what_had_been_used_before(self, venue, monkeypatch):
        await venue.broker.send(intent())
        await venue.broker.on_bar(bar("1 1 1 1", 5))
        broker, look = venue.again(), Database.aread

        async def slow(database, work):
            found = await look(database, work)
            monkeypatch.undo()
            await broker.send(intent("run-2"))
            return found

        monkeypatch.setattr(Database, "aread", slow)
        assert await broker.on_quote(quote("1")) == {}
        assert await venue.again().on_bar(bar("1 1 1 1", 5)) == {}

    async def test_one_that_comes_while_prices_are_used_is_not_forgotten(self, venue, monkeypatch):
        order, write = intent(limit="50"), Database.awrite
        await venue.broker.send(intent("waiting"))

        async def slow(database, work):
            found = await write(database, work)
            monkeypatch.undo()
            await venue.broker.send(order)
            return found

        monkeypatch.setattr(Database, "awrite", slow)
        assert len(await venue.broker.on_quote(quote("100"))) == 1
        assert order.intent_id in await venue.broker.on_quote(quote("50", at_s=2))

    async def test_an_order_that_is_sent_while_prices_are_used_is_not_forgotten(self, tmp_path):
        broker = PaperBroker.open(tmp_path / "broker.db", ReplayClock(SEEN_NS), BARE, at_once=False)
        for number in range(50):
            waiting, order = intent(f"waiting-{number}"), intent(f"run-{number}", limit="50")
            await broker.send(waiting)
            at_s = 2 * number + 1
            await asyncio.gather(broker.on_quote(quote("100", at_s=at_s)), broker.send(order))
            told = await broker.on_quote(quote("50", at_s=at_s + 1))
            assert order.intent_id in told
        broker.database.close()


def test_the_terms_are_the_usual_ones_if_none_are_given(tmp_path):
    broker = PaperBroker.open(tmp_path / "broker.db")
    assert (broker.at_once, broker._terms) == (True, PaperTerms())
    broker.database.close()


class TestLedger:
    """What rested while nobody listened, the ledger hears of with the next pass over both books."""

    @pytest.fixture
    async def app(self, tmp_path):
        settings = load_settings(None, home=tmp_path / "home").model_copy(update={"paper": BARE})
        async with open_app(settings, clock=ReplayClock(SEEN_NS), inline=True) as app:
            await app.ledger.open_account("paper", Decimal(100_000))
            yield app

    async def rest(self, app, name, limit="100"):
        order = intent(name, limit=limit)
        await app.ledger.reserve(order, lambda _: ())
        await app.ledger.mark_sending(order.intent_id)
        await app.ledger.record(order.intent_id, await app.broker.send(order))
        return order

    async def test_fills_and_endings(self, app):
        orders = [await self.rest(app, name) for name in ("filled", "part", "gone")] + [
            await self.rest(app, "stays", "50")
        ]
        await app.broker.on_quote(quote("100", sizes=("0", "3")))
        await app.broker.cancel(orders[2].intent_id)
        moved = (await app.reconciler().once()).moved
        assert {order.intent.run_id for order in moved} == {"filled", "part", "gone"}
        found = [await app.ledger.order(order.intent_id) for order in orders]
        assert [(order.status, order.filled) for order in found] == [
            (OrderStatus.FILLED, 2),
            (OrderStatus.OPEN, 1),
            (OrderStatus.CANCELLED, 0),
            (OrderStatus.OPEN, 0),
        ]
        assert (await app.ledger.portfolio("paper")).position("SIM").quantity == 3
        assert (await app.reconciler().once()).moved == ()

    async def test_one_that_the_ledger_has_lost_is_adopted_as_it_rests(self, app):
        order = intent(limit="100")
        await app.broker.send(order)
        (adopted,) = (await app.books().compare()).adopted
        assert (adopted.intent, adopted.status) == (order, OrderStatus.OPEN)
        await app.broker.on_quote(quote("100"))
        assert [each.status for each in (await app.reconciler().once()).moved] == [OrderStatus.FILLED]
