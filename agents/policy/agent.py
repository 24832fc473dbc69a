"""The execution agent: a policy with a soft deadline, and hold-cash when there is no policy that can be trusted.

A soft deadline cannot stop a call that is late, it can only not use what came of it. It is asked for at both levels: of
the policy's own call, and end to end. What follows depends on the mode:

    strict   DeadlineExceeded is raised: fail fast
    guard    the answer is HOLD; after `breaches_in_row` late calls in a row, or where more than `breach_share` of the
             last 1,000 calls were late, hold-cash takes over for `recover_seconds`, and then the policy is tried again
    off      nothing follows, for measuring, and for decisions that took seconds anyway

Not for two threads at once: a policy's buffers are its own. Only `reload` may run beside everything else.
"""

import logging
import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from time import perf_counter_ns, sleep

import numpy as np
from numpy.typing import NDArray

from agents.domain import TradingAction
from agents.errors import ConfigError, DeadlineExceeded, PolicyFault, PolicyUnusable
from agents.policy.breaches import Breaches
from agents.policy.bundle import load_policy
from agents.policy.hold_cash import FALLBACK_ID, HoldCashPolicy, held
from agents.policy.latency import LatencyHistogram
from agents.policy.network import NetworkPolicy
from agents.policy.protocol import Info, Observation, Policy
from agents.policy.slo import SloReport, measure_slo

__all__ = ["Alert", "DeadlineMode", "ExecutionAgent"]

_log = logging.getLogger(__name__)

_HOLD = TradingAction.HOLD
_PROBES = 50
_PROBES_LATE_MAX = 2
"""Of so many calls on zeros: P95 keeps the deadline. A third late one ends the trial, so that it costs no more."""
_ANY_INPUTS = 32
INLINE_US_MAX = 500.0
"""A call that takes longer (P95) is better made in a thread: a hop costs 20 to 110 us, and seldom much more."""

Alert = Callable[[str, str], None]
"""Is told (what, why): `policy_loaded`, `policy_unusable`, `policy_tripped`, `policy_recovered`, `policy_fault`."""


class DeadlineMode(StrEnum):
    STRICT = "strict"
    GUARD = "guard"
    OFF = "off"


def _logged(what: str, why: str) -> None:
    level = logging.INFO if what in {"policy_loaded", "policy_recovered"} else logging.WARNING
    _log.log(level, "%s: %s", what, why)


class _Post:
    """Who answers, and what is known of it. It is exchanged as a whole, so that a reload can run beside a call.

    `policy` None: there is none that can be used; `tripped_ns`: hold-cash answers for it since then; `why`.
    """

    __slots__ = ("breaches", "policy", "tripped_ns", "why")

    def __init__(self, policy: Policy | None, breaches: Breaches, why: str = "") -> None:
        self.policy = policy
        self.breaches = breaches
        self.tripped_ns: int | None = None
        self.why = why


