"""What is loaded is what its author made; whatever is not is refused in one line, and nothing of it is run."""

import json
import os
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.domain import TradingAction
from agents.errors import PolicyFault, PolicyUnusable
from agents.policy.bundle import load_policy, sha256_of
from agents.policy.metadata import FORMATS, read_metadata
from agents.policy.mlp import save_mlp
from agents.policy.network import NetworkPolicy
from agents.policy.torchscript import save_torchscript
from tests.agents.policy.conftest import BIAS, WEIGHT, content_of, metadata_of


@pytest.mark.parametrize("form", FORMATS)
class TestBothFormats:
    def test_answers_as_its_weights_say(self, bundle, form):
        policy = load_policy(bundle(form))
        for first, action in ((0.0, TradingAction.HOLD), (2.0, TradingAction.BUY), (-2.0, TradingAction.SELL)):
            for kind in (np.float32, np.float64):
                taken, info = policy.predict(np.array([first, 0, 0, 0], dtype=kind))
                assert taken is action
        assert (info["policy_id"], info["policy_type"], info["is_fallback"]) == ("small", form, False)
        assert info["latency_us"] > 0

    def test_an_output_means_what_the_metadata_says(self, bundle, form):
        policy = load_policy(bundle(form, actions=["SELL", "HOLD", "BUY"]))
        assert policy.predict(np.array([0.0, 0, 0, 0]))[0] is TradingAction.SELL
        assert policy.predict(np.array([-2.0, 0, 0, 0]))[0] is TradingAction.BUY

    def test_keeps_nothing_of_what_it_was_shown(self, bundle, form):
        policy = load_policy(bundle(form))
        seen = np.array([2.0, 0, 0, 0], dtype=np.float32)
        before = policy.outputs(seen)
        policy.predict(np.array([-2.0, 9, 9, 9]))
        assert policy.outputs(seen) == before
        assert seen.tolist() == [2.0, 0, 0, 0]

    def test_a_pinned_hash(self, bundle, form):
        folder = bundle(form)
        wanted = json.loads((folder / "metadata.json").read_text())["sha256"]
        assert load_policy(folder, pinned_sha256=wanted.upper()).policy_id == "small"
        with pytest.raises(PolicyUnusable, match="the settings say 0000"):
            load_policy(folder, pinned_sha256="0" * 64)

    def test_a_pinned_hash_of_the_metadata_pins_all_that_it_says(self, bundle, form):
        folder = bundle(form)
        path = folder / "metadata.json"
        pin = sha256_of(path.read_bytes())
        policy = load_policy(folder, pinned_sha256=pin.upper())
        assert policy.metadata.pin == pin
        swapped = json.loads(path.read_text()) | {"actions": ["HOLD", "SELL", "BUY"]}
        path.write_text(json.dumps(swapped))
        assert load_policy(folder).predict(np.array([2.0, 0, 0, 0]))[0] is TradingAction.SELL
        with pytest.raises(PolicyUnusable, match=f"the settings say {pin}"):
            load_policy(folder, pinned_sha256=pin)

    def test_the_canaries_are_answered_by_what_will_answer_later(self, bundle, form, monkeypatch):
        """TorchScript optimises itself in its first calls: what is tested must be the outcome."""
        seen = []
        real = NetworkPolicy.outputs
        monkeypatch.setattr(NetworkPolicy, "outputs", lambda self, row: (seen.append(row.any()), real(self, row))[1])
        load_policy(bundle(form))
        assert seen == [False] * (len(seen) - 1) + [True]
        assert len(seen) > 200

    def test_a_slow_policy_is_not_warmed_up_for_ever(self, bundle, form, monkeypatch):
        calls = []
        real = NetworkPolicy.predict
        monkeypatch.setattr(NetworkPolicy, "predict", lambda self, row: (calls.append(1), real(self, row))[1])
        monkeypatch.setattr("agents.policy.bundle.perf_counter_ns", lambda: len(calls) * 700_000_000)
        load_policy(bundle(form))
        assert len(calls) == 3

    @pytest.mark.parametrize("big", [1e20, -3e38])
    def test_a_large_number_is_a_number(self, bundle, form, big):
        assert load_policy(bundle(form)).predict(np.array([0, 0, 0, big]))[0] in TradingAction

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
    def test_input_that_is_no_number(self, bundle, form, bad):
        with pytest.raises(PolicyFault, match="not finite"), np.errstate(over="ignore"):
            load_policy(bundle(form)).predict(np.array([bad, 0, 0, 0]))

    @pytest.mark.parametrize("shape", [(0,), (3,), (5,), (1, 4), ()])
    def test_input_of_another_shape(self, bundle, form, shape):
        with pytest.raises(PolicyFault, match="wants 4 values"):
            load_policy(bundle(form)).predict(np.zeros(shape))

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_output_that_is_no_number(self, bundle, form, bad):
        weight = WEIGHT.copy()
        weight[0, 3] = bad
        with pytest.raises(PolicyUnusable, match="not finite"), np.errstate(all="ignore"):
            load_policy(bundle(form, content_of(form, weight)))

    def test_output_that_is_no_number_for_some_input(self, bundle, form):
        weight = WEIGHT.copy()
        weight[0, 3] = 3e38
        folder = bundle(form, content_of(form, weight), canaries=[{"input": [0, 0, 0, 0], "output": [0.5, 0, 0]}])
        with pytest.raises(PolicyFault, match="put out"), np.errstate(all="ignore"):
            load_policy(folder).predict(np.array([0, 0, 0, 10.0]))

    def test_output_of_another_shape(self, bundle, form):
        with pytest.raises(PolicyUnusable, match="puts out 2 values, and its metadata states 3"):
            load_policy(bundle(form, content_of(form, WEIGHT[:2], BIAS[:2])))

    def test_weights_for_another_input(self, bundle, form):
        with pytest.raises(PolicyUnusable):
            load_policy(bundle(form, content_of(form, np.zeros((3, 7), np.float32))))

    def test_a_canary_that_comes_out_differently(self, bundle, form):
        folder = bundle(
            form,
            canaries=[{"input": [0, 0, 0, 0], "output": [0.5, 0, 0]}, {"input": [0, 0, 0, 0], "output": [0.5, 0.5, 0]}],
        )
        with pytest.raises(PolicyUnusable, match=r"canary 2 .* comes out 0.5 away"):
            load_policy(folder)

    def test_one_byte_that_changed(self, bundle, form):
        folder = bundle(form)
        path = folder / FORMATS[form]
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with pytest.raises(PolicyUnusable, match="its metadata say"):
            load_policy(folder)

    def test_bytes_that_are_no_policy(self, bundle, form):
        for content in (b"rubbish", b"PK\x03\x04", b"\xff" * 1000, b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "):
            with pytest.raises(PolicyUnusable, match="was not loaded"):
                load_policy(bundle(form, content))

    def test_files_that_are_not_there(self, bundle, form, tmp_path):
        folder = bundle(form)
        for absent in (tmp_path / "nobody", folder / "metadata.json"):
            with pytest.raises(PolicyUnusable, match="there is no file"):
                load_policy(absent)
        path = folder / FORMATS[form]
        path.write_bytes(b"")
        with pytest.raises(PolicyUnusable, match="is empty"):
            load_policy(folder)
        path.unlink()
        with pytest.raises(PolicyUnusable, match="there is no file"):
            load_policy(folder)
        os.mkfifo(path)  # who opens it would wait for ever
        with pytest.raises(PolicyUnusable, match="there is no file"):
            load_policy(folder)


GOOD = metadata_of("mlp", b"x")


class TestMetadata:
    def test_round_trip(self):
        text = json.dumps(GOOD).encode()
        read = read_metadata(text, "here")
        assert (read.as_json(), read.pin) == (GOOD, sha256_of(text))

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"format": "pickle"}, "there are torchscript, mlp"),
            ({"sha256": "abc"}, "sha256"),
            ({"policy_id": "../../etc"}, "policy_id"),
            ({"policy_id": 7}, "no plain text"),
            ({"version": "1\x1b[31m"}, "no plain text"),
            ({"input": {"shape": [4], "dtype": "float64"}}, "dtype"),
            ({"input": {"shape": [4, 4], "dtype": "float32"}}, "shape"),
            ({"input": {"shape": [True], "dtype": "float32"}}, "shape"),
            ({"input": {"shape": [10**9], "dtype": "float32"}}, "shape"),
            ({"input": {"shape": [5], "dtype": "float32"}}, "4 features"),
            ({"output": {"shape": [3], "kind": "probabilities"}}, "kind"),
            ({"output": {"shape": [2], "kind": "logits"}}, "must be 2"),
            ({"actions": ["HOLD", "BUY", "BUY"]}, "different"),
            ({"actions": ["HOLD", "BUY", "SHORT"]}, "SHORT"),
            ({"actions": "HBS"}, "no list"),
            ({"canaries": []}, "no canaries"),
            ({"canaries": [{"input": [1], "output": [1, 2, 3]}]}, "shape"),
            ({"canaries": [{"input": [1, 2, 3, "4"], "output": [1, 2, 3]}]}, "no finite number"),
            ({"canaries": [{"input": [1, 2, 3, 4], "output": [1, 2, None]}]}, "no finite number"),
            ({"tolerance": "0"}, "no finite number"),
            ({"tolerance": True}, "no finite number"),
            ({"tolerance": float("inf")}, "no finite number"),
            ({"latency_us": [1]}, "items"),
        ],
    )
    def test_what_it_may_not_say(self, changes, why):
        with pytest.raises(PolicyUnusable, match=why) as refused:
            read_metadata(json.dumps(GOOD | changes).encode(), "here")
        assert "\n" not in str(refused.value)

    @pytest.mark.parametrize("name", sorted(set(GOOD) - {"latency_us"}))
    def test_what_it_must_say(self, name):
        with pytest.raises(PolicyUnusable, match=f"it has no '{name}'"):
            read_metadata(json.dumps({key: value for key, value in GOOD.items() if key != name}).encode(), "here")

    @settings(max_examples=200)
    @given(
        st.binary(max_size=200)
        | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps).map(str.encode)
    )
    def test_rubbish(self, text):
        with pytest.raises(PolicyUnusable):
            read_metadata(text, "here")

    @pytest.mark.parametrize(
        "text", [b"[" * 100_000, b'{"a": ' * 100_000, b"1" * 5_000, b"\xff\xfe", b"{}", b"[]", b"null"]
    )
    def test_hostile_text(self, text):
        with pytest.raises(PolicyUnusable):
            read_metadata(text, "here")

    @settings(max_examples=150)
    @given(st.data())
    def test_any_value_anywhere_is_taken_or_refused(self, data):
        name = data.draw(st.sampled_from(sorted(GOOD)))
        value = data.draw(st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.lists(st.integers()))
        with suppress(PolicyUnusable):
            read_metadata(json.dumps(GOOD | {name: value}).encode(), "here")


