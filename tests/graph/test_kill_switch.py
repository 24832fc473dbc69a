"""The kill switch at the desk: after a trip no order goes, whenever it comes, and what rests is cancelled."""

import asyncio
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import count

import pytest
from sqlalchemy import text

from agents.clock import ReplayClock
from agents.domain import Check, Fill, KillSwitchReason, OrderIntent, OrderStatus, Side, TradingState
from agents.errors import BrokerUnavailable, OrderError, OrderRefused, StorageError
from agents.risk import RiskLimits
from checkpoints.audit import Audit
from checkpoints.database import Database
from checkpoints.halt_file import HaltFile
from checkpoints.ledger import BrokerReport, OrderLedger
from checkpoints.trading_state import Trading, TradingSwitch
from graph.broker import Broker
from graph.comparison import Books
from graph.desk import OrderDesk
from graph.kill_switch import KillSwitch, Swept
from graph.resilience import Guard, Retry

ACTIVE, REDUCING, HALTED = TradingState
GENEROUS = RiskLimits(
    concentration_share_max=10.0, position_notional_max=1e9, order_notional_max=1e9, gross_share_max=10
)
LUNCH = Trading(HALTED, "operator", "anna", "lunch", 7)
CARE = Trading(REDUCING, "operator", "anna", "care", 7)


@dataclass
class Venue(Broker):
    """A broker at which orders of the runs in `resting` rest, filled by `part`; `troubles` with cancelling, by run."""

    idempotent: bool = True
    resting: dict[str, str] = field(default_factory=dict)
    troubles: dict[str, BaseException | None] = field(default_factory=dict)
    orders: dict[str, tuple[OrderIntent, OrderStatus, Decimal]] = field(default_factory=dict)
    cancels: list[str] = field(default_factory=list)

    async def send(self, intent):
        await asyncio.sleep(0)
        part = self.resting.get(intent.run_id)
        filled = intent.quantity if part is None else Decimal(part)
        status = OrderStatus.FILLED if part is None else OrderStatus.OPEN
        self.orders[intent.intent_id] = (intent, status, filled)
        return await self.find(intent.intent_id)

    async def find(self, client_order_id):
        if client_order_id not in self.orders:
            return None
        intent, status, filled = self.orders[client_order_id]
        traded = (intent.symbol, intent.side, filled, intent.reference_price, Decimal(0), intent.reference_ns)
        fills = (Fill(f"t-{client_order_id}-{filled}", client_order_id, *traded),) if filled else ()
        return BrokerReport(status, "v", fills)

    async def cancel(self, client_order_id):
        self.cancels.append(client_order_id)
        intent, status, filled = self.orders[client_order_id]
        trouble = self.troubles.get(intent.run_id, self)
        if trouble is None or isinstance(trouble, str):
            return trouble
        if isinstance(trouble, BaseException):
            raise trouble
        if status is OrderStatus.OPEN:
            self.orders[client_order_id] = (intent, OrderStatus.CANCELLED, filled)
        return await self.find(client_order_id)

    async def executed(self):
        return None

    async def intent(self, client_order_id):
        return None


class Room:
    """A desk with its kill switch, and a venue."""

    def __init__(self, database, folder, view, limits=GENEROUS, **venue):
        self.database = database
        self.told = []
        self.file = HaltFile(folder)
        self.switch = TradingSwitch(database, self.file, self.tell)
        self.ledger = OrderLedger(database, trading=self.switch.now)
        self.venue = Venue(**venue)
        guard = Guard("cancel", retry=Retry(max_attempts=2), breaker=None)
        self.kill = KillSwitch(self.switch, self.ledger, self.venue, guard, ReplayClock(5), self.tell)
        self.desk = OrderDesk(self.ledger, self.venue, limits, Guard("broker", retry=None, breaker=None), self.kill)
        self.view = view

    def tell(self, kind, detail):
        self.told.append((kind, dict(detail)))

    async def submit(self, run_id="run-1", quantity="2", side=Side.BUY, view=None):
        return await self.desk.submit(
            run_id=run_id, account="paper", side=side, quantity=Decimal(quantity), view=view or self.view
        )

    async def status(self, run_id):
        (order,) = await self.ledger.orders(run_id)
        return order.status

    async def held(self):
        return (await self.ledger.portfolio("paper")).position("SIM").quantity

    async def state(self):
        now = await self.switch.read()
        return now.state, now.code

    def set_now(self, trading):
        """Without an await: in the middle of whatever goes on."""
        with Database.open(self.database._name, inline=True) as other:
            asyncio_free(TradingSwitch(other).trip(trading))


