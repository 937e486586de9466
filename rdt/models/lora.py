"""Writes the trained adapter for stock diffusers and for kohya's readers, and reads published LCM LoRAs."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import convert_state_dict_to_diffusers, convert_unet_state_dict_to_peft
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rdt.errors import flat
from rdt.policy import Adapter
from rdt.views import CONSISTENCY
from rdt.weights import load_tensors, locate

COMPONENTS = ("unet.", "transformer.")  # diffusers' prefixes for the network of a pipeline
METADATA = "lora_adapter_metadata"  # diffusers' name for peft's config in a file
KOHYA = "pytorch_lora_weights_kohya.safetensors"


def read_lora(file: Path, adapter: Adapter) -> dict[str, Tensor]:
    """Return a LoRA's weights in peft's names, as `Policy.load_lora` takes them, at the scale of this adapter.

    A module's scale is alpha / rank, as diffusers reads it from the file: where it differs from the adapter's, the
    weights are rescaled. ValueError if the file is not a LoRA in diffusers' format.
    """
    converted, scales = read_unscaled(file)
    for key in [key for key in converted if key.endswith(".lora_B.weight")]:
        module, rank = key.removesuffix(".lora_B.weight"), converted[key].shape[1]
        ratio = scales.alpha(module, rank) / rank / (adapter.alpha / adapter.rank)
        if ratio != 1:
            converted[key] = converted[key] * ratio
    return converted


def read_unscaled(file: Path) -> tuple[dict[str, Tensor], "Scaling"]:
    """Return a LoRA's weights in peft's names as the file has them, and what it says of their alphas.

    ValueError if the file is not a LoRA in diffusers' format.
    """
    tensors = _lora_tensors(file)
    alphas = {key.removesuffix(".alpha"): value.item() for key, value in tensors.items() if key.endswith(".alpha")}
    weights = {key: value for key, value in tensors.items() if not key.endswith(".alpha")}
    converted = convert_unet_state_dict_to_peft({key.partition(".")[2]: value for key, value in weights.items()})
    return converted, Scaling({key.partition(".")[2]: alpha for key, alpha in alphas.items()}, _metadata(file))


def _lora_tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a file; ValueError if they are not a LoRA's, or not finite in single precision."""
    tensors = load_tensors(file)
    scalar = {key for key, value in tensors.items() if value.numel() == 1}
    foreign = [
        key for key in tensors if not key.startswith(COMPONENTS) or (key.endswith(".alpha") and key not in scalar)
    ]
    if foreign or not tensors:
        raise ValueError(f"checkpoint {file} is not a LoRA in diffusers' format: {(foreign or ['no tensor'])[0]}")
    for key, value in tensors.items():
        if not value.float().isfinite().all():
            raise ValueError(f"checkpoint {file} is not a usable LoRA: {key} holds numbers that are not finite")
    return tensors


@dataclass(frozen=True)
class Scaling:
    """Hold what a LoRA's file says of its alphas: one tensor per module, or peft's config in the file's metadata."""

    alphas: Mapping[str, float]  # module -> alpha
    metadata: Mapping[str, Any]

    def alpha(self, module: str, rank: int) -> float:
        """Return a module's alpha, which is its rank if the file says nothing."""
        pattern = self.metadata.get("alpha_pattern") or {}
        patterned = [value for key, value in pattern.items() if re.match(rf"(?:.*\.)?(?:{key})$", module)]
        stated = [self.alphas.get(module), *patterned[:1], self.metadata.get("lora_alpha")]
        return next((alpha for alpha in stated if alpha is not None), rank)


def _metadata(file: Path) -> dict[str, Any]:
    """Return peft's config of the network's LoRA, as diffusers writes it into a safetensors file, or an empty one."""
    if file.suffix != ".safetensors":
        return {}
    with safe_open(file, "pt") as opened:
        text = (opened.metadata() or {}).get(METADATA, "{}")
    try:
        config = {key.partition(".")[2]: value for key, value in json.loads(text).items() if key.startswith(COMPONENTS)}
        pattern = config.get("alpha_pattern") or {}
        for number in (config.get("lora_alpha"), *pattern.values()):
            if not isinstance(number, int | float | None):
                raise TypeError(f"{number!r} is no alpha")
        re.compile("|".join(pattern))
    except (ValueError, TypeError, AttributeError, re.error) as error:
        raise ValueError(f"checkpoint {file}: its {METADATA} cannot be read: {flat(error)[:200]}") from None
    if wrong := [key for key in ("use_rslora", "use_dora", "lora_bias") if config.get(key)]:
        raise ValueError(f"checkpoint {file}: {wrong[0]}=true of its {METADATA} is not supported; expected false")
    return config


def save_lora(kind: Any, component: str, weights: dict[str, Tensor], metadata: dict[str, Any], folder: Path) -> None:
    """Write `pytorch_lora_weights.safetensors` for stock diffusers' `load_lora_weights`, and kohya's file beside it.

    `kind` is the pipeline's class, `component` its network's name in it: unet or transformer.
    """
    layers = convert_state_dict_to_diffusers(weights) if component == "unet" else weights
    if any(".lora_A." in key for key in layers):  # it renames attention alone, and diffusers reads no mixture of names
        layers = weights
    named = {f"{component}_lora_layers": layers, f"{component}_lora_adapter_metadata": metadata}
    kind.save_lora_weights(folder, **named)
    save_file(kohya(component, weights, metadata["lora_alpha"]), Path(folder) / KOHYA)


def kohya(component: str, weights: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Return the weights under kohya's names, which ComfyUI and others read.

    A module has lora_<component>_<module>.lora_down.weight, .lora_up.weight and .alpha. Without alpha such readers
    scale by 1. diffusers' own converter writes the rank in its place.
    """
    sides = {"lora_A": "lora_down", "lora_B": "lora_up"}
    converted: dict[str, Tensor] = {}
    for key, value in weights.items():
        module, side = key.removesuffix(".weight").rsplit(".", 1)
        name = f"lora_{component}_{module.replace('.', '_')}"
        converted[f"{name}.{sides[side]}.weight"] = value.contiguous()
        converted[f"{name}.alpha"] = torch.tensor(float(alpha))
    return converted


def load_consistency(kind: Any, unet: nn.Module, source: str) -> None:
    """Put the file of a published LCM LoRA into a UNet as its consistency adapter; ValueError if it does not fit."""
    file = locate(source)
    options = {"weight_name": file.name, "unet_config": unet.config, "local_files_only": True}
    try:
        state, alphas, metadata = kind.lora_state_dict(file.parent, return_lora_metadata=True, **options)
        modules = {f"unet.{name}" for name, _ in unet.named_modules()}
        foreign = [key for key in state if ".lora" in key and key.partition(".lora")[0] not in modules]
        if foreign:
            raise ValueError(f"this UNet has no module for {foreign[0]} ({len(foreign)} of {len(state)} tensors)")
        kind.load_lora_into_unet(state, alphas, unet, adapter_name=CONSISTENCY, metadata=metadata)
        loaded = sum(f".{CONSISTENCY}." in name for name, _ in unet.named_parameters())
        if loaded != len(state) or not state:  # diffusers reads a file of mixed names in part, without a word
            raise ValueError(f"diffusers loads {loaded} of its {len(state)} tensors; name all of them in one way")
    except Exception as error:  # diffusers and peft raise errors of any type
        raise ValueError(f"consistency adapter {file} does not fit this model: {flat(error)[:200]}") from None
