"""The trading state: durable, read where orders are reserved, and HALTED whenever it cannot be read."""

import asyncio
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.domain import Check, Fill, OrderIntent, OrderStatus, Side, TradingState
from agents.errors import OrderConflict, OrderError, StorageError
from agents.risk import trading_check
from checkpoints.database import Database
from checkpoints.ledger import BrokerReport, OrderLedger
from checkpoints.trading_state import Difference, Trading, TradingSwitch, be_careful

REDUCING = Trading(TradingState.REDUCING, "restored_backup", "holdfast", "the file was damaged", 5)
HALTED = Trading(TradingState.HALTED, "operator", "anna", "lunch", 6)


def intent(run_id="run-1", side=Side.BUY, quantity="10", **more):
    wanted = {"account": "paper", "symbol": "SIM", "reference_price": Decimal(100), "reference_ns": 1_000} | more
    return OrderIntent.derive(run_id=run_id, side=side, quantity=Decimal(quantity), **wanted)


def filled(order, quantity=None):
    share = Decimal(quantity or order.quantity)
    fill = Fill(f"t-{order.intent_id}", order.intent_id, order.symbol, order.side, share, Decimal(100), Decimal(0), 1)
    return BrokerReport(OrderStatus.FILLED, "b-1", (fill,))


def by_state(order, books):
    return trading_check(books.trading.state, books.trading.why, order.quantity, books.closable)


class Room:
    """A ledger with its switch, and an order's way through it."""

    def __init__(self, database):
        self.database = database
        self.ledger = OrderLedger(database)
        self.switch = TradingSwitch(database)

    async def set(self, trading):
        assert await self.switch.set(trading, instead_of=await self.switch.read())

    async def reserve(self, order):
        return await self.ledger.reserve(order, lambda books: (by_state(order, books),))

    async def send(self, order):
        assert await self.ledger.mark_sending(order.intent_id, by_state)

    async def trade(self, order):
        await self.reserve(order)
        await self.send(order)
        return await self.ledger.record(order.intent_id, filled(order))

    async def position(self):
        return (await self.ledger.portfolio("paper")).position("SIM").quantity


@pytest.fixture
async def room(address):
    with Database.open(address) as database:
        room = Room(database)
        await room.ledger.open_account("paper", Decimal(10_000))
        yield room


class TestState:
    async def test_a_new_database_trades_and_a_state_outlives_the_process(self, room, address):
        assert await room.switch.read() == Trading(TradingState.ACTIVE, "new", "", "", 0)
        await room.set(REDUCING)
        room.database.close()
        with Database.open(address) as again:
            assert await TradingSwitch(again).read() == REDUCING

    @pytest.mark.parametrize(
        "harm",
        [
            "DELETE FROM trading_state",
            "UPDATE trading_state SET state = 'going'",
            "UPDATE trading_state SET state = ''",
            "INSERT INTO trading_state VALUES (2, 'active', '', '', '', 0)",
            "DROP TABLE trading_state",
        ],
    )
    async def test_what_cannot_be_read_is_halted_and_can_be_set_again(self, tmp_path, harm):
        with Database.open(tmp_path / "x.db") as database:
            room = Room(database)
            await room.ledger.open_account("paper", Decimal(10_000))
            await room.database.awrite(lambda connection: connection.exec_driver_sql(harm) and None)
            state = await room.switch.read()
            assert (state.state, state.code) == (TradingState.HALTED, "unreadable_state")
            assert state.why.startswith("the trading state cannot be read (")
            order = await room.reserve(intent())
            assert (order.status, order.checks[0].name, order.checks[0].value) == (
                OrderStatus.DENIED,
                "trading_state",
                "halted",
            )
        with Database.open(tmp_path / "x.db") as database:
            room = Room(database)
            await room.set(HALTED)
            assert await room.switch.read() == HALTED

    async def test_on_a_server_that_fails_nothing_is_reserved(self, server):
        with Database.open(server.fresh()) as database:
            room = Room(database)
            await room.ledger.open_account("paper", Decimal(10_000))
            await room.database.awrite(
                lambda connection: connection.exec_driver_sql("DROP TABLE trading_state") and None
            )
            with pytest.raises(StorageError, match="nothing was written"):
                await room.reserve(intent())
            assert await room.ledger.orders("run-1") == ()

    async def test_who_read_an_older_state_sets_nothing(self, room):
        was = await room.switch.read()
        await room.set(HALTED)
        assert not await room.switch.set(REDUCING, instead_of=was)
        assert await room.switch.read() == HALTED

    @pytest.mark.parametrize("there", [HALTED, Trading(TradingState.REDUCING, "operator", "anna", "lunch", 1)])
    async def test_care_never_undoes_what_is_stricter_or_somebodys(self, room, there):
        await room.database.awrite(lambda connection: be_careful(connection, REDUCING))
        assert await room.switch.read() == REDUCING
        await room.set(there)
        await room.database.awrite(lambda connection: be_careful(connection, REDUCING))
        assert await room.switch.read() == there

    async def test_differences_are_accepted_with_their_numbers(self, room):
        one = Difference("hf-1", "paper", "SIM", Decimal("1.50"), Decimal(0), "gone")
        await room.switch.accept([one], "anna", "seen", 7)
        await room.switch.accept([Difference("hf-2", "", "SIM", Decimal(0), Decimal(10), "")], "anna", "seen", 8)
        accepted = await room.switch.accepted()
        assert accepted == {("hf-1", "1.5", "0"), ("hf-2", "0", "10")}
        assert one.terms in accepted
        assert Difference("hf-1", "paper", "SIM", Decimal("1.5"), Decimal(1), "gone").terms not in accepted
        await room.switch.accept([one], "anna", "again", 9)
        assert await room.switch.accepted() == accepted


