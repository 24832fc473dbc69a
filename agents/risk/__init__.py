"""Pre-trade risk: limits, checks and throttle. Pure and total: bad input is a refusal, never an exception."""

from agents.risk.checks import Proposal, pre_trade_checks
from agents.risk.hours import check_calendar, market_hours
from agents.risk.limits import RiskLimits
from agents.risk.throttle import Throttled, throttle_size

__all__ = ["Proposal", "RiskLimits", "Throttled", "check_calendar", "market_hours", "pre_trade_checks", "throttle_size"]
