"""The execution agent: a policy with a soft deadline, and hold-cash when there is no policy that can be trusted.

A soft deadline cannot stop a call that is late, it can only not use what came of it. It is asked for at both levels: of
the policy's own call, and end to end. What follows depends on the mode:

    strict   DeadlineExceeded is raised: fail fast
    guard    the answer is HOLD; after `breaches_in_row` late calls in a row, or where more than `breach_share` of the
             last 1,000 calls were late, hold-cash takes over for `recover_seconds`, and then the policy is tried again
    off      nothing follows, for measuring
"""

import logging
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from time import perf_counter_ns, sleep
from typing import cast

import numpy as np

from agents.domain import TradingAction
from agents.errors import ConfigError, DeadlineExceeded, PolicyError, PolicyFault, PolicyUnusable
from agents.policy.bundle import load_policy
from agents.policy.hold_cash import HoldCashPolicy
from agents.policy.latency import LatencyHistogram
from agents.policy.network import NetworkPolicy
from agents.policy.protocol import Info, Observation, Policy

__all__ = ["Alert", "DeadlineMode", "ExecutionAgent", "SloReport"]

_log = logging.getLogger(__name__)

_HOLD = TradingAction.HOLD
_WINDOW = 1_000
"""Calls that the share of late ones is taken of."""
_RATED_MIN = 100
"""Calls before there is a share worth the name."""
_RECOVERY_CALLS = 50
_ANY_INPUTS = 32
INLINE_US_MAX = 500.0
"""A call that takes longer (P95) is better made in a thread: a hop costs 20 to 110 us, and seldom much more."""

Alert = Callable[[str, str], None]
"""Is told (what, why): `policy_unusable`, `policy_tripped`, `policy_recovered`, `policy_fault`, `policy_loaded`."""


class DeadlineMode(StrEnum):
    STRICT = "strict"
    GUARD = "guard"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class SloReport:
    """What `validate_slo` measured, end to end. `late`: calls beyond the deadline; `paced_ms` 0 is hot."""

    calls: int
    late: int
    deadline_us: float
    paced_ms: float
    percentiles_us: dict[str, float]

    @property
    def met(self) -> bool:
        """Whether 95 of 100 calls keep the deadline."""
        return self.percentiles_us["p95"] <= self.deadline_us


def _logged(what: str, why: str) -> None:
    _log.warning("%s: %s", what, why)