def asyncio_free(work):
    """Run what only seems to wait."""
    try:
        while True:
            work.send(None)
    except StopIteration as end:
        return end.value


@pytest.fixture
async def room(tmp_path, flat):
    opened = []

    async def make(limits=GENEROUS, cash=10_000, *, inline=False, **venue):
        number = len(opened)
        (tmp_path / f"home-{number}").mkdir()
        opened.append(Database.open(tmp_path / f"{number}.db", inline=inline))
        made = Room(opened[-1], tmp_path / f"home-{number}", flat(), limits, **venue)
        await made.ledger.open_account("paper", Decimal(cash))
        return made

    with Guard.testing():
        yield make
    for database in opened:
        database.close()


class Stepped:
    """Awaits something, and acts at its `at`-th stop: 0 is before it begins. `acted` says whether there was one."""

    def __init__(self, work, at, act):
        self.work, self.at, self.act, self.acted = work, at, act, False

    def __await__(self):
        inner = self.work.__await__()
        for number in count():
            if number == self.at:
                self.acted = True
                self.act()
            try:
                waits_for = inner.send(None)
            except StopIteration as end:
                return end.value
            yield waits_for
        return None


ORDERS = text("SELECT status FROM orders WHERE run_id = 'run-1'")
WAYS = {
    "database": lambda here: here.set_now(LUNCH),
    "file": lambda here: here.file.path.write_text("lunch"),
    "signal": lambda here: here.switch.stop_here(LUNCH),
    "reducing": lambda here: here.set_now(CARE),
}


class TestEveryMoment:
    @pytest.mark.parametrize("way", WAYS)
    async def test_of_a_submit_at_most_the_order_in_flight_goes_and_none_after_it(self, room, way):
        executed = []
        for at in count():
            here = await room(inline=True)  # or a thread could be in the middle of a commit
            then = []

            def act(here=here, then=then):
                WAYS[way](here)
                then.extend(row.status for row in here.database.read(lambda connection: connection.execute(ORDERS)))

            step = Stepped(here.submit(), at, act)
            ticket = await step
            if not step.acted:
                break
            executed.append(len(here.venue.orders))
            assert executed[-1] == (then not in ([], ["pending"])), "what was not on its way has gone"
            status = OrderStatus.FILLED if here.venue.orders else OrderStatus.DENIED
            assert (ticket.order.status, await here.status("run-1")) == (status, status)
            assert (await here.submit("run-2")).order.status is OrderStatus.DENIED
            assert len(here.venue.orders) == executed[-1]
        assert executed == sorted(executed)
        assert set(executed) == {0, 1}, "one moment was before the send and one after it"
        assert len(executed) > 5

    @pytest.mark.parametrize("way", ["database", "file", "signal"])
    async def test_of_twenty_at_once_none_is_sent_that_was_not_on_its_way(self, room, way):
        here = await room()
        real, sent_after = here.ledger.mark_sending, []
        stopped = asyncio.Event()

        async def mark_sending(*given):
            marked = await real(*given)
            if not stopped.is_set():
                stopped.set()
                WAYS[way](here)
                in_flight.extend(await here.ledger.unsettled())
            return marked

        in_flight = []
        here.ledger.mark_sending = mark_sending
        await asyncio.gather(*(here.submit(f"run-{number}") for number in range(20)))
        sent_after = set(here.venue.orders) - {order.client_order_id for order in in_flight}
        assert stopped.is_set()
        assert sent_after == set()
        assert (await here.submit("late")).order.status is OrderStatus.DENIED


