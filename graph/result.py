"""What came of a run, gathered from its last state, the ledger and the timeline."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from agents.domain import Check, Order, OrderStatus, PolicyAnswer, Portfolio, TradePlan, TradingState, Verdict
from checkpoints.events import Entry
from checkpoints.runs import CheckpointRow, Run, RunStatus
from checkpoints.trading_state import Trading

__all__ = ["RunResult", "Trouble", "one_line", "plain", "policy_line", "state_line"]


@dataclass(slots=True)
class Trouble:
    """What one guard had to do for a run, where not every first attempt was a good one.

    `attempts` made, of which `failed` (or were cancelled); calls that were `refused` without one; `retries`; `trips`
    of its breakers; `fallbacks` that were asked; the newest `error`.
    """

    guard: str
    attempts: int = 0
    failed: int = 0
    refused: int = 0
    retries: int = 0
    trips: int = 0
    fallbacks: int = 0
    error: str = ""

    def take(self, entry: Entry) -> None:
        """Count one entry of the timeline."""
        counted = _COUNTED.get(entry.kind)
        if counted is not None:
            setattr(self, counted, getattr(self, counted) + 1)
        if entry.detail.get("error"):
            self.error = f"{entry.detail.get('error_type', 'error')}: {entry.detail['error']}"

    @property
    def any(self) -> bool:
        """Whether there was trouble at all."""
        return bool(self.failed or self.refused or self.retries or self.trips or self.fallbacks)


_COUNTED: Mapping[str, str] = {
    "AttemptStarted": "attempts",
    "AttemptFailed": "failed",
    "AttemptCancelled": "failed",
    "CallRejected": "refused",
    "RetryScheduled": "retries",
    "BreakerOpened": "trips",
    "FallbackUsed": "fallbacks",
    "LastResortUsed": "fallbacks",
}


@dataclass(frozen=True, slots=True)
class RunResult:
    """One run as it stands now.

    `state` is the newest saved state, which a failed run has as far as it came; `home` the flag, if any, that a command
    line needs to find the run; `folder` where its report is; `trading` whether orders could go when it was gathered.
    """

    run: Run
    state: Mapping[str, Any]
    orders: tuple[Order, ...]
    portfolio: Portfolio
    checkpoints: tuple[CheckpointRow, ...]
    timeline: tuple[Entry, ...]
    resumed_from: str | None = None
    home: str = ""
    folder: Path = Path()
    trading: Trading | None = None

    @property
    def plan(self) -> TradePlan | None:
        return self.state.get("plan")

    @property
    def verdict(self) -> Verdict | None:
        return self.state.get("verdict")

    @property
    def policy(self) -> PolicyAnswer | None:
        """What the policy said of the plan; None where the run did not come so far."""
        return self.state.get("policy")

    @property
    def traded(self) -> tuple[Order, ...]:
        """Orders that are at the broker, or may be."""
        kept = {OrderStatus.FILLED, OrderStatus.OPEN, OrderStatus.SENDING, OrderStatus.UNKNOWN}
        return tuple(order for order in self.orders if order.status in kept)

    @property
    def action(self) -> str:
        """BUY or SELL where an order went out, HOLD otherwise."""
        return self.traded[0].intent.side.name if self.traded else "HOLD"

    @property
    def quantity(self) -> Decimal:
        """Units ordered."""
        return sum((order.intent.quantity for order in self.traded), Decimal(0))

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it came out so: the error of a run that failed, else the plan's reasons and what became of it."""
        if self.run.status is RunStatus.FAILED:
            return (self.run.error,)
        planned = self.plan.reasons if self.plan else ()
        return tuple(dict.fromkeys((*planned, *self.state.get("notes", ()))))

    @property
    def troubles(self) -> tuple[Trouble, ...]:
        """Every node, analyst or broker that had trouble in this run, in the order of their first calls."""
        guards: dict[str, Trouble] = {}
        for entry in self.timeline:
            if entry.subject:
                guards.setdefault(entry.subject, Trouble(entry.subject)).take(entry)
        return tuple(guard for guard in guards.values() if guard.any)

    @property
    def resume_command(self) -> str | None:
        """The command that goes on with the run, or None where nothing is left to do."""
        if self.run.status is RunStatus.FINISHED:
            return None
        return f"python -m graph.run --resume {self.run.run_id}{self.home}"

    def as_json(self) -> dict[str, Any]:
        """The machine-readable form; money and quantities become numbers."""
        return {
            "run_id": self.run.run_id,
            "workflow": self.run.workflow,
            "symbol": self.run.symbol,
            "as_of_ns": self.run.as_of_ns,
            "status": str(self.run.status),
            "error": self.run.error or None,
            "forked_from": self.run.forked_from,
            "forked_at": self.run.forked_at,
            "dry": self.run.dry,
            "decision": {"action": self.action, "quantity": float(self.quantity), "reasons": list(self.reasons)},
            "gate": {
                "verdict": str(self.verdict.outcome) if self.verdict else None,
                "checks": [_check(check) for check in self.verdict.checks] if self.verdict else [],
            },
            "policy": _policy(self.policy),
            "orders": [order_json(order) for order in self.orders],
            "checkpoints": [
                {"id": row.checkpoint_id, "before": row.before, "saved_at": row.saved_at} for row in self.checkpoints
            ],
            "guards": [plain(trouble) for trouble in self.troubles],
            "trading": plain(self.trading),
            "resumed_from": self.resumed_from,
            "resume_command": self.resume_command,
        }


