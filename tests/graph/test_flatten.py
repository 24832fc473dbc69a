"""Closing all positions: by orders that go the way of all orders; one that cannot be closed holds up no other."""

import json
from decimal import Decimal

import pytest

from agents.domain import OrderStatus, Side, TradingState
from agents.errors import StorageError
from agents.risk import RiskLimits
from checkpoints.audit import Audit
from graph import controls
from graph.app import open_app
from graph.flatten import flatten
from graph.runner import Market, Runner

pytestmark = pytest.mark.usefixtures("no_waiting")

OURS = {"required": ("tests.graph.test_runner:bull",), "optional": (), "gate": {"mean_r_min": -100.0}}


@pytest.fixture
async def app(settings):
    async with open_app(settings(**OURS)) as app:
        yield app


async def trade(app, *symbols, files=None):
    return await Runner(app).start_all(Market(symbols, files or {}, 7))


async def held(app, account, symbol):
    return (await app.ledger.portfolio(account)).position(symbol).quantity


async def buy(app, view, quantity, *, account="paper", run_id="by-hand", side=Side.BUY):
    """Past the graph."""
    desk = app.desk(app.settings, judged=False)
    order = await desk.submit(run_id=run_id, account=account, side=side, quantity=Decimal(quantity), view=view)
    assert order.order.status is OrderStatus.FILLED
    return order.order


@pytest.fixture
def bars(tmp_path):
    def make(price=100.0, name="X"):
        rows = [
            f"2026-01-01T{n // 60:02}:{n % 60:02}:00Z,{price},{price + 1},{price - 1},{price},1000" for n in range(200)
        ]
        path = tmp_path / f"{name}.csv"
        path.write_text("\n".join(["time,open,high,low,close,volume", *rows]) + "\n")
        return path

    return make


async def test_every_account_is_closed_by_orders_like_all_others(app):
    results = await trade(app, "ONE", "TWO")
    done = await flatten(app)
    assert done.left == {}
    assert [(order.intent.account, order.intent.symbol, order.intent.side) for order in done.orders] == [
        (result.run.account, result.run.symbol, Side.SELL) for result in results
    ]
    for order, result in zip(done.orders, results, strict=True):
        assert order == (await app.ledger.orders(order.intent.run_id))[0]
        assert order.filled == result.orders[0].filled
        assert order.intent.reference_price == result.orders[0].intent.reference_price
        assert len(order.checks) >= 15
        assert await held(app, result.run.account, result.run.symbol) == 0
    assert len(await app.broker.orders()) == 4
    assert (await app.books().compare()).differences == ()
    again = await flatten(app)
    assert (again.orders, again.left) == ([], {})


async def test_a_short_position_is_bought_back(app, flat):
    await buy(app, flat(), "3", side=Side.SELL)
    (order,) = (await flatten(app)).orders
    assert (order.intent.side, order.filled, await held(app, "paper", "SIM")) == (Side.BUY, 3, 0)


async def test_the_newest_price_of_its_market_is_asked_for_and_else_what_it_has_cost(app, bars, flat):
    path = bars()
    (result,) = await trade(app, "X", files={"X": path})
    assert result.orders[0].filled
    more = await buy(app, flat("X"), "150")  # more than a decision would take of the market at once
    bars(price=120.0)
    (order,) = (await flatten(app)).orders
    assert (order.intent.reference_price, order.filled) == (Decimal("120.0"), result.orders[0].filled + more.filled)
    path.unlink()
    bought = await buy(app, result.state["view"], "2", run_id="again")
    (order,) = (await flatten(app)).orders
    assert (order.filled, await held(app, "paper", "X")) == (2, 0)
    assert float(order.intent.reference_price) == pytest.approx(float(bought.price))


async def test_an_order_that_rests_and_would_close_some_of_it_holds_nothing_up(app, flat):
    await buy(app, flat(), "10")
    desk = app.desk(app.settings, judged=False)
    way_out = {"run_id": "target", "account": "paper", "side": Side.SELL, "view": flat()}
    rests = (await desk.submit(**way_out, quantity=Decimal(4), limit_price=Decimal(200))).order
    assert rests.status is OrderStatus.OPEN
    done = await controls._closed(app, "anna", "lunch")
    assert ([order.filled for order in done.orders], done.left) == ([10], {})
    assert (await app.ledger.order(rests.client_order_id)).status is OrderStatus.CANCELLED


async def test_a_size_that_is_capped_is_closed_by_several(app, flat):
    await buy(app, flat(), "10")
    app.settings = app.settings.model_copy(update={"risk": RiskLimits(quantity_max=4.0)})
    orders = (await flatten(app)).orders
    assert [order.filled for order in orders] == [4, 4, 2]
    assert len({order.client_order_id for order in orders}) == 3


