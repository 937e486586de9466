"""Models read from tiny checkpoints in the published formats sample the images of their stock pipelines."""

from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from markdown_it import MarkdownIt
from omegaconf import open_dict
from torch import Tensor

from rdt import result
from rdt.guidance import cfg
from rdt.models import flux, lora
from rdt.policy import Adapter, Policy
from rdt.rollout import Sampling, sampled
from rdt.training.card import card
from worlds import model_checkpoints, run_folders, tiny_policy
from worlds.builders import built
from worlds.smallest_run import minimal

MODELS = tuple(model_checkpoints.MAKERS)
PROMPTS = ["a circle", "two small rings"]
STEPS = 4
ADAPTER = Adapter(2, 3, ["to_q", "to_k", "to_v", "to_out.0"])  # alpha is not the rank
COMPONENT = {"sd15": "unet", "sdxl": "unet", "sd3": "transformer", "flux": "transformer"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write one folder per model."""
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in model_checkpoints.MAKERS.items()}


def build(name: str, folder: Path, setup: dict[str, Any] | None = None, **changes: Any) -> Policy:
    return built(name, folder, ADAPTER, setup, **changes)


def stock(name: str, folder: Path) -> Any:
    """Return the stock pipeline, with our sampler."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    if name in ("sd15", "sdxl"):
        pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def images(name: str, pipe: Any, x: Tensor) -> Tensor:
    """Return the stock pipeline's images (B, 3, H, W) in [0, 1] from noise x, at the guidance of `ours`."""
    own = {"max_sequence_length": 24} if name in ("sd3", "flux") else {}
    latents = flux.packed(x) if name == "flux" else x
    scale = 3.5 if name == "flux" else 5.0
    return pipe(
        PROMPTS, height=model_checkpoints.SIDE, width=model_checkpoints.SIDE,
        latents=latents, num_inference_steps=STEPS,
        guidance_scale=scale, output_type="pt", **own,
    ).images  # fmt: skip


def ours(name: str, policy: Policy, view: Any = None) -> tuple[Tensor, Tensor]:
    """Return noise and our images of it, sampled deterministically."""
    noise = policy.noise(0, "test", range(2))
    guided = cfg(view or policy.base, policy.encode([""]), 1.0 if name == "flux" else 5.0)
    with torch.no_grad():
        x0 = sampled(policy, guided, PROMPTS, noise, Sampling(STEPS, 0.0, 1.0)).clean
        return noise.initial(), policy.decode(x0)


@pytest.mark.parametrize("name", MODELS)
def test_images_equal_those_of_the_stock_pipeline(name: str, folders: dict[str, Path]) -> None:
    noise, found = ours(name, build(name, folders[name]))
    expected = images(name, stock(name, folders[name]), noise)
    assert found.shape == (2, 3, model_checkpoints.SIDE, model_checkpoints.SIDE) and found.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_without_t5_its_tokens_are_zeros_as_in_the_stock_pipeline(folders: dict[str, Path]) -> None:
    noise, found = ours("sd3", build("sd3", folders["sd3"], t5=False))
    pipe = stock("sd3", folders["sd3"])
    whole = images("sd3", pipe, noise)
    pipe.text_encoder_3 = pipe.tokenizer_3 = None
    torch.testing.assert_close(found, images("sd3", pipe, noise), rtol=0, atol=2e-5)
    assert (found - whole).abs().max() > 1e-3


def exported(name: str, folder: Path, out: Path, **file: str) -> tuple[Policy, Any]:
    """Return our policy with a random adapter, and the stock pipeline with the file that we export of it."""
    policy, pipe = build(name, folder), stock(name, folder)
    tiny_policy.disturb(policy)
    policy.save_lora(out)
    pipe.load_lora_weights(out, **file)
    return policy, pipe


@pytest.mark.parametrize("name", MODELS)
def test_an_exported_adapter_gives_stock_diffusers_our_images_bit_for_bit(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    policy, pipe = exported(name, folders[name], tmp_path)
    theirs = getattr(pipe, COMPONENT[name]).eval()
    merged = ours(name, policy, policy.tuned)[1]
    policy.never_merge()
    noise, tuned = ours(name, policy, policy.tuned)
    torch.testing.assert_close(merged, tuned, rtol=0, atol=2e-5)
    assert (tuned - ours(name, policy)[1]).abs().max() > 1e-3
    assert ours(name, policy, partial(policy._parts.predict, theirs))[1].equal(tuned)
    torch.testing.assert_close(images(name, pipe, noise), tuned, rtol=0, atol=2e-5)


def test_the_code_of_a_model_card_gives_the_stock_pipeline_our_images(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, _ = exported("sd15", folders["sd15"], tmp_path / "lora")
    run_folders.write_run(tmp_path / "run", compute={"images": 960})
    config = minimal(tmp_path / "never")
    with open_dict(config):
        config.model.policy.source = str(folders["sd15"])
    tokens = MarkdownIt().parse(card(config, result.read(tmp_path / "run"), ["a circle"]))
    code = next(token.content for token in tokens if token.type == "code_block")
    scope: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path / "lora")
    exec(code, scope)
    pipe = scope["pipe"]
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    noise, tuned = ours("sd15", policy, policy.tuned)
    torch.testing.assert_close(images("sd15", pipe, noise), tuned, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["sd15", "sdxl", "flux"])
def test_kohyas_file_gives_the_same_images_through_diffusers_reader(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    policy, pipe = exported(name, folders[name], tmp_path, weight_name=lora.KOHYA)
    noise, tuned = ours(name, policy, policy.tuned)
    torch.testing.assert_close(images(name, pipe, noise), tuned, rtol=0, atol=5e-5)


@pytest.mark.parametrize("name", MODELS)
def test_kohyas_file_has_every_adapted_weight_under_its_readers_name(name: str, folders: dict[str, Path]) -> None:
    policy = build(name, folders[name])
    tiny_policy.disturb(policy)
    weights, known = policy.lora(), {key for key, _ in policy.network.named_modules()}
    converted = lora.kohya(COMPONENT[name], weights, 3)
    readers = {f"lora_{COMPONENT[name]}_{key.replace('.', '_')}": key for key in known}
    for key in {key.rpartition(".lora_")[0] if ".lora_" in key else key.removesuffix(".alpha") for key in converted}:
        module = readers[key]
        up, down = (converted[f"{key}.lora_{side}.weight"] for side in ("up", "down"))
        update = up @ down * converted[f"{key}.alpha"] / ADAPTER.rank
        ours = weights[f"{module}.lora_B.weight"] @ weights[f"{module}.lora_A.weight"] * ADAPTER.alpha / ADAPTER.rank
        assert update.equal(ours)
    assert len(converted) == 3 * len(weights) // 2


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_a_published_consistency_adapter_is_the_consistency_view(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    network = diffusers.UNet2DConditionModel.from_pretrained(folders[name], subfolder="unet")
    file = model_checkpoints.lcm_lora(network, tmp_path / "lcm.safetensors")
    policy = build(name, folders[name], consistency=str(file))
    pipe = stock(name, folders[name])
    pipe.load_lora_weights(tmp_path, weight_name=file.name)
    noise, found = ours(name, policy, policy.consistency)
    torch.testing.assert_close(found, images(name, pipe, noise), rtol=0, atol=5e-5)
    assert (found - ours(name, policy)[1]).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"^consistency adapter .*does not fit this model"):
        build(name, folders[name], consistency=str(folders[name] / "unet" / "diffusion_pytorch_model.safetensors"))


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_a_model_without_a_consistency_adapter_refuses_its_view(name: str, folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"set method.look_ahead=tweedie or n_step"):
        ours(name, build(name, folders[name]), build(name, folders[name]).consistency)