def test_layers_that_do_not_fit(bundle):
    odd = np.zeros((3, 9), np.float32)
    with pytest.raises(PolicyUnusable, match="layer 1 has a weight of"):
        load_policy(bundle(content=save_mlp([(np.zeros((8, 4), np.float32), np.zeros(8, np.float32)), (odd, BIAS)])))


def test_tensors_that_are_none_of_ours(bundle):
    from safetensors.numpy import save

    for tensors in ({}, {"weight_0": WEIGHT}, {"weight_1": WEIGHT, "bias_1": BIAS}, {"x": BIAS}):
        with pytest.raises(PolicyUnusable, match="weight_0"):
            load_policy(bundle(content=save(tensors)))


def test_several_layers_are_those_of_torch(bundle):
    import torch

    torch.manual_seed(1)
    network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    layers = [(each.weight.detach().numpy(), each.bias.detach().numpy()) for each in (network[0], network[2])]
    seen = np.array([0.3, -0.2, 0.1, 1.0], dtype=np.float32)
    with torch.no_grad():
        wanted = network(torch.from_numpy(seen)).tolist()
    policy = load_policy(bundle(content=save_mlp(layers), canaries=[{"input": seen.tolist(), "output": wanted}]))
    assert policy.outputs(seen) == pytest.approx(wanted, abs=1e-6)


