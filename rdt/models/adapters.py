"""Published LoRAs as one adapter of a policy: read from diffusers' and kohya's layouts, weighted, and added up.

The sum of several LoRAs is a LoRA of their ranks together. Ranks that differ by module are filled up with zeros, and an
alpha that differs from the others is moved into the weights, so that the images are those of the file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import convert_unet_state_dict_to_peft
from torch import Tensor

from rdt.checkpoint import read_config
from rdt.errors import flat
from rdt.models import lora
from rdt.policy import Adapter
from rdt.weights import load_tensors

FAMILIES = {  # builder of a policy -> pipeline, name of the network in it, its class
    "rdt.models.sd15.build": (StableDiffusionPipeline, "unet", UNet2DConditionModel),
    "rdt.models.sdxl.build": (StableDiffusionXLPipeline, "unet", UNet2DConditionModel),
    "rdt.models.sd3.build": (StableDiffusion3Pipeline, "transformer", SD3Transformer2DModel),
    "rdt.models.flux.build": (FluxPipeline, "transformer", FluxTransformer2DModel),
}
KOHYA = "lora_"  # how the keys of kohya's layout begin
DOWN, UP = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class Published:
    """Holds one LoRA: by module its matrices A (r, ...) and B (..., r), and the factor alpha / r of their product."""

    matrices: dict[str, tuple[Tensor, Tensor]]
    scales: dict[str, float]


def read_published(file: Path, builder: str, model: Path) -> Published:
    """Return the LoRA in a file for the model in a folder, which a function of rdt.models builds.

    ValueError if its layout is not known or it adapts text encoders too.
    """
    tensors = load_tensors(file)
    if odd := [key for key in tensors if "dora_scale" in key]:
        raise ValueError(f"checkpoint {file} is a DoRA, with {odd[0]}; expected a LoRA")
    if any(key.startswith(KOHYA) for key in tensors):
        return _kohya(file, tensors, builder, model)
    weights, scaling = lora.read_unscaled(file)
    matrices = _matrices(weights, file)
    return Published(matrices, {name: scaling.alpha(name, len(a)) / len(a) for name, (a, _) in matrices.items()})


def merged(loras: Sequence[tuple[Published, float]]) -> tuple[dict[str, Tensor], Adapter]:
    """Return the weighted sum of LoRAs under peft's names, and the shape of the adapter that takes it.

    A single LoRA of one rank and one alpha keeps its bits.
    """
    modules = list(dict.fromkeys(name for one, _ in loras for name in one.matrices))
    if len(loras) == 1 and loras[0][1] == 1 and (kept := _uniform(loras[0][0])):
        return _by_key(loras[0][0].matrices), Adapter(*kept, modules)
    joined: dict[str, tuple[Tensor, Tensor]] = {}
    for name in modules:
        parts = [(one.matrices[name], weight * one.scales[name]) for one, weight in loras if name in one.matrices]
        joined[name] = torch.cat([a for (a, _), _ in parts]), torch.cat([b * k for (_, b), k in parts], 1)
    rank = max(len(a) for a, _ in joined.values())
    return _by_key({name: _filled(*pair, rank) for name, pair in joined.items()}), Adapter(rank, rank, modules)


def fitted(weights: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights with zeros for the modules that an adapter has beyond them; ValueError if others are left."""
    foreign = sorted(weights.keys() - own.keys()) or sorted(
        key for key in weights if weights[key].shape != own[key].shape
    )
    if foreign:
        raise ValueError(
            f"LoRA does not fit this model: {len(foreign)} of {len(weights)} tensors have no place, first {foreign[0]}"
        )
    return {key: weights.get(key, torch.zeros_like(value)) for key, value in own.items()}


def _kohya(file: Path, tensors: dict[str, Tensor], builder: str, model: Path) -> Published:
    """Return the LoRA of a file in kohya's layout: under diffusers' names of modules, or others that it translates."""
    names = {module.replace(".", "_"): module for module in _modules(builder, model)}
    prefixes = tuple(f"{KOHYA}{component}_" for component in ("unet", "transformer"))
    own = {key: names.get(_stem(key, prefixes)) for key in tensors}
    if not all(own.values()):
        return _translated(file, builder, model)
    sides = {"lora_down.weight": DOWN, "lora_up.weight": UP}
    ends = {key: key.partition(".")[2] for key in tensors}
    weights = {f"{own[key]}{sides[end]}": tensors[key].float() for key, end in ends.items() if end in sides}
    alphas = {str(own[key]): tensors[key].item() for key, end in ends.items() if end == "alpha"}
    if odd := [key for key, end in ends.items() if end not in (*sides, "alpha")]:
        raise ValueError(f"checkpoint {file} is no LoRA that rdt reads: {odd[0]}")
    return _scaled(weights, alphas, file)


