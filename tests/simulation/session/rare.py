"""States that hardly ever come. Rules that hold always say nothing about what never happens: some seed reaches each."""

from collections.abc import Collection

__all__ = ["RARE", "missing"]

RARE = (
    # market data
    "exchange: refuse", "exchange: cut", "exchange: reset", "exchange: close", "exchange: zombie",
    "exchange: half_open", "exchange: storm", "exchange: shutdown", "exchange: gap", "exchange: duplicate",
    "exchange: reorder", "exchange: delay", "exchange: corrupt", "exchange: truncate", "exchange: mute",
    "exchange: lost", "exchange: unavailable", "exchange: overload", "exchange: limit", "exchange: garble",
    "exchange: skew", "Disconnected", "StreamStale", "GapFound",
    "reducing stale_data", "halted stale_data", "active fresh_data",
    # the swarm
    "level 1", "level 2", "DecisionFailed", "FaultInjected", "RetryScheduled", "TimedOut", "FallbackUsed",
    "BreakerOpened", "BreakerHalfOpened", "BreakerClosed", "PlanApproved", "PlanOutdated",
    # orders
    "order pending", "order open", "order filled", "order filled in part", "order cancelled", "order rejected",
    "order denied", "order unknown", "order not_placed", "late fill", "OrderFailed", "OrderDropped", "OrderWithdrawn",
    "OrderMoved", "InDoubt", "CancelFailed", "reducing reject_streak", "reducing reconciliation",
    # stops
    "stop sprung", "target sprung", "StopWatched", "reducing loss_limit", "halted drawdown",
    # the machine
    "TickFailed", "HeartbeatFailed", "ReconcileFailed", "PolicyFault", "killed with an order in flight",
    "killed at sending", "killed at sent", "killed at answered", "killed at reserved", "killed at marked",
    "killed at recorded", "killed at bracket", "killed at commit", "woken, and told that it has lost the session",
    "drained with an order in flight", "ended: stopped", "ended: lost", "ended: failed",
    # people
    "halted operator", "reducing operator", "active operator", "operator: file",
)  # fmt: skip
"""In the words of `Witness`: kinds of timeline entries, faults of the exchange's menu, `order STATUS`, `STATE CODE`."""


def missing(reached: Collection[str]) -> list[str]:
    """Which of them no seed has reached."""
    return [state for state in RARE if state not in reached]
