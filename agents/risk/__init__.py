"""Pre-trade risk: limits, checks and throttle. Pure and total: bad input is a refusal, never an exception."""

from agents.risk.checks import pre_trade_checks, trading_check
from agents.risk.hours import check_calendar, day_start_ns, market_hours
from agents.risk.kill import KillSwitchReason, trip_reason, trips
from agents.risk.limits import Limit, RiskLimits, explain_limits
from agents.risk.proposal import NO_REFERENCE, Holding, OwnOrder, Proposal
from agents.risk.throttle import Throttled, throttle_size

__all__ = [
    "NO_REFERENCE",
    "Holding",
    "KillSwitchReason",
    "Limit",
    "OwnOrder",
    "Proposal",
    "RiskLimits",
    "Throttled",
    "check_calendar",
    "day_start_ns",
    "explain_limits",
    "market_hours",
    "pre_trade_checks",
    "throttle_size",
    "trading_check",
    "trip_reason",
    "trips",
]
