"""The nodes: each asks its agent, and whatever goes wrong with that ends in a decision that risks less."""

import asyncio
import threading
from dataclasses import replace
from decimal import Decimal

import pytest

from agents.domain import (
    Check,
    Finding,
    OrderStatus,
    Outage,
    Outcome,
    Portfolio,
    Side,
    Synthesis,
    TradingAction,
    Verdict,
)
from agents.errors import CriticalDegradation
from agents.quality import GateSettings, unreviewed
from agents.research import Member
from agents.strategist import StrategySettings, hold_plan
from graph.desk import Ticket
from graph.feed import SimulatedFeed
from graph.nodes import TradeNodes, account_of, after_gate, hold_fallback, reject_fallback
from graph.policy_keeper import PolicyKeeper
from graph.resilience import Guard
from graph.state import by_analyst

pytestmark = pytest.mark.usefixtures("no_waiting")
CONFIG = {"configurable": {"thread_id": "run-1"}}


class Says:
    """An analyst that says what it was made to say."""

    def __init__(self, name, answer=None):
        self.name = name
        self.answer = answer or Finding(name, 0.5, 0.5, "so it is")

    def __call__(self, view):
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class SaysLater(Says):
    async def __call__(self, view):
        await asyncio.sleep(0)
        return super().__call__(view)


class Hangs(Says):
    async def __call__(self, view):
        await asyncio.Event().wait()


class Books:
    """A ledger of one account, as far as the nodes ask it."""

    def __init__(self):
        self.opened = []
        self.kept = ()

    async def orders(self, run_id):
        return self.kept

    async def open_account(self, account, cash):
        self.opened.append((account, cash))

    async def portfolio(self, account):
        return Portfolio(account, Decimal(10_000))


class Desk:
    def __init__(self):
        self.asked = []

    async def submit(self, **order):
        self.asked.append(order)
        return Ticket(None, ("throttled",))


@pytest.fixture(scope="module")
def view():
    return SimulatedFeed(7, symbols=("SIM",)).view("SIM")


@pytest.fixture
def make(view):
    def make(*members, needs_market=(), feed=None, **guard):
        options = {"attempt_timeout": 0.05, "accept": None} | guard
        return TradeNodes(
            feed=feed or SimulatedFeed(7),
            members=[Member(each, required=True, needs_market=each.name in needs_market) for each in members],
            guards={
                each.name: Guard(
                    each.name,
                    **options
                    | {"accept": lambda answer, name=each.name: isinstance(answer, Finding) and answer.analyst == name},
                )
                for each in members
            },
            strategy_settings=StrategySettings(),
            gate_settings=GateSettings(),
            policy=PolicyKeeper("rule", "", print),
            desk=Desk(),
            ledger=Books(),
            now_ns=lambda view: view.as_of_ns,
            cash=Decimal(10_000),
        )

    return make


def state_of(view, **more):
    synthesis = Synthesis(0.5, 0.5, 1.0, 1.0)
    state = {"symbol": "SIM", "decision": 0, "view": view, "portfolio": Portfolio("p", Decimal(10_000))}
    return state | {"synthesis": synthesis} | more


class TestResearch:
    async def test_what_the_caller_gave_stays(self, make, view):
        update = await make(Says("a")).research({"symbol": "SIM", "view": view, "portfolio": 1}, CONFIG)
        assert update == {"decision": 0, "verdict": None, "policy": None, "orders": [], "notes": []}

    async def test_what_is_missing_is_got(self, make):
        nodes = make(Says("a"))
        update = await nodes.research({"symbol": "SIM"}, CONFIG)
        assert (update["view"].symbol, update["portfolio"].account) == ("SIM", "run-1")
        assert nodes.ledger.opened == [("run-1", Decimal(10_000))]

    async def test_a_thread_that_is_asked_again_decides_anew(self, make, view):
        state = state_of(view, verdict=unreviewed("old"), orders=["old"])
        update = await make(Says("a")).research(state, CONFIG)
        assert (update["decision"], update["verdict"], update["orders"]) == (1, None, [])
        assert update["portfolio"].account == "run-1"

    def test_who_needs_a_market_is_asked_only_where_there_is_one(self, make, view):
        nodes = make(Says("a"), Says("b"), needs_market={"b"})
        assert [send.arg["analyst"] for send in nodes.ask_members({"view": view})] == ["a"]
        pair = SimulatedFeed(7, symbols=("SIM", "B")).view("SIM")
        assert [send.arg["analyst"] for send in nodes.ask_members({"view": pair})] == ["a", "b"]


