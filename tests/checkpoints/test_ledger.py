"""The order journal: what is written down once stays so, whatever order the news come in."""

import asyncio
import multiprocessing
from decimal import Decimal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlalchemy import insert

from agents.domain import Check, Fill, OrderIntent, OrderStatus, Portfolio, Side
from agents.errors import LeaseLost, OrderConflict, OrderError
from checkpoints.database import Database
from checkpoints.leases import runs
from checkpoints.ledger import Account, BrokerReport, OrderLedger

DAY_NS = 86_400_000_000_000
NOON_NS = 20_000 * DAY_NS + DAY_NS // 2


def allow(account: Account) -> tuple[Check, ...]:
    return (Check("size", passed=True, value=1.0, limit=2.0),)


def deny(account: Account) -> tuple[Check, ...]:
    return (
        Check("size", passed=False, value=3.0, limit=2.0, reason="too large"),
        Check("hours", passed=True, value="noon", limit="24/7"),
    )


def intent(run_id="run-1", quantity="2", *, side=Side.BUY, symbol="SIM", account="paper", at_ns=NOON_NS, **more):
    return OrderIntent.derive(
        run_id=run_id,
        account=account,
        symbol=symbol,
        side=side,
        quantity=Decimal(quantity),
        reference_price=Decimal(100),
        reference_ns=at_ns,
        **more,
    )


def fill(order: OrderIntent, trade_id="t1", quantity=None, price="100", at_ns=NOON_NS) -> Fill:
    amount = order.quantity if quantity is None else Decimal(quantity)
    return Fill(trade_id, order.intent_id, order.symbol, order.side, amount, Decimal(price), Decimal("0.1"), at_ns)


def filled(order: OrderIntent, trade_id="t1", **more) -> BrokerReport:
    return BrokerReport(OrderStatus.FILLED, "b1", (fill(order, trade_id, **more),))


@pytest.fixture
def database(address):
    with Database.open(address, inline=True) as opened:
        yield opened


@pytest.fixture
async def ledger(database):
    ledger = OrderLedger(database)
    await ledger.open_account("paper", Decimal(1000))
    return ledger


async def sent(ledger: OrderLedger, wanted: OrderIntent) -> OrderIntent:
    await ledger.reserve(wanted, allow)
    assert await ledger.mark_sending(wanted.intent_id)
    return wanted


async def traded(ledger: OrderLedger, wanted: OrderIntent, trade_id: str, **more) -> None:
    await sent(ledger, wanted)
    await ledger.record(wanted.intent_id, filled(wanted, trade_id, **more))


