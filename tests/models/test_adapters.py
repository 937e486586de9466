"""Published LoRAs of every layout give the outputs of the stock pipeline, alone and added up."""

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from rdt.config.compose import composed
from rdt.errors import UsageError
from rdt.models import adapters, lora
from rdt.training.loaded import LoadedExperiment
from worlds import model_checkpoints, tiny_policy
from worlds.lora_files import component, network_of, saved

PATTERNS = {
    "alpha": {"lora_alpha": 16},
    "patterns": {"lora_alpha": 8, "alpha_pattern": {"to_q": 32}, "rank_pattern": {"to_k": 2}},
    "odd": {"lora_alpha": 3.5},
}
FAMILIES = list(model_checkpoints.MAKERS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {name: make(root / name) for name, make in model_checkpoints.MAKERS.items()}


def policy(family, folder, file, weights=None):
    """Return the policy that `rdt evaluate` builds."""
    sources = ",".join(map(str, file if isinstance(file, list) else [file]))
    cfg = composed(
        "evaluate_model", f"model={family}", f"model.policy.source={folder}", f"lora=[{sources}]", "precision=fp32",
        "model.policy.setup.resolution=16", f"lora_weights={weights or 'null'}", "model.policy.setup.embeddings=null",
        *(["model.policy.consistency=null"] if component(family) == "unet" else []),
    )  # fmt: skip
    OmegaConf.resolve(cfg)
    return LoadedExperiment(cfg).policy


def outputs(made, network=None):
    """Return the output of the policy's tuned view, or of another network, at the same inputs."""
    x, cond = tiny_policy.normal(2, *made.latent_shape), made.encode(["a circle", "a ring"])
    t = torch.tensor(500 if component_is_unet(made) else 0.5)
    with torch.no_grad():
        return made._parts.predict(network, x, t, cond) if network else made.tuned(x, t, cond)


def component_is_unet(made):
    return type(made.network).__name__.startswith("UNet")


def stock(folder, file):
    """Return the network of the stock pipeline with a LoRA loaded."""
    pipe, network = network_of(folder)
    pipe.load_lora_weights(file.parent, weight_name=file.name)
    return network.eval()


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_of_diffusers_acts_as_in_the_stock_pipeline(family, pattern, folders, tmp_path):
    file, _, _ = saved(family, folders[family], tmp_path, **PATTERNS[pattern])
    made = policy(family, folders[family], file)
    expected = outputs(made, stock(folders[family], file))
    torch.testing.assert_close(outputs(made), expected, rtol=0, atol=2e-5)
    assert (expected - outputs(made, network_of(folders[family])[1].eval())).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_lora_in_kohyas_layout_has_the_same_weights(family, folders, tmp_path):
    file, weights, config = saved(family, folders[family], tmp_path, lora_alpha=16)
    other = tmp_path / "kohya.safetensors"
    save_file(lora.kohya(component(family), weights, config.lora_alpha), other)
    made = policy(family, folders[family], other)
    assert outputs(made).equal(outputs(policy(family, folders[family], file)))
    if family == "sd15":
        torch.testing.assert_close(outputs(made), outputs(made, stock(folders[family], other)), rtol=0, atol=2e-5)


def test_loras_are_added_up_by_their_weights(folders, tmp_path):
    folder = folders["sd15"]
    one, _, _ = saved("sd15", folder, tmp_path / "one", seed=1, lora_alpha=16)
    two, _, _ = saved("sd15", folder, tmp_path / "two", seed=2, **PATTERNS["patterns"])
    made = policy("sd15", folder, [one, two], "[0.5,-2]")
    pipe, network = network_of(folder)
    pipe.load_lora_weights(one.parent, weight_name=one.name, adapter_name="one")
    pipe.load_lora_weights(two.parent, weight_name=two.name, adapter_name="two")
    pipe.set_adapters(["one", "two"], [0.5, -2.0])
    torch.testing.assert_close(outputs(made), outputs(made, network.eval()), rtol=0, atol=1e-4)


def test_a_lora_of_one_rank_and_alpha_keeps_its_bits(folders, tmp_path):
    file, layers, _ = saved("sd15", folders["sd15"], tmp_path, lora_alpha=8)
    tensors, adapter = adapters.merged([(adapters.read_published(file, "rdt.models.sd15.build", folders["sd15"]), 1.0)])
    assert (adapter.rank, adapter.alpha) == (4, 8)
    assert all(tensors[key].equal(value) for key, value in layers.items())


def test_what_is_no_lora_of_this_model_is_one_line(folders, tmp_path):
    file, _, _ = saved("sdxl", folders["sdxl"], tmp_path)
    with pytest.raises(UsageError, match=r"lora=.*"):
        policy("sd15", folders["sd15"], file)
    plain = load_file(saved("sd15", folders["sd15"], tmp_path / "a")[0])
    save_file(plain | {"unet.x.dora_scale": torch.ones(2)}, tmp_path / "dora.safetensors")
    with pytest.raises(UsageError, match="is a DoRA"):
        policy("sd15", folders["sd15"], tmp_path / "dora.safetensors")
    te = {"lora_te_text_model_encoder_layers_0_self_attn_q_proj": torch.ones(2, 2)}
    named = {f"{key}.lora_{side}.weight": value for key, value in te.items() for side in ("down", "up")}
    save_file({key: value.clone() for key, value in named.items()}, tmp_path / "te.safetensors")
    with pytest.raises(UsageError, match="adapts more than the unet"):
        policy("sd15", folders["sd15"], tmp_path / "te.safetensors")