class TestAnalyst:
    async def ask(self, nodes, view, name="a"):
        (answer,) = (await nodes.analyst({"analyst": name, "view": view}, CONFIG))["findings"]
        return answer

    @pytest.mark.parametrize("kind", [Says, SaysLater])
    async def test_a_finding(self, make, view, kind):
        assert await self.ask(make(kind("a")), view) == Finding("a", 0.5, 0.5, "so it is")

    @pytest.mark.parametrize("kind", [Says, SaysLater])
    @pytest.mark.parametrize(
        ("answer", "told"),
        [
            (ValueError("no data"), "ValueError: no data"),
            (ConnectionError("dead"), "ConnectionError: dead"),
            (StopIteration(), "RuntimeError"),
            ("rubbish", "UnusableAnswer: analyst a returned str ('rubbish')"),
            ({"stance": 1.0}, "UnusableAnswer"),
            (Finding("other", 1.0, 1.0, "I am somebody else"), "a finding named 'other'"),
        ],
    )
    async def test_whatever_else_comes_is_an_outage(self, make, view, kind, answer, told):
        outage = await self.ask(make(kind("a", answer)), view)
        assert isinstance(outage, Outage)
        assert (outage.analyst, outage.required) == ("a", True)
        assert told in outage.error

    async def test_one_that_hangs(self, make, view):
        outage = await self.ask(make(Hangs("a"), retry=None), view)
        assert "AgentTimeout: 'a' gave no answer within 0.05 s" in outage.error

    async def test_a_long_story_is_cut(self, make, view):
        assert len((await self.ask(make(Says("a", ValueError("x" * 10_000))), view)).error) == 500

    async def test_cancellation_is_nobodys_outage(self, make, view):
        nodes = make(Hangs("a"), attempt_timeout=None)
        task = asyncio.create_task(nodes.analyst({"analyst": "a", "view": view}, CONFIG))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


class TestSynthesis:
    async def test_a_third_of_the_required_missing_is_critical(self, make, view):
        nodes = make(*(Says(name) for name in "abc"))
        findings = [Finding("a", 0.5, 0.5, ""), Finding("b", 0.5, 0.5, ""), Outage("c", required=True, error="dead")]
        with pytest.raises(CriticalDegradation, match=r"1 of 3 required analysts failed .*c: dead"):
            await nodes.synthesis({"view": view, "findings": findings}, CONFIG)

    async def test_a_quarter_is_not(self, make, view):
        nodes = make(*(Says(name) for name in "abcd"))
        findings = [Finding(name, 0.5, 0.5, "") for name in "abc"] + [Outage("d", required=True, error="dead")]
        synthesis = (await nodes.synthesis({"view": view, "findings": findings}, CONFIG))["synthesis"]
        assert (synthesis.missing, synthesis.level) == (("d",), 1)

    async def test_who_observes_hears_how_much_is_missing(self, make, view):
        heard = []
        nodes = replace(make(*(Says(name) for name in "abcd")), observers=(heard.append,))
        findings = [Finding(name, 0.5, 0.5, "") for name in "abcd"]
        await nodes.synthesis({"view": view, "findings": findings}, CONFIG)
        assert not heard, "nobody is missing"
        findings[3] = Outage("d", required=True, error="dead")
        await nodes.synthesis({"view": view, "findings": findings}, CONFIG)
        findings[2] = Outage("c", required=True, error="dead")
        with pytest.raises(CriticalDegradation):
            await nodes.synthesis({"view": view, "findings": findings}, CONFIG)
        assert [(event.level, event.failed) for event in heard] == [(1, ("d",)), (2, ("c", "d"))]

    async def test_one_that_never_reported_is_missing(self, make, view):
        nodes = make(Says("a"), Says("b"))
        with pytest.raises(CriticalDegradation, match="b: no report"):
            await nodes.synthesis({"view": view, "findings": [Finding("a", 0.5, 0.5, "")]}, CONFIG)


class TestPlanning:
    async def test_the_first_plan_and_the_revised_one(self, make, view):
        nodes = make(Says("a"))
        plan = (await nodes.strategy(state_of(view), CONFIG))["plan"]
        assert (plan.action, plan.revision) == (TradingAction.BUY, 0)
        verdict = Verdict(Outcome.REVISE, (Check("size", passed=False, value=1.0, limit=0.5),))
        again = (await nodes.strategy(state_of(view, plan=plan, verdict=verdict), CONFIG))["plan"]
        assert again.revision == 1

    async def test_a_rejection_leaves_its_reasons(self, make, view):
        nodes = make(Says("a"))
        state = state_of(view, synthesis=Synthesis(0.5, 0.5, 1.0, 0.1, 2, ("b",)))
        state |= await nodes.strategy(state, CONFIG)
        update = await nodes.quality_gate(state, CONFIG)
        assert update["verdict"].outcome is Outcome.REJECT
        assert any("only 10% of the analysts answered" in note for note in update["notes"])

    async def test_fallbacks_risk_nothing(self, view):
        plan = (await hold_fallback(state_of(view), CONFIG))["plan"]
        assert (plan.action, plan.quantity) == (TradingAction.HOLD, 0)
        update = await reject_fallback(state_of(view), CONFIG)
        assert update["verdict"].outcome is Outcome.REJECT
        assert update["notes"] == ["the quality gate could not be reached: nothing is approved"]

    @pytest.mark.parametrize(
        ("verdict", "way"),
        [
            (Verdict(Outcome.APPROVE, ()), "execution"),
            (Verdict(Outcome.REVISE, ()), "strategy"),
            (unreviewed("broken"), "end"),
            (None, "end"),
        ],
    )
    def test_where_a_verdict_leads(self, verdict, way):
        assert after_gate({"verdict": verdict}) == way


