"""Timeouts: the exact semantics of `asyncio.timeout`, at a fraction of its price, and deadlines that travel inwards.

Both kinds here cancel the task and, on the way out, tell their own cancellation from anybody else's: the number of
cancellations that were already pending is recorded at entry (`cancelling()`), and a CancelledError becomes a timeout
only if `uncancel()` comes back to that number. So a cancellation from outside is never swallowed, not even one that
arrives in the same turn of the loop. (`asyncio.wait_for` loses such cancellations on 3.11, and `asyncio.timeout`
there compares with 0 instead of the number at entry.)

A timeout bounds awaits. Code that computes without awaiting is interrupted by nobody.
"""

import asyncio
import math
import sys
from collections.abc import Callable
from contextvars import ContextVar
from traceback import walk_tb
from types import TracebackType
from typing import Any, Self

from agents.clock import monotonic

__all__ = [
    "EARLY_SECONDS",
    "SCOPE",
    "DeadlineQueue",
    "Scope",
    "TimeLimit",
    "current_task",
    "forget_leaks",
    "give_way",
    "open_scope",
    "take_back",
    "time_left",
    "time_of",
    "without_cancellation",
]

Scope = list[Any]
"""One guarded call's deadline: [loop time or None, the scope around it or None]. None in front: the call is over.

In a DeadlineQueue, behind these: the time when the call is struck; or, once it was, [..., timer of a second strike or
None, number of strikes].

A scope is closed by that None, not by restoring the context: it is cheaper, it is right even where a coroutine is
closed in another context than its own, and a task that outlives the call that started it is not bound by it any more.
(A list, because an object of a class takes five times as long to make.)
"""

SCOPE: ContextVar[Scope | None] = ContextVar("holdfast_scope", default=None)

EARLY_SECONDS = 1e-4  # a loop may run a timer this much too soon (uvloop counts in milliseconds)


def time_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """The loop's clock, without the detour through the loop where that is the plain monotonic clock anyway."""
    plain = getattr(type(loop), "time", None) is asyncio.BaseEventLoop.time and "time" not in vars(loop)
    return monotonic if plain else loop.time


def open_scope() -> Scope | None:
    """The innermost scope around us whose call is not over."""
    return _open(SCOPE.get())


def _open(scope: Scope | None) -> Scope | None:
    while scope is not None and scope[0] is None:
        scope = scope[1]
    return scope


def time_left() -> float | None:
    """Seconds until the deadline of the guarded call that we run in, or None outside of any; for agents to look at."""
    scope = open_scope()
    until = None if scope is None else scope[0]
    return None if until is None else until - asyncio.get_running_loop().time()


if sys.version_info >= (3, 12):
    from asyncio import current_task
else:
    # Until 3.11 asyncio.current_task is Python code around this lookup, and a tenth of a guarded call's time.
    from asyncio.tasks import _current_tasks  # type: ignore[attr-defined]

    current_task: Callable[[asyncio.AbstractEventLoop | None], "asyncio.Task[Any] | None"] = _current_tasks.get


def forget_leaks(task: "asyncio.Task[Any]", pending: int, error: BaseException | None) -> None:
    """Undo what asyncio.TaskGroup forgets up to Python 3.12; call it where `error` was caught.

    A group whose child fails while the group is closing cancels its own task to wake it, and never takes that back.
    The task then looks as if somebody wanted it cancelled, and every limit further out would believe so. `pending` is
    how many cancellations are rightly counted; of those above it, one is taken back for every such group on the
    error's way to here.
    """
    if sys.version_info >= (3, 13):
        return
    for _ in range(8):  # an error and what it was raised from
        if error is None or task.cancelling() <= pending:
            return
        for frame, _line in walk_tb(error.__traceback__):
            closing = frame.f_locals if frame.f_code is _CLOSING_GROUP else {}
            group = closing.get("self")
            if group is None or closing.get("et") is not None:
                continue  # a group whose body was cut short takes its cancellation back by itself
            if group._parent_task is task and group._parent_cancel_requested:  # noqa: SLF001
                group._parent_cancel_requested = False  # noqa: SLF001 - its error may come by again
                task.uncancel()
                if task.cancelling() <= pending:
                    return
        error = error.__cause__ or error.__context__


