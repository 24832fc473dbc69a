"""Tell what a bundle is, whether it loads, and how fast it answers: `python -m agents.policy.inspect BUNDLE`."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from agents.errors import PolicyUnusable
from agents.policy.agent import DeadlineMode, ExecutionAgent
from agents.policy.bundle import load_policy, read_bundle
from agents.policy.metadata import Metadata

__all__ = ["main"]

_PACING_SECONDS = 0.02


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0 for a bundle that loads and keeps the deadline hot, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m agents.policy.inspect", description=__doc__)
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("--sha256", default="", help="the hash that it must have")
    parser.add_argument("--trials", type=int, default=2_000, help="calls that are timed hot (default 2000)")
    parser.add_argument("--paced-trials", type=int, default=100, help="calls timed one every 20 ms (default 100)")
    given = parser.parse_args(arguments)
    if given.trials < 1 or given.paced_trials < 0:
        parser.error("at least one call must be timed")
    try:
        metadata, _ = read_bundle(given.bundle, pinned_sha256=given.sha256)
        _say(_described(metadata))
        policy = load_policy(given.bundle, pinned_sha256=given.sha256)
    except PolicyUnusable as error:
        _say(("loads", f"no: {error}"))
        return 1
    agent = ExecutionAgent(policy, mode=DeadlineMode.OFF)
    hot = agent.validate_slo(given.trials)
    _say(("loads", "yes; hash, shapes and canaries are right"))
    _say(("hot", _percentiles(hot.percentiles_us)))
    if given.paced_trials:
        paced = agent.validate_slo(given.paced_trials, pacing_seconds=_PACING_SECONDS)
        _say((f"paced, {paced.paced_ms:.0f} ms", _percentiles(paced.percentiles_us)))
    if not hot.met:
        _say(("deadline", f"missed: more than 5 in 100 hot calls take longer than {hot.deadline_us:g} us"))
    return 0 if hot.met else 1


def _described(metadata: Metadata) -> tuple[str, str]:
    rows = (
        ("version", metadata.version),
        ("created", metadata.created),
        ("format", f"{metadata.format} ({metadata.file})"),
        ("sha256", f"{metadata.sha256} of {metadata.file}"),
        ("to pin", f"policy_sha256 = {metadata.pin}"),
        ("input", f"{metadata.inputs} values: {', '.join(metadata.features)}"),
        ("output", ", ".join(action.name for action in metadata.actions)),
        ("canaries", f"{len(metadata.canaries)}, to {metadata.tolerance:g}"),
        ("author's", _percentiles(metadata.latency_us) if metadata.latency_us else "no latencies stated"),
    )
    for row in (("policy", metadata.policy_id), *rows[:-1]):
        _say(row)
    return rows[-1]


def _percentiles(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in values.items()) + " us"


def _say(row: tuple[str, str]) -> None:
    sys.stdout.write(f"{row[0]:<14}{row[1]}\n")


if __name__ == "__main__":
    sys.exit(main())
