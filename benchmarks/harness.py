"""What every benchmark shares: its flags, rounds in turn, medians, a table, and the line with the ratio.

A benchmark measures both sides in turn in one run and reports the ratio of the medians of at least five rounds: the
machine's speed drifts, and a figure of one side alone proves nothing. `--quick` is for a smoke run, not for figures.
"""

import argparse
import json
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

__all__ = ["Benchmark", "Row", "rounds_of"]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: seconds of each side by round (the peer may be a constant), their ratio and the goal for it."""

    what: str
    ours: tuple[float, ...]
    peer: tuple[float, ...]
    peer_name: str
    goal: float

    @property
    def ratio(self) -> float:
        return statistics.median(self.ours) / statistics.median(self.peer)


@dataclass(slots=True)
class Benchmark:
    """A named benchmark: `measure(quick)` gives rows; the row `headline` is the one in the last line."""

    name: str
    description: str
    measure: Callable[[bool], Sequence[Row]]
    headline: int = -1
    rows: list[Row] = field(default_factory=list)

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """Parse the flags, measure, print."""
        parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{self.name}", description=self.description)
        parser.add_argument("--json", type=Path, metavar="FILE", help="write a machine-readable copy")
        parser.add_argument("--quick", action="store_true", help="a smoke run of few rounds; its figures prove nothing")
        flags = parser.parse_args(arguments)
        self.rows = list(self.measure(flags.quick))
        print(f"{self.name}: {self.description}")
        print(f"{'':44} {'ours':>12} {'peer':>12} {'ratio':>8} {'goal':>8}  peer")
        for row in self.rows:
            ours, peer = (_seconds(statistics.median(side)) for side in (row.ours, row.peer))
            met = "" if row.ratio <= row.goal else "  NOT MET"
            print(f"{row.what:44} {ours:>12} {peer:>12} {row.ratio:8.3f} {row.goal:8.3f}  {row.peer_name}{met}")
        if flags.json:
            flags.json.write_text(json.dumps(self._as_json(flags.quick), indent=2) + "\n", encoding="utf-8")
        headline = self.rows[self.headline]
        print(f"{self.name} ratio={headline.ratio:.3f} goal={headline.goal:g}")

    def _as_json(self, quick: bool) -> dict[str, object]:
        rows = [asdict(row) | {"ratio": row.ratio} for row in self.rows]
        return {"name": self.name, "quick": quick, "python": platform.python_version(), "rows": rows}


def rounds_of(quick: bool, full: int = 5) -> int:
    """How many rounds to measure."""
    return 2 if quick else full


def _seconds(value: float) -> str:
    if value >= 1:
        return f"{value:.3f} s"
    return f"{value * 1e3:.2f} ms" if value >= 1e-3 else f"{value * 1e6:.2f} us"
