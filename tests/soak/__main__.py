"""`make soak`: ten minutes on real time and real sockets, a link that is cut, five thousand messages a second, a day.

python -m tests.soak                 all of it, a quarter of an hour
python -m tests.soak session --minutes 2
python -m tests.soak load --seconds 10
python -m tests.soak day --hours 2
"""

import argparse
import asyncio
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agents.clock import monotonic
from graph.session.session import Viewer
from tests.graph.session.floor import Home

CUT = """
seed = 1
[[fault]]
kind = "storm"
from_seconds = {at}
until_seconds = {over}
[[fault]]
kind = "refuse"
from_seconds = {at}
until_seconds = {over}
"""


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@contextmanager
def exchange(*flags: str) -> Iterator[dict[str, Any]]:
    """The simulated exchange as a process of its own; gives what it says of itself."""
    process = subprocess.Popen(
        [sys.executable, "-m", "graph.exchange", "--port", "0", *flags], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.wait(10)


def session(home: Path, url: str, *flags: str) -> tuple[int, dict[str, Any], str]:
    """A session by the command line; gives its code, what it says at its end, and its errors."""
    command = [sys.executable, "-m", "graph.run", "--workflow", "session", "--feed", f"ws:{url}", "--json"]
    done = subprocess.run(
        [*command, "--home", str(home), *flags], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def ten_minutes(minutes: float, home: Path) -> bool:
    """A session on an exchange of its own; in the middle nobody gets in for five seconds."""
    middle = minutes * 30
    plan = home / "faults.toml"
    plan.write_text(CUT.format(at=middle, over=middle + 5), encoding="utf-8")
    with exchange("--seed", "7", "--faults", str(plan)) as where:
        code, told, errors = session(home, where["streams"].removesuffix("/ws"), "--duration", f"{minutes:g}m")
    counts = told.get("counts", {})
    say(f"session  {minutes:g} minutes: exit {code}, {counts.get('errors')} errors, {counts.get('events')} events,"
        f" {counts.get('stream_connections')} connections, {told.get('fills')} fills, pnl {told.get('pnl')},"
        f" {told.get('error')}")  # fmt: skip
    sys.stderr.write(errors)
    return code == 0 and counts["errors"] == 0 and counts["stream_connections"] >= 2


def load(seconds: float, home: Path) -> bool:
    """As many messages as an exchange can have: none is lost, and what waits is bounded."""
    with exchange("--seed", "7", "--rate", "3600") as where:
        code, told, errors = session(home, where["streams"].removesuffix("/ws"), "--duration", f"{seconds:g}s")
    counts = told.get("counts", {})
    rate = counts.get("stream_received", 0) / max(told.get("elapsed_s", 0), 1)
    missing, dropped = counts.get("stream_missing"), counts.get("orders_dropped", 0)
    say(f"load     {rate:,.0f} messages a second for {told.get('elapsed_s')} s: exit {code}, {missing} missing,"
        f" {dropped} orders dropped, tick to decision {told.get('reaction_us')} us")  # fmt: skip
    sys.stderr.write(errors)
    return code == 0 and counts["stream_missing"] == 0


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def day(hours: float, home: Path) -> bool:
    """A day on virtual time: what is kept in memory does not grow from its second hour on."""
    sizes: list[int] = []

    async def during(_app: Any, session: Any) -> None:
        while True:
            await asyncio.sleep(3_600)
            gc.collect()
            sizes.append(resident())
            say(f"day      hour {len(sizes):2}: {sizes[-1] / 1e6:7.1f} MB, {session.counts['events']:,} events")

    began = monotonic()
    result = Home(home, seen=Viewer()).sit(2, minutes=hours * 60, during=during)
    took = monotonic() - began
    say(
        f"day      {hours:g} hours in {took:.0f} s ({hours * 3600 / took:,.0f} x): {result.run.status},"
        f" {len(result.fills)} fills"
    )
    early, late = sizes[min(1, len(sizes) - 1)], sizes[-1]
    return str(result.run.status) == "finished" and late <= early * 1.1 + 5e6


def main() -> int:
    """Run what was asked for; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("what", nargs="?", choices=("session", "load", "day"))
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--hours", type=float, default=24.0)
    asked = parser.parse_args()
    parts = {
        "session": lambda home: ten_minutes(asked.minutes, home),
        "load": lambda home: load(asked.seconds, home),
        "day": lambda home: day(asked.hours, home),
    }
    wrong = []
    for name, part in parts.items():
        if asked.what in {None, name}:
            with tempfile.TemporaryDirectory() as folder:
                if not part(Path(folder)):
                    wrong.append(name)
    say(f"soak     {'FAILED: ' + ', '.join(wrong) if wrong else 'held'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