class TestReserve:
    async def test_the_same_decision_is_written_down_once_and_reviewed_once(self, ledger):
        reviews = []

        def review(account):
            reviews.append(account)
            return allow(account)

        first = await ledger.reserve(intent(), review)
        again = await ledger.reserve(intent(), review)
        assert first == again
        assert first.status is OrderStatus.PENDING
        assert len(reviews) == 1
        assert await ledger.orders("run-1") == (first,)

    async def test_a_quantity_written_otherwise_is_the_same_order(self, ledger):
        assert (await ledger.reserve(intent(quantity="2"), allow)) == (
            await ledger.reserve(intent(quantity="2.000"), allow)
        )

    async def test_denied_keeps_every_check_and_says_why(self, ledger):
        order = await ledger.reserve(intent(), deny)
        assert order.status is OrderStatus.DENIED
        assert order.reason == "too large"
        assert (await ledger.orders("run-1"))[0].checks == deny(None)

    async def test_a_denied_order_is_not_reviewed_again(self, ledger):
        await ledger.reserve(intent(), deny)
        assert (await ledger.reserve(intent(), allow)).status is OrderStatus.DENIED

    @pytest.mark.parametrize("review", [allow, deny])
    async def test_another_order_replaces_one_that_never_left(self, ledger, review):
        await ledger.reserve(intent(quantity="2"), review)
        other = await ledger.reserve(intent(quantity="3"), allow)
        assert await ledger.orders("run-1") == (other,)
        assert other.intent.quantity == 3

    @pytest.mark.parametrize("status", [OrderStatus.SENDING, OrderStatus.UNKNOWN, OrderStatus.FILLED])
    async def test_another_order_after_one_was_sent_is_a_conflict(self, ledger, status):
        first = await sent(ledger, intent())
        if status is not OrderStatus.SENDING:
            fills = (fill(first),) if status is OrderStatus.FILLED else ()
            await ledger.record(first.intent_id, BrokerReport(status, fills=fills))
        with pytest.raises(OrderConflict, match=r"has sent buy 2 SIM .* wants sell 2 SIM; nothing more was sent"):
            await ledger.reserve(intent(side=Side.SELL), allow)
        assert [order.client_order_id for order in await ledger.orders("run-1")] == [first.intent_id]

    async def test_other_legs_and_decisions_of_a_run_are_other_orders(self, ledger):
        for wanted in (intent(), intent(leg="exit"), intent(decision=1)):
            await ledger.reserve(wanted, allow)
        assert [(each.intent.decision, each.intent.leg) for each in await ledger.orders("run-1")] == [
            (0, "entry"),
            (0, "exit"),
            (1, "entry"),
        ]

    async def test_an_account_must_be_open(self, ledger):
        with pytest.raises(OrderError, match="no account 'nobody'"):
            await ledger.reserve(intent(account="nobody"), allow)

    async def test_a_review_that_raises_leaves_nothing(self, ledger):
        def broken(account):
            raise RuntimeError("no limits")

        with pytest.raises(RuntimeError):
            await ledger.reserve(intent(), broken)
        assert await ledger.orders("run-1") == ()

    async def test_an_order_comes_back_as_it_was_written(self, ledger):
        prices = {"limit_price": Decimal("99.50"), "stop_price": Decimal("1E+2")}
        wanted = intent(quantity="0.00000001", leg="exit", decision=3, side=Side.SELL, **prices)
        await ledger.reserve(wanted, allow)
        assert (await ledger.orders("run-1"))[0].intent == wanted


class TestReview:
    async def test_what_is_reserved_or_at_the_broker_counts_as_live(self, ledger):
        await ledger.reserve(intent("a", "1"), allow)
        await sent(ledger, intent("b", "2"))
        lost = await sent(ledger, intent("c", "4"))
        await ledger.record(lost.intent_id, BrokerReport(OrderStatus.UNKNOWN))
        resting = await sent(ledger, intent("d", "8", side=Side.SELL))
        part = (fill(resting, quantity="3"),)
        await ledger.record(resting.intent_id, BrokerReport(OrderStatus.OPEN, fills=part))
        seen = await self.review(ledger)
        assert seen.live == {"SIM": Decimal(1 + 2 + 4 - (8 - 3))}
        assert seen.portfolio.position("SIM").quantity == -3

    async def test_what_others_close_already_is_not_closable(self, ledger):
        await traded(ledger, intent("held", "10"), "t1")
        part = await sent(ledger, intent("a", "5", side=Side.SELL))
        await ledger.record(part.intent_id, BrokerReport(OrderStatus.OPEN, fills=(fill(part, "t2", Decimal(2)),)))
        await ledger.reserve(intent("b", "1", side=Side.SELL), allow)
        for other in (intent("c", "9"), intent("d", "9", side=Side.SELL, symbol="B")):
            await sent(ledger, other)
        for side, closable in ((Side.SELL, 8 - 3 - 1), (Side.BUY, 0)):
            assert (await ledger.account(intent("way-out", "1", side=side))).closable == closable

    async def test_what_is_over_is_not_live(self, ledger):
        await traded(ledger, intent("a"), "t1")
        refused = await sent(ledger, intent("b"))
        await ledger.record(refused.intent_id, BrokerReport(OrderStatus.REJECTED))
        await ledger.reserve(intent("c"), deny)
        await ledger.open_account("other", Decimal(1))
        await ledger.reserve(intent("d", account="other"), allow)
        assert (await self.review(ledger)).live == {}

    async def test_more_filled_than_ordered_does_not_make_room(self, ledger):
        resting = await sent(ledger, intent("a", "2"))
        await ledger.record(resting.intent_id, BrokerReport(OrderStatus.OPEN, fills=(fill(resting, quantity="5"),)))
        assert (await self.review(ledger)).live == {}

    async def test_the_opening_portfolio_is_yesterdays(self, ledger):
        await traded(ledger, intent("a"), "t1", at_ns=NOON_NS - DAY_NS)
        midnight_ns = NOON_NS - DAY_NS // 2
        await traded(ledger, intent("b"), "t2", at_ns=midnight_ns - 1)
        await traded(ledger, intent("c"), "t3", at_ns=midnight_ns)
        seen = await self.review(ledger)
        assert seen.opening.quantities == {"SIM": 4}
        assert seen.portfolio.position("SIM").quantity == 6

    @staticmethod
    async def review(ledger) -> Account:
        seen = []
        await ledger.reserve(intent("asks"), lambda account: seen.append(account) or ())
        return seen[0]


