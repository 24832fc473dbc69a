"""The desk's broker at the simulated exchange: whatever goes wrong, nothing is lost, and nothing executed twice."""

import asyncio
import traceback
from decimal import Decimal
from functools import partial

import pytest

from agents.domain import OrderStatus, Side, TradingState
from agents.errors import BrokerUnavailable, ConfigError, HoldfastError, OrderRefused
from graph.spot.broker import ExchangeBroker, follow
from tests.graph.spot.world import BTC, intent_of, play, terms_of

OPEN, FILLED, CANCELLED = OrderStatus.OPEN, OrderStatus.FILLED, OrderStatus.CANCELLED
PLACE, ETH = "order.place", "ETHUSDT"


async def trade(world):
    """Decisions that come to orders of all types, some cancelled; then each is made again, as after a crash."""
    price, decisions = world.price, {}

    async def decide(quantity, side=Side.BUY, **prices):
        name = f"d-{len(decisions)}"
        decisions[name] = (quantity, side, prices)
        return await world.tried(quantity, side, run_id=name, **prices)

    await decide("0.1")
    await decide("0.05", Side.SELL)
    resting = await decide("0.02", limit_price=price - 2000)
    near = await decide("0.3", limit_price=price - 1)
    await decide("0.02", stop_price=price + 3)
    await decide("0.02", stop_price=price + 3, limit_price=price + 10)
    await asyncio.sleep(3)
    for order in filter(None, (resting, near)):
        await world.insist(partial(world.desk.cancel, order.client_order_id))
    await world.settle()
    await world.check()
    for name, (quantity, side, prices) in decisions.items():
        await world.tried(quantity, side, run_id=name, **prices)
    await world.settle()
    return await world.check()


@pytest.mark.parametrize("seed", [3, 4])
def test_on_a_good_day(seed):
    known = play(trade, seed=seed)
    assert len(known) == 6


FAULTS = {
    "lost": {"kind": "lost", "rate": 0.3},
    "drop_ack": {"kind": "drop_ack", "rate": 0.3},
    "ack_503": {"kind": "ack_503", "rate": 0.3},
    "ack_1006": {"kind": "ack_1006", "rate": 0.3},
    "ack_1007": {"kind": "ack_1007", "rate": 0.3},
    "garble": {"kind": "garble", "rate": 0.3},
    "slow": {"kind": "slow", "rate": 0.3, "seconds": 15.0},
    "unavailable": {"kind": "unavailable", "rate": 0.3},
    "overload": {"kind": "overload", "rate": 0.3},
    "limit": {"kind": "limit", "rate": 0.1, "seconds": 3.0},
    "ban": {"kind": "ban", "rate": 0.05, "seconds": 20.0},
    "order_limit": {"kind": "order_limit", "rate": 0.3},
    "skew": {"kind": "skew", "rate": 0.2, "seconds": 10.0},
    "skew_back": {"kind": "skew", "rate": 0.2, "seconds": -10.0},
    "fill_on_cancel": {"kind": "fill_on_cancel"},
    "late_fill": {"kind": "late_fill", "seconds": 2.0},
    "duplicate": {"kind": "duplicate", "on": "user"},
    "delay": {"kind": "delay", "on": "user", "rate": 0.3, "seconds": 7.0},
    "gap": {"kind": "gap", "on": "user", "rate": 0.4},
    "reorder": {"kind": "reorder", "on": "user", "rate": 0.4},
    "corrupt": {"kind": "corrupt", "on": "user", "rate": 0.4},
    "truncate": {"kind": "truncate", "on": "user", "rate": 0.4},
    "reset": {"kind": "reset", "on": "user", "rate": 0.2},
    "zombie": {"kind": "zombie", "on": "user", "rate": 0.2},
    "half_open": {"kind": "half_open", "on": "user", "rate": 0.2},
    "refuse": {"kind": "refuse", "nth": 1},
    "cut": {"kind": "cut", "seconds": 5.0},
    "shutdown": {"kind": "shutdown", "on": "user", "rate": 0.1, "seconds": 1.0},
}


