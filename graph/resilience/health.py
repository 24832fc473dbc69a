"""Health: is this agent able to answer? Calls that flow say so for nothing; only a silent agent is pinged."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from agents.errors import AgentUnhealthy, ConfigError
from graph.resilience.attempt import failure_of
from graph.resilience.breaker import BreakerState, CircuitBreaker
from graph.resilience.events import HealthChanged, Observer, Observers
from graph.resilience.invoke import invoke
from graph.resilience.outcome import brief
from graph.resilience.timeout import TimeLimit

__all__ = ["Health", "HealthMonitor"]


@dataclass(frozen=True, slots=True)
class Health:
    """One agent's health. `reason` says where it is known from; `seconds` is how long the ping took (0 without)."""

    name: str
    healthy: bool
    reason: str
    seconds: float = 0.0


class HealthMonitor:
    """Checks agents by what their breakers saw, and by a ping where these saw nothing.

    An open or isolated breaker is unhealthy without a ping (it opens its own way back by probes). A closed breaker
    whose agent has answered since the last check, and has not failed after that, is healthy without a ping.

    Args:
        pings: name -> a function without arguments that answers anything but None while its agent works.
        breakers: name -> the breaker of the same agent (`guard.breakers[guard.name]`), where there is one.
        ping_timeout: seconds for one ping.
        interval: seconds between the checks of `wait_for_healthy`.
        observers: hear HealthChanged.
    """

    __slots__ = ("_answers", "_breakers", "_interval", "_observers", "_ping_timeout", "_pings", "_was")

    def __init__(
        self,
        pings: Mapping[str, Callable[[], Any]],
        *,
        breakers: Mapping[str, CircuitBreaker] | None = None,
        ping_timeout: float = 5.0,
        interval: float = 5.0,
        observers: Iterable[Observer] = (),
    ) -> None:
        if not (ping_timeout > 0 and interval > 0):
            raise ConfigError(
                f"a health monitor has ping_timeout {ping_timeout!r} and interval {interval!r}, and was not made; "
                "both must be above 0 s"
            )
        self._pings = dict(pings)
        self._breakers = dict(breakers or {})
        self._ping_timeout, self._interval = ping_timeout, interval
        self._observers = Observers(observers)
        self._answers = {name: breaker.answers for name, breaker in self._breakers.items()}
        self._was: dict[str, bool] = {}

    async def check(self, name: str) -> Health:
        """Check one agent.

        Raises:
            ConfigError: no agent has this name.
        """
        if name not in self._pings:
            raise ConfigError(
                f"there is no agent {name!r} to check; there are {', '.join(sorted(self._pings)) or 'none'}"
            )
        health = self._from_breaker(name) or await self._ping(name)
        if self._was.get(name) is not health.healthy:
            self._was[name] = health.healthy
            if self._observers.present:
                at = asyncio.get_running_loop().time()
                self._observers(HealthChanged(name, name, at, health.healthy, health.reason))
        return health

    async def check_all(self) -> dict[str, Health]:
        """Check every agent, all at the same time: it takes as long as the slowest ping, at most `ping_timeout`."""
        async with asyncio.TaskGroup() as group:
            tasks = {name: group.create_task(self.check(name)) for name in self._pings}
        return {name: task.result() for name, task in tasks.items()}

    async def wait_for_healthy(self, name: str, timeout: float = 60.0) -> Health:  # noqa: ASYNC109
        """Check until the agent is healthy, every `interval` seconds.

        Raises:
            AgentUnhealthy: it was not within `timeout` seconds.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        limit = TimeLimit(until)
        health = Health(name, healthy=False, reason="no check has ended")
        try:
            with limit:
                while True:  # until healthy, or the limit
                    health = await self.check(name)
                    if health.healthy:
                        return health
                    await asyncio.sleep(self._interval)
        except TimeoutError:
            if not limit.expired:
                raise
        raise AgentUnhealthy(
            f"{name!r} did not become healthy within {timeout:.3g} s ({health.reason}); it is not used; "
            "see its own log, or wait longer"
        )

    def _from_breaker(self, name: str) -> Health | None:
        breaker = self._breakers.get(name)
        if breaker is None:
            return None
        before, self._answers[name] = self._answers[name], breaker.answers
        if breaker.state is BreakerState.ISOLATED or breaker.open_seconds_left() > 0:
            return Health(name, healthy=False, reason=f"its breaker is {breaker.state} ({breaker.reason})")
        if breaker.state is BreakerState.CLOSED and breaker.answers > before and breaker.failures == 0:
            return Health(name, healthy=True, reason="it answers calls")
        return None

    async def _ping(self, name: str) -> Health:
        loop = asyncio.get_running_loop()
        began = loop.time()
        # In a task of its own, what the ping does to its task is not mistaken for what the caller wants of theirs.
        async with asyncio.TaskGroup() as group:
            answer = group.create_task(self._asked(name, began + self._ping_timeout))
        healthy, reason = answer.result()
        return Health(name, healthy=healthy, reason=reason, seconds=loop.time() - began)

    async def _asked(self, name: str, until: float) -> tuple[bool, str]:
        limit = TimeLimit(until)
        try:
            with limit:
                answer = await invoke(self._pings[name], (), {})
        except BaseException as error:
            if failure_of(name, error) is None:
                raise
            if limit.expired and isinstance(error, TimeoutError | asyncio.CancelledError):
                return False, f"no answer to a ping in {self._ping_timeout:.3g} s"
            return False, brief(error)
        return answer is not None, "it answers pings" if answer is not None else "its ping answered None"
