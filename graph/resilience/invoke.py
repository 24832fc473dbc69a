"""How any callable is called: coroutine functions on the loop, all others on a thread of a small pool.

A thread cannot be stopped. When a synchronous call is timed out or cancelled, its caller goes on at once, and its
thread stays busy until the call returns by itself: a call that hangs for ever costs one of `THREADS_MAX` threads for
ever. When all are lost, synchronous calls wait in line, inside their attempt timeout, and their breakers open. The
threads are daemons, so a hung one does not keep the process alive; a call that was still running when the process
ends is cut off. A call that was given up before its turn came is never started.
"""

import asyncio
import contextvars
import inspect
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from typing import Any

from agents.errors import BulkheadFull, ConfigError

__all__ = ["THREADS_MAX", "WAITING_MAX", "DaemonThreads", "check_guardable", "invoke", "is_async"]

THREADS_MAX = 32
WAITING_MAX = 1024


def is_async(fn: Callable[..., Any]) -> bool:
    """Whether calling `fn` gives a coroutine: also for partials, bound methods and objects with an async `__call__`."""
    while isinstance(fn, partial):
        fn = fn.func
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(_method_of(fn))


def check_guardable(fn: Any) -> None:
    """Refuse what a guard around the call would not guard.

    Raises:
        ConfigError: `fn` cannot be called, or is a generator function, asynchronous or not.
    """
    if not callable(fn):
        raise ConfigError(f"{fn!r:.80} cannot be called, nor guarded; give a function (of a runnable, its `ainvoke`)")
    called = fn
    while isinstance(called, partial):
        called = called.func
    called = _method_of(called) or called
    awaited = inspect.isgeneratorfunction(called) and called.__code__.co_flags & inspect.CO_ITERABLE_COROUTINE
    if inspect.isasyncgenfunction(called) or (inspect.isgeneratorfunction(called) and not awaited):
        raise ConfigError(
            f"{called.__qualname__} is a generator function, and cannot be guarded: it does its work when the call is "
            "over; guard a function that collects what it yields, and returns that"
        )


def _method_of(fn: Any) -> Any:
    """What calling an object calls, or None for a function or class."""
    return None if inspect.isroutine(fn) or inspect.isclass(fn) else getattr(type(fn), "__call__", None)  # noqa: B004


async def invoke(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call `fn`, on a thread if it is synchronous, and return its answer; an awaitable answer is awaited.

    The thread sees the caller's context variables. It goes through the loop's `run_in_executor`, so that a loop with
    virtual time may run it inline.

    Raises:
        ConfigError: `fn` is a generator function, or cannot be called.
    """
    if is_async(fn):
        return await fn(*args, **kwargs)
    check_guardable(fn)
    in_context = partial(contextvars.copy_context().run, _no_stop_iteration, fn, args, kwargs)
    answer = await asyncio.get_running_loop().run_in_executor(_threads, in_context)
    return await answer if inspect.isawaitable(answer) else answer


def _no_stop_iteration(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return fn(*args, **kwargs)
    except StopIteration as error:  # no future can carry one; a coroutine would turn it into this too
        raise RuntimeError("the called function raised StopIteration") from error


class DaemonThreads(Executor):
    """At most `threads_max` daemon threads, started when needed and kept; at most `waiting_max` calls in line."""

    def __init__(self, threads_max: int = THREADS_MAX, waiting_max: int = WAITING_MAX) -> None:
        self._threads_max = threads_max
        self._waiting_max = waiting_max
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._unstarted = 0  # jobs that no thread has taken yet
        self._idle = 0
        self._started = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Queue one call.

        Raises:
            BulkheadFull: all threads are busy and `waiting_max` calls are in line already; or there is no thread, and
                none can be started.
        """
        future: Future[Any] = Future()
        with self._lock:
            if self._unstarted - self._idle >= self._waiting_max:
                raise BulkheadFull(
                    f"{self._started} synchronous calls are running and {self._unstarted} wait for a thread; this one "
                    "was not made; find the calls that hang, or make them async"
                )
            if self._unstarted >= self._idle and self._started < self._threads_max:
                self._start_thread()
            self._unstarted += 1
            self._jobs.put((future, partial(fn, *args, **kwargs)))
        return future

    def _start_thread(self) -> None:
        try:
            threading.Thread(target=self._work, name=f"guarded-call-{self._started + 1}", daemon=True).start()
        except RuntimeError as error:
            if self._started == 0:  # else the call waits in line for one of those that there are
                raise BulkheadFull(
                    f"no thread can be started for a synchronous call ({error}), and it was not made; "
                    "see the system's limits on threads and memory"
                ) from error
        else:
            self._started += 1

    def _work(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            future, job = self._jobs.get()
            with self._lock:
                self._idle -= 1
                self._unstarted -= 1
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(job())
            except BaseException as error:  # noqa: BLE001 - the awaiting side raises it
                future.set_exception(error)
            del future, job  # an idle thread must not keep the last call's arguments alive


_threads = DaemonThreads()


def _new_threads() -> None:
    global _threads  # noqa: PLW0603 - a forked child has none of its parent's threads
    _threads = DaemonThreads()


os.register_at_fork(after_in_child=_new_threads)
