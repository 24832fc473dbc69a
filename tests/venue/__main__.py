"""Kill whoever sends orders to a venue in another process, at every step, and again while it recovers.

Ends with 1 if an order was lost or executed twice, or the ledger differs from the venue's books.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from tests.crash.harness import warm_up
from tests.crash.points import At
from tests.crash.sweep import doubled, every_point, sampled, spread, sweep
from tests.venue import story
from tests.venue.server import Served
from tests.venue.story import VARIANTS, VenueStage


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.venue", description=__doc__)
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="what is played (default: every one)")
    parser.add_argument("--kills", type=int, help="points where a home is killed once (default: every one)")
    parser.add_argument("--doubles", type=int, default=0, help="points with a second kill behind them")
    parser.add_argument("--at", action="append", metavar="POINT", help="only there; repeat it for later lives")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args(arguments)
    chosen = [VARIANTS[name] for name in given.variant or VARIANTS]
    with Served() as venue, ExitStack() as stack:
        story.port = venue.port
        warm_up(chosen[:1])
        stages = [stack.enter_context(VenueStage(variant)) for variant in chosen]
        if given.at:
            cycle = stages[0].play(*(None if at == "nowhere" else At.parse(at) for at in given.at))
            sys.stdout.write(json.dumps({"killed": [str(at) for at in cycle.killed], "broken": cycle.broken}) + "\n")
            return int(bool(cycle.broken))
        points = every_point(stages)
        singles = sampled(points, len(points) if given.kills is None else given.kills)
        twice = doubled(spread(points, given.doubles), given.seed)
        report = sweep(stages, [*singles, *twice], given.jobs).as_json()
    for each in report["broken"]:
        each["replay"] = each["replay"].replace("tests.crash", "tests.venue")
    sys.stdout.write(json.dumps(report) + "\n")
    return int(bool(report["broken"]))


if __name__ == "__main__":
    sys.exit(main())