class TestOrders:
    @pytest.fixture
    async def room(self):
        with Database.open(":memory:", inline=True) as database:
            room = Room(database)
            await room.ledger.open_account("paper", Decimal(10_000))
            yield room

    async def test_halted_lets_nothing_go_not_even_what_reduces(self, room):
        await room.trade(intent())
        await room.set(HALTED)
        order = await room.reserve(intent("run-2", Side.SELL, "1"))
        assert order.status is OrderStatus.DENIED
        assert order.reason == "trading is HALTED (lunch); no order goes until an operator lets it"
        assert order.checks == (
            Check("trading_state", passed=False, value="halted", limit="active", reason=order.reason),
        )

    @pytest.mark.parametrize(
        ("side", "quantity", "status"),
        [
            (Side.SELL, "10", OrderStatus.PENDING),
            (Side.SELL, "0.0001", OrderStatus.PENDING),
            (Side.SELL, "10.0000000000000000001", OrderStatus.DENIED),
            (Side.SELL, "20", OrderStatus.DENIED),
            (Side.BUY, "0.0001", OrderStatus.DENIED),
        ],
    )
    @pytest.mark.parametrize("short", [False, True])
    async def test_reducing_lets_go_what_closes_and_no_more(self, room, side, quantity, status, short):
        opening, other = (Side.SELL, {Side.BUY: Side.SELL, Side.SELL: Side.BUY}) if short else (Side.BUY, {})
        await room.trade(intent(side=opening))
        await room.set(REDUCING)
        order = await room.reserve(intent("run-2", other.get(side, side), quantity))
        assert order.status is status
        if status is OrderStatus.DENIED:
            (check,) = order.checks
            assert (check.name, check.value) == ("trading_state", "reducing")
            assert check.limit in {"closes at most 10", "closes at most 0"}
            assert check.reason.startswith(
                "trading is REDUCING (the file was damaged); only what closes a position goes"
            )

    async def test_what_is_under_way_is_counted_where_it_matters(self, room):
        await room.trade(intent())
        await room.reserve(intent("buys", quantity="5"))  # it may never be filled
        await room.reserve(intent("sells", Side.SELL, "4"))
        await room.reserve(intent("elsewhere", Side.SELL, "9", symbol="OTHER"))
        await room.set(REDUCING)
        for quantity, status in (("6.1", OrderStatus.DENIED), ("6", OrderStatus.PENDING)):
            assert (await room.reserve(intent(f"run-{quantity}", Side.SELL, quantity))).status is status

    async def test_an_order_that_was_reserved_before_is_denied_when_it_wants_to_leave(self, room):
        await room.trade(intent())
        opens, closes = intent("opens", quantity="1"), intent("closes", Side.SELL, "3")
        for order in (opens, closes):
            assert (await room.reserve(order)).status is OrderStatus.PENDING
        await room.set(REDUCING)
        assert not await room.ledger.mark_sending(opens.intent_id, by_state)
        denied = await room.ledger.order(opens.intent_id)
        assert (denied.status, denied.reason) == (OrderStatus.DENIED, denied.checks[0].reason)
        assert [(check.name, check.passed) for check in denied.checks] == [("trading_state", False)]
        assert await room.ledger.mark_sending(closes.intent_id, by_state)
        assert await room.reserve(opens) == denied

    async def test_without_a_review_nothing_leaves_unless_trading_is_active(self, room):
        for run_id in ("one", "two"):
            await room.reserve(intent(run_id))
        assert await room.ledger.mark_sending(intent("one").intent_id)
        await room.set(HALTED)
        assert not await room.ledger.mark_sending(intent("two").intent_id)
        assert (await room.ledger.order(intent("two").intent_id)).status is OrderStatus.DENIED

    async def test_an_order_on_its_way_may_be_sent_again_only_as_the_state_lets_it(self, room):
        await room.trade(intent())
        opens, closes = intent("opens", quantity="1"), intent("closes", Side.SELL, "10")
        for order in (opens, closes):
            await room.reserve(order)
            await room.send(order)
        assert [await room.ledger.refusal(each.intent_id, by_state) for each in (opens, closes)] == [None, None]
        await room.set(REDUCING)
        assert await room.ledger.refusal(closes.intent_id, by_state) is None
        assert not (await room.ledger.refusal(opens.intent_id, by_state)).passed
        await room.set(HALTED)
        assert (await room.ledger.refusal(closes.intent_id, by_state)).value == "halted"

    @given(
        held=st.integers(-20, 20),
        before=st.lists(st.tuples(st.sampled_from(Side), st.integers(1, 20)), max_size=3),
        after=st.lists(st.tuples(st.sampled_from(Side), st.integers(1, 25)), min_size=1, max_size=4),
        luck=st.randoms(use_true_random=False),
    )
    @settings(max_examples=25)
    def test_no_order_of_these_can_open_or_turn_a_position_whatever_is_filled(self, held, before, after, luck):
        asyncio.run(self.play(held, before, after, luck))

    async def play(self, held, before, after, luck):
        with Database.open(":memory:", inline=True) as database:
            room = Room(database)
            await room.ledger.open_account("paper", Decimal(10_000))
            if held:
                await room.trade(intent("held", Side.BUY if held > 0 else Side.SELL, abs(held)))
            for number, (side, quantity) in enumerate(before):
                await room.reserve(intent(f"before-{number}", side, quantity))
                await room.send(intent(f"before-{number}", side, quantity))
            await room.set(REDUCING)
            reducing = [intent(f"after-{number}", side, quantity) for number, (side, quantity) in enumerate(after)]
            let = [order for order in reducing if (await room.reserve(order)).status is OrderStatus.PENDING]
            for order in let:
                await room.send(order)
            for order in luck.sample(let, luck.randint(0, len(let))):  # those of before may never be filled
                was = await room.position()
                await room.ledger.record(order.intent_id, filled(order))
                now = await room.position()
                assert abs(now) < abs(was)
                assert now * was >= 0


