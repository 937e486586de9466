"""LoRAs act at the scale at which stock diffusers applies them, whatever their files say of alphas."""

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rdt.models import lora, sd15, sdxl
from rdt.policy import Adapter, Policy, Setup
from worlds import model_checkpoints, tiny_policy

FAMILIES = {"sd15": (sd15.build, StableDiffusionPipeline), "sdxl": (sdxl.build, StableDiffusionXLPipeline)}
ADAPTER = Adapter(4, 4, ["to_q", "to_k"])
PATTERNS: dict[str, dict[str, Any]] = {
    "alpha": {"lora_alpha": 16}, "alpha_pattern": {"lora_alpha": 2, "alpha_pattern": {"to_q": 32}},
    "rank_pattern": {"lora_alpha": 8, "rank_pattern": {"to_k": 2}},
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: model_checkpoints.MAKERS[name](tmp_path_factory.mktemp(name)) for name in FAMILIES}


def built(family: str, folder: Path, consistency: Path | None = None, adapter: Adapter = ADAPTER) -> Policy:
    return FAMILIES[family][0](
        source=str(folder), consistency=consistency and str(consistency), adapter=adapter, checkpointing=False,
        setup=Setup(resolution=16),
    )  # fmt: skip


def saved(family: str, folder: Path, into: Path, metadata: bool = True, **options: Any) -> Path:
    """Write a random LoRA as diffusers does, with its config in the metadata or without it."""
    torch.manual_seed(1)
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    config = LoraConfig(r=4, target_modules=["to_q", "to_k"], init_lora_weights=False, **options)
    unet.add_adapter(config)
    layers = {key: 0.3 * value for key, value in get_peft_model_state_dict(unet).items()}
    known = {"unet_lora_adapter_metadata": config.to_dict()} if metadata else {}
    FAMILIES[family][1].save_lora_weights(into, unet_lora_layers=layers, **known)
    return into / "pytorch_lora_weights.safetensors"


def run(policy: Policy, network: Any = None, view: str = "base") -> Tensor:
    x, t, cond = tiny_policy.normal(2, *policy.latent_shape), torch.tensor(500), policy.encode(["a circle", "a ring"])
    return policy._parts.predict(network, x, t, cond) if network else getattr(policy, view)(x, t, cond)


