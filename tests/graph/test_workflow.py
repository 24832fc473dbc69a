"""The workflow as a whole: which way a decision takes, and what each failure on the way makes of it."""

import asyncio
import threading

import pytest
from langgraph.graph import StateGraph

from agents.domain import Finding, Outage, Outcome, TradingAction
from agents.errors import BrokerUnavailable, CriticalDegradation
from agents.research import Member
from agents.strategist import make_plan
from graph import nodes
from graph.app import open_app
from graph.feed import SimulatedFeed
from graph.resilience import FaultPlan
from graph.state import NODES
from graph.workflow import WORKFLOWS, fingerprint
from tests.graph.test_desk import Venue
from tests.graph.test_nodes import Hangs, Says, SaysLater

pytestmark = pytest.mark.usefixtures("no_waiting")

BULLS = tuple(Says(name, Finding(name, 0.8, 0.9, "up")) for name in ("one", "two", "three", "four"))


def stand_in(app) -> Venue:
    """Put a venue whose troubles are known in the place of the paper broker."""
    venue = Venue()
    venue.database = app.broker.database  # type: ignore[attr-defined]  # what the application will close
    app.broker = venue
    return venue


class House:
    """An application with a venue of its own, and one run in it."""

    def __init__(self, app, settings):
        self.app = app
        self.settings = settings
        self.venue = stand_in(app)
        self.visited: list[str] = []
        app.recorder._watcher = self.watch

    def watch(self, entry):
        if entry.kind == "AttemptStarted":
            self.visited.append(entry.subject)

    def graph(self, members=BULLS, seed=7):
        asked = tuple(Member(each, required=True) for each in members)
        return self.app.trade(self.settings, SimulatedFeed(seed), asked).graph

    async def decide(self, members=BULLS, *, again=False, run_id="run-1"):
        config = {"configurable": {"thread_id": run_id, "account": "paper"}}
        given = None if again else {"symbol": "SIM"}
        return await self.graph(members).ainvoke(given, config, durability="sync")

    def times(self, name):
        return self.visited.count(name)


@pytest.fixture
async def house(settings):
    async with open_app(settings(gate={"mean_r_min": -100.0})) as app:
        yield House(app, app.settings)


@pytest.fixture
def injected(settings):
    """An application with faults."""

    async def play(*faults, members=BULLS, **flags):
        chosen = settings(**({"gate": {"mean_r_min": -100.0}} | flags))
        async with open_app(chosen, faults=FaultPlan.parse(faults)) as app:
            house = House(app, chosen)
            return house, await house.decide(members)

    return play


async def test_research_strategy_gate_execution(house):
    state = await house.decide()
    assert house.visited == ["research", *(each.name for each in BULLS), "synthesis", *NODES[2:], "broker"]
    assert [type(each) for each in state["findings"]] == [Finding] * 4
    assert (state["plan"].action, state["verdict"].outcome) == (TradingAction.BUY, Outcome.APPROVE)
    assert state["orders"][0].filled == state["plan"].quantity
    assert len(house.venue.executions) == 1


async def test_the_members_are_asked_at_the_same_time(house):
    together = asyncio.Barrier(3)

    class Meets(Says):
        async def __call__(self, view):
            await together.wait()
            return self.answer

    state = await house.decide([Meets(name) for name in ("one", "two", "three")])
    assert all(isinstance(each, Finding) for each in state["findings"])


async def test_every_kind_of_analyst_of_ones_own(house):
    hung = threading.Event()

    class HangsInAThread(Says):
        def __call__(self, view):
            hung.wait()

    app = house.app
    app.settings = house.settings = house.settings.model_copy(
        update={"guards": dict.fromkeys(("late", "stuck"), type(app.settings.guard("x"))(0.05, max_attempts=1))}
    )
    good = [Says(name, Finding(name, 0.8, 0.9, "up")) for name in "abcdefgh"]
    bad = [Says("raises", ValueError("no")), Says("rubbish", [1, 2]), Hangs("late"), HangsInAThread("stuck")]
    try:
        members = [Member(each, required=True) for each in (*good, SaysLater("soon"))]
        members += [Member(each, required=False) for each in bad]
        graph = app.trade(app.settings, SimulatedFeed(7), tuple(members)).graph
        config = {"configurable": {"thread_id": "run-1", "account": "paper"}}
        state = await graph.ainvoke({"symbol": "SIM"}, config, durability="sync")
    finally:
        hung.set()
    outages = {each.analyst: each.error for each in state["findings"] if isinstance(each, Outage)}
    assert set(outages) == {"raises", "rubbish", "late", "stuck"}
    assert state["synthesis"].level == 1
    assert state["orders"][0].filled > 0
    told = [entry.detail for entry in await app.timeline.entries("run-1") if entry.kind == "Degraded"]
    assert [(each["level"], sorted(each["failed"])) for each in told] == [(1, sorted(outages))]


