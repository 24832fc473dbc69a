"""What a policy's answer costs: hot, and one call every 20 ms, beside what else runs such a network.

The network has 32 inputs, two hidden layers of 64 and 3 outputs; an answer is the observation's conversion, the forward
pass and the greatest output, and of ours also the checks of input, output and deadline, and what it says of itself.
Each figure is the percentile of one round's calls, and the table shows the median of the rounds. Within a round the
sides take turns every few milliseconds, so that what slows the machine down slows all of them. A paced call is made
warm by some calls just before it is due, as the execution loop does; a cold one is shown beside it. Hold-cash is what
answers for a bundle that is not there.
"""

import json
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.domain import TradingAction
from agents.policy import ExecutionAgent
from agents.policy.bundle import METADATA, sha256_of
from agents.policy.metadata import Canary, Metadata
from agents.policy.mlp import save_mlp
from agents.policy.torchscript import save_torchscript
from benchmarks.harness import Benchmark, Row, rounds_of

INPUTS, HIDDEN, OUTPUTS = 32, 64, 3
HOT_CALLS = 4_000
TURN_CALLS = 500
PACED_CALLS = 50
PACING_SECONDS = 0.02
WARM_SECONDS = 0.0005
HOT_GOAL = 1.2

Call = Callable[[NDArray[np.float32]], Any]


def network() -> Any:
    """The same untrained network for everybody."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    layers = (
        torch.nn.Linear(INPUTS, HIDDEN),
        torch.nn.Tanh(),
        torch.nn.Linear(HIDDEN, HIDDEN),
        torch.nn.Tanh(),
        torch.nn.Linear(HIDDEN, OUTPUTS),
    )
    return torch.nn.Sequential(*layers).eval()


def layers_of(net: Any) -> list[tuple[Any, Any]]:
    linear = [each for each in net if hasattr(each, "weight")]
    return [(each.weight.detach().numpy(), each.bias.detach().numpy()) for each in linear]


def silent(_what: str, _why: str) -> None:
    """Nobody is to be alerted of what is measured here."""


def agent_of(net: Any, form: str, folder: Path) -> ExecutionAgent:
    """Ours: a bundle, loaded and watched as in production."""
    import torch

    seen = np.linspace(-1, 1, INPUTS, dtype=np.float32)
    content = save_mlp(layers_of(net)) if form == "mlp" else save_torchscript(net, seen[None])
    with torch.no_grad():
        output = net(torch.from_numpy(seen[None]))[0].tolist()
    metadata = Metadata(
        policy_id="benchmark",
        version="1",
        created="",
        format=form,
        sha256=sha256_of(content),
        inputs=INPUTS,
        features=tuple(f"f{number}" for number in range(INPUTS)),
        actions=tuple(TradingAction),
        canaries=(Canary(tuple(seen.tolist()), tuple(output)),),
        tolerance=1e-4,
        latency_us={},
    )
    folder.mkdir()
    (folder / METADATA).write_text(json.dumps(metadata.as_json()))
    (folder / metadata.file).write_bytes(content)
    agent = watched(folder)
    assert not agent.is_fallback, agent.why
    return agent


def watched(folder: Path) -> ExecutionAgent:
    """An agent that looks at its deadline, and keeps it: one that was tripped would be measured holding cash."""
    return ExecutionAgent(folder, deadline_us=1e9, alert=silent)


def peers(net: Any) -> Mapping[str, Call]:
    """What else there is; one that is not installed is left out."""
    found: dict[str, Call] = {"raw frozen forward": raw_forward(net), "eager torch": eager(net)}
    found["SB3-like predict"] = sb3_like(net)
    found["numpy, plain"] = plain_numpy(net)
    with suppress(ImportError):
        found["ONNX Runtime"] = onnx(net)
    return found


def raw_forward(net: Any) -> Call:
    """The frozen module on a tensor that is there already: no conversion, no choice, no clock."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(net, torch.zeros(1, INPUTS))
        frozen = torch.jit.optimize_for_inference(torch.jit.freeze(traced.eval()))
    tensor = torch.zeros(1, INPUTS)

    def call(observation: NDArray[np.float32]) -> Any:  # noqa: ARG001 - as the others
        return frozen(tensor)

    for _ in range(200):
        call(np.zeros(INPUTS, dtype=np.float32))
    return call


def eager(net: Any) -> Call:
    import torch

    def call(observation: NDArray[np.float32]) -> Any:
        with torch.no_grad():
            return int(net(torch.from_numpy(observation)[None]).argmax())

    return call


def sb3_like(net: Any) -> Call:
    """What Stable-Baselines3's `predict` does around a network of its policy: a distribution, clipping, numpy back."""
    import torch

    def call(observation: NDArray[np.float32]) -> Any:
        net.eval()
        batch = np.array(observation).reshape((-1, INPUTS))
        with torch.no_grad():
            logits = net(torch.as_tensor(batch, device="cpu").float())
            distribution = torch.distributions.Categorical(logits=logits)
            actions = torch.argmax(distribution.probs, dim=1)
        return actions.cpu().numpy().reshape((-1,)).squeeze(axis=0), None

    return call


def plain_numpy(net: Any) -> Call:
    layers = layers_of(net)

    def call(observation: NDArray[np.float32]) -> Any:
        for weight, bias in layers[:-1]:
            observation = np.tanh(weight @ observation + bias)
        return int(np.argmax(layers[-1][0] @ observation + layers[-1][1]))

    return call