@pytest.mark.parametrize("name", FAULTS)
def test_nothing_is_lost_and_nothing_twice(name):
    async def story(world):
        known = await trade(world)
        return known, dict(world.menu.struck)

    known, struck = play(story, FAULTS[name])
    assert struck, "the fault never struck"
    left = {str(each.status) for each in known.values()}
    assert not left & {"sending", "unknown", "pending"}, left


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_lost_where_everything_goes_wrong(seed):
    async def story(world):
        await trade(world)
        return world.menu.struck

    rare = [fault | {"rate": 0.03} for name, fault in FAULTS.items() if name not in {"ban", "refuse", "cut"}]
    assert len(play(story, *rare, seed=seed)) >= 5


def test_two_symbols_whose_trades_have_the_same_numbers():
    async def story(world):
        for symbol in (BTC, ETH):
            for side in Side:
                await world.submit("0.1", side, symbol=symbol)
        await world.settle(10)
        return await world.check(BTC, ETH)

    assert len(play(story, symbols=(BTC, ETH))) == 4


@pytest.mark.parametrize("skew", [-3_600.0, -6.0, 6.0, 3_600.0])
def test_a_clock_that_is_off(skew):
    async def story(world):
        order = (await world.submit()).order
        return order.status, world.broker.offset_ns / 1e9

    status, offset = play(story, skew_s=skew)
    assert status is FILLED
    assert offset == pytest.approx(-skew, abs=0.1)


def test_after_1021_the_next_order_goes_with_the_time_corrected():
    async def story(world):
        world.broker._time.offset_ns += 10**13
        first = (await world.submit(run_id="r")).order
        again = (await world.submit(run_id="r")).order
        return first, again, world.http.asked.count("POST order")

    first, again, sent = play(story)
    assert (first.status, again.status, sent) == (OrderStatus.NOT_PLACED, FILLED, 2)
    assert first.reason.startswith("the exchange answered -1021 Timestamp for this request")
    assert again.client_order_id == f"{first.client_order_id}-2"


def test_orders_beyond_the_budget_are_refused_here():
    async def story(world):
        tickets = [await world.submit("0.001") for _ in range(101)]
        return [ticket.order for ticket in tickets], world.http.asked.count("POST order"), await world.check()

    orders, sent, known = play(story)
    beyond = [order for order in orders if order.status is OrderStatus.NOT_PLACED]
    assert (sent + len(beyond), len(known)) == (101, 101)
    assert all(order.reason.startswith("100 orders in 10s are used up, for another") for order in beyond)
    assert beyond


def test_what_was_certainly_not_placed_is_not_asked_for():
    async def story(world):
        order = (await world.submit()).order
        world.http.asked.clear()
        for _ in range(20):
            await world.reconciler.once(compare=False)
        return order.status, world.http.asked

    assert play(story, {"kind": "order_limit", "on": PLACE}, follows=False) == (OrderStatus.NOT_PLACED, [])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"quantity": "0.000001"}, "quantity 0 is below 0.00001, the least that the venue takes"),
        ({"quantity": "0.00001"}, "it is worth 0.4"),
        ({"limit_price": Decimal("0.001")}, "limit 0 is below 0.01"),
    ],
)
def test_what_is_too_little_is_refused_before_it_is_an_order(changes, why):
    async def story(world):
        ticket = await world.submit(**changes)
        return ticket, await world.ledger.executed(), world.http.asked.count("POST order")

    ticket, known, sent = play(story)
    assert (ticket.order, known, sent) == (None, {}, 0)
    assert any(reason.startswith(why) for reason in ticket.reasons)


def test_the_ledger_knows_what_was_sent():
    async def story(world):
        ticket = await world.submit("0.1234567", limit_price=Decimal("39000.0049"))
        (placed,) = world.placed()
        return ticket, placed

    ticket, placed = play(story)
    intent = ticket.order.intent
    assert (intent.quantity, intent.limit_price) == (Decimal("0.12345"), Decimal(39000))
    assert (placed.quantity, placed.price) == (12_345_000, 39_000 * 10**8)
    assert "limit 39000.0049 became 39000, which the venue takes" in ticket.reasons


