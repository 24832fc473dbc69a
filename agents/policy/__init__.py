"""The last word before an order: a policy looks at numbers and answers buy, sell or hold."""

from agents.policy.hold_cash import HoldCashPolicy
from agents.policy.protocol import Decision, Policy
from agents.policy.rule import RulePolicy

__all__ = ["Decision", "HoldCashPolicy", "Policy", "RulePolicy"]