async def test_one_that_cannot_be_closed_is_named_and_the_others_are_closed(app, flat):
    for symbol in ("BAD", "GOOD"):
        await buy(app, flat(symbol), "2", run_id=symbol)
    app.settings = app.settings.model_copy(update={"risk": RiskLimits(restricted=("BAD",))})
    done = await flatten(app)
    assert [order.intent.symbol for order in done.orders] == ["GOOD"]
    ((name, why),) = done.left.items()
    assert (name, await held(app, "paper", "BAD")) == ("2 BAD (paper)", 2)
    assert why.startswith("OrderError: 2 are left: BAD is on the restricted list")


async def test_what_cannot_be_read_is_left_and_said(app, monkeypatch):
    async def away():
        raise StorageError("away")

    monkeypatch.setattr(app.manager, "runs", away)
    assert (await flatten(app)).left == {"the positions": "StorageError: away"}


async def test_what_another_homes_broker_has_executed_is_not_ours_to_close(app, flat, monkeypatch):
    await buy(app, flat(), "2")

    async def executed():
        return {}

    monkeypatch.setattr(type(app.broker), "executed", lambda _: executed())
    done = await flatten(app)
    assert (done.orders, done.left, await held(app, "paper", "SIM")) == ([], {}, 2)


class TestHalting:
    """As a part of `halt --flatten`."""

    async def states(self, app):
        return [(entry.detail["from"], entry.detail["to"]) for entry in await Audit(app.database).entries()]

    async def halt(self, settings, **more):
        return await controls.halt(None, {"home": settings.folder}, "lunch", **more)

    async def test_it_closes_under_reducing_and_halts_then(self, settings):
        ours = settings(**OURS)
        async with open_app(ours) as app:
            (result,) = await trade(app, "ONE")
        answer = await self.halt(ours, close=True)
        assert answer.done
        assert answer.lines[1].startswith(f"closed: sell {result.orders[0].filled:f} ONE (")
        assert json.loads(json.dumps(answer.data[0]))["closed"][0]["symbol"] == "ONE"
        async with open_app(ours) as app:
            assert (await app.switch.read()).state is TradingState.HALTED
            assert await held(app, result.run.account, "ONE") == 0
            assert await self.states(app) == [("active", "reducing"), ("reducing", "halted")]
            closing = (await app.ledger.orders(answer.data[0]["closed"][0]["client_order_id"])) or (
                await app.ledger.order(answer.data[0]["closed"][0]["client_order_id"]),
            )
            assert "reducing" in {check.value for check in closing[0].checks if check.name == "trading_state"}

    async def test_a_home_that_is_halted_already_is_let_reduce_for_it(self, settings):
        ours = settings(**OURS)
        async with open_app(ours) as app:
            await trade(app, "ONE")
        await self.halt(ours)
        (ours.folder / "HALT").write_text("and by hand")
        answer = await self.halt(ours, close=True)
        assert (answer.done, len(answer.data[0]["closed"])) == (True, 1)
        async with open_app(ours) as app:
            now = await app.switch.read()
            assert (now.state, now.why) == (TradingState.HALTED, "lunch")
            assert await self.states(app) == [("active", "halted"), ("halted", "reducing"), ("reducing", "halted")]

    async def test_what_is_left_open_is_an_error_and_halted(self, settings, flat):
        ours = settings(risk={"restricted": ("SIM",)})
        async with open_app(settings()) as app:
            await buy(app, flat(), "2")
        (ours.folder / "holdfast.toml").write_text('[risk]\nrestricted = ["SIM"]\n')
        answer = await self.halt(ours, close=True)
        assert (answer.done, answer.data[0]["closed"]) == (False, [])
        assert answer.wrong[0].startswith("2 SIM (paper) was not closed: OrderError: 2 are left: SIM is on the")
        async with open_app(ours) as app:
            assert (await app.switch.read()).state is TradingState.HALTED

    async def test_losses_that_it_measures_do_not_stop_it_half_way(self, settings, flat):
        fallen = flat(price=10.0)
        async with open_app(settings()) as app:
            for run_id in ("a", "b"):
                await app.ledger.open_account(run_id, Decimal(10_000))
                await buy(app, flat(last_day=19_990), "30", account=run_id, run_id=run_id)
            await buy(app, fallen, "20", account="a", run_id="out", side=Side.SELL)  # a fall of 18 %
        answer = await self.halt(settings(), close=True)
        assert (answer.done, len(answer.data[0]["closed"])) == (True, 2)
