"""Resilience for any async function or LangGraph node: one `Guard` a callee, and everything it needs.

    guard = Guard("price_action", deadline=45.0, attempt_timeout=10.0, fallbacks=[cheaper_model, rules])
    finding = await guard(primary, view)
    builder.add_node("strategy", guard.wrap(strategy))

The layers, outermost first; the order is the point:

    last resort        a local value, outside of the deadline, so that it can answer when that has expired
    bulkhead           refuses at once what would only wait
    total deadline     bounds all that follows, waits included; nested guards inherit it
    fallback chain     every link below with retry and breaker of its own, else a broken primary blocks its fallback
    retry              outside of the breaker: five failed attempts trip it, and a retry that meets it open stops
    breaker
    attempt timeout    inside of the breaker, so that slowness counts as failure
    fault injection    as close to the call as can be, so that every layer is tested by it

It knows no agent, no graph and no storage: it imports `agents.errors`, `agents.clock`, `agents.degradation`, the
standard library, and tenacity after the first failure.
"""

from agents.degradation import level_of, too_many_missing
from graph.resilience.breaker import Breaker, BreakerSnapshot, BreakerState, CircuitBreaker
from graph.resilience.degradation import Degradation, Ladder, Roll
from graph.resilience.events import (
    AttemptCancelled,
    AttemptFailed,
    AttemptStarted,
    AttemptSucceeded,
    BreakerClosed,
    BreakerHalfOpened,
    BreakerOpened,
    CallRejected,
    DeadlineExpired,
    Degraded,
    FallbackUsed,
    FaultInjected,
    GuardEvent,
    HealthChanged,
    LastResortUsed,
    Observer,
    QuorumMissed,
    QuorumReached,
    RetryScheduled,
    TimedOut,
)
from graph.resilience.faults import KILL_GRACE_SECONDS, Corrupted, Fault, FaultAction, FaultPlan
from graph.resilience.guard import Answer, Guard
from graph.resilience.health import Health, HealthMonitor
from graph.resilience.outcome import Outcome, falls_through, outcome_of, worth_retrying
from graph.resilience.quorum import UNDECIDED, Agreement, Consensus, Quorum, median, vote, within
from graph.resilience.retry import Budget, Retry
from graph.resilience.timeout import time_left

__all__ = [
    "KILL_GRACE_SECONDS",
    "UNDECIDED",
    "Agreement",
    "Answer",
    "AttemptCancelled",
    "AttemptFailed",
    "AttemptStarted",
    "AttemptSucceeded",
    "Breaker",
    "BreakerClosed",
    "BreakerHalfOpened",
    "BreakerOpened",
    "BreakerSnapshot",
    "BreakerState",
    "Budget",
    "CallRejected",
    "CircuitBreaker",
    "Consensus",
    "Corrupted",
    "DeadlineExpired",
    "Degradation",
    "Degraded",
    "FallbackUsed",
    "Fault",
    "FaultAction",
    "FaultInjected",
    "FaultPlan",
    "Guard",
    "GuardEvent",
    "Health",
    "HealthChanged",
    "HealthMonitor",
    "Ladder",
    "LastResortUsed",
    "Observer",
    "Outcome",
    "Quorum",
    "QuorumMissed",
    "QuorumReached",
    "Retry",
    "RetryScheduled",
    "Roll",
    "TimedOut",
    "falls_through",
    "level_of",
    "median",
    "outcome_of",
    "time_left",
    "too_many_missing",
    "vote",
    "within",
    "worth_retrying",
]