class TestResting:
    async def trade(self, here):
        """2 held; two buys and three sells rest."""
        here.venue.resting = {"buy-1": "0", "buy-2": "0.5", "sell-1": "0", "sell-2": "0", "sell-3": "0"}
        await here.submit("held", "2")
        for run_id, quantity in (("buy-1", "1"), ("sell-1", "1.5"), ("buy-2", "1.1"), ("sell-2", "2"), ("sell-3", "1")):
            await here.submit(run_id, quantity, Side.SELL if run_id.startswith("sell") else Side.BUY)
        assert await here.held() == Decimal("2.5")

    async def statuses(self, here):
        return {name: str(await here.status(name)) for name in here.venue.resting}

    async def test_a_halt_cancels_all_and_keeps_what_was_filled(self, room):
        here = await room()
        await self.trade(here)
        swept = await here.kill.trip(LUNCH)
        assert await self.statuses(here) == dict.fromkeys(here.venue.resting, "cancelled")
        assert (len(swept.done), swept.left, await here.held()) == (5, {}, Decimal("2.5"))
        assert await here.ledger.at_broker() == ()
        assert await here.kill.trip(LUNCH) == Swept(), "what is done is not done again"
        assert len(here.venue.cancels) == 5

    async def test_reducing_leaves_what_can_only_close(self, room):
        here = await room()
        await self.trade(here)
        await here.kill.trip(CARE)
        assert await self.statuses(here) == {
            "buy-1": "cancelled",
            "buy-2": "cancelled",
            "sell-1": "open",
            "sell-2": "cancelled",
            "sell-3": "open",
        }
        await here.kill.trip(LUNCH)
        assert set((await self.statuses(here)).values()) == {"cancelled"}

    async def test_one_that_cannot_be_cancelled_keeps_no_other(self, room):
        here = await room()
        await self.trade(here)
        here.venue.troubles = {"buy-1": BrokerUnavailable("away"), "sell-1": None, "sell-2": "nonsense"}
        swept = await here.kill.trip(LUNCH)
        assert {order.intent.run_id for order in swept.done} == {"buy-2", "sell-3"}
        names = {run_id: (await here.ledger.orders(run_id))[0].client_order_id for run_id in here.venue.resting}
        assert set(swept.left) == {names[run_id] for run_id in ("buy-1", "sell-1", "sell-2")}
        assert swept.left[names["buy-1"]] == "BrokerUnavailable: away"
        assert [kind for kind, _ in here.told].count("CancelFailed") == 3
        here.venue.troubles = {}
        assert len((await here.kill.sweep(HALTED)).done) == 3

    async def test_one_that_fills_meanwhile_is_filled(self, room):
        here = await room(resting={"buy-1": "0"})
        await here.submit("buy-1", "1")
        ((name, (intent, _, _)),) = here.venue.orders.items()
        here.venue.orders[name] = (intent, OrderStatus.FILLED, Decimal(1))
        assert [order.status for order in (await here.kill.trip(LUNCH)).done] == [OrderStatus.FILLED]
        assert await here.held() == 1

    async def test_an_order_whose_answer_was_lost_is_cancelled_too(self, room):
        here = await room(resting={"lost": "0"})
        real = here.venue.send

        async def send(intent):
            await real(intent)
            raise ConnectionError

        here.venue.send = send
        with pytest.raises(BrokerUnavailable):
            await here.submit("lost")
        assert await here.status("lost") is OrderStatus.UNKNOWN
        await here.kill.trip(LUNCH)
        assert await here.status("lost") is OrderStatus.CANCELLED

    @pytest.mark.parametrize("state", [LUNCH, CARE])
    async def test_one_that_arrives_after_the_sweep_does_not_stay(self, room, state):
        here = await room(resting={"late": "0"})
        arrive = here.venue.send

        async def unknown(client_order_id):
            return None

        async def send(intent):
            here.venue.cancel, cancel = unknown, here.venue.cancel
            assert await here.kill.trip(state) == Swept()
            here.venue.cancel = cancel
            return await arrive(intent)

        here.venue.send = send
        assert (await here.submit("late")).order.status is OrderStatus.OPEN, "as the broker said"
        assert await here.status("late") is OrderStatus.CANCELLED

    async def test_an_order_that_is_denied_has_nothing_to_catch_up_with(self, room):
        here = await room(resting={"buy-1": "0"}, troubles={"buy-1": None})
        await here.submit("buy-1", "1")
        await here.kill.trip(LUNCH)
        asked = len(here.venue.cancels)
        await here.submit("denied")
        assert (asked, len(here.venue.cancels)) == (1, 1)

    async def test_reducing_keeps_what_closes_and_is_asked_for_then(self, room):
        here = await room(resting={"way-out": "0"})
        await here.submit("held")
        await here.kill.trip(CARE)
        await here.submit("way-out", "2", Side.SELL)
        assert (await here.status("way-out"), here.venue.cancels) == (OrderStatus.OPEN, [])

    @pytest.mark.parametrize("state", [LUNCH, CARE])
    async def test_a_row_that_is_damaged_keeps_no_other(self, room, state):
        here = await room(resting={"buy-1": "0", "buy-2": "0", "buy-3": "0"})
        for run_id, quantity in zip(
            here.venue.resting, ("1", "1.1", "1.2"), strict=True
        ):  # or they would be duplicates
            await here.submit(run_id, quantity)
        broken = text("UPDATE orders SET quantity = 'two' WHERE run_id = 'buy-1'")
        here.database.write(lambda connection: connection.execute(broken))
        swept = await here.kill.trip(state)
        assert {order.intent.run_id for order in swept.done} == {"buy-2", "buy-3"}
        assert ["is damaged" in why for why in swept.left.values()] == [True]
        assert {status for _, status, _ in here.venue.orders.values()} == {OrderStatus.CANCELLED}

    @pytest.mark.parametrize(("state", "goes"), [(LUNCH, False), (CARE, False), (None, True)])
    async def test_an_order_that_never_arrived_is_not_sent_again_after_a_trip(self, room, state, goes):
        here = await room()
        arrive, here.venue.send = here.venue.send, here.venue.cancel  # which does not know it
        with pytest.raises(BrokerUnavailable):
            await here.submit("lost")
        here.venue.send = arrive
        if state is not None:
            here.set_now(state)
        (lost,) = await here.ledger.orders("lost")
        for again in (here.submit("lost"), here.desk.go_on(lost.client_order_id)):
            with nullcontext() if goes else pytest.raises(OrderError, match="it was not sent again; resume its run"):
                await again
        assert len(here.venue.orders) == goes

    async def test_one_that_goes_on_and_arrives_after_the_sweep_does_not_stay(self, room):
        here = await room(resting={"late": "0"})
        arrive, cancel, here.venue.send = here.venue.send, here.venue.cancel, here.venue.cancel
        with pytest.raises(BrokerUnavailable):
            await here.submit("late")

        async def unknown(client_order_id):
            return None

        async def send(intent):
            here.venue.cancel = unknown
            assert await here.kill.trip(LUNCH) == Swept()
            here.venue.cancel = cancel
            return await arrive(intent)

        here.venue.send = send
        (lost,) = await here.ledger.orders("late")
        await here.desk.go_on(lost.client_order_id)
        assert await here.status("late") is OrderStatus.CANCELLED

    async def test_one_that_never_arrived_is_no_trouble(self, room):
        here = await room()

        async def cancel(client_order_id):
            return None

        here.venue.send, here.venue.cancel = here.venue.cancel, cancel
        with pytest.raises(BrokerUnavailable):
            await here.submit("lost")
        swept = await here.kill.trip(LUNCH)
        assert (swept, await here.status("lost")) == (Swept(), OrderStatus.UNKNOWN)

    async def test_a_file_cancels_with_the_next_order(self, room):
        here = await room(resting={"buy-1": "0"})
        await here.submit("buy-1", "1")
        here.file.path.write_text("the feed lies")
        denied = (await here.submit("next")).order
        assert denied.reason.startswith("trading is HALTED (the feed lies)")
        assert await here.status("buy-1") is OrderStatus.CANCELLED
        await here.submit("another")
        assert len(here.venue.cancels) == 1

    async def test_without_a_database_it_is_told_and_halted(self, room, monkeypatch):
        here = await room()

        async def away(work):
            raise StorageError("away")

        monkeypatch.setattr(here.database, "awrite", away)
        monkeypatch.setattr(here.database, "aread", away)
        assert (await here.kill.trip(LUNCH)).left == {"that the ledger cannot name": "StorageError: away"}
        await here.kill.heed()
        assert [kind for kind, _ in here.told] == ["TripFailed", "CancelFailed", "TripFailed"]
        assert here.file.read().why == "lunch"

    async def test_a_broker_at_which_nothing_rests_says_how_the_order_stands(self):
        class Plain(Venue):
            cancel = Broker.cancel

        venue = Plain()
        assert await venue.cancel("nobody") is None


