"""Random checkpoints of full size in the published formats: the folders of `model_checkpoints` with larger weights.

Weights are made in bf16 on the device, one component at a time, so that memory never holds more than the largest.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from worlds import feature_checkpoints, model_checkpoints, reward_checkpoints
from worlds.published_networks import UNET, XL

LARGE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
GIANT = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
SPECIAL = {"bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}  # of `model_checkpoints.words`
VISION = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "patch_size": 14}  # fmt: skip
HEAD = {0: 1024, 2: 128, 4: 64, 6: 16, 7: 1}  # the aesthetic head's widths


def vae(scale: float) -> AutoencoderKL:
    return AutoencoderKL(
        latent_channels=4, block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=512,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, scaling_factor=scale,
    )  # fmt: skip


def large() -> nn.Module:
    return CLIPTextModel(CLIPTextConfig(**LARGE, **SPECIAL, projection_dim=768))


def giant() -> nn.Module:
    return CLIPTextModelWithProjection(CLIPTextConfig(**GIANT, **SPECIAL, projection_dim=1280, hidden_act="gelu"))


def unet_sd15() -> UNet2DConditionModel:
    return UNet2DConditionModel(**UNET)


def unet_sdxl() -> UNet2DConditionModel:
    return UNet2DConditionModel(**XL)


Make = Callable[[], nn.Module]
COMPONENTS: dict[str, dict[str, Make]] = {
    "sd15": {"unet": unet_sd15, "vae": lambda: vae(0.18215), "text_encoder": large},
    "sdxl": {"unet": unet_sdxl, "vae": lambda: vae(0.13025), "text_encoder": large, "text_encoder_2": giant},
}


def pipeline(name: str, folder: Path, device: str) -> Path:
    """Write the pipeline's folder; schedulers and tokenizers are the tiny one's, with the published configs."""
    model_checkpoints.MAKERS[name](folder)
    for part, make in COMPONENTS[name].items():
        with half_on(device):
            module = make()
        module.save_pretrained(folder / part)
        if part == "unet":
            model_checkpoints.lcm_lora(module, folder / "lcm.safetensors")
    return folder


def write(model: str, folder: Path, device: str | None) -> None:
    """Write a pipeline, its consistency LoRA, the aesthetic reward and the CLIP that measures diversity.

    All of them are tiny if `device` is None.
    """
    feature_checkpoints.clip_folder(folder / "embedder")
    widths, joint, backbone = (
        reward_checkpoints.HEAD,
        feature_checkpoints.WIDTH,
        feature_checkpoints.clip_folder(folder / "clip"),
    )
    if device is None:
        model_checkpoints.MAKERS[model](folder)
        model_checkpoints.lcm_lora(model_checkpoints.UNET_OF[model](), folder / "lcm.safetensors")
    else:
        pipeline(model, folder, device)
        widths, joint = HEAD, 768
        with half_on(device):
            CLIPModel(CLIPConfig(text_config=LARGE, vision_config=VISION, projection_dim=joint)).save_pretrained(
                backbone
            )
    torch.save(reward_checkpoints.random(reward_checkpoints.affine(joint, widths)), folder / "aesthetic-model.pth")


def named(folder: Path) -> list[str]:
    """Return the overrides that point a run to what was written."""
    return [
        f"model.policy.source={folder}", f"model.policy.consistency={folder}/lcm.safetensors",
        f"model.checkpoints.aesthetic.checkpoint={folder}/aesthetic-model.pth",
        f"model.checkpoints.aesthetic.backbone={folder}/clip", f"diversity.embedders.clip.checkpoint={folder}/embedder",
    ]  # fmt: skip


@contextmanager
def half_on(device: str) -> Iterator[None]:
    """Create modules in bf16 on the device."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)