class TestTransitions:
    async def test_only_one_caller_may_send(self, ledger):
        await ledger.reserve(intent(), allow)
        marked = await asyncio.gather(*(ledger.mark_sending(intent().intent_id) for _ in range(10)))
        assert sorted(marked) == [False] * 9 + [True]

    async def test_a_denied_order_is_never_sent(self, ledger):
        await ledger.reserve(intent(), deny)
        assert not await ledger.mark_sending(intent().intent_id)
        assert (await ledger.orders("run-1"))[0].status is OrderStatus.DENIED

    @pytest.mark.parametrize("call", ["mark_sending", "record"])
    async def test_an_order_that_is_not_there(self, ledger, call):
        arguments = () if call == "mark_sending" else (BrokerReport(OrderStatus.FILLED),)
        with pytest.raises(OrderError, match="the ledger has no order hf-none; nothing was recorded"):
            await getattr(ledger, call)("hf-none", *arguments)

    ALLOWED = frozenset(
        {
            ("sending", "open"),
            ("sending", "filled"),
            ("sending", "rejected"),
            ("sending", "unknown"),
            ("unknown", "open"),
            ("unknown", "filled"),
            ("unknown", "rejected"),
            ("open", "filled"),
            ("open", "rejected"),
            ("sending", "not_placed"),
            ("unknown", "not_placed"),
            ("not_placed", "open"),
            ("not_placed", "filled"),
        }
    )
    OUTDATED = frozenset(
        {("open", "unknown"), ("filled", "unknown"), ("rejected", "unknown"), ("filled", "open")}
        | {("open", "not_placed"), ("filled", "not_placed"), ("rejected", "not_placed"), ("not_placed", "rejected")}
        | {(status, status) for status in ("open", "filled", "rejected", "unknown", "not_placed")}
    )

    @pytest.mark.parametrize("reported", ["open", "filled", "rejected", "unknown", "not_placed"])
    @pytest.mark.parametrize(
        "status", ["pending", "denied", "sending", "open", "filled", "rejected", "unknown", "not_placed"]
    )
    async def test_the_allowed_way_and_no_other(self, ledger, status, reported):
        wanted = intent()
        await ledger.reserve(wanted, deny if status == "denied" else allow)
        if status not in {"pending", "denied"}:
            await ledger.mark_sending(wanted.intent_id)
        if status not in {"pending", "denied", "sending"}:
            await ledger.record(wanted.intent_id, BrokerReport(OrderStatus(status)))
        report = BrokerReport(OrderStatus(reported), reason="news")
        if (status, reported) in self.ALLOWED | self.OUTDATED:
            order = await ledger.record(wanted.intent_id, report)
            assert order.status == (reported if (status, reported) in self.ALLOWED else status)
        else:
            with pytest.raises(OrderError, match=f"is {status} and cannot become {reported}; nothing was recorded"):
                await ledger.record(wanted.intent_id, report)
            assert (await ledger.orders("run-1"))[0].status == status

    async def test_a_refused_step_leaves_no_fill_behind(self, ledger):
        await ledger.reserve(intent(), allow)
        with pytest.raises(OrderError):
            await ledger.record(intent().intent_id, filled(intent()))
        assert (await ledger.portfolio("paper")).positions == ()

    async def test_unsettled_are_those_whose_fate_only_the_broker_knows(self, ledger):
        await ledger.reserve(intent("a"), allow)
        one = await sent(ledger, intent("b"))
        two = await sent(ledger, intent("c"))
        await ledger.record(two.intent_id, BrokerReport(OrderStatus.UNKNOWN))
        await traded(ledger, intent("d"), "t1")
        assert [each.client_order_id for each in await ledger.unsettled()] == [one.intent_id, two.intent_id]


