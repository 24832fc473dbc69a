"""What it costs to have every step on disk: our saver beside LangGraph's own and DBOS, all with the same durability.

A cost is what a run takes longer than without a checkpointer. All sides are open at the same time and take turns run
by run; the first runs fill SQLite's log, which is overwritten from then on, as in any process that is not quite new.
The payloads are seeded text, another one in each step, which hardly compresses. The sides are made in
`benchmarks/checkpoints_peers.py`, which says how their durability was made the same.
"""

import asyncio
import gc
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks import checkpoints_peers as peers
from benchmarks.checkpoints_peers import NODES, Run, Saver, Side, texts
from benchmarks.harness import Benchmark, Row, rounds_of
from checkpoints.saver import SqlSaver
from graph.app import open_app
from graph.config import load_settings
from graph.feed import SimulatedFeed

WARM_UP_PAGES = 1_200  # SQLite begins its log anew after 1,000
AT_ONCE = 50
GROWN_STEPS, GROWN_SECONDS, GROWN_BYTES = 1_000, 2.0, 10e6
HISTORY, STEPS = 10_000, 60
RESUME_SECONDS = 2.0
TRADES = 10
NOBODY, OURS, SQLITE, MEMORY = "no checkpointer", "ours", "AsyncSqliteSaver", "InMemorySaver"
POSTGRES, DBOS = "AsyncPostgresSaver", "DBOS steps, SQLite"

Taken = dict[str, list[float]]


# -- what a run costs


@asynccontextmanager
async def opened(sides: Mapping[str, Side], size: int) -> AsyncIterator[dict[str, Run]]:
    """Every side that is installed, as a function that makes one run."""
    async with AsyncExitStack() as stack:
        runs: dict[str, Run] = {}
        for name, side in sides.items():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            try:
                runs[name] = await stack.enter_async_context(side(folder, texts(size)))
            except ModuleNotFoundError:
                continue
        yield runs


