"""The folder of a diffusers pipeline, read component by component, and what all families build from its components."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from rdt import weights
from rdt.checkpoint import AGAIN, INDEX, check_component, read_config, tensors_in, weight_files, weights_in
from rdt.errors import flat
from rdt.models.settings import UNET, require
from rdt.policy import Adapter, Parts, Policy, Setup

GRAPHS = 64  # that one kind of block may be compiled into: widths, views, with and without gradient
STEMS = ("diffusion_pytorch_model", "model")  # of a component's weight files in diffusers and transformers
CONFIGS = ("*.json", "*.txt", "*.model")


def located(source: str, *components: str) -> Path:
    """Return the folder of a source; from the hub only the files are downloaded that are loaded of these components."""
    names = weights.listing(source)
    folder = weights.locate(source, (*CONFIGS, *(_wanted(source, names, components) if names else _usual(components))))
    if not folder.is_dir():
        raise ValueError(f"checkpoint {source} is a file; a model is a diffusers folder, with {INDEX} in it")
    return folder


def declared(folder: Path, *kinds: Any) -> Any:
    """Return the one of these pipeline classes that a folder declares in model_index.json; ValueError if it is none."""
    if not (folder / INDEX).is_file():
        raise ValueError(f"checkpoint {folder} has no {INDEX}; expected the folder of a {kinds[0].__name__}")
    name = str(read_config(folder / INDEX).get("_class_name"))
    known = {kind.__name__: kind for kind in kinds}
    if name not in known:
        raise ValueError(f"checkpoint {folder} is a {name}; expected {' or '.join(known)}")
    return known[name]


def component(kind: Any, folder: Path, name: str, setup: Setup) -> Any:
    """Return a component of class `kind` in the setup's precision, from the variant that the folder has.

    ValueError if its files are missing or broken, or if they lack a weight, which would be filled with random numbers.
    """
    check_component(folder / name)
    found = weights_in(folder / name)
    options = {"subfolder": name, "torch_dtype": setup.dtype, "local_files_only": True, "variant": found.variant}
    load = partial(kind.from_pretrained, folder, output_loading_info=True, use_safetensors=found.safe, **options)
    model, info = read_component(folder, name, load)
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"checkpoint {folder}: {name} has no weight {missing[0]} ({len(missing)} missing)")
    return model


def unet(folder: Path, setup: Setup, vae: AutoencoderKL, addition: str | None) -> UNet2DConditionModel:
    """Return the UNet in the setup's precision and memory format; `addition` is the further condition that it reads.

    ValueError if it reads or predicts anything but the autoencoder's latents.
    """
    channels = dict.fromkeys(("in_channels", "out_channels"), vae.config.latent_channels)
    require(folder, "unet", UNet2DConditionModel, UNET | channels | {"addition_embed_type": addition})
    network = component(UNet2DConditionModel, folder, "unet", setup)
    return network.to(memory_format=torch.channels_last) if setup.channels_last else network


def autoencoder(folder: Path, setup: Setup, unread: tuple[str, ...]) -> AutoencoderKL:
    """Return the autoencoder in the setup's precision; `unread` names settings that the stock pipeline ignores."""
    require(folder, "vae", AutoencoderKL, {"in_channels": 3, "out_channels": 3} | dict.fromkeys(unread, None))
    vae = component(AutoencoderKL, folder, "vae", setup)
    lengths = [len(values or ()) for values in (vae.config.latents_mean, vae.config.latents_std)]
    if lengths not in ([0, 0], [vae.config.latent_channels] * 2):
        found = f"latents_mean and latents_std have {lengths[0]} and {lengths[1]} values"
        raise ValueError(
            f"checkpoint {folder / 'vae'}: {found}; its latents have {vae.config.latent_channels} channels"
        )
    return vae


def read_component(folder: Path, name: str, load: Callable[[], Any]) -> Any:
    """Return what `load` returns; ValueError in one line if it raises anything."""
    try:
        return load()
    except Exception as error:  # diffusers and transformers raise errors of any type on missing or broken files
        raise ValueError(f"checkpoint {folder}: {name} cannot be read: {flat(error)[:200]}; {AGAIN}") from None


