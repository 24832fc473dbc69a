"""What tests of the execution loop share: markets, plans, policies, and a floor to trade on."""

from collections.abc import Callable
from decimal import Decimal

from agents.domain import Bar, MarketView, Outcome, TradePlan, TradingAction, Verdict
from agents.policy import ExecutionAgent
from graph.execution_loop import HOOKS, ExecutionLoop
from graph.mandate import Mandate
from tests.graph.test_workflow import stand_in

HOLD, BUY, SELL = TradingAction
MINUTE_NS = 60 * 10**9
HOUR_NS = 60 * MINUTE_NS
START_NS = 20_000 * 86_400 * 10**9
APPROVED = Verdict(Outcome.APPROVE, ())
GENEROUS = {"concentration_share_max": 10.0, "position_notional_max": 1e9, "gross_share_max": 10}


def view_of(symbol="SIM", *, bars=120, price=100.0, period_ns=MINUTE_NS, **more):
    """Bars at one price, the newest at START_NS."""
    times = tuple(START_NS - (bars - 1 - number) * period_ns for number in range(bars))
    columns = dict.fromkeys(("open", "high", "low", "close"), (price,) * bars)
    return MarketView(symbol, period_ns, times, **columns, **more)


def bar_of(number, price="100", symbol="SIM", *, volume=None, period_ns=MINUTE_NS):
    """The bar so many periods after START_NS."""
    amount = None if volume is None else Decimal(volume)
    return Bar(symbol, START_NS + number * period_ns, *[Decimal(price)] * 4, amount)


def plan_of(action=BUY, quantity="2", symbol="SIM", **more):
    given = {"entry": Decimal(100), "horizon_bars": 20, "as_of_ns": START_NS, "reasons": ("so it is",)} | more
    weight = {BUY: 0.2, SELL: -0.2, HOLD: 0.0}[action]
    return TradePlan(symbol, action, weight, Decimal(quantity if action is not HOLD else 0), **given)


def mandate_of(*given, run_id="run-1", decision=0, **more):
    return Mandate(plan_of(*given, **more), APPROVED, run_id, "paper", decision)


class Says:
    """A policy that always wants the same; `before` is called first."""

    policy_id = "says"

    def __init__(self, action=BUY, before: Callable[[], None] = lambda: None):
        self.action = action
        self.before = before
        self.calls = 0

    def predict(self, observation, deterministic=True):
        self.before()
        self.calls += 1
        return self.action, {
            "policy_id": self.policy_id,
            "policy_type": "test",
            "action_reason": "it says so",
            "latency_us": 1.0,
            "is_fallback": False,
            "prediction_count": self.calls,
        }


def agent_of(policy, **options):
    """An agent that a busy machine does not make late."""
    return ExecutionAgent(policy, **({"deadline_us": 1e9, "alert": lambda what, why: None} | options))


class Floor:
    """An application with a venue of its own, a loop, and what its hooks heard."""

    def __init__(self, app, clock, agent, **options):
        self.app = app
        self.clock = clock
        self.venue = stand_in(app)
        self.told = []
        self.events = []
        given = {"bar_period": 60.0, "tell": lambda kind, detail: self.told.append((kind, detail))} | options
        self.loop = ExecutionLoop(agent, app.desk(app.settings), app.ledger, clock, **given)

    async def begin(self, *given, view=None, **more):
        """Watch, and approve a plan."""
        view = view or view_of()
        await self.loop.watch(view)
        self.loop.approve(mandate_of(*given, **more))
        return self

    def listen(self):
        """Hear all hooks."""
        for name in HOOKS:
            self.loop.add_hook(name, lambda *given, name=name: self.events.append((name, *given)))

    async def tick(self, number=1, price="100", symbol="SIM", **more):
        """The bar so many minutes on comes in, as it closes."""
        bar = bar_of(number, price, symbol, **more)
        self.clock.advance_to(max(bar.close_ns, self.clock.now_ns()))
        return await self.loop.on_bar(bar)

    async def orders(self, run_id="run-1"):
        return await self.app.ledger.orders(run_id)

    async def held(self, symbol="SIM"):
        return (await self.loop.portfolio("paper")).position(symbol).quantity