class ExecutionAgent:
    """Answers every observation with an action: its policy's, or HOLD. See the module's text.

    `prediction_count` answers given, of which `fallback_count` by hold-cash; `breach_count` late calls, `fault_count`
    calls that no action followed from, `unusable_count` tries to load a bundle that could not be used. `inline`:
    whether a call is short enough to be made on an event loop, as measured when the bundle was loaded.
    """

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
            pinned_sha256: the hash that the bundle must have (see `load_policy`); empty believes its metadata.
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
        self._limits = (breaches_in_row, breach_share)
        self._recover_ns = int(recover_seconds * 1e9)
        self._alert = alert
        self._now_ns = now_ns
        self._post = self._new_post(None if isinstance(policy, Path) else policy)
        self._faulty_until = -1
        self._tried_ns = 0
        self.prediction_count = self.fallback_count = self.breach_count = self.fault_count = self.unusable_count = 0
        self.inline = True
        if self._folder is not None:
            self.reload()

    @property
    def policy_id(self) -> str:
        """Who answers now."""
        policy = self._post.policy
        return FALLBACK_ID if policy is None or self.is_fallback else policy.policy_id

    @property
    def is_fallback(self) -> bool:
        """Whether hold-cash answers in the place of the policy that was wanted; `why` then says why."""
        post = self._post
        return post.policy is None or post.tripped_ns is not None

    @property
    def why(self) -> str:
        """Why hold-cash answers; empty where it does not."""
        return self._post.why

    @property
    def pin(self) -> str:
        """The hash that pins the bundle which is loaded; empty where there is none."""
        policy = self._post.policy
        return policy.metadata.pin if isinstance(policy, NetworkPolicy) else ""

    @property
    def reload_due(self) -> bool:
        """Whether the bundle cannot be used, and it is time to try it again."""
        missing = self._folder is not None and self._post.policy is None
        return missing and self._now_ns() - self._tried_ns >= self._recover_ns

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
            hot, self.inline = _timed(policy, INLINE_US_MAX)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, hold-cash is there
            self._unusable(str(error) if isinstance(error, PolicyUnusable) else f"{type(error).__name__}: {error}")
            return False
        self._post = self._new_post(policy)
        how = "inline" if self.inline else "in a thread"
        self._tell("policy_loaded", f"{policy.policy_id} answers in {hot.percentile_us(50):.1f} us, to be called {how}")
        return True

    def predict(self, observation: Observation, deterministic: bool = True) -> tuple[TradingAction, Info]:
        """An action, and who took it, why and in what time (`latency_us`, end to end).

        Raises:
            DeadlineExceeded: in strict mode, where the policy's call or all of it took longer than the deadline.
            Exception: in strict mode, what the policy raised; PolicyFault, where the observation or its output is not
                finite or of a wrong shape, or what it answered is no TradingAction.
        """
        start = perf_counter_ns()
        post = self._post
        policy = post.policy
        if policy is None or (post.tripped_ns is not None and not self._recovered(post, policy)):
            count = self.prediction_count = self.prediction_count + 1
            self.fallback_count += 1
            return held(start, count)
        try:
            action, info = policy.predict(observation, deterministic)
            if type(action) is not TradingAction:  # 1 may be BUY here, and was HOLD where the policy comes from
                return self._faulty(policy, _no_action(policy, action), start)
            inner_us = info["latency_us"]
            self.prediction_count = info["prediction_count"] = self.prediction_count + 1
            if info["is_fallback"]:
                self.fallback_count += 1
            latency_us = info["latency_us"] = (perf_counter_ns() - start) / 1000
            # Not an assertion: `python -O` strips those.
            late = latency_us > self._deadline_us or inner_us > self._deadline_us
        except Exception as fault:  # noqa: BLE001 - whatever a policy raises, no action follows from it
            return self._faulty(policy, fault, start)
        if self._watched:
            if late:
                return self._late(post, info, inner_us)
            post.breaches.in_time()
        return action, info

    def keep_warm(self, calls: int = 5) -> None:
        """Call who answers now on zeros, shortly before an answer is needed; it counts as no prediction.

        After a pause of milliseconds caches and branch predictors are cold: the same call takes three to thirty times
        as long. A policy that was tripped is tried again here, where nobody waits for an answer.
        """
        post = self._post
        policy = post.policy
        if policy is None or (post.tripped_ns is not None and not self._recovered(post, policy)):
            for _ in range(calls):
                held(perf_counter_ns(), 0)
            return
        zeros = _zeros(policy)
        for _ in range(calls):
            try:
                policy.predict(zeros)
            except Exception:  # noqa: BLE001 - the next prediction will say so
                return

    def validate_slo(
        self, trials: int = 1_000, *, pacing_seconds: float = 0.0, wait: Callable[[float], None] = sleep
    ) -> SloReport:
        """Measure the policy's answers end to end, with nothing following from a late one; see `measure_slo`.

        None of them counts as a prediction. Hold-cash is measured where there is no policy.

        Raises:
            PolicyFault: the policy has no answer to zeros, and how long that takes would say nothing.
        """
        policy = self._post.policy or HoldCashPolicy()
        twin = ExecutionAgent(policy, mode=DeadlineMode.OFF, alert=lambda _what, _why: None)
        zeros = _zeros(policy)
        report = measure_slo(
            lambda: twin.predict(zeros),
            trials=trials,
            deadline_us=self._deadline_us,
            pacing_seconds=pacing_seconds,
            wait=wait,
        )
        if twin.fault_count:
            raise PolicyFault(f"{policy.policy_id} has no answer to {len(zeros)} zeros; nothing was measured; mend it")
        return report

    # What follows from a call.

    def _new_post(self, policy: Policy | None, why: str = "") -> _Post:
        return _Post(policy, Breaches(*self._limits), why)

    def _unusable(self, why: str) -> None:
        self.unusable_count += 1
        if self._post.policy is None:
            self._post = self._new_post(None, why)
        self._tell("policy_unusable", why)

    def _late(self, post: _Post, info: Info, inner_us: float) -> tuple[TradingAction, Info]:
        latency_us = info["latency_us"]
        self.breach_count += 1
        level = f"the policy took {inner_us:.1f}" if inner_us > self._deadline_us else f"the call took {latency_us:.1f}"
        why = f"{level} us, beyond the deadline of {self._deadline_us:g} us"
        if self.mode is DeadlineMode.STRICT:
            who = info["policy_id"]
            raise DeadlineExceeded(f"{who}: {why}; its action was not used; find out what is slow")
        if too_many := post.breaches.late():
            post.why = f"{too_many}; the last: {why}"
            post.tripped_ns = self._now_ns()
            self._tell("policy_tripped", f"{post.why}; hold-cash answers for {self._recover_ns / 1e9:g} s")
        info["action_reason"] = "deadline_exceeded"
        return _HOLD, info

    def _recovered(self, post: _Post, policy: Policy) -> bool:
        """Whether hold-cash steps back again, which it does for a policy that keeps its deadline."""
        now_ns = self._now_ns()
        if post.tripped_ns is None or now_ns - post.tripped_ns < self._recover_ns:
            return False
        try:
            hot, in_time = _timed(policy, self._deadline_us)
        except Exception as error:  # noqa: BLE001 - one that raises has not recovered
            post.why, in_time = f"{type(error).__name__}: {error}", False
        if not in_time:
            post.tripped_ns = now_ns
            return False
        post.tripped_ns, post.why, post.breaches = None, "", Breaches(*self._limits)
        self._tell("policy_recovered", f"{policy.policy_id} answers in {hot.percentile_us(95):.1f} us (P95) again")
        return True

    def _faulty(self, policy: Policy, fault: Exception, start: int) -> tuple[TradingAction, Info]:
        """Numbers that are none, or a policy that raises: no action follows. Of faults in a row the first is told."""
        self.fault_count += 1
        if self.mode is DeadlineMode.STRICT:
            raise fault
        first = self._faulty_until != self.prediction_count
        self._faulty_until = self.prediction_count = self.prediction_count + 1
        known = isinstance(fault, PolicyFault)
        if first:
            self._tell("policy_fault", str(fault) if known else f"{policy.policy_id} raised {fault!r:.200}")
        return _HOLD, {
            "policy_id": policy.policy_id,
            "policy_type": getattr(policy, "policy_type", type(policy).__name__),
            "action_reason": "policy_fault" if known else f"policy_raised_{type(fault).__name__}",
            "latency_us": (perf_counter_ns() - start) / 1000,
            "is_fallback": False,
            "prediction_count": self.prediction_count,
        }

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


def _no_action(policy: Policy, action: object) -> PolicyFault:
    return PolicyFault(
        f"{policy.policy_id} answered {action!r:.40}, which is no TradingAction; nothing was decided; map its coding"
    )


def _timed(policy: Policy, limit_us: float) -> tuple[LatencyHistogram, bool]:
    """Some calls on zeros, and whether their P95 is within the limit; once it cannot be any more, no further call."""
    histogram, zeros, late = LatencyHistogram(), _zeros(policy), 0
    while histogram.count < _PROBES and late <= _PROBES_LATE_MAX:
        start = perf_counter_ns()
        _, info = policy.predict(zeros)
        taken = perf_counter_ns() - start
        histogram.record(taken)
        late += taken > limit_us * 1000 or info["latency_us"] > limit_us
    return histogram, late <= _PROBES_LATE_MAX


def _zeros(policy: Policy) -> NDArray[np.float32]:
    """What a policy is shown for practice; one that is no network may be given any number of values."""
    inputs = policy.metadata.inputs if isinstance(policy, NetworkPolicy) else _ANY_INPUTS
    return np.zeros(inputs, dtype=np.float32)
