"""The folder of a diffusers pipeline, read component by component, and what all families build from its components."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from rdt import weights
from rdt.errors import flat
from rdt.policy import Adapter, Parts, Policy, Setup
from rdt.process import Diffusion

GRAPHS = 64  # that one kind of block may be compiled into: widths, views, with and without gradient
WEIGHTS = ("diffusion_pytorch_model", "model")  # stems of a component's weight file in diffusers and transformers


def located(source: str, *components: str) -> Path:
    """Return the folder of a source; from the hub only these components' weights are downloaded, in one format."""
    ends = (".safetensors", "-0*.safetensors")  # whole or in shards
    files = [f"{name}/{stem}{end}" for name in components for stem in WEIGHTS for end in ends]
    folder = weights.locate(source, ("*.json", "*.txt", "*.model", *files))
    if not folder.is_dir():
        raise ValueError(f"checkpoint {source} is a file; a model is a diffusers folder, with model_index.json in it")
    return folder


def declared(folder: Path, *kinds: Any) -> Any:
    """Return the one of these pipeline classes that a folder declares in model_index.json; ValueError if it is none."""
    file = folder / "model_index.json"
    if not file.is_file():
        raise ValueError(f"checkpoint {folder} has no model_index.json; expected the folder of a {kinds[0].__name__}")
    name = str(json.loads(file.read_text(encoding="utf-8")).get("_class_name"))
    known = {kind.__name__: kind for kind in kinds}
    if name not in known:
        raise ValueError(f"checkpoint {folder} is a {name}; expected {' or '.join(known)}")
    return known[name]


def component(kind: Any, folder: Path, name: str, setup: Setup) -> Any:
    """Return a component of class `kind` in the setup's precision; ValueError if its files are missing or broken."""
    options = {"subfolder": name, "torch_dtype": setup.dtype, "local_files_only": True}
    return read_component(folder, name, lambda: kind.from_pretrained(folder, **options))


def unet(folder: Path, setup: Setup) -> UNet2DConditionModel:
    """Return the UNet in the setup's precision and memory format."""
    network = component(UNet2DConditionModel, folder, "unet", setup)
    return network.to(memory_format=torch.channels_last) if setup.channels_last else network


def autoencoder(folder: Path, setup: Setup) -> AutoencoderKL:
    """Return the autoencoder in the setup's precision."""
    return component(AutoencoderKL, folder, "vae", setup)


def scheduler(kind: Any, folder: Path) -> Any:
    """Return a scheduler of class `kind` with the folder's config, whichever class the folder declares."""
    return read_component(folder, "scheduler", lambda: kind.from_pretrained(folder, subfolder="scheduler"))


def read_component(folder: Path, name: str, load: Callable[[], Any]) -> Any:
    """Return what `load` returns; ValueError in one line if it raises anything."""
    try:
        return load()
    except Exception as error:  # diffusers and transformers raise errors of any type on missing or broken files
        cure = "if its download broke off, repeat it: hf download continues where it stopped"
        raise ValueError(f"checkpoint {folder}: {name} cannot be read: {flat(error)[:200]}; {cure}") from None


def dtype(network: nn.Module) -> torch.dtype:
    """Return a frozen network's precision from its first weight; diffusers' property walks all modules each time."""
    return next(network.parameters()).dtype


def diffusion(folder: Path) -> Diffusion:
    """Return the process of a diffusion model; its scheduler's class, which is a sampler, is ignored."""
    published = scheduler(DDIMScheduler, folder)
    return Diffusion(
        alphas_cumprod=published.alphas_cumprod,
        prediction=published.config.prediction_type,
        set_alpha_to_one=False,  # as Stable Diffusion: the last step keeps a little noise, so its density exists
        steps_offset=published.config.steps_offset,
    )


def latent_shape(channels: int, size: int, patch: int, vae: AutoencoderKL, setup: Setup) -> tuple[int, int, int]:
    """Return (C, H, W) of an image's latents, with H = W = `size` unless the setup has a resolution.

    ValueError if that resolution is not a whole number of patches.
    """
    pixels, step = setup.resolution or size * scale(vae), scale(vae) * patch
    if pixels % step:
        raise ValueError(f"model.policy.setup.resolution={pixels} must be a multiple of {step}")
    return channels, pixels // scale(vae), pixels // scale(vae)


def scale(vae: AutoencoderKL) -> int:
    """Return the number of pixels per latent, along a side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def image_decoder(vae: AutoencoderKL, setup: Setup) -> Callable[[Tensor], Tensor]:
    """Return a function from scaled, shifted latents to images (B, 3, H, W) in [0, 1], in the latents' precision."""
    factor, shift = vae.config.scaling_factor, vae.config.shift_factor or 0.0
    if setup.slicing:
        vae.enable_slicing()
        vae.enable_gradient_checkpointing()

    def decode(x0: Tensor) -> Tensor:
        image = vae.decode((x0 / factor + shift).to(vae.dtype)).sample
        return (image.to(x0.dtype) / 2 + 0.5).clamp(0, 1)

    return decode


def assembled(parts: Parts, adapter: Adapter, checkpointing: bool, setup: Setup) -> Policy:
    """Return the policy, with its blocks checkpointed and compiled if that is set."""
    policy = Policy(parts, adapter)
    if checkpointing:
        policy.checkpoint_blocks()
    if setup.compile:
        compile_blocks(policy.network)
    return policy


def compile_blocks(network: nn.Module) -> None:
    """Compile the transformer blocks; blocks of one width share a graph per view.

    The network is not compiled as a whole: on CPUs torch 2.13 then gives wrong gradients, 0 in a UNet's middle block.
    """
    torch._dynamo.config.recompile_limit = GRAPHS
    for block in network.modules():
        if type(block).__name__.endswith("TransformerBlock"):
            block.compile()
