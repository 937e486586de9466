"""Writes the trained adapter for stock diffusers and for kohya's readers, and reads published LCM LoRAs."""

from pathlib import Path
from typing import Any

import torch
from diffusers.utils import convert_state_dict_to_diffusers, convert_unet_state_dict_to_peft
from safetensors.torch import save_file
from torch import Tensor, nn

from rdt.errors import flat
from rdt.views import CONSISTENCY
from rdt.weights import load_tensors, locate

COMPONENTS = ("unet.", "transformer.")  # diffusers' prefixes for the network of a pipeline
KOHYA = "pytorch_lora_weights_kohya.safetensors"


def read_lora(file: Path) -> dict[str, Tensor]:
    """Return the adapter in peft's names, as `Policy.load_lora` takes it.

    ValueError if the file is not a LoRA, or holds a number that is not finite in single precision.
    """
    weights = {key: value for key, value in load_tensors(file).items() if not key.endswith(".alpha")}
    foreign = [key for key in weights if not key.startswith(COMPONENTS)]
    if foreign or not weights:
        raise ValueError(f"checkpoint {file} is not a LoRA in diffusers' format: {(foreign or ['no tensor'])[0]}")
    for key, value in weights.items():
        if not value.float().isfinite().all():
            raise ValueError(f"checkpoint {file} is not a usable LoRA: {key} holds numbers that are not finite")
    return convert_unet_state_dict_to_peft({key.partition(".")[2]: value for key, value in weights.items()})


def save_lora(kind: Any, component: str, weights: dict[str, Tensor], metadata: dict[str, Any], folder: Path) -> None:
    """Write `pytorch_lora_weights.safetensors` for stock diffusers' `load_lora_weights`, and kohya's file beside it.

    `kind` is the pipeline's class, `component` its network's name in it: unet or transformer.
    """
    layers = convert_state_dict_to_diffusers(weights) if component == "unet" else weights
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
    try:
        state, alphas = kind.lora_state_dict(
            file.parent, weight_name=file.name, unet_config=unet.config, local_files_only=True
        )
        kind.load_lora_into_unet(state, alphas, unet, adapter_name=CONSISTENCY)
        if not any(f".{CONSISTENCY}." in name for name, _ in unet.named_parameters()):
            raise ValueError("none of its tensors belongs to a LoRA")
    except Exception as error:  # diffusers and peft raise errors of any type
        raise ValueError(f"consistency adapter {file} does not fit this model: {flat(error)[:200]}") from None