def theirs(folder: Path, file: Path) -> Any:
    """Return the network of the stock pipeline with a LoRA loaded."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.load_lora_weights(file.parent, weight_name=file.name)
    return pipe.unet.eval()


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_consistency_adapter_has_the_alphas_of_its_metadata(
    family: str, pattern: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    file = saved(family, folders[family], tmp_path, **PATTERNS[pattern])
    policy = built(family, folders[family], file)
    found, expected = run(policy, view="consistency"), run(policy, theirs(folders[family], file))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    plain = tmp_path / "plain"
    without = built(family, folders[family], saved(family, folders[family], plain, metadata=False, **PATTERNS[pattern]))
    assert (found - run(without, view="consistency")).abs().max() > 1e-4


@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize("pattern", ["alpha", "alpha_pattern"])
def test_a_lora_that_is_read_into_the_adapter_acts_as_in_stock_diffusers(
    pattern: str, metadata: bool, folders: dict[str, Path], tmp_path: Path
) -> None:
    file = saved("sd15", folders["sd15"], tmp_path, metadata, **PATTERNS[pattern])
    policy = built("sd15", folders["sd15"])
    policy.load_lora(lora.read_lora(file, policy.adapter))
    expected = run(policy, theirs(folders["sd15"], file))
    torch.testing.assert_close(run(policy, view="tuned"), expected, rtol=0, atol=1e-5)
    assert (expected - run(policy)).abs().max() > 1e-3


def test_alphas_beside_the_weights_count_as_in_kohyas_files(folders: dict[str, Path], tmp_path: Path) -> None:
    file = saved("sd15", folders["sd15"], tmp_path, metadata=False)
    plain = lora.read_lora(file, ADAPTER)
    tensors = load_file(file)
    modules = {key.partition(".lora")[0] for key in tensors}
    save_file(tensors | {f"{module}.alpha": torch.tensor(2.0) for module in modules}, file)
    for key, value in lora.read_lora(file, ADAPTER).items():
        assert value.equal(plain[key] * 0.5 if "lora_B" in key else plain[key])


def test_the_runs_own_lora_is_read_back_bit_for_bit(folders: dict[str, Path], tmp_path: Path) -> None:
    policy = built("sd15", folders["sd15"])
    tiny_policy.disturb(policy)
    policy.save_lora(tmp_path)
    read = lora.read_lora(tmp_path / "pytorch_lora_weights.safetensors", policy.adapter)
    assert all(read[key].equal(value) for key, value in policy.lora().items())


@pytest.mark.parametrize("targets", [["to_q", "proj_in"], ["conv1", "to_v", "ff.net.2"], ["to_out.0"]])
def test_stock_diffusers_reads_every_weight_of_an_exported_adapter(
    targets: list[str], folders: dict[str, Path], tmp_path: Path
) -> None:
    policy = built("sd15", folders["sd15"], adapter=Adapter(4, 6, targets))
    tiny_policy.disturb(policy)
    policy.save_lora(tmp_path)
    network = theirs(folders["sd15"], tmp_path / "pytorch_lora_weights.safetensors")
    torch.testing.assert_close(run(policy, view="tuned"), run(policy, network), rtol=0, atol=1e-5)
    policy.never_merge()
    assert run(policy, network).equal(run(policy, view="tuned"))
    read = lora.read_lora(tmp_path / "pytorch_lora_weights.safetensors", policy.adapter)
    assert all(read[key].equal(value) for key, value in policy.lora().items())


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "lora_adapter_metadata"), ("[1]", "lora_adapter_metadata"),
        ('{"unet.lora_alpha": "x"}', "'x' is no alpha"),
        ('{"unet.lora_alpha": 1, "unet.alpha_pattern": {"(": 1}}', "lora_adapter_metadata"),
        ('{"unet.use_rslora": true}', "use_rslora=true"), ('{"unet.use_dora": true}', "use_dora=true"),
    ],
)  # fmt: skip
def test_metadata_that_cannot_be_honoured_is_one_line(
    text: str, named: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    file = saved("sd15", folders["sd15"], tmp_path)
    save_file(load_file(file), file, {"format": "pt", lora.METADATA: text})
    with pytest.raises(ValueError, match=r"^checkpoint ") as caught:
        lora.read_lora(file, ADAPTER)
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_a_consistency_adapter_that_diffusers_would_load_in_part_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """diffusers goes by the first key's naming and drops the tensors that are named in another way."""
    file = saved("sd15", folders["sd15"], tmp_path, metadata=False)
    renamed = {
        key.replace("lora_A.", "lora.down.").replace("lora_B.", "lora.up.") if "to_q" in key else key: value.clone()
        for key, value in load_file(file).items()
    }
    save_file(renamed, file)
    with pytest.raises(ValueError, match=rf"diffusers loads \d+ of its {len(renamed)} tensors"):
        built("sd15", folders["sd15"], file)


def test_a_consistency_adapter_with_weights_for_other_modules_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    file = saved("sd15", folders["sd15"], tmp_path)
    tensors = load_file(file)
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    assert json.loads(metadata[lora.METADATA])["unet.lora_alpha"] == 8
    encoder = {key.replace("unet.", "text_encoder."): value.clone() for key, value in tensors.items()}
    key, value = next(iter(tensors.items()))
    elsewhere = {key.replace("down_blocks.0", "down_blocks.7"): value.clone()}
    for others, named in ((encoder, "text_encoder."), (elsewhere, "this UNet has no module for unet.down_blocks.7")):
        save_file(tensors | others, file, metadata)
        with pytest.raises(ValueError, match=r"^consistency adapter .*does not fit this model") as caught:
            built("sd15", folders["sd15"], file)
        assert named in str(caught.value) and "\n" not in str(caught.value)
