"""The views of one network: the adapter it runs under, kept when a checkpointed block is recomputed.

This is the only module that knows peft's private attributes. It sets flags only: peft's own switches change
requires_grad and lose gradients.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

TUNED, CONSISTENCY = "tuned", "consistency"  # the names of the trained and the frozen consistency adapter


class Views:
    """Switch the adapter that a network runs under."""

    def __init__(self, network: nn.Module) -> None:
        self.layers = [m for m in network.modules() if isinstance(m, BaseTunerLayer)]

    def cast_inputs(self, enabled: bool) -> None:
        """Set whether adapters cast inputs to their own precision, a copy that autocast would undo."""
        for layer in self.layers:
            layer.cast_input_dtype_enabled = enabled

    @contextmanager
    def use(self, view: str | None) -> Iterator[None]:
        """Run the network under adapter `view`; None runs the bare network."""
        with self._under(
            [_Flags(view is None, was.active if view is None else [view], was.scaling) for was in self._flags()]
        ):
            yield

    @contextmanager
    def scaling(self, scale: float) -> Iterator[None]:
        """Multiply the trained adapter's contribution by `scale`."""
        with self._under([_Flags(was.disabled, was.active, _scaled(was.scaling, scale)) for was in self._flags()]):
            yield

    @contextmanager
    def paired(self) -> Iterator[None]:
        """Apply the trained adapter to the second half of a batch only."""
        with self._under([_Flags(was.disabled, was.active, _halved(was.scaling)) for was in self._flags()]):
            yield

    def checkpointed(self, block: Callable[..., Any], *args: Any) -> Any:
        """Run a block under torch's checkpoint; the backward pass recomputes it in the view of the forward pass.

        peft alone would recompute it under whichever adapter is active by then (huggingface/peft#2832).
        """
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


Scaling = dict[str, Any]  # adapter -> float or _SecondHalf; a layer need not have every adapter


@dataclass(frozen=True)
class _Flags:
    """Hold the switches of one layer."""

    disabled: bool
    active: list[str]
    scaling: Scaling


@dataclass(frozen=True)
class _SecondHalf:
    """Scale the second half of a batch and zero the first: peft multiplies an adapter's output by it."""

    scale: float

    def __rmul__(self, update: Tensor) -> Tensor:
        half = len(update) // 2
        return torch.cat([torch.zeros_like(update[:half]), update[half:] * self.scale])


def _scaled(scaling: Scaling, scale: float) -> Scaling:
    return {name: value * scale if name == TUNED else value for name, value in scaling.items()}


def _halved(scaling: Scaling) -> Scaling:
    return {name: _SecondHalf(value) if name == TUNED else value for name, value in scaling.items()}