class TestAttempts:
    """An order that never reached the broker is tried again under an id of its own, and what it was stays."""

    async def in_vain(self, ledger, **more):
        order = await sent(ledger, intent(**more))
        return await ledger.record(order.intent_id, BrokerReport(OrderStatus.NOT_PLACED, reason="never seen"))

    async def test_the_next_one_is_a_row_of_its_own_and_answers_for_all(self, ledger):
        await self.in_vain(ledger)
        assert (await ledger.reserve(intent(), allow)).status is OrderStatus.NOT_PLACED
        second = await ledger.reserve(intent(attempt=2), allow)
        assert (second.status, second.intent) == (OrderStatus.PENDING, intent(attempt=2))
        for attempt in (1, 2, 3):
            assert await ledger.reserve(intent(attempt=attempt), allow) == second
        assert await ledger.mark_sending(second.client_order_id)
        await ledger.record(second.client_order_id, filled(second.intent))
        assert [order.status for order in await ledger.orders("run-1")] == [OrderStatus.NOT_PLACED, OrderStatus.FILLED]
        assert (await ledger.portfolio("paper")).position("SIM").quantity == 2

    @pytest.mark.parametrize("status", [None, *map(OrderStatus, ("open", "filled", "rejected", "unknown"))])
    async def test_there_is_none_beside_one_that_may_be_there(self, ledger, status):
        await sent(ledger, intent())
        if status:
            await ledger.record(intent().intent_id, BrokerReport(status))
        order = await ledger.reserve(intent(attempt=2), allow)
        assert (order.intent, order.status) == (intent(), status or OrderStatus.SENDING)
        assert len(await ledger.orders("run-1")) == 1

    async def test_it_does_not_count_as_if_it_rested(self, ledger):
        await self.in_vain(ledger)
        assert (await ledger.account(intent("other"))).live == {}
        assert await ledger.unsettled() == await ledger.at_broker() == ()

    async def test_it_gives_way_to_no_other_order_since_it_may_turn_up_yet(self, ledger):
        await self.in_vain(ledger)
        with pytest.raises(OrderConflict, match=r"not_placed\), and its decision now wants buy 3 SIM"):
            await ledger.reserve(intent(quantity="3"), allow)
        await ledger.reserve(intent(attempt=2), deny)
        with pytest.raises(OrderConflict):
            await ledger.reserve(intent(quantity="3"), allow)
        assert [order.status for order in await ledger.orders("run-1")] == [OrderStatus.NOT_PLACED, OrderStatus.DENIED]

    async def test_what_the_broker_did_all_the_same_is_booked(self, ledger):
        await self.in_vain(ledger)
        await traded(ledger, intent(attempt=2), "t2")
        await ledger.record(intent().intent_id, filled(intent(), "t1"))
        assert (await ledger.portfolio("paper")).position("SIM").quantity == 4

    @pytest.mark.parametrize("known", [None, OrderStatus.PENDING, OrderStatus.SENDING, OrderStatus.UNKNOWN])
    async def test_one_that_only_the_broker_knows_is_adopted_after_those_before_it(self, ledger, known):
        if known is not None:
            await ledger.reserve(intent(), allow)
        if known not in {None, OrderStatus.PENDING}:
            await ledger.mark_sending(intent().intent_id)
            await ledger.record(intent().intent_id, BrokerReport(known))
        second = intent(attempt=2)
        order = await ledger.adopt(second, filled(second), Decimal(1000))
        assert (order.intent, order.status) == (second, OrderStatus.FILLED)
        before = [OrderStatus.NOT_PLACED] * (known is not None)
        assert [each.status for each in await ledger.orders("run-1")] == [*before, OrderStatus.FILLED]

    async def test_one_after_an_order_that_was_filled_is_a_contradiction(self, ledger):
        await traded(ledger, intent(), "t1")
        with pytest.raises(OrderError):
            await ledger.adopt(intent(attempt=2), filled(intent(attempt=2), "t2"), Decimal(1000))
        assert len(await ledger.orders("run-1")) == 1