class TestDirectly:
    """What the desk would not do."""

    @pytest.mark.parametrize(
        ("intent", "why"),
        [
            (intent_of("0.123456"), "quantity 0.123456 is no multiple of 0.00001"),
            (intent_of("0.1", limit_price=Decimal("39000.001")), "limit 39000.001 is no multiple of 0.01"),
            (intent_of("0.1", symbol="DOGEUSDT"), "DOGEUSDT is not traded here"),
            (intent_of("1000", side=Side.SELL), "-2010 Account has insufficient balance"),
            (intent_of("0.1", stop_price=Decimal(39_000)), "-2010 Order would trigger immediately"),
            (intent_of("0.1", limit_price=Decimal(500_000)), "-1013 Filter failure: PERCENT_PRICE_BY_SIDE"),
        ],
    )
    def test_what_is_refused_for_good(self, intent, why):
        async def story(world):
            with pytest.raises(OrderRefused, match=why):
                await world.broker.send(intent)
            return await world.broker.find(intent.intent_id)

        assert play(story) is None

    def test_an_id_that_is_open_there_already_is_asked_for(self):
        async def story(world):
            intent = intent_of("0.1", limit_price=Decimal(39_000))
            await world.broker.send(intent)
            with pytest.raises(BrokerUnavailable, match="it was not sent again; ask for it"):
                await world.broker.send(intent)
            return (await world.broker.find(intent.intent_id)).status

        assert play(story) is OPEN

    @pytest.mark.parametrize(
        ("prices", "kind"),
        [
            ({}, "MARKET"),
            ({"limit_price": Decimal(39_000)}, "LIMIT"),
            ({"stop_price": Decimal(50_000)}, "STOP_LOSS"),
            ({"stop_price": Decimal(50_000), "limit_price": Decimal(51_000)}, "STOP_LOSS_LIMIT"),
        ],
    )
    def test_the_types(self, prices, kind):
        async def story(world):
            intent = intent_of("0.1", **prices)
            report = await world.broker.send(intent)
            (placed,) = world.placed()
            return intent.intent_id == placed.client_id, placed.type, placed.tif, report, placed.number

        same, found, tif, report, number = play(story)
        assert (same, found, tif) == (True, kind, "GTC")
        assert (report.status, report.broker_order_id) == (FILLED if kind == "MARKET" else OPEN, str(number))

    def test_whatever_is_asked_first_begins(self):
        async def story(world):
            asks = ("executed", "holdings", "resting")
            for ask in asks:
                fresh = world.open()
                with pytest.raises(BrokerUnavailable, match="await `begin` first"):
                    fresh.grid(BTC)
                with pytest.raises(BrokerUnavailable, match="await `begin` first"):
                    await fresh.send(intent_of())
                await getattr(fresh, ask)()
                assert fresh.grid(BTC) == world.broker.grid(BTC)
            fresh = world.open()
            asked = await asyncio.gather(*(getattr(fresh, ask)() for ask in asks))
            return len(asked), world.http.asked.count("GET exchangeInfo")

        assert play(story) == (3, 5)

    def test_a_symbol_that_is_not_there(self):
        async def story(world):
            with pytest.raises(ConfigError, match="NOPEUSDT is not traded at the exchange"):
                await world.open(symbols=("NOPEUSDT",)).begin()

        play(story)

    def test_an_order_of_another_symbol_is_found_where_the_ledger_says_it_is(self):
        async def story(world):
            order = (await world.submit(symbol=ETH)).order
            other = world.open(symbols=(BTC,))
            await other.begin()
            return (await other.find(order.client_order_id)).status

        assert play(story, symbols=(BTC, ETH)) is FILLED

    def test_what_was_never_seen(self):
        async def story(world):
            return await world.broker.find("hf" + "a" * 26), await world.broker.cancel("hf" + "a" * 26)

        assert play(story) == (None, None)

    def test_what_rests_and_what_was_executed(self):
        async def story(world):
            filled = (await world.submit("0.2", Side.SELL)).order
            open_ = (await world.submit("0.1", limit_price=Decimal(39_000))).order
            broker = world.broker
            found = await broker.resting(), await broker.executed(), await broker.holdings()
            return (*found, filled.client_order_id, open_.client_order_id, await broker.intent("x"))

        resting, executed, holdings, filled, open_, intent = play(story)
        assert resting == {open_: BTC}
        assert executed == {filled: (BTC, Decimal("-0.2"))}
        assert holdings == {BTC: Decimal("-0.2")}
        assert intent is None

    def test_what_was_filled_after_its_cancellation_is_executed_once_it_was_found(self):
        async def story(world):
            order = (await world.submit("0.2", limit_price=Decimal(39_000))).order
            await world.desk.cancel(order.client_order_id)
            before = await world.broker.executed()
            (placed,) = world.placed()
            world.engine.fill_late(placed, placed.left, world.exchange.agenda.now_ms)
            found = await world.broker.find(order.client_order_id)
            return before, found.status, (await world.broker.executed())[order.client_order_id]

        assert play(story, follows=False) == ({}, FILLED, (BTC, Decimal("0.2")))

    def test_trades_of_strangers_and_withdrawals_differ(self):
        async def story(world):
            await world.submit("0.2")
            assert (await world.reconciler.once()).found.agrees
            world.exchange.venue.accounts[world.client.key].balance("BTC").free -= 10**8
            done = await world.reconciler.once()
            return done.found.holdings, done.trading.state

        (held,), state = play(story)
        assert (held.ledger, held.broker, state) == (Decimal("0.2"), Decimal("-0.8"), TradingState.HALTED)

    def test_it_is_said_to_be_not_idempotent(self):
        assert ExchangeBroker.idempotent is False