def _translated(file: Path, builder: str, model: Path) -> Published:
    """Return the LoRA of a file whose names of modules diffusers translates, as the stock pipeline would."""
    pipeline, component, _ = FAMILIES[builder]
    options: dict[str, Any] = {"weight_name": file.name, "local_files_only": True}
    options |= {"unet_config": _Config(read_config(model / component / "config.json"))} if component == "unet" else {}
    try:
        state, alphas, *_ = pipeline.lora_state_dict(file.parent, return_alphas=True, **options)
    except Exception as error:  # diffusers raises errors of any type
        raise ValueError(f"checkpoint {file} cannot be read as a LoRA: {flat(error)[:200]}") from None
    if foreign := sorted(key for key in state if not key.startswith(f"{component}.")):
        raise ValueError(f"checkpoint {file} adapts more than the {component}, which alone is adapted: {foreign[0]}")
    weights = convert_unet_state_dict_to_peft({key.partition(".")[2]: value.float() for key, value in state.items()})
    named = {key.partition(".")[2].removesuffix(".alpha"): float(alpha) for key, alpha in (alphas or {}).items()}
    return _scaled(weights, named, file)


class _Config(dict[str, Any]):
    """Offers the keys of a network's config as attributes, as diffusers reads them."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


def _modules(builder: str, model: Path) -> list[str]:
    """Return the names of the modules of a model's network, from its config alone."""
    if builder not in FAMILIES:
        raise ValueError(f"kohya's layout is read for {', '.join(FAMILIES)}, not for {builder}")
    _, component, kind = FAMILIES[builder]
    with torch.device("meta"):
        return [name for name, _ in kind.from_config(read_config(model / component / "config.json")).named_modules()]


def _stem(key: str, prefixes: tuple[str, ...]) -> str:
    """Return the name of a module in a key of kohya's layout, which has underscores for dots."""
    stem = key.partition(".")[0]
    return next((stem.removeprefix(prefix) for prefix in prefixes if stem.startswith(prefix)), "")


def _scaled(weights: dict[str, Tensor], alphas: dict[str, float], file: Path) -> Published:
    """Return the LoRA of weights in peft's names; a module without an alpha has the scale 1."""
    matrices = _matrices(weights, file)
    return Published(matrices, {name: alphas.get(name, len(a)) / len(a) for name, (a, _) in matrices.items()})


def _matrices(weights: dict[str, Tensor], file: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the matrices by module; ValueError if one is missing or they are no product."""
    names = [key.removesuffix(DOWN) for key in weights if key.endswith(DOWN)]
    odd = sorted(weights.keys() - {name + side for name in names for side in (DOWN, UP)})
    lone = [name for name in names if name + UP not in weights]
    if odd or lone or not names:
        raise ValueError(f"checkpoint {file} is no LoRA that rdt reads: {([*odd, *lone] or ['no module'])[0]}")
    pairs = {name: (weights[name + DOWN], weights[name + UP]) for name in names}
    for name, (a, b) in pairs.items():
        if len(a) != b.shape[1]:
            raise ValueError(f"checkpoint {file}: {name} has ranks {len(a)} and {b.shape[1]}")
    return pairs


def _uniform(one: Published) -> tuple[int, int] | None:
    """Return the rank and the alpha that all modules share, if it is whole; None otherwise."""
    shapes = {(len(a), one.scales[name] * len(a)) for name, (a, _) in one.matrices.items()}
    rank, alpha = next(iter(shapes))
    return (rank, int(alpha)) if len(shapes) == 1 and alpha == int(alpha) else None


def _filled(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return A and B with zeros up to a rank."""
    more = rank - len(a)
    return torch.cat([a, a.new_zeros(more, *a.shape[1:])]), torch.cat([b, b.new_zeros(len(b), more, *b.shape[2:])], 1)


def _by_key(matrices: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    return {name + side: value for name, pair in matrices.items() for side, value in zip((DOWN, UP), pair, strict=True)}
