"""Bundles of either format, small and made in milliseconds."""

import json
from functools import partial

import numpy as np
import pytest

from agents.domain import TradingAction
from agents.policy.bundle import METADATA, sha256_of
from agents.policy.metadata import Canary, Metadata
from agents.policy.mlp import save_mlp

INPUTS = 4
WEIGHT = np.array([[0.0, 0.0, 0.0, 0.1], [1.0, 0.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0]], dtype=np.float32)
"""HOLD where the first input is near 0, BUY where it is positive, SELL where it is negative."""
BIAS = np.array([0.5, 0.0, 0.0], dtype=np.float32)


def torchscript(weight=WEIGHT, bias=BIAS):
    import torch

    from agents.policy.torchscript import save_torchscript

    layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
    return save_torchscript(layer, np.zeros((1, weight.shape[1]), dtype=np.float32))


def content_of(form, weight=WEIGHT, bias=BIAS):
    return torchscript(weight, bias) if form == "torchscript" else save_mlp([(weight, bias)])


def metadata_of(form, content, **changes):
    canary = np.array([1.0, 0.0, 0.0, 2.0], dtype=np.float32)
    made = Metadata(
        policy_id="small",
        version="1",
        created="2026-01-01T00:00:00+00:00",
        format=form,
        sha256=sha256_of(content),
        inputs=INPUTS,
        features=("a", "b", "c", "d"),
        actions=tuple(TradingAction),
        canaries=(Canary(tuple(canary.tolist()), tuple((WEIGHT @ canary + BIAS).tolist())),),
        tolerance=1e-5,
        latency_us={"p50": 5.0},
    ).as_json()
    return made | changes


def write_bundle(parent, form="mlp", content=None, name="bundle", **changes):
    """Write a bundle into a folder of its own; a keyword replaces an entry of its metadata."""
    folder = parent / name
    folder.mkdir(exist_ok=True)
    content = content_of(form) if content is None else content
    data = metadata_of(form, content, **changes)
    (folder / METADATA).write_text(json.dumps(data))
    (folder / ("policy.pt" if form == "torchscript" else "policy.safetensors")).write_bytes(content)
    return folder


@pytest.fixture
def bundle(tmp_path):
    """Write a bundle in the folder of this test."""
    return partial(write_bundle, tmp_path)
