"""A session's account, looked at all the time: what it is worth, what it has lost, and its marks on disk."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from agents.clock import NANOSECONDS, Clock
from agents.domain import KillSwitchReason, MarketView, Portfolio, TradingState
from agents.risk import RiskLimits, day_start_ns
from agents.risk.equity import EquityBreaker
from checkpoints.ledger import OrderLedger
from checkpoints.sessions import SessionBook, SessionMark
from checkpoints.trading_state import Trading
from graph.kill_switch import KillSwitch

__all__ = ["AccountWatch", "Scope"]

_TRIPS: Mapping[str, tuple[TradingState, KillSwitchReason]] = {
    "drawdown": (TradingState.HALTED, KillSwitchReason.DRAWDOWN),
    "daily_loss": (TradingState.REDUCING, KillSwitchReason.LOSS_LIMIT),
    "losses_in_row": (TradingState.REDUCING, KillSwitchReason.LOSS_LIMIT),
}
"""What the equity breaker trips to, the strictest first."""


_FUNDINGS_MAX = 100
"""Funding times that are made up for after a time in which nobody ran the session."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a session is: `run_id` of the registry, the account, and when it began: its decisions are counted from then.

    `duration_ns` None: until the stream ends; `elapsed_ns`: what of it was run before.
    """

    run_id: str
    account: str
    symbol: str
    began_ns: int
    duration_ns: int | None = None
    elapsed_ns: int = 0


class AccountWatch:
    """The account of a session's `scope`; `open` it first. `price`: what a unit is worth now, set by whoever knows."""

    portfolio: Portfolio
    breaker: EquityBreaker

    def __init__(
        self,
        scope: Scope,
        ledger: OrderLedger,
        book: SessionBook,
        kill: KillSwitch,
        clock: Clock,
        *,
        view: MarketView,
        limits: RiskLimits,
        losses_max: int,
    ) -> None:
        self.scope = scope
        self.price = view.last_price
        self.tripped = False
        self.marked_at = float("-inf")
        self._ledger = ledger
        self._book = book
        self._kill = kill
        self._clock = clock
        self._view = view
        self._limits = limits
        self._losses_max = losses_max
        self._began = 0.0
        self._funded_ns = clock.now_ns()

    async def open(self, cash: Decimal, trading: Trading) -> None:
        """Make the account, or take it as it is. What was lost before trading was let go on last counts no more."""
        self._began = asyncio.get_running_loop().time()
        await self._ledger.open_account(self.scope.account, cash)
        self.portfolio = await self._ledger.portfolio(self.scope.account)
        marks = [mark for mark in await self._book.marks(self.scope.run_id) if mark.time_ns >= trading.since_ns]
        last = await self._book.last(self.scope.run_id)
        self._funded_ns = self._clock.now_ns() if last is None else last.time_ns
        earlier = [(mark.time_ns, mark.equity) for mark in marks]
        self.breaker = EquityBreaker.of(self.day_ns, self.equity, earlier).traded(self.held, self.earned)

    async def refresh(self) -> None:
        """Read what the fills have made of it."""
        self.portfolio = await self._ledger.portfolio(self.scope.account)
        self.breaker = self.breaker.traded(self.held, self.earned)

    async def fund(self, rate: float, every_ns: int) -> None:
        """Pay, or take, what the position owes for each funding time since the last mark, or since this was asked last.

        A time that was paid already, by a process that was killed then, is not paid again.
        """
        now_ns = self._clock.now_ns()
        due_ns = now_ns - now_ns % every_ns
        paid_ns = self._funded_ns - self._funded_ns % every_ns
        if rate and self.held:
            came = round(-self.held * self.price * Decimal(str(rate)), 8)
            for time_ns in range(max(paid_ns, due_ns - _FUNDINGS_MAX * every_ns) + every_ns, due_ns + 1, every_ns):
                await self._ledger.fund(self.scope.account, self.scope.symbol, time_ns, came)
                await self.refresh()
        self._funded_ns = now_ns  # last: what could not be written down is due still

    async def judge(self, trading: Trading) -> None:
        """Trip where too much was lost: once, until somebody lets trading go on; then it begins anew."""
        if trading.state is TradingState.ACTIVE and self.tripped:
            self.tripped = False
            self.breaker = EquityBreaker.of(self.day_ns, self.equity).traded(self.held, self.earned)
        self.breaker = self.breaker.after(self.day_ns, self.equity)
        checks = self.breaker.checks(self.equity, self._limits, self._losses_max)
        wrong = {check.name: check for check in checks if not check.passed}
        if self.tripped or not wrong:
            return
        name = next(name for name in _TRIPS if name in wrong)
        state, code = _TRIPS[name]
        await self._kill.trip(self._kill.because(state, code, f"session {self.scope.run_id}", wrong[name].reason))
        # What could not be written, or is hidden by a stricter state that passes by itself, is tripped again.
        self.tripped = (await self._kill.switch.read()).lasts

    async def mark(self) -> None:
        """Write down how it stands."""
        self.marked_at = asyncio.get_running_loop().time()
        mark = SessionMark(self._clock.now_ns(), self.elapsed_ns, self.price, self.equity, self.held)
        await self._book.add(self.scope.run_id, mark)

    @property
    def elapsed_ns(self) -> int:
        """For how long the session has run, all of its processes together."""
        since = asyncio.get_running_loop().time() - self._began
        return self.scope.elapsed_ns + round(since * NANOSECONDS)

    @property
    def held(self) -> Decimal:
        """The signed position."""
        return self.portfolio.position(self.scope.symbol).quantity

    @property
    def earned(self) -> Decimal:
        """What was realised, less fees."""
        return self.portfolio.realised - self.portfolio.fees

    @property
    def equity(self) -> Decimal:
        """What the account is worth now."""
        return self.portfolio.equity({self.scope.symbol: self.price})

    @property
    def day_ns(self) -> int:
        """When the present day of the market began."""
        return day_start_ns(self._view.calendar, self._clock.now_ns(), self._view.period_ns)

    @property
    def drawdown(self) -> float:
        """Share of the highest equity that is lost."""
        peak = self.breaker.peak
        return float((peak - self.equity) / peak) if peak > 0 else 0.0