class TestFills:
    async def test_a_trade_counts_once(self, ledger):
        order = await sent(ledger, intent(quantity="5"))
        part = BrokerReport(OrderStatus.OPEN, fills=(fill(order, "t1", "2", "100"),))
        rest = BrokerReport(OrderStatus.FILLED, fills=(fill(order, "t1", "2", "100"), fill(order, "t2", "3", "110")))
        for report in (part, part, rest, rest):
            last = await ledger.record(order.intent_id, report)
        assert (last.filled, last.price, last.fee) == (5, Decimal(530) / 5, Decimal("0.2"))
        assert (await ledger.portfolio("paper")).cash == 1000 - 530 - Decimal("0.2")

    async def test_the_portfolio_is_the_fold_of_the_fills(self, ledger):
        story = [("a", "3", Side.BUY, "100"), ("b", "5", Side.SELL, "120"), ("c", "1", Side.BUY, "90")]
        expected = Portfolio("paper", Decimal(1000))
        for number, (run_id, quantity, side, price) in enumerate(story):
            order = intent(run_id, quantity, side=side)
            await traded(ledger, order, f"t{number}", price=price)
            expected = expected.apply(fill(order, f"t{number}", price=price))
        assert await ledger.portfolio("paper") == expected

    async def test_a_trade_of_another_order_is_refused(self, ledger):
        mine, other = await sent(ledger, intent("a")), await sent(ledger, intent("b"))
        with pytest.raises(OrderError, match=r"trade t1 was reported for order .* belongs to"):
            await ledger.record(mine.intent_id, filled(other))
        await ledger.record(mine.intent_id, filled(mine))
        clash = BrokerReport(OrderStatus.FILLED, fills=(fill(other, "t1"),))
        with pytest.raises(OrderError, match="compare the broker's books"):
            await ledger.record(other.intent_id, clash)
        assert (await ledger.portfolio("paper")).position("SIM").quantity == 2

    async def test_an_account_keeps_what_it_has(self, ledger):
        await traded(ledger, intent(), "t1")
        before = await ledger.portfolio("paper")
        await ledger.open_account("paper", Decimal(5))
        assert await ledger.portfolio("paper") == before


RUNS = ("a", "b")


