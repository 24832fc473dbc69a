"""What an account has: what is kept of its fills is what a fold over all of them gives, at the price of the newest."""

import asyncio
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from agents.domain import OrderStatus, Portfolio, Side
from agents.errors import OrderError
from checkpoints.books import DAY_NS, Account, Look
from checkpoints.database import Database
from checkpoints.ledger import BrokerReport, OrderLedger
from tests.checkpoints.test_ledger import NOON_NS, allow, deny, fill, filled, intent, sent, traded

TODAY_NS = NOON_NS - DAY_NS // 2


@pytest.fixture
def database(address):
    with Database.open(address, inline=True) as opened:
        yield opened


@pytest.fixture
async def ledger(database):
    ledger = OrderLedger(database)
    await ledger.open_account("paper", Decimal(1000))
    return ledger


async def seen(ledger, asks=None, look=None) -> Account:
    return await ledger.account(asks or intent("asks"), look)


class TestFold:
    async def test_what_is_kept_is_not_read_again(self, ledger, monkeypatch):
        for number in range(30):
            await traded(ledger, intent(f"run-{number}"), f"t{number}")
        await seen(ledger)
        real, applied = Portfolio.apply, []
        monkeypatch.setattr(Portfolio, "apply", lambda self, fill: applied.append(fill.trade_id) or real(self, fill))
        await seen(ledger)
        assert applied == []
        await traded(ledger, intent("next"), "t30")
        assert (await ledger.portfolio("paper")).position("SIM").quantity == 62
        assert applied == ["t30"]
        assert (await OrderLedger(ledger._database).portfolio("paper")).position("SIM").quantity == 62

    async def test_what_another_process_has_recorded_is_seen(self, ledger, database):
        await traded(ledger, intent("a"), "t1")
        await seen(ledger)
        await traded(OrderLedger(database), intent("b"), "t2")
        assert (await ledger.portfolio("paper")).position("SIM").quantity == 4

    async def test_what_was_undone_is_not_kept(self, ledger, database):
        """What a work reads of its own transaction may come to nothing; then others get those numbers."""
        await traded(ledger, intent("a"), "t1")
        one, two = await sent(ledger, intent("b")), await sent(ledger, intent("c"))
        await ledger.portfolio("paper")

        def undone(connection):
            for number, trade_id in ((2, "phantom"), (3, "t3")):
                connection.execute(text(_PHANTOM), {"id": one.intent_id, "number": number, "trade_id": trade_id})
            assert ledger._books.read(connection, "paper").number == 3
            raise RuntimeError("after it was read")

        with pytest.raises(RuntimeError):
            database.write(undone)
        await ledger.record(one.intent_id, filled(one, "t2"))
        await ledger.record(two.intent_id, filled(two, "t3"))
        assert (await ledger.portfolio("paper")).position("SIM").quantity == 6

    async def test_a_history_that_is_another_is_read_from_its_beginning(self, ledger, database):
        for number in range(3):
            await traded(ledger, intent(f"run-{number}"), f"t{number}")
        await seen(ledger)
        database.write(lambda connection: connection.execute(text("DELETE FROM fills WHERE number > 1")))
        assert (await ledger.portfolio("paper")).position("SIM").quantity == 2
        await traded(ledger, intent("other"), "t9", quantity="1")
        assert (await ledger.portfolio("paper")).position("SIM").quantity == 3
        database.write(lambda connection: connection.execute(text("UPDATE fills SET trade_id = 'x' WHERE number = 2")))
        assert (await ledger.portfolio("paper")).position("SIM").quantity == 3

    async def test_a_thousand_accounts_are_not_all_kept(self, ledger, monkeypatch):
        monkeypatch.setattr("checkpoints.books._ACCOUNTS_MAX", 3)
        for number in range(9):
            await ledger.open_account(f"account-{number}", Decimal(number))
            assert (await ledger.portfolio(f"account-{number}")).cash == number
        assert list(ledger._books._kept) == ["account-6", "account-7", "account-8"]
        assert (await ledger.portfolio("account-0")).cash == 0

    async def test_an_older_reading_does_not_replace_a_newer_one(self, ledger, database):
        books = ledger._books
        old = database.read(lambda connection: books.read(connection, "paper"))
        await traded(ledger, intent("a"), "t1")
        await ledger.portfolio("paper")
        books.keep(old)
        assert books._kept["paper"].number == 1

    async def test_an_account_that_is_not_there(self, ledger):
        with pytest.raises(OrderError, match="there is no account 'nobody'"):
            await ledger.portfolio("nobody")


