"""Why trading is stopped, and which measures of an account stop it."""

import math
from collections.abc import Iterable, Mapping

from agents.domain import Check, KillSwitchReason
from agents.risk.checks import UNREADABLE

__all__ = ["KillSwitchReason", "trip_reason"]


def trip_reason(checks: Iterable[Check]) -> KillSwitchReason | None:
    """Why an order's checks should stop trading: the gravest reason among them, or None; never raises.

    Only what is wrong with the account counts. An order that is too large, late or double is refused, and that is all:
    one stale symbol must not stop the others. A limit that a reducing order was let past is broken all the same. What
    could not be measured is no loss: it refuses its order.
    """
    by_name = {check.name: check for check in checks}
    for name, reason in _TRIPS.items():
        if name in by_name and _trips(by_name[name]):
            return reason
    return None


_TRIPS: Mapping[str, KillSwitchReason] = {
    "trading_state": KillSwitchReason.UNREADABLE_STATE,
    "daily_loss": KillSwitchReason.LOSS_LIMIT,
    "drawdown": KillSwitchReason.DRAWDOWN,
    "reject_streak": KillSwitchReason.REJECT_STREAK,
    "order_rate": KillSwitchReason.BREACH,
}


def _trips(check: Check) -> bool:
    if check.name == "trading_state":
        return check.value == UNREADABLE
    if check.name == "order_rate":
        return not check.passed and "nan" not in str(check.value)
    value = math.inf if check.value == "inf" else check.value
    return isinstance(value, int | float) and isinstance(check.limit, int | float) and value > check.limit