class LedgerMachine(RuleBasedStateMachine):
    """Two orders of one account; news of them in any order, lost, late and repeated."""

    def __init__(self):
        super().__init__()
        self.database = Database.open(":memory:", inline=True)
        self.ledger = OrderLedger(self.database)
        self.run(self.ledger.open_account("paper", Decimal(1000)))
        self.trades: dict[str, dict[str, Fill]] = {run: {} for run in RUNS}  # what the broker has executed
        self.booked: dict[str, set[str]] = {run: set() for run in RUNS}
        self.sends = dict.fromkeys(RUNS, 0)
        self.highest: dict[str, OrderStatus] = {}

    def teardown(self):
        self.database.close()

    def run(self, coroutine):
        return asyncio.run(coroutine)

    @rule(run=st.sampled_from(RUNS))
    def reserve(self, run):
        self.run(self.ledger.reserve(intent(run), allow))

    @rule(run=st.sampled_from(RUNS))
    def mark_sending(self, run):
        try:
            self.sends[run] += self.run(self.ledger.mark_sending(intent(run).intent_id))
        except OrderError:
            assert not self.orders(run)

    @rule(run=st.sampled_from(RUNS), part=st.sampled_from(["1", "2"]))
    def execute_at_the_broker(self, run, part):
        """It happens there; whether and when we hear of it is another matter."""
        done = sum((each.quantity for each in self.trades[run].values()), Decimal(0))
        if self.sends[run] and done + Decimal(part) <= 2:
            trade_id = f"{run}-{len(self.trades[run])}"
            self.trades[run][trade_id] = fill(intent(run), trade_id, part)

    @rule(run=st.sampled_from(RUNS), count=st.integers(0, 2), status=st.sampled_from(["open", "filled", "unknown"]))
    def hear(self, run, count, status):
        """Some of the trades, first ones or late ones, with whatever status the message had."""
        told = tuple(list(self.trades[run].values())[:count])
        try:
            self.run(self.ledger.record(intent(run).intent_id, BrokerReport(OrderStatus(status), fills=told)))
        except OrderError:
            return
        self.booked[run] |= {each.trade_id for each in told}

    @rule(run=st.sampled_from(RUNS))
    def decide_otherwise(self, run):
        if self.sends[run]:
            with pytest.raises(OrderConflict):
                self.run(self.ledger.reserve(intent(run, "1"), allow))

    def orders(self, run):
        return self.run(self.ledger.orders(run))

    @invariant()
    def at_most_one_send(self):
        assert all(count <= 1 for count in self.sends.values())

    @invariant()
    def the_portfolio_is_the_fold_of_what_was_booked(self):
        portfolio = self.run(self.ledger.portfolio("paper"))
        booked = [self.trades[run][each] for run in RUNS for each in sorted(self.booked[run])]
        quantity = sum((each.quantity for each in booked), Decimal(0))
        assert portfolio.position("SIM").quantity == quantity
        assert portfolio.cash == 1000 - sum((each.quantity * each.price + each.fee for each in booked), Decimal(0))

    @invariant()
    def an_order_shows_its_own_fills(self):
        for run in RUNS:
            for order in self.orders(run):
                booked = [self.trades[run][each].quantity for each in self.booked[run]]
                assert order.filled == sum(booked, Decimal(0))

    @invariant()
    def what_is_final_stays(self):
        for run in RUNS:
            for order in self.orders(run):
                known = self.highest.get(run)
                assert known is None or order.status is known
                if order.status.final:
                    self.highest[run] = order.status


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=20, stateful_step_count=12, deadline=None)


class TestFence:
    """Each step towards sending is refused to who may not make it, in its own transaction; what happened is not."""

    @pytest.fixture
    def fenced(self, ledger, database):
        """A ledger of a process that has lost the runs in `lost`."""

        def fence(connection, run_id):
            assert connection.in_transaction()
            asked.append(run_id)
            if run_id in lost:
                raise LeaseLost(f"{run_id} is somebody else's")

        asked, lost = [], set()
        return OrderLedger(database, fence), asked, lost

    async def test_nothing_is_reserved(self, fenced):
        ledger, asked, lost = fenced
        await ledger.reserve(intent("run-1"), allow)
        lost.add("run-2")
        with pytest.raises(LeaseLost):
            await ledger.reserve(intent("run-2"), allow)
        assert (len(await ledger.orders("run-1")), await ledger.orders("run-2")) == (1, ())
        assert asked == ["run-1", "run-2"]

    async def test_what_was_reserved_is_not_read_by_it_either(self, fenced):
        """The workflow asks in order to send: who has lost the run is to stop, and not to go on with the answer."""
        ledger, _, lost = fenced
        await sent(ledger, intent())
        lost.add("run-1")
        with pytest.raises(LeaseLost):
            await ledger.reserve(intent(), allow)

    async def test_nothing_is_sent(self, fenced):
        ledger, asked, lost = fenced
        await ledger.reserve(intent(), allow)
        lost.add("run-1")
        with pytest.raises(LeaseLost):
            await ledger.mark_sending(intent().intent_id)
        lost.clear()
        assert (await ledger.orders("run-1"))[0].status is OrderStatus.PENDING
        assert await ledger.mark_sending(intent().intent_id)
        assert asked == ["run-1"] * 3

    async def test_what_the_broker_answered_is_written_down_whoever_brings_it(self, fenced):
        ledger, asked, lost = fenced
        await sent(ledger, intent())
        asked.clear()
        lost.add("run-1")
        assert (await ledger.record(intent().intent_id, filled(intent()))).status is OrderStatus.FILLED
        assert asked == []