async def costs(sides: Mapping[str, Side], size: int, rounds: int, per_round: int) -> Taken:
    """Seconds a run by side and round, over a run without a checkpointer."""
    taken: Taken = {name: [] for name in sides}
    async with opened(sides, size) as runs:
        serial = count()
        for _ in range(WARM_UP_PAGES // (size // 1_000 * 5)):
            await _in_turn(runs, next(serial))
        for _ in range(rounds):
            gc.collect()
            turns = [await _in_turn(runs, next(serial)) for _ in range(per_round)]
            for name in runs:
                taken[name].append(sum(turn[name] - turn[NOBODY] for turn in turns) / per_round)
    return taken


async def _in_turn(runs: Mapping[str, Run], number: int) -> dict[str, float]:
    taken = {}
    for name, run in runs.items():
        began = time.perf_counter()
        await run(f"run-{number}")
        taken[name] = time.perf_counter() - began
    return taken


async def at_once(sides: Mapping[str, Side], rounds: int) -> Taken:
    """Seconds a run by side and round, of AT_ONCE runs at the same time."""
    taken: Taken = {name: [] for name in sides}
    async with opened(sides, 10_000) as runs:
        for number in range(rounds + 1):
            for name, run in runs.items():
                began = time.perf_counter()
                await asyncio.gather(*(run(f"run-{number}-{each}") for each in range(AT_ONCE)))
                if number:  # the first warms up
                    taken[name].append((time.perf_counter() - began) / AT_ONCE)
    return taken


# -- what grows


def growth(savers: Mapping[str, Saver], rounds: int, steps: int) -> tuple[Taken, Taken]:
    """Of a run whose plain list grows by a kilobyte a step: seconds by side and round, and bytes left on disk."""
    seconds: Taken = {name: [] for name in savers}
    kept: Taken = {name: [] for name in savers}
    for _ in range(rounds):
        for name, saver in savers.items():
            with tempfile.TemporaryDirectory() as folder:
                try:
                    seconds[name].append(asyncio.run(grown_seconds(saver, Path(folder), steps)))
                except ModuleNotFoundError:
                    continue
                kept[name].append(float(sum(each.stat().st_size for each in Path(folder).iterdir())))
    return seconds, kept


async def grown_seconds(saver: Saver, folder: Path, steps: int) -> float:
    """One run of so many steps."""
    async with saver(folder) as each:
        graph = peers.growing(texts(1_000), steps).compile(checkpointer=each)
        config: Any = {"configurable": {"thread_id": "grown"}, "recursion_limit": steps + 10}
        began = time.perf_counter()
        await graph.ainvoke({"items": []}, config, durability="sync")
        return time.perf_counter() - began


async def history(rounds: int, length: int) -> dict[tuple[str, str], list[float]]:
    """Seconds to save a step and to read the newest checkpoint, each after few checkpoints and after many."""
    taken: dict[tuple[str, str], list[float]] = {(what, of): [] for what in ("save", "read") for of in ("few", "many")}
    with tempfile.TemporaryDirectory() as folder, SqlSaver.open(Path(folder) / "history.db") as saver:
        many = await _line(saver, "many", length)
        for number in range(rounds):
            ends = {"few": await _line(saver, f"few-{number}", 10), "many": many}
            sums = dict.fromkeys(taken, 0.0)
            for step in range(STEPS):
                for of, config in ends.items():
                    began = time.perf_counter()
                    ends[of], saving = _step(saver, config, step)
                    await saving
                    saved = time.perf_counter()
                    await saver.aget_tuple({"configurable": {"thread_id": config["configurable"]["thread_id"]}})
                    sums["save", of] += saved - began
                    sums["read", of] += time.perf_counter() - saved
            many = ends["many"]
            for key, total in sums.items():
                taken[key].append(total / STEPS)
    return taken


async def _line(saver: SqlSaver, thread_id: str, length: int) -> Any:
    """Save so many checkpoints of a thread; gives the config of the last one."""
    config: Any = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
    steps: list[Awaitable[Any]] = []
    for number in range(length):
        config, saving = _step(saver, config, number)
        steps.append(saving)
        if len(steps) == 200 or number == length - 1:
            await asyncio.gather(*steps)
            steps.clear()
    return config


def _step(saver: SqlSaver, config: Any, number: int) -> tuple[Any, Awaitable[Any]]:
    """The config of one more checkpoint, and what saves it and the write that follows, as LangGraph does."""
    from langgraph.checkpoint.base import empty_checkpoint

    payload = texts(2_000)[number % 64]
    version = saver.get_next_version(str(number), None)
    checkpoint: Any = empty_checkpoint()
    checkpoint |= {"channel_values": {"payload": payload}, "channel_versions": {"payload": version}}
    saved = {"configurable": {**config["configurable"], "checkpoint_id": checkpoint["id"]}}
    saving = saver.aput(config, checkpoint, {"source": "loop", "step": number}, {"payload": version})
    return saved, asyncio.gather(saving, saver.aput_writes(saved, [("payload", payload)], f"task-{number}"))


# -- the trade workflow


def trade_bytes(saver: Saver | None) -> float:
    """What one more run of the trade workflow takes on disk, with ours or another saver."""
    sizes = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            asyncio.run(_trade(saver or peers.nobody, Path(folder), len(sizes) * TRADES))
            sizes.append(sum(map(_bytes, Path(folder).glob("**/*.db"))))
    return (sizes[1] - sizes[0]) / TRADES


async def _trade(saver: Saver, folder: Path, first: int) -> None:
    """So many runs, saved by the home's own saver where there is no other."""
    settings = load_settings(home=folder / "home")
    async with open_app(settings) as app, saver(folder) as other:
        feed = SimulatedFeed(7)
        builder = app.trade_builder(settings, feed, app.trade(settings, feed).members)
        graph = builder.compile(checkpointer=other or app.saver)
        for number in range(first, first + TRADES):
            config = {"configurable": {"thread_id": f"trade-SIM-20260101T000000Z-{number}"}}
            await graph.ainvoke({"symbol": "SIM"}, config, durability="sync")


def _bytes(path: Path) -> int:
    """Of an SQLite file, with what is still in its log."""
    with closing(sqlite3.connect(path)) as connection:
        pages, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    return int(pages * size)


def resumed_seconds() -> float:
    """From the kill of a run until its next node begins in another process, the start of that one included."""
    with tempfile.TemporaryDirectory() as home:
        common = [sys.executable, "-m", "graph.run", "--home", home, "--plain"]
        first = [*common, "--workflow", "trade", "--inject", "strategy=kill"]
        killed = subprocess.run(first, capture_output=True, check=False)
        began = time.perf_counter()
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
        (run,) = (Path(home) / "runs").iterdir()
        with subprocess.Popen([*common, "--resume", run.name], stdout=subprocess.PIPE, text=True) as process:
            seen = [time.perf_counter() - began for line in process.stdout or () if "strategy         running" in line]
    assert process.returncode == 0
    return seen[0]


# -- the table


def figures(quick: bool) -> list[Row]:
    """All rows, the headline first. Each part has an event loop of its own: DBOS leaves its one unusable."""
    rounds, per_round = rounds_of(quick, full=9), 3 if quick else 20
    files = {NOBODY: peers.nobody, OURS: peers.ours, SQLITE: peers.sqlite, MEMORY: peers.memory}
    sides = {name: peers.graph_of(saver) for name, saver in files.items()}
    asyncio.run(costs(sides, 10_000, 1, 1))  # imports everything
    gc.freeze()  # what was imported is nobody's cost
    taken = asyncio.run(costs(sides, 10_000, rounds, per_round))
    rows = _rows(f"a run of {NODES} nodes, 10 KB, SQLite", taken, {SQLITE: 1 / 3})
    taken = asyncio.run(costs(sides, 100_000, rounds, per_round))
    rows += _rows(f"a run of {NODES} nodes, 100 KB, SQLite", taken, {SQLITE: 1 / 2})
    beside = {name: sides[name] for name in (NOBODY, OURS)} | {DBOS: peers.dbos}
    taken = asyncio.run(costs(beside, 10_000, rounds, per_round))
    rows += _rows(f"a run of {NODES} nodes, 10 KB, SQLite", taken, {})
    rows += _on_a_server(rounds, per_round)
    both = {name: sides[name] for name in (OURS, SQLITE, MEMORY)}  # the last one is what LangGraph itself takes
    rows += _rows(f"a run, {AT_ONCE} at once, 10 KB, SQLite", asyncio.run(at_once(both, rounds)), {SQLITE: 1 / 5})
    rows += _growing({name: files[name] for name in (OURS, SQLITE)}, rounds_of(quick), 100 if quick else GROWN_STEPS)
    rows += _along(asyncio.run(history(rounds, 200 if quick else HISTORY)))
    kept = {OURS: [trade_bytes(None)], SQLITE: [trade_bytes(peers.sqlite)]}
    rows += _rows("one more run of the trade workflow", kept, {}, "B")
    resumed = tuple(resumed_seconds() for _ in range(rounds_of(quick)))
    rows.append(Row("killed, until the next node begins", resumed, (RESUME_SECONDS,), "allowed seconds", 1.0))
    return rows


def _on_a_server(rounds: int, per_round: int) -> list[Row]:
    rows: list[Row] = []
    with peers.postgres_url() as url:
        if url is None:
            return rows
        savers = {NOBODY: peers.nobody, OURS: peers.our_postgres(url), POSTGRES: peers.postgres(url)}
        sides = {name: peers.graph_of(saver) for name, saver in savers.items()}
        for size, goals in ((10_000, {}), (100_000, {POSTGRES: 1 / 2})):
            taken = asyncio.run(costs(sides, size, rounds, per_round))
            rows += _rows(f"a run of {NODES} nodes, {size // 1000} KB, Postgres", taken, goals)
    return rows


def _growing(savers: Mapping[str, Saver], rounds: int, steps: int) -> list[Row]:
    seconds, kept = growth(savers, rounds, steps)
    what = f"a list that grows, 1 KB in {steps} steps"
    return [
        Row(what, tuple(seconds[OURS]), (GROWN_SECONDS,), "allowed seconds", 1.0),
        Row(what, tuple(kept[OURS]), (GROWN_BYTES,), "allowed bytes", 1.0, "B"),
        *_rows(what, seconds, {}),
        *_rows(what, kept, {}, "B"),
    ]


def _along(taken: Mapping[tuple[str, str], Sequence[float]]) -> list[Row]:
    return [
        Row(f"{what}, after {HISTORY:,} checkpoints", tuple(taken[what, "many"]), tuple(taken[what, "few"]), name, 1.1)
        for what, name in (("save", "itself, after 10"), ("read", "itself, after 10"))
    ]


def _rows(what: str, taken: Taken, goals: Mapping[str, float], unit: str = "s") -> list[Row]:
    """A row for each peer; what there is nothing of is left out."""
    return [
        Row(what, tuple(taken[OURS]), tuple(theirs), name, goals.get(name), unit)
        for name, theirs in taken.items()
        if name not in (NOBODY, OURS)
    ]


if __name__ == "__main__":
    Benchmark(
        "checkpoints",
        "every step on disk, beside the others; the cost of a run is over one without a checkpointer",
        figures,
        headline=0,
    ).main()