class TestExecution:
    async def planned(self, nodes, view):
        state = state_of(view)
        state |= await nodes.strategy(state, CONFIG)
        return state | {"verdict": Verdict(Outcome.APPROVE, ())}

    async def test_an_approved_plan_goes_to_the_desk(self, make, view):
        nodes = make(Says("a"))
        state = await self.planned(nodes, view)
        config = {"configurable": {"thread_id": "run-1", "account": "paper"}}
        update = await nodes.execution(state | {"decision": 3}, config)
        (order,) = nodes.desk.asked
        assert (order["run_id"], order["account"], order["decision"], order["side"]) == ("run-1", "paper", 3, Side.BUY)
        assert order["quantity"] == state["plan"].quantity
        answer = update.pop("policy")
        assert (answer.policy_id, answer.action, answer.is_fallback) == ("rule_plan", TradingAction.BUY, False)
        assert update == {"orders": [], "notes": ["throttled"]}

    @pytest.mark.parametrize("verdict", [None, unreviewed("no"), Verdict(Outcome.REVISE, ())])
    async def test_nothing_else_does(self, make, view, verdict):
        nodes = make(Says("a"))
        update = await nodes.execution(await self.planned(nodes, view) | {"verdict": verdict}, CONFIG)
        assert (nodes.desk.asked, update["orders"]) == ([], [])
        assert "has not approved" in update["notes"][0]

    async def test_a_plan_that_holds_orders_nothing(self, make, view):
        nodes = make(Says("a"))
        state = await self.planned(nodes, view) | {"plan": hold_plan(view, "no view")}
        assert (await nodes.execution(state, CONFIG))["orders"] == []
        assert nodes.desk.asked == []


class TestPolicy:
    """What another policy than the rule does to an approved plan."""

    async def executed(self, make, view, policy, kept=(), decision=0):
        nodes = replace(make(Says("a")), policy=policy)
        nodes.ledger.kept = kept
        state = state_of(view, decision=decision)
        state |= await nodes.strategy(state, CONFIG) | {"verdict": Verdict(Outcome.APPROVE, ())}
        return await nodes.execution(state, CONFIG), nodes.desk.asked

    async def test_one_that_holds(self, make, view):
        update, asked = await self.executed(make, view, PolicyKeeper("hold-cash", "", print))
        assert (asked, update["orders"]) == ([], [])
        assert (update["policy"].policy_type, update["policy"].is_fallback) == ("hold_cash", False)
        assert update["notes"] == ["the policy hold_cash holds: hold_cash"]

    async def test_a_bundle_that_cannot_be_used_says_why(self, make, view, tmp_path):
        told = []
        keeper = PolicyKeeper(str(tmp_path / "gone"), "", lambda what, why: told.append(what))
        update, asked = await self.executed(make, view, keeper)
        assert (asked, update["orders"], told) == ([], [], ["policy_unusable"])
        assert (update["policy"].policy_type, update["policy"].is_fallback) == ("fallback_hold_cash", True)
        assert update["notes"][0] == "the policy fallback_hold_cash holds: fallback_safe_hold"
        assert f"there is no file {tmp_path / 'gone' / 'metadata.json'}" in update["notes"][1]

    @pytest.mark.parametrize("status", [OrderStatus.FILLED, OrderStatus.UNKNOWN, OrderStatus.DENIED])
    async def test_what_was_sent_before_a_crash_stays_whatever_is_said_now(self, make, view, make_result, status):
        before = replace(make_result().orders[0], status=status)
        update, asked = await self.executed(make, view, PolicyKeeper("hold-cash", "", print), kept=(before,))
        sent = status is not OrderStatus.DENIED
        assert (asked, update["orders"]) == ([], [before] if sent else [])
        assert ("this decision has sent its order before, which stays" in update["notes"]) == sent
        update, _ = await self.executed(make, view, PolicyKeeper("hold-cash", "", print), (before,), decision=1)
        assert update["orders"] == []

    async def test_a_slow_one_is_asked_in_a_thread(self, make, view):
        keeper = PolicyKeeper("rule", "", print)
        agent = await keeper.ready()
        asked_by = []
        agent.predict, real = (
            lambda *given: (asked_by.append(threading.current_thread()), real(*given))[1],
            agent.predict,
        )
        for inline in (True, False):
            agent.inline = inline
            update, _ = await self.executed(make, view, keeper)
            assert update["policy"].action is TradingAction.BUY
        here = threading.main_thread()
        assert [thread is here for thread in asked_by] == [True, False]


def test_the_account_is_named_or_the_runs_own():
    assert account_of(CONFIG) == "run-1"
    assert account_of({"configurable": {"thread_id": "run-1", "account": "paper"}}) == "paper"


def test_the_newest_word_of_each_analyst_counts_whoever_was_first():
    old, new, other = Finding("a", 0.1, 0.5, ""), Finding("a", 0.9, 0.5, ""), Outage("b", required=True, error="")
    assert by_analyst([old, other], [new]) == [new, other] == by_analyst([other], [old, new])
