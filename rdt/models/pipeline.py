"""The folder of a diffusers pipeline, read component by component, and what the models make of components alike."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Tensor, nn

from rdt import weights
from rdt.errors import flat
from rdt.policy import Adapter, Parts, Policy, Setup
from rdt.process import Diffusion

GRAPHS = 64  # that one kind of block may be compiled into: widths, views, with and without gradient
WEIGHTS = ("diffusion_pytorch_model", "model")  # what diffusers and transformers call a component's file


def located(source: str, *components: str) -> Path:
    """The folder of a source; of a hub's repository only the weights of these components, in one format."""
    ends = (".safetensors", "-0*.safetensors")  # whole or in shards
    files = [f"{name}/{stem}{end}" for name in components for stem in WEIGHTS for end in ends]
    folder = weights.locate(source, ("*.json", "*.txt", "*.model", *files))
    if not folder.is_dir():
        raise ValueError(f"checkpoint {source} is a file; a model is a diffusers folder, with model_index.json in it")
    return folder


def declared(folder: Path, *expected: str) -> str:
    """The class of pipeline that a folder says it is; ValueError where it is none of those expected."""
    file = folder / "model_index.json"
    if not file.is_file():
        raise ValueError(f"checkpoint {folder} has no model_index.json; expected the folder of a {expected[0]}")
    name = json.loads(file.read_text(encoding="utf-8")).get("_class_name")
    if name not in expected:
        raise ValueError(f"checkpoint {folder} is a {name}; expected {' or '.join(expected)}")
    return name


def component(kind: Any, folder: Path, name: str, setup: Setup) -> Any:
    """A network of the folder in the setup's precision; ValueError where its files are not all there or broken."""
    return read(folder, name, lambda: kind.from_pretrained(
        folder, subfolder=name, torch_dtype=setup.dtype, local_files_only=True
    ))  # fmt: skip


def read(folder: Path, name: str, load: Callable[[], Any]) -> Any:
    """What `load` reads, or one line about what it could not."""
    try:
        return load()
    except Exception as error:  # diffusers and transformers raise whatever they trip over
        cure = "if its download broke off, repeat it; hf download continues where it was"
        raise ValueError(f"checkpoint {folder}: {name} cannot be read: {flat(error)[:200]}; {cure}") from None


def formatted(network: nn.Module, setup: Setup) -> Any:
    """The network in the memory format its setup asks for."""
    return network.to(memory_format=torch.channels_last) if setup.channels_last else network


def dtype(network: nn.Module) -> torch.dtype:
    """A frozen network's precision, by its first weight: diffusers' own property walks all modules, at every pass."""
    return next(network.parameters()).dtype


def diffusion(folder: Path) -> Diffusion:
    """The process of a diffusion model's scheduler, whichever sampler that is."""
    scheduler = read(folder, "scheduler", lambda: DDIMScheduler.from_pretrained(folder, subfolder="scheduler"))
    return Diffusion(
        alphas_cumprod=scheduler.alphas_cumprod,
        prediction=scheduler.config.prediction_type,
        set_alpha_to_one=False,  # as Stable Diffusion: the last step keeps a little noise, so its density exists
        steps_offset=scheduler.config.steps_offset,
    )


def latent_shape(channels: int, size: int, patch: int, vae: AutoencoderKL, setup: Setup) -> tuple[int, int, int]:
    """(C, H, W) of an image's latents, `size` where the setup does not say; ValueError where patches do not fit."""
    pixels, step = setup.resolution or size * scale(vae), scale(vae) * patch
    if pixels % step:
        raise ValueError(f"model.policy.setup.resolution={pixels} must be a multiple of {step}")
    return channels, pixels // scale(vae), pixels // scale(vae)


def scale(vae: AutoencoderKL) -> int:
    """Pixels per latent, along a side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def image_decoder(vae: AutoencoderKL, setup: Setup) -> Callable[[Tensor], Tensor]:
    """From scaled and shifted latents to images (B, 3, H, W) in [0, 1], in the latents' precision."""
    factor, shift = vae.config.scaling_factor, vae.config.shift_factor or 0.0
    if setup.slicing:
        vae.enable_slicing()
        vae.enable_gradient_checkpointing()

    def decode(x0: Tensor) -> Tensor:
        image = vae.decode((x0 / factor + shift).to(vae.dtype)).sample
        return (image.to(x0.dtype) / 2 + 0.5).clamp(0, 1)

    return decode


def assembled(made: Parts, adapter: Adapter, checkpointing: bool, setup: Setup) -> Policy:
    """The policy, its blocks checkpointed and compiled where that is asked for."""
    policy = Policy(made, adapter)
    if checkpointing:
        policy.checkpoint_blocks()
    if setup.compile:
        compile_blocks(policy.network)
    return policy


def compile_blocks(network: nn.Module) -> None:
    """Compile the transformer blocks: those of one width share a graph per view.

    Not the network as one: through a whole UNet, torch 2.13 gives wrong gradients on CPUs, 0 in the middle block.
    """
    torch._dynamo.config.recompile_limit = GRAPHS
    for block in network.modules():
        if type(block).__name__.endswith("TransformerBlock"):
            block.compile()
