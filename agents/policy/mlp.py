"""A small network as plain weights, run by numpy: no code in the file, and no torch in the process.

The file is in the safetensors format, with `weight_0`, `bias_0`, `weight_1` ...: layer i turns x into
x @ weight_i.T + bias_i, and all but the last are followed by tanh.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from agents.errors import PolicyUnusable
from agents.policy.network import Forward

__all__ = ["Layer", "load_mlp", "save_mlp"]

Layer = tuple[NDArray[np.float32], NDArray[np.float32]]
"""A weight of shape (outputs, inputs) and a bias of shape (outputs,), as torch's Linear has them."""


def save_mlp(layers: Sequence[Layer]) -> bytes:
    """The bytes of `policy.safetensors`."""
    tensors = {}
    for index, (weight, bias) in enumerate(layers):
        tensors[f"weight_{index}"] = np.ascontiguousarray(weight, dtype=np.float32)
        tensors[f"bias_{index}"] = np.ascontiguousarray(bias, dtype=np.float32)
    return save(tensors)


def load_mlp(content: bytes, inputs: int) -> Forward:
    """The network in `content`, which is what `policy.safetensors` holds; a call allocates nothing but its answer.

    Raises:
        PolicyUnusable: a layer is missing, or does not fit the one before it.
    """
    layers = _layers(load(content), inputs)
    # Weights lie as (inputs, outputs), so that a row vector times them runs through memory in order.
    weights = [np.ascontiguousarray(weight.T) for weight, _bias in layers]
    biases = [bias for _weight, bias in layers]
    buffers = [np.zeros(inputs, dtype=np.float32), *(np.zeros(len(bias), dtype=np.float32) for bias in biases)]
    hidden = list(zip(buffers[:-2], weights[:-1], biases[:-1], buffers[1:-1], strict=True))
    before, weight, bias, last = buffers[-2], weights[-1], biases[-1], buffers[-1]
    dot, add, tanh = np.dot, np.add, np.tanh

    def run() -> list[float]:
        for source, its_weight, its_bias, target in hidden:
            dot(source, its_weight, target)
            add(target, its_bias, target)
            tanh(target, target)
        dot(before, weight, last)
        found: list[float] = add(last, bias, last).tolist()
        return found

    return buffers[0], run


def _layers(tensors: Mapping[str, NDArray[np.float32]], inputs: int) -> list[Layer]:
    count = sum(name.startswith("weight_") for name in tensors)
    if set(tensors) != {f"{part}_{index}" for index in range(count) for part in ("weight", "bias")} or not count:
        raise PolicyUnusable(
            f"the file holds {', '.join(sorted(tensors)) or 'nothing'}, and not weight_0, bias_0 and so on;"
            " it was not loaded; make the bundle anew"
        )
    found, width = [], inputs
    for index in range(count):
        weight, bias = tensors[f"weight_{index}"], tensors[f"bias_{index}"]
        if weight.dtype != np.float32 or bias.dtype != np.float32 or weight.shape != (len(bias), width):
            raise PolicyUnusable(
                f"layer {index} has a weight of {weight.shape} {weight.dtype} and a bias of {bias.shape}, and its input"
                f" has {width}; it was not loaded; make the bundle anew"
            )
        found.append((weight, bias))
        width = len(bias)
    return found
