"""Kill the trade workflow at every point, and again while it recovers; or at one, by the command that a failure told.

Ends with 1 if anything was broken.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import count
from typing import Any

from tests.crash.harness import Cycle, Databases, Stage, warm_up
from tests.crash.points import At
from tests.crash.sweep import Report, balanced, doubled, every_point, sampled, sweep
from tests.crash.variants import VARIANTS
from tests.postgres import Server, missing


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parsed(arguments)
    for name in [name for name in os.environ if name.startswith("HOLDFAST_")]:
        del os.environ[name]  # no settings from outside
    chosen = [VARIANTS[name] for name in given.variant or VARIANTS]
    with ExitStack() as stack:
        databases = _databases(stack) if given.database == "postgres" else None
        warm_up([VARIANTS["stopped"], *chosen])  # the one in which something is resumed, as it is in every cycle
        lines = given.points == "lines"
        stages = [stack.enter_context(Stage(variant, lines=lines, databases=databases)) for variant in chosen]
        if given.at:
            return max(_show(stage.play(*_places(stage, given.at))) for stage in stages)
        points = every_point(stages)
        singles = sampled(points, len(points) if given.kills is None else given.kills)
        tried = set(singles)
        others = [kills for kills in points if kills not in tried] or points
        doubles = balanced(others, len(points) // 2 if given.doubles is None else given.doubles)
        report = sweep(stages, [*singles, *doubled(doubles, given.seed)], given.jobs)
    if given.json:
        _say(json.dumps(report.as_json()))
    else:
        _tell(report)
    return int(bool(report.broken))


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    add: Any = parser.add_argument
    add("--variant", action="append", choices=VARIANTS, help="what is played; repeat it (default: every one)")
    add("--points", choices=("statements", "lines"), default="statements", help="around what is kept, or our lines")
    add("--database", choices=("sqlite", "postgres"), default="sqlite", help="the main one (default sqlite)")
    add("--at", action="append", metavar="POINT", help="only there: NAME#TIME, or a number; repeat it for later lives")
    add("--kills", type=int, metavar="N", help="points where a home is killed once (default: every one)")
    add("--doubles", type=int, metavar="N", help="other points, if there are, with a second kill (default: half)")
    add("--seed", type=int, default=0, help="of the second kills (default 0)")
    add("--jobs", type=int, default=2, help="processes (default 2)")
    add("--json", action="store_true", help="the sums as one JSON object, and nothing else")
    return parser.parse_args(arguments)


class _Schemas:
    """A schema of one server for each home."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._numbers = count(1)

    def make(self) -> str:
        name = f"crash_{os.getpid()}_{next(self._numbers)}"
        self._server.run(f"CREATE SCHEMA {name}")
        return self._server.url(schema=name)

    def drop(self, url: str) -> None:
        self._server.run(f"DROP SCHEMA {url.rpartition('%3D')[2]} CASCADE")


def _databases(stack: ExitStack) -> Databases:
    if why := missing():
        raise SystemExit(why)
    server = Server(durable=False)  # nothing is done to the server, which keeps what it has in memory
    stack.callback(server.stop)
    return _Schemas(server)


def _places(stage: Stage, texts: Sequence[str]) -> list[At | None]:
    """A number counts the points of an undisturbed home, from 1."""
    return [
        None if text == "nowhere" else stage.points[0][int(text) - 1] if text.isdecimal() else At.parse(text)
        for text in texts
    ]


def _show(cycle: Cycle) -> int:
    _say(f"{cycle.variant}: killed at {', '.join(map(str, cycle.killed)) or 'no point: it was not passed'}")
    for rule in cycle.broken:
        _say(f"BROKEN: {rule}")
    return int(bool(cycle.broken))


def _tell(report: Report) -> None:
    _say(
        f"{report.kills} kills in {report.cycles} homes, {report.doubles} of them killed twice;"
        f" {len(report.missed)} not reached; {report.seconds:.0f} s, {report.a_minute} kills and recoveries a minute"
    )
    for name, kills in report.by_variant.items():
        _say(f"  {name:12} {kills:6} kills")
    _say(f"  {len(report.names)} named points, never hit: {', '.join(report.never) or 'none'}")
    for cycle in report.broken[:20]:
        _say(f"BROKEN {'; '.join(cycle.broken)}\n  replay: {cycle.replay}")
    if len(report.broken) > 20:
        _say(f"and {len(report.broken) - 20} more")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
