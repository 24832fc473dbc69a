"""Make a demonstration bundle from bars: `python -m agents.policy.train --out FOLDER`.

The network learns to answer as the rule policy does (behaviour cloning: Pomerleau, ALVINN, 1989), on the features of
real windows of bars with many plans for each. It is an example of a bundle, and as good as the rule; it knows nothing
of the market that the rule does not know.

The same bars and seed make the same weights, on other machines too: it is fitted in double precision and on one thread,
and then rounded to a grid far coarser than what two processors compute differently.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.bars import Bars, read_bars
from agents.clock import Clock, SystemClock
from agents.domain import MarketView, TradingAction
from agents.errors import HoldfastError, InvalidValue
from agents.features import MIN_BARS, feature_vector
from agents.market import simulate
from agents.policy.agent import DeadlineMode, ExecutionAgent
from agents.policy.bundle import METADATA, load_policy, sha256_of
from agents.policy.metadata import FORMATS, Canary, Metadata
from agents.policy.network import NetworkPolicy
from agents.policy.observation import OBSERVATION_NAMES
from agents.policy.rule import RulePolicy

__all__ = ["main", "train"]

_WINDOWS_MAX = 200
_PLANS = 150
"""Plans that each window is seen with."""
_HIDDEN = 64
_STEPS = 400
_GRID = 4_096.0
"""Weights are multiples of 1 / _GRID, exact in single precision."""
_CANARIES = 8
_TOLERANCE = 1e-3
_TRIALS = 2_000

_Samples = tuple[NDArray[np.float64], NDArray[np.int64]]


def train(bars: Bars, folder: Path, *, form: str = "mlp", seed: int = 7, clock: Clock | None = None) -> Metadata:
    """Train on `bars`, and write a bundle of format `form` ("mlp" or "torchscript") into `folder`, which is made.

    Raises:
        InvalidValue: there are fewer than MIN_BARS bars, or no such format.
        PolicyUnusable: what was written cannot be loaded.
        OSError: the folder cannot be written.
    """
    if form not in FORMATS:
        raise InvalidValue(f"there is no format {form!r:.40}; nothing was trained; there are {', '.join(FORMATS)}")
    observations, labels = _samples(bars, seed)
    network = _fitted(observations, labels, seed)
    content = _content(network, form, observations[:1].astype(np.float32))
    # Canaries are answered by the file itself, as whoever loads it will see them.
    canaries = tuple(Canary(tuple(map(float, row)), (0.0,) * len(TradingAction)) for row in observations[:_CANARIES])
    made = Metadata(
        policy_id=f"demo_{form}",
        version="1",
        created=datetime.fromtimestamp((clock or SystemClock()).now_ns() / 1e9, tz=UTC).isoformat(timespec="seconds"),
        format=form,
        sha256=sha256_of(content),
        inputs=len(OBSERVATION_NAMES),
        features=OBSERVATION_NAMES,
        actions=tuple(TradingAction),
        canaries=canaries,
        tolerance=_TOLERANCE,
        latency_us={},
    )
    return _written(folder, made, content)


def _samples(bars: Bars, seed: int) -> _Samples:
    """Observations (n, inputs) and the rule's actions for them (n,), in an order of the seed."""
    if len(bars) < MIN_BARS:
        raise InvalidValue(
            f"there are {len(bars)} bars, and features need {MIN_BARS}; nothing was trained; give a longer history"
        )
    draws = np.random.default_rng(seed)
    ends = np.unique(np.linspace(MIN_BARS, len(bars), _WINDOWS_MAX).astype(int))
    seen = np.repeat([feature_vector(_view(bars, end)) for end in ends.tolist()], _PLANS, axis=0)
    count = len(seen)
    # Every other plan meets a market that is none: what the rule does not look at, the network must learn to pass over.
    seen[1::2] = draws.uniform(-5.0, 5.0, size=seen[1::2].shape)
    direction = draws.choice([-1.0, 0.0, 1.0], size=count, p=[0.4, 0.2, 0.4])
    # Densest where the rule changes its mind, one ATR of drift and no room left, and where most plans are made: at 0.
    drift = draws.choice([-1.0, 0.0, 1.0], size=count, p=[0.3, 0.4, 0.3]) + draws.normal(0.0, 0.5, size=count)
    rooms = np.clip(draws.exponential(2.0, size=(count, 2)) - 0.5, -10.0, 10.0)
    rooms[draws.random((count, 2)) < 0.2] = 10.0  # plans without a stop or target
    observations = np.column_stack([seen, direction, drift, rooms])
    rule = RulePolicy()
    labels = np.array([int(rule.predict(row)[0]) for row in observations], dtype=np.int64)
    order = draws.permutation(count)
    return observations[order], labels[order]


