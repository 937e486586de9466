"""Converts checkpoints between open_clip's layout, in which HPS is published, and transformers' CLIPModel.

Every key is converted: one that is unknown or missing is an error.
"""

import re
from collections.abc import Iterable

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

_TOP = {
    "logit_scale": "logit_scale",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
}
_TRANSPOSED = ("visual.proj", "text_projection")
_PARTS = {
    "ln_1.": ("layer_norm1.",),
    "ln_2.": ("layer_norm2.",),
    "mlp.c_fc.": ("mlp.fc1.",),
    "mlp.c_proj.": ("mlp.fc2.",),
    "attn.out_proj.": ("self_attn.out_proj.",),
    "attn.in_proj_": ("self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."),
}
_TOWERS = {
    "visual.transformer.resblocks": "vision_model.encoder.layers",
    "transformer.resblocks": "text_model.encoder.layers",
}


def to_transformers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return CLIPModel's state dict for open_clip's; ValueError names the first unknown or missing key."""
    tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    tensors.pop("attn_mask", None)  # a buffer, which old releases save
    names = _names(*(_layers(tensors, tower) for tower in _TOWERS))
    _check(tensors, set(names))
    state: dict[str, Tensor] = {}
    for key, ours in names.items():
        value = tensors[key].T if key in _TRANSPOSED else tensors[key]
        state |= zip(ours, value.chunk(3) if len(ours) == 3 else (value,), strict=True)
    return state


def to_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return open_clip's state dict for CLIPModel's: the inverse of to_transformers."""
    names = _names(*(_layers(state, tower) for tower in _TOWERS.values()))
    _check(state, {ours for group in names.values() for ours in group})
    tensors = {key: _join([state[name] for name in ours]) for key, ours in names.items()}
    return {key: value.T if key in _TRANSPOSED else value for key, value in tensors.items()}


def clip_model(tensors: dict[str, Tensor], vision_heads: int, text_heads: int, end_of_text: int) -> CLIPModel:
    """Build a float32 CLIPModel with these open_clip weights; their shapes give all sizes but the head counts."""
    state = to_transformers(tensors)
    config = _config(state, vision_heads, text_heads, end_of_text)
    with torch.device("meta"):  # saves drawing a billion random numbers, all of which are overwritten
        model = CLIPModel(config)
    model.load_state_dict({key: value.float().contiguous() for key, value in state.items()}, assign=True)
    for embeddings in (model.vision_model.embeddings, model.text_model.embeddings):  # buffers outside the state dict
        embeddings.position_ids = torch.arange(embeddings.position_ids.shape[-1])[None]
    return model


def _config(state: dict[str, Tensor], vision_heads: int, text_heads: int, end_of_text: int) -> CLIPConfig:
    """Read the sizes of both towers from the shapes of their weights; ValueError if a head count does not fit."""
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    positions, _ = shapes["vision_model.embeddings.position_embedding.weight"]
    patch = shapes["vision_model.embeddings.patch_embedding.weight"][-1]
    vision = _tower(shapes, "vision_model", vision_heads) | {"patch_size": patch}
    vision["image_size"] = round((positions - 1) ** 0.5) * patch
    vocabulary, _ = shapes["text_model.embeddings.token_embedding.weight"]
    length, _ = shapes["text_model.embeddings.position_embedding.weight"]
    text = _tower(shapes, "text_model", text_heads) | {"vocab_size": vocabulary, "max_position_embeddings": length}
    text |= {"bos_token_id": None, "eos_token_id": end_of_text, "pad_token_id": end_of_text}
    projection, _ = shapes["text_projection.weight"]
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=projection)


def _tower(shapes: dict[str, tuple[int, ...]], name: str, heads: int) -> dict[str, int | str]:
    inner, width = shapes[f"{name}.encoder.layers.0.mlp.fc1.weight"]
    if width % heads:
        raise ValueError(f"{name}: heads={heads} does not divide width={width}")
    layers = _layers(shapes, f"{name}.encoder.layers")
    depth: dict[str, int | str] = {"num_hidden_layers": layers, "num_attention_heads": heads, "hidden_act": "gelu"}
    return depth | {"hidden_size": width, "intermediate_size": inner}


def _join(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _names(vision_layers: int, text_layers: int) -> dict[str, tuple[str, ...]]:
    """Map every open_clip key to the transformers keys that hold it: one, or queries, keys and values in this order."""
    names: dict[str, tuple[str, ...]] = {theirs: (ours,) for theirs, ours in _TOP.items()}
    for (theirs, ours), layers in zip(_TOWERS.items(), (vision_layers, text_layers), strict=True):
        for i in range(layers):
            for part, group in _PARTS.items():
                for kind in ("weight", "bias"):
                    names[f"{theirs}.{i}.{part}{kind}"] = tuple(f"{ours}.{i}.{name}{kind}" for name in group)
    return names


def _layers(keys: Iterable[str], tower: str) -> int:
    """Count the layers of a tower; at least 1, so that the keys of an absent tower count as missing."""
    found = (re.match(rf"{re.escape(tower)}\.(\d+)\.", key) for key in keys)
    return 1 + max((int(m[1]) for m in found if m), default=0)


def _check(given: dict[str, Tensor], expected: set[str]) -> None:
    unknown, missing = sorted(given.keys() - expected), sorted(expected - given.keys())
    if unknown:
        raise ValueError(f"checkpoint has the unknown key {unknown[0]!r} ({len(unknown)} unknown): it is not a CLIP")
    if missing:
        raise ValueError(f"checkpoint has no key {missing[0]!r} ({len(missing)} missing): it is not a CLIP")
