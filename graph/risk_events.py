"""What risk has to tell, to whoever wants to hear it: changes of the trading state, and what went wrong with them.

Everything that people have to know at once comes by here, from any thread: see `checkpoints.trading_state.Tell`.
"""

import asyncio
import inspect
import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from agents.domain import KillSwitchReason

__all__ = ["RiskCallback", "RiskEvent", "RiskEvents"]

_log = logging.getLogger(__name__)
_WAITING_MAX = 1_000
"""Calls of asynchronous callbacks that have not ended; what comes then is dropped and counted."""


@dataclass(frozen=True, slots=True)
class RiskEvent:
    """`kind`: TradingChanged, AuditFailed, HaltFileFailed, TripFailed, CancelFailed ...; `detail` by kind.

    `reason`: the kill switch's code, where the event has one.
    """

    kind: str
    detail: Mapping[str, Any]
    reason: KillSwitchReason | None = None


RiskCallback: TypeAlias = Callable[[RiskEvent], Any]


class RiskEvents:
    """Tells every subscriber, in the order in which they came. A callback that fails is counted, and keeps no other.

    A synchronous callback is called at once, in the thread that tells, and must not wait. An asynchronous one is begun
    on the event loop in which it subscribed, and bounded by `seconds`: a halt waits for nobody who hears of it.
    """

    def __init__(self, seconds: float = 5.0) -> None:
        self.seconds = seconds
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._subscribers: list[Callable[[RiskEvent], None]] = []
        self._waiting: set[asyncio.Task[None]] = set()

    def subscribe(self, callback: RiskCallback) -> Callable[[], None]:
        """Let a callback hear of everything from now on; gives what ends that.

        Raises:
            RuntimeError: the callback is a coroutine function, and no event loop runs here.
        """
        tell = partial(self._call, callback)
        if inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(getattr(callback, "__call__", None)):  # noqa: B004
            tell = partial(self._hand_over, asyncio.get_running_loop(), callback)
        with self._lock:
            self._subscribers.append(tell)
        return lambda: self._forget(tell)

    def __call__(self, kind: str, detail: Mapping[str, Any]) -> None:
        """Tell; never raises, and waits for no one."""
        event = RiskEvent(kind, dict(detail), _reason(detail.get("code")))
        with self._lock:
            self.counts[kind] += 1
            subscribers = tuple(self._subscribers)
        for tell in subscribers:  # outside of the lock: a callback may subscribe, and tell something itself
            tell(event)

    async def settle(self) -> None:
        """Wait until the callbacks of this event loop have ended; each is bounded by `seconds`."""
        await asyncio.sleep(0)  # what other threads have handed over is begun
        here = asyncio.get_running_loop()
        if waiting := [task for task in tuple(self._waiting) if task.get_loop() is here]:
            await asyncio.wait(waiting, timeout=self.seconds)

    def _forget(self, tell: Callable[[RiskEvent], None]) -> None:
        with self._lock:
            if tell in self._subscribers:
                self._subscribers.remove(tell)

    def _call(self, callback: RiskCallback, event: RiskEvent) -> None:
        try:
            callback(event)
        except Exception as error:  # noqa: BLE001 - who does not hear of it must not keep it from happening
            self._failed(event, error)

    def _hand_over(self, loop: asyncio.AbstractEventLoop, callback: RiskCallback, event: RiskEvent) -> None:
        try:
            loop.call_soon_threadsafe(self._begin, callback, event)
        except RuntimeError as error:  # the loop is closed
            self._failed(event, error)

    def _begin(self, callback: RiskCallback, event: RiskEvent) -> None:
        if len(self._waiting) >= _WAITING_MAX:
            self._failed(event, RuntimeError(f"{_WAITING_MAX} callbacks have not ended; it was not called"))
            return
        task = asyncio.get_running_loop().create_task(self._bounded(callback, event))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _bounded(self, callback: RiskCallback, event: RiskEvent) -> None:
        try:
            async with asyncio.timeout(self.seconds):
                await callback(event)
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(event, error)

    def _failed(self, event: RiskEvent, error: Exception) -> None:
        with self._lock:
            self.counts["CallbackFailed"] += 1
        _log.warning("a callback was not told of %s: %r", event.kind, error)


def _reason(code: Any) -> KillSwitchReason | None:
    try:
        return KillSwitchReason(code)
    except ValueError:
        return None
