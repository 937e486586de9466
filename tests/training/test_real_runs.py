"""Complete runs on tiny checkpoints in the published formats train, evaluate, record, and can be read back."""

import math
import sys
from itertools import product

import pytest
from safetensors import safe_open

from rdt import result, run
from rdt.evaluate import check_same_base
from rdt.training import finished
from rdt.training.launch import work
from worlds import feature_checkpoints, model_checkpoints
from worlds.smallest_run import minimal

LCM = ("sd15", "sdxl")
METHODS = {
    "sqdf": ["batch_size=2"],
    # three are kept, since two nearest neighbours may have equal scores
    "drift": ["batch_size=4", "method.group=4", "method.keep=3", "method.num_steps=3"],
    "draft": ["batch_size=2"],
    "aig": ["batch_size=2"],
}

FAST = set(zip(model_checkpoints.MAKERS, METHODS, strict=True))  # every model and every method once
PAIRS = [
    pytest.param(*pair, marks=[pytest.mark.slow] * (pair not in FAST))
    for pair in product(model_checkpoints.MAKERS, METHODS)
]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Return, by model, the overrides that name a tiny checkpoint in place of the published one."""
    root = tmp_path_factory.mktemp("published")
    clip = feature_checkpoints.clip_folder(root / "clip")
    made = {}
    for name, make in model_checkpoints.MAKERS.items():
        given = [f"model.policy.source={make(root / name)}", f"diversity.embedders.clip.checkpoint={clip}"]
        if name in LCM:
            network = model_checkpoints.UNET_OF[name]()
            given.append(
                f"model.policy.consistency={model_checkpoints.lcm_lora(network, root / name / 'lcm.safetensors')}"
            )
        small = [f"model.policy.setup.resolution={model_checkpoints.SIDE}", f"cache={root / 'cache'}", "precision=fp32"]
        made[name] = [f"model={name}", "diversity=clip", "~diversity.overall.clip", "reward=jpeg", *given, *small]
    return made


def config(published, name, method, out, *overrides):
    return minimal(out, "logger=csv", f"method={method}", *published[name], *METHODS[method], *overrides)


@pytest.mark.parametrize("name, method", PAIRS)
def test_a_run_trains_and_records(published, name, method, tmp_path):
    out = tmp_path / "out"
    work(config(published, name, method, out))
    found = result.read(out)
    assert found.model == name and found.iterations == 2
    assert len(found.points) == (4 if method == "aig" else 1)
    assert all(math.isfinite(point.means()["reward/jpeg"]) for point in found.points)
    assert found.compute["images_per_second"] > 0 and found.compute["peak_memory_bytes"] > 0
    with safe_open(out / "lora" / "pytorch_lora_weights.safetensors", "pt") as file:
        assert any(file.get_tensor(key).any() for key in file.keys() if "lora_B" in key or "up" in key)  # noqa: SIM118


def test_a_run_leaves_a_model_card_frees_the_text_encoder_and_can_be_read_back(published, tmp_path):
    out = tmp_path / "out"
    work(config(published, "sdxl", "draft", out))
    files = {file.name for file in (out / "lora").iterdir()}
    weights = {"pytorch_lora_weights.safetensors", "pytorch_lora_weights_kohya.safetensors"}
    assert files == {"README.md", "config.yaml", "digests.json", "base.png", "tuned.png"} | weights
    card = (out / "lora" / "README.md").read_text()
    assert "| `reward/jpeg` |" in card and "load_lora_weights" in card and "![base](base.png)" in card
    done = finished.read_finished(out, None)
    experiment = done.experiment()
    assert len(experiment.policy.frozen) == 1
    check_same_base(done, experiment)


@pytest.mark.parametrize("name", model_checkpoints.MAKERS)
def test_a_dry_run_finds_every_file_and_writes_nothing(published, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["rdt", *published[name], "method=sqdf", "logger=csv", "dry_run=true"])
    run.entry()
    out = capsys.readouterr().out
    assert f"model={name}" in out and "needs model.policy.source" in out and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_a_look_ahead_without_an_adapter_is_refused_before_the_run(published, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["method=sqdf", "method.look_ahead=consistency", "logger=csv"]
    monkeypatch.setattr(sys, "argv", ["rdt", *published[name], *arguments])
    with pytest.raises(SystemExit):
        run.entry()
    assert "set method.look_ahead=tweedie or n_step" in capsys.readouterr().err and not list(tmp_path.iterdir())