class TestAdopting:
    async def test_an_order_that_the_ledger_never_had(self, room):
        order = intent("lost", account="lost")
        adopted = await room.ledger.adopt(order, filled(order), Decimal(7_000))
        assert (adopted.status, adopted.filled, adopted.broker_order_id) == (OrderStatus.FILLED, 10, "b-1")
        assert adopted.reason == "adopted: the broker had executed it, and the ledger did not have it"
        assert await room.ledger.adopt(order, filled(order), Decimal(7_000)) == adopted
        portfolio = await room.ledger.portfolio("lost")
        assert (portfolio.position("SIM").quantity, portfolio.cash) == (10, 6_000)
        assert await room.reserve(order) == adopted, "who decides the same again would send it again"

    @pytest.mark.parametrize("status", [OrderStatus.PENDING, OrderStatus.SENDING, OrderStatus.UNKNOWN])
    async def test_one_of_which_it_knows_less(self, room, status):
        order = intent()
        await room.reserve(order)
        if status is not OrderStatus.PENDING:
            await room.send(order)
        if status is OrderStatus.UNKNOWN:
            await room.ledger.record(order.intent_id, BrokerReport(OrderStatus.UNKNOWN))
        adopted = await room.ledger.adopt(order, filled(order), Decimal(0))
        assert (adopted.status, await room.position()) == (OrderStatus.FILLED, 10)
        assert not await room.ledger.mark_sending(order.intent_id)

    async def test_another_of_the_same_decision_gives_way_if_it_never_left(self, room):
        mine, theirs = intent(quantity="3"), intent(quantity="10")
        await room.reserve(mine)
        await room.ledger.adopt(theirs, filled(theirs), Decimal(0))
        assert [each.client_order_id for each in await room.ledger.orders("run-1")] == [theirs.intent_id]
        with pytest.raises(OrderConflict):
            await room.reserve(mine)

    async def test_what_cannot_be_true_together_is_refused_whole(self, room):
        sent, other = intent(quantity="3"), intent(quantity="10")
        await room.reserve(sent)
        await room.send(sent)
        with pytest.raises(OrderConflict):
            await room.ledger.adopt(other, filled(other), Decimal(0))
        await room.ledger.record(sent.intent_id, BrokerReport(OrderStatus.REJECTED))
        with pytest.raises(OrderError, match="is rejected and cannot become filled"):
            await room.ledger.adopt(sent, filled(sent), Decimal(0))
        assert await room.position() == 0

    async def test_what_was_executed_is_told_of_each(self, room):
        await room.trade(intent("a", quantity="2"))
        await room.trade(intent("b", Side.SELL, "5"))
        await room.reserve(intent("c"))
        known = await room.ledger.executed()
        assert {(each.account, each.symbol, each.status, each.quantity) for each in known.values()} == {
            ("paper", "SIM", OrderStatus.FILLED, Decimal(2)),
            ("paper", "SIM", OrderStatus.FILLED, Decimal(-5)),
            ("paper", "SIM", OrderStatus.PENDING, Decimal(0)),
        }
        with pytest.raises(OrderError, match="the ledger has no order"):
            await room.ledger.order("hf-none")