async def refuse(intent):
    raise OrderRefused("no such market")


def check(name, value, limit, reason="", *, passed=False):
    return Check(name, passed, value, limit, reason)


LOSS = check("daily_loss", 0.04, 0.03, "4 % were lost today")
FALL = check("drawdown", 0.2, 0.1, "a fifth was lost")


class TestJudging:
    @pytest.mark.parametrize(
        ("checks", "state", "code"),
        [
            ((LOSS,), REDUCING, "loss_limit"),
            ((FALL,), HALTED, "drawdown"),
            ((LOSS, FALL), HALTED, "drawdown"),
            ((check("reject_streak", 6.0, 5.0, "six"),), REDUCING, "reject_streak"),
            ((check("order_rate", "99 orders", "60", "too many"),), REDUCING, "breach"),
            ((check("trading_state", "unreadable", "active", "?"),), HALTED, "unreadable_state"),
            ((check("order_size", 2.0, 1.0, "too large"),), ACTIVE, "new"),
            ((check("daily_loss", "nan", 0.03, "not a number"),), ACTIVE, "new"),
            ((), ACTIVE, "new"),
        ],
    )
    async def test_what_the_checks_trip_to(self, room, monkeypatch, checks, state, code):
        here = await room()
        monkeypatch.setattr(here.desk, "_review", lambda *_: checks)
        await here.submit()
        assert await here.state() == (state, code)
        entries = await Audit(here.database).entries()
        assert [(entry.who, entry.why) for entry in entries] == [
            ("holdfast", each.reason) for each in checks[-1:] if state is not ACTIVE
        ]

    async def test_a_limit_that_a_reducing_order_was_let_past_trips_after_it_has_gone(self, room, monkeypatch):
        here = await room()
        await here.submit("held")
        monkeypatch.setattr(here.desk, "_review", lambda *_: (check("drawdown", 0.2, 0.1, passed=True),))
        assert (await here.submit("closes", "1", Side.SELL)).order.status is OrderStatus.FILLED
        now = await here.switch.read()
        assert (now.state, now.code, now.why) == (HALTED, "drawdown", "drawdown is 0.2, above 0.1")

    async def test_an_answer_from_the_ledger_trips_nothing_again(self, room, monkeypatch):
        here = await room()
        with monkeypatch.context() as patch:
            patch.setattr(here.desk, "_review", lambda *_: (LOSS,))
            await here.submit()
        was = await here.switch.read()
        back = Trading(ACTIVE, KillSwitchReason.OPERATOR, "anna", "a new day", 9)
        assert await here.switch.release(back, instead_of=was)
        assert (await here.submit()).order.status is OrderStatus.DENIED
        assert await here.switch.read() == back

    async def test_an_order_that_is_only_wondered_about_trips_nothing(self, room, monkeypatch):
        here = await room()
        monkeypatch.setattr("checkpoints.ledger.is_dry", lambda *_: True)
        monkeypatch.setattr(here.desk, "_review", lambda *_: (LOSS,))
        assert (await here.submit()).order.status is OrderStatus.DENIED
        assert await here.state() == (ACTIVE, "new")

    async def test_it_trips_though_the_broker_gives_no_answer(self, room, monkeypatch):
        here = await room()

        async def send(intent):
            raise ConnectionError

        here.venue.send = send
        monkeypatch.setattr(here.desk, "_review", lambda *_: (check("drawdown", 0.2, 0.1, passed=True),))
        with pytest.raises(BrokerUnavailable):
            await here.submit()
        assert await here.state() == (HALTED, "drawdown")

    async def test_a_streak_of_rejections_trips_with_the_last_of_them_and_is_forgotten_when_it_was_looked_at(
        self, room
    ):
        here = await room(replace(GENEROUS, reject_streak_max=2))
        real, here.venue.send = here.venue.send, refuse
        for number in range(3):
            assert await here.state() == (ACTIVE, "new")
            assert (await here.submit(f"run-{number}", f"1.{number}")).order.status is OrderStatus.REJECTED
        assert await here.state() == (REDUCING, "reject_streak")
        denied = (await here.submit("more", "1.5")).order
        assert {each.name for each in denied.checks if not each.passed} == {"trading_state", "reject_streak"}

        here.venue.send = real
        books = Books(here.ledger, here.venue, here.switch, ReplayClock(9), Decimal(0))
        await books.activate("anna", "the key was renewed", REDUCING)
        assert await here.state() == (REDUCING, "operator")
        assert not (await here.submit("again", "1.6")).order.checks[12].passed
        await books.activate("anna", "the key was renewed")
        assert (await here.submit("and again", "1.7")).order.status is OrderStatus.FILLED
        assert await here.state() == (ACTIVE, "operator")

    async def test_one_that_is_accepted_ends_a_streak_and_one_that_is_denied_does_not(self, room):
        here = await room(replace(GENEROUS, reject_streak_max=2, order_notional_max=1_000.0))
        real = here.venue.send
        for number, send in enumerate([refuse, refuse, real, refuse, refuse]):
            here.venue.send = send
            await here.submit(f"run-{number}", f"1.{number}")
            assert (await here.submit(f"denied-{number}", "50")).order.status is OrderStatus.DENIED
        assert await here.state() == (ACTIVE, "new")
        here.venue.send = refuse
        await here.submit("third", "2")
        assert await here.state() == (REDUCING, "reject_streak")

    async def test_a_fall_from_the_peak_trips_and_the_peak_begins_anew_when_it_was_looked_at(self, room, flat):
        here = await room(replace(GENEROUS, daily_loss_share_max=1.0))
        await here.submit("in", "50", view=flat(price=100.0, last_day=19_980))
        await here.submit("up", "1", Side.SELL, view=flat(price=120.0, last_day=19_981))
        fine, fallen = flat(price=101.0, last_day=19_982), flat(price=95.0, last_day=19_983)  # 10,999 of 11,000; 9,776
        assert (await here.submit("fine", "1", Side.SELL, view=fine)).order.status is OrderStatus.FILLED
        assert await here.state() == (ACTIVE, "new")
        denied = (await here.submit("down", "1", view=fallen)).order
        assert [each.name for each in denied.checks if not each.passed] == ["drawdown"]
        now = await here.switch.read()
        assert (now.state, now.code) == (HALTED, "drawdown")
        assert "below its peak" in now.why

        await Books(here.ledger, here.venue, here.switch, ReplayClock(9), Decimal(0)).activate(
            "anna", "it was the split"
        )
        assert (await here.submit("on", "1", view=fallen)).order.status is OrderStatus.FILLED
        assert await here.state() == (ACTIVE, "operator")
        lower = flat(price=70.0, last_day=19_984)
        await here.submit("lower", "1", view=lower)
        assert await here.state() == (HALTED, "drawdown")

    async def test_a_loss_that_a_fill_makes_trips_after_it_and_not_with_the_next(self, room, flat):
        here = await room(replace(GENEROUS, daily_loss_share_max=0.01))
        real = here.venue.send

        async def dear(intent):
            report = await real(intent)
            return replace(report, fills=tuple(replace(fill, fee=Decimal(200)) for fill in report.fills))

        here.venue.send = dear
        ticket = await here.submit(view=flat(price=100.0, last_day=19_990))
        assert (ticket.order.status, ticket.order.checks[3].value) == (OrderStatus.FILLED, 0.0)
        assert await here.state() == (REDUCING, "loss_limit")

    async def test_a_days_loss_by_prices_leaves_only_the_way_out(self, room, flat):
        here = await room(RiskLimits(daily_loss_share_max=0.03, concentration_share_max=10.0, gross_share_max=10))
        await here.submit("old", "50", view=flat(price=100.0, last_day=19_990))
        fallen = flat(closes=[100.0] * 119 + [90.0], last_day=20_000)
        assert (await here.submit("more", "1", view=fallen)).order.status is OrderStatus.DENIED
        assert await here.state() == (REDUCING, "loss_limit")
        assert (await here.submit("again", "1")).order.checks[9].value == "reducing"
        assert (await here.submit("out", "50", Side.SELL, view=fallen)).order.status is OrderStatus.FILLED
        assert await here.held() == 0
        assert len(await Audit(here.database).entries()) == 1
