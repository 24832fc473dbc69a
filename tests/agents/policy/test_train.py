"""The demonstration bundle: made from bars, the same each time, and as good as the rule that it was shown."""

import numpy as np
import pytest

from agents.clock import ReplayClock
from agents.errors import InvalidValue
from agents.market import simulate
from agents.policy import ExecutionAgent, RulePolicy, load_policy
from agents.policy.bundle import sha256_of
from agents.policy.metadata import FORMATS
from agents.policy.observation import OBSERVATION_NAMES
from agents.policy.train import _samples, main, train
from tests.agents.policy.conftest import torchscript

BARS = simulate("SIM", 7, 400)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Both formats, trained once."""
    folder = tmp_path_factory.mktemp("made")
    return {form: (folder / form, train(BARS, folder / form, form=form, clock=ReplayClock(0))) for form in FORMATS}


@pytest.mark.parametrize("form", FORMATS)
class TestDemo:
    def test_it_loads_and_answers(self, made, form):
        folder, metadata = made[form]
        agent = ExecutionAgent(folder, pinned_sha256=metadata.sha256, features=OBSERVATION_NAMES)
        assert (agent.is_fallback, agent.policy_id) == (False, f"demo_{form}")
        assert len(metadata.canaries) == 8
        assert metadata.created == "1970-01-01T00:00:00+00:00"
        assert set(metadata.latency_us) == {"p50", "p90", "p95", "p99", "p99.9", "max"}

    def test_it_does_as_the_rule_on_plans_it_was_not_shown(self, made, form):
        policy, rule = load_policy(made[form][0]), RulePolicy()
        observations, _ = _samples(simulate("OTHER", 3, 300), seed=99)
        seen = observations[:4_000].astype(float)
        same = np.mean([policy.predict(row)[0] is rule.predict(row)[0] for row in seen])
        assert same > 0.95

    def test_its_canaries_see_all_actions(self, made, form):
        policy = load_policy(made[form][0])
        taken = {policy.predict(np.array(canary.input))[0] for canary in made[form][1].canaries}
        assert len(taken) > 1


@pytest.fixture
def hasty(monkeypatch):
    """A few steps only, where it does not matter what is learnt."""
    monkeypatch.setattr("agents.policy.train._STEPS", 5)


def test_the_same_bars_and_seed_make_the_same_weights(hasty, tmp_path):
    hashes = [
        train(BARS, tmp_path, seed=seed, clock=ReplayClock(time)).sha256 for seed, time in ((7, 0), (7, 1), (8, 0))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_what_cannot_be_trained_on(tmp_path):
    with pytest.raises(InvalidValue, match="99 bars"):
        train(simulate("SIM", 7, 99), tmp_path / "out")
    with pytest.raises(InvalidValue, match="no format 'onnx'"):
        train(BARS, tmp_path / "out", form="onnx")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("hasty")
class TestCommandLine:
    def test_from_a_file(self, tmp_path, capsys):
        rows = [
            f"2024-01-01T{n // 60 % 24:02}:{n % 60:02}:00,{100 + n % 7},{108},{99},{100 + n % 5},{n + 1}"
            for n in range(150)
        ]
        path = tmp_path / "bars.csv"
        path.write_text("time,open,high,low,close,volume\n" + "\n".join(rows))
        assert main(["--out", str(tmp_path / "out"), "--data", str(path)]) == 0
        pin = sha256_of((tmp_path / "out" / "metadata.json").read_bytes())
        assert f"policy_sha256 = {pin}" in capsys.readouterr().out
        assert load_policy(tmp_path / "out", pinned_sha256=pin).metadata.pin == pin

    def test_bad_input_is_one_line(self, tmp_path, capsys):
        (tmp_path / "file").write_text("")
        for arguments in (["--data", str(tmp_path / "nobody.csv")], ["--out", str(tmp_path / "file" / "x")]):
            assert main(["--out", str(tmp_path / "out"), *arguments]) == 2
            told = capsys.readouterr().err
            assert told.startswith("error: ")
            assert told.count("\n") == 1


class TestInspect:
    def test_a_bundle_that_works(self, made, capsys):
        from agents.policy.inspect import main as inspect

        inspect([str(made["mlp"][0]), "--trials", "50", "--paced-trials", "2"])
        told = capsys.readouterr().out
        for part in ("demo_mlp", "mlp (policy.safetensors)", "23 values: return_1", "HOLD, BUY, SELL", "8, to 0.001"):
            assert part in told
        assert f"policy_sha256 = {made['mlp'][1].pin}" in told
        assert "yes; hash, shapes and canaries are right" in told
        assert "hot           p50 " in told
        assert "paced, 20 ms  p50 " in told

    def test_a_bundle_that_does_not(self, bundle, capsys):
        from agents.policy.inspect import main as inspect

        assert inspect([str(bundle("torchscript", torchscript()[:100]))]) == 1
        told = capsys.readouterr().out
        assert "sha256" in told
        assert "loads         no: " in told

    def test_a_hash_of_another(self, bundle, capsys):
        from agents.policy.inspect import main as inspect

        assert inspect([str(bundle()), "--sha256", "0" * 64]) == 1
        assert "the settings say 0000" in capsys.readouterr().out

    @pytest.mark.parametrize("flags", [["--trials", "0"], ["--paced-trials", "-1"], []])
    def test_wrong_usage(self, bundle, flags, capsys):
        from agents.policy.inspect import main as inspect

        with pytest.raises(SystemExit) as ended:
            inspect([*([str(bundle())] if flags else []), *flags])
        assert ended.value.code == 2