def state_line(trading: Trading) -> str:
    """The trading state, and why it is not ACTIVE, on one line."""
    if trading.state is TradingState.ACTIVE:
        return "ACTIVE"
    who = f", {trading.who}" if trading.who else ""
    return one_line(f"{trading.state.upper()} ({trading.code}{who}: {trading.why})")


def policy_line(answer: PolicyAnswer) -> str:
    """Who took which action, why and in what time, on one line."""
    instead = ", in place of the policy that was named" if answer.is_fallback else ""
    return one_line(
        f"{answer.policy_id} ({answer.policy_type}{instead}) said {answer.action.name} in {answer.latency_us:.1f} us:"
        f" {answer.action_reason}"
    )


def one_line(text: object) -> str:
    """Text from wherever on one line, and without what a terminal would take for a command."""
    return "".join(mark if mark.isprintable() else "\N{REPLACEMENT CHARACTER}" for mark in " ".join(str(text).split()))


def plain(value: Any) -> Any:
    """A value as JSON has it: dataclasses as objects, decimals as numbers, enums as their values.

    JSON knows neither infinity nor NaN: those become text.
    """
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(each) for name, each in asdict(value).items()}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return getattr(value, "value", value)


def _policy(answer: PolicyAnswer | None) -> dict[str, Any] | None:
    return None if answer is None else plain(answer) | {"action": answer.action.name}


def _check(check: Check) -> dict[str, Any]:
    return {
        "name": check.name,
        "passed": check.passed,
        "value": plain(check.value),
        "limit": plain(check.limit),
        "reason": check.reason,
    }


def run_json(run: Run) -> dict[str, Any]:
    """A row of the registry for machines."""
    return {
        "run_id": run.run_id,
        "workflow": run.workflow,
        "symbol": run.symbol,
        "status": str(run.status),
        "as_of_ns": run.as_of_ns,
        "created_ns": run.created_ns,
        "updated_ns": run.updated_ns,
        "error": run.error or None,
        "forked_from": run.forked_from,
        "forked_at": run.forked_at,
        "dry": run.dry,
    }


def order_json(order: Order) -> dict[str, Any]:
    """An order for machines."""
    return {
        "client_order_id": order.client_order_id,
        "side": str(order.intent.side),
        "quantity": float(order.intent.quantity),
        "price": float(order.price if order.price is not None else order.intent.reference_price),
        "status": str(order.status),
        "filled": float(order.filled),
        "fee": float(order.fee),
        "reason": order.reason,
        "checks": [_check(check) for check in order.checks],
    }
