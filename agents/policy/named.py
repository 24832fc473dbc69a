"""The policies that a setting can name: a bundle by its folder, or one of those that are here.

`demo` is the bundle beside this file, as `python -m agents.policy.train` makes it; `rule` takes a plan at its word
while the price is where the plan was made; `hold-cash` never trades.
"""

from pathlib import Path
from typing import Any

from agents.policy.agent import ExecutionAgent
from agents.policy.hold_cash import HoldCashPolicy
from agents.policy.observation import OBSERVATION_NAMES
from agents.policy.rule import RulePolicy

__all__ = ["DEMO", "DEMO_FOLDER", "DEMO_SHA256", "HOLD_CASH", "NAMED", "RULE", "agent_named"]

DEMO, RULE, HOLD_CASH = "demo", "rule", "hold-cash"
NAMED = (DEMO, RULE, HOLD_CASH)
"""The names that are no folders; a folder of such a name is given as `./rule`."""

DEMO_FOLDER = Path(__file__).parent / "demo"
DEMO_SHA256 = "5369c87d926faa52eed04bf3139f963d8d254d240e70569e6e050297a0cdd599"


def agent_named(name: str, pinned_sha256: str = "", **options: Any) -> ExecutionAgent:
    """The agent for one of `NAMED`, or for a bundle's folder; `options` as `ExecutionAgent` has them.

    The pin is of bundles; the demonstration has one of its own where none is given. The bundle must be made for the
    workflow's observations.
    """
    if name == RULE:
        return ExecutionAgent(RulePolicy(), **options)
    if name == HOLD_CASH:
        return ExecutionAgent(HoldCashPolicy("hold_cash", fallback=False), **options)
    folder, pin = (DEMO_FOLDER, pinned_sha256 or DEMO_SHA256) if name == DEMO else (Path(name), pinned_sha256)
    return ExecutionAgent(folder, pinned_sha256=pin, features=OBSERVATION_NAMES, **options)