class TestRestart:
    """A process that begins anew knows nothing but its ledger."""

    def test_an_order_whose_answer_was_lost_is_found_by_the_next_process(self):
        async def story(world):
            assert await world.tried("0.1") is None
            again = world.open()
            await again.begin()
            (order,) = await world.ledger.unsettled()
            report = await again.find(order.client_order_id)
            await world.ledger.record(order.client_order_id, report)
            await world.check()
            return report.status

        assert play(story, {"kind": "drop_ack", "on": PLACE}, follows=False) is FILLED


CANARIES = ("canary-key-5f2a", "canary-secret-7b1c")


@pytest.mark.parametrize("fault", [None, "lost", "garble", "ack_503", "skew", "limit", "reset"])
def test_neither_key_nor_secret_is_ever_told(fault, caplog, capfd):
    async def story(world):
        account = world.client
        accounts = world.exchange.venue.accounts
        theirs = accounts.pop(account.key)
        theirs.key, theirs.secret = CANARIES
        accounts[theirs.key] = theirs
        world.client.key, world.client.secret = CANARIES
        world.broker = world.open()
        told = [repr(vars(world.broker)), repr(terms_of(world.client))]
        texts = []
        following = asyncio.create_task(follow(world.broker, world.ledger, world.tell))
        for ask in (
            world.broker.begin, world.broker.executed, world.broker.holdings, world.broker.resting,
            lambda: world.broker.send(intent_of()), lambda: world.broker.send(intent_of("1000", side=Side.SELL)),
            lambda: world.broker.find(intent_of().intent_id), lambda: world.broker.cancel(intent_of().intent_id),
        ):  # fmt: skip
            try:
                told.append(repr(await ask()))
            except HoldfastError as error:
                texts += [str(error), *traceback.format_exception(error)]
            await asyncio.sleep(1)
        following.cancel()
        return [*told, *texts, repr(world.notices), repr(world.told)]

    faults = [] if fault is None else [FAULTS[fault] | {"rate": 0.6}]
    told = play(story, *faults, follows=False)
    out = capfd.readouterr()
    whole = "\n".join([*told, caplog.text, out.out, out.err])
    assert len(told) > 8
    assert not [canary for canary in CANARIES if canary in whole]
