"""Run every benchmark, each in a process of its own: `python -m benchmarks [--quick]`."""

import pkgutil
import subprocess
import sys
from pathlib import Path

_NOT_BENCHMARKS = {"__main__", "harness", "resilience_peers", "checkpoints_peers"}


def main() -> int:
    """Run them in the order of their names; returns 1 if one broke."""
    names = sorted({module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])} - _NOT_BENCHMARKS)
    codes = [
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]], check=False).returncode
        for name in names
    ]
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
