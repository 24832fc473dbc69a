"""Virtual time: an asyncio loop whose clock jumps to the next timer, so that an hour of waiting takes no time.

    with VirtualClock(seed=7) as clock:
        answer = clock.run(guard(agent, view))
        assert clock.now == ...

The seed fixes the order in which tasks that are ready take their turns, and the jitter of retries: same seed, same
trace. A call that asyncio would give to a thread is made inline, since no clock can see what a thread is waiting for;
for the same reason real sockets, and libraries with threads of their own, have no place in a simulation: the clock
would jump past their timeouts. The technique is that of FoundationDB's simulation (Zhou et al., SIGMOD 2021).
"""

import asyncio
import math
import selectors
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from random import Random
from types import TracebackType
from typing import Any, Self, TypeVar

from graph.resilience.retry import JITTER

__all__ = ["VirtualClock", "VirtualLoop"]

T = TypeVar("T")

_BEGINNING = 1000.0  # not 0: code that takes "no time yet" for false is found
_AT_ONCE = 1e-9  # seconds: timers so close to each other are due together; far out a float cannot tell that much apart


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` is virtual, in seconds. `seed` None keeps asyncio's own order of tasks: first come, first served.

    Raises:
        RuntimeError: "simulation deadlock", where nothing is ready and no timer is set, or only at infinity: nothing
            can ever happen.
    """

    # What asyncio's own loops have, and its type stubs do not tell.
    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _selector: Any
    _clock_resolution: float

    def __init__(self, seed: int | None = None) -> None:
        self._now = _BEGINNING
        self._order = None if seed is None else Random(seed)  # noqa: S311 - no secret
        super().__init__(selectors.DefaultSelector())
        self._poll = self._selector.select
        self._selector.select = self._select
        self._clock_resolution = _AT_ONCE

    def time(self) -> float:
        """Virtual seconds; begins at 1000."""
        return self._now

    def run_in_executor(  # type: ignore[override]  # the stubs' types of `args` need a newer Python to be written
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Call `func` now, in this thread, but outside of the loop; its answer arrives in the next turn of the loop."""
        del executor
        future: asyncio.Future[Any] = self.create_future()
        events._set_running_loop(None)  # noqa: SLF001 - asyncio's own way in and out of a loop
        try:
            self.call_soon(_settle, future.set_result, future, func(*args))
        except Exception as error:  # noqa: BLE001 - whoever awaits the future gets it
            self.call_soon(_settle, future.set_exception, future, error)
        finally:
            events._set_running_loop(self)  # noqa: SLF001
        return future

    def _select(self, timeout: float | None) -> list[Any]:
        ready: list[Any] = self._poll(0)
        if ready or timeout == 0:
            return ready
        if not self._scheduled or self._scheduled[0].when() == math.inf:
            raise RuntimeError(self._deadlock())
        self._now = max(self._now, self._scheduled[0].when())
        self._clock_resolution = max(_AT_ONCE, math.ulp(self._now))
        return []

    def _run_once(self) -> None:
        if self._order is not None and len(self._ready) > 1:
            self._shuffle(self._order)
        super()._run_once()  # type: ignore[misc]

    def _shuffle(self, order: Random) -> None:
        """Tasks may run in any order; plain callbacks keep theirs, which asyncio promises."""
        places = [index for index, handle in enumerate(self._ready) if _is_step(handle)]
        steps = [self._ready[index] for index in places]
        order.shuffle(steps)
        for index, handle in zip(places, steps, strict=True):
            self._ready[index] = handle

    def _deadlock(self) -> str:
        waiting = sorted(task.get_name() for task in asyncio.all_tasks(self) if not task.done())
        names = ", ".join(waiting[:8]) + (", ..." if len(waiting) > 8 else "")
        return (
            f"simulation deadlock at {self._now:.3f} s: nothing is ready and no timer is set, so {len(waiting)} tasks"
            f" would wait for ever ({names}); bound the wait by a timeout, and keep threads and sockets out"
        )


def _settle(settle: Callable[[Any], None], future: asyncio.Future[Any], outcome: Any) -> None:
    if not future.done():  # who asked may have been cancelled since
        settle(outcome)


def _is_step(handle: asyncio.Handle) -> bool:
    return isinstance(getattr(handle._callback, "__self__", None), asyncio.Task)  # type: ignore[attr-defined]  # noqa: SLF001


class VirtualClock:
    """Runs coroutines on one virtual loop, one after another; time goes on from run to run.

    Use it as a context manager, or `close` it.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._loop = VirtualLoop(seed)
        self._runner = asyncio.Runner(loop_factory=lambda: self._loop)

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return self._loop.time()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run to the end, and return what the coroutine returns.

        Raises:
            RuntimeError: nothing can ever happen ("simulation deadlock"), or this is called inside of a running loop.
        """
        if events._get_running_loop() is not None:  # noqa: SLF001 - the public one raises
            coroutine.close()
            raise RuntimeError(
                "a virtual clock cannot run inside of a running loop, and the coroutine was not run; make the test a"
                " plain function, or give pytest-asyncio VirtualLoop as its loop factory"
            )
        before = JITTER.getstate()
        JITTER.seed(self.seed)
        try:
            return self._runner.run(coroutine)
        finally:
            JITTER.setstate(before)

    def close(self) -> None:
        """Cancel what is left on the loop, and close it."""
        self._runner.close()
        self._loop.close()  # the runner does not know of it before its first run

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