def test_a_bundle_without_torch(bundle):
    """A process that cannot import torch says so, and still loads the other format."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "from agents.errors import PolicyUnusable\n"
        "from agents.policy.bundle import load_policy\n"
        "print(load_policy(Path(sys.argv[1])).policy_id)\n"
        "try: load_policy(Path(sys.argv[2]))\n"
        "except PolicyUnusable as error: print(error)\n"
    )
    folders = [str(bundle("mlp", name="a")), str(bundle("torchscript", name="b"))]
    done = subprocess.run([sys.executable, "-c", code, *folders], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == "small"
    assert "needs torch, which is not installed" in second


def test_what_was_hashed_is_what_is_loaded(bundle, monkeypatch):
    """The file is read once: exchanging it after the hash was taken changes nothing."""
    folder = bundle()
    path = folder / "policy.safetensors"

    def hashed(content):
        path.write_bytes(b"exchanged")
        return sha256_of(content)

    monkeypatch.setattr("agents.policy.bundle.sha256_of", hashed)
    assert load_policy(folder).predict(np.array([2.0, 0, 0, 0]))[0] is TradingAction.BUY


@pytest.mark.parametrize(
    ("forward", "puts_out"),
    [
        (lambda x: x[0], r"\(4,\)"),
        (lambda x: x.repeat(2, 1), r"\(2, 4\)"),
        (lambda x: x.unsqueeze(0), r"\(1, 1, 4\)"),
        (lambda x: torch().complex(x, x), r"\(1, 4\)"),
    ],
)
def test_a_module_that_puts_out_something_else_than_a_row_of_numbers(bundle, forward, puts_out):
    class Odd(torch().nn.Module):
        def forward(self, x):
            return forward(x)

    content = save_torchscript(Odd(), np.zeros((1, 4), np.float32))
    with pytest.raises(PolicyUnusable, match=f"puts out {puts_out} for an input of"):
        load_policy(bundle("torchscript", content))


def torch():
    """Loaded only here."""
    import torch

    return torch


def test_a_file_that_is_far_too_large_is_not_read_to_its_end(bundle, monkeypatch):
    folder = bundle("mlp")
    monkeypatch.setattr("agents.policy.bundle._METADATA_BYTES_MAX", 10)
    with pytest.raises(PolicyUnusable, match="is larger than 10 bytes"):
        load_policy(folder)
