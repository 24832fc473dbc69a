import asyncio
import contextvars
import functools
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agents.errors import AgentTimeout, BulkheadFull
from graph.resilience import Guard
from graph.resilience.invoke import DaemonThreads, invoke, is_async

ROOT = Path(__file__).parents[3]

real_loop = pytest.mark.asyncio(loop_factories=["real"])


async def coroutine(x=0):
    return x


def plain(x=0):
    return x


def returns_an_awaitable(*args, fn=coroutine):
    return fn(*args)


class Callable:
    async def __call__(self, x=0):
        return x

    def method(self):
        return 1

    async def amethod(self):
        return 1


class PlainCallable:
    def __call__(self, x=0):
        return x


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (coroutine, True),
        (functools.partial(coroutine, 1), True),
        (functools.partial(functools.partial(Callable()), 1), True),
        (Callable(), True),
        (Callable().amethod, True),
        (Callable, False),
        (Callable().method, False),
        (PlainCallable(), False),
        (plain, False),
        (returns_an_awaitable, False),
        (len, False),
        (int, False),
    ],
)
def test_coroutine_functions_are_told_from_others(fn, expected):
    assert is_async(fn) is expected


@pytest.mark.parametrize(
    "fn",
    [
        coroutine,
        plain,
        Callable(),
        PlainCallable(),
        returns_an_awaitable,
        functools.partial(plain),
        functools.partial(coroutine),
    ],
)
async def test_all_kinds_of_callables_answer_through_a_guard(fn, path):
    assert await Guard("any", **path)(fn, 7) == 7


@real_loop
async def test_a_synchronous_call_runs_on_a_thread_and_sees_the_context(path):
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("seen")

    def look():
        return threading.current_thread(), variable.get()

    thread, value = await Guard("any", **path)(look)
    assert thread is not threading.main_thread()
    assert thread.daemon
    assert value == "seen"


@real_loop
async def test_a_hung_synchronous_call_blocks_neither_the_loop_nor_the_caller(path):
    release = threading.Event()
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    with pytest.raises(AgentTimeout):
        await Guard("any", attempt_timeout=0.02, retry=None, **path)(release.wait)
    ticking.cancel()
    release.set()
    assert ticks > 10


@real_loop
async def test_errors_of_a_thread_come_out_as_they_are(path):
    def fail():
        raise KeyError("x")

    with pytest.raises(KeyError):
        await Guard("any", **path)(fail)

    def stop():
        raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        await Guard("any", retry=None, **path)(stop)


@real_loop
async def test_an_awaitable_from_a_synchronous_callable_is_awaited_on_the_loop():
    async def where():
        return threading.current_thread()

    assert await invoke(functools.partial(returns_an_awaitable, fn=where), (), {}) is threading.current_thread()


def test_a_hung_thread_does_not_keep_the_process_alive():
    code = """
import asyncio, threading
from graph.resilience import Guard
async def main():
    try: await Guard("any", attempt_timeout=0.05, retry=None)(threading.Event().wait)
    except TimeoutError: print("timed out")
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True
    )
    assert done.stdout == "timed out\n"


def test_the_pool_is_bounded_and_a_call_given_up_in_line_is_never_made():
    pool, release, made = DaemonThreads(threads_max=2, waiting_max=2), threading.Event(), []
    busy = [pool.submit(release.wait) for _ in range(2)]
    while not all(future.running() for future in busy):
        pass
    given_up, kept = pool.submit(made.append, "given up"), pool.submit(made.append, "kept")
    with pytest.raises(BulkheadFull, match="2 wait for a thread"):
        pool.submit(made.append, "too many")
    assert given_up.cancel()
    release.set()
    kept.result(timeout=10)
    assert made == ["kept"]


class NoThreads:
    """A machine that has no thread left to give, until it is told otherwise."""

    def __init__(self, monkeypatch):
        self.left, start = 0, threading.Thread.start

        def limited(thread):
            if self.left == 0:
                raise RuntimeError("can't start new thread")
            self.left -= 1
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", limited)


def test_a_call_for_which_no_thread_can_be_started_is_refused_and_the_next_may_be_made(monkeypatch):
    machine, pool, made = NoThreads(monkeypatch), DaemonThreads(threads_max=2, waiting_max=2), []
    for _ in range(5):
        with pytest.raises(BulkheadFull, match="can't start new thread"):
            pool.submit(made.append, "never")
    machine.left = 1
    pool.submit(made.append, "now").result(timeout=10)
    assert made == ["now"]


def test_a_call_for_which_no_further_thread_can_be_started_waits_for_one_that_there_is(monkeypatch):
    machine, pool, release = NoThreads(monkeypatch), DaemonThreads(threads_max=2), threading.Event()
    machine.left = 1
    hung = pool.submit(release.wait)
    waiting = pool.submit(str, 7)
    release.set()
    assert waiting.result(timeout=10) == "7"
    assert hung.result(timeout=10)
    machine.left = 1
    gate = threading.Barrier(2)
    both = [pool.submit(gate.wait, 10) for _ in range(2)]  # each needs a thread of its own
    assert sorted(future.result(timeout=10) for future in both) == [0, 1]


def test_threads_are_reused():
    pool = DaemonThreads()
    names = set()
    for _ in range(50):
        names.add(pool.submit(lambda: threading.current_thread().name).result(timeout=10))
    assert len(names) <= 3