def onnx(net: Any) -> Call:
    """ONNX Runtime on the same weights; the graph is made by hand, so that no exporter is needed."""
    import onnx
    import onnxruntime

    made, nodes, name = [], [], "x"
    for number, (weight, bias) in enumerate(layers_of(net)):
        made += [onnx.numpy_helper.from_array(weight, f"w{number}"), onnx.numpy_helper.from_array(bias, f"b{number}")]
        nodes.append(onnx.helper.make_node("Gemm", [name, f"w{number}", f"b{number}"], [f"g{number}"], transB=1))
        name = f"g{number}"
        if number < 2:
            nodes.append(onnx.helper.make_node("Tanh", [name], [f"t{number}"]))
            name = f"t{number}"
    shape = onnx.helper.make_tensor_value_info
    inputs = [shape("x", onnx.TensorProto.FLOAT, [1, INPUTS])]
    graph = onnx.helper.make_graph(nodes, "mlp", inputs, [shape(name, onnx.TensorProto.FLOAT, [1, OUTPUTS])], made)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def call(observation: NDArray[np.float32]) -> Any:
        return int(session.run(None, {"x": observation[None]})[0].argmax())

    return call


def hot(call: Call, calls: int) -> list[float]:
    """Seconds of each of so many calls, one after the other."""
    observation = np.linspace(-1, 1, INPUTS, dtype=np.float32)
    taken = []
    for _ in range(calls):
        began = time.perf_counter_ns()
        call(observation)
        taken.append((time.perf_counter_ns() - began) / 1e9)
    return taken


def paced(call: Call, warm: Callable[[], object], calls: int) -> list[float]:
    """Seconds of calls that come every 20 ms, each right after `warm`."""
    observation = np.linspace(-1, 1, INPUTS, dtype=np.float32)
    taken = []
    due = time.perf_counter() + PACING_SECONDS
    for _ in range(calls):
        time.sleep(max(0.0, due - WARM_SECONDS - time.perf_counter()))
        warm()
        while time.perf_counter() < due:
            pass  # the moment of the bar is not ours to choose, and a sleep would cool down again
        began = time.perf_counter_ns()
        call(observation)
        taken.append((time.perf_counter_ns() - began) / 1e9)
        due += PACING_SECONDS
    return taken


def measure(quick: bool) -> list[Row]:
    """All sides in turn, in each round."""
    net = network()
    with tempfile.TemporaryDirectory() as folder:
        agents = {form: agent_of(net, form, Path(folder) / form) for form in ("torchscript", "mlp")}
        agents["hold-cash"] = watched(Path(folder) / "nothing")
    sides: dict[str, Call] = {**peers(net), **{form: agent.predict for form, agent in agents.items()}}
    calls, paced_calls = (HOT_CALLS // 4, 5) if quick else (HOT_CALLS, PACED_CALLS)
    taken: dict[tuple[str, str], list[float]] = {}

    def note(side: str, kind: str, seconds: list[float]) -> None:
        for percent in (50, 95):
            taken.setdefault((side, f"{kind} P{percent}"), []).append(float(np.percentile(seconds, percent)))

    for number in range(rounds_of(quick) + 1):
        figures: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(calls // TURN_CALLS):
            for side, call in sides.items():
                figures[side] += hot(call, TURN_CALLS)
        for side, seconds in figures.items():
            if number:  # the first round warms up
                note(side, "hot", seconds)
    for _ in range(rounds_of(quick)):
        for form, agent in agents.items():
            note(form, "paced, cold", paced(agent.predict, lambda: None, paced_calls))
            note(form, "paced, warm", paced(agent.predict, agent.keep_warm, paced_calls))
    return rows(taken)


def rows(taken: Mapping[tuple[str, str], list[float]]) -> list[Row]:
    def of(side: str, kind: str) -> tuple[float, ...]:
        return tuple(taken.get((side, kind), ()))

    made = []
    for percent in ("P50", "P95"):
        kind = f"hot {percent}"
        for form in ("torchscript", "mlp"):
            for peer in ("raw frozen forward", "eager torch", "SB3-like predict", "numpy, plain", "ONNX Runtime"):
                goal = HOT_GOAL if (form, peer, percent) == ("torchscript", "raw frozen forward", "P95") else None
                made.append(Row(f"{form} {kind}", of(form, kind), of(peer, kind), peer, goal))
    made.append(Row("hold-cash hot P95", of("hold-cash", "hot P95"), (0.5e-6,), "0.5 us", 1.0))
    for side, limit in (("torchscript", 50e-6), ("mlp", 50e-6), ("hold-cash", 10e-6)):
        kind = "paced, cold P95"
        made.append(Row(f"{side} {kind}", of(side, kind), (limit,), f"{limit * 1e6:g} us"))
        kind = "paced, warm P95"
        made.append(Row(f"{side} {kind}", of(side, kind), (limit,), f"{limit * 1e6:g} us", 1.0))
    # The headline is the last row.
    return sorted(made, key=lambda row: row.goal == HOT_GOAL)


if __name__ == "__main__":
    Benchmark("policy", "an answer of the execution agent, beside other ways to run its network", measure).main()
