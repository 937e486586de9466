"""Makes tiny random CLIP, DINOv2 and LPIPS checkpoints in the layout of the published files."""

import json
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

from rdt.embedders import lpips

CLIP_SIDE, DINO_SIDE, DINO_RESIZE, WIDTH = 20, 16, 18, 12
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def clip_folder(folder: Path) -> Path:
    """Write a CLIPModel with a preprocessor config like OpenAI's, whose sizes are plain numbers."""
    sizes = dict(intermediate_size=40, num_hidden_layers=2, num_attention_heads=2)
    text = sizes | dict(hidden_size=16, vocab_size=50, max_position_embeddings=8, eos_token_id=1)
    vision = sizes | dict(hidden_size=24, image_size=CLIP_SIDE, patch_size=5)
    _save(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH)), folder)
    config = {"size": CLIP_SIDE, "crop_size": CLIP_SIDE, "image_mean": CLIP_MEAN, "image_std": CLIP_STD, "resample": 3}
    return _preprocessor(folder, config)


def dinov2_folder(folder: Path) -> Path:
    """Write a Dinov2Model with a preprocessor config like Meta's, which resizes to more than it crops."""
    config = Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, image_size=28, patch_size=4, layerscale_value=0.7
    )
    _save(Dinov2Model(config), folder)
    sizes = {"size": {"shortest_edge": DINO_RESIZE}, "crop_size": {"height": DINO_SIDE, "width": DINO_SIDE}}
    return _preprocessor(folder, sizes | {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD, "resample": 3})


def lpips_files(folder: Path) -> dict[str, dict[str, str | None]]:
    """Write files in the layouts of torchvision and LPIPS, with different widths and a classifier that is not read."""
    written = {}
    for network, widths in {"alex": (4, 6, 9, 5, 7), "vgg": (2, 3, 4, 5, 6, 7, 8, 3, 4, 5, 6, 7, 8)}.items():
        noise, into = torch.Generator().manual_seed(0), 3
        trunk, heads = {"classifier.6.weight": torch.zeros(3, 3)}, {}
        layout = lpips.NETWORKS[network]
        for place, width in zip(layout.convolutions, widths, strict=True):
            side = {0: 11, 3: 5}.get(place, 3) if network == "alex" else 3
            trunk[f"features.{place}.weight"] = torch.randn(width, into, side, side, generator=noise) / side
            trunk[f"features.{place}.bias"] = torch.randn(width, generator=noise)
            into = width
            if place in layout.tapped:
                heads[f"lin{len(heads)}.model.1.weight"] = torch.rand(1, width, 1, 1, generator=noise)
        torch.save(trunk, folder / f"{network}.pth")
        torch.save(heads, folder / f"{network}_heads.pth")
        files = {"checkpoint": str(folder / f"{network}.pth"), "heads": str(folder / f"{network}_heads.pth")}
        written[network] = files | {"sha256": None, "size": None}
    return written


def _save(model: torch.nn.Module, folder: Path) -> None:
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=noise))
    model.save_pretrained(folder)


def _preprocessor(folder: Path, config: dict) -> Path:
    (folder / "preprocessor_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
