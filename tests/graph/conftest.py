"""What tests of the running parts share: a market view, settings of a home, and no waiting between attempts."""

from decimal import Decimal

import pytest

from agents.clock import ReplayClock
from agents.domain import (
    Check,
    Finding,
    MarketView,
    Order,
    OrderIntent,
    OrderStatus,
    Outage,
    Outcome,
    PolicyAnswer,
    Portfolio,
    Position,
    Side,
    Synthesis,
    TradePlan,
    TradingAction,
    Verdict,
)
from checkpoints.events import Entry
from checkpoints.runs import CheckpointRow, Run, RunStatus
from graph.app import open_app
from graph.config import load_settings
from graph.resilience import Guard
from graph.result import RunResult

DAY_NS = 86_400_000_000_000


@pytest.fixture
def no_waiting():
    """Retries begin at once."""
    with Guard.testing():
        yield


@pytest.fixture
def flat():
    """Make a view of 120 daily bars at one price, so that nothing throttles an order."""

    def make(symbol="SIM", price=100.0, *, closes=None, last_day=20_000, **more):
        prices = tuple(closes) if closes is not None else (price,) * 120
        times = tuple((last_day - len(prices) + 1 + day) * DAY_NS for day in range(len(prices)))
        columns = dict.fromkeys(("open", "high", "low", "close"), prices)
        return MarketView(symbol, DAY_NS, times, **columns, **({"price_step": Decimal("0.01")} | more))

    return make


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Load settings of a home of this test, with nothing from outside."""
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))

    def load(**flags):
        return load_settings(None, **({"home": tmp_path / "home"} | flags))

    return load


HOSTILE = "[/red] [bold] <script>alert(1)</script> | \\| \n## Owned\r\x1b[31m\x00 \u202e ü"
"""What an analyst, a venue or an exception could say."""


@pytest.fixture
def hostile():
    return HOSTILE


@pytest.fixture
def make_result():
    """Make the result of a run that bought 2 SIM, in which everybody's text is `text`."""

    def make(text="fine", *, status=RunStatus.FINISHED, value=1.0, **more):
        check = Check("coverage", passed=True, value=value, limit=0.6, reason=text)
        intent = OrderIntent.derive(
            run_id="trade-SIM-1",
            account="paper",
            symbol="SIM",
            side=Side.BUY,
            quantity=Decimal("2.5"),
            reference_price=Decimal(100),
            reference_ns=DAY_NS,
        )
        order = Order(
            intent, OrderStatus.FILLED, Decimal("2.5"), Decimal("100.02"), Decimal("0.1"), "b1", text, (check,)
        )
        plan = TradePlan("SIM", TradingAction.BUY, 0.2, Decimal("2.5"), Decimal(100), Decimal(90), reasons=(text,))
        findings = [
            Finding("trend", 0.5, 0.5, text, {"slope": 0.125}),
            Outage("volume", required=False, error=text),
        ]
        state = {
            "findings": findings,
            "synthesis": Synthesis(0.5, 0.5, 1.0, 0.5, 1, ("volume",)),
            "plan": plan,
            "verdict": Verdict(Outcome.APPROVE, (check,)),
            "policy": PolicyAnswer("demo", "mlp", TradingAction.BUY, text, 4.5, is_fallback=False),
            "orders": [order],
            "notes": [text],
        }
        error = text if status is RunStatus.FAILED else ""
        run = Run("trade-SIM-1", "trade", "SIM", DAY_NS, "paper", status, {}, {}, error, 0, 0)
        detail = {"error": text, "seconds": 0.5, "open_seconds": float("inf"), "failed": [text], "none": None}
        given = {
            "run": run,
            "state": state,
            "orders": (order,),
            "portfolio": Portfolio("paper", Decimal(1000), (Position("SIM", Decimal("2.5"), Decimal(100)),)),
            "checkpoints": (CheckpointRow("c1", "2026-01-01T00:00:00", "start"), CheckpointRow("c2", "", "end")),
            "timeline": (Entry("trade-SIM-1", DAY_NS, "RunStarted"), Entry("trade-SIM-1", 0, "Failed", text, detail)),
        }
        return RunResult(**(given | more))

    return make


@pytest.fixture
async def floor(settings, tmp_path):
    """Make floors to trade on, each in a home of its own; see `tests.graph.floor`."""
    from tests.graph.floor import GENEROUS, START_NS, Floor, Says, agent_of

    opened = []

    async def make(policy=None, *, agent=None, risk=GENEROUS, options=None, **flags):
        clock = ReplayClock(START_NS)
        home = tmp_path / f"home-{len(opened)}"
        manager = open_app(settings(home=home, risk=risk, **flags), clock=clock)
        opened.append(manager)
        app = await manager.__aenter__()
        return Floor(app, clock, agent or agent_of(policy or Says()), **(options or {}))

    yield make
    for manager in opened:
        await manager.__aexit__(None, None, None)
