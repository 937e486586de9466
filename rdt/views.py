"""The views of one network: which adapter it runs under, also when a checkpointed block is recomputed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

TUNED, CONSISTENCY = "tuned", "consistency"


class Views:
    """Which adapter the network runs under. Flags only: peft's switches change requires_grad and lose gradients."""

    def __init__(self, network: nn.Module) -> None:
        self.layers = [m for m in network.modules() if isinstance(m, BaseTunerLayer)]

    def cast_inputs(self, enabled: bool) -> None:
        """Whether adapters turn inputs into their own precision, a copy that autocast would undo."""
        for layer in self.layers:
            layer.cast_input_dtype_enabled = enabled

    @contextmanager
    def use(self, view: str | None) -> Iterator[None]:
        """Run under adapter `view`; None is the bare network."""
        with self._under(
            [_Flags(view is None, was.active if view is None else [view], was.scaling) for was in self._flags()]
        ):
            yield

    @contextmanager
    def scaling(self, scale: float) -> Iterator[None]:
        """Multiply the trained adapter's contribution."""
        with self._under([_Flags(was.disabled, was.active, _scaled(was.scaling, scale)) for was in self._flags()]):
            yield

    @contextmanager
    def paired(self) -> Iterator[None]:
        """Leave the trained adapter out of the first half of a batch."""
        with self._under([_Flags(was.disabled, was.active, _halved(was.scaling)) for was in self._flags()]):
            yield

    def checkpointed(self, block: Callable[..., Any], *args: Any) -> Any:
        """torch's checkpoint, re-entering in backward the view of the forward pass (huggingface/peft#2832)."""
        flags = self._flags()

        def run(*inputs: Any) -> Any:
            with self._under(flags):
                return block(*inputs)

        return checkpoint(run, *args, use_reentrant=False)

    @contextmanager
    def _under(self, flags: list["_Flags"]) -> Iterator[None]:
        before = self._flags()
        self._set(flags)
        try:
            yield
        finally:
            self._set(before)

    def _flags(self) -> list["_Flags"]:
        return [_Flags(layer._disable_adapters, layer._active_adapter, dict(layer.scaling)) for layer in self.layers]

    def _set(self, flags: list["_Flags"]) -> None:
        for layer, flag in zip(self.layers, flags, strict=True):
            layer._disable_adapters, layer._active_adapter = flag.disabled, flag.active
            layer.scaling.update(flag.scaling)


@dataclass(frozen=True)
class _Flags:
    """What one layer runs under."""

    disabled: bool
    active: list[str]
    scaling: "Scaling"


@dataclass(frozen=True)
class _SecondHalf:
    """A scaling for the second half of a batch, 0 for the first: peft multiplies an adapter's output by it."""

    scale: float

    def __rmul__(self, update: Tensor) -> Tensor:
        half = len(update) // 2
        return torch.cat([torch.zeros_like(update[:half]), update[half:] * self.scale])


Scaling = dict[str, Any]  # by adapter, a float or its second half; a layer need not have every adapter


def _scaled(scaling: Scaling, scale: float) -> Scaling:
    return {name: value * scale if name == TUNED else value for name, value in scaling.items()}


def _halved(scaling: Scaling) -> Scaling:
    return {name: _SecondHalf(value) if name == TUNED else value for name, value in scaling.items()}
