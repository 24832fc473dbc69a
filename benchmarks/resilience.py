"""The guard with every protection on, beside what else there is: what a call costs, and what the others get wrong.

The sides are made in `benchmarks/resilience_peers.py`. The loop gets a turn every 500 calls, as it does in life: that
is when cancelled timers are cleared away. A peer that is not installed is shown as missing.
"""

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from benchmarks import resilience_peers as peers
from benchmarks.harness import Benchmark, Row, rounds_of
from benchmarks.resilience_peers import ATTEMPTS, CONCURRENT, NEVER, Agent, Build, Call, answer

ROUNDS = 25
BATCH_SECONDS = 0.005  # short, so that most batches are not interrupted by the machine's other work
TURN_CALLS = 500

Figures = dict[str, tuple[float, ...]]


async def broken(view: Any) -> Any:
    raise ConnectionError(f"no answer for {view}")


async def patient(view: Any) -> Any:
    await asyncio.sleep(0)
    return view


# -- measuring


async def _seconds_per_call(call: Call, calls: int, *, refused: bool) -> float:
    # A partial is taken apart: what it costs itself is not asked for.
    fn, args = (call.func, call.args) if isinstance(call, partial) else (call, ())
    raised = 0
    began = time.perf_counter()
    for done in range(0, calls, TURN_CALLS):
        for _ in range(min(TURN_CALLS, calls - done)):
            try:
                await fn(*args)
            except Exception:  # noqa: BLE001 - of any library; it costs nothing where nothing is raised
                raised += 1
        await asyncio.sleep(0)
    seconds = (time.perf_counter() - began) / calls
    assert raised == (calls if refused else 0), f"{raised} of {calls} calls raised"
    return seconds


async def _prepared(build: Build, agent: Agent, *, tripped: bool = False) -> Call | None:
    try:
        call = await build(agent)
    except ModuleNotFoundError:
        return None
    for _ in range(20 if tripped else 0):
        with suppress(Exception):
            await call()
    return call


async def in_turn(
    sides: Mapping[str, Build], agent: Agent, rounds: int, *, tripped: bool = False, refused: bool = False
) -> Figures:
    """Seconds a call of every side, all sides in turn in every round; each round makes them anew, and warms them up."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, build in sides.items():
            call = await _prepared(build, agent, tripped=tripped)
            if call is not None:
                guess = await _seconds_per_call(call, 20, refused=refused)
                calls = max(5, min(10_000, int(BATCH_SECONDS / guess)))
                taken[name].append(await _seconds_per_call(call, calls, refused=refused))
    return {name: tuple(seconds) for name, seconds in taken.items()}


async def at_once(sides: Mapping[str, Build], rounds: int) -> Figures:
    """Seconds for CONCURRENT calls at the same time, each of which waits once."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, build in sides.items():
            call = await _prepared(build, patient)
            if call is None:
                continue
            await call()
            began = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                for _ in range(CONCURRENT):
                    group.create_task(call())
            taken[name].append(time.perf_counter() - began)
    return {name: tuple(seconds) for name, seconds in taken.items()}


async def kept_bytes(sides: Mapping[str, Build], *, a_rejection: bool) -> Figures:
    """Memory that one more object takes, or that one more rejected call does not give back."""
    kept: Figures = {}
    for name, build in sides.items():
        made = await _prepared(build, broken, tripped=a_rejection)
        if made is None:
            kept[name] = ()
            continue
        hold: list[Any] = [None] * (5000 if a_rejection else 1000)
        gc.collect()
        tracemalloc.start()
        for number in range(len(hold)):
            if a_rejection:
                with suppress(Exception):
                    await made()
            else:
                hold[number] = await build(answer)
        await asyncio.sleep(0)
        gc.collect()
        kept[name] = (tracemalloc.get_traced_memory()[0] / len(hold),)
        tracemalloc.stop()
    return kept


async def admitted_probes(build: Build) -> float:
    """Of 100 calls at the same time after the open time, so many reach an agent that has not recovered yet."""
    reached = 0

    async def slow(view: Any) -> Any:
        nonlocal reached
        reached += 1
        await asyncio.sleep(0.005)
        raise ConnectionError(f"still no answer for {view}")

    call = await build(slow)
    for _ in range(5):
        with suppress(Exception):
            await call()
    await asyncio.sleep(0.06)
    reached = 0
    await asyncio.gather(*(call() for _ in range(100)), return_exceptions=True)
    return reached


async def failures_to_open(build: Build) -> float:
    """Failures until the breaker refuses, where the caller cancels one call after the fourth. Five is right."""
    mood: list[str] = []

    async def moody(_view: Any) -> Any:
        mood.append("called")
        if len(mood) == 5:
            await asyncio.get_running_loop().create_future()
        raise ConnectionError("no answer")

    call = await build(moody)
    for failures in range(20):
        if failures == 4 and len(mood) == 4:
            task = asyncio.create_task(call())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        before = len(mood)
        with suppress(Exception):
            await call()
        if len(mood) == before:
            return failures
    return NEVER


async def attempts_at_once(build: Build) -> float:
    """Attempts of one node that run at the same time, where a timed-out one takes a while to clean up."""
    running = most = 0

    async def slow(_view: Any) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0.03)
            running -= 1

    call = await build(slow)
    with suppress(Exception):
        await call()
    await asyncio.sleep(0.1)
    return most


