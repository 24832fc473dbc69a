"""The research stage with analysts that wait, as those that ask a model do, beside the wait of the slowest of them.

Measured in the real workflow with the default saver: from the end of the node before the swarm to the beginning of
the node behind it, every finding written to disk on the way.
"""

import asyncio
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agents.domain import Finding, MarketView
from agents.research import Member
from benchmarks.harness import Benchmark, Row, rounds_of
from checkpoints.events import Entry
from graph.app import open_app
from graph.config import load_settings
from graph.feed import SimulatedFeed

SLOWEST_SECONDS = 2.0
FASTEST_SECONDS = 0.5
SIZES = (7, 25, 100)


@dataclass(frozen=True, slots=True)
class WaitingAnalyst:
    """Answers after a while."""

    name: str
    seconds: float

    async def __call__(self, view: MarketView) -> Finding:
        await asyncio.sleep(self.seconds)
        return Finding(self.name, 0.5, 0.5, f"waited {self.seconds:.3f} s for {view.symbol}")


def swarm_of(size: int, seed: int) -> tuple[Member, ...]:
    """Analysts with seeded waits, the slowest of exactly SLOWEST_SECONDS."""
    draw = random.Random(seed)  # noqa: S311 - waits, not secrets
    waits = [SLOWEST_SECONDS, *(draw.uniform(FASTEST_SECONDS, SLOWEST_SECONDS) for _ in range(size - 1))]
    return tuple(
        Member(WaitingAnalyst(f"waiting_{number:03}", seconds), required=True) for number, seconds in enumerate(waits)
    )


async def stage_seconds(size: int, seed: int, home: Path) -> float:
    """One run of the workflow; how long its research stage took."""
    moments: dict[tuple[str, str], float] = {}

    def watch(entry: Entry) -> None:
        moments.setdefault((entry.subject, entry.kind), time.perf_counter())

    settings = load_settings(home=home)
    async with open_app(settings, watcher=watch) as app:
        compiled = app.trade(settings, SimulatedFeed(7), swarm_of(size, seed))
        config = {"configurable": {"thread_id": f"swarm-{size}-{seed}"}}
        await compiled.graph.ainvoke({"symbol": "SIM"}, config, durability="sync")
    return moments["synthesis", "AttemptStarted"] - moments["research", "AttemptSucceeded"]


def measure(quick: bool) -> Iterator[Row]:
    """Rounds over all sizes in turn; the first round warms up and is not counted."""
    taken: dict[int, list[float]] = {size: [] for size in SIZES}
    for number in range(rounds_of(quick) + 1):
        for size in SIZES:
            with tempfile.TemporaryDirectory() as home:
                seconds = asyncio.run(stage_seconds(size, number, Path(home)))
            if number:
                taken[size].append(seconds)
    for size in SIZES:
        yield Row(f"{size} analysts", tuple(taken[size]), (SLOWEST_SECONDS,), "their slowest member", 1.05)


if __name__ == "__main__":
    Benchmark("swarm", "a research stage of waiting analysts", lambda quick: list(measure(quick))).main()