def _view(bars: Bars, end: int) -> MarketView:
    rows = slice(end - MIN_BARS, end)
    return MarketView(
        symbol="TRAIN",
        period_ns=int(np.sort(np.diff(bars.close_ns))[(len(bars) - 1) // 2]),
        close_ns=tuple(bars.close_ns[rows].tolist()),
        open=tuple(bars.open[rows].tolist()),
        high=tuple(bars.high[rows].tolist()),
        low=tuple(bars.low[rows].tolist()),
        close=tuple(bars.close[rows].tolist()),
        volume=() if bars.volume is None else tuple(bars.volume[rows].tolist()),
    )


def _fitted(observations: NDArray[np.float64], labels: NDArray[np.int64], seed: int) -> Any:
    """A network of two hidden layers, fitted by Adam on the cross-entropy."""
    import torch  # noqa: PLC0415 - it takes a second, and only training needs it
    from torch import nn  # noqa: PLC0415

    torch.set_num_threads(1)  # more are no faster for so small a network, and slow down everybody else
    torch.manual_seed(seed)
    inputs, outputs = observations.shape[1], len(TradingAction)
    layers = (
        nn.Linear(inputs, _HIDDEN),
        nn.Tanh(),
        nn.Linear(_HIDDEN, _HIDDEN),
        nn.Tanh(),
        nn.Linear(_HIDDEN, outputs),
    )
    network = nn.Sequential(*layers).double()
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _STEPS)
    x, y = torch.from_numpy(observations), torch.from_numpy(labels)
    batch = 2_048
    for step in range(_STEPS):
        start = step * batch % max(1, len(x) - batch)
        loss = nn.functional.cross_entropy(network(x[start : start + batch]), y[start : start + batch])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_((parameter * _GRID).round() / _GRID)
    return network.float()


def _content(network: Any, form: str, example: NDArray[np.float32]) -> bytes:
    if form == "torchscript":
        from agents.policy.torchscript import save_torchscript  # noqa: PLC0415 - imports torch

        return save_torchscript(network, example)
    from torch import nn  # noqa: PLC0415

    from agents.policy.mlp import save_mlp  # noqa: PLC0415

    linear = [each for each in network if isinstance(each, nn.Linear)]
    return save_mlp([(each.weight.detach().numpy(), each.bias.detach().numpy()) for each in linear])


def _written(folder: Path, metadata: Metadata, content: bytes) -> Metadata:
    """Write the files, let the policy answer its own canaries and be timed, and write what it said."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / metadata.file).write_bytes(content)
    lenient = replace(metadata, tolerance=float(np.finfo(np.float32).max))
    _write_metadata(folder, lenient)
    policy = load_policy(folder)
    canaries = tuple(Canary(each.input, tuple(_outputs(policy, each.input))) for each in metadata.canaries)
    found = replace(metadata, canaries=canaries, latency_us=_timed(policy))
    _write_metadata(folder, found)
    return load_policy(folder).metadata


def _outputs(policy: NetworkPolicy, observation: Sequence[float]) -> list[float]:
    return policy.outputs(np.array(observation, dtype=np.float32))


def _timed(policy: NetworkPolicy) -> dict[str, float]:
    agent = ExecutionAgent(policy, mode=DeadlineMode.OFF)
    return dict(agent.validate_slo(_TRIALS).percentiles_us)


def _write_metadata(folder: Path, metadata: Metadata) -> None:
    (folder / METADATA).write_text(json.dumps(metadata.as_json(), indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m agents.policy.train", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle; made if it is not there")
    parser.add_argument("--format", choices=tuple(FORMATS), default="mlp", help="default: mlp, which needs no torch")
    parser.add_argument("--data", type=Path, help="bars as CSV or Parquet; default: a simulated market")
    parser.add_argument("--seed", type=int, default=7, help="default: 7")
    given = parser.parse_args(arguments)
    try:
        bars = read_bars(given.data) if given.data else simulate("SIM", given.seed, 2_000)
        made = train(bars, given.out, form=given.format, seed=given.seed)
    except (HoldfastError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"{made.policy_id} is in {given.out}; to pin it: policy_sha256 = {made.pin}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
