"""The composition root: what it opens, what it refuses to wire, and what all runs share."""

import json
import stat
from dataclasses import replace
from decimal import Decimal

import pytest

from agents.clock import ReplayClock
from agents.domain import Finding, TradingState
from agents.errors import ConfigError, StorageError
from agents.research import Member
from graph.app import App, open_app
from graph.feed import SimulatedFeed
from graph.resilience import FaultPlan
from graph.swarm import swarm

pytestmark = pytest.mark.usefixtures("no_waiting")


def mine(view):
    return Finding("mine", 0.5, 0.5, "so it is")


def trend(view):
    return Finding("trend", 0.5, 0.5, "an impostor")


def strategy(view):
    return Finding("strategy", 0.5, 0.5, "a node's name")


class TestOpen:
    async def test_a_home_is_made_for_its_owner_alone(self, settings, tmp_path):
        async with open_app(settings()) as app:
            assert (await app.ledger.portfolio("paper")).cash == 100_000
        home = tmp_path / "home"
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert {path.name for path in home.iterdir()} >= {"holdfast.db", "broker.db"}
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in home.glob("*.db"))

    async def test_it_is_closed_at_the_end_also_of_a_bad_one(self, settings):
        with pytest.raises(ZeroDivisionError):
            async with open_app(settings()) as app:
                raise ZeroDivisionError
        with pytest.raises(StorageError):
            await app.ledger.portfolio("paper")
        with pytest.raises(StorageError):
            await app.broker.orders()

    @pytest.mark.parametrize(
        ("broker", "account", "why"),
        [
            ("paper", "exchange", "go to an exchange, and the setting broker is paper; nothing was done; name its"),
            ("exchange", "session-A-1", "go to the paper broker, and the setting broker is exchange; nothing was done"),
        ],
    )
    async def test_a_home_keeps_its_broker(self, settings, broker, account, why):
        async with open_app(settings(), broker=lambda app: app.home.broker) as app:
            await app.ledger.open_account(account, Decimal(1))
        with pytest.raises(ConfigError, match=why):
            async with open_app(settings(broker=broker)):
                pass
        async with open_app(settings(), broker=lambda app: app.home.broker) as app:
            assert (await app.switch.read()).state is TradingState.ACTIVE, "no other broker's books were compared"

    def test_books_that_cannot_be_opened(self, settings, tmp_path):
        (tmp_path / "home" / "broker.db").mkdir(parents=True)
        with pytest.raises(StorageError):
            App.open(settings())

    async def test_time_is_given(self, settings):
        async with open_app(settings(), clock=ReplayClock(5)) as app:
            given = {"workflow": "trade", "symbol": "A", "as_of_ns": 0, "fingerprint": {}, "parameters": {}}
            async with app.manager.begin(**given) as hold:
                assert hold.run.created_ns == 5

    async def test_who_watches_sees_and_the_log_keeps_the_failures(self, settings, tmp_path):
        seen = []
        async with open_app(settings(), watcher=seen.append, clock=ReplayClock(5)) as app:
            app.recorder.note("run-1", "RunStarted")
            app.recorder.note("run-1", "RunFailed", error="no\nline")
        assert [entry.kind for entry in seen] == ["RunStarted", "RunFailed"]
        (line,) = (tmp_path / "home" / "failures.log").read_text().splitlines()
        assert json.loads(line) | {"level": ""} == {
            "event": "RunFailed",
            "run_id": "run-1",
            "time_ns": 5,
            "error": "no\nline",
            "level": "",
        }

    async def test_what_fails_outside_of_any_run_is_for_the_log_alone(self, settings, tmp_path):
        async def gone():
            raise ConnectionError

        seen = []
        async with open_app(settings(), watcher=seen.append) as app:
            with pytest.raises(ConnectionError):
                await app.guard("broker", retry=None)(gone)
        assert seen == []
        (line,) = (tmp_path / "home" / "failures.log").read_text().splitlines()
        assert json.loads(line)["event"] == "AttemptFailed"

    async def test_a_log_that_cannot_be_written_stops_nobody(self, settings, tmp_path):
        (tmp_path / "home" / "failures.log").mkdir(parents=True)
        async with open_app(settings()) as app:
            app.recorder.note("run-1", "RunFailed", error="x")


class TestSwarm:
    def test_the_built_in_ones(self, settings):
        members = {member.name: member for member in swarm(settings())}
        assert sum(member.required for member in members.values()) == 4
        assert all(member.quick for member in members.values())
        assert members["cross_asset"].needs_market

    def test_required_or_not_is_said_by_the_settings(self, settings):
        members = swarm(settings(required=("volume",), optional=("trend", "tests.graph.test_app:mine")))
        assert [(each.name, each.required, each.quick) for each in members] == [
            ("volume", True, True),
            ("trend", False, True),
            ("mine", False, False),
        ]

    @pytest.mark.parametrize(
        ("required", "told"),
        [
            (("nobody",), "'nobody' is no built-in analyst; nothing was run; there are trend"),
            (("trend", "trend"), "two members or nodes named 'trend'"),
            (("trend", "tests.graph.test_app:trend"), "two members or nodes named 'trend'"),
            (("tests.graph.test_app:strategy",), "two members or nodes named 'strategy'"),
            (("no.such.module:x",), "cannot be imported"),
            (("tests.graph.test_app:nobody",), "does not exist"),
            (("tests.graph.test_app:json",), "the swarm was not started"),
            ((), "the swarm has no members"),
        ],
    )
    def test_what_cannot_be_one(self, settings, required, told):
        with pytest.raises(ConfigError) as caught:
            swarm(settings(required=required, optional=()))
        assert told in str(caught.value)
        assert "\n" not in str(caught.value)


