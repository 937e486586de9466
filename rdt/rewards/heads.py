"""Provides what the learned rewards share: tokenizers, affine heads, and recomputation in the backward pass."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rdt.weights import first_line, locate

TOKENIZER_FILES = ("tokenizer*", "vocab.*", "merges.txt", "special_tokens_map.json")
HEAD = (0, 2, 4, 6, 7)  # places of the linear layers in the published heads; dropout stood between them


@dataclass(frozen=True)
class TwoTowers:
    """Names a published file with an image and a text network, for HPS and ImageReward, as `model.checkpoints` does."""

    checkpoint: str
    tokenizer: str
    vision_heads: int  # attention heads, which the shapes of the tensors do not tell
    text_heads: int
    sha256: str | None = None  # pins `checkpoint`


def load_tokenizer(kind: Any, source: str) -> Any:
    """Load a transformers tokenizer of class `kind` from its folder; ValueError if there is none."""
    folder = locate(source, TOKENIZER_FILES)
    if not any(file for pattern in TOKENIZER_FILES for file in folder.glob(pattern)):
        raise ValueError(f"tokenizer {source!r}: {folder} holds no tokenizer files ({', '.join(TOKENIZER_FILES)})")
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise ValueError(f"tokenizer {source!r} is not a readable {kind.__name__}: {first_line(error)}") from None


def affine_head(tensors: dict[str, Tensor]) -> nn.Sequential:
    """Build the five affine layers in a row of the aesthetic score and ImageReward; sizes come from the tensors."""
    expected = {f"layers.{place}.{kind}" for place in HEAD for kind in ("weight", "bias")}
    if wrong := sorted(expected ^ tensors.keys()):
        difference = "an unknown" if wrong[0] in tensors else "no"
        raise ValueError(f"the head has {difference} key {wrong[0]!r}; expected {', '.join(sorted(expected))}")
    layers = nn.Sequential(*(nn.Identity() for _ in range(HEAD[-1] + 1)))
    for place in HEAD:
        weight = tensors[f"layers.{place}.weight"]
        layers[place] = nn.Linear(weight.shape[1], weight.shape[0])
    fill(layers, {key.removeprefix("layers."): value for key, value in tensors.items()}, "the head")
    return layers


def fill(module: nn.Module, tensors: dict[str, Tensor], name: str) -> None:
    """Put float32 weights into a module; ValueError names the first key that is unknown, missing or misshapen."""
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in tensors.items()}
    for key in sorted(shapes.keys() | given.keys()):
        if shapes.get(key) != given.get(key):
            has, right = given.get(key, "nothing"), shapes.get(key, "no such key")
            raise ValueError(f"{name} has {has} for {key!r}, expected {right}")
    module.load_state_dict({key: value.float().contiguous() for key, value in tensors.items()}, assign=True)


def recompute(layers: Iterable[nn.Module]) -> None:
    """Keep only each layer's input for the backward pass; transformers' own switch has no effect in evaluation mode."""
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
