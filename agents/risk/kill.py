"""Why trading is stopped, and which measures of an account stop it."""

import math
from collections.abc import Iterable, Mapping

from agents.domain import Check, KillSwitchReason
from agents.risk.checks import UNREADABLE

__all__ = ["KillSwitchReason", "trip_reason", "trips"]


def trip_reason(checks: Iterable[Check]) -> KillSwitchReason | None:
    """Why an order's checks should stop trading: the gravest reason among them, or None; never raises.

    Only what is wrong with the account counts. An order that is too large, late or double is refused, and that is all:
    one stale symbol must not stop the others. A limit that a reducing order was let past is broken all the same. What
    could not be measured is no loss: it refuses its order.
    """
    found = {reason for _, reason in trips(checks)}
    return next((reason for reason in _TRIPS.values() if reason in found), None)


def trips(checks: Iterable[Check]) -> tuple[tuple[Check, KillSwitchReason], ...]:
    """The checks of an order that should stop trading, and why; never raises.

    An order that is too large for itself is too much for its window as well, and no flood.
    """
    known = tuple(checks)
    too_large = any(check.name == "order_size" and not check.passed for check in known)
    return tuple(
        (check, _TRIPS[check.name])
        for check in known
        if check.name in _TRIPS and _trips(check) and not (too_large and check.name == "order_rate")
    )


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