_PHANTOM = (
    "INSERT INTO fills (trade_id, number, intent_id, account, symbol, side, quantity, price, fee, time_ns)"
    " VALUES (:trade_id, :number, :id, 'paper', 'SIM', 'buy', '99', '1', '0', 0)"
)

SYMBOLS = ("AAA", "BBB")
MOVES = st.tuples(
    st.sampled_from(SYMBOLS),
    st.sampled_from(Side),
    st.integers(1, 5),
    st.integers(1, 300),
    st.integers(-3, 1),  # the day of the fill, which may be heard of late
    st.sampled_from(["", "read", "look", "anew"]),
    st.integers(-4, 1),  # the day that is looked at
)


class TestFoldIsTheFold:
    @given(st.lists(MOVES, max_size=25))
    @settings(max_examples=60)
    def test_whatever_comes_in_whatever_order(self, moves):
        asyncio.run(self.play(moves))

    async def play(self, moves):
        with Database.open(":memory:", inline=True) as database:
            ledger = OrderLedger(database)
            await ledger.open_account("paper", Decimal(1000))
            made, since = [], 0
            for number, (symbol, side, quantity, price, day, then, looked_at) in enumerate(moves):
                order = intent(f"run-{number}", str(quantity), side=side, symbol=symbol)
                made.append(fill(order, f"t{number}", price=str(price), at_ns=NOON_NS + day * DAY_NS + number))
                await sent(ledger, order)
                await ledger.record(order.intent_id, BrokerReport(OrderStatus.FILLED, fills=(made[-1],)))
                if then == "anew":
                    await ledger.begin_anew()
                    since = number + 1
                if then == "read":
                    await ledger.portfolio("paper")
                if then == "look":
                    day_ns = TODAY_NS + looked_at * DAY_NS
                    now = await seen(ledger, look=Look(day_ns))
                    assert now == await seen(OrderLedger(database), look=Look(day_ns))
                    self.compare(now, made, since, day_ns)

    def compare(self, account, made, since, day_ns):
        """With the plain sums."""
        portfolio, marks, peak = Portfolio("paper", Decimal(1000)), {}, Decimal(0 if since else 1000)
        times = {}
        for number, each in enumerate(made):
            portfolio = portfolio.apply(each)
            if times.get(each.symbol, each.time_ns) <= each.time_ns:
                marks[each.symbol], times[each.symbol] = each.price, each.time_ns
            if number >= since:
                peak = max(peak, portfolio.equity(marks))
        assert (account.portfolio, account.peak, account.prices) == (portfolio, peak, marks)
        before = sorted((each for each in made if each.time_ns < day_ns), key=lambda each: each.time_ns)
        opening = Portfolio("paper", Decimal(1000))
        for each in before:
            opening = opening.apply(each)
        last = {each.symbol: each.price for each in before}
        assert account.opening.equity({}) == opening.equity(last)
        assert account.opening.equity({"AAA": Decimal(7)}) == opening.equity({**last, "AAA": Decimal(7)})
        held = {each.symbol: each.quantity for each in opening.positions}
        assert account.opening.quantities == held