class TestAtOnce:
    async def test_threads_that_reserve_the_same_decision_make_one_row(self, tmp_path):
        with Database.open(tmp_path / "ledger.db") as database:
            ledger = OrderLedger(database)
            await ledger.open_account("paper", Decimal(1000))
            work = [asyncio.to_thread(asyncio.run, ledger.reserve(intent(), allow)) for _ in range(8)]
            orders = await asyncio.gather(*work)
            assert all(each == orders[0] for each in orders)
            assert len(await ledger.orders("run-1")) == 1

    def test_processes_that_reserve_the_same_decision_make_one_row_and_one_sends(self, tmp_path):
        path = tmp_path / "ledger.db"
        with Database.open(path) as database:
            asyncio.run(OrderLedger(database).open_account("paper", Decimal(1000)))
        context = multiprocessing.get_context("spawn")
        gate, answers = context.Barrier(2), context.Queue()
        children = [context.Process(target=_reserve_and_mark, args=(path, gate, answers)) for _ in range(2)]
        for child in children:
            child.start()
        got = [answers.get(timeout=20) for _ in children]
        for child in children:
            child.join()
        assert sorted(marked for _, marked in got) == [False, True]
        assert {order_id for order_id, _ in got} == {intent().intent_id}
        with Database.open(path) as database:
            assert len(asyncio.run(OrderLedger(database).orders("run-1"))) == 1


def _reserve_and_mark(path, gate, answers):
    with Database.open(path) as database:
        ledger = OrderLedger(database)
        gate.wait()
        order = asyncio.run(ledger.reserve(intent(), allow))
        marked = asyncio.run(ledger.mark_sending(order.client_order_id))
        answers.put((order.client_order_id, marked))


class TestDry:
    """A dry run's orders are refused in the ledger: no row, no exposure, and what would have become of them."""

    @pytest.fixture
    def dry(self, database):
        columns = {"workflow": "trade", "symbol": "SIM", "as_of_ns": 0, "account": "paper", "status": "running"}
        more = {"fingerprint": "{}", "parameters": "{}", "created_ns": 0, "updated_ns": 0}
        for number, run_id in enumerate(("dry-1", "wet-1")):
            row = {"run_id": run_id, "number": number, "dry": run_id == "dry-1", **columns, **more}
            database.write(lambda connection, row=row: connection.execute(insert(runs).values(**row)))

    @pytest.mark.usefixtures("dry")
    async def test_nothing_is_written_down_and_nothing_is_reserved(self, ledger):
        books = []

        def review(account):
            books.append(account.live)
            return allow(account)

        for _ in range(2):
            order = await ledger.reserve(intent("dry-1"), review)
            assert (order.status, order.checks) == (OrderStatus.DENIED, allow(None))
            assert order.reason == "dry fork: buy 2 SIM was not sent"
        assert books == [{}, {}]
        assert await ledger.orders("dry-1") == await ledger.unsettled() == ()
        with pytest.raises(OrderError, match="has no order"):
            await ledger.mark_sending(order.client_order_id)

    @pytest.mark.usefixtures("dry")
    async def test_it_says_what_would_have_been_denied(self, ledger):
        order = await ledger.reserve(intent("dry-1", limit_price=Decimal("1E+2")), deny)
        assert order.reason == (
            "dry fork: buy 2 SIM at 100 or better was not sent, and would have been denied: too large"
        )

    @pytest.mark.usefixtures("dry")
    async def test_others_trade(self, ledger):
        for run_id in ("wet-1", "not-registered"):
            assert (await ledger.reserve(intent(run_id), allow)).status is OrderStatus.PENDING


async def test_a_conflict_says_what_was_sent_and_what_is_wanted_and_what_to_do(ledger):
    first = await sent(ledger, intent(quantity="2.50"))
    with pytest.raises(OrderConflict) as conflict:
        await ledger.reserve(intent(quantity="3", side=Side.SELL), allow)
    assert str(conflict.value) == (
        f"run run-1 has sent buy 2.5 SIM ({first.intent_id}, sending), and its decision now wants sell 3 SIM; nothing"
        " more was sent, and what was sent stays; to see where the new decision leads, go on from the same checkpoint"
        " in a run of its own, by --fork"
    )
