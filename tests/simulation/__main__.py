"""Play scenarios by the thousand, or one seed with its timeline. Ends with 1 if a rule was broken by any seed."""

import argparse
import multiprocessing
import sys
from collections.abc import Iterator, Sequence

from agents.clock import monotonic
from tests.simulation.scenarios import SCENARIOS
from tests.simulation.session.many import many, show
from tests.simulation.story import Story, play

SESSION = "session"
"""Whole sessions, beside the scenarios of single decisions."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("scenario", nargs="*", choices=[[], *SCENARIOS, SESSION], help="default: every decision's")
    parser.add_argument("--runs", type=int, default=100, help="seeds 0 to RUNS - 1 (default 100)")
    parser.add_argument("--seed", type=int, help="only this one, with its timeline")
    parser.add_argument("--first", type=int, default=0, help="of a session's seeds: where to begin, or to go on")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    given = parser.parse_args()
    if SESSION in given.scenario:
        return show(given.seed) if given.seed is not None else many(given.first, given.runs, given.jobs)
    names = given.scenario or list(SCENARIOS)
    if given.seed is not None:
        return max(_show(play(name, SCENARIOS[name], given.seed)) for name in names)
    return max(_many(name, given.runs, given.jobs) for name in names)


def _many(name: str, runs: int, jobs: int) -> int:
    began = monotonic()
    stories = list(_played(name, runs, jobs))
    seconds = monotonic() - began
    decisions, finished = sum(story.runs for story in stories), sum(story.finished for story in stories)
    _say(
        f"{name}: {finished} of {decisions} runs finished ({finished / decisions:.4%}),"
        f" {sum(story.resumed for story in stories)} more when resumed; fault to answer {_spread(stories)};"
        f" {seconds:.1f} s, {decisions / seconds * 60:.0f} runs a minute"
    )
    _say(f"  reached: {', '.join(sorted(set().union(*(story.reached for story in stories))))}")
    broken = [story for story in stories if story.broken]
    for story in broken[:10]:
        _say(f"  BROKEN by seed {story.seed}: {'; '.join(story.broken)}\n    replay: {story.replay}")
    for story in [story for story in stories if story.finished < story.runs][:10]:
        _say(f"  not finished at once: {story.replay}")
    return int(bool(broken))


def _played(name: str, runs: int, jobs: int) -> Iterator[Story]:
    tasks = [(name, seed) for seed in range(runs)]
    if jobs == 1:
        yield from map(_one, tasks)
        return
    with multiprocessing.Pool(jobs) as pool:
        yield from pool.imap_unordered(_one, tasks, chunksize=10)


def _one(task: tuple[str, int]) -> Story:
    name, seed = task
    story = play(name, SCENARIOS[name], seed)
    story.timeline.clear()  # not needed for the sums, and heavy to send
    return story


def _show(story: Story) -> int:
    for at, run_id, kind, subject in story.timeline:
        _say(f"{at:12.3f}  {run_id}  {subject or 'run':16}  {kind}")
    _say(f"{story.finished} of {story.runs} runs finished; trace {story.digest}")
    for rule in story.broken:
        _say(f"BROKEN: {rule}")
    return int(bool(story.broken))


def _spread(stories: Sequence[Story]) -> str:
    seconds = sorted(each for story in stories for each in story.recoveries)
    if not seconds:
        return "never"
    middle, late = seconds[len(seconds) // 2], seconds[int(len(seconds) * 0.99)]
    return f"P50 {middle:.1f} s, P99 {late:.1f} s, longest {seconds[-1]:.1f} s (virtual, {len(seconds)} faults)"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
