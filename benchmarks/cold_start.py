"""How long a person waits: for `--help`, and for the first node of a run, beside the import of langgraph alone."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.harness import Benchmark, Row, rounds_of

HELP_GOAL_SECONDS = 0.35


def measure(quick: bool) -> Iterator[Row]:
    """Start processes in turn and time them from outside, from the fork to the line that says so.

    Installed packages come with bytecode; so that both sides have theirs, it is written here where the environment
    would not let it.
    """
    helps, imports, firsts = [], [], []
    for number in range(rounds_of(quick, full=9) + 1):
        help_seconds = _until(["-m", "graph.run", "--help"], "Usage:", to_end=True)
        import_seconds = _until(["-c", "import langgraph.graph; print('up', flush=True)"], "up")
        with tempfile.TemporaryDirectory() as home:
            arguments = ["-m", "graph.run", "--workflow", "trade", "--plain", "--home", str(Path(home))]
            first_seconds = _until(arguments, "research         running")
        if number:  # the first round fills the file cache and writes bytecode
            helps.append(help_seconds)
            imports.append(import_seconds)
            firsts.append(first_seconds)
    yield Row("--help", tuple(helps), (HELP_GOAL_SECONDS,), "allowed seconds", 1.0)
    yield Row("process start to the first node", tuple(firsts), tuple(imports), "import langgraph.graph", 1.5)


def _until(arguments: Sequence[str], sign: str, *, to_end: bool = False) -> float:
    """Seconds from the start of a Python process until a line of its output shows `sign`, or until it ends."""
    began = time.perf_counter()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        seen = 0.0
        for line in process.stdout or ():
            if not seen and sign in line:
                seen = time.perf_counter() - began
    took = time.perf_counter() - began if to_end else seen
    if process.returncode != 0 or not seen:
        raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode} and never showed {sign!r}")
    return took


if __name__ == "__main__":
    Benchmark("cold_start", "time to the first sign of life", lambda quick: list(measure(quick))).main()
