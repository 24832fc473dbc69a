"""The last word before an order: a policy looks at numbers and answers buy, sell or hold."""

from agents.policy.agent import DeadlineMode, ExecutionAgent
from agents.policy.bundle import load_policy
from agents.policy.hold_cash import HoldCashPolicy
from agents.policy.named import agent_named
from agents.policy.protocol import Info, Observation, Policy
from agents.policy.rule import RulePolicy
from agents.policy.slo import SloReport

__all__ = [
    "DeadlineMode",
    "ExecutionAgent",
    "HoldCashPolicy",
    "Info",
    "Observation",
    "Policy",
    "RulePolicy",
    "SloReport",
    "agent_named",
    "load_policy",
]
