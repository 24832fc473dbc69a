"""TorchScript, frozen and optimised for inference. Importing this imports torch, which takes a second."""

import io
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agents.errors import PolicyUnusable
from agents.policy.network import Forward

__all__ = ["load_torchscript", "save_torchscript"]


def load_torchscript(content: bytes, inputs: int) -> Forward:
    """The module in `content`, which is what `policy.pt` holds; it is called with (1, inputs), as modules are trained.

    One thread of torch's is enough for a network this small, and faster than more: torch is set to that, for the whole
    process.

    Raises:
        PolicyUnusable: it puts out anything but one row of numbers.
    """
    torch.set_num_threads(1)
    with _quiet():
        module = torch.jit.load(io.BytesIO(content), map_location="cpu").eval()  # type: ignore[no-untyped-call]
        frozen = torch.jit.optimize_for_inference(torch.jit.freeze(module))
    buffer = np.zeros((1, inputs), dtype=np.float32)
    tensor = torch.from_numpy(buffer)
    forward = frozen.forward  # the module's own `__call__` would look for hooks, for a microsecond
    output = forward(tensor)
    if not isinstance(output, torch.Tensor) or output.dim() != 2 or output.shape[0] != 1 or output.is_complex():
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise PolicyUnusable(
            f"the module puts out {shape} for an input of (1, {inputs}), not (1, actions); it was not loaded;"
            " make the bundle anew"
        )

    def run() -> list[float]:
        found: list[float] = forward(tensor).tolist()[0]
        return found

    return buffer[0], run


def save_torchscript(module: Any, example: NDArray[np.float32]) -> bytes:
    """The bytes of `policy.pt`; `example`: an input of shape (1, inputs)."""
    target = io.BytesIO()
    with _quiet():
        torch.jit.save(torch.jit.trace(module.eval(), torch.from_numpy(example)), target)  # type: ignore[no-untyped-call]
    return target.getvalue()


class _quiet(warnings.catch_warnings):  # noqa: N801 - used like the one it is made of
    """TorchScript is deprecated and says so at every use, while nothing replaces it for us; see pyproject's bound."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        warnings.filterwarnings("ignore", message=".*torch\\.jit.*", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*torch\\.jit.*", category=FutureWarning)
        return entered
