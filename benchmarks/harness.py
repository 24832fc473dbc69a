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
    """One figure: what each side took by round (the peer may be a constant), their ratio and the goal for it.

    `unit` is "s", "B" (bytes) or "" (a count). A peer without figures is one that is not installed. A row without a
    goal only tells what the others do.
    """

    what: str
    ours: tuple[float, ...]
    peer: tuple[float, ...]
    peer_name: str
    goal: float | None = None
    unit: str = "s"

    @property
    def ratio(self) -> float | None:
        """Ours by theirs, of the medians; None where there is nothing to divide by."""
        theirs = statistics.median(self.peer) if self.peer else 0.0
        return statistics.median(self.ours) / theirs if theirs else None

    @property
    def met(self) -> bool:
        """Whether the goal is reached, where there is one and a peer to measure it by."""
        return self.goal is None or self.ratio is None or self.ratio <= self.goal

    def line(self) -> str:
        """The row of the table."""
        ours, peer = (_shown(side, self.unit) for side in (self.ours, self.peer))
        figures = f"{ours:>12} {peer:>12} {_number(self.ratio, '.3f'):>8} {_number(self.goal, '.3f'):>8}"
        return f"{self.what:44} {figures}  {self.peer_name}{'' if self.met else '  NOT MET'}"


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
            print(row.line())
        if flags.json:
            flags.json.write_text(json.dumps(self._as_json(flags.quick), indent=2) + "\n", encoding="utf-8")
        headline = self.rows[self.headline]
        print(f"{self.name} ratio={_number(headline.ratio, '.3f')} goal={_number(headline.goal, 'g')}")

    def _as_json(self, quick: bool) -> dict[str, object]:
        rows = [asdict(row) | {"ratio": row.ratio} for row in self.rows]
        return {"name": self.name, "quick": quick, "python": platform.python_version(), "rows": rows}


def rounds_of(quick: bool, full: int = 5) -> int:
    """How many rounds to measure."""
    return 2 if quick else full


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _shown(side: tuple[float, ...], unit: str) -> str:
    if not side:
        return "missing"
    value = statistics.median(side)
    return _seconds(value) if unit == "s" else f"{value:,.0f} {unit}".strip()


def _seconds(value: float) -> str:
    if value >= 1:
        return f"{value:.3f} s"
    return f"{value * 1e3:.2f} ms" if value >= 1e-3 else f"{value * 1e6:.2f} us"
