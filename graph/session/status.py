"""A session at one moment, and at its end: plain values, for whoever shows them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from agents.domain import Fill, Order, Portfolio, Position, TradingState
from checkpoints.runs import Run, RunStatus
from checkpoints.sessions import SessionMark
from checkpoints.trading_state import Trading
from graph.result import order_json, plain

__all__ = ["SessionResult", "SessionStatus"]


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """How a session stands now.

    `duration_s` None: until the feed ends; `price` None: before the first one. `pnl`: equity less what the session
    began with; `drawdown`: share of the highest equity that is lost. `plan`: what is traded, in words. `streams`: age
    of the newest message of each, in seconds; `breakers`: those that are not closed, with their state; `brackets`: how
    many positions have a stop or target that is watched; `dropped`: orders that found the queue full; `draining`: no
    new risk is taken any more.
    """

    run_id: str
    symbol: str
    time_ns: int
    elapsed_s: float
    duration_s: float | None
    price: Decimal | None
    position: Position
    equity: Decimal
    pnl: Decimal
    realised: Decimal
    fees: Decimal
    drawdown: float
    plan: str
    brackets: int
    streams: Mapping[str, float]
    reconnects: int
    queued: int
    queue_size: int
    dropped: int
    decisions: int
    orders: int
    fills: int
    errors: int
    breakers: Mapping[str, str]
    trading: Trading
    draining: bool = False


@dataclass(frozen=True, slots=True)
class SessionResult:
    """How a session ended, or was stopped. `counts`: what happened how often, by name; `home`: see `RunResult`."""

    run: Run
    folder: Path
    portfolio: Portfolio
    opening_cash: Decimal
    marks: tuple[SessionMark, ...]
    orders: tuple[Order, ...]
    fills: tuple[Fill, ...]
    trading: Trading
    counts: Mapping[str, int] = field(default_factory=dict)
    reaction_us: Mapping[str, float] = field(default_factory=dict)
    home: str = ""

    @property
    def equity(self) -> Decimal:
        """What the account was worth at the last mark; its cash, before there was one."""
        return self.marks[-1].equity if self.marks else self.portfolio.cash

    @property
    def elapsed_s(self) -> float:
        """For how long the session has run, all of its processes together."""
        return self.marks[-1].elapsed_ns / 1e9 if self.marks else 0.0

    @property
    def drawdown(self) -> float:
        """The largest share of its highest value that the equity had lost."""
        peak, worst = Decimal(0), 0.0
        for mark in self.marks:
            peak = max(peak, mark.equity)
            worst = max(worst, float((peak - mark.equity) / peak) if peak > 0 else 0.0)
        return worst

    @property
    def resume_command(self) -> str | None:
        """The command that goes on with the session; None where it is over."""
        if self.run.status is RunStatus.FINISHED:
            return None
        return f"python -m graph.run --resume {self.run.run_id}{self.home}"

    def as_json(self) -> dict[str, Any]:
        """The machine-readable form; money and quantities become numbers."""
        return {
            "run_id": self.run.run_id,
            "workflow": self.run.workflow,
            "symbol": self.run.symbol,
            "status": str(self.run.status),
            "error": self.run.error or None,
            "elapsed_s": round(self.elapsed_s, 3),
            "equity": float(self.equity),
            "pnl": float(self.equity - self.opening_cash),
            "realised": float(self.portfolio.realised),
            "fees": float(self.portfolio.fees),
            "drawdown": self.drawdown,
            "positions": [plain(held) for held in self.portfolio.positions],
            "orders": [order_json(order) for order in self.orders],
            "fills": len(self.fills),
            "counts": dict(self.counts),
            "reaction_us": dict(self.reaction_us),
            "trading": plain(self.trading),
            "halted": self.trading.state is not TradingState.ACTIVE,
            "resume_command": self.resume_command,
        }