async def test_too_many_required_outages_stop_the_run(house):
    members = [*BULLS[:2], Says("dead", ValueError("no")), Says("gone", ValueError("no"))]
    with pytest.raises(CriticalDegradation, match="2 of 4 required"):
        await house.decide(members)
    assert house.times("strategy") == 0


class TestTheGate:
    async def test_a_wish_of_the_gate_is_met(self, settings):
        async with open_app(settings(gate={"mean_r_min": -100.0}, strategy={"reward_risk": 1.0})) as app:
            house = House(app, app.settings)
            state = await house.decide()
        assert (house.times("strategy"), house.times("quality_gate")) == (2, 2)
        assert (state["plan"].revision, state["verdict"].outcome) == (1, Outcome.APPROVE)
        assert len(house.venue.executions) == 1

    async def test_a_stubborn_strategist_is_asked_twice_again_and_then_rejected(self, settings, monkeypatch):
        def stubborn(*given, verdict, **more):
            return make_plan(*given, **more)

        monkeypatch.setattr(nodes, "make_plan", stubborn)
        async with open_app(settings(gate={"mean_r_min": -100.0}, strategy={"reward_risk": 1.0})) as app:
            house = House(app, app.settings)
            state = await house.decide()
        assert (house.times("strategy"), house.times("quality_gate"), house.times("execution")) == (3, 3, 0)
        assert (state["plan"].revision, state["verdict"].outcome) == (2, Outcome.REJECT)
        assert any("risks 1 to earn" in note for note in state["notes"])
        assert house.venue.calls == []

    async def test_a_rejection_ends_it(self, settings):
        async with open_app(settings(gate={"mean_r_min": 100.0})) as app:
            house = House(app, app.settings)
            state = await house.decide()
        assert state["verdict"].outcome is Outcome.REJECT
        assert (house.times("execution"), house.venue.calls) == (0, [])


class TestFaults:
    async def test_without_a_strategist_nothing_is_traded(self, injected):
        house, state = await injected("strategy=error")
        assert house.times("strategy") == 4, "three attempts and the fallback"
        assert (state["plan"].action, state["orders"], house.venue.calls) == (TradingAction.HOLD, [], [])
        assert "could not be reached" in state["plan"].reasons[0]

    @pytest.mark.parametrize("fault", ["quality_gate=error", "quality_gate=corrupt"])
    async def test_without_a_gate_nothing_is_traded(self, injected, fault):
        house, state = await injected(fault)
        assert state["verdict"].outcome is Outcome.REJECT
        assert (house.times("execution"), house.venue.calls) == (0, [])

    async def test_an_answer_that_is_no_plan_is_no_plan(self, injected):
        house, state = await injected("strategy=corrupt")
        assert (state["plan"].action, house.venue.calls) == (TradingAction.HOLD, [])

    @pytest.mark.parametrize("fault", ["broker=error@1", "broker=corrupt@1", "execution=error@1", "broker=error@2"])
    async def test_a_fault_on_the_way_to_the_broker_costs_no_second_order(self, injected, fault):
        house, state = await injected(fault)
        assert len(house.venue.executions) == 1
        assert state["orders"][0].filled == state["plan"].quantity


async def test_a_dead_broker_stops_the_run_and_a_later_try_sends_one_order(house):
    house.venue.troubles = ["drop"] * 50
    with pytest.raises(BrokerUnavailable):
        await house.decide()
    asked = house.times("one")
    house.app.guards["broker"].breakers["broker"].release()
    house.venue.troubles = ["lose"]
    state = await house.decide(again=True)
    assert (len(house.venue.executions), state["orders"][0].filled) == (1, state["plan"].quantity)
    assert house.times("one") == asked, "what was done before is not done again"


async def test_a_thread_that_is_asked_again_decides_again(house):
    first = await house.decide()
    second = await house.decide()
    assert (first["decision"], second["decision"]) == (0, 1)
    assert second["portfolio"].position("SIM").quantity == first["plan"].quantity
    assert len({order.intent_id for order in house.venue.executions}) == len(house.venue.executions)


class TestFingerprint:
    def test_it_tells_shapes_apart(self):
        def build(*names, member="trend"):
            builder = StateGraph(dict)
            for name in names:
                builder.add_node(name, lambda state: state)
            builder.set_entry_point(names[0])
            return fingerprint(builder, (member,))

        assert build("a", "b") == build("a", "b")
        assert build("a", "b") != build("a", "c")
        assert build("a", "b") != build("b", "a")
        assert build("a") != build("a", member="volume")

    def test_the_registry(self):
        assert list(WORKFLOWS) == ["trade", "session"]
        assert WORKFLOWS["trade"].name == "trade"