class TestTrade:
    @pytest.fixture
    async def app(self, settings):
        async with open_app(settings()) as app:
            yield app

    def wire(self, app, **change):
        app.settings = app.settings.model_copy(update=change)
        return app.trade(app.settings, SimulatedFeed(7))

    async def test_the_shape_names_nodes_and_members(self, app):
        shape = self.wire(app).fingerprint
        assert shape["members"] == sorted(member.name for member in swarm(app.settings))
        assert {"research", "analyst", "synthesis", "strategy", "quality_gate", "execution"} <= set(shape["nodes"])
        assert json.loads(json.dumps(shape)) == shape

    async def test_all_runs_share_one_guard_a_name(self, app):
        self.wire(app)
        first = dict(app.guards)
        self.wire(app)
        assert app.guards == first
        assert set(first) >= {"broker", "trend", "strategy", "execution"}

    async def test_a_brokers_call_is_never_retried_and_the_rest_as_the_settings_say(self, settings):
        guards = {"trend": {"max_attempts": 7, "attempt_timeout": 2.5, "deadline": 9.0}}
        async with open_app(settings(guards=guards)) as app:
            self.wire(app)
            trend_guard = app.guards["trend"]
            assert (trend_guard.retry.max_attempts, trend_guard.attempt_timeout, trend_guard.deadline) == (7, 2.5, 9.0)
            assert app.guards["broker"].retry is None

    async def test_names_that_nobody_has(self, settings):
        async with open_app(settings(guards={"trnd": {"max_attempts": 1}})) as app:
            with pytest.raises(ConfigError, match="settings guard 'trnd', which is no node or analyst"):
                self.wire(app)
        async with open_app(settings(fallbacks={"trnd": ("volume",)})) as app:
            with pytest.raises(ConfigError, match="'trnd'"):
                self.wire(app)
        async with open_app(settings(), faults=FaultPlan.parse(["trnd=error"])) as app:
            with pytest.raises(ConfigError, match="trnd=error matches no guard"):
                self.wire(app)

    async def test_another_analyst_answers_in_the_place_of_one_that_cannot(self, settings):
        chosen = settings(fallbacks={"trend": ("tests.graph.test_app:mine",)}, required=("trend",), optional=())
        async with open_app(chosen, faults=FaultPlan.parse(["trend=error"])) as app:
            graph = app.trade(chosen, SimulatedFeed(7)).graph
            state = await graph.ainvoke({"symbol": "SIM"}, {"configurable": {"thread_id": "run-1"}}, durability="sync")
        assert state["findings"] == [Finding("trend", 0.5, 0.5, "so it is")]

    async def test_members_that_are_given_go_before_those_of_the_settings(self, app):
        member = replace(Member(swarm(app.settings)[0].analyst, required=True))
        assert app.trade(app.settings, SimulatedFeed(7), (member,)).fingerprint["members"] == [member.name]


class TestPolicy:
    async def test_one_for_all_runs_that_name_the_same(self, settings):
        async with open_app(settings(policy="rule")) as app:
            assert app.policy(app.settings) is app.policy(settings(policy="rule", window=200))
            assert app.policy(app.settings) is not app.policy(settings(policy="demo"))
            assert app.trade(app.settings, SimulatedFeed(7)).policy is app.policy(app.settings)

    async def test_one_that_cannot_be_used_is_told_logged_and_counted(self, settings, tmp_path, capsys):
        folder = str(tmp_path / "gone")
        async with open_app(settings(policy=folder)) as app:
            assert (await app.policy(app.settings).ready()).is_fallback
            assert app.metrics.counters["PolicyUnusable", folder] == 1
        err = capsys.readouterr().err
        assert err.startswith(f"warning: policy {folder} cannot be used: there is no file {folder}/metadata.json")
        assert err.endswith("hold-cash answers and nothing is traded\n")
        assert err.count("\n") == 1
        (line,) = (tmp_path / "home" / "failures.log").read_text().splitlines()
        assert json.loads(line)["event"] == "PolicyUnusable"
        assert json.loads(line)["policy"] == folder

    async def test_one_that_works_is_no_news(self, settings, tmp_path, capsys):
        async with open_app(settings()) as app:
            await app.policy(app.settings).ready()
            assert app.metrics.counters["PolicyLoaded", "demo"] == 1
        assert capsys.readouterr().err == ""
        assert not (tmp_path / "home" / "failures.log").exists()