def dtype(network: nn.Module) -> torch.dtype:
    """Return a frozen network's precision from its first weight; diffusers' property walks all modules each time."""
    return next(network.parameters()).dtype


def latent_side(folder: Path, name: str, size: Any, setup: Setup) -> int | None:
    """Return the latents along a side that a network was configured for; None if only the setup has a resolution.

    ValueError if neither is there, or if the network's height and width differ and the setup has no resolution.
    """
    sides = list(size) if isinstance(size, list | tuple) else [size, size]
    if len(sides) == 2 and isinstance(sides[0], int) and sides[0] == sides[1]:
        return sides[0]
    if setup.resolution is None:
        cure = "set model.policy.setup.resolution=<pixels>"
        raise ValueError(f"checkpoint {folder / name / 'config.json'}: sample_size={size} is not a square; {cure}")
    return None


def latent_shape(size: int | None, patch: int, vae: AutoencoderKL, setup: Setup) -> tuple[int, int, int]:
    """Return (C, H, W) of an image's latents, with H = W = `size` unless the setup has a resolution.

    ValueError if that resolution is not a whole number of patches.
    """
    pixels, step = setup.resolution or (size or 0) * scale(vae), scale(vae) * patch
    if pixels % step:
        raise ValueError(f"model.policy.setup.resolution={pixels} must be a multiple of {step}")
    return vae.config.latent_channels, pixels // scale(vae), pixels // scale(vae)


def scale(vae: AutoencoderKL) -> int:
    """Return the number of pixels per latent, along a side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def image_decoder(vae: AutoencoderKL, setup: Setup) -> Callable[[Tensor], Tensor]:
    """Return a function from scaled, shifted latents to images (B, 3, H, W) in [0, 1], in the latents' precision."""
    unscaled = _unscaled(vae)
    if setup.slicing:
        vae.enable_slicing()
        vae.enable_gradient_checkpointing()

    def decode(x0: Tensor) -> Tensor:
        image = vae.decode(unscaled(x0).to(vae.dtype)).sample
        return (image.to(x0.dtype) / 2 + 0.5).clamp(0, 1)

    return decode


def assembled(parts: Parts, adapter: Adapter, checkpointing: bool, setup: Setup) -> Policy:
    """Return the policy, with its blocks checkpointed and compiled if that is set."""
    policy = Policy(parts, adapter)
    if checkpointing:
        policy.checkpoint_blocks()
    if setup.compile:
        policy.never_merge()
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


def _wanted(source: str, names: list[str], components: tuple[str, ...]) -> list[str]:
    """Return the weight files to download, of those that a repository has; ValueError if a component has none."""
    wanted = []
    for component in components:
        own = [name.removeprefix(f"{component}/") for name in names if name.startswith(f"{component}/")]
        found = weight_files(own)
        if found is None and tensors_in(own):
            raise ValueError(
                f"checkpoint {source}: {component} has no weights in safetensors or .bin; the repository has"
                f" {', '.join(tensors_in(own))}"
            )
        wanted += [f"{component}/{name}" for name in (found.names if found else ())]
    return wanted


def _usual(components: tuple[str, ...]) -> list[str]:
    """Return patterns of weight files, for a cache: whole or in shards."""
    return [
        f"{name}/{stem}{end}" for name in components for stem in STEMS for end in (".safetensors", "-0*.safetensors")
    ]


def _unscaled(vae: AutoencoderKL) -> Callable[[Tensor], Tensor]:
    """Return a function from the network's latents to the autoencoder's, as the stock pipelines compute them."""
    factor, shift, mean, std = (
        vae.config[key] for key in ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
    )
    if mean is None:
        return lambda x0: x0 / factor + (shift or 0.0)
    centre, spread = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))
    return lambda x0: x0 * spread.to(x0) / factor + centre.to(x0)
