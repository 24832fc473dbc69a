"""Seeds by the thousand on all cores: a line of progress that can be gone on from, and what came of it all."""

import gc
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agents.clock import monotonic
from tests.simulation.session.play import SessionStory, play
from tests.simulation.session.rare import RARE, missing

__all__ = ["Sum", "many", "settle", "show", "timed"]

_SAY_S = 5.0


@dataclass(slots=True)
class Sum:
    """Of many seeds. `seconds` that were simulated, `spent` by processors; `broken`: the stories with broken rules."""

    seeds: int = 0
    seconds: float = 0.0
    spent: float = 0.0
    lives: int = 0
    reached: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    broken: list[SessionStory] = field(default_factory=list)

    def add(self, story: SessionStory, spent: float) -> None:
        """One more."""
        self.seeds += 1
        self.seconds += story.seconds
        self.spent += spent
        self.lives += len(story.ended)
        self.reached.update(story.reached)
        self.ended[story.ended[-1] if story.ended else "nothing"] += 1
        if story.broken:
            self.broken.append(story)


def many(first: int, last: int, jobs: int) -> int:
    """Play the seeds from `first` to before `last` in so many processes; the exit status."""
    total, began = Sum(), monotonic()
    said = began
    done: set[int] = set()
    for story, spent in _played(first, last, jobs):
        total.add(story, spent)
        done.add(story.seed)
        while first in done:
            done.remove(first)
            first += 1
        for rule in story.broken[:3]:
            _say(f"BROKEN by seed {story.seed} ({', '.join(story.perils)}): {rule}\n  replay: {story.replay}")
        if monotonic() - said > _SAY_S:
            said = monotonic()
            _say(
                f"{total.seeds} sessions, {len(total.broken)} broken; {_rate(total, said - began)};"
                f" to go on from here: --first {first}"
            )
    return _conclude(total, monotonic() - began)


_ENOUGH = 200
"""Seeds that reach every rare state; fewer leave some out, which says nothing."""


def _conclude(total: Sum, passed: float) -> int:
    _say(
        f"{total.seeds} sessions of ten minutes, {total.lives} lives,"
        f" {', '.join(f'{count} {ended}' for ended, count in sorted(total.ended.items()))};"
        f" {len(total.broken)} broke a rule; {_rate(total, passed)}"
    )
    for state in RARE:
        _say(f"  {total.reached[state]:6} of {total.seeds} seeds reached: {state}")
    for state in missing(total.reached) if total.seeds >= _ENOUGH else ():
        _say(f"NEVER REACHED: {state}")
    for story in total.broken[:10]:
        _say(f"BROKEN: {story.replay}")
    return int(bool(total.broken))


def _rate(total: Sum, passed: float) -> str:
    core = total.seconds / total.spent if total.spent else 0.0
    return f"{total.seconds / passed:,.0f} simulated seconds a second in all, {core:,.0f} a second of one core"


def _played(first: int, last: int, jobs: int) -> Iterator[tuple[SessionStory, float]]:
    if jobs == 1:
        settle()
        yield from map(timed, range(first, last))
        return
    with multiprocessing.get_context("fork").Pool(jobs, settle) as pool:
        yield from pool.imap_unordered(timed, range(first, last), chunksize=2)


def settle() -> None:
    """Warm up, and leave what is there for good out of the garbage collector's rounds."""
    sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - warnings of ten thousand bad days
    play(0)
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def timed(seed: int) -> tuple[SessionStory, float]:
    """The story of one seed without its timeline, and the seconds of processor time that it took."""
    began = _spent()
    story = play(seed)
    story.timeline = []  # not needed for the sums, and heavy to send
    return story, _spent() - began


def _spent() -> float:
    return sum(os.times()[:2])


def show(seed: int) -> int:
    """Play one seed and print its timeline; the exit status."""
    story = play(seed)
    for at, who, kind, detail in story.timeline:
        _say(f"{at:12.3f}  {who:40}  {kind:24}  {detail}")
    _say(f"perils: {', '.join(story.perils)}; lives: {', '.join(story.ended)}; trace {story.digest}")
    for rule in story.broken:
        _say(f"BROKEN: {rule}")
    return int(bool(story.broken))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
