"""What a setting can name, and that the bundle which is here is what the command makes, and does as the rule does."""

import json
from decimal import Decimal

import numpy as np
import pytest

from agents.domain import Portfolio, Synthesis
from agents.execution import observe
from agents.market import simulate
from agents.policy import RulePolicy, agent_named, load_policy
from agents.policy.bundle import METADATA, sha256_of
from agents.policy.named import DEMO_FOLDER, DEMO_SHA256, NAMED
from agents.policy.observation import OBSERVATION_NAMES
from agents.policy.train import _samples, main
from agents.strategist import StrategySettings, make_plan
from graph.feed import SimulatedFeed

SEEN = np.zeros(len(OBSERVATION_NAMES))


def silent(what, why):
    """Nobody is to be alerted of a test."""


@pytest.mark.parametrize(
    ("name", "kind", "fallback"),
    [
        ("demo", "mlp", False),
        ("rule", "rule", False),
        ("hold-cash", "hold_cash", False),
        ("/nowhere", "fallback_hold_cash", True),
        ("./rule", "fallback_hold_cash", True),
    ],
)
def test_who_answers(name, kind, fallback):
    agent = agent_named(name, alert=silent)
    _, info = agent.predict(SEEN)
    assert (info["policy_type"], info["is_fallback"], agent.is_fallback) == (kind, fallback, fallback)


def test_a_pin_is_of_bundles(tmp_path):
    for name in NAMED:
        assert agent_named(name, "0" * 64, alert=silent).is_fallback == (name == "demo")
    (tmp_path / "mine").symlink_to(DEMO_FOLDER)
    assert not agent_named(str(tmp_path / "mine"), DEMO_SHA256, alert=silent).is_fallback
    assert agent_named(str(tmp_path / "mine"), "0" * 64, alert=silent).is_fallback


def test_a_bundle_for_other_observations_is_refused(bundle):
    agent = agent_named(str(bundle()), alert=silent)
    assert agent.is_fallback
    assert "other features" in agent.why


class TestDemo:
    def test_it_is_pinned(self):
        assert load_policy(DEMO_FOLDER).metadata.pin == DEMO_SHA256

    def test_the_command_makes_it_again(self, tmp_path, capsys):
        """The weights bit by bit, on whatever processor this is run."""
        assert main(["--out", str(tmp_path)]) == 0
        made, here = (json.loads((folder / METADATA).read_text()) for folder in (tmp_path, DEMO_FOLDER))
        assert made["sha256"] == here["sha256"] == sha256_of((DEMO_FOLDER / "policy.safetensors").read_bytes())
        assert made.keys() == here.keys()

    def test_where_plans_are_made_it_does_as_the_rule(self):
        """At the price of the plan, with the room to stop and target that the strategist gives, in any market."""
        policy, rule = load_policy(DEMO_FOLDER), RulePolicy()
        rows, _ = _samples(simulate("OTHER", 3, 400), seed=5)
        for direction, rooms in ((1, (2, 4)), (-1, (2, 4)), (0, (10, 10)), (1, (10, 10)), (-1, (1, 8))):
            rows[:, -4:] = (direction, 0.0, *rooms)
            taken = {policy.predict(row)[0] for row in rows[:3_000]}
            assert taken == {rule.predict(rows[0])[0]}

    def test_elsewhere_it_does_so_but_for_the_border(self):
        policy, rule = load_policy(DEMO_FOLDER), RulePolicy()
        rows, _ = _samples(simulate("ELSE", 11, 400), seed=6)
        same = np.mean([policy.predict(row)[0] is rule.predict(row)[0] for row in rows[:6_000]])
        assert same > 0.97

    @pytest.mark.parametrize("seed", range(40))
    def test_on_simulated_markets_it_decides_as_the_rule(self, seed):
        view = SimulatedFeed(seed, symbols=("SIM",)).view("SIM")
        for stance in (0.6, -0.6):
            plan = make_plan(
                view,
                Portfolio("p", Decimal(100_000)),
                Synthesis(stance, 0.6, 0.9, 1.0),
                StrategySettings(allow_short=True),
            )
            assert agent_named("demo", alert=silent, mode="off").predict(observe(view, plan))[0] is plan.action
