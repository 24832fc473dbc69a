"""A caller's work on its way through the writer, and how the caller is woken when it is done."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection

__all__ = ["Job", "tell"]

T = TypeVar("T")


class Job(Generic[T]):
    """One work, and what became of it. `waiter`: what its caller waits on until it is durable; None for nothing."""

    __slots__ = ("error", "result", "waiter", "work")

    def __init__(self, work: Callable[[Connection], T], waiter: "threading.Lock | asyncio.Future[None] | None") -> None:
        self.work = work
        self.waiter = waiter
        self.result: T | None = None
        self.error: BaseException | None = None

    def outcome(self) -> T:
        """The work's value, or its error, which is raised once."""
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # or the traceback would hold this frame, which holds the error
        return self.result  # type: ignore[return-value]  # T may itself be None


def tell(batch: list[Job[Any]]) -> None:
    """Wake every caller of the batch; an event loop is woken once for all of its own."""
    futures: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for job in batch:
        if isinstance(job.waiter, asyncio.Future):
            futures.setdefault(job.waiter.get_loop(), []).append(job.waiter)
        elif job.waiter is not None:
            job.waiter.release()
    for loop, some in futures.items():
        with suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(_wake, some)


def _wake(futures: "list[asyncio.Future[None]]") -> None:
    for durable in futures:
        if not durable.done():  # it is done when its caller was cancelled
            durable.set_result(None)
