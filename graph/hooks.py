"""Callbacks of whoever builds on this: asked in their order, bounded in time, and never in the way of what calls them.

A hook that is a coroutine function, or returns an awaitable, is waited for, at most `seconds`; then it is cancelled,
and left to end by itself where it does not heed that. While it does not end, it is not called again. A synchronous hook
runs on the event loop, and nothing can bound it: it must not wait.
"""

import asyncio
import inspect
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from agents.errors import ConfigError

__all__ = ["Failed", "Hook", "Hooks"]

_log = logging.getLogger(__name__)

Hook: TypeAlias = Callable[..., Any]
Failed: TypeAlias = Callable[[str, Exception], Awaitable[None]]
"""Is told of a hook that failed: where it hangs, and its error."""


@dataclass(slots=True, eq=False)
class _Place:
    """One hook where it hangs; `hung`: a call of it that was given up, and has not ended."""

    hook: Hook
    hung: "asyncio.Future[Any] | None" = None

    def ended(self, task: "asyncio.Future[Any]") -> None:
        self.hung = None
        if not task.cancelled() and task.exception() is not None:
            _log.warning("a hook that had been given up failed: %r", task.exception())


class Hooks:
    """Hooks by the `names` of the places where they hang. `calls` and `failures` count by name."""

    def __init__(self, names: Iterable[str], seconds: float = 1.0) -> None:
        self._places: dict[str, list[_Place]] = {name: [] for name in names}
        self.seconds = seconds
        self.calls: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()

    def add(self, name: str, hook: Hook) -> Callable[[], None]:
        """Hang a hook up; gives what takes it down again.

        Raises:
            ConfigError: there is no place of this name.
        """
        if name not in self._places:
            raise ConfigError(f"there is no hook {name!r:.40}; it was not added; there are {', '.join(self._places)}")
        places, place = self._places[name], _Place(hook)
        places.append(place)
        return lambda: places.remove(place) if place in places else None

    async def fire(self, name: str, *args: Any, failed: Failed | None = None) -> None:
        """Call all of a place, one after the other. Their answers count for nothing; a failure is logged and told."""
        for place in tuple(self._places[name]):
            self.calls[name] += 1
            try:
                await self._call(place, args)
            except Exception as error:  # noqa: BLE001 - whatever a hook does, it is in nobody's way
                self.failures[name] += 1
                _log.warning("a hook of %s failed: %r", name, error)
                if failed is not None:
                    await failed(name, error)

    async def close(self) -> None:
        """Give those that hung one more moment to end."""
        hung = [place.hung for places in self._places.values() for place in places if place.hung is not None]
        if hung:
            await asyncio.wait(hung, timeout=self.seconds)

    async def _call(self, place: _Place, args: tuple[Any, ...]) -> None:
        if place.hung is not None:
            raise TimeoutError(f"{_named(place.hook)} was given up and has not ended yet; it was not called; mend it")
        answer = place.hook(*args)
        if not inspect.isawaitable(answer):
            return
        task = asyncio.ensure_future(answer)
        try:
            await asyncio.wait({task}, timeout=self.seconds)
        finally:
            if not task.done():
                task.cancel()
                place.hung = task
                task.add_done_callback(place.ended)
        if not task.done():
            raise TimeoutError(f"{_named(place.hook)} did not end within {self.seconds:g} s; it was given up")
        if task.cancelled():
            raise RuntimeError(f"{_named(place.hook)} was cancelled, and not by us")
        task.result()


def _named(hook: Hook) -> str:
    return str(getattr(hook, "__qualname__", None) or f"{hook!r:.60}")