class TestOrdersBeside:
    WITHIN = Look(TODAY_NS, 60 * 10**9)

    def at(self, seconds):
        return NOON_NS + round(seconds * 10**9)

    async def test_what_was_sent_lately_and_what_is_open_is_seen_once(self, ledger):
        await traded(ledger, intent("old", at_ns=self.at(-60)), "t1")
        await traded(ledger, intent("lately", "3", at_ns=self.at(-59.9)), "t2")
        await traded(ledger, intent("clock was set back", "4", at_ns=self.at(59.9)), "t3")
        await traded(ledger, intent("ahead", at_ns=self.at(60)), "t4")
        rests = await sent(ledger, intent("rests", "8", side=Side.SELL, limit_price=Decimal(120), at_ns=self.at(-900)))
        part = (fill(rests, "t5", "3"),)
        await ledger.record(rests.intent_id, BrokerReport(OrderStatus.OPEN, fills=part))
        refused = await sent(ledger, intent("refused", "5", at_ns=self.at(0)))
        await ledger.record(refused.intent_id, BrokerReport(OrderStatus.REJECTED))
        orders = (await seen(ledger, look=self.WITHIN)).orders
        assert sorted((str(each.side), each.quantity, each.open, each.limit_price) for each in orders) == [
            ("buy", 3, 0, None),
            ("buy", 4, 0, None),
            ("buy", 5, 0, None),
            ("sell", 8, 5, 120),
        ]
        assert {each.sent_ns for each in orders} == {self.at(-59.9), self.at(59.9), self.at(0), self.at(-900)}
        assert [each.quantity for each in (await seen(ledger)).orders] == [8]

    async def test_what_was_never_sent_or_never_arrived_is_no_order_that_was_sent(self, ledger):
        await ledger.reserve(intent("denied"), deny)
        lost = await sent(ledger, intent("lost"))
        await ledger.record(lost.intent_id, BrokerReport(OrderStatus.NOT_PLACED))
        await ledger.reserve(intent("pending", "7"), allow)
        orders = (await seen(ledger, look=self.WITHIN)).orders
        assert [(each.quantity, each.open) for each in orders] == [(7, 7)]

    async def test_the_order_itself_and_earlier_attempts_at_it_are_not_beside_it(self, ledger):
        lost = await sent(ledger, intent())
        assert (await seen(ledger, lost, self.WITHIN)).orders == ()
        assert (await seen(ledger, replace(lost, leg="entry").next_attempt(), self.WITHIN)).orders == ()
        assert len((await seen(ledger, intent(decision=1), self.WITHIN)).orders) == 1
        assert len((await seen(ledger, intent(leg="exit"), self.WITHIN)).orders) == 1

    @pytest.mark.parametrize(
        "kind", [{}, {"stop_price": Decimal(90)}, {"stop_price": Decimal(9), "limit_price": Decimal(8)}]
    )
    async def test_only_a_limit_order_rests_in_the_book(self, ledger, kind):
        """A stop may become one, and is none before."""
        await sent(ledger, intent("rests", side=Side.SELL, **kind))
        assert [each.limit_price for each in (await seen(ledger)).orders] == [None]

    async def test_other_accounts_do_not_count(self, ledger):
        await ledger.open_account("other", Decimal(1))
        await sent(ledger, intent("a", account="other"))
        await traded(ledger, intent("b", account="other"), "t1")
        assert (await seen(ledger, look=self.WITHIN)).orders == ()


class TestRejections:
    async def test_they_count_since_something_was_accepted_and_since_they_were_looked_at(self, ledger):
        counts = []
        for number, status in enumerate(["rejected", "rejected", "open", "rejected", "cancelled", "rejected", "anew"]):
            if status == "anew":
                await ledger.begin_anew()
            else:
                order = await sent(ledger, intent(f"run-{number}"))
                await ledger.record(order.intent_id, BrokerReport(OrderStatus(status)))
            await ledger.reserve(intent(f"denied-{number}"), deny)
            counts.append((await seen(ledger)).rejects_in_row)
        assert counts == [1, 2, 0, 1, 0, 1, 0]
