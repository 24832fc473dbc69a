"""Which points are tried, and what came of all of them: the plan, the workers, and the sums."""

import multiprocessing
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from random import Random
from typing import Any

from agents.clock import monotonic
from tests.crash.harness import Cycle, Stage
from tests.crash.points import At

__all__ = ["Kills", "Report", "balanced", "doubled", "every_point", "sampled", "spread", "sweep"]

_BATCH = 16
"""Homes that one child recovers in the end."""

Kills = tuple[Stage, tuple[At | None, ...]]
"""A cycle that is wanted: on this stage, killed there."""


@dataclass(slots=True)
class Report:
    """The sums of a sweep. `names`: every point that an undisturbed home passes; `killed`: how often each was hit."""

    names: frozenset[str]
    cycles: int = 0
    kills: int = 0
    doubles: int = 0
    seconds: float = 0.0
    killed: "Counter[str]" = field(default_factory=Counter)
    by_variant: "Counter[str]" = field(default_factory=Counter)
    missed: list[Cycle] = field(default_factory=list)
    broken: list[Cycle] = field(default_factory=list)

    def take(self, cycle: Cycle) -> None:
        self.cycles += 1
        self.kills += len(cycle.killed)
        self.doubles += len(cycle.killed) > 1
        self.by_variant[cycle.variant] += len(cycle.killed)
        self.killed.update(at.name for at in cycle.killed)
        if not cycle.killed:
            self.missed.append(cycle)
        if cycle.broken:
            self.broken.append(cycle)

    @property
    def never(self) -> list[str]:
        """Points at which nobody was killed."""
        return sorted(self.names - self.killed.keys())

    @property
    def a_minute(self) -> int:
        """Kills, each with what came after it."""
        return round(self.kills / self.seconds * 60)

    def as_json(self) -> dict[str, Any]:
        return {
            "cycles": self.cycles,
            "kills": self.kills,
            "doubles": self.doubles,
            "missed": len(self.missed),
            "seconds": round(self.seconds, 1),
            "a_minute": self.a_minute,
            "by_variant": dict(self.by_variant),
            "points": len(self.names),
            "never": self.never,
            "broken": [{"replay": cycle.replay, "broken": cycle.broken} for cycle in self.broken],
        }


def every_point(stages: Sequence[Stage]) -> list[Kills]:
    """Each point of each life of an undisturbed home.

    Of a line that is passed again and again, the first and last, on the first stage that comes by.
    """
    wanted: list[Kills] = []
    known: set[tuple[int, str]] = set()
    for stage in stages:
        for life, points in enumerate(stage.points):
            chosen = _ends([at for at in points if (life, at.name) not in known]) if stage.lines else points
            wanted += [(stage, (*[None] * life, at)) for at in chosen]
        known |= {(life, at.name) for life, points in enumerate(stage.points) for at in points}
    return wanted


def _ends(points: Sequence[At]) -> list[At]:
    last = {at.name: at for at in points}
    return [at for at in points if at.time == 1 or at == last[at.name]]


def sampled(wanted: Sequence[Kills], count: int) -> list[Kills]:
    """So many of them: the first of each name, and of the others as `balanced` has it."""
    named = {str(kills[-1]).rpartition("#")[0]: (stage, kills) for stage, kills in reversed(wanted)}
    first = spread(list(named.values()), count)
    taken = set(first)
    return first + balanced([each for each in wanted if each not in taken], count - len(first))


def balanced(wanted: Sequence[Kills], count: int) -> list[Kills]:
    """So many of them, evenly, but half of them where an order is on its way."""
    ordering, others = [], []
    for each, on_its_way in zip(wanted, _on_its_way(wanted), strict=True):
        (ordering if on_its_way else others).append(each)
    chosen = spread(ordering, count // 2)
    return chosen + spread(others, count - len(chosen))


def _on_its_way(wanted: Sequence[Kills]) -> Iterator[bool]:
    """Of each point, whether an order was written down before it, in that life, and its end was not."""
    ordering = False
    for _, kills in wanted:
        name = str(kills[-1]).rpartition("#")[0]
        ordering = (ordering or name == "insert orders") and name not in {"connect holdfast.db", "insert fills done"}
        yield ordering


def spread(wanted: Sequence[Kills], count: int) -> list[Kills]:
    """So many of them, evenly."""
    count = max(0, min(count, len(wanted)))
    return [wanted[index * len(wanted) // count] for index in range(count)]


def doubled(wanted: Sequence[Kills], seed: int) -> Iterator[Kills]:
    """Each of them with a second kill of whoever recovers, drawn from what such a one has still to pass.

    That is what it takes to open a home and claim its run, and whatever lies behind the first kill.
    """
    draw = Random(f"second kills {seed}")  # noqa: S311 - no secret
    for stage, kills in wanted:
        points = stage.points[len(kills) - 1]
        opening = list(takewhile(lambda at: at.name != "claim done", stage.points[-1]))
        ahead = [*opening, *points[points.index(kills[-1]) + 1 :]]
        index = draw.randrange(len(ahead))
        time = sum(each.name == ahead[index].name for each in ahead[: index + 1])
        yield stage, (*kills, At(ahead[index].name, time))


_stages: Sequence[Stage] = ()  # for the workers, who are forked with it


def sweep(stages: Sequence[Stage], wanted: Sequence[Kills], jobs: int = 2) -> Report:
    """Play all that is wanted, by so many workers, who have no thread and see nothing of each other."""
    global _stages  # noqa: PLW0603
    _stages = stages
    report = Report(frozenset(at.name for stage in stages for points in stage.points for at in points))
    tasks = list(_batches(stages, wanted))
    began = monotonic()
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        for cycles in pool.imap_unordered(_played, tasks):
            for cycle in cycles:
                report.take(cycle)
    report.seconds = monotonic() - began
    return report


def _batches(stages: Sequence[Stage], wanted: Sequence[Kills]) -> Iterator[tuple[int, list[tuple[At | None, ...]]]]:
    for index, stage in enumerate(stages):
        mine = [kills for each, kills in wanted if each is stage]
        for start in range(0, len(mine), _BATCH):
            yield index, mine[start : start + _BATCH]


def _played(task: tuple[int, list[tuple[At | None, ...]]]) -> list[Cycle]:
    index, wanted = task
    return _stages[index].play_all(wanted)
