"""The equity breaker of a session: what an account has lost, looked at all the time and not only with an order."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal

from agents.domain import Check
from agents.risk.limits import RiskLimits

__all__ = ["EquityBreaker"]

_NONE = Decimal(0)


@dataclass(frozen=True, slots=True)
class EquityBreaker:
    """A value; `after` gives the one after a look at the account.

    `peak`: the highest equity; `day_ns` and `day_equity`: when the day began, and what there was then; `losses`: round
    trips, from flat to flat or to the other side, that lost, in a row. `side` and `opened`: which way the position
    goes, and what had been realised, less fees, when it was opened.
    """

    peak: Decimal
    day_ns: int
    day_equity: Decimal
    losses: int = 0
    side: int = 0
    opened: Decimal = _NONE

    def after(self, day_ns: int, equity: Decimal) -> "EquityBreaker":
        """After a look at the account: `equity` now, `day_ns` when the present day began."""
        new_day = day_ns > self.day_ns
        return replace(
            self,
            peak=max(self.peak, equity),
            day_ns=day_ns if new_day else self.day_ns,
            day_equity=equity if new_day else self.day_equity,
        )

    def traded(self, quantity: Decimal, earned: Decimal) -> "EquityBreaker":
        """After a fill: the signed position `quantity`, and what was realised so far, less fees."""
        side = (quantity > 0) - (quantity < 0)
        if side == self.side:
            return self
        losses = self.losses
        if self.side:
            losses = losses + 1 if earned < self.opened else 0
        return replace(self, side=side, opened=earned, losses=losses)

    def checks(self, equity: Decimal, limits: RiskLimits, losses_max: int) -> tuple[Check, ...]:
        """Daily loss, drawdown and losses in a row, under the names that the kill switch knows."""
        return (
            _share("daily_loss", self.day_equity, equity, limits.daily_loss_share_max, "since the day began"),
            _share("drawdown", self.peak, equity, limits.drawdown_share_max, "from the highest equity"),
            Check(
                "losses_in_row",
                passed=self.losses < losses_max,
                value=float(self.losses),
                limit=float(losses_max),
                reason="" if self.losses < losses_max else f"{self.losses} round trips in a row have lost",
            ),
        )

    @classmethod
    def of(cls, day_ns: int, equity: Decimal, earlier: Iterable[tuple[int, Decimal]] = ()) -> "EquityBreaker":
        """From what there is now, and the equities of before by time, oldest first."""
        breaker = cls(equity, day_ns, equity)
        known = list(earlier)
        today = [was for time_ns, was in known if time_ns >= day_ns]
        peak = max([equity, *(was for _, was in known)])
        return replace(breaker, peak=peak, day_equity=today[0] if today else equity)


def _share(name: str, was: Decimal, now: Decimal, limit: float, since: str) -> Check:
    lost = float((was - now) / was) if was > 0 else math.inf
    passed = lost <= limit
    reason = "" if passed else f"{lost:.2%} of the equity was lost {since}, more than {limit:.2%}"
    return Check(name, passed=passed, value=max(lost, 0.0), limit=limit, reason=reason)
