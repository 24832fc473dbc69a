"""How an event loop asks a policy: inline where that is short, else in one thread; kept warm, reloaded beside it."""

import asyncio
from time import perf_counter_ns
from typing import Any

from agents.domain import TradingAction
from agents.errors import DeadlineExceeded
from agents.policy import DeadlineMode, ExecutionAgent, Info, Observation
from graph.resilience.invoke import DaemonThreads

__all__ = ["PolicyLane"]

_Answer = tuple[TradingAction, Info]


class PolicyLane:
    """One agent, asked by one task at a time. `raised`: what it raised last, which only its strict mode lets through.

    A thread cannot be stopped. One without an answer after `answer_seconds` is left; until it ends, everything is held.
    """

    def __init__(self, agent: ExecutionAgent, answer_seconds: float) -> None:
        self.agent = agent
        self.raised: Exception | None = None
        self._seconds = answer_seconds
        self._thread = DaemonThreads(threads_max=1)
        self._asked: asyncio.Future[_Answer] | None = None
        self._reloading: asyncio.Task[bool] | None = None

    async def ask(self, observation: Observation) -> _Answer:
        """The agent's answer, on the event loop or off it, as the agent has measured; HOLD where there is none in time.

        Raises:
            DeadlineExceeded, PolicyFault: in the agent's strict mode.
        """
        try:
            if self.agent.inline:
                return self.agent.predict(observation)
            return await self._ask_thread(observation)
        except Exception as error:
            self.raised = error
            raise

    async def keep_warm(self) -> None:
        """Let the agent practise."""
        if self.agent.inline:
            self.agent.keep_warm()
        elif self._is_free:
            await asyncio.get_running_loop().run_in_executor(self._thread, self.agent.keep_warm)

    def reload_if_due(self) -> None:
        """Try a bundle again that could not be used, in a thread: hold-cash goes on answering."""
        if self.agent.reload_due and (self._reloading is None or self._reloading.done()):
            self._reloading = asyncio.get_running_loop().create_task(asyncio.to_thread(self.agent.reload))

    @property
    def _is_free(self) -> bool:
        return self._asked is None or self._asked.done()

    async def _ask_thread(self, observation: Observation) -> _Answer:
        began = perf_counter_ns()
        if self._is_free:
            loop: Any = asyncio.get_running_loop()
            self._asked = asked = loop.run_in_executor(self._thread, self.agent.predict, observation)
            await asyncio.wait({asked}, timeout=self._seconds)
            if asked.done():
                answer: _Answer = asked.result()
                return answer
        return self._held((perf_counter_ns() - began) / 1000)

    def _held(self, latency_us: float) -> _Answer:
        agent = self.agent
        if agent.mode is DeadlineMode.STRICT:
            raise DeadlineExceeded(
                f"{agent.policy_id} gave no answer within {self._seconds:g} s; nothing was traded; see what is slow"
            )
        return TradingAction.HOLD, {
            "policy_id": agent.policy_id,
            "policy_type": "unknown",
            "action_reason": "no_answer_in_time",
            "latency_us": latency_us,
            "is_fallback": False,
            "prediction_count": agent.prediction_count,
        }
