"""The policy of a run: loaded when it is first needed, and tried again when that is due, off the event loop."""

import asyncio
import threading
from typing import Any

from agents.domain import TradingAction
from agents.policy import DeadlineMode, ExecutionAgent, Info, Observation, agent_named
from agents.policy.agent import Alert

__all__ = ["PolicyKeeper"]


class PolicyKeeper:
    """Keeps the one agent of a name and a pin, for all runs of this process; the graph asks it as it would any policy.

    Decisions that took seconds are not held for microseconds, so the agent's deadline is off; what is faulty is held.
    """

    def __init__(self, name: str, pinned_sha256: str, alert: Alert) -> None:
        self.name = name
        self._pinned = pinned_sha256
        self._alert = alert
        self._agent: ExecutionAgent | None = None
        self._loading = threading.Lock()
        self._asking = threading.Lock()  # an agent is not for two threads at once, and a server has several loops

    async def ready(self) -> ExecutionAgent:
        """The agent. It is loaded, and where its bundle could not be used, tried again once that is due."""
        agent = self._agent
        return agent if agent is not None and not agent.reload_due else await asyncio.to_thread(self._load)

    def fast(self, **options: Any) -> ExecutionAgent:
        """An agent of the same policy for the fast lane, with a deadline, and nobody else's."""
        return agent_named(self.name, self._pinned, alert=self._alert, **options)

    @property
    def policy_id(self) -> str:
        return self.name if self._agent is None else self._agent.policy_id

    def predict(self, observation: Observation, deterministic: bool = True) -> tuple[TradingAction, Info]:
        """The agent's answer."""
        agent = self._agent or self._load()
        with self._asking:
            return agent.predict(observation, deterministic)

    def _load(self) -> ExecutionAgent:
        with self._loading:
            if self._agent is None:
                self._agent = agent_named(self.name, self._pinned, alert=self._alert, mode=DeadlineMode.OFF)
            elif self._agent.reload_due:
                self._agent.reload()
            return self._agent