_CLOSING_GROUP = asyncio.TaskGroup.__aexit__.__code__


def without_cancellation(error: BaseException) -> BaseException | None:
    """What is left of an error without the cancellations in it, which may come back in a group; None if nothing is."""
    if isinstance(error, asyncio.CancelledError):
        return None
    if isinstance(error, BaseExceptionGroup) and not isinstance(error, Exception):
        return error.split(asyncio.CancelledError)[1]
    return error


class TimeLimit:
    """A limit for one block that awaits: `with TimeLimit(when): ...` cancels the task at `when` (loop time, or inf).

    After the block `expired` says whether it was this limit that struck. Expiry raises TimeoutError if the
    cancellation was ours alone; a block that swallows its cancellation and returns, returns.
    """

    __slots__ = ("_baseline", "_handle", "_task", "expired", "when")

    def __init__(self, when: float) -> None:
        self.when = when
        self.expired = False

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        task = current_task(loop)
        if task is None:
            raise RuntimeError("a time limit needs a task to cancel: await it inside a coroutine that a loop runs")
        self._task = task
        self._baseline = task.cancelling()
        self._handle: asyncio.Handle | None = None
        if self.when <= loop.time():
            self._handle = loop.call_soon(self._strike)
        elif self.when < math.inf:
            self._handle = loop.call_at(self.when, self._strike)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.cancel()
        if not self.expired or self._task.uncancel() > self._baseline or error is None:
            return
        left = without_cancellation(error)
        if left is None:
            raise TimeoutError from error
        if left is not error:
            raise left

    def _strike(self) -> None:
        self.expired = True
        self._task.cancel()


class DeadlineQueue:
    """Equal limits expire in the order in which they began, so one FIFO and one armed timer serve all of them.

    A call costs one insertion and one removal in a dict instead of a timer of its own. One queue per loop and per
    limit; at most one entry per task at a time (a guard that is entered twice by one task takes a TimeLimit).
    Bounded by the number of tasks that are inside the guard.

    A call that goes on in spite of it is struck a second time at its deadline, its own or that of a call around it, as
    in one `asyncio.timeout` inside another. Who has lost its entry ends with `take_back`.
    """

    __slots__ = ("entries", "handle", "loop", "now", "thread")

    def __init__(self, loop: asyncio.AbstractEventLoop | None, thread: int) -> None:
        self.loop = loop  # None: no loop yet, and no thread has the number 0
        self.thread = thread
        self.now = monotonic if loop is None else time_of(loop)
        self.entries: dict[asyncio.Task[Any], Scope] = {}
        self.handle: asyncio.TimerHandle | None = None

    def arm(self, when: float) -> None:
        """Wake up at `when`, the oldest entry's time."""
        assert self.loop is not None  # noqa: S101
        self.handle = self.loop.call_at(when, self._strike)

    def _strike(self) -> None:
        self.handle = None
        due = self.now() + EARLY_SECONDS
        while self.entries:
            task, scope = next(iter(self.entries.items()))
            if scope[2] > due:
                self.arm(scope[2])
                return
            del self.entries[task]  # the absence of the entry tells the call whose cancellation this is
            scope[2:] = None, 1
            task.cancel()
            around = _open(scope)
            if around is not None and due < around[0] < math.inf:
                self._strike_again(task, scope, around[0])

    def _strike_again(self, task: "asyncio.Task[Any]", scope: Scope, until: float) -> None:
        if until > self.now() + EARLY_SECONDS:
            assert self.loop is not None  # noqa: S101
            scope[2] = self.loop.call_at(until, self._strike_again, task, scope, until)
        else:
            scope[2:] = None, 2
            task.cancel()


def take_back(task: "asyncio.Task[Any]", scope: Scope) -> int:
    """End a call that its DeadlineQueue has struck: uncancel every strike, let none follow; return their number."""
    _, _, timer, strikes = scope
    if timer is not None:
        timer.cancel()
    for _ in range(strikes):
        task.uncancel()
    return int(strikes)


def give_way(error: Exception) -> None:
    """Where the task was cancelled, and the cancellation has come out as another error, be cancelled all the same.

    Whoever goes on after any error would go on for ever otherwise, and so would the group that waits for it.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError from error
