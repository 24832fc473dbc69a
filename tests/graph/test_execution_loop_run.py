"""The execution loop as a task: a bounded queue in, hooks out, warm in between, and the same story for a seed."""

import asyncio
from decimal import Decimal

import pytest

from agents.domain import Quote, Side
from agents.errors import ConfigError, DeadlineExceeded, LeaseLost, PolicyFault
from agents.policy.named import DEMO_FOLDER
from agents.policy.observation import OBSERVATION_NAMES
from graph.app import open_app
from graph.execution_loop import HOOKS, ExecutionLoop
from graph.resilience.virtual import VirtualClock
from tests.graph.floor import GENEROUS, MINUTE_NS, START_NS, Says, agent_of, bar_of, mandate_of, view_of
from tests.graph.test_workflow import stand_in

pytestmark = pytest.mark.usefixtures("no_waiting")


async def drive(loop, items):
    """Run the loop on a bounded queue until all of it was taken, or until it raises."""
    feed = asyncio.Queue(maxsize=2)

    async def bring():
        for item in items:
            await feed.put(item)
        await feed.join()

    running, bringing = asyncio.create_task(loop.run(feed)), asyncio.create_task(bring())
    await asyncio.wait({running, bringing}, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        bringing.cancel()
        return running.result()
    running.cancel()
    await asyncio.wait({running})
    assert running.cancelled()
    return None


class TestRun:
    async def test_it_takes_what_comes_and_nothing_bad_stops_it(self, floor):
        here = await (await floor()).begin()
        here.clock.advance_to(bar_of(4).close_ns)
        here.venue.troubles = ["drop"]
        quote = Quote("SIM", bar_of(4).close_ns, Decimal("99.99"), Decimal("100.01"))
        bars = [bar_of(1), bar_of(40), bar_of(2), bar_of(1), quote, bar_of(3), bar_of(4, symbol="B"), bar_of(4)]
        await drive(here.loop, bars)
        counts = {"bars": 4, "duplicate_bars": 1, "quotes": 1, "errors": 3, "decisions": 4}
        assert {name: here.loop.counts[name] for name in counts} == counts
        assert {kind for kind, _ in here.told} == {"LoopFailed"}

    @pytest.mark.parametrize("raised", [PolicyFault("broken"), ZeroDivisionError("x")])
    async def test_strict_it_fails_fast(self, floor, raised):
        def fail():
            raise raised

        here = await (await floor(agent=agent_of(Says(before=fail), mode="strict"))).begin()
        here.clock.advance_to(bar_of(2).close_ns)
        with pytest.raises(type(raised)):
            await drive(here.loop, [bar_of(1), bar_of(2)])

    async def test_strict_a_late_policy_ends_it(self, floor):
        here = await (await floor(agent=agent_of(Says(), mode="strict", deadline_us=1e-6))).begin()
        here.clock.advance_to(bar_of(2).close_ns)
        with pytest.raises(DeadlineExceeded):
            await drive(here.loop, [bar_of(1), bar_of(2)])
        assert here.venue.calls == []

    async def test_guarded_a_late_policy_holds_and_is_tripped(self, floor):
        told = []
        agent = agent_of(Says(), deadline_us=1e-6, breaches_in_row=2, alert=lambda what, why: told.append(what))
        here = await (await floor(agent=agent)).begin()
        answers = [(await here.tick(number)).answer for number in (1, 2, 3)]
        assert [each.action_reason for each in answers] == ["deadline_exceeded"] * 2 + ["fallback_safe_hold"]
        assert (told, here.venue.calls) == (["policy_tripped"], [])

    async def test_one_that_lost_its_run_ends(self, floor, monkeypatch):
        here = await (await floor()).begin()

        async def lost(*_, **__):
            raise LeaseLost("another process has it")

        monkeypatch.setattr(here.loop._desk, "submit", lost)
        here.clock.advance_to(bar_of(2).close_ns)
        with pytest.raises(LeaseLost):
            await drive(here.loop, [bar_of(1), bar_of(2)])

    async def test_a_hook_that_waits_for_the_loop_is_given_up(self, floor):
        here = await (await floor(options={"hook_seconds": 0.001})).begin()

        async def asks(*_):
            await here.loop.decide("SIM")

        here.loop.add_hook("pre_decision", asks)
        assert (await here.tick()).side is Side.BUY
        assert here.loop.hook_failures["pre_decision"] == 1

    def test_there_are_no_other_places_for_hooks(self):
        with pytest.raises(ConfigError, match="there is no hook 'on_lunch'"):
            ExecutionLoop(None, None, None, None, bar_period=1).add_hook("on_lunch", print)

    async def test_a_bundle_that_is_mended_takes_over_between_two_bars(self, floor, tmp_path):
        now = [0]
        agent = agent_of(tmp_path / "bundle", features=OBSERVATION_NAMES, now_ns=lambda: now[0])
        here = await (await floor(agent=agent)).begin()
        here.clock.advance_to(bar_of(1).close_ns)
        await drive(here.loop, [bar_of(1)])
        assert agent.is_fallback
        (tmp_path / "bundle").symlink_to(DEMO_FOLDER)
        now[0] = 61 * 10**9
        await drive(here.loop, [])
        await here.loop._lane._reloading
        decision = await here.tick(2)
        assert (decision.answer.policy_id, decision.side) == ("demo_mlp", Side.BUY)


class LoopTime:
    """The clock of a virtual loop, begun at START_NS."""

    def __init__(self, clock):
        self._clock, self._began = clock, clock.now

    def now_ns(self):
        return START_NS + round((self._clock.now - self._began) * 1e9)


def play(seed, settings, home):
    """An hour of a session in virtual time: what its hooks and its policy heard, and when."""
    story = []
    with VirtualClock(seed) as virtual:
        time = LoopTime(virtual)

        def note(what):
            story.append((time.now_ns() - START_NS, what))

        async def bars(feed):
            for number in range(1, 61):
                await asyncio.sleep((bar_of(number).close_ns - time.now_ns()) / 1e9 + 0.25)
                await feed.put(bar_of(number, str(100 + number % 3)))
            await feed.join()

        async def session():
            chosen = settings(home=home, risk=GENEROUS)
            async with open_app(chosen, clock=time, inline=True) as app:
                venue, agent = stand_in(app), agent_of(Says())
                warm, agent.keep_warm = agent.keep_warm, lambda: (note("warm"), warm())
                loop = ExecutionLoop(agent, app.desk(chosen), app.ledger, time, bar_period=60.0)
                await loop.watch(view_of())
                loop.approve(mandate_of(horizon_bars=40))
                for name in HOOKS:
                    loop.add_hook(name, lambda *_, name=name: note(name))
                feed = asyncio.Queue(maxsize=2)
                running = asyncio.create_task(loop.run(feed))
                await bars(feed)
                running.cancel()
                await asyncio.wait({running})
                return loop, venue

        return story, *virtual.run(session())


class TestVirtualTime:
    def test_the_same_seed_tells_the_same_story(self, settings, tmp_path):
        (first, loop, venue), (second, *_) = (play(7, settings, tmp_path / name) for name in "ab")
        assert first == second
        assert (loop.counts["bars"], loop.counts["errors"], len(venue.executions)) == (60, 0, 1)

    def test_the_policy_is_warm_when_a_bar_comes(self, settings, tmp_path):
        """From just before a bar is due until it is there, and not all the time."""
        story, *_ = play(7, settings, tmp_path / "home")
        warm = [when for when, what in story if what == "warm"]
        decided = [when for when, what in story if what == "pre_decision"]
        assert len(decided) == 60
        for number, when in enumerate(decided, 1):
            mine = [each for each in warm if when - MINUTE_NS // 2 < each <= when]
            assert when - mine[-1] <= 6_000_000, "the last was milliseconds ago"
            assert mine[0] == pytest.approx(number * MINUTE_NS - 2_000_000, abs=1_000)
            assert len(mine) < 60

    def test_a_bar_that_does_not_come_is_not_waited_for_warm(self):
        practised = []
        with VirtualClock(1) as virtual:
            time = LoopTime(virtual)
            agent = agent_of(Says())
            agent.keep_warm = lambda: practised.append(time.now_ns() - START_NS)

            async def session():
                loop = ExecutionLoop(agent, None, None, time, bar_period=60.0)
                await loop.watch(view_of())
                running = asyncio.create_task(loop.run(asyncio.Queue()))
                await asyncio.sleep(3_600)
                running.cancel()
                await asyncio.wait({running})

            virtual.run(session())
        assert practised[0] == pytest.approx(MINUTE_NS - 2_000_000, abs=1_000)
        assert practised[-1] < MINUTE_NS + 2_010_000_000
        assert len(practised) < 450