class ExecutionAgent:
    """Answers every observation with an action: its policy's, or HOLD. See the module's text."""

    def __init__(
        self,
        policy: Path | Policy,
        *,
        pinned_sha256: str = "",
        features: tuple[str, ...] = (),
        deadline_us: float = 100.0,
        mode: DeadlineMode | str = DeadlineMode.GUARD,
        breaches_in_row: int = 5,
        breach_share: float = 0.1,
        recover_seconds: float = 60.0,
        alert: Alert = _logged,
        now_ns: Callable[[], int] = perf_counter_ns,
    ) -> None:
        """Load the bundle, or take the policy given. A bundle that cannot be used is no error: hold-cash answers.

        Args:
            policy: a bundle's folder, or a policy that is ready.
            pinned_sha256: the hash that the bundle's policy file must have; empty believes its metadata.
            features: what the bundle must be fed with, where that is known; another bundle is unusable.
            deadline_us: microseconds for a call, at both levels.
            mode: what follows from a late call.
            breaches_in_row: so many late calls in a row make hold-cash take over.
            breach_share: or more than this share of the last 1,000.
            recover_seconds: after so long hold-cash steps back, if the policy keeps its deadline again; and so often
                `reload_due` says that a bundle which could not be used is worth another try.
            alert: is told what an operator should know. It must not wait; an exception of its is logged.
            now_ns: a monotonic clock.

        Raises:
            ConfigError: a number that cannot be used.
        """
        if not (deadline_us > 0 and breaches_in_row >= 1 and 0 < breach_share <= 1 and recover_seconds > 0):
            raise ConfigError(
                f"a deadline of {deadline_us} us, {breaches_in_row} breaches in a row, a share of {breach_share} and"
                f" {recover_seconds} s cannot be kept; no agent was made; all must be above 0, the share at most 1"
            )
        self._folder = policy if isinstance(policy, Path) else None
        self._pinned = pinned_sha256
        self._features = features
        self._deadline_us = deadline_us
        self.mode = DeadlineMode(mode)
        self._watched = self.mode is not DeadlineMode.OFF
        self._breaches_in_row = breaches_in_row
        self._breach_share = breach_share
        self._recover_ns = int(recover_seconds * 1e9)
        self._alert = alert
        self._now_ns = now_ns
        self._hold_cash = HoldCashPolicy()
        self._policy: Policy | None = None if isinstance(policy, Path) else policy
        self._late_in_row = 0
        self._window: deque[bool] = deque(maxlen=_WINDOW)
        self._late_in_window = 0
        self._tripped_ns: int | None = None
        self._tried_ns = 0
        self.why = ""
        self.prediction_count = self.fallback_count = self.breach_count = self.fault_count = 0
        self.inline = True
        if self._folder is not None:
            self.reload()

    @property
    def policy_id(self) -> str:
        """Who answers now."""
        policy = self._acting()
        return policy.policy_id

    @property
    def is_fallback(self) -> bool:
        """Whether hold-cash answers; `why` then says why."""
        return self._policy is None or self._tripped_ns is not None

    @property
    def reload_due(self) -> bool:
        """Whether the bundle cannot be used, and it is time to try it again."""
        return self._folder is not None and self._policy is None and self._now_ns() - self._tried_ns >= self._recover_ns

    def reload(self) -> bool:
        """Load the bundle again; gives whether it answers now. What answered before does so until the new one is ready.

        It reads, hashes and warms up, which takes milliseconds, or a second with torch: call it in a thread. A bundle
        that cannot be used leaves the policy that is there in place.
        """
        if self._folder is None:
            return True
        self._tried_ns = self._now_ns()
        try:
            policy = load_policy(self._folder, pinned_sha256=self._pinned)
            self._check_features(policy)
            hot = self._measured(policy)
        except PolicyUnusable as error:
            if self._policy is None:
                self.why = str(error)
            self._tell("policy_unusable", str(error))
            return False
        self._policy, self.why, self._tripped_ns = policy, "", None
        self._forget()
        self.inline = hot.percentile_us(95) <= INLINE_US_MAX
        how = "inline" if self.inline else "in a thread"
        self._tell("policy_loaded", f"{policy.policy_id} answers in {hot.percentile_us(50):.1f} us, to be called {how}")
        return True

    def predict(self, observation: Observation, deterministic: bool = True) -> tuple[TradingAction, Info]:
        """An action, and who took it, why and in what time (`latency_us`, end to end).

        Raises:
            DeadlineExceeded: in strict mode, where the policy's call or all of it took longer than the deadline.
            PolicyFault: in strict mode, where the observation or the policy's output is not finite or of a wrong shape.
        """
        start = perf_counter_ns()
        policy = self._policy
        if policy is None or self._tripped_ns is not None:
            policy = self._acting()
        try:
            action, info = policy.predict(observation, deterministic)
        except Exception as fault:  # noqa: BLE001 - whatever a policy raises, no action follows from it
            return self._faulty(fault, start)
        inner_us = info["latency_us"]
        self.prediction_count = info["prediction_count"] = self.prediction_count + 1
        if info["is_fallback"]:
            self.fallback_count += 1
        latency_us = info["latency_us"] = (perf_counter_ns() - start) / 1000
        if self._watched and policy is not self._hold_cash:
            # Not an assertion: `python -O` strips those.
            if latency_us > self._deadline_us or inner_us > self._deadline_us:
                return self._late(policy, info, inner_us)
            self._in_time()
        return action, info

    def keep_warm(self, calls: int = 5) -> None:
        """Call who answers now on zeros, shortly before an answer is needed; it counts as no prediction.

        After a pause of milliseconds caches and branch predictors are cold: the same call takes three to thirty times
        as long.
        """
        policy = self._policy if self._policy is not None and self._tripped_ns is None else self._hold_cash
        zeros = np.zeros(_inputs(policy), dtype=np.float32)
        for _ in range(calls):
            try:
                policy.predict(zeros)
            except Exception:  # noqa: BLE001 - the next prediction will say so
                return

    def validate_slo(
        self, trials: int = 1_000, *, pacing_seconds: float = 0.0, wait: Callable[[float], None] = sleep
    ) -> SloReport:
        """Measure the policy end to end, with the deadline off: one call after the other, or one every so often.

        Paced calls are measured from the moment at which they were due, so that a slow one is charged with the delay
        of those that had to wait for it.
        """
        policy = self._acting()
        observation = np.zeros(_inputs(policy), dtype=np.float32)
        histogram, late, step_ns = LatencyHistogram(), 0, int(pacing_seconds * 1e9)
        due = perf_counter_ns() + step_ns
        for _ in range(trials):
            if step_ns:
                wait(max(0.0, (due - perf_counter_ns()) / 1e9))
            began = perf_counter_ns()
            # Waking up late is the timer's doing, except where the call before was still running.
            start = due if step_ns and began - due > step_ns else began
            policy.predict(observation)
            taken = perf_counter_ns() - start
            histogram.record(taken)
            late += taken > self._deadline_us * 1000
            due += step_ns
        return SloReport(trials, late, self._deadline_us, pacing_seconds * 1e3, dict(histogram.percentiles_us))

    # What follows from a call.

    def _acting(self) -> Policy:
        if self._policy is None:
            return self._hold_cash
        if self._tripped_ns is not None:
            if self._now_ns() - self._tripped_ns < self._recover_ns:
                return self._hold_cash
            self._try_to_recover(self._policy)
        return self._hold_cash if self._tripped_ns is not None else self._policy

    def _late(self, policy: Policy, info: Info, inner_us: float) -> tuple[TradingAction, Info]:
        latency_us = info["latency_us"]
        self.breach_count += 1
        level = (
            f"the policy took {inner_us:.1f} us"
            if inner_us > self._deadline_us
            else f"the call took {latency_us:.1f} us"
        )
        why = f"{level}, beyond the deadline of {self._deadline_us:g} us"
        if self.mode is DeadlineMode.STRICT:
            raise DeadlineExceeded(f"{policy.policy_id}: {why}; its action was not used; find out what is slow")
        self._late_in_row += 1
        self._note(late=True)
        if self._late_in_row >= self._breaches_in_row:
            self._trip(f"{self._late_in_row} calls in a row were late; the last: {why}")
        elif len(self._window) >= _RATED_MIN and self._late_in_window > self._breach_share * len(self._window):
            self._trip(f"{self._late_in_window} of the last {len(self._window)} calls were late; the last: {why}")
        info["action_reason"] = "deadline_exceeded"
        return _HOLD, info

    def _in_time(self) -> None:
        self._late_in_row = 0
        if self._late_in_window:
            self._note(late=False)
        else:  # the one that falls out was in time too
            self._window.append(False)

    def _note(self, *, late: bool) -> None:
        if len(self._window) == _WINDOW:
            self._late_in_window -= self._window[0]
        self._window.append(late)
        self._late_in_window += late

    def _forget(self) -> None:
        self._window.clear()
        self._late_in_row = self._late_in_window = 0

    def _trip(self, why: str) -> None:
        self._tripped_ns = self._now_ns()
        self.why = why
        self._forget()
        self._tell("policy_tripped", f"{why}; hold-cash answers for {self._recover_ns / 1e9:g} s")

    def _try_to_recover(self, policy: Policy) -> None:
        """Some calls on zeros: hold-cash steps back only for a policy that keeps its deadline."""
        try:
            p95 = self._measured(policy).percentile_us(95)
        except PolicyError as error:
            self._tripped_ns, self.why = self._now_ns(), str(error)
            return
        if p95 > self._deadline_us:
            self._tripped_ns = self._now_ns()
            return
        self._tripped_ns, self.why = None, ""
        self._tell("policy_recovered", f"{policy.policy_id} answers in {p95:.1f} us (P95) again")

    def _faulty(self, fault: Exception, start: int) -> tuple[TradingAction, Info]:
        """Numbers that are none, or a policy that raises: no action follows."""
        self.fault_count += 1
        if self.mode is DeadlineMode.STRICT:
            raise fault
        self.prediction_count += 1
        self._tell("policy_fault", str(fault))
        policy = cast("Policy", self._policy)
        kind = policy.metadata.format if isinstance(policy, NetworkPolicy) else type(policy).__name__
        return _HOLD, {
            "policy_id": policy.policy_id,
            "policy_type": kind,
            "action_reason": "policy_fault"
            if isinstance(fault, PolicyFault)
            else f"policy_raised_{type(fault).__name__}",
            "latency_us": (perf_counter_ns() - start) / 1000,
            "is_fallback": False,
            "prediction_count": self.prediction_count,
        }

    def _measured(self, policy: Policy) -> LatencyHistogram:
        histogram = LatencyHistogram()
        zeros = np.zeros(_inputs(policy), dtype=np.float32)
        for _ in range(_RECOVERY_CALLS):
            start = perf_counter_ns()
            policy.predict(zeros)
            histogram.record(perf_counter_ns() - start)
        return histogram

    def _check_features(self, policy: NetworkPolicy) -> None:
        if self._features and policy.metadata.features != self._features:
            mine = policy.metadata.features
            other = next(
                (pair for pair in zip(mine, self._features, strict=False) if pair[0] != pair[1]),
                (len(mine), len(self._features)),
            )
            raise PolicyUnusable(
                f"the bundle {os.fspath(self._folder or '')} was made for other features ({other[0]} where"
                f" {other[1]} is given); it was not loaded; train it on these features"
            )

    def _tell(self, what: str, why: str) -> None:
        try:
            self._alert(what, why)
        except Exception:  # noqa: BLE001 - an operator who is not told is no reason to stop trading
            _log.exception("an alert could not be given: %s: %s", what, why)


def _inputs(policy: Policy) -> int:
    """How many values a policy is shown for practice; one that is no network may be given any number."""
    return policy.metadata.inputs if isinstance(policy, NetworkPolicy) else _ANY_INPUTS
