"""What the learned rewards share: published files, pinned and read without running code; towers that recompute."""

from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rdt.weights import first_line, locate

TOKENIZER_FILES = ("tokenizer*", "vocab.*", "merges.txt", "special_tokens_map.json")
HEAD = (0, 2, 4, 6, 7)  # the linear layers of the published heads; the places between were dropout's


def words(kind: Any, source: str) -> Any:
    """A transformers tokenizer of this class from its folder."""
    folder = locate(source, TOKENIZER_FILES)
    if not any(file for pattern in TOKENIZER_FILES for file in folder.glob(pattern)):
        raise ValueError(f"tokenizer {source!r}: {folder} holds no tokenizer files ({', '.join(TOKENIZER_FILES)})")
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise ValueError(f"tokenizer {source!r} is not a readable {kind.__name__}: {first_line(error)}") from None


def head(tensors: dict[str, Tensor]) -> nn.Sequential:
    """Five affine layers in a row, as the aesthetic score and ImageReward publish them; sizes from the weights."""
    expected = {f"layers.{place}.{kind}" for place in HEAD for kind in ("weight", "bias")}
    if wrong := sorted(expected ^ tensors.keys()):
        says = "has the unknown" if wrong[0] in tensors else "lacks the"
        raise ValueError(f"the head {says} key {wrong[0]!r}; it is to have {', '.join(sorted(expected))}")
    layers = nn.Sequential(*(nn.Identity() for _ in range(HEAD[-1] + 1)))
    for place in HEAD:
        weight = tensors[f"layers.{place}.weight"]
        layers[place] = nn.Linear(weight.shape[1], weight.shape[0])
    fill(layers, {key.removeprefix("layers."): value for key, value in tensors.items()}, "the head")
    return layers


def fill(module: nn.Module, tensors: dict[str, Tensor], name: str) -> None:
    """Put float32 weights into a module; ValueError naming the first key that is unknown, missing or misshapen."""
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in tensors.items()}
    for key in sorted(shapes.keys() | given.keys()):
        if shapes.get(key) != given.get(key):
            has, right = given.get(key, "nothing"), shapes.get(key, "no such key")
            raise ValueError(f"{name} has {has} for {key!r}, expected {right}")
    module.load_state_dict({key: value.float().contiguous() for key, value in tensors.items()}, assign=True)


def recompute(layers: Iterable[nn.Module]) -> None:
    """Keep only each layer's input for the backward pass; transformers' own switch is off in evaluation mode."""
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