async def _counts(count: Callable[[Build], Awaitable[float]], sides: Mapping[str, Build]) -> Figures:
    counted: Figures = {}
    for name, build in sides.items():
        with suppress(ModuleNotFoundError):
            counted[name] = (await count(build),)
    return {name: counted.get(name, ()) for name in sides}


# -- the table

HEALTHY: dict[str, Build] = {
    "ours": peers.ours,
    "assembled": peers.assembled,
    "assembled, async for": peers.assembled_inline,
    "one bare asyncio.timeout": peers.one_timeout,
    "hyx": peers.hyx,
    "tenacity, retry only": peers.tenacity,
    "stamina, retry only": peers.stamina,
    "purgatory, breaker only": peers.purgatory_breaker,
    "aiobreaker, breaker only": peers.aiobreaker,
    "langchain retry + fallbacks": peers.langchain,
}
FAILING: dict[str, Build] = {
    "ours": partial(peers.ours, trips_after=NEVER),
    "assembled": partial(peers.assembled, trips_after=NEVER),
    "assembled, async for": partial(peers.assembled_inline, trips_after=NEVER),
    "hyx": partial(peers.hyx, trips_after=NEVER),
    "langchain retry + fallbacks": peers.langchain,
}
OPEN: dict[str, Build] = {"ours": peers.ours, "assembled": peers.assembled, "hyx": peers.hyx}
REFUSED: dict[str, Build] = {
    "ours": peers.ours_without_fallback,
    "hyx": peers.hyx_breaker,
    "aiobreaker": peers.aiobreaker,
    "purgatory": peers.purgatory_breaker,
}
AT_ONCE: dict[str, Build] = {"ours": peers.ours, "bare": peers.bare, "assembled": peers.assembled, "hyx": peers.hyx}
IN_A_GRAPH: dict[str, Build] = {
    "ours": peers.our_graph,
    "LangGraph retry_policy + timeout": peers.langgraph,
    "unguarded node": peers.unguarded_graph,
}
FAILING_IN_A_GRAPH: dict[str, Build] = {
    "ours": partial(peers.our_graph, trips_after=NEVER),
    "LangGraph retry + error_handler": peers.langgraph,
}
SIZES: dict[str, Build] = {
    "ours": peers.ours,
    "assembled": peers.assembled_of_one_factory,
    "hyx": peers.hyx,
    "langchain": peers.langchain,
}
BREAKERS: dict[str, Build] = {
    "ours": peers.our_breaker,
    "hyx": peers.hyx_breaker,
    "aiobreaker": peers.aiobreaker,
    "purgatory": peers.purgatory_breaker,
}
PROBED = {name: partial(build, open_seconds=0.05) for name, build in BREAKERS.items()}
TIMED: dict[str, Build] = {
    "ours": partial(peers.our_graph, attempt_timeout=0.01),
    "LangGraph": partial(peers.langgraph, attempt_timeout=0.01),
}


def _rows(what: str, taken: Figures, goals: Mapping[str, float], unit: str = "s") -> list[Row]:
    return [
        Row(what, taken["ours"], figures, name, goals.get(name), unit)
        for name, figures in taken.items()
        if name != "ours"
    ]


async def _figures(quick: bool) -> list[Row]:
    rounds = rounds_of(quick, ROUNDS)
    for sides in (HEALTHY, IN_A_GRAPH):
        await in_turn(sides, answer, 1)  # imports everything
    gc.collect()
    gc.freeze()  # what was imported is nobody's cost
    healthy = await in_turn(HEALTHY, answer, rounds)
    goals = {"assembled": 1 / 30, "one bare asyncio.timeout": 1.0}
    rows = _rows("healthy call", healthy, goals)
    rows += _rows("healthy, whole run of a graph of one node", await in_turn(IN_A_GRAPH, answer, rounds), {})
    rows += _rows(f"{ATTEMPTS} attempts fail, the fallback answers", await in_turn(FAILING, broken, rounds), {})
    rows += _rows("the same in a graph of one node", await in_turn(FAILING_IN_A_GRAPH, broken, rounds), {})
    rows += _rows("breaker open, the fallback answers", await in_turn(OPEN, broken, rounds, tripped=True), {})
    refused = await in_turn(REFUSED, broken, rounds, tripped=True, refused=True)
    rows.append(Row("breaker open, the call is refused", refused["ours"], (2e-6,), "allowed seconds", 1.0))
    rows += _rows("breaker open, the call is refused", refused, {})
    leaks = await kept_bytes(REFUSED, a_rejection=True)
    rows.append(Row("memory kept after a refused call", leaks["ours"], (1.0,), "allowed bytes", 1.0, "B"))
    rows += _rows("memory kept after a refused call", leaks, {}, "B")
    rows += _rows(f"{CONCURRENT} calls at once", await at_once(AT_ONCE, rounds), {"bare": 2.0})
    rows += _rows("memory of one more guard", await kept_bytes(SIZES, a_rejection=False), {}, "B")
    rows += _rows("probes let through, of 100 at once", await _counts(admitted_probes, PROBED), {}, "")
    rows += _rows("failures to open, one call cancelled (5)", await _counts(failures_to_open, BREAKERS), {}, "")
    rows += _rows("attempts at once, slow to be cancelled (1)", await _counts(attempts_at_once, TIMED), {}, "")
    return rows


if __name__ == "__main__":
    Benchmark(
        "resilience",
        "a guard with everything on, beside the others",
        lambda quick: asyncio.run(_figures(quick)),
        headline=0,
    ).main()
