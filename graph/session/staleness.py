"""What old prices do to trading: REDUCING, then HALTED; and back, when prices come again."""

from dataclasses import dataclass, field

from agents.clock import Clock
from agents.domain import KillSwitchReason, TradingState
from agents.errors import StorageError
from checkpoints.trading_state import Tell, Trading, TradingSwitch
from graph.kill_switch import KillSwitch
from graph.session_terms import SessionTerms

__all__ = ["StaleWatch"]

_STALE = KillSwitchReason.STALE_DATA
_STRICTNESS = tuple(TradingState)


@dataclass(slots=True)
class StaleWatch:
    """Watches for one session, `who`. It touches no state that anybody else has set, and lifts only its own."""

    switch: TradingSwitch
    kill: KillSwitch
    clock: Clock
    terms: SessionTerms
    symbol: str
    who: str
    tell: Tell
    fresh: int = field(default=0)

    def quote_came(self) -> None:
        """A price came; enough of them in a row make the data fresh again."""
        self.fresh += 1

    async def look(self, age_s: float, was: Trading) -> None:
        """Set the trading state by the age of the newest price; `was`: as it was read just now."""
        ours = was.code == _STALE and was.who == self.who
        if age_s >= self.terms.stale_reduce:
            self.fresh = 0
            await self._stop(age_s, was, ours=ours)
        elif ours and self.fresh >= self.terms.fresh_quotes:
            why = f"{self.symbol} has prices again: {self.fresh} came since; it was so because {was.why}"
            await self._set(TradingState.ACTIVE, why, was)

    async def _stop(self, age_s: float, was: Trading, *, ours: bool) -> None:
        halts = age_s >= self.terms.stale_halt
        state = TradingState.HALTED if halts else TradingState.REDUCING
        stricter = _STRICTNESS.index(state) > _STRICTNESS.index(was.state)
        if not stricter or not (ours or was.state is TradingState.ACTIVE):
            return
        limit = self.terms.stale_halt if halts else self.terms.stale_reduce
        why = (
            f"no price of {self.symbol} for {age_s:.1f} s (limit {limit:g} s); trading is {state.upper()}; it goes on"
            f" after {self.terms.fresh_quotes} new ones"
        )
        if await self._set(state, why, was):
            await self.kill.sweep(state)

    async def _set(self, state: TradingState, why: str, was: Trading) -> bool:
        code = _STALE if state is not TradingState.ACTIVE else "fresh_data"
        try:
            return await self.switch.set(Trading(state, code, self.who, why, self.clock.now_ns()), instead_of=was)
        except StorageError as error:
            self.tell("TripFailed", {"state": str(state), "error": str(error)})
            return False
